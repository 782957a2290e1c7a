//! Jobs and pods as the API server sends them, and what is seen of them.
#![expect(clippy::needless_pass_by_value, reason = "JSON is written where it is used")]

use serde_json::{Value, json};

use super::*;

const ID: &str = "00000000004k7";

fn labels() -> Value {
    json!({"app.kubernetes.io/managed-by": "labctl-dashboard", "labctl.dev/job-id": ID})
}

fn job_with(spec: Value, status: Value, metadata: Value) -> JobFacts {
    let mut object = json!({
        "metadata": {"name": format!("job-{ID}"), "labels": labels(),
            "annotations": {"labctl.dev/output-mib": "2"}},
        "spec": {"backoffLimit": 0, "template": {"spec": {"containers": []}}},
    });
    merge(&mut object["spec"], spec);
    merge(&mut object["metadata"], metadata);
    object["status"] = status;
    JobFacts::of(&serde_json::from_value(object).expect("a Job")).expect("ours")
}

fn merge(into: &mut Value, from: Value) {
    for (name, value) in from.as_object().expect("an object") {
        into[name] = value.clone();
    }
}

fn job(status: Value) -> JobFacts {
    job_with(json!({}), status, json!({}))
}

fn retried(retries: u32, status: Value) -> JobFacts {
    job_with(json!({"backoffLimit": retries}), status, json!({}))
}

fn condition(kind: &str, reason: &str) -> Value {
    json!({"conditions": [{"type": kind, "status": "True", "reason": reason, "message": format!("the message of {reason}"),
        "lastTransitionTime": "2026-01-01T00:01:00Z"}]})
}

fn pod_with(number: u32, status: Value, metadata: Value) -> PodFacts {
    let mut object = json!({
        "metadata": {"name": format!("job-{ID}-{number}"), "uid": format!("uid-{number}"), "labels": labels(),
            "creationTimestamp": format!("2026-01-01T00:00:{number:02}Z")},
        "status": status,
    });
    merge(&mut object["metadata"], metadata);
    PodFacts::of(&serde_json::from_value(object).expect("a pod")).expect("ours")
}

fn pod(number: u32, phase: &str, state: Value) -> PodFacts {
    pod_with(
        number,
        json!({"phase": phase, "containerStatuses": [{"name": "job", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": state}]}),
        json!({}),
    )
}

fn running(number: u32) -> PodFacts {
    pod(
        number,
        "Running",
        json!({"running": {"startedAt": "2026-01-01T00:00:05Z"}}),
    )
}

fn ended(number: u32, code: i32, reason: &str) -> PodFacts {
    pod(
        number,
        if code == 0 { "Succeeded" } else { "Failed" },
        terminated(code, reason),
    )
}

/// A pod that ended, and that had a limit on its memory.
fn limited(number: u32, code: i32, reason: &str) -> PodFacts {
    PodFacts {
        memory: Some("64Mi".into()),
        ..ended(number, code, reason)
    }
}

fn terminated(code: i32, reason: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": reason, "startedAt": "2026-01-01T00:00:05Z",
        "finishedAt": "2026-01-01T00:00:09Z"}})
}

fn waiting(reason: &str, message: &str) -> PodFacts {
    pod(1, "Pending", json!({"waiting": {"reason": reason, "message": message}}))
}

/// What is seen, in short.
fn short(job: Option<&JobFacts>, pods: &[PodFacts]) -> (Phase, String) {
    let seen = seen(job, pods, None);
    (seen.phase, seen.reason.unwrap_or_default())
}

fn of(phase: Phase, reason: &str) -> (Phase, String) {
    (phase, reason.to_owned())
}

#[test]
fn objects_of_others_are_not_read() {
    let read = |labels: Value, name: &str| {
        let object = json!({"metadata": {"name": name, "labels": labels}});
        JobFacts::of(&serde_json::from_value(object).expect("a Job")).is_some()
    };
    assert!(read(labels(), &format!("job-{ID}")));
    assert!(!read(json!({}), &format!("job-{ID}")));
    assert!(!read(
        json!({"app.kubernetes.io/managed-by": "Helm", "labctl.dev/job-id": ID}),
        &format!("job-{ID}")
    ));
    assert!(!read(
        json!({"app.kubernetes.io/managed-by": "labctl-dashboard", "labctl.dev/job-id": "x"}),
        "job-x"
    ));
    assert!(!read(labels(), "a-copy"), "somebody copied the labels");
}

#[test]
fn nothing_runs_at_first() {
    let new = job(json!({}));
    assert_eq!(short(Some(&new), &[]), of(Phase::Waiting, ""));
    let seen = seen(Some(&new), &[], None);
    assert_eq!((seen.attempts, seen.started_ms, seen.exit_code), (0, None, None));
}

#[test]
fn a_running_program_is_running() {
    let seen = seen(Some(&job(json!({"active": 1}))), &[running(1)], None);
    assert_eq!((seen.phase, seen.attempts, seen.reason), (Phase::Running, 1, None));
    assert_eq!(seen.started_ms, Some(1_767_225_605_000));
}

#[test]
fn the_pod_is_believed_before_the_job() {
    let active = job(json!({"active": 1}));
    let done = seen(Some(&active), &[ended(1, 0, "Completed")], None);
    assert_eq!(
        (done.phase, done.exit_code, done.finished_ms),
        (Phase::Succeeded, Some(0), Some(1_767_225_609_000))
    );
    let failed = seen(Some(&active), &[ended(1, 3, "Error")], None);
    assert_eq!((failed.phase, failed.exit_code), (Phase::Failed, Some(3)));
    assert_eq!(failed.reason.as_deref(), Some("ExitCode"));
    assert_eq!(failed.message.as_deref(), Some("the program ended with exit code 3"));
}

#[test]
fn the_job_is_not_believed_before_its_pod() {
    // The watch of pods is behind: the exit code is still to come.
    for (kind, reason) in [("Complete", "CompletionsReached"), ("Failed", "BackoffLimitExceeded")] {
        let job = job(condition(kind, reason));
        let seen = seen(Some(&job), &[running(1)], None);
        assert_eq!((seen.phase, seen.finished_ms), (Phase::Ending, None), "{kind}");
    }
}

#[test]
fn ends_are_told_with_their_reasons() {
    let complete = job(condition("Complete", "CompletionsReached"));
    assert_eq!(
        short(Some(&complete), &[ended(1, 0, "Completed")]),
        of(Phase::Succeeded, "")
    );
    // The pod is gone already.
    let seen_alone = seen(Some(&complete), &[], None);
    assert_eq!((seen_alone.phase, seen_alone.exit_code), (Phase::Succeeded, Some(0)));
    assert_eq!(seen_alone.finished_ms, Some(1_767_225_660_000));
    for reason in ["DeadlineExceeded", "PodFailurePolicy", "MaxFailedIndexesExceeded"] {
        let seen = seen(Some(&job(condition("Failed", reason))), &[ended(1, 143, "Error")], None);
        assert_eq!((seen.phase, seen.reason.as_deref()), (Phase::Failed, Some(reason)));
        assert_eq!(seen.message, Some(format!("the message of {reason}")));
        assert_eq!(seen.exit_code, Some(143));
    }
}

#[test]
fn the_limit_on_memory_is_the_one_of_the_programs_own_container() {
    let mut pod = json!({
        "metadata": {"name": format!("job-{ID}-1"), "uid": "uid-1", "labels": labels()},
        "spec": {"containers": [
            {"name": "mesh", "resources": {"limits": {"memory": "1Gi"}}},
            {"name": "job", "resources": {"limits": {"memory": "64Mi"}}},
        ]},
    });
    let limit = |pod: &Value| {
        let pod = serde_json::from_value(pod.clone()).expect("a pod");
        PodFacts::of(&pod).expect("ours").memory
    };
    assert_eq!(limit(&pod).as_deref(), Some("64Mi"));
    pod["spec"]["containers"][1]["resources"] = json!({});
    assert_eq!(limit(&pod), None);
}

#[test]
fn the_last_attempt_says_why_all_failed() {
    let used_up = condition("Failed", "BackoffLimitExceeded");
    let once = job(used_up.clone());
    for (pod, reason, message) in [
        (ended(1, 1, "Error"), "ExitCode", "the program ended with exit code 1"),
        (
            ended(1, 137, "OOMKilled"),
            "OOMKilled",
            "the program used more memory than its limit",
        ),
        (
            ended(1, 137, "Error"),
            "Signal",
            "the program was ended by signal 9 (SIGKILL)",
        ),
        (
            limited(1, 137, "Error"),
            "Signal",
            "the program was ended by signal 9 (SIGKILL), as the kernel ends what uses more memory than its limit (64Mi)",
        ),
        (
            limited(1, 143, "Error"),
            "Signal",
            "the program was ended by signal 15 (SIGTERM)",
        ),
        (
            ended(1, 139, "Error"),
            "Signal",
            "the program was ended by signal 11 (SIGSEGV)",
        ),
        (
            ended(1, 255, "Error"),
            "ExitCode",
            "the program ended with exit code 255",
        ),
        (
            ended(1, 137, "ContainerStatusUnknown"),
            "ContainerStatusUnknown",
            "the program ended with exit code 137",
        ),
        (
            pod_with(
                1,
                json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
                json!({}),
            ),
            "Evicted",
            "the program failed: The node was low on resource: memory.",
        ),
        (
            pod_with(1, json!({"phase": "Failed"}), json!({})),
            "PodFailed",
            "the program failed before it ran",
        ),
    ] {
        let seen = seen(Some(&once), &[pod], None);
        assert_eq!(
            (seen.phase, seen.reason.as_deref(), seen.message.as_deref()),
            (Phase::Failed, Some(reason), Some(message))
        );
    }
    let thrice = retried(2, used_up.clone());
    let pods = [ended(1, 1, "Error"), ended(2, 1, "Error"), ended(3, 7, "Error")];
    let seen_thrice = seen(Some(&thrice), &pods, None);
    assert_eq!(
        (
            seen_thrice.reason.as_deref(),
            seen_thrice.attempts,
            seen_thrice.exit_code
        ),
        (Some("BackoffLimitExceeded"), 3, Some(7))
    );
    assert_eq!(
        seen_thrice.message.as_deref(),
        Some("3 attempts failed; the last one ended with exit code 7")
    );
    let pods = [ended(1, 1, "Error"), ended(2, 1, "Error"), ended(3, 137, "OOMKilled")];
    assert_eq!(short(Some(&thrice), &pods), of(Phase::Failed, "OOMKilled"));
    // The pods are gone: Kubernetes' own words are what is left.
    let seen = seen(Some(&thrice), &[], None);
    assert_eq!(seen.message.as_deref(), Some("the message of BackoffLimitExceeded"));
}

#[test]
fn a_program_that_cannot_be_started_says_so() {
    let state = json!({"terminated": {"exitCode": 128, "reason": "StartError", "startedAt": "1970-01-01T00:00:00Z",
        "finishedAt": "2026-01-01T00:00:09Z", "message": "exec: \"nosuch\": executable file not found in $PATH"}});
    let seen = seen(Some(&job(json!({"active": 1}))), &[pod(1, "Failed", state)], None);
    assert_eq!(
        (seen.phase, seen.reason.as_deref()),
        (Phase::Failed, Some("StartError"))
    );
    assert!(seen.message.expect("a message").contains("executable file not found"));
    assert_eq!(seen.started_ms, None, "1970 is no time");
}

#[test]
fn why_it_waits_is_on_the_row() {
    let active = job(json!({"active": 1}));
    for reason in [
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "ContainerCreating",
    ] {
        let seen = seen(Some(&active), &[waiting(reason, "the words of the kubelet")], None);
        assert_eq!(
            (seen.phase, seen.reason.as_deref(), seen.attempts),
            (Phase::Waiting, Some(reason), 0)
        );
        assert_eq!(seen.message.as_deref(), Some("the words of the kubelet"));
    }
    let unscheduled = pod_with(
        1,
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient memory."}]}),
        json!({}),
    );
    let seen_unscheduled = seen(Some(&active), &[unscheduled], None);
    assert_eq!(seen_unscheduled.reason.as_deref(), Some("Unschedulable"));
    assert_eq!(
        seen_unscheduled.message.as_deref(),
        Some("0/1 nodes are available: 1 Insufficient memory.")
    );
    let quota = seen(
        Some(&job(json!({}))),
        &[],
        Some("pods \"x\" is forbidden: exceeded quota: few"),
    );
    assert_eq!(
        (quota.phase, quota.reason.as_deref()),
        (Phase::Waiting, Some("FailedCreate"))
    );
    assert_eq!(
        quota.message.as_deref(),
        Some("pods \"x\" is forbidden: exceeded quota: few")
    );
}

#[test]
fn events_say_why_a_pod_is_not_created() {
    let event = |reason: &str, kind: &str, message: &str| {
        let object = json!({"metadata": {}, "reason": reason, "message": message,
            "involvedObject": {"kind": kind, "name": format!("job-{ID}")}});
        failed_create(&serde_json::from_value(object).expect("an event"))
    };
    assert_eq!(
        event(
            "FailedCreate",
            "Job",
            "Error creating: pods \"x\" is forbidden: exceeded quota"
        ),
        Some((
            format!("job-{ID}"),
            "pods \"x\" is forbidden: exceeded quota".to_owned()
        ))
    );
    assert_eq!(event("SuccessfulCreate", "Job", "Created pod"), None);
    assert_eq!(event("FailedCreate", "ReplicaSet", "Error creating"), None);
    assert_eq!(event("FailedCreate", "Job", ""), None);
}

#[test]
fn between_attempts_it_waits_and_says_for_what() {
    let seen = seen(Some(&retried(2, json!({"failed": 1}))), &[ended(1, 5, "Error")], None);
    assert_eq!(
        (seen.phase, seen.reason.as_deref(), seen.attempts),
        (Phase::Waiting, Some("ExitCode"), 1)
    );
    assert_eq!(
        seen.message.as_deref(),
        Some("attempt 1 ended with exit code 5; Kubernetes waits before the next one")
    );
    // The next one runs: what the one before was is history.
    let seen = super::seen(
        Some(&retried(2, json!({"failed": 1, "active": 1}))),
        &[ended(1, 5, "Error"), running(2)],
        None,
    );
    assert_eq!(
        (seen.phase, seen.reason, seen.attempts, seen.exit_code),
        (Phase::Running, None, 2, Some(5))
    );
}

#[test]
fn a_drained_node_costs_no_attempt() {
    let disrupted = pod_with(
        1,
        json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}],
            "containerStatuses": [{"name": "job", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": terminated(143, "Error")}]}),
        json!({}),
    );
    assert_eq!(
        short(Some(&job(json!({}))), std::slice::from_ref(&disrupted)),
        of(Phase::Waiting, "")
    );
    assert_eq!(
        short(Some(&job(json!({"active": 1}))), &[disrupted, running(2)]),
        of(Phase::Running, "")
    );
}

#[test]
fn who_is_told_to_end_and_does_has_not_succeeded() {
    let obeyed = pod_with(
        1,
        json!({"phase": "Succeeded", "containerStatuses": [{"name": "job", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": terminated(0, "Completed")}]}),
        json!({"deletionTimestamp": "2026-01-01T00:00:20Z"}),
    );
    // The deadline passed, the program caught SIGTERM, and the Job controller has not said so yet.
    assert_eq!(
        short(Some(&job(json!({"active": 1}))), std::slice::from_ref(&obeyed)),
        of(Phase::Waiting, "")
    );
    let late = job(condition("FailureTarget", "DeadlineExceeded"));
    assert_eq!(short(Some(&late), &[obeyed]), of(Phase::Failed, "DeadlineExceeded"));
}

#[test]
fn an_end_that_is_decided_is_on_its_way() {
    let failing = job(condition("FailureTarget", "DeadlineExceeded"));
    assert_eq!(
        short(Some(&failing), &[running(1)]),
        of(Phase::Ending, "DeadlineExceeded")
    );
    assert_eq!(
        short(Some(&failing), &[]),
        of(Phase::Ending, "DeadlineExceeded"),
        "no pod was seen yet"
    );
    let completing = job(condition("SuccessCriteriaMet", "CompletionsReached"));
    assert_eq!(short(Some(&completing), &[running(1)]), of(Phase::Ending, ""));
    assert_eq!(
        short(Some(&completing), &[ended(1, 0, "Completed")]),
        of(Phase::Succeeded, "")
    );
}

#[test]
fn a_suspended_job_is_held_whatever_its_pods_do() {
    let held = job_with(json!({"suspend": true}), json!({}), json!({}));
    assert_eq!(short(Some(&held), &[]), of(Phase::Suspended, ""));
    assert_eq!(short(Some(&held), &[running(1)]), of(Phase::Suspended, ""));
    // Kubernetes ends its pods when it is suspended; that is no failure.
    assert_eq!(short(Some(&held), &[ended(1, 143, "Error")]), of(Phase::Suspended, ""));
    // It had ended before.
    let done = job_with(json!({"suspend": true}), condition("Complete", ""), json!({}));
    assert_eq!(short(Some(&done), &[]), of(Phase::Succeeded, ""));
}

#[test]
fn a_deleted_job_is_gone_when_its_pods_are() {
    let mut deleted = job(json!({"active": 1}));
    deleted.deleted = true;
    let seen = seen(Some(&deleted), &[running(1)], None);
    assert_eq!((seen.phase, seen.reason.as_deref()), (Phase::Ending, Some("Gone")));
    assert_eq!(
        seen.message,
        Some(format!("the Job `job-{ID}` was deleted in the cluster"))
    );
    assert_eq!(short(Some(&deleted), &[]), of(Phase::Gone, "Gone"));
    // In the foreground, the Job waits for its pods.
    let leaving = job_with(
        json!({}),
        json!({"active": 1}),
        json!({"deletionTimestamp": "2026-01-01T00:00:20Z"}),
    );
    assert_eq!(short(Some(&leaving), &[running(1)]), of(Phase::Ending, "Gone"));
    assert_eq!(short(Some(&leaving), &[]), of(Phase::Ending, "Gone"));
    // What had ended had ended.
    let mut done = job(condition("Complete", ""));
    done.deleted = true;
    assert_eq!(short(Some(&done), &[]), of(Phase::Succeeded, ""));
    // The Job went with `--cascade=orphan`.
    assert_eq!(short(None, &[running(1)]), of(Phase::Ending, "Gone"));
    assert_eq!(short(None, &[ended(1, 0, "Completed")]), of(Phase::Gone, "Gone"));
}

#[test]
fn a_job_that_the_dashboard_ended_says_why() {
    let mut full = job_with(
        json!({}),
        json!({"active": 1}),
        json!({"annotations": {"labctl.dev/output-mib": "2", "labctl.dev/ended": "OutputLimitExceeded"}}),
    );
    assert_eq!(full.output_bytes, Some(2 << 20));
    assert_eq!(
        short(Some(&full), &[running(1)]),
        of(Phase::Ending, "OutputLimitExceeded")
    );
    full.deleted = true;
    let seen = seen(Some(&full), &[], None);
    assert_eq!(
        (seen.phase, seen.reason.as_deref()),
        (Phase::Gone, Some("OutputLimitExceeded"))
    );
    assert_eq!(
        seen.message.as_deref(),
        Some("it wrote more than the 2 MiB of output of its limit")
    );
}

#[test]
fn attempts_are_in_the_order_of_their_pods() {
    let mut pods = [ended(3, 1, "Error"), ended(1, 1, "Error"), ended(2, 1, "Error")];
    sort(&mut pods);
    assert_eq!(pods.map(|pod| pod.uid), ["uid-1", "uid-2", "uid-3"]);
    let facts = [waiting("ContainerCreating", ""), running(1), ended(1, 0, "")];
    assert_eq!(facts.clone().map(|pod| pod.has_log()), [false, true, true]);
    assert_eq!(facts.map(|pod| pod.is_finished()), [false, false, true]);
}

#[test]
fn attempts_of_pods_that_are_gone_are_still_counted() {
    let seen = seen(
        Some(&retried(5, json!({"failed": 3, "active": 1}))),
        &[running(4)],
        None,
    );
    assert_eq!(seen.attempts, 4);
}

/// Kubernetes forgets the attempts whose pods it removes to hold a Job back; an attempt has a number all the same.
#[test]
fn attempts_that_were_held_back_are_counted_once() {
    let job = |held: u32, suspended: bool, failed: u32| {
        job_with(
            json!({"suspend": suspended, "backoffLimit": 3}),
            json!({"failed": failed}),
            json!({"annotations": {"labctl.dev/held-attempts": held.to_string()}}),
        )
    };
    let going = |number: u32, state: Value| {
        pod_with(
            number,
            json!({"phase": "Running", "containerStatuses": [{"name": "job", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": state}]}),
            json!({"deletionTimestamp": "2026-01-01T00:00:08Z"}),
        )
    };
    let still = json!({"running": {"startedAt": "2026-01-01T00:00:05Z"}});
    for (held, suspended, failed, pods, attempts) in [
        // It runs, and is asked to be held: before the pod is asked to end, while it ends, ended, gone.
        (0, false, 0, vec![running(1)], 1),
        (1, true, 0, vec![running(1)], 1),
        (1, true, 0, vec![going(1, still.clone())], 1),
        (1, true, 0, vec![going(1, terminated(137, "Error"))], 1),
        (1, true, 0, vec![], 1),
        // It goes on, perhaps while the pod before still ends.
        (1, false, 0, vec![going(1, still)], 1),
        (1, false, 0, vec![running(2)], 2),
        (1, false, 1, vec![ended(2, 3, "Error"), running(3)], 3),
        // And is held again.
        (2, true, 1, vec![ended(2, 3, "Error"), running(3)], 3),
        (2, false, 1, vec![ended(2, 3, "Error"), running(4)], 4),
        // One that failed before it was held is counted by Kubernetes.
        (1, true, 1, vec![ended(1, 3, "Error"), running(2)], 2),
    ] {
        let seen = seen(Some(&job(held, suspended, failed)), &pods, None);
        assert_eq!(
            seen.attempts, attempts,
            "{held} held, {suspended}, {failed} failed, {pods:?}"
        );
    }
}

/// At a deadline Kubernetes counts a pod as failed while its program still has its time to end.
#[test]
fn an_attempt_that_is_counted_while_it_ends_is_one() {
    let status = |phase: &str, state: Value| {
        json!({"phase": phase, "containerStatuses": [{"name": "job", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": state}]})
    };
    let ending = pod_with(
        1,
        status("Running", json!({"running": {"startedAt": "2026-01-01T00:00:05Z"}})),
        json!({"deletionTimestamp": "2026-01-01T00:00:08Z"}),
    );
    for (failed, pods, attempts) in [
        (0, vec![ending.clone()], 1),
        (1, vec![ending], 1),
        (1, vec![], 1),
        (1, vec![running(2)], 2),
        (2, vec![ended(2, 3, "Error"), running(3)], 3),
    ] {
        let job = retried(3, json!({"failed": failed}));
        assert_eq!(seen(Some(&job), &pods, None).attempts, attempts, "{failed} {pods:?}");
    }
}
