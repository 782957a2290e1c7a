use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::json;

use super::*;
use crate::check::probe::NoCluster;
use crate::check::spec::{self, RawCheck};
use crate::drive::exec::System;

fn checks(yaml: &str) -> Vec<Check> {
    let raw: Vec<RawCheck> = spec::read(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    spec::checks(raw).unwrap_or_else(|error| panic!("{error}\n{yaml}"))
}

/// A check that needs no cluster and runs nothing, as its probe is a fake.
fn line(id: &str, rest: &str) -> String {
    format!("- id: {id}\n  cluster: false\n  exec: {{run: [x], expect: {{exit: 0}}}}\n{rest}")
}

fn exit(code: i32) -> Evidence {
    Evidence::one("", json!({"exit": code}))
}

fn context() -> Context<'static> {
    crate::world::install_crypto();
    Context {
        facts: BTreeMap::new(),
        saved: Mutex::default(),
        kubeconfig: Path::new("/nonexistent"),
        tools: &|_| Err(anyhow::anyhow!("no tools")),
        exec: &System,
        http: crate::check::probe::http::client().expect("a client"),
        cluster: Err(NoCluster {
            why: "the lab has no cluster".into(),
            next: Some("labctl up".into()),
        }),
    }
}

/// Gives prepared answers, the last one for ever, and counts who looks at the same time.
#[derive(Default)]
struct Script {
    answers: HashMap<&'static str, Vec<Evidence>>,
    looks: Mutex<HashMap<String, usize>>,
    log: Mutex<Vec<String>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

struct Fake(Arc<Script>, String);

#[async_trait]
impl Probe for Fake {
    async fn observe(&self, _: &Context<'_>) -> Evidence {
        let Self(script, id) = self;
        let now = script.now.fetch_add(1, Ordering::SeqCst) + 1;
        script.most.fetch_max(now, Ordering::SeqCst);
        script.log.lock().expect("not poisoned").push(format!("+{id}"));
        tokio::time::sleep(Duration::from_millis(20)).await;
        script.log.lock().expect("not poisoned").push(format!("-{id}"));
        script.now.fetch_sub(1, Ordering::SeqCst);
        let mut looks = script.looks.lock().expect("not poisoned");
        let look = looks.entry(id.clone()).or_default();
        *look += 1;
        let answers = script
            .answers
            .get(id.as_str())
            .cloned()
            .unwrap_or_else(|| vec![exit(0)]);
        answers[(*look - 1).min(answers.len() - 1)].clone()
    }
}

async fn run_script(yaml: &str, script: Script) -> (Vec<Judged>, Vec<String>, Arc<Script>) {
    let script = Arc::new(script);
    let mut order = Vec::new();
    let fakes = script.clone();
    let judged = run_with(
        &checks(yaml),
        &context(),
        &move |check, _| Box::new(Fake(fakes.clone(), check.id.clone())),
        &mut |judged| order.push(judged.id.clone()),
    )
    .await;
    (judged, order, script)
}

fn answers(all: &[(&'static str, Vec<Evidence>)]) -> Script {
    Script {
        answers: all.iter().cloned().collect(),
        ..Script::default()
    }
}

fn verdicts(judged: &[Judged]) -> Vec<&'static str> {
    judged.iter().map(|judged| judged.verdict().word()).collect()
}

#[tokio::test]
async fn a_failed_need_skips_all_that_stand_on_it_and_order_is_that_of_the_file() {
    let yaml = line("d", "  needs: [c]\n") + &line("c", "  needs: [b]\n") + &line("b", "") + &line("a", "");
    let (judged, order, script) = run_script(&yaml, answers(&[("b", vec![exit(1)])])).await;
    assert_eq!(order, ["d", "c", "b", "a"]);
    assert_eq!(verdicts(&judged), ["skip", "skip", "fail", "pass"]);
    assert_eq!(
        judged[1].judgement.reason,
        Reason::Skipped {
            because: "`b` failed".into()
        }
    );
    assert_eq!(
        judged[0].judgement.reason,
        Reason::Skipped {
            because: "`c` was skipped".into()
        }
    );
    assert!(
        !script.looks.lock().expect("not poisoned").contains_key("c"),
        "a skipped check must not look"
    );
}

#[tokio::test]
async fn a_need_is_looked_at_first() {
    let yaml = line("late", "  needs: [early]\n") + &line("early", "");
    let (judged, _, script) = run_script(&yaml, Script::default()).await;
    assert_eq!(verdicts(&judged), ["pass", "pass"]);
    assert_eq!(
        *script.log.lock().expect("not poisoned"),
        ["+early", "-early", "+late", "-late"]
    );
}

#[tokio::test]
async fn checks_that_read_run_together_and_not_more_than_the_cap() {
    let yaml: String = (0..20).map(|i| line(&format!("c{i}"), "")).collect();
    let (_, _, script) = run_script(&yaml, Script::default()).await;
    let most = script.most.load(Ordering::SeqCst);
    assert!((2..=TOGETHER).contains(&most), "{most} at the same time");
}

#[tokio::test]
async fn a_locked_check_runs_alone() {
    let yaml = line("a", "")
        + &line("b", "")
        + &line("alone", "  lock: cluster\n")
        + &line("c", "")
        + &line("other", "  lock: cluster\n");
    let (judged, _, script) = run_script(&yaml, Script::default()).await;
    assert_eq!(verdicts(&judged), ["pass"; 5]);
    let log = script.log.lock().expect("not poisoned");
    for id in ["alone", "other"] {
        let begin = log
            .iter()
            .position(|entry| *entry == format!("+{id}"))
            .expect("it looked");
        assert_eq!(log[begin + 1], format!("-{id}"), "{log:?}");
        let before = log[..begin].iter().filter(|entry| entry.starts_with('+')).count();
        assert_eq!(before * 2, begin, "somebody else was looking: {log:?}");
    }
}

#[tokio::test]
async fn eventually_looks_again_until_it_holds() {
    let yaml = line("a", "  eventually: {within: 20s}\n");
    let script = answers(&[("a", vec![Evidence::blind("not yet"), exit(1), exit(0)])]);
    let (judged, ..) = run_script(&yaml, script).await;
    assert_eq!(verdicts(&judged), ["pass"]);
    assert_eq!(judged[0].history.looks(), 3);
    assert!(judged[0].elapsed < Duration::from_secs(10), "{:?}", judged[0].elapsed);
}

#[tokio::test]
async fn eventually_gives_up_at_its_limit() {
    let yaml = line("a", "  eventually: {within: 300ms}\n");
    let (judged, ..) = run_script(&yaml, answers(&[("a", vec![exit(1)])])).await;
    assert_eq!(verdicts(&judged), ["fail"]);
    assert!(judged[0].elapsed >= Duration::from_millis(300));
    assert!(judged[0].history.looks() >= 2);
    assert_eq!(judged[0].history.0.len(), 1, "equal looks are one sample");
}

#[tokio::test]
async fn stable_for_begins_anew_after_a_break() {
    let yaml = line("a", "  eventually: {within: 20s, stable_for: 400ms}\n");
    let script = answers(&[("a", vec![exit(0), exit(1), exit(0)])]);
    let (judged, ..) = run_script(&yaml, script).await;
    assert_eq!(verdicts(&judged), ["pass"]);
    let samples = &judged[0].history.0;
    assert_eq!(samples.len(), 3);
    assert!(samples[2].until_ms - samples[2].at_ms >= 400, "{samples:?}");
}

#[tokio::test]
async fn always_and_never_look_more_than_once() {
    let yaml = line("w", "")
        + &line("always", "  always: {for: 300ms}\n")
        + &line("broken", "  always: {for: 20s}\n")
        + "- id: never\n  cluster: false\n  never: {for: 300ms, after: w}\n  exec: {run: [x], expect: {exit: 7}}\n"
        + "- id: seen\n  cluster: false\n  never: {for: 20s, after: w}\n  exec: {run: [x], expect: {exit: 7}}\n";
    let script = answers(&[
        ("broken", vec![exit(0), exit(1)]),
        ("never", vec![exit(0)]),
        ("seen", vec![exit(0), exit(7)]),
    ]);
    let (judged, ..) = run_script(&yaml, script).await;
    assert_eq!(verdicts(&judged), ["pass", "pass", "fail", "pass", "fail"]);
    for id in [1, 3] {
        assert!(judged[id].history.looks() > 1 && judged[id].elapsed >= Duration::from_millis(300));
    }
}

#[tokio::test]
async fn without_a_cluster_every_check_that_stands_on_it_is_an_error() {
    let yaml = "- id: a\n  k8s: {kind: Pod, expect: {condition: Ready}}\n".to_owned()
        + "- id: b\n  needs: [a]\n  exec: {run: [x], expect: {exit: 0}}\n"
        + &line("c", "");
    let (judged, _, script) = run_script(&yaml, Script::default()).await;
    assert_eq!(verdicts(&judged), ["error", "error", "pass"]);
    assert_eq!(script.looks.lock().expect("not poisoned").len(), 1, "only `c` may look");
}

#[tokio::test]
async fn a_placeholder_without_a_value_is_an_error_that_names_it() {
    let yaml = "- id: a\n  cluster: false\n  exec: {run: [x, '{{chart}}'], expect: {exit: 0}}\n";
    let (judged, ..) = run_script(yaml, Script::default()).await;
    let why = "this lab has no value for `{{chart}}`".to_owned();
    assert_eq!(judged[0].judgement.reason, Reason::Blind { why });
}

#[test]
fn needs_come_along_with_a_check_that_is_asked_for() {
    let all = checks(&(line("a", "") + &line("b", "  needs: [a]\n") + &line("c", "  needs: [b]\n") + &line("d", "")));
    let ids: Vec<_> = with_needs(&all, &["c".into()])
        .into_iter()
        .map(|check| check.id)
        .collect();
    assert_eq!(ids, ["a", "b", "c"]);
}

mod explained {
    use super::*;
    use crate::check::explain::{Around, lines};

    async fn explain(yaml: &str, script: Script) -> Vec<String> {
        let (judged, ..) = run_script(yaml, script).await;
        let none = NoCluster {
            why: "the lab has no cluster".into(),
            next: Some("labctl up makes it".into()),
        };
        let around = Around {
            chapter: "02",
            no_cluster: Some(&none),
        };
        let all = checks(yaml);
        lines(&all[0], &judged[0], &around)
    }

    #[tokio::test]
    async fn a_failure_says_what_was_asked_and_what_is_there() {
        let yaml = line(
            "a",
            "  because: [{when: {fields: {$.exit: 3}}, say: three means closed}]\n  read: chapter 02\n",
        );
        let text = explain(&yaml, answers(&[("a", vec![exit(3)])])).await;
        assert_eq!(
            text,
            [
                "asked     x",
                "at        exit",
                "expected  0",
                "actual    3",
                "so        three means closed",
                "next      read chapter 02, then: labctl chapter 02 verify --only a",
            ]
        );
    }

    #[tokio::test]
    async fn a_history_shows_changes_and_the_whole_stays_within_twelve_lines() {
        let yaml = line("a", "  eventually: {within: 2500ms}\n");
        let mut changing: Vec<_> = (1..9).map(exit).collect();
        changing.push(Evidence::one("", json!({"exit": 9, "stderr": "x".repeat(5000)})));
        let text = explain(&yaml, answers(&[("a", changing)])).await;
        assert!(text.len() < 12, "{text:#?}");
        assert!(text.iter().all(|line| line.chars().count() < 420), "{text:#?}");
        let history = text.iter().find(|line| line.starts_with("history")).expect("a history");
        assert!(history.contains("s 2 · +") || history.contains("earlier)"), "{history}");
    }

    #[tokio::test]
    async fn an_error_says_what_to_do_next() {
        let text = explain(
            "- id: a\n  k8s: {kind: Pod, namespace: n, selector: a=b, expect: {condition: Ready}}\n",
            Script::default(),
        )
        .await;
        assert_eq!(
            text,
            [
                "asked     kubectl get pod -l a=b -n n",
                "could not be judged: the lab has no cluster",
                "next      labctl up makes it",
            ]
        );
    }
}
