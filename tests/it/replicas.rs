//! Several servers on one PostgreSQL: whoever looks at one that does not run the jobs sees the same at the same time.

use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::harness::TestEnvironment;
use crate::jobs::{in_state, run, wait, whole};
use crate::postgres::shared;
use crate::redis::Redis;
use crate::restarted::{answers, lines};
use crate::serve::Server;
use crate::streams::Events;

/// Prints the time in nanoseconds, again and again.
const CLOCK: &str = "while :; do date +%s%N; sleep 0.05; done";

/// A server with a directory of its own on a database that others share.
struct Replica {
    world: TestEnvironment,
    args: Vec<String>,
}

impl Replica {
    fn new(url: &str, more: &[&str]) -> Self {
        let mut world = TestEnvironment::new();
        world.set("PATH", "/usr/local/bin:/usr/bin:/bin");
        let own = ["--drain", "0", "--slots", "8", "--store", url];
        let args = own.iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        Self { world, args }
    }

    fn start(&self) -> Server {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let server = Server::start(&self.world, &args);
        answers(&server);
        server
    }
}

async fn database() -> Option<String> {
    Some(shared().await?.database().await)
}

/// Says how long ago lines were written when they came, in order: median and worst, in milliseconds.
fn latencies(events: &mut Events, count: usize) -> (f64, f64) {
    let mut took: Vec<f64> = (0..count)
        .map(|_| {
            let event = events.next().expect("a line");
            let written: f64 = event.data["text"]
                .as_str()
                .and_then(|text| text.parse().ok())
                .expect("a time");
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            (now.as_secs_f64() * 1e9 - written) / 1e6
        })
        .collect();
    took.sort_by(f64::total_cmp);
    (took[count / 2], took[count - 1])
}

/// Measures how late lines come at a server that does not run the job: the best of three, for others use this machine too.
fn at_once(other: &Server, id: &str, what: &str) {
    let mut best = f64::MAX;
    for _ in 0..3 {
        let mut events = Events::open(other, &format!("/jobs/{id}/logs?follow&tail=0"), None);
        let (median, worst) = latencies(&mut events, 40);
        let said = format!("{what}: a line comes after {median:.1} ms, at worst {worst:.1} ms\n");
        _ = std::io::stderr().write_all(said.as_bytes());
        best = best.min(median);
        if best < 100.0 {
            return;
        }
    }
    panic!("{what}: {best} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_come_at_once_by_the_database() {
    let Some(url) = database().await else { return };
    tokio::task::spawn_blocking(move || {
        let (one, two) = (Replica::new(&url, &[]), Replica::new(&url, &[]));
        let one = one.start();
        in_state(&one, &run(&one, "first", "sleep 600"), "running");
        let two = two.start();
        // Created at the one that does not run it: the other one hears of it.
        let asked = Instant::now();
        let id = run(&two, "clock", CLOCK);
        in_state(&two, &id, "running");
        assert!(
            asked.elapsed() < Duration::from_secs(3),
            "it began after {:?}",
            asked.elapsed()
        );
        at_once(&two, &id, "PostgreSQL");
        // Held back and let go on by one that does not run it.
        let hold = two.ask("POST", &format!("/jobs/{id}/suspend"), &[], "");
        assert!((200..300).contains(&hold.status), "{hold:?}");
        wait(&one, &id, "held", |job| job["state"] == "suspended");
        std::thread::sleep(Duration::from_millis(800));
        let silent = lines(&two, &id).len();
        std::thread::sleep(Duration::from_millis(800));
        assert_eq!(lines(&two, &id).len(), silent, "it runs on");
        let resume = two.ask("POST", &format!("/jobs/{id}/resume"), &[], "");
        assert!((200..300).contains(&resume.status), "{resume:?}");
        at_once(&two, &id, "PostgreSQL, after it was held back");
    })
    .await
    .expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_come_by_redis_and_without_it_and_from_a_leader_that_was_killed() {
    let Some(url) = database().await else { return };
    let Some(mut redis) = Redis::start() else { return };
    tokio::task::spawn_blocking(move || {
        let address = redis.url();
        let more = ["--redis", address.as_str()];
        let (first, second) = (Replica::new(&url, &more), Replica::new(&url, &more));
        let mut one = first.start();
        let id = run(&one, "clock", CLOCK);
        in_state(&one, &id, "running");
        let two = second.start();
        let how = |server: &Server| {
            let answer = server.ask("GET", "/readyz", &[], "");
            let checks = answer.json()["checks"].as_array().cloned().unwrap_or_default();
            let redis = checks.iter().find(|check| check["name"] == "redis").cloned();
            (
                answer.status,
                redis.map(|redis| redis["detail"].as_str().unwrap_or_default().to_owned()),
            )
        };
        let until = |server: &Server, word: &str| {
            let start = Instant::now();
            while how(server).1.is_none_or(|detail| !detail.contains(word)) {
                assert!(start.elapsed() < Duration::from_secs(20), "{:?}", how(server));
                std::thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(how(server).0, 200, "it stays ready");
        };
        until(&one, "by Redis");
        until(&two, "by Redis");
        at_once(&two, &id, "Redis");
        let mut events = Events::open(&two, &format!("/jobs/{id}/logs?follow"), None);
        let mut seen = Vec::new();
        let mut more = |events: &mut Events, count: usize| {
            for _ in 0..count {
                let event = events.next().expect("a line");
                if event.name == "end" {
                    return true;
                }
                seen.push((
                    event.id.expect("a number"),
                    event.data["text"].as_str().expect("text").to_owned(),
                ));
            }
            false
        };
        more(&mut events, 60);
        redis.kill();
        more(&mut events, 20);
        until(&two, "away");
        until(&one, "away");
        at_once(&two, &id, "Redis away");
        more(&mut events, 60);
        redis.again();
        until(&two, "by Redis");
        more(&mut events, 60);
        one.kill();
        let one = first.start();
        // The job ended with the server that was killed; whatever it wrote until then comes, once.
        while !more(&mut events, 1000) {}
        let job = whole(&one, &id);
        assert_eq!(job["reason"], "ServerLost", "{job}");
        let numbers: Vec<u64> = seen.iter().map(|(number, _)| *number).collect();
        assert_eq!(
            numbers,
            (1..=seen.len() as u64).collect::<Vec<_>>(),
            "no line is lost or repeated"
        );
        // What the dashboard itself says among the lines is no part of the text.
        let own = |texts: Vec<String>| -> Vec<String> {
            let is_time = |text: &String| text.parse::<u64>().is_ok();
            texts.into_iter().filter(is_time).collect()
        };
        let texts = own(seen.into_iter().map(|(_, text)| text).collect());
        let stored = own(lines(&one, &id));
        assert!(
            texts == stored,
            "{} were seen and {} are stored",
            texts.len(),
            stored.len()
        );
        assert!(texts.len() >= 200, "{}", texts.len());
    })
    .await
    .expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_slept_too_long_changes_nothing_when_it_wakes() {
    let Some(url) = database().await else { return };
    tokio::task::spawn_blocking(move || {
        let (one, two) = (Replica::new(&url, &[]), Replica::new(&url, &[]));
        let one = one.start();
        let id = run(&one, "clock", CLOCK);
        in_state(&one, &id, "running");
        let two = two.start();
        one.signal(Signal::STOP);
        // The second one takes over when the lease is over, and does not know the process of the first.
        let start = Instant::now();
        let ended = loop {
            let job = two.ask("GET", &format!("/jobs/{id}"), &[], "").json();
            if job["log_complete"] == true {
                break job;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{job}");
            std::thread::sleep(Duration::from_millis(200));
        };
        assert_eq!(
            (&ended["state"], &ended["reason"]),
            (&"failed".into(), &"Gone".into()),
            "{ended}"
        );
        let stored = lines(&two, &id);
        let next = run(&two, "next", "echo by the second");
        whole(&two, &next);
        one.signal(Signal::CONT);
        std::thread::sleep(Duration::from_secs(3));
        // What it had read by then, and what it saw of the job, is refused.
        let after = two.ask("GET", &format!("/jobs/{id}"), &[], "").json();
        assert_eq!(after, ended, "the row is as it was");
        assert!(lines(&two, &id) == stored, "and so is the log");
        // It serves on, as one of those that do not run the jobs.
        assert_eq!(one.ask("GET", "/readyz", &[], "").status, 200);
        let last = run(&one, "last", "echo $HOME");
        whole(&one, &last);
        let ready = two.ask("GET", "/readyz", &[], "").text();
        assert!(ready.contains("this server runs the jobs"), "{ready}");
    })
    .await
    .expect("no panic");
}
