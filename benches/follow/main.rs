//! How soon a job's first line is seen, and how much output passes from a program to one viewer and to fifty.
//!
//! `cargo bench --bench follow` runs the real keeper, the real store (SQLite) and the viewers of `dashboard::service`;
//! HTTP is not part of it. What a plain pipe carries of the same program's output is measured in the same run.
//!
//! `cargo bench --bench follow -- kubernetes` does it with a Kubernetes Job on the cluster of a lab (`LABCTL_LAB`), beside
//! `kubectl logs -f` of the same job at the same time.

mod kubernetes;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use labctl::dashboard::control::Control;
use labctl::dashboard::control::retain::Keep;
use labctl::dashboard::health::Health;
use labctl::dashboard::job::spec::{Limits, Priority, Spec};
use labctl::dashboard::job::{JobId, State};
use labctl::dashboard::log::hub::Hub;
use labctl::dashboard::runner::process::{Options, ProcessRunner};
use labctl::dashboard::service::tail::{Item, Select};
use labctl::dashboard::service::{Caller, Service};
use labctl::dashboard::store::sqlite::{self, Sqlite};
use labctl::dashboard::store::{Created, JobStore};

/// How often the first line is waited for.
const ROUNDS: usize = 50;
/// How much the program writes, in MiB.
const OUTPUT_MIB: u32 = 200;

fn caller() -> Caller {
    Caller::new("bench", true)
}

fn spec(command: &[&str]) -> Spec {
    Spec {
        name: "bench".into(),
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        image: None,
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        retries: 0,
        suspend: false,
        priority: Priority::Normal,
        limits: Limits {
            output_mib: OUTPUT_MIB + 1,
            ..Limits::default()
        },
    }
}

async fn create(service: &Service, spec: Spec) -> JobId {
    match service.create(&caller(), spec, None).await.expect("created") {
        Created::New(job) | Created::Replayed(job) => job.id,
    }
}

/// Reads a log to its end; returns how long after `start` the first line came, and how many bytes there were.
async fn view(service: Service, id: JobId, start: Instant) -> (Duration, u64) {
    let select = Select {
        follow: true,
        ..Select::default()
    };
    let mut tail = service.tail(&caller(), id, select).await.expect("a tail");
    let mut first = None;
    let mut bytes = 0;
    while let Some(item) = tail.next().await.expect("read") {
        let Item::Lines { lines, .. } = item else {
            panic!("{item:?}")
        };
        first.get_or_insert_with(|| start.elapsed());
        bytes += lines.iter().map(|line| line.bytes.len() as u64 + 1).sum::<u64>();
    }
    (first.unwrap_or_default(), bytes)
}

fn plain(command: &[&str]) -> Duration {
    let start = Instant::now();
    #[expect(clippy::disallowed_methods, reason = "the yardstick: the same program and a pipe")]
    let mut child = std::process::Command::new(command[0])
        .args(&command[1..])
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut pipe = child.stdout.take().expect("a pipe");
    let mut buffer = vec![0; 64 << 10];
    while pipe.read(&mut buffer).expect("read") > 0 {}
    child.wait().expect("ended");
    start.elapsed()
}

#[expect(clippy::print_stdout, reason = "the figures are what this program is for")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stdout, reason = "the figures are what this program is for")]
fn main() {
    // `cargo test --benches` runs it with this word.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if std::env::args().any(|arg| arg == "kubernetes") {
        return runtime.block_on(kubernetes::measure()).expect("a lab's cluster");
    }
    runtime.block_on(async {
        let dir = tempfile::tempdir().expect("a directory");
        let store: Arc<dyn JobStore> = Arc::new(
            Sqlite::open(&dir.path().join("jobs.sqlite"), sqlite::Settings::default()).await.expect("a store"),
        );
        let runner = Arc::new(
            ProcessRunner::open(Options {
                dir: dir.path().join("processes"),
                slots: NonZeroUsize::new(2),
                program: Some(env!("CARGO_BIN_EXE_labctl").into()),
            })
            .expect("a runner"),
        );
        let hub = Hub::default();
        let control = Control::new(store.clone(), runner.clone(), hub.clone(), Health::default(), "bench".into(), Keep::default());
        let service = Service::new(store, runner, control.clone(), hub, None).await.expect("a service");
        let work = tokio::spawn(async move { control.run().await });
        tokio::time::sleep(Duration::from_millis(200)).await;

        let mut firsts = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let id = create(&service, spec(&["echo", "hello"])).await;
            firsts.push(view(service.clone(), id, start).await.0);
        }
        firsts.sort_unstable();
        println!(
            "from create to the first line of `echo hello`, {ROUNDS} times: median {:.1} ms, 95 % {:.1} ms, slowest {:.1} ms",
            firsts[ROUNDS / 2].as_secs_f64() * 1e3,
            firsts[ROUNDS * 95 / 100].as_secs_f64() * 1e3,
            firsts[ROUNDS - 1].as_secs_f64() * 1e3,
        );

        let line = "x".repeat(99);
        let script = format!("yes {line} | head -c {OUTPUT_MIB}M");
        let command = ["/bin/sh", "-c", &script];
        let mib = f64::from(OUTPUT_MIB);
        let pipe = plain(&command);
        println!("{OUTPUT_MIB} MiB in lines of 100 bytes; through a plain pipe: {:.0} MiB/s", mib / pipe.as_secs_f64());
        for viewers in [1, 50] {
            let start = Instant::now();
            let id = create(&service, spec(&command)).await;
            let views = (0..viewers).map(|_| tokio::spawn(view(service.clone(), id, start)));
            let views = futures_util::future::join_all(views).await;
            let took = start.elapsed();
            let job = service.job(&caller(), id).await.expect("there");
            assert_eq!(job.state, State::Succeeded);
            for view in views {
                assert_eq!(view.expect("joined").1, u64::from(OUTPUT_MIB) << 20, "every byte is seen");
            }
            println!(
                "through keeper, store and hub to {viewers} viewer(s), until each has all: {:.2} s, {:.0} MiB/s from the program, {:.0} MiB/s to viewers",
                took.as_secs_f64(),
                mib / took.as_secs_f64(),
                mib * f64::from(viewers) / took.as_secs_f64(),
            );
        }
        work.abort();
    });
}
