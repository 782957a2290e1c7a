//! The jobs of a schedule for times that are over: over HTTP, and by the client.

use serde_json::json;

use super::post;
use crate::harness::TestEnvironment;
use crate::jobs::{problem, start, whole};
use crate::serve::bare;

#[test]
fn times_that_are_over_get_the_jobs_that_they_did_not_make() {
    let own = bare();
    let server = start(&own);
    let schedule = json!({
        "name": "daily", "cron": "30 2 * * *", "time_zone": "Europe/Berlin",
        "job": {"name": "report", "command": ["/bin/sh", "-c", "echo for $LABCTL_SCHEDULED_AT"]},
    });
    assert_eq!(post(&server, "/schedules", &schedule).status, 201);
    // The clocks are set forward in this night, and back in another one.
    let path = "/schedules/daily/occurrences?since=2026-03-27T12:00:00Z&until=2026-03-30T12:00:00Z";
    let found = server.ask("GET", path, &[], "").json();
    let locals: Vec<&str> = found["occurrences"]
        .as_array()
        .expect("occurrences")
        .iter()
        .filter_map(|one| one["local"].as_str())
        .collect();
    assert_eq!(
        (locals, &found["more"]),
        (
            vec![
                "Sat 2026-03-28 02:30 +01:00",
                "Sun 2026-03-29 03:00 +02:00",
                "Mon 2026-03-30 02:30 +02:00"
            ],
            &json!(false)
        )
    );
    let part = server.ask("GET", &format!("{path}&limit=2"), &[], "").json();
    assert_eq!(
        (part["occurrences"].as_array().map(Vec::len), &part["more"]),
        (Some(2), &json!(true))
    );
    for (query, status) in [
        ("", 400),
        ("?since=soon", 400),
        ("?since=1d&limit=0", 400),
        ("?since=1d&limit=501", 400),
        ("?since=1d&since=2d", 400),
        ("?since=1d&before=2d", 400),
        ("?since=9999-12-30T22:00:00Z", 200),
        ("?since=-009999-01-02T01:59:59Z&until=-009999-01-03T01:59:59Z", 200),
    ] {
        let answer = server.ask("GET", &format!("/schedules/daily/occurrences{query}"), &[], "");
        assert_eq!(answer.status, status, "{query}: {answer:?}");
    }
    problem(
        &server.ask("GET", "/schedules/none/occurrences?since=1d", &[], ""),
        404,
        "no-such-schedule",
    );
    let run = |at: &str| server.ask("POST", &format!("/schedules/daily/run?at={at}"), &[], "");
    for at in [
        "2026-03-28T01:31:00Z",
        "2999-01-01T01:30:00Z",
        "yesterday",
        "",
        "2026-03-28T01:30:00Z&at=2026-03-28T01:30:00Z",
    ] {
        problem(&run(at), 400, "invalid-parameter");
    }
    let job = run("2026-03-28T01:30:00Z");
    assert_eq!(job.status, 201, "{job:?}");
    let id = job.json()["id"].as_str().expect("an id").to_owned();
    let whole = whole(&server, &id);
    assert_eq!(whole["spec"]["env"]["LABCTL_SCHEDULED_AT"], "2026-03-28T01:30:00Z");
    let log = server.ask("GET", &format!("/jobs/{id}/logs?format=text"), &[], "");
    assert_eq!(log.text(), "for 2026-03-28T01:30:00Z\n");
    let again = run("2026-03-28T01:30:00Z");
    assert_eq!(
        (again.status, again.header("idempotent-replayed")),
        (201, Some("true")),
        "{again:?}"
    );
    // One at a time, as the schedule wants it.
    let slow = json!({"name": "slow", "cron": "0 * * * *", "job": {"name": "slow", "command": ["/bin/sleep", "60"]}});
    assert_eq!(post(&server, "/schedules", &slow).status, 201);
    let run = |at: &str| server.ask("POST", &format!("/schedules/slow/run?at={at}"), &[], "");
    assert_eq!(run("2026-03-28T01:00:00Z").status, 201);
    problem(&run("2026-03-28T02:00:00Z"), 409, "state-conflict");

    let mut world = TestEnvironment::new();
    world.set("LABCTL_DASHBOARD_URL", format!("http://{}", server.address));
    let backfill = |more: &[&str]| {
        let args = [
            "jobs",
            "schedules",
            "backfill",
            "daily",
            "--since",
            "2026-03-27T12:00:00Z",
            "--until",
        ];
        world.run(&[&args[..], &["2026-03-30T12:00:00Z"], more].concat())
    };
    let output = backfill(&["--dry-run"]);
    assert_eq!(
        (output.exit, output.stdout.as_str()),
        (
            Some(0),
            "Sat 2026-03-28 02:30 +01:00\nSun 2026-03-29 03:00 +02:00\nMon 2026-03-30 02:30 +02:00\n3 jobs\n"
        ),
        "{output}"
    );
    let output = backfill(&[]);
    assert_eq!(output.exit, Some(2), "{output}");
    assert!(
        output.stderr.contains("LAB-USE-004") && output.stderr.contains("3 jobs"),
        "{output}"
    );
    let output = backfill(&["--yes"]);
    assert_eq!(output.exit, Some(0), "{output}");
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(
        lines.len() == 3 && lines.iter().all(|line| line.contains("succeeded")),
        "{output}"
    );
    assert!(
        lines[0].contains(&id),
        "the one that there was is not made again: {output}"
    );
    let jobs = server.ask("GET", "/jobs?label=schedule%3Ddaily", &[], "").json();
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(3), "{jobs}");
    // Again, there is nothing to do, and that is told the same way.
    assert_eq!(backfill(&["--yes", "--parallel", "3"]).exit, Some(0));
    let jobs = server.ask("GET", "/jobs?label=schedule%3Ddaily", &[], "").json();
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(3), "{jobs}");
}
