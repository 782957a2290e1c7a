//! Jobs over HTTP as programs see them: the real server, real processes, a real port.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::TestEnvironment;
use crate::serve::{Answer, Server, bare};

pub(crate) const JSON: &str = "content-type: application/json";
pub(crate) const LIMIT: Duration = Duration::from_secs(15);

pub(crate) fn start(world: &TestEnvironment) -> Server {
    Server::start_whole(world, &["--drain", "0", "--finish", "5s"])
}

/// Creates a job that runs a shell's script, and returns its id.
pub(crate) fn run(server: &Server, name: &str, script: &str) -> String {
    let body = json!({"name": name, "command": ["/bin/sh", "-c", script], "labels": {"kind": name}});
    let answer = server.ask("POST", "/jobs", &[JSON], &body.to_string());
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// Waits until a job is as it should be, and returns it.
pub(crate) fn wait(server: &Server, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let job = server.ask("GET", &format!("/jobs/{id}"), &[], "").json();
        if is(&job) {
            return job;
        }
        assert!(start.elapsed() < LIMIT, "not {what}: {job}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn in_state(server: &Server, id: &str, state: &str) -> Value {
    wait(server, id, state, |job| job["state"] == state)
}

pub(crate) fn whole(server: &Server, id: &str) -> Value {
    wait(server, id, "stored whole", |job| job["log_complete"] == true)
}

pub(crate) fn problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{answer:?}"
    );
    let body = answer.json();
    assert_eq!(
        (&body["code"], &body["status"]),
        (&code.into(), &status.into()),
        "{body}"
    );
    let id = answer.header("x-request-id").expect("an id");
    assert_eq!(body["request_id"], id, "{answer:?}");
    assert_eq!(body["instance"], format!("urn:labctl:request:{id}"), "{answer:?}");
}

#[test]
fn the_life_of_a_job() {
    let world = bare();
    let server = start(&world);
    let body = json!({"name": "hello", "command": ["/bin/sh", "-c", "echo out; echo err >&2; printf 'no end\\377'"]})
        .to_string();
    let key = "idempotency-key: key-1";
    let first = server.ask("POST", "/jobs", &[JSON, key], &body);
    assert_eq!(first.status, 201, "{first:?}");
    let job = first.json();
    let id = job["id"].as_str().expect("an id");
    assert_eq!(first.header("location"), Some(format!("/jobs/{id}").as_str()));
    assert_eq!(first.header("idempotent-replayed"), None);
    assert!(
        job["created_at"]
            .as_str()
            .is_some_and(|at| at.len() == 24 && at.ends_with('Z')),
        "{job}"
    );
    let again = server.ask("POST", "/jobs", &[JSON, key], &body);
    assert_eq!((again.status, again.header("idempotent-replayed")), (201, Some("true")));
    assert_eq!(again.json()["id"], id);
    let other = server.ask("POST", "/jobs", &[JSON, key], &body.replace("hello", "other"));
    problem(&other, 422, "idempotency-key-reused");

    let done = whole(&server, id);
    assert_eq!(
        (&done["state"], &done["exit_code"], &done["attempts"]),
        (&"succeeded".into(), &0.into(), &1.into())
    );
    assert_eq!(done["spec"]["name"], "hello");
    let path = format!("/jobs/{id}");
    let tag = server
        .ask("GET", &path, &[], "")
        .header("etag")
        .expect("a tag")
        .to_owned();
    let same = server.ask("GET", &path, &[&format!("if-none-match: {tag}")], "");
    assert_eq!((same.status, same.body.len()), (304, 0));

    let logs = format!("{path}/logs");
    let text = server.ask("GET", &logs, &[], "");
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    // The two outputs are read side by side, so only the order within each is known.
    let bytes = text.body.clone();
    assert!(
        bytes.windows(4).any(|part| part == b"out\n") && bytes.windows(4).any(|part| part == b"err\n"),
        "{text:?}"
    );
    assert!(bytes.windows(8).any(|part| part == b"no end\xff\n"), "{text:?}");
    let lines = server.ask("GET", &logs, &["accept: application/x-ndjson"], "").text();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        lines.iter().map(|line| line["number"].as_u64()).collect::<Vec<_>>(),
        [Some(1), Some(2), Some(3)]
    );
    assert!(
        lines
            .iter()
            .any(|line| line["stream"] == "stderr" && line["text"] == "err"),
        "{lines:?}"
    );
    assert!(lines.iter().any(|line| line["base64"] == "bm8gZW5k/w=="), "{lines:?}");
    let found = server
        .ask("GET", &format!("{logs}?grep=%5Eer%2B&timestamps"), &[], "")
        .text();
    assert!(found.lines().count() == 1 && found.contains("Z err"), "{found}");
    assert_eq!(
        server
            .ask("GET", &format!("{logs}?tail=1"), &[], "")
            .text()
            .lines()
            .count(),
        1
    );
    problem(
        &server.ask("GET", &format!("{logs}?previous"), &[], ""),
        400,
        "invalid-parameter",
    );

    let rerun = server.ask("POST", &format!("{path}/rerun"), &[], "");
    assert_eq!(rerun.status, 201, "{rerun:?}");
    assert_eq!(rerun.json()["parent"], id);
    let second = rerun.json()["id"].as_str().expect("an id").to_owned();
    whole(&server, &second);
    let page = server.ask("GET", "/jobs?limit=1&state=succeeded", &[], "");
    assert_eq!(page.json()["jobs"][0]["id"], second.as_str(), "newest first");
    let link = page.header("link").expect("a next page").to_owned();
    let next = link.trim_start_matches('<').split('>').next().expect("an address");
    let last = server.ask("GET", next, &[], "");
    assert_eq!(
        (&last.json()["jobs"][0]["id"], &last.json()["next"]),
        (&id.into(), &Value::Null)
    );
    let cursor = page.json()["next"].as_str().expect("a cursor").to_owned();
    problem(
        &server.ask("GET", &format!("/jobs?limit=1&cursor={cursor}"), &[], ""),
        400,
        "invalid-cursor",
    );
    let all = server.ask("GET", "/jobs", &["accept: application/x-ndjson"], "").text();
    assert_eq!(all.lines().count(), 2, "{all}");
    let counts = server.ask("GET", "/jobs/counts", &[], "").json();
    assert_eq!(
        (&counts["counts"]["succeeded"], &counts["total"]),
        (&2.into(), &2.into())
    );

    assert_eq!(server.ask("DELETE", &path, &[], "").status, 204);
    for (method, path) in [
        ("GET", path.clone()),
        ("DELETE", path.clone()),
        ("GET", logs),
        ("POST", format!("{path}/rerun")),
    ] {
        problem(&server.ask(method, &path, &[], ""), 404, "no-such-job");
    }
}

#[test]
fn a_job_that_runs_is_cancelled_and_not_deleted() {
    let world = bare();
    let server = start(&world);
    let id = run(&server, "long", "echo begun; exec /bin/sleep 60");
    let running = in_state(&server, &id, "running");
    let path = format!("/jobs/{id}");
    problem(&server.ask("DELETE", &path, &[], ""), 409, "state-conflict");
    let old = server.ask("POST", &format!("{path}/cancel"), &["if-match: \"0\""], "");
    problem(&old, 412, "job-changed");
    problem(
        &server.ask("POST", &format!("{path}/resume"), &["if-match: W/\"1\""], ""),
        412,
        "job-changed",
    );
    let tag = format!("if-match: \"{}\"", running["version"]);
    let asked = server.ask("POST", &format!("{path}/cancel"), &[&tag], "");
    assert_eq!(asked.status, 202, "{asked:?}");
    let ended = in_state(&server, &id, "cancelled");
    assert_eq!(ended["reason"], "Cancelled");
    assert_eq!(
        server.ask("POST", &format!("{path}/cancel"), &[], "").status,
        200,
        "again is no error"
    );
    problem(
        &server.ask("POST", &format!("{path}/suspend"), &[], ""),
        409,
        "state-conflict",
    );
    whole(&server, &id);
    assert_eq!(server.ask("DELETE", &path, &[], "").status, 204);
}

#[test]
fn a_job_that_is_held_back_runs_when_it_is_resumed() {
    let world = bare();
    let server = start(&world);
    let body = json!({"name": "held", "command": ["/bin/true"], "suspend": true}).to_string();
    let job = server.ask("POST", "/jobs", &[JSON], &body).json();
    assert_eq!(job["state"], "suspended", "{job}");
    let id = job["id"].as_str().expect("an id");
    std::thread::sleep(Duration::from_millis(300));
    in_state(&server, id, "suspended");
    let resumed = server.ask("POST", &format!("/jobs/{id}/resume"), &[], "");
    assert_eq!(resumed.status, 200, "{resumed:?}");
    in_state(&server, id, "succeeded");
}

#[test]
fn a_page_of_another_site_can_do_nothing() {
    let world = bare();
    let server = start(&world);
    let body = json!({"name": "evil", "command": ["/bin/true"]}).to_string();
    for header in [
        "origin: http://evil.example",
        "origin: null",
        "sec-fetch-site: cross-site",
        "sec-fetch-site: same-site",
    ] {
        problem(&server.ask("POST", "/jobs", &[JSON, header], &body), 403, "cross-site");
    }
    for host in [
        "host: evil.example",
        "host: localhost.evil.example:8080",
        "host: 10.0.0.1",
    ] {
        problem(&server.ask("GET", "/jobs", &[host], ""), 403, "wrong-host");
        problem(&server.ask("POST", "/jobs", &[JSON, host], &body), 403, "wrong-host");
    }
    // What a form of another site can send without being asked for leave.
    for kind in [
        "content-type: text/plain",
        "content-type: application/x-www-form-urlencoded",
        "x-none: 1",
    ] {
        problem(
            &server.ask("POST", "/jobs", &[kind], &body),
            415,
            "unsupported-media-type",
        );
    }
    assert_eq!(
        server.ask("GET", "/jobs/counts", &[], "").json()["total"],
        0,
        "nothing was created"
    );
    let same = format!("origin: http://{}", server.address);
    let host = format!("host: {}", server.address);
    assert_eq!(server.ask("POST", "/jobs", &[JSON, &same, &host], &body).status, 201);
    let page = server.ask("GET", "/docs", &[], "");
    assert_eq!(page.status, 200);
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
    ] {
        assert_eq!(page.header(name), Some(value));
    }
    assert!(
        page.header("content-security-policy")
            .is_some_and(|policy| policy.starts_with("default-src 'self'"))
    );
}

#[test]
fn hostile_input_is_refused_and_never_the_servers_fault() {
    let world = bare();
    let server = start(&world);
    let id = run(&server, "some", "echo a");
    whole(&server, &id);
    let huge = format!("{{\"name\": \"{}\"}}", "x".repeat(2 << 20));
    let deep = format!("{{\"name\": {}", "[".repeat(200_000));
    let many = format!(
        "{{\"name\": \"a\", \"command\": [\"x\"], \"labels\": {{{}}}}}",
        (0..100)
            .map(|n| format!("\"l{n}\": \"\""))
            .collect::<Vec<_>>()
            .join(",")
    );
    for (body, status, code) in [
        ("", 400, "malformed-json"),
        ("{", 400, "malformed-json"),
        ("null", 422, "invalid-job"),
        ("[]", 422, "invalid-job"),
        ("{\"name\": \"a\"}", 422, "invalid-job"),
        (
            "{\"name\": \"a\\u0000\", \"command\": [\"x\\u0000\"]}",
            422,
            "invalid-job",
        ),
        ("{\"name\": \"<script>\", \"command\": [\"x\"]}", 422, "invalid-job"),
        (
            "{\"name\": \"a\", \"command\": [\"x\"], \"limits\": {\"seconds\": 0}}",
            422,
            "invalid-job",
        ),
        (
            "{\"name\": \"a\", \"command\": [\"x\"], \"retries\": 18446744073709551616}",
            422,
            "invalid-job",
        ),
        (
            "{\"name\": \"a\", \"name\": \"b\", \"command\": [\"x\"]}",
            422,
            "invalid-job",
        ),
        (&many, 422, "invalid-job"),
        (&huge, 413, "body-too-large"),
        (&deep, 422, "invalid-job"),
    ] {
        let answer = server.ask("POST", "/jobs", &[JSON], body);
        problem(&answer, status, code);
    }
    let faults = server
        .ask("POST", "/jobs", &[JSON], "{\"name\": \"a b\", \"command\": []}")
        .json();
    let pointers: Vec<_> = faults["errors"]
        .as_array()
        .expect("faults")
        .iter()
        .map(|fault| fault["pointer"].as_str())
        .collect();
    assert_eq!(pointers, [Some("/name"), Some("/command")], "{faults}");
    for key in [
        "idempotency-key: a b",
        "idempotency-key: \u{e4}",
        "idempotency-key: ",
        &format!("idempotency-key: {}", "k".repeat(256)),
    ] {
        let body = "{\"name\": \"a\", \"command\": [\"/bin/true\"]}";
        problem(
            &server.ask("POST", "/jobs", &[JSON, key], body),
            400,
            "invalid-parameter",
        );
    }
    let logs = format!("/jobs/{id}/logs");
    for (path, status) in [
        ("/jobs/%ff".to_owned(), 400),
        ("/jobs/0".to_owned(), 404),
        ("/jobs/zzzzzzzzzzzzz".to_owned(), 404),
        ("/jobs/..%2f..%2fetc".to_owned(), 404),
        ("/jobs//logs".to_owned(), 404),
        ("/jobs/".to_owned(), 404),
        ("/jobs?cursor=AAAA".to_owned(), 400),
        ("/jobs?limit=99999999999999999999999".to_owned(), 400),
        ("/jobs?q=%ff".to_owned(), 400),
        ("/jobs?q=%00".to_owned(), 400),
        ("/jobs?q=%27%22%3B--%25_%5C".to_owned(), 200),
        ("/jobs?q=%2A%22%20OR%20NEAR(".to_owned(), 200),
        ("/jobs?label=a%00b=c".to_owned(), 400),
        ("/jobs?since=99999999999999h".to_owned(), 400),
        ("/jobs?since=292277026596y".to_owned(), 400),
        ("/jobs?until=-009999-01-02T01:59:59Z".to_owned(), 200),
        ("/jobs?since=9999-12-30T22:00:00Z".to_owned(), 200),
        (format!("{logs}?grep=((a%7B1000%7D)%7B1000%7D)%7B1000%7D"), 400),
        (format!("{logs}?grep=("), 400),
        (format!("{logs}?from=18446744073709551615"), 200),
        (format!("{logs}?from=9223372036854775808"), 200),
        (format!("{logs}?tail=18446744073709551615"), 200),
        (format!("{logs}?since=9999-12-30T22:00:00Z"), 200),
        (format!("{logs}?attempt=0"), 200),
    ] {
        let answer = server.ask("GET", &path, &[], "");
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    for last in ["-1", "x", "99999999999999999999", "\u{e4}"] {
        problem(
            &server.ask("GET", &logs, &[&format!("last-event-id: {last}")], ""),
            400,
            "invalid-parameter",
        );
    }
    for (method, path) in [
        ("PUT", "/jobs"),
        ("POST", "/jobs/counts"),
        ("PATCH", "/events"),
        ("GET", "/jobs/x/cancel"),
    ] {
        let answer = server.ask(method, path, &[], "");
        problem(&answer, 405, "method-not-allowed");
        assert!(
            answer.header("allow").is_some_and(|allowed| !allowed.is_empty()),
            "{answer:?}"
        );
    }
    assert_eq!(server.ask("GET", "/readyz", &[], "").status, 200);
}

#[test]
fn a_full_database_is_a_clear_refusal() {
    let world = bare();
    let server = Server::start_whole(&world, &["--drain", "0", "--quota", "1"]);
    let body = json!({"name": "a", "command": ["/bin/true", "x".repeat(60_000)], "suspend": true}).to_string();
    let refused = (0..200)
        .map(|_| server.ask("POST", "/jobs", &[JSON], &body))
        .find(|answer| answer.status != 201);
    problem(&refused.expect("full at last"), 507, "store-full");
    assert_eq!(
        server.ask("GET", "/jobs?limit=5", &[], "").status,
        200,
        "what is there can be read"
    );
    assert_eq!(server.ask("GET", "/livez", &[], "").status, 200);
}

#[test]
fn who_creates_too_many_jobs_is_told_when_to_come_back() {
    let world = bare();
    let server = Server::start(&world, &["--job-rate", "3"]);
    let body = json!({"name": "many", "command": ["/bin/true"], "suspend": true}).to_string();
    let create = |key: &str| server.ask("POST", "/jobs", &[JSON, &format!("idempotency-key: {key}")], &body);
    for left in [2, 1, 0] {
        let answer = create(&format!("k{left}"));
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"jobs\";q=3;w=60"));
        let said = answer.header("ratelimit").expect("what is left").to_owned();
        assert!(said.starts_with(&format!("\"jobs\";r={left};t=")), "{said}");
    }
    // The same request again creates nothing, and so it is answered, also where nothing is left.
    let again = create("k1");
    assert_eq!(
        (again.status, again.header("idempotent-replayed")),
        (201, Some("true")),
        "{again:?}"
    );
    let other = body.replace("many", "other");
    let reused = server.ask("POST", "/jobs", &[JSON, "idempotency-key: k1"], &other);
    problem(&reused, 422, "idempotency-key-reused");
    let refused = create("k9");
    problem(&refused, 429, "too-many-requests");
    let after: u64 = refused.header("retry-after").expect("when").parse().expect("seconds");
    assert!((15..=20).contains(&after), "{after}: a third of a minute");
    assert!(refused.header("ratelimit").expect("what is left").contains("r=0"));
    let first = server.ask("GET", "/jobs", &[], "").json()["jobs"][0]["id"].clone();
    let path = format!("/jobs/{}/rerun", first.as_str().expect("an id"));
    problem(&server.ask("POST", &path, &[], ""), 429, "too-many-requests");
    let done = server
        .ask("POST", "/jobs/bulk?q=many", &[JSON], r#"{"action": "rerun"}"#)
        .json();
    assert_eq!((&done["done"], &done["refused"]), (&json!(0), &json!(3)), "{done}");
    assert_eq!(done["refusals"][0]["code"], "too-many-requests");
    // What creates nothing goes on, and the page keeps what was typed.
    assert_eq!(server.ask("GET", "/jobs", &[], "").status, 200);
    let mut client = TestEnvironment::new();
    client.set("LABCTL_DASHBOARD_URL", format!("http://{}", server.address));
    let output = client.run(&["jobs", "run", "--", "/bin/true"]);
    assert_eq!(output.exit, Some(2), "{output}");
    assert!(output.stderr.contains("ask again in"), "{output}");
    // Without a limit nobody is told of one.
    let other = bare();
    let free = start(&other);
    let answer = free.ask("POST", "/jobs", &[JSON], &body);
    assert_eq!((answer.status, answer.header("ratelimit")), (201, None));
}

#[test]
fn lines_are_found_by_how_bad_they_say_they_are() {
    let world = bare();
    let server = start(&world);
    let script =
        r#"echo plain; echo 'level=warn msg=low'; echo '{"level":"debug"}'; echo 'ERROR no' >&2; echo more >&2"#;
    let id = run(&server, "levels", script);
    whole(&server, &id);
    let lines = |query: &str| -> Vec<Value> {
        let path = format!("/jobs/{id}/logs?format=ndjson{query}");
        let text = server.ask("GET", &path, &[], "").text();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    };
    let levels = |query: &str| -> Vec<String> {
        let mut all: Vec<String> = lines(query)
            .iter()
            .map(|line| line["level"].as_str().unwrap_or("-").to_owned())
            .collect();
        all.sort();
        all
    };
    assert_eq!(levels(""), ["-", "-", "debug", "error", "warn"]);
    assert_eq!(levels("&level=warn"), ["error", "warn"]);
    assert_eq!(levels("&level=trace"), ["debug", "error", "warn"]);
    assert_eq!(levels("&level=trace&stream=stdout"), ["debug", "warn"]);
    assert_eq!(levels("&stream=stderr"), ["-", "error"]);
    assert_eq!(levels("&stream=merged"), [""; 0]);
    let mut client = TestEnvironment::new();
    client.set("LABCTL_DASHBOARD_URL", format!("http://{}", server.address));
    let output = client.run(&["jobs", "logs", &id, "--level", "error"]);
    assert_eq!(
        (output.exit, output.stdout.as_str()),
        (Some(0), "ERROR no\n"),
        "{output}"
    );
    let output = client.run(&["jobs", "logs", &id, "--stream", "stderr", "--grep", "more"]);
    assert_eq!((output.exit, output.stdout.as_str()), (Some(0), "more\n"), "{output}");
}
