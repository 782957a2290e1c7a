//! `cargo bench --bench serve`: the server as a program, from outside, over its own HTTP on a loopback address.
//!
//! | part | what it measures |
//! |---|---|
//! | `http` | requests/s and 99th percentiles of GET and POST /jobs, beside FastAPI, SQLAlchemy and uvicorn doing the same, and what the store does alone |
//! | `start` | from the start of the process to the first 200 of GET /jobs |
//! | `memory` | resident memory with 10,000 jobs and 100 viewers |
//! | `viewers` | 10,000 viewers that open and close streams, twice: descriptors, threads, memory, and the jobs as before |
//!
//! Without words it does all of them. `sqlite` and `postgres` as words restrict `http` to one store. The yardstick is in
//! `benches/serve/peer`; pip installs it into `target/peer`. Run it on a machine that does nothing else.

mod load;
mod process;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use labctl::dashboard::control::now_ms;
use labctl::dashboard::job::spec::{Limits, Priority, Spec};
use labctl::dashboard::job::{Change, JobId, State};
use labctl::dashboard::store::sqlite::{Settings, Sqlite};
use labctl::dashboard::store::{self, Created, Filter, JobStore, NewJob, Page, Scope};

use self::load::{Ask, Load};
use self::process::{Peer, Server};

#[path = "../../tests/it/postgres.rs"]
#[expect(dead_code, reason = "tests do more with a cluster")]
mod postgres;

/// How many jobs there are.
const JOBS: i64 = 10_000;
/// How many connections ask at once.
const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// How long each figure is measured, after a second in which caches fill.
const MEASURED: Duration = Duration::from_secs(3);
/// When the first job was created, in milliseconds since 1970.
const BEGIN_MS: i64 = 1_780_000_000_000;

const PARTS: [&str; 4] = ["http", "start", "memory", "viewers"];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let said = |word: &str| args.iter().any(|arg| arg == word);
    // `cargo test --benches` runs it with this word; it takes minutes, so it is for hands.
    if said("--test") {
        return Ok(());
    }
    let all = !PARTS.iter().any(|part| said(part));
    // One thread: what asks must leave the processors to what answers.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if all || said("start") {
            start().await?;
        }
        if all || said("memory") {
            memory().await?;
        }
        if all || said("viewers") {
            viewers().await?;
        }
        if all || said("http") {
            if said("sqlite") || !said("postgres") {
                http(None).await?;
            }
            if said("postgres") || !said("sqlite") {
                let setup = postgres::Setup {
                    fsync: "on",
                    buffers: "256MB",
                };
                if let Some(cluster) = postgres::Cluster::start(setup).await {
                    http(Some(&cluster)).await?;
                }
            }
        }
        Ok(())
    })
}

#[expect(clippy::print_stdout, reason = "what a benchmark is asked for is its figures")]
fn say(text: &str) {
    println!("{text}");
}

/// The spec of the job with a number.
fn spec(number: i64) -> Spec {
    let labels = [
        ("team".to_owned(), format!("t{}", number % 20)),
        ("tier".to_owned(), if number % 2 == 0 { "web" } else { "db" }.to_owned()),
    ];
    Spec {
        name: format!(
            "{}-{number:05}",
            ["nightly", "hourly", "adhoc", "weekly"][usize::try_from(number % 4).unwrap_or(0)]
        ),
        command: vec!["true".into()],
        image: None,
        env: std::collections::BTreeMap::new(),
        labels: labels.into(),
        retries: 0,
        suspend: false,
        priority: Priority::Normal,
        limits: Limits::default(),
    }
}

/// Puts jobs that have ended into a store.
async fn seed(store: &dyn JobStore) -> Result<()> {
    let mut last = None;
    for number in 0..JOBS {
        let created_ms = BEGIN_MS + number * 1000;
        let id = JobId::after(last, created_ms, 0);
        last = Some(id);
        let new = NewJob {
            id,
            owner: format!("user-{}", number % 7),
            spec: spec(number),
            template: None,
            parent: None,
            created_ms,
            key: None,
        };
        let Created::New(job) = store.create(new).await? else {
            continue;
        };
        let failed = number % 10 == 0;
        let change = Change {
            state: Some(if failed { State::Failed } else { State::Succeeded }),
            reason: failed.then(|| Some("ExitCode".into())),
            started_ms: Some(created_ms + 20),
            finished_ms: Some(created_ms + 900),
            exit_code: Some(i32::from(failed)),
            attempts: Some(1),
            log_complete: Some(true),
            ..Change::default()
        };
        store.change(job.id, job.version, &change).await?;
    }
    Ok(())
}

/// Makes a directory with a database of [`JOBS`] jobs.
async fn seeded() -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir().context("make a temporary directory")?;
    let store = Sqlite::open(&database(dir.path()), Settings::default()).await?;
    seed(&store).await?;
    store.close().await;
    Ok(dir)
}

fn database(dir: &Path) -> std::path::PathBuf {
    dir.join("jobs.sqlite")
}

/// The name of a figure, and the request with a number.
type Asked = (&'static str, fn(u64) -> Ask);

/// What is asked for.
const ASKS: [Asked; 4] = [
    ("GET /jobs (50 rows)", |_| Ask::get("/jobs")),
    ("GET /jobs, filtered", |number| {
        let path = match number % 4 {
            0 => "/jobs?state=failed".to_owned(),
            1 => format!("/jobs?owner=user-{}", number / 4 % 7),
            2 => format!("/jobs?label=team%3Dt{}", number / 4 % 20),
            _ => format!("/jobs?q=nightly-0{}", number / 4 % 100),
        };
        Ask::get(path)
    }),
    ("POST /jobs", |number| {
        let body = format!(
            r#"{{"name":"new-{number}","command":["true"],"labels":{{"team":"t{}","tier":"web"}},"suspend":true}}"#,
            number % 20
        );
        Ask::post("/jobs", body)
    }),
    ("GET /jobs (50 rows) again", |_| Ask::get("/jobs")),
];

/// Measures labctl and the yardstick with one store.
async fn http(cluster: Option<&postgres::Cluster>) -> Result<()> {
    let peer = Peer::installed()?;
    let dir = seeded().await?;
    let (url, theirs) = match cluster {
        None => (
            format!("sqlite:{}", database(dir.path()).display()),
            format!("sqlite+aiosqlite:///{}", dir.path().join("peer.sqlite").display()),
        ),
        Some(cluster) => {
            let url = cluster.database().await;
            let store = store::open(&url, Settings::default()).await?;
            seed(store.as_ref()).await?;
            (
                url,
                cluster.database().await.replacen("postgres", "postgresql+asyncpg", 1),
            )
        }
    };
    let what = if cluster.is_some() { "PostgreSQL" } else { "SQLite" };
    say(&format!(
        "\n{what}, {JOBS} jobs; a client on the same machine, connections kept"
    ));
    let ours = Server::labctl(dir.path(), &url, &["--runner", "process"])?;
    ours.ready().await?;
    let rows = load::once(ours.address, &Ask::get("/jobs").accept("application/x-ndjson")).await?;
    peer.seed(&theirs, &rows)?;
    let theirs = peer.server(dir.path(), &theirs)?;
    theirs.ready().await?;
    for path in [
        "/jobs",
        "/jobs?state=failed&owner=user-0",
        "/jobs?label=team%3Dt3&q=WEEKLY",
    ] {
        let names = [names(&ours, path).await?, names(&theirs, path).await?];
        ensure!(
            !names[0].is_empty() && names[0] == names[1],
            "{path}: they differ: {names:?}"
        );
    }
    say(&format!(
        "{:28} {:>5} {:>12} {:>9} {:>12} {:>9} {:>7}",
        "", "conns", "labctl /s", "p99 ms", "FastAPI /s", "p99 ms", "ratio"
    ));
    for (name, make) in ASKS {
        for connections in CONNECTIONS {
            let mut figures = Vec::new();
            for server in [&ours, &theirs] {
                let load = Load {
                    address: server.address,
                    connections,
                    warm: Duration::from_secs(1),
                    measured: MEASURED,
                };
                figures.push(load.run(make).await?);
            }
            let [a, b] = [&figures[0], &figures[1]];
            say(&format!(
                "{name:28} {connections:5} {:12.0} {:9.2} {:12.0} {:9.2} {:6.1}x{}",
                a.per_second,
                a.p99.as_secs_f64() * 1e3,
                b.per_second,
                b.p99.as_secs_f64() * 1e3,
                a.per_second / b.per_second,
                if b.failed > 0 {
                    format!("  ({} of FastAPI's answers were errors)", b.failed)
                } else {
                    String::new()
                }
            ));
            ensure!(a.failed == 0, "labctl failed {} times", a.failed);
        }
    }
    let store = store::open(&url, Settings::default()).await?;
    alone(&store).await?;
    say(&format!(
        "resident memory now: labctl {} MiB, FastAPI {} MiB",
        ours.resident()?.all >> 10,
        theirs.resident()?.all >> 10
    ));
    Ok(())
}

/// Measures what the store does by itself, asked by this process without HTTP: no server can answer faster than this.
async fn alone(store: &Arc<dyn JobStore>) -> Result<()> {
    let page = Page { after: None, limit: 50 };
    for connections in CONNECTIONS {
        let (listed, created) = (AtomicU32::new(0), AtomicU32::new(0));
        let list = async || {
            store.list(&Scope::All, &Filter::default(), page).await?;
            listed.fetch_add(1, Ordering::Relaxed);
            anyhow::Ok(())
        };
        let create = async || {
            let number = created.fetch_add(1, Ordering::Relaxed);
            let created_ms = now_ms();
            let mut spec = spec(number.into());
            spec.suspend = true;
            // So many at once have ids of their own in the same millisecond.
            let low = number.wrapping_mul(0x9e37_79b9);
            store
                .create(NewJob {
                    id: JobId::after(None, created_ms, low),
                    owner: "alone".to_owned(),
                    spec,
                    template: None,
                    parent: None,
                    created_ms,
                    key: None,
                })
                .await?;
            anyhow::Ok(())
        };
        for _ in 0..2 {
            list().await?;
        }
        repeated(connections, &list).await?;
        repeated(connections, &create).await?;
        let each = |count: AtomicU32| f64::from(count.into_inner()) / MEASURED.as_secs_f64();
        say(&format!(
            "the store alone, {connections} at once: a page {:.0} /s, a new job {:.0} /s",
            each(listed),
            each(created)
        ));
    }
    Ok(())
}

/// Does something again and again, so many at once, for as long as is measured.
async fn repeated(at_once: usize, what: &impl AsyncFn() -> Result<()>) -> Result<()> {
    let end = Instant::now() + MEASURED;
    let one = async || {
        while Instant::now() < end {
            what().await?;
        }
        anyhow::Ok(())
    };
    futures_util::future::try_join_all((0..at_once).map(|_| one()))
        .await
        .map(|_| ())
}

async fn names(server: &Server, path: &str) -> Result<Vec<String>> {
    let body = load::once(server.address, &Ask::get(path)).await?;
    let page: serde_json::Value = serde_json::from_slice(&body)?;
    let jobs = page["jobs"].as_array().context("no list of jobs")?;
    Ok(jobs.iter().map(|job| job["name"].to_string()).collect())
}

/// Measures from the start of the process to the first 200.
async fn start() -> Result<()> {
    let full = seeded().await?;
    for (what, dir) in [("with 10,000 jobs", Some(full.path())), ("in an empty directory", None)] {
        let mut times = Vec::new();
        for _ in 0..20 {
            let own = tempfile::tempdir()?;
            let dir = dir.unwrap_or(own.path());
            let begun = Instant::now();
            let server = Server::labctl(dir, &format!("sqlite:{}", database(dir).display()), &[])?;
            server.ready().await?;
            times.push(begun.elapsed());
        }
        times.sort();
        say(&format!(
            "start to the first 200 of GET /jobs, {what}, 20 times: median {:.1} ms, slowest {:.1} ms",
            times[10].as_secs_f64() * 1e3,
            times[19].as_secs_f64() * 1e3
        ));
    }
    Ok(())
}

/// Measures memory with viewers.
async fn memory() -> Result<()> {
    let dir = seeded().await?;
    let url = format!("sqlite:{}", database(dir.path()).display());
    let server = Server::labctl(dir.path(), &url, &[])?;
    server.ready().await?;
    say(&format!(
        "resident memory, {JOBS} jobs, nobody looks: {}",
        server.resident()?
    ));
    // A job that writes a line now and then, whose log half of the viewers follow.
    let body = r#"{"name":"talker","command":["/bin/sh","-c","while sleep 0.05; do echo a line of a hundred bytes or so, as programs write them all day long, whoever reads them; done"]}"#;
    let made = load::once(server.address, &Ask::post("/jobs", body.to_owned())).await?;
    let made: serde_json::Value = serde_json::from_slice(&made)?;
    let id = made["id"].as_str().context("no id")?;
    let logs = format!("/jobs/{id}/logs?follow=true&format=sse");
    let mut views = Vec::new();
    for number in 0..100 {
        let path = if number % 2 == 0 { "/events" } else { logs.as_str() };
        views.push(load::view(server.address, &Ask::get(path)).await?);
    }
    // They all read what comes, and somebody makes and lists jobs beside them.
    let readers: Vec<_> = views.into_iter().map(|view| tokio::spawn(view.drain())).collect();
    tokio::time::sleep(Duration::from_secs(5)).await;
    say(&format!("resident memory, 100 viewers for 5 s: {}", server.resident()?));
    for (name, make) in ASKS.into_iter().take(3) {
        let load = Load {
            address: server.address,
            connections: 8,
            warm: Duration::ZERO,
            measured: Duration::from_secs(3),
        };
        let figures = load.run(make).await?;
        ensure!(figures.failed == 0, "{name} failed");
    }
    say(&format!(
        "resident memory, 100 viewers, after 9 s of requests at full speed beside them: {}",
        server.resident()?
    ));
    tokio::time::sleep(Duration::from_secs(5)).await;
    say(&format!(
        "resident memory, 100 viewers, 5 s later: {}",
        server.resident()?
    ));
    for reader in readers {
        reader.abort();
    }
    Ok(())
}

/// Opens and closes 10,000 viewers, twice.
async fn viewers() -> Result<()> {
    let dir = seeded().await?;
    let url = format!("sqlite:{}", database(dir.path()).display());
    let server = Server::labctl(dir.path(), &url, &[])?;
    server.ready().await?;
    let body = r#"{"name":"talker","command":["/bin/sh","-c","while sleep 0.2; do echo line; done"]}"#;
    let made = load::once(server.address, &Ask::post("/jobs", body.to_owned())).await?;
    let made: serde_json::Value = serde_json::from_slice(&made)?;
    let logs = format!(
        "/jobs/{}/logs?follow=true&format=sse",
        made["id"].as_str().context("no id")?
    );
    let state = async || load::once(server.address, &Ask::get("/jobs?limit=500")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, first) = (state().await?, server.counts()?);
    say(&format!("before: {first}, {}", server.resident()?));
    for round in 1..=2 {
        let begun = Instant::now();
        for _ in 0..50 {
            let views = (0..200).map(|number| {
                let path = if number % 2 == 0 {
                    "/events".to_owned()
                } else {
                    logs.clone()
                };
                let address = server.address;
                async move {
                    let mut view = load::view(address, &Ask::get(path)).await?;
                    // It has seen something before it goes.
                    view.first().await
                }
            });
            for seen in futures_util::future::join_all(views).await {
                seen?;
            }
        }
        let took = begun.elapsed();
        // What was closed is noticed when there is something to send.
        tokio::time::sleep(Duration::from_secs(3)).await;
        say(&format!(
            "after {}0,000 viewers ({:.0} a second): {}, {}",
            round,
            1e4 / took.as_secs_f64(),
            server.counts()?,
            server.resident()?
        ));
    }
    ensure!(state().await? == before, "the jobs are not as they were");
    let last = server.counts()?;
    ensure!(
        last.descriptors <= first.descriptors + 2 && last.threads <= first.threads + 2,
        "something is left open: {first}; then {last}"
    );
    say("the list of jobs is the same, byte for byte");
    Ok(())
}
