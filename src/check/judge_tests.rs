use serde_json::json;

use super::*;
use crate::check::ask::Ask;
use crate::check::evidence::Candidate;
use crate::check::spec::{self, RawCheck};

/// Reads one check; a check `w` is there to be needed.
fn check(yaml: &str) -> Check {
    let text = format!("- id: w\n  exec: {{run: [x], expect: {{exit: 0}}}}\n- id: c\n{yaml}");
    let raw: Vec<RawCheck> = spec::read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    spec::checks(raw)
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
        .remove(1)
}

fn seen(values: Vec<Value>) -> Evidence {
    let name = |value: &Value| value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Evidence::Seen(Seen {
        candidates: values
            .into_iter()
            .map(|value| Candidate {
                name: name(&value),
                value,
            })
            .collect(),
        note: None,
    })
}

fn state(yaml: &str, evidence: &Evidence) -> State {
    look(&check(yaml).ask.expect(), evidence)
}

fn finding(yaml: &str, evidence: &Evidence) -> (String, String, String) {
    match state(yaml, evidence) {
        State::Unmet(finding) => (finding.at, finding.expected, finding.actual),
        other => panic!("{other:?}"),
    }
}

fn deployment(replicas: i64, ready: &Value, generation: i64, observed: i64) -> Value {
    json!({
        "metadata": {"name": "web", "generation": generation},
        "spec": {"replicas": replicas},
        "status": {
            "observedGeneration": observed,
            "readyReplicas": ready,
            "conditions": [{"type": "Available", "status": "True"}],
        },
    })
}

const AVAILABLE: &str =
    "  k8s: {kind: Deployment, expect: {condition: Available, fields: {$.spec.replicas: {gte: 1}}}}\n";

#[test]
fn a_stale_status_never_passes() {
    assert_eq!(
        state(AVAILABLE, &seen(vec![deployment(1, &json!(1), 4, 4)])),
        State::Met
    );
    let (at, expected, actual) = finding(AVAILABLE, &seen(vec![deployment(1, &json!(1), 5, 4)]));
    assert_eq!(at, "web $.status.observedGeneration");
    assert_eq!(expected, ">= 5, the generation of the spec");
    assert_eq!(actual, "4: the status is of an older spec");
}

#[test]
fn freshness_that_is_asked_for_must_be_shown() {
    let node = json!({"metadata": {"name": "n", "generation": 2}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let asked = "  k8s: {kind: X, expect: {condition: Ready, fresh: true}}\n";
    assert!(matches!(state(asked, &seen(vec![node.clone()])), State::Unmet(_)));
    assert_eq!(
        state("  k8s: {kind: X, expect: {condition: Ready}}\n", &seen(vec![node])),
        State::Met
    );
    // A kind without generations, such as Node, is as fresh as it can be.
    let plain = json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(state(asked, &seen(vec![plain])), State::Met);
}

#[test]
fn an_object_on_its_way_out_does_not_count() {
    let mut going = deployment(1, &json!(1), 1, 1);
    going["metadata"]["deletionTimestamp"] = json!("2026-11-23T00:00:00Z");
    assert_eq!(
        finding(AVAILABLE, &seen(vec![going])).0,
        "web $.metadata.deletionTimestamp"
    );
}

#[test]
fn available_with_no_wanted_replicas_is_found_out_by_the_field() {
    let (at, expected, actual) = finding(AVAILABLE, &seen(vec![deployment(0, &json!(null), 1, 1)]));
    assert_eq!(
        (at.as_str(), expected.as_str(), actual.as_str()),
        ("web $['spec']['replicas']", ">= 1", "0")
    );
}

#[test]
fn a_condition_says_its_reason_and_a_missing_one_what_there_is() {
    let mut object = deployment(1, &json!(1), 1, 1);
    object["status"]["conditions"] =
        json!([{"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "message": "no"}]);
    assert_eq!(
        finding(AVAILABLE, &seen(vec![object.clone()])).2,
        "False, MinimumReplicasUnavailable, no"
    );
    object["status"]["conditions"] = json!([{"type": "Progressing", "status": "True"}]);
    assert_eq!(
        finding(AVAILABLE, &seen(vec![object.clone()])).2,
        "no such condition; there are Progressing"
    );
    object["status"] = json!({});
    assert!(matches!(state(AVAILABLE, &seen(vec![object])), State::Unmet(_)));
}

#[test]
fn no_candidate_fails_under_every_quantifier() {
    for quantifier in ["all", "any", "none", "exactly 1"] {
        let yaml = format!("  k8s: {{kind: Pod, name: p, match: {quantifier}, expect: {{condition: Ready}}}}\n");
        assert_eq!(
            finding(&yaml, &seen(vec![])),
            ("Pod p".into(), "at least one".into(), "none".into()),
            "{quantifier}"
        );
    }
}

#[test]
fn quantifiers_count() {
    let pod = |name: &str, ok: bool| json!({"metadata": {"name": name}, "ok": ok});
    let mixed = seen(vec![pod("a", true), pod("b", false), pod("c", true)]);
    let good = seen(vec![pod("a", true)]);
    let bad = seen(vec![pod("b", false)]);
    for (quantifier, of_mixed, of_good, of_bad) in [
        ("all", false, true, false),
        ("any", true, true, false),
        ("none", false, false, true),
        ("exactly 2", true, false, false),
        ("exactly 1", false, true, false),
    ] {
        let yaml = format!("  k8s: {{kind: Pod, match: {quantifier}, expect: {{fields: {{$.ok: true}}}}}}\n");
        for (evidence, wanted) in [(&mixed, of_mixed), (&good, of_good), (&bad, of_bad)] {
            assert_eq!(
                state(&yaml, evidence) == State::Met,
                wanted,
                "{quantifier} {evidence:?}"
            );
        }
    }
    let (at, _, actual) = finding("  k8s: {kind: Pod, expect: {fields: {$.ok: true}}}\n", &mixed);
    assert_eq!(
        (at.as_str(), actual.as_str()),
        ("b $['ok']", "false (2 of 3 are as asked)")
    );
}

#[test]
fn each_part_is_judged_by_itself() {
    let yaml = "  k8s: {kind: Deployment, each: '$.containers[*]', expect: {fields: {$.probe: {present: true}}}}\n";
    let with = |containers: Value| seen(vec![json!({"metadata": {"name": "d"}, "containers": containers})]);
    assert_eq!(
        state(
            yaml,
            &with(json!([{"name": "a", "probe": {}}, {"name": "b", "probe": {}}]))
        ),
        State::Met
    );
    // `$.containers[*].probe` would find one probe and pass.
    let (at, expected, actual) = finding(yaml, &with(json!([{"name": "a", "probe": {}}, {"name": "b"}])));
    assert_eq!(at, "d $['containers'][1] (`b`) $.probe");
    assert_eq!(
        (expected.as_str(), actual.as_str()),
        ("any value", "nothing there (1 of 2 are as asked)")
    );
    assert_eq!(finding(yaml, &with(json!([]))).2, "none");
    let mut stale = deployment(1, &json!(1), 2, 1);
    stale["containers"] = json!([{"probe": {}}]);
    assert!(
        matches!(state(yaml, &seen(vec![stale])), State::Unmet(_)),
        "each part of a stale object"
    );
}

#[test]
fn counts_are_judged_and_zero_must_be_meant() {
    let pods = |n: usize| seen((0..n).map(|i| json!({"i": i})).collect());
    let two = "  k8s: {kind: Pod, expect: {count: 2}}\n";
    assert_eq!(state(two, &pods(2)), State::Met);
    assert_eq!(
        finding(two, &pods(3)),
        ("the number of Pod".into(), "2".into(), "3".into())
    );
    let gone = "  needs: [w]\n  k8s: {kind: Pod, expect: {count: 0}}\n";
    assert_eq!(state(gone, &pods(0)), State::Met);
    assert!(matches!(state(gone, &pods(1)), State::Unmet(_)));
}

const HEALTHZ: &str = "  http: {get: 'http://x/', expect: {status: 200, json: {$.status: ok}}}\n";

#[test]
fn a_page_where_json_is_asked_fails() {
    let json_answer =
        json!({"status": 200, "content_type": "application/json", "body": "{}", "json": {"status": "ok"}});
    assert_eq!(state(HEALTHZ, &Evidence::one("", json_answer)), State::Met);
    let page = json!({"status": 200, "content_type": "text/html", "body": "<html>"});
    assert_eq!(finding(HEALTHZ, &Evidence::one("", page)).0, "content_type");
    let lying = json!({"status": 200, "content_type": "application/json", "body": "<html>"});
    assert_eq!(finding(HEALTHZ, &Evidence::one("", lying)).2, "no JSON but \"<html>\"");
    let wrong = json!({"status": 200, "content_type": "application/json", "body": "", "json": {"status": "starting"}});
    assert_eq!(
        finding(HEALTHZ, &Evidence::one("", wrong)),
        ("json $['status']".into(), "\"ok\"".into(), "\"starting\"".into())
    );
    let refused = Evidence::nothing("connection refused");
    assert_eq!(finding(HEALTHZ, &refused).2, "none: connection refused");
}

#[test]
fn a_program_must_exit_with_0_where_nothing_else_is_said() {
    let yaml = "  exec: {run: [helm], expect: {stdout: {contains: ok}}}\n";
    let ended = |exit: i32| Evidence::one("", json!({"exit": exit, "stdout": "ok", "stderr": "one\nbad thing\n"}));
    assert_eq!(state(yaml, &ended(0)), State::Met);
    assert_eq!(
        finding(yaml, &ended(1)),
        ("exit".into(), "0".into(), "1: bad thing".into())
    );
}

fn history_of(looks: &[(u64, &Evidence)]) -> History {
    let mut history = History::default();
    for (at, evidence) in looks {
        history.add(*at, (*evidence).clone());
    }
    history
}

fn decided(check: &Check, looks: &[(u64, &Evidence)]) -> Option<(Verdict, &'static str)> {
    let now = looks.last().map_or(0, |(at, _)| *at);
    match history(check, &check.ask.expect(), &history_of(looks), now) {
        Next::Again => None,
        Next::Done(judgement) => Some((judgement.verdict, judgement.reason.code())),
    }
}

fn exit(code: i32) -> Evidence {
    Evidence::one("", json!({"exit": code, "stderr": ""}))
}

const PASS: Option<(Verdict, &str)> = Some((Verdict::Pass, "held"));
const FAIL: Option<(Verdict, &str)> = Some((Verdict::Fail, "unmet"));
const ERROR: Option<(Verdict, &str)> = Some((Verdict::Error, "blind"));

#[test]
fn once_takes_the_first_look() {
    let check = check("  exec: {run: [x], expect: {exit: 0}}\n");
    assert_eq!(decided(&check, &[(0, &exit(0))]), PASS);
    assert_eq!(decided(&check, &[(0, &exit(1))]), FAIL);
    assert_eq!(decided(&check, &[(0, &Evidence::blind("x"))]), ERROR);
    assert_eq!(decided(&check, &[]), None);
}

#[test]
fn once_waits_for_a_controller_that_has_not_looked_yet() {
    let check = check(AVAILABLE);
    let (old, new) = (
        seen(vec![deployment(1, &json!(1), 5, 4)]),
        seen(vec![deployment(1, &json!(1), 5, 5)]),
    );
    assert_eq!(decided(&check, &[(0, &old)]), None);
    assert_eq!(decided(&check, &[(0, &old), (200, &new)]), PASS);
    // One that never looks is told as what it is.
    assert_eq!(decided(&check, &[(0, &old), (10_000, &old)]), FAIL);
    // What is wrong with a status of now is wrong now.
    assert_eq!(
        decided(&check, &[(0, &seen(vec![deployment(0, &json!(null), 5, 5)]))]),
        FAIL
    );
}

#[test]
fn eventually_waits_until_its_limit_and_for_stability() {
    let check = check("  exec: {run: [x], expect: {exit: 0}}\n  eventually: {within: 10s, stable_for: 2s}\n");
    let (good, bad, blind) = (exit(0), exit(1), Evidence::blind("x"));
    assert_eq!(decided(&check, &[(0, &bad)]), None);
    assert_eq!(decided(&check, &[(0, &bad), (1000, &good)]), None);
    assert_eq!(decided(&check, &[(0, &bad), (1000, &good), (2999, &good)]), None);
    assert_eq!(decided(&check, &[(0, &bad), (1000, &good), (3000, &good)]), PASS);
    // A break begins the time anew.
    assert_eq!(
        decided(&check, &[(0, &good), (1500, &bad), (1600, &good), (3000, &good)]),
        None
    );
    assert_eq!(
        decided(&check, &[(0, &good), (1500, &blind), (1600, &good), (3000, &good)]),
        None
    );
    assert_eq!(decided(&check, &[(0, &good), (1500, &bad), (10_000, &bad)]), FAIL);
    assert_eq!(decided(&check, &[(0, &bad), (9000, &good), (10_000, &good)]), FAIL);
    assert_eq!(decided(&check, &[(0, &bad), (10_000, &blind)]), ERROR);
    // What differs and is as asked all the same does not break stability.
    let other = Evidence::one("", json!({"exit": 0, "stderr": "a warning"}));
    assert_eq!(decided(&check, &[(0, &good), (1000, &other), (2000, &good)]), PASS);
}

#[test]
fn always_fails_at_the_first_break() {
    let check = check("  exec: {run: [x], expect: {exit: 0}}\n  always: {for: 2s}\n");
    let (good, bad) = (exit(0), exit(1));
    assert_eq!(decided(&check, &[(0, &good), (1000, &good)]), None);
    assert_eq!(decided(&check, &[(0, &good), (2000, &good)]), PASS);
    assert_eq!(decided(&check, &[(0, &good), (1000, &bad)]), FAIL);
    assert_eq!(decided(&check, &[(0, &good), (1000, &Evidence::blind("x"))]), ERROR);
}

#[test]
fn never_looks_for_all_of_its_time() {
    let check = check("  exec: {run: [x], expect: {exit: 7}}\n  never: {for: 2s, after: w}\n");
    let (there, not) = (exit(7), exit(0));
    assert_eq!(decided(&check, &[(0, &not)]), None, "one look proves nothing");
    assert_eq!(decided(&check, &[(0, &not), (2000, &not)]), PASS);
    assert_eq!(decided(&check, &[(0, &not), (1000, &there)]), FAIL);
    assert_eq!(decided(&check, &[(0, &not), (2000, &Evidence::blind("x"))]), ERROR);
}

#[test]
fn abort_ends_the_waiting_and_because_says_why() {
    let check = check(
        "  exec: {run: [x], expect: {exit: 0}}\n  eventually: {within: 10s}\n  abort_if: [{when: {fields: {$.exit: 9}}, say: hopeless}]\n  because:\n    - {when: {candidates: 0}, say: nothing ran}\n    - {when: {fields: {$.exit: {gte: 5}}}, say: five or more}\n",
    );
    assert_eq!(decided(&check, &[(0, &exit(9))]), Some((Verdict::Fail, "aborted")));
    assert_eq!(decided(&check, &[(0, &exit(5))]), None);
    let expect = check.ask.expect();
    let at_the_end = |code| match history(&check, &expect, &history_of(&[(10_000, &exit(code))]), 10_000) {
        Next::Done(Judgement {
            reason: Reason::Unmet { cause, .. },
            ..
        }) => cause,
        other => panic!("{other:?}"),
    };
    assert_eq!(at_the_end(5).as_deref(), Some("five or more"));
    assert_eq!(at_the_end(1), None);
}

#[test]
fn evidence_that_was_written_down_is_judged_the_same() {
    let check = check("  exec: {run: [x], expect: {exit: 0}}\n  eventually: {within: 10s}\n");
    let recorded = history_of(&[(0, &Evidence::blind("x")), (10_000, &exit(1))]);
    let text = serde_json::to_string(&recorded).expect("plain data");
    let read: History = serde_json::from_str(&text).expect("as it was written");
    assert_eq!(read, recorded);
    let expect = check.ask.expect();
    assert_eq!(
        history(&check, &expect, &read, 10_000),
        history(&check, &expect, &recorded, 10_000)
    );
    assert!(matches!(&check.ask, Ask::Exec(_)));
}
