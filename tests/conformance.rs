//! What every pair of runner and store does alike, as a client sees it over HTTP: one suite, run by `tests/it` against
//! child processes and by `tests/lab` against a cluster, each with SQLite and with PostgreSQL.
//!
//! The server is the real program. All cases run at the same time against one server, as clients do.

#[path = "conformance/subject.rs"]
mod subject;

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

pub(crate) use self::subject::Subject;
use self::subject::{PATIENCE, document};

type Case = (&'static str, fn(&Subject<'_>));

/// Every case; the names are told where one fails.
const CASES: &[Case] = &[
    ("a job has a life", a_job_has_a_life),
    ("output keeps its order", output_keeps_its_order),
    ("a failure has its exit code", a_failure_has_its_exit_code),
    ("a program that is not there", a_program_that_is_not_there),
    ("attempts are one log", attempts_are_one_log),
    ("a deadline is kept", a_deadline_is_kept),
    ("a cancelled job ends gently", a_cancelled_job_ends_gently),
    ("a job that waits is cancelled", a_job_that_waits_is_cancelled),
    ("a job is held back", a_job_is_held_back),
    (
        "a running job is held and begins anew",
        a_running_job_is_held_and_begins_anew,
    ),
    ("a rerun is another job", a_rerun_is_another_job),
    ("only what has ended is deleted", only_what_has_ended_is_deleted),
    ("bytes stay as they are", bytes_stay_as_they_are),
    ("a line of 1 MiB", a_line_of_one_mebibyte),
    ("a long line that takes its time", a_long_line_that_takes_its_time),
    ("what a job came to", what_a_job_came_to),
    ("a span of a log", a_span_of_a_log),
    ("a stream goes on where it was cut", a_stream_goes_on_where_it_was_cut),
    ("too much output ends a job", too_much_output_ends_a_job),
    ("the program's world", the_programs_world),
    ("words arrive as they were sent", words_arrive_as_they_were_sent),
    ("nothing printed is nothing logged", nothing_printed_is_nothing_logged),
];

impl Subject<'_> {
    /// Runs every case and says which of them failed.
    pub(crate) fn conforms(&self) -> Result<(), String> {
        let failed = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for (name, case) in CASES {
                let failed = &failed;
                scope.spawn(move || {
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| case(self))) {
                        let said = panic.downcast_ref::<String>().cloned();
                        let said = said.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                        let line = format!("{name}: {}", said.unwrap_or_default());
                        failed.lock().expect("not poisoned").push(line);
                    }
                });
            }
        });
        let failed = failed.into_inner().expect("not poisoned");
        if failed.is_empty() {
            Ok(())
        } else {
            Err(failed.join("\n"))
        }
    }
}

fn numbers(to: usize) -> String {
    let mut out = String::new();
    for number in 1..=to {
        _ = writeln!(out, "{number}");
    }
    out
}

fn a_job_has_a_life(subject: &Subject<'_>) {
    let body = document(
        &json!({"name": "life", "command": ["sh", "-c", "echo hello; echo error >&2"],
        "labels": {"case": "life"}}),
    );
    let key = "idempotency-key: conformance-life";
    let first = subject.ask("POST", "/jobs", &[key], &body);
    assert_eq!(first.status, 201, "{first:?}");
    let id = first.json()["id"].as_str().expect("an id").to_owned();
    assert!(first.has(&format!("location: /jobs/{id}")), "{first:?}");
    let again = subject.ask("POST", "/jobs", &[key], &body);
    assert!(
        again.status == 201 && again.has("idempotent-replayed: true"),
        "{again:?}"
    );
    assert_eq!(again.json()["id"], id.as_str());
    let other = subject.ask("POST", "/jobs", &[key], &body.replace("hello", "other"));
    assert_eq!(
        (other.status, &other.json()["code"]),
        (422, &"idempotency-key-reused".into())
    );

    let job = subject.end(&id);
    assert_eq!(
        (&job["state"], &job["exit_code"], &job["attempts"], &job["reason"]),
        (&"succeeded".into(), &0.into(), &1.into(), &Value::Null),
        "{job}"
    );
    let at = |name: &str| job[name].as_str().unwrap_or_else(|| panic!("{name}: {job}")).to_owned();
    assert!(
        at("created_at") <= at("started_at") && at("started_at") <= at("finished_at"),
        "{job}"
    );
    let mut lines: Vec<String> = subject.text(&id).lines().map(str::to_owned).collect();
    // The two outputs are read side by side, so only the order within each is known.
    lines.sort();
    assert_eq!(lines, ["error", "hello"]);
    let listed = subject.get("/jobs?label=case%3Dlife&state=succeeded").json();
    assert_eq!(listed["jobs"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed["jobs"][0]["id"], id.as_str());
    // An end is for good, also for a late request.
    assert_eq!(subject.post(&format!("/jobs/{id}/suspend")).status, 409);
    subject.outlives(&id);
}

fn output_keeps_its_order(subject: &Subject<'_>) {
    let id = subject.shell("i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; done");
    let followed = subject.get(&format!("/jobs/{id}/logs?follow"));
    assert_eq!(String::from_utf8_lossy(&followed.body), numbers(3000));
    subject.end(&id);
    let lines = subject.lines(&id, "");
    assert_eq!(lines.len(), 3000);
    for (place, line) in (1u64..).zip(&lines) {
        assert_eq!(
            (line["number"].as_u64(), line["attempt"].as_u64()),
            (Some(place), Some(1)),
            "{line}"
        );
    }
    assert!(lines.is_sorted_by_key(|line| line["at"].as_str().expect("a time").to_owned()));
    let found = subject.lines(&id, "&grep=%5E1%2B%24");
    assert_eq!(found.len(), 4, "1, 11, 111, 1111: {found:?}");
    assert_eq!(subject.lines(&id, "&tail=2")[0]["text"], "2999");
    subject.outlives(&id);
}

fn a_failure_has_its_exit_code(subject: &Subject<'_>) {
    let id = subject.shell("echo before; exit 3");
    // The first process of a container cannot be killed from within, so a child of it is.
    let killed = subject.shell("sh -c 'kill -9 $$'; exit $?");
    let job = subject.end(&id);
    assert_eq!(
        (&job["state"], &job["reason"], &job["exit_code"], &job["attempts"]),
        (&"failed".into(), &"ExitCode".into(), &3.into(), &1.into()),
        "{job}"
    );
    assert!(
        job["message"].as_str().is_some_and(|text| text.contains("exit code 3")),
        "{job}"
    );
    assert_eq!(subject.text(&id), "before\n");
    let job = subject.end(&killed);
    assert_eq!(
        (&job["state"], &job["exit_code"]),
        (&"failed".into(), &137.into()),
        "{job}"
    );
}

fn a_program_that_is_not_there(subject: &Subject<'_>) {
    let id = subject.create(&json!({"command": ["no-such-program"]}));
    let job = subject.end(&id);
    assert_eq!(
        (&job["state"], &job["reason"]),
        (&"failed".into(), &"StartError".into()),
        "{job}"
    );
    assert!(
        job["message"]
            .as_str()
            .is_some_and(|text| text.contains("no-such-program")),
        "{job}"
    );
}

fn attempts_are_one_log(subject: &Subject<'_>) {
    let id = subject.create(&json!({"command": ["sh", "-c", "echo one; printf two; exit 7"], "retries": 1}));
    let followed = subject.printed_by(&id, "&follow");
    assert_eq!(followed, "one\ntwo\none\ntwo\n", "through both attempts");
    let job = subject.end(&id);
    assert_eq!(
        (&job["state"], &job["reason"], &job["exit_code"], &job["attempts"]),
        (&"failed".into(), &"BackoffLimitExceeded".into(), &7.into(), &2.into()),
        "{job}"
    );
    let lines = subject.lines(&id, "");
    let numbers: Vec<_> = lines
        .iter()
        .map(|line| line["number"].as_u64().expect("a number"))
        .collect();
    assert!(numbers.iter().copied().eq(1..=lines.len() as u64), "{lines:?}");
    let own: Vec<_> = lines.iter().filter(|line| line["stream"] != "note").collect();
    let found: Vec<_> = own
        .iter()
        .map(|line| line["attempt"].as_u64().expect("an attempt"))
        .collect();
    assert_eq!(found, [1, 1, 2, 2], "{lines:?}");
    assert_eq!(subject.printed_by(&id, "&attempt=2"), "one\ntwo\n");
    assert_eq!(subject.lines(&id, "&previous")[0]["number"], 1);
    subject.outlives(&id);
}

fn a_deadline_is_kept(subject: &Subject<'_>) {
    let id = subject.create(
        &json!({"command": ["sh", "-c", "echo begun; exec sleep 600"], "limits": {"seconds": 4},
        "retries": 3}),
    );
    let job = subject.end(&id);
    assert_eq!(
        (&job["state"], &job["reason"], &job["attempts"]),
        (&"failed".into(), &"DeadlineExceeded".into(), &1.into()),
        "{job}"
    );
    assert_eq!(subject.printed_by(&id, ""), "begun\n");
}

fn a_cancelled_job_ends_gently(subject: &Subject<'_>) {
    let id = subject.create(&json!({"retries": 2,
        "command": ["sh", "-c", "trap 'echo asked; exit 0' TERM; echo hello; sleep 600 & wait"]}));
    subject.printed(&id, "hello");
    let asked = subject.post(&format!("/jobs/{id}/cancel"));
    assert_eq!(asked.status, 202, "{asked:?}");
    let job = subject.end(&id);
    assert_eq!(
        (&job["state"], &job["reason"], &job["attempts"]),
        (&"cancelled".into(), &"Cancelled".into(), &1.into()),
        "{job}"
    );
    // A kubelet may add that the log is gone: the pod goes as soon as it has ended.
    assert_eq!(subject.printed_by(&id, ""), "hello\nasked\n");
    assert_eq!(
        subject.post(&format!("/jobs/{id}/cancel")).status,
        200,
        "again is no error"
    );
}

fn a_job_that_waits_is_cancelled(subject: &Subject<'_>) {
    let id = subject.create(&json!({"command": ["sh", "-c", "echo never"], "suspend": true}));
    subject.state(&id, "suspended");
    assert!(subject.post(&format!("/jobs/{id}/cancel")).status < 300);
    let job = subject.end(&id);
    assert_eq!(
        (&job["state"], &job["started_at"]),
        (&"cancelled".into(), &Value::Null),
        "{job}"
    );
    assert_eq!(subject.text(&id), "");
}

fn a_job_is_held_back(subject: &Subject<'_>) {
    let id = subject.create(&json!({"command": ["sh", "-c", "echo late"], "suspend": true}));
    std::thread::sleep(Duration::from_secs(2));
    let job = subject.job(&id);
    assert_eq!(
        (&job["state"], &job["started_at"]),
        (&"suspended".into(), &Value::Null),
        "{job}"
    );
    assert_eq!(subject.post(&format!("/jobs/{id}/resume")).status, 200);
    let job = subject.end(&id);
    assert_eq!(
        (&job["state"], &job["attempts"]),
        (&"succeeded".into(), &1.into()),
        "{job}"
    );
    assert_eq!(subject.text(&id), "late\n");
}

fn a_running_job_is_held_and_begins_anew(subject: &Subject<'_>) {
    let id = subject.shell("echo begun; exec sleep 600");
    subject.printed(&id, "begun");
    let held = subject.post(&format!("/jobs/{id}/suspend"));
    assert_eq!(
        (held.status, &held.json()["state"]),
        (200, &"suspended".into()),
        "{held:?}"
    );
    subject.state(&id, "suspended");
    assert_eq!(subject.post(&format!("/jobs/{id}/resume")).status, 200);
    let began = Instant::now();
    while subject.text(&id) != "begun\nbegun\n" {
        assert!(
            began.elapsed() < PATIENCE,
            "{:?}: {}",
            subject.text(&id),
            subject.job(&id)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let lines = subject.lines(&id, "");
    assert_eq!(
        (&lines[0]["attempt"], &lines[1]["attempt"]),
        (&1.into(), &2.into()),
        "{lines:?}"
    );
    subject.state(&id, "running");
    subject.post(&format!("/jobs/{id}/cancel"));
    let job = subject.end(&id);
    assert_eq!(
        (&job["state"], &job["attempts"]),
        (&"cancelled".into(), &2.into()),
        "{job}"
    );
}

fn a_rerun_is_another_job(subject: &Subject<'_>) {
    let id = subject.create(&json!({"command": ["sh", "-c", "echo again; exit 2"], "labels": {"a": "b"}}));
    subject.end(&id);
    let rerun = subject.post(&format!("/jobs/{id}/rerun"));
    assert_eq!(rerun.status, 201, "{rerun:?}");
    let rerun = rerun.json();
    assert_eq!(
        (&rerun["parent"], &rerun["labels"]["a"]),
        (&id.as_str().into(), &"b".into()),
        "{rerun}"
    );
    let second = rerun["id"].as_str().expect("an id").to_owned();
    assert_ne!(second, id);
    let job = subject.end(&second);
    assert_eq!(
        (&job["state"], &job["exit_code"]),
        (&"failed".into(), &2.into()),
        "{job}"
    );
    assert_eq!(subject.text(&second), "again\n");
}

fn only_what_has_ended_is_deleted(subject: &Subject<'_>) {
    let id = subject.shell("echo begun; exec sleep 600");
    subject.printed(&id, "begun");
    let path = format!("/jobs/{id}");
    let refused = subject.ask("DELETE", &path, &[], "");
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (409, &"state-conflict".into())
    );
    subject.post(&format!("{path}/cancel"));
    subject.end(&id);
    assert_eq!(subject.ask("DELETE", &path, &[], "").status, 204);
    for (method, path) in [
        ("GET", path.clone()),
        ("GET", format!("{path}/logs")),
        ("DELETE", path.clone()),
    ] {
        assert_eq!(subject.ask(method, &path, &[], "").status, 404, "{method} {path}");
    }
}

fn bytes_stay_as_they_are(subject: &Subject<'_>) {
    // A carriage return before the end of a line is missing: containerd drops it, as Go's `bufio.ReadLine` does.
    let id = subject.shell(r"printf 'a\000b\n\377\376\n\033[31mr\red\n\n  \n\303\244\nno end'");
    subject.end(&id);
    let expected: &[u8] = b"a\0b\n\xff\xfe\n\x1b[31mr\red\n\n  \n\xc3\xa4\nno end";
    // Whatever is last in a log ends its line.
    assert_eq!(subject.bytes(&id), [expected, b"\n"].concat());
    let lines = subject.lines(&id, "");
    assert_eq!(lines.len(), 7, "{lines:?}");
    let whole = base64::engine::general_purpose::STANDARD.encode(b"\xff\xfe");
    assert_eq!(lines[1]["base64"], whole.as_str(), "{lines:?}");
    assert_eq!((&lines[5]["text"], &lines[5]["base64"]), (&"ä".into(), &Value::Null));
    subject.outlives(&id);
}

fn a_line_of_one_mebibyte(subject: &Subject<'_>) {
    let id = subject.shell("head -c 1048576 /dev/zero | tr '\\000' x; echo; echo after");
    let job = subject.end(&id);
    assert_eq!(job["state"], "succeeded", "{job}");
    let text = subject.text(&id);
    let lengths: Vec<usize> = text.lines().map(str::len).collect();
    assert_eq!(lengths, [1 << 20, 5], "{}", &text[text.len() - 10..]);
    let lines = subject.lines(&id, "");
    assert_eq!((lines.len(), &lines[0]["partial"]), (2, &Value::Null));
    subject.outlives(&id);
}

fn a_long_line_that_takes_its_time(subject: &Subject<'_>) {
    // containerd writes the first part of it down before the rest is there, a second and more earlier.
    let id = subject.shell("head -c 40000 /dev/zero | tr '\\000' x; sleep 1.2; echo end; echo after");
    subject.end(&id);
    let text = subject.text(&id);
    let lengths: Vec<usize> = text.lines().map(str::len).collect();
    assert_eq!(lengths, [40_003, 5], "{}", &text[text.len().saturating_sub(60)..]);
    subject.outlives(&id);
}

fn what_a_job_came_to(subject: &Subject<'_>) {
    let id = subject.shell(r#"echo begun; sleep 0.3; printf '{"rows": 12, "table": "orders"}'"#);
    assert_eq!(subject.job(&id)["result"], Value::Null, "it runs");
    subject.end(&id);
    let whole = subject.job(&id);
    assert_eq!(
        whole["result"],
        serde_json::json!({"rows": 12, "table": "orders"}),
        "{whole}"
    );
    for other in ["echo '{}'; echo done", "echo '[1, 2]'", "true"] {
        let id = subject.shell(other);
        subject.end(&id);
        assert_eq!(subject.job(&id)["result"], Value::Null, "{other}");
    }
}

fn a_span_of_a_log(subject: &Subject<'_>) {
    let id = subject.shell("echo one; sleep 0.3; echo two; sleep 0.3; echo three");
    subject.end(&id);
    let lines = subject.lines(&id, "");
    let at = |line: usize| lines[line]["at"].as_str().expect("a time").to_owned();
    let texts = |query: &str| {
        let found = subject.lines(&id, query);
        found
            .iter()
            .map(|line| line["text"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(texts(&format!("&since={}", at(1))), ["two", "three"]);
    assert_eq!(texts(&format!("&until={}", at(1))), ["one"]);
    assert_eq!(texts(&format!("&since={}&until={}", at(1), at(2))), ["two"]);
    assert_eq!(texts(&format!("&until={}", at(0))), [] as [&str; 0]);
}

/// Reads events of a log until `most` lines are there or the stream ends; says whether it was the end of the log.
fn events(subject: &Subject<'_>, id: &str, last: u64, most: usize, seen: &mut Vec<(u64, String)>) -> bool {
    let last = format!("last-event-id: {last}");
    let headers = ["accept: text/event-stream", last.as_str()];
    let stream = subject.send("GET", &format!("/jobs/{id}/logs?follow"), &headers, "");
    let (mut read, mut name, mut number) = (0, String::new(), None);
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        match line.split_once(": ") {
            Some(("id", id)) => number = id.parse().ok(),
            Some(("event", event)) => event.clone_into(&mut name),
            Some(("data", data)) if name == "line" => {
                let data: Value = serde_json::from_str(data).expect("JSON");
                assert_eq!(data["number"].as_u64(), number);
                seen.push((
                    number.expect("a number"),
                    data["text"].as_str().expect("text").to_owned(),
                ));
                read += 1;
                if read == most {
                    return false;
                }
            }
            Some(("data", _)) if name == "end" => return true,
            Some(("data", data)) => panic!("{name}: {data}"),
            _ => {}
        }
    }
    false
}

fn a_stream_goes_on_where_it_was_cut(subject: &Subject<'_>) {
    let id = subject.shell("i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; sleep 0.05; done");
    let mut seen = Vec::new();
    let began = Instant::now();
    while !events(subject, &id, seen.last().map_or(0, |(number, _)| *number), 7, &mut seen) {
        assert!(began.elapsed() < PATIENCE, "{seen:?}");
    }
    let expected: Vec<(u64, String)> = (1..=60).map(|number| (number, number.to_string())).collect();
    assert_eq!(seen, expected);
    subject.outlives(&id);
}

fn too_much_output_ends_a_job(subject: &Subject<'_>) {
    let id = subject.create(&json!({"command": ["sh", "-c", "yes 0123456789"], "limits": {"output_mib": 1}}));
    let job = subject.end(&id);
    assert_eq!(
        (&job["state"], &job["reason"]),
        (&"failed".into(), &"OutputLimitExceeded".into()),
        "{job}"
    );
    let bytes = subject.bytes(&id).len();
    assert!((1 << 20..3 << 20).contains(&bytes), "{bytes} bytes are stored");
    let last = subject.lines(&id, "&tail=1").pop().expect("a line");
    assert_eq!(last["stream"], "note", "{last}");
    subject.outlives(&id);
}

fn the_programs_world(subject: &Subject<'_>) {
    let script = "echo $LABCTL_JOB_ID; test \"$HOME\" = \"$PWD\" && echo home; ls -A | wc -l; echo kept > file; cat file; \
                  cat; echo $OWN; env | grep -c -i secret; umask; exit 0";
    let id = subject.create(&json!({"command": ["sh", "-c", script], "env": {"OWN": "mine"}}));
    let job = subject.end(&id);
    assert_eq!(job["state"], "succeeded", "{job}");
    let lines: Vec<String> = subject.text(&id).lines().map(|line| line.trim().to_owned()).collect();
    assert_eq!(lines[..6], [id.as_str(), "home", "0", "kept", "mine", "0"], "{lines:?}");
}

fn words_arrive_as_they_were_sent(subject: &Subject<'_>) {
    let words = [
        "$(HOME)",
        "$$",
        "$HOME",
        "",
        " a  b ",
        "äöü 漢",
        "--flag=\"x\"",
        "`id`",
        "a\nb",
        "\\n",
    ];
    let mut command = vec!["printf", "<%s>\\n"];
    command.extend(words);
    let id = subject.create(&json!({"command": command, "env": {"A": "$(PATH) $$ ä"}}));
    let variable =
        subject.create(&json!({"command": ["sh", "-c", "printf %s \"$A\""], "env": {"A": "$(PATH) $$ ä\n"}}));
    let job = subject.end(&id);
    assert_eq!(job["state"], "succeeded", "{job}");
    let expected = words.iter().fold(String::new(), |text, word| text + "<" + word + ">\n");
    assert_eq!(subject.text(&id), expected);
    subject.end(&variable);
    assert_eq!(subject.text(&variable), "$(PATH) $$ ä\n");
}

fn nothing_printed_is_nothing_logged(subject: &Subject<'_>) {
    let id = subject.create(&json!({"command": ["true"]}));
    let followed = subject.get(&format!("/jobs/{id}/logs?follow"));
    assert_eq!((followed.status, followed.body.len()), (200, 0), "{followed:?}");
    let job = subject.end(&id);
    assert_eq!(
        (&job["state"], &job["exit_code"]),
        (&"succeeded".into(), &0.into()),
        "{job}"
    );
    subject.outlives(&id);
}
