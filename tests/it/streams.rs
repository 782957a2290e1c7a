//! Streams of logs and of changes as programs see them: they go on after a break, and nobody holds up anybody.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::jobs::{JSON, LIMIT, in_state, problem, run, start, whole};
use crate::serve::{Server, bare};

/// An event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<u64>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

/// Reads a stream of events.
pub(crate) struct Events(BufReader<TcpStream>);

impl Events {
    pub(crate) fn open(server: &Server, path: &str, last: Option<u64>) -> Self {
        let mut headers = vec!["accept: text/event-stream".to_owned()];
        headers.extend(last.map(|last| format!("last-event-id: {last}")));
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let mut reader = BufReader::new(server.send("GET", path, &headers, ""));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).expect("a head") > 0, "{head}");
        }
        assert!(head.contains(" 200 ") && head.contains("text/event-stream"), "{head}");
        Self(reader)
    }

    /// Returns the next event; nothing where the stream ended. What is no event is passed over.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let mut event = Event {
            id: None,
            name: String::new(),
            data: Value::Null,
        };
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("id", id)) => event.id = id.parse().ok(),
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("data", data)) => event.data = serde_json::from_str(data).expect("JSON"),
                _ if line.trim_end().is_empty() && !event.name.is_empty() => return Some(event),
                _ => {}
            }
        }
    }

    /// Returns the numbers and texts of lines up to the end of the stream, and whether it was the end of the log.
    fn lines(&mut self) -> (Vec<(u64, String)>, bool) {
        let mut out = Vec::new();
        while let Some(event) = self.next() {
            match event.name.as_str() {
                "line" => {
                    let number = event.data["number"].as_u64().expect("a number");
                    assert_eq!(event.id, Some(number), "the number is the place to go on from");
                    out.push((number, event.data["text"].as_str().expect("text").to_owned()));
                }
                "end" => return (out, true),
                other => panic!("{other} among lines: {event:?}"),
            }
        }
        (out, false)
    }
}

#[test]
fn a_stream_goes_on_after_the_server_was_killed() {
    let world = bare();
    let mut server = start(&world);
    let id = run(
        &server,
        "count",
        "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; /bin/sleep 0.01; done",
    );
    let path = format!("/jobs/{id}/logs?follow&tail=100000");
    let mut events = Events::open(&server, &path, None);
    let mut seen = Vec::new();
    while seen.len() < 50 {
        let event = events.next().expect("a line");
        seen.push((
            event.id.expect("a number"),
            event.data["text"].as_str().expect("text").to_owned(),
        ));
    }
    server.kill();
    // What was on its way still counts.
    seen.extend(events.lines().0);
    let server = start(&world);
    let last = seen.last().map(|(number, _)| *number);
    // The address is the same as before, as a browser would send it again.
    let (rest, ended) = Events::open(&server, &path, last).lines();
    assert!(ended, "the job ended with the server that ran it");
    seen.extend(rest);
    let own: Vec<_> = seen.iter().filter(|(_, text)| text.starts_with("line ")).collect();
    assert!(own.len() >= 50 && own.len() < 2000, "{}", own.len());
    for (place, (number, text)) in own.iter().enumerate() {
        assert_eq!(
            (*number, text.as_str()),
            (place as u64 + 1, format!("line {}", place + 1).as_str())
        );
    }
    let stored = server.ask("GET", &format!("/jobs/{id}/logs"), &[], "").text();
    assert!(
        stored.lines().count() >= seen.len(),
        "nothing was seen that is not stored"
    );
    let job = whole(&server, &id);
    assert_eq!(
        (&job["state"], &job["reason"]),
        (&"failed".into(), &"ServerLost".into())
    );
    // A client that has everything is told that there is no more.
    let (none, ended) = Events::open(&server, &path, seen.last().map(|(number, _)| *number)).lines();
    assert!(none.is_empty() && ended);
}

#[test]
fn a_slow_viewer_gets_everything_and_slows_nobody() {
    let world = bare();
    let server = start(&world);
    // About 12 MB: more than the ring, the sockets and a part of the store together.
    let id = run(
        &server,
        "much",
        "i=0; line=$(printf '%01000d' 7); while [ $i -lt 12000 ]; do i=$((i+1)); echo $i $line; done",
    );
    let path = format!("/jobs/{id}/logs?follow");
    let slow = server.send("GET", &path, &[], "");
    let quick = server.ask("GET", &path, &[], "");
    whole(&server, &id);
    assert_eq!(quick.text().lines().count(), 12_000);
    std::thread::sleep(Duration::from_millis(300));
    let mut bytes = Vec::new();
    let mut slow = slow;
    slow.read_to_end(&mut bytes).expect("read");
    let begin = bytes.windows(4).position(|part| part == b"\r\n\r\n").expect("a head") + 4;
    assert!(bytes[begin..] == quick.body[..], "both are the same");
    for (number, line) in (1..).zip(quick.text().lines()) {
        assert!(line.starts_with(&format!("{number} 0")), "{number}: {}", &line[..20]);
    }
}

fn open_files(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).map_or(0, Iterator::count)
}

#[test]
fn viewers_that_come_and_go_leave_nothing_behind() {
    let world = bare();
    let server = Server::start_whole(&world, &["--drain", "0", "--max-streams", "250"]);
    let id = run(&server, "long", "while :; do echo x; /bin/sleep 0.05; done");
    in_state(&server, &id, "running");
    let before = open_files(&server);
    for _ in 0..3 {
        let viewers: Vec<_> = (0..200)
            .map(|number| {
                let path = if number % 2 == 0 {
                    format!("/jobs/{id}/logs?follow")
                } else {
                    "/events".to_owned()
                };
                let mut stream = server.send("GET", &path, &[], "");
                let mut first = [0; 12];
                stream.read_exact(&mut first).expect("an answer");
                assert_eq!(&first[9..], b"200", "viewer {number}");
                stream
            })
            .collect();
        drop(viewers);
        let start = Instant::now();
        while open_files(&server) > before + 5 {
            assert!(
                start.elapsed() < LIMIT,
                "{} files, {before} before",
                open_files(&server)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // A stream of those before may not have ended yet, so whoever is refused comes again.
    let start = Instant::now();
    let mut viewers = Vec::new();
    while viewers.len() < 250 {
        let mut stream = server.send("GET", "/events", &[], "");
        let mut first = [0; 12];
        stream.read_exact(&mut first).expect("an answer");
        match &first[9..] {
            b"200" => viewers.push(stream),
            b"503" => std::thread::sleep(Duration::from_millis(20)),
            _ => panic!("{}", String::from_utf8_lossy(&first)),
        }
        assert!(start.elapsed() < LIMIT, "{} viewers came in", viewers.len());
    }
    let refused = server.ask("GET", &format!("/jobs/{id}/logs"), &[], "");
    problem(&refused, 503, "too-many-streams");
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(
        server.ask("GET", "/jobs", &[], "").status,
        200,
        "what is no stream goes on"
    );
    drop(viewers);
}

#[test]
fn streams_do_not_hold_up_the_end_of_the_server() {
    let world = bare();
    let mut server = Server::start_whole(&world, &["--drain", "0", "--finish", "60s"]);
    let id = run(&server, "long", "echo begun; exec /bin/sleep 60");
    in_state(&server, &id, "running");
    let mut events = server.send("GET", "/events", &[], "");
    let mut lines = server.send("GET", &format!("/jobs/{id}/logs?follow&format=sse"), &[], "");
    let mut text = server.send("GET", &format!("/jobs/{id}/logs?follow"), &[], "");
    std::thread::sleep(Duration::from_millis(300));
    let asked = Instant::now();
    server.signal(Signal::TERM);
    for stream in [&mut events, &mut lines] {
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("a whole answer");
        assert!(said.contains(": the server is stopping\n\nretry: "), "{said}");
    }
    let mut said = String::new();
    text.read_to_string(&mut said).expect("a whole answer");
    assert!(said.ends_with("begun\n"), "{said}");
    assert_eq!(server.ended().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[test]
fn changes_are_heard_by_those_who_may() {
    let world = bare();
    let tokens = world.path("tokens");
    labctl::drive::files::write_secret(
        &tokens,
        "ana:ana-0123456789abc\nbob:bob-0123456789abc\nroot:root-0123456789ab:admin\n",
    )
    .expect("written");
    let server = Server::start_whole(&world, &["--drain", "0", "--token-file", &tokens.display().to_string()]);
    let (ana, bob, root) = (
        "authorization: Bearer ana-0123456789abc",
        "authorization: Bearer bob-0123456789abc",
        "authorization: Bearer root-0123456789ab",
    );
    let nobody = server.ask("GET", "/jobs", &[], "");
    problem(&nobody, 401, "unauthenticated");
    assert!(
        nobody
            .header("www-authenticate")
            .is_some_and(|asked| asked.starts_with("Bearer")),
        "{nobody:?}"
    );
    problem(
        &server.ask("GET", "/jobs", &["authorization: Bearer ana-0123456789abC"], ""),
        401,
        "unauthenticated",
    );
    assert_eq!(server.ask("GET", "/livez", &[], "").status, 200);

    let open = |who: &str| {
        let mut stream = BufReader::new(server.send("GET", "/events", &[who], ""));
        let mut line = String::new();
        while !line.starts_with("event: counts") {
            line.clear();
            stream.read_line(&mut line).expect("the first counters");
        }
        Events(stream)
    };
    let (mut of_ana, mut of_bob) = (open(ana), open(bob));
    let body = json!({"name": "hers", "command": ["/bin/sh", "-c", "echo secret"]}).to_string();
    let created = server.ask("POST", "/jobs", &[JSON, ana], &body);
    assert_eq!(
        (created.status, &created.json()["owner"]),
        (201, &"ana".into()),
        "{created:?}"
    );
    let id = created.json()["id"].as_str().expect("an id").to_owned();
    let mut states = Vec::new();
    while states.last().is_none_or(|state| state != "succeeded") {
        let event = of_ana.next().expect("a change");
        if event.name == "job" {
            assert_eq!(event.data["id"], id.as_str());
            states.push(event.data["state"].as_str().expect("a state").to_owned());
        }
    }
    // Bob's next event is of his own job.
    let own = server.ask("POST", "/jobs", &[JSON, bob], &body.replace("hers", "his"));
    assert_eq!(own.status, 201);
    let heard = loop {
        let event = of_bob.next().expect("a change");
        if event.name == "job" {
            break event;
        }
    };
    assert_eq!(heard.data["name"], "his");

    for (method, path) in [
        ("GET", format!("/jobs/{id}")),
        ("GET", format!("/jobs/{id}/logs")),
        ("GET", format!("/jobs/{id}/logs?follow&previous")),
        ("POST", format!("/jobs/{id}/cancel")),
        ("POST", format!("/jobs/{id}/suspend")),
        ("POST", format!("/jobs/{id}/resume")),
        ("POST", format!("/jobs/{id}/rerun")),
        ("DELETE", format!("/jobs/{id}")),
    ] {
        problem(&server.ask(method, &path, &[bob], ""), 404, "no-such-job");
    }
    for (who, path, count) in [
        (bob, "/jobs?owner=ana", 0),
        (bob, "/jobs", 1),
        (root, "/jobs", 2),
        (root, "/jobs?owner=ana", 1),
    ] {
        let jobs = server.ask("GET", path, &[who], "").json();
        assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(count), "{who} {path}");
    }
    assert_eq!(server.ask("GET", "/jobs/counts", &[bob], "").json()["total"], 1);
}
