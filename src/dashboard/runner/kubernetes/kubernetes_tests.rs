//! The runner against an API server that does what real ones do at bad times.
#![expect(clippy::needless_pass_by_value, reason = "JSON is written where it is used")]

#[path = "fake_tests.rs"]
mod fake;
#[path = "follow_tests.rs"]
mod follow;

use std::collections::BTreeMap;

use serde_json::json;
use tokio::time::timeout;

use self::fake::Fake;
use super::*;
use crate::dashboard::job::JobId;

const PATIENCE: Duration = Duration::from_secs(20);

fn id() -> JobId {
    JobId::from_number(4_711).expect("an id")
}

fn name() -> String {
    desired::name(id())
}

fn row() -> Job {
    Job {
        id: id(),
        name: "hello".to_owned(),
        owner: "zoe".to_owned(),
        state: State::Running,
        reason: None,
        message: None,
        template: None,
        labels: BTreeMap::new(),
        parent: None,
        created_ms: 0,
        started_ms: None,
        finished_ms: None,
        exit_code: None,
        attempts: 0,
        cancelling: false,
        log_complete: false,
        version: 1,
    }
}

fn spec() -> Spec {
    serde_json::from_value(json!({"name": "hello", "command": ["true"], "limits": {"output_mib": 1}})).expect("a spec")
}

fn labels() -> Value {
    json!({"app.kubernetes.io/managed-by": "labctl-dashboard", "labctl.dev/job-id": id().to_string()})
}

fn pod(number: u32, state: Value) -> Value {
    let phase = match &state {
        state if state["running"].is_object() => "Running",
        state if state["terminated"]["exitCode"] == 0 => "Succeeded",
        state if state["terminated"].is_object() => "Failed",
        _ => "Pending",
    };
    json!({
        "metadata": {"name": format!("pod-{number}"), "uid": format!("uid-{number}"), "labels": labels(),
            "creationTimestamp": format!("2026-01-01T00:00:{number:02}Z")},
        "spec": {"containers": []},
        "status": {"phase": phase, "containerStatuses": [{"name": "job", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": state}]},
    })
}

fn running(number: u32) -> Value {
    pod(number, json!({"running": {"startedAt": "2026-01-01T00:00:05Z"}}))
}

fn ended(number: u32, code: i32) -> Value {
    pod(
        number,
        json!({"terminated": {"exitCode": code, "reason": "Error", "finishedAt": "2026-01-01T00:00:09Z"}}),
    )
}

fn message(error: &RunnerError) -> String {
    trouble::chain(error)
}

#[tokio::test]
async fn a_job_is_created_once() {
    let fake = Fake::default();
    let runner = fake.runner();
    runner.begin(&row(), &spec()).await.expect("created");
    let object = fake.object("jobs", &name()).expect("a Job");
    assert_eq!(object["metadata"]["annotations"]["labctl.dev/owner"], "zoe");
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["image"], "box:1");
    runner.begin(&row(), &spec()).await.expect("it is there already");
    assert_eq!(fake.asked("POST").len(), 2);
    let created = &fake.asked("POST /apis/batch/v1/namespaces/demo/jobs?")[0];
    assert!(created.contains("fieldManager=labctl-dashboard"), "{created}");
}

#[tokio::test]
async fn a_job_of_somebody_else_is_left_alone() {
    let fake = Fake::default();
    let runner = fake.runner();
    fake.put("jobs", json!({"metadata": {"name": name()}, "spec": {"template": {}}}));
    let error = runner.begin(&row(), &spec()).await.expect_err("refused");
    assert!(
        matches!(error, RunnerError::Refused(_)) && message(&error).contains("not the dashboard's"),
        "{error}"
    );
    runner.end(&row()).await.expect("nothing to do");
    runner.suspend(&row(), true).await.expect("nothing to do");
    runner.forget(&row()).await.expect("nothing to do");
    let object = fake.object("jobs", &name()).expect("still there");
    assert!(object["spec"]["suspend"].is_null() && object["spec"]["ttlSecondsAfterFinished"].is_null());
}

#[tokio::test]
async fn refusals_are_told_from_trouble() {
    let fake = Fake::default();
    let runner = fake.runner();
    for (code, reason, said, kind) in [
        (
            422,
            "Invalid",
            "spec.template.spec.containers[0].image: Invalid value",
            "Refused",
        ),
        (400, "BadRequest", "strict decoding error", "Refused"),
        (429, "TooManyRequests", "too many requests", "Busy"),
        (503, "ServiceUnavailable", "apiserver is shutting down", "Unavailable"),
        (504, "Timeout", "request did not complete", "Unavailable"),
        (403, "Forbidden", "exceeded quota: few", "Busy"),
    ] {
        fake.answer_next("POST", code, reason, said);
        let error = runner.begin(&row(), &spec()).await.expect_err("an error");
        assert!(format!("{error:?}").starts_with(kind), "{code}: {error:?}");
        assert!(message(&error).contains(said), "{code}: {}", message(&error));
    }
    assert!(fake.object("jobs", &name()).is_none());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_in_time() {
    let fake = Fake::default();
    let runner = fake.runner();
    fake.break_off_next("POST");
    // A connection that is dead does not say so.
    let asked = timeout(PATIENCE, runner.begin(&row(), &spec())).await;
    let error = asked.expect("in time").expect_err("an error");
    assert!(matches!(error, RunnerError::Unavailable(_)), "{error:?}");
    assert!(
        message(&error).contains("no more of the answer in 15 s"),
        "{}",
        message(&error)
    );
    runner.begin(&row(), &spec()).await.expect("the next one is answered");
}

#[tokio::test]
async fn ending_takes_the_pods_along_and_is_no_error_twice() {
    let fake = Fake::default();
    let runner = fake.runner();
    runner.begin(&row(), &spec()).await.expect("created");
    runner.end(&row()).await.expect("ended");
    let deleted = fake.asked("DELETE");
    assert!(
        deleted[0].contains(r#""propagationPolicy":"Background""#),
        "{deleted:?}"
    );
    runner.end(&row()).await.expect("it has ended");
}

#[tokio::test]
async fn holding_and_forgetting_are_patches() {
    let fake = Fake::default();
    let runner = fake.runner();
    runner
        .suspend(&row(), true)
        .await
        .expect("not begun yet: its row says so when it is");
    runner.begin(&row(), &spec()).await.expect("created");
    runner.suspend(&row(), true).await.expect("held");
    assert_eq!(fake.object("jobs", &name()).expect("a Job")["spec"]["suspend"], true);
    runner.suspend(&row(), false).await.expect("goes on");
    runner.forget(&row()).await.expect("forgotten");
    let spec = fake.object("jobs", &name()).expect("a Job")["spec"].clone();
    assert_eq!(
        (&spec["suspend"], &spec["ttlSecondsAfterFinished"]),
        (&json!(false), &json!(120))
    );
    assert_eq!(spec["backoffLimit"], 0, "nothing else is changed");
}

/// A watch of the runner, in the background.
struct Watch {
    told: mpsc::Receiver<Told>,
    /// How often it was told that nothing is seen.
    blind: usize,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    fn of(runner: &Kubernetes) -> Self {
        let (sender, told) = mpsc::channel(64);
        let runner = runner.clone();
        let task = tokio::spawn(async move { runner.watch(sender).await });
        Self { told, blind: 0, task }
    }

    /// Returns the next thing told, in short.
    async fn next(&mut self) -> String {
        let told = timeout(PATIENCE, self.told.recv())
            .await
            .expect("told in time")
            .expect("it goes on");
        match told {
            Told::Seen(id, seen) => {
                assert_eq!(id, self::id());
                format!("{:?} {}", seen.phase, seen.reason.unwrap_or_default())
                    .trim()
                    .to_owned()
            }
            Told::Synced => "synced".to_owned(),
            Told::Blind(why) => {
                self.blind += 1;
                format!("blind: {why}")
            }
        }
    }

    /// Skips what is told until it is this.
    async fn until(&mut self, wanted: &str) {
        for _ in 0..20 {
            if self.next().await == wanted {
                return;
            }
        }
        panic!("{wanted} was not told");
    }
}

#[tokio::test]
async fn all_jobs_are_told_and_then_every_change() {
    let fake = Fake::default();
    let runner = fake.runner();
    runner.begin(&row(), &spec()).await.expect("created");
    fake.put("jobs", json!({"metadata": {"name": "other"}, "spec": {"template": {}}}));
    let mut watch = Watch::of(&runner);
    assert_eq!(watch.next().await, "Waiting");
    assert_eq!(watch.next().await, "synced");
    fake.put(
        "pods",
        pod(
            1,
            json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
        ),
    );
    assert_eq!(watch.next().await, "Waiting ImagePullBackOff");
    fake.put("pods", running(1));
    assert_eq!(watch.next().await, "Running");
    // Nothing that matters changed, so nothing is told; what comes next is the end.
    fake.put("pods", running(1));
    fake.put("pods", ended(1, 0));
    assert_eq!(watch.next().await, "Succeeded");
    for selected in fake.asked("GET /apis/batch/v1/namespaces/demo/jobs?") {
        assert!(
            selected.contains("labelSelector=app.kubernetes.io%2Fmanaged-by%3Dlabctl-dashboard"),
            "{selected}"
        );
        assert!(
            selected.contains("limit=500") || selected.contains("allowWatchBookmarks=true"),
            "{selected}"
        );
    }
    // A job that is there is not asked for again.
    runner.begin(&row(), &spec()).await.expect("it is there");
    assert_eq!(fake.asked("POST").len(), 1);
}

#[tokio::test]
async fn a_job_that_is_deleted_outside_is_told() {
    let fake = Fake::default();
    let runner = fake.runner();
    runner.begin(&row(), &spec()).await.expect("created");
    fake.put("pods", running(1));
    let mut watch = Watch::of(&runner);
    watch.until("synced").await;
    fake.delete("jobs", &name());
    assert_eq!(watch.next().await, "Ending Gone");
    fake.delete("pods", "pod-1");
    assert_eq!(watch.next().await, "Gone Gone");
}

#[tokio::test]
async fn a_pod_that_is_seen_before_its_job_does_not_say_that_the_job_is_gone() {
    let fake = Fake::default();
    let runner = fake.runner();
    let mut watch = Watch::of(&runner);
    watch.until("synced").await;
    let job = json!({"metadata": {"name": name(), "labels": labels()}, "spec": {"template": {}}});
    fake.put_unseen("jobs", job.clone());
    fake.put("pods", ended(1, 0));
    assert_eq!(watch.next().await, "Succeeded");
    // The watch of Jobs tells of it at last, and nothing of that is new.
    fake.put("jobs", job);
    fake.delete("pods", "pod-1");
    assert_eq!(watch.next().await, "Waiting");
    let named = format!("GET /apis/batch/v1/namespaces/demo/jobs/{}", name());
    assert_eq!(fake.asked(&named).len(), 1);
}

#[tokio::test]
async fn pods_whose_job_is_gone_are_told_as_that_and_the_job_is_asked_for_once() {
    let fake = Fake::default();
    let runner = fake.runner();
    fake.put("pods", running(1));
    let mut watch = Watch::of(&runner);
    assert_eq!(watch.next().await, "Ending Gone");
    assert_eq!(watch.next().await, "synced");
    fake.put("pods", ended(1, 0));
    assert_eq!(watch.next().await, "Gone Gone");
    let named = format!("GET /apis/batch/v1/namespaces/demo/jobs/{}", name());
    assert_eq!(fake.asked(&named).len(), 1);
}

#[tokio::test]
async fn a_watch_that_is_too_old_is_listed_again_and_what_is_missing_is_gone() {
    let fake = Fake::default();
    let runner = fake.runner();
    runner.begin(&row(), &spec()).await.expect("created");
    let mut watch = Watch::of(&runner);
    watch.until("synced").await;
    fake.delete_unseen("jobs", &name());
    fake.gone("jobs");
    assert_eq!(watch.next().await, "Gone Gone");
    assert_eq!(watch.next().await, "synced");
    fake.put(
        "jobs",
        json!({"metadata": {"name": name(), "labels": labels()}, "spec": {"suspend": true, "template": {}}}),
    );
    assert_eq!(watch.next().await, "Suspended");
}

/// Returns how many lists were asked for with paths that begin so.
fn lists(fake: &Fake, path: &str) -> usize {
    let asked = fake.asked(&format!("GET {path}"));
    asked.iter().filter(|asked| !asked.contains("watch=true")).count()
}

const JOBS: &str = "/apis/batch/v1/namespaces/demo/jobs?";
const PODS: &str = "/api/v1/namespaces/demo/pods?";

#[tokio::test]
async fn what_is_too_old_before_all_is_listed_does_not_begin_everything_anew() {
    let fake = Fake::default();
    let runner = fake.runner();
    runner.begin(&row(), &spec()).await.expect("created");
    fake.put("pods", running(1));
    fake.list_late("pods", Duration::from_millis(400), "jobs");
    let mut watch = Watch::of(&runner);
    // First of all the jobs: where everything began anew whenever one watch is too old, they would never be told.
    assert_eq!(watch.next().await, "Running");
    assert_eq!(watch.next().await, "synced");
    // It goes on with every change, be it that something is listed again first.
    fake.put("pods", ended(1, 0));
    watch.until("Succeeded").await;
    let (jobs, pods) = (lists(&fake, JOBS), lists(&fake, PODS));
    assert!(
        (2..=6).contains(&jobs) && pods == 1,
        "Jobs were listed {jobs} times, pods {pods} times"
    );
    // Nor is a watch asked for as fast as it can be refused.
    let watches = fake.asked(&format!("GET {JOBS}")).len() - jobs;
    assert!((2..=6).contains(&watches), "Jobs were watched {watches} times");
}

#[tokio::test]
async fn lists_that_are_never_quick_do_not_make_the_runner_blind() {
    let fake = Fake::default();
    let runner = fake.runner();
    runner.begin(&row(), &spec()).await.expect("created");
    fake.put("pods", running(1));
    fake.list_late("pods", Duration::from_millis(300), "jobs");
    let mut watch = Watch::of(&runner);
    let began = tokio::time::Instant::now();
    watch.until("synced").await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "told after {:?}",
        began.elapsed()
    );
    // Pods are listed slowly again, and after that Jobs cannot be watched from where they were.
    for _ in 0..2 {
        fake.gone("pods");
        watch.until("synced").await;
        fake.cut_watches();
        watch.until("synced").await;
    }
    fake.put("pods", ended(1, 0));
    watch.until("Succeeded").await;
    assert_eq!(watch.blind, 0);
    let (jobs, pods) = (lists(&fake, JOBS), lists(&fake, PODS));
    assert!(
        jobs <= 12 && pods == 3,
        "Jobs were listed {jobs} times, pods {pods} times"
    );
}

#[tokio::test]
async fn one_kind_that_is_too_old_is_listed_alone_and_what_is_missing_of_it_is_told() {
    let fake = Fake::default();
    let runner = fake.runner();
    runner.begin(&row(), &spec()).await.expect("created");
    fake.put("pods", running(1));
    let mut watch = Watch::of(&runner);
    watch.until("synced").await;
    // The Job goes while its watch is cut; the pod is known all the same.
    fake.delete_unseen("jobs", &name());
    fake.expire("jobs");
    fake.cut_watches();
    assert_eq!(watch.next().await, "Ending Gone");
    assert_eq!(watch.next().await, "synced");
    assert_eq!((lists(&fake, JOBS), lists(&fake, PODS)), (2, 1));
    // So does the pod, and the refusal is the first thing that the watch says.
    fake.delete_unseen("pods", "pod-1");
    fake.gone("pods");
    assert_eq!(watch.next().await, "Gone Gone");
    assert_eq!(watch.next().await, "synced");
    assert_eq!((lists(&fake, JOBS), lists(&fake, PODS)), (2, 2));
    // Events have nothing that must be known.
    fake.expire("events");
    fake.cut_watches();
    runner.begin(&row(), &spec()).await.expect("created");
    assert_eq!(watch.next().await, "Waiting");
    assert_eq!((lists(&fake, JOBS), lists(&fake, PODS)), (2, 2));
}

#[tokio::test]
async fn while_one_kind_is_listed_again_nothing_is_told_of_the_other() {
    let fake = Fake::default();
    let runner = fake.runner();
    runner.begin(&row(), &spec()).await.expect("created");
    fake.put("pods", running(1));
    let mut watch = Watch::of(&runner);
    watch.until("synced").await;
    fake.list_late("pods", Duration::from_millis(500), "events");
    fake.delete_unseen("pods", "pod-1");
    fake.gone("pods");
    tokio::time::sleep(Duration::from_millis(50)).await;
    fake.delete("jobs", &name());
    // With what was known of pods, one would still be running.
    assert_eq!(watch.next().await, "Gone Gone");
    assert_eq!(watch.next().await, "synced");
}

#[tokio::test]
async fn a_watch_that_is_cut_goes_on_without_a_list() {
    let fake = Fake::default();
    let runner = fake.runner();
    runner.begin(&row(), &spec()).await.expect("created");
    let mut watch = Watch::of(&runner);
    watch.until("synced").await;
    let before = lists(&fake, "");
    fake.cut_watches();
    fake.put("pods", running(1));
    assert_eq!(watch.next().await, "Running");
    assert_eq!(lists(&fake, ""), before);
}

#[tokio::test]
async fn a_bookmark_is_a_sign_of_life_and_nothing_else() {
    let fake = Fake::default();
    let runner = fake.runner();
    let heard = runner.heard().expect("the API server is heard of");
    assert_eq!(heard.ago(), None);
    let mut watch = Watch::of(&runner);
    watch.until("synced").await;
    let recent = Duration::from_millis(300);
    for kind in ["jobs", "pods"] {
        tokio::time::sleep(recent).await;
        assert!(heard.ago() >= Some(recent), "{:?}", heard.ago());
        fake.bookmark(kind);
        let hears = async {
            while heard.ago() >= Some(recent) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, hears).await.expect("it is heard");
    }
    assert!(watch.told.try_recv().is_err(), "nothing has happened");
    assert_eq!(lists(&fake, ""), 3);
}

#[tokio::test]
async fn who_cannot_see_says_so_and_tells_everything_when_it_can() {
    let fake = Fake::default();
    let runner = fake.runner();
    fake.set_away(true);
    let mut watch = Watch::of(&runner);
    let blind = watch.next().await;
    assert!(
        blind.starts_with("blind: the API server does not answer") && blind.contains("the server is away"),
        "{blind}"
    );
    fake.set_away(false);
    runner.begin(&row(), &spec()).await.expect("created");
    watch.until("Waiting").await;
    assert_eq!(watch.next().await, "synced");
    fake.set_away(true);
    assert!(watch.next().await.starts_with("blind"));
    // It ended meanwhile.
    fake.set_away(false);
    fake.put("pods", ended(1, 0));
    watch.until("Succeeded").await;
    watch.until("synced").await;
}

#[tokio::test]
async fn missing_rights_are_explained() {
    let fake = Fake::default();
    let runner = fake.runner();
    let said = "jobs.batch is forbidden: User \"x\" cannot list resource \"jobs\"";
    fake.answer_next("GET /apis/batch/v1/namespaces/demo/jobs", 403, "Forbidden", said);
    let mut watch = Watch::of(&runner);
    let blind = watch.next().await;
    assert!(
        blind.contains("lacks a Role") && blind.contains("cannot list resource"),
        "{blind}"
    );
    // Without the right to see events everything else works.
    fake.answer_next(
        "GET /api/v1/namespaces/demo/events",
        403,
        "Forbidden",
        "events is forbidden",
    );
    watch.until("synced").await;
}

#[tokio::test]
async fn why_nothing_can_be_created_is_on_the_row() {
    let fake = Fake::default();
    let runner = fake.runner();
    let mut watch = Watch::of(&runner);
    watch.until("synced").await;
    // Of Jobs.
    fake.answer_next("POST", 403, "Forbidden", "jobs \"x\" is forbidden: exceeded quota: few");
    runner.begin(&row(), &spec()).await.expect_err("no room");
    assert_eq!(watch.next().await, "Waiting QuotaExceeded");
    fake.answer_next("POST", 403, "Forbidden", "jobs \"x\" is forbidden: exceeded quota: few");
    let held = Job {
        state: State::Suspended,
        ..row()
    };
    runner.begin(&held, &spec()).await.expect_err("no room");
    assert_eq!(
        watch.next().await,
        "Suspended QuotaExceeded",
        "it does not go on by that"
    );
    // Of pods: only an event says so.
    runner.begin(&row(), &spec()).await.expect("created");
    assert_eq!(watch.next().await, "Waiting");
    fake.put(
        "events",
        json!({"metadata": {"name": "e"}, "reason": "FailedCreate", "message": "Error creating: exceeded quota: few",
            "involvedObject": {"kind": "Job", "name": name()}}),
    );
    assert_eq!(watch.next().await, "Waiting FailedCreate");
    fake.put("pods", running(1));
    assert_eq!(watch.next().await, "Running");
}
