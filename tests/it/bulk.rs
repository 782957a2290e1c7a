//! The same done to many jobs: over HTTP, and by the client.

use labctl::dashboard::store::sqlite::{Settings, Sqlite};
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::harness::TestEnvironment;
use crate::jobs::{JSON, LIMIT, in_state, problem, run, start, whole};
use crate::serve::{Server, bare};

/// Creates a job that is held back, and returns its id.
fn held(server: &Server, name: &str) -> String {
    let body = json!({"name": name, "command": ["/bin/true"], "suspend": true, "labels": {"kind": "many"}});
    let answer = server.ask("POST", "/jobs", &[JSON], &body.to_string());
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_str().expect("an id").to_owned()
}

fn bulk(server: &Server, query: &str, body: &Value) -> Value {
    let answer = server.ask("POST", &format!("/jobs/bulk?{query}"), &[JSON], &body.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn count(server: &Server, query: &str) -> usize {
    let page = server.ask("GET", &format!("/jobs?limit=500&{query}"), &[], "").json();
    page["jobs"].as_array().expect("jobs").len()
}

/// Waits until so many jobs are cancelled.
fn ended_all(server: &Server, jobs: usize) {
    let start = std::time::Instant::now();
    while count(server, "state=cancelled") < jobs {
        assert!(start.elapsed() < LIMIT, "not cancelled");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_filter_is_counted_first_and_what_comes_later_is_not_meant() {
    let world = bare();
    let server = start(&world);
    for number in 0..7 {
        held(&server, &format!("held-{number}"));
    }
    let ended = run(&server, "many", "true");
    in_state(&server, &ended, "succeeded");
    let asked = json!({"action": "cancel", "dry_run": true});
    let counted = bulk(&server, "label=kind%3Dmany", &asked);
    assert_eq!(
        (
            &counted["matched"],
            &counted["fit"],
            &counted["done"],
            &counted["dry_run"]
        ),
        (&json!(8), &json!(7), &json!(0), &json!(true)),
        "{counted}"
    );
    assert_eq!((&counted["newest"], &counted["next"]), (&json!(ended), &Value::Null));
    assert_eq!(count(&server, "state=suspended"), 7, "nothing is done");
    let later = held(&server, "later");
    // In parts, as one that is too long for a request is done.
    let asked = json!({"action": "cancel", "newest": counted["newest"]});
    let (mut query, mut matched, mut done) = ("limit=3&label=kind%3Dmany".to_owned(), 0, 0);
    loop {
        let part = bulk(&server, &query, &asked);
        assert!(part["matched"].as_u64() <= Some(3), "{part}");
        matched += part["matched"].as_u64().expect("a number");
        done += part["done"].as_u64().expect("a number");
        assert_eq!((&part["refused"], &part["refusals"]), (&json!(0), &json!([])));
        let Some(next) = part["next"].as_str() else { break };
        query = format!("limit=3&label=kind%3Dmany&cursor={next}");
    }
    assert_eq!((matched, done), (8, 7));
    ended_all(&server, 7);
    in_state(&server, &later, "suspended");
    // What has ended can go; what has not is left.
    let gone = bulk(&server, "label=kind%3Dmany", &json!({"action": "delete"}));
    assert_eq!(
        (&gone["matched"], &gone["fit"], &gone["done"]),
        (&json!(9), &json!(8), &json!(8)),
        "{gone}"
    );
    assert_eq!(count(&server, ""), 1);
}

#[test]
fn reruns_with_a_key_are_made_once() {
    let world = bare();
    let server = start(&world);
    for number in 0..3 {
        let id = run(&server, "again", "exit 3");
        in_state(&server, &id, "failed");
        whole(&server, &id);
        assert_eq!(count(&server, "state=failed"), number + 1);
    }
    let counted = bulk(&server, "state=failed", &json!({"action": "rerun", "dry_run": true}));
    let asked = json!({"action": "rerun", "newest": counted["newest"]}).to_string();
    for _ in 0..2 {
        let answer = server.ask(
            "POST",
            "/jobs/bulk?state=failed",
            &[JSON, &format!("idempotency-key: {}", "k".repeat(255))],
            &asked,
        );
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["done"], 3);
    }
    assert_eq!(count(&server, ""), 6);
}

#[test]
fn what_is_not_meant_so_is_refused() {
    let world = bare();
    let server = start(&world);
    held(&server, "kept");
    let ask = |query: &str, body: &str| server.ask("POST", &format!("/jobs/bulk{query}"), &[JSON], body);
    problem(&ask("", r#"{"action": "cancel"}"#), 400, "invalid-parameter");
    problem(&ask("?limit=5", r#"{"action": "cancel"}"#), 400, "invalid-parameter");
    problem(&ask("?state=x", r#"{"action": "cancel"}"#), 400, "invalid-parameter");
    problem(&ask("?q=a&cursor=x", r#"{"action": "cancel"}"#), 400, "invalid-cursor");
    problem(&ask("?q=a", r#"{"action": "format"}"#), 422, "invalid-request");
    problem(
        &ask("?q=a", r#"{"action": "cancel", "force": true}"#),
        422,
        "invalid-request",
    );
    problem(
        &ask("?q=a", r#"{"action": "cancel", "newest": "x"}"#),
        422,
        "invalid-request",
    );
    problem(&ask("?q=a", "{"), 400, "malformed-json");
    let page = server.ask("GET", "/jobs/bulk", &[], "");
    assert_eq!(page.status, 405, "{page:?}");
    let other = [JSON, "origin: http://evil.example"];
    let answer = server.ask("POST", "/jobs/bulk?q=kept", &other, r#"{"action": "cancel"}"#);
    problem(&answer, 403, "cross-site");
    assert_eq!(count(&server, "state=suspended"), 1, "nothing was done");
    let all = ask("", r#"{"action": "cancel", "all": true}"#);
    assert_eq!(all.json()["done"], 1, "{all:?}");
}

#[test]
fn jobs_of_somebody_else_are_not_meant() {
    let world = bare();
    let tokens = world.path("tokens");
    labctl::drive::files::write_secret(&tokens, "ana:ana-0123456789abc\nbob:bob-0123456789abc\n").expect("written");
    let file = tokens.display().to_string();
    let server = Server::start_whole(&world, &["--drain", "0", "--token-file", &file]);
    let (ana, bob) = (
        "authorization: Bearer ana-0123456789abc",
        "authorization: Bearer bob-0123456789abc",
    );
    for token in [ana, ana, bob] {
        let body = json!({"name": "job", "command": ["true"], "suspend": true}).to_string();
        assert_eq!(server.ask("POST", "/jobs", &[JSON, token], &body).status, 201);
    }
    let body = json!({"action": "cancel", "all": true}).to_string();
    let done = server.ask("POST", "/jobs/bulk", &[JSON, bob], &body).json();
    assert_eq!((&done["matched"], &done["done"]), (&json!(1), &json!(1)), "{done}");
    let left = server.ask("GET", "/jobs?state=suspended", &[ana], "").json();
    assert_eq!(left["jobs"].as_array().map(Vec::len), Some(2), "{left}");
}

#[test]
fn the_client_asks_before_it_does_it_to_all() {
    let own = bare();
    let server = start(&own);
    let mut world = TestEnvironment::new();
    world.set("LABCTL_DASHBOARD_URL", format!("http://{}", server.address));
    for number in 0..3 {
        held(&server, &format!("held-{number}"));
    }
    let ended = run(&server, "many", "true");
    in_state(&server, &ended, "succeeded");
    let output = world.run(&["jobs", "cancel", "--label", "kind=many", "--dry-run"]);
    assert_eq!(
        (output.exit, output.stdout.as_str()),
        (
            Some(0),
            "3 jobs would be asked to end\n1 job that matches would be left: it cannot be cancelled as it is\n"
        ),
        "{output}"
    );
    let output = world.run(&["jobs", "cancel", "--label", "kind=many"]);
    assert_eq!(output.exit, Some(2), "{output}");
    assert!(
        output.stderr.contains("LAB-USE-004") && output.stderr.contains("3 jobs") && output.stderr.contains("--yes"),
        "{output}"
    );
    assert_eq!(count(&server, "state=suspended"), 3);
    let output = world.run(&["jobs", "cancel", "--label", "kind=many", "--yes"]);
    assert_eq!(
        (output.exit, output.stdout.as_str()),
        (
            Some(0),
            "3 jobs asked to end\n1 job that matches is left: it cannot be cancelled as it is\n"
        ),
        "{output}"
    );
    ended_all(&server, 3);
    let output = world.run(&["jobs", "delete", "-s", "held", "--yes", "--json"]);
    let said = output.json();
    assert_eq!(
        (&said[0]["v"], &said[0]["bulk"]["done"]),
        (&json!(1), &json!(3)),
        "{output}"
    );
    let output = world.run(&["jobs", "delete", "-s", "held", "--yes"]);
    assert_eq!(
        (output.exit, output.stdout.as_str()),
        (Some(0), "no job matches\n"),
        "{output}"
    );
    // Neither nothing nor both.
    for args in [
        vec!["jobs", "cancel"],
        vec!["jobs", "cancel", &ended, "--state", "running"],
    ] {
        assert_eq!(world.run(&args).exit, Some(2), "{args:?}");
    }
}

#[test]
fn the_client_holds_back_lets_go_and_runs_again_what_a_filter_finds() {
    let own = bare();
    let server = start(&own);
    let mut world = TestEnvironment::new();
    world.set("LABCTL_DASHBOARD_URL", format!("http://{}", server.address));
    let ids: Vec<String> = (0..3).map(|number| held(&server, &format!("held-{number}"))).collect();
    let done = |args: &[&str], said: &str| {
        let output = world.run(&[&["jobs"], args].concat());
        assert_eq!(
            (output.exit, output.stdout.as_str()),
            (Some(0), said),
            "{args:?}: {output}"
        );
    };
    done(&["resume", &ids[0]], &format!("{} is pending\n", ids[0]));
    in_state(&server, &ids[0], "succeeded");
    done(
        &["resume", "--label", "kind=many", "--state", "suspended", "--yes"],
        "2 jobs let go on\n",
    );
    for id in &ids {
        in_state(&server, id, "succeeded");
        whole(&server, id);
    }
    let slow = run(&server, "slow", "/bin/sleep 60");
    in_state(&server, &slow, "running");
    // A filter that finds what ran long finds neither those nor this one, and then this one alone.
    done(&["cancel", "--min-duration", "1h", "--dry-run"], "no job matches\n");
    let none = world.run(&["jobs", "list", "--min-duration", "1h"]);
    assert_eq!((none.exit, none.stdout.as_str()), (Some(0), ""), "{none}");
    assert!(none.stderr.contains("no job matches"), "{none}");
    let listed = |args: &[&str]| {
        let output = world.run(&[&["jobs", "list", "--json"], args].concat());
        assert_eq!(output.exit, Some(0), "{output}");
        output.json()[0]["jobs"].as_array().expect("jobs").len()
    };
    let since = std::time::Instant::now();
    while listed(&["--min-duration", "1s"]) < 1 {
        assert!(since.elapsed() < LIMIT, "it runs for a second");
    }
    assert_eq!(listed(&["--min-duration", "1s", "--state", "running"]), 1);
    done(&["suspend", "-s", "slow", "--yes"], "1 job held back\n");
    in_state(&server, &slow, "suspended");
    done(&["suspend", &slow], &format!("{slow} is suspended\n"));
    done(&["rerun", "--label", "kind=many", "--yes"], "3 jobs run again\n");
    assert_eq!(count(&server, "label=kind%3Dmany"), 6);
    let output = world.run(&["jobs", "rerun", &ids[0], &ids[1]]);
    assert_eq!((output.exit, output.stdout.lines().count()), (Some(0), 2), "{output}");
    assert_eq!(count(&server, "label=kind%3Dmany"), 8);
    for wrong in ["soon", "-5m", "1mo", ""] {
        let answer = server.ask("GET", &format!("/jobs?min_duration={wrong}"), &[], "");
        problem(&answer, 400, "invalid-parameter");
    }
}

#[test]
fn a_count_that_ends_early_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("jobs.sqlite");
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let store = Sqlite::open(&path, Settings::default()).await.expect("opened");
        store.close().await;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.expect("connected");
        let many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10050)
            INSERT INTO jobs (id, name, owner, state, created_ms, log_complete, open)
            SELECT i, 'old-' || i, 'ada', 4, 0, 1, 0 FROM n";
        sqlx::query(many).execute(&mut connection).await.expect("seeded");
        connection.close().await.expect("closed");
    });
    let own = bare();
    let server = Server::start_whole(&own, &["--store", &format!("sqlite:{}", path.display())]);
    let mut world = TestEnvironment::new();
    world.set("LABCTL_DASHBOARD_URL", format!("http://{}", server.address));
    let output = world.run(&["jobs", "delete", "--state", "succeeded", "--dry-run"]);
    assert_eq!(
        (output.exit, output.stdout.as_str()),
        (Some(0), "at least 10000 jobs would be deleted\n"),
        "{output}"
    );
    let asked = json!({"action": "delete", "dry_run": true});
    let first = bulk(&server, "state=succeeded", &asked);
    assert_eq!((&first["matched"], &first["fit"]), (&json!(10_000), &json!(10_000)));
    let next = first["next"].as_str().expect("there are more");
    let rest = bulk(&server, &format!("state=succeeded&cursor={next}"), &asked);
    assert_eq!((&rest["matched"], &rest["next"]), (&json!(50), &Value::Null));
}

#[test]
fn the_owner_reads_who_ended_a_job_or_held_it_back() {
    let world = bare();
    let tokens = world.path("tokens");
    let lines = "ana:ana-0123456789abc\nroot:root-0123456789abc:admin\n";
    labctl::drive::files::write_secret(&tokens, lines).expect("written");
    let file = tokens.display().to_string();
    let server = Server::start_whole(&world, &["--drain", "0", "--slots", "3", "--token-file", &file]);
    let (ana, root) = (
        "authorization: Bearer ana-0123456789abc",
        "authorization: Bearer root-0123456789abc",
    );
    let create = || {
        let body = json!({"name": "job", "command": ["/bin/sleep", "60"]}).to_string();
        let job = server.ask("POST", "/jobs", &[JSON, ana], &body).json();
        job["id"].as_str().expect("an id").to_owned()
    };
    let until = |id: &str, state: &str| {
        let since = std::time::Instant::now();
        loop {
            let job = server.ask("GET", &format!("/jobs/{id}"), &[ana], "").json();
            if job["state"] == state {
                return job;
            }
            assert!(since.elapsed() < LIMIT, "not {state}: {job}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    let act = |id: &str, who: &str, deed: &str| {
        let answer = server.ask("POST", &format!("/jobs/{id}/{deed}"), &[who], "");
        assert!(matches!(answer.status, 200 | 202), "{answer:?}");
    };
    let (hers, theirs, held) = (create(), create(), create());
    for id in [&hers, &theirs, &held] {
        until(id, "running");
    }
    act(&hers, ana, "cancel");
    act(&theirs, root, "cancel");
    act(&held, root, "suspend");
    let own = until(&hers, "cancelled");
    assert!(!own.to_string().contains("asked for it"), "{own}");
    assert_eq!(until(&theirs, "cancelled")["message"], "root asked for it");
    let now = until(&held, "suspended");
    assert_eq!(
        (&now["reason"], &now["message"]),
        (&json!("Held"), &json!("root held it back"))
    );
    act(&held, ana, "resume");
    until(&held, "running");
    act(&held, root, "cancel");
    assert_eq!(until(&held, "cancelled")["message"], "root asked for it");
    // One that never ran, too.
    for _ in 0..3 {
        create();
    }
    let waits = create();
    act(&waits, root, "cancel");
    assert_eq!(until(&waits, "cancelled")["message"], "root asked for it");
}
