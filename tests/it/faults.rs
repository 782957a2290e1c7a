//! What goes wrong around a server while it is used: its database restarts, it is killed, its disk is full.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::TestEnvironment;
use crate::jobs::{JSON, in_state, problem, run, whole};
use crate::postgres::{Cluster, Setup, shared};
use crate::restarted::answers;
use crate::serve::{Answer, Server};

fn world() -> TestEnvironment {
    let mut world = TestEnvironment::new();
    world.set("PATH", "/usr/local/bin:/usr/bin:/bin");
    world
}

/// Those who create jobs without a pause, and what they were answered.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    created: Mutex<BTreeSet<String>>,
    refused: AtomicUsize,
    asked: AtomicUsize,
}

impl Load {
    fn created(&self) -> BTreeSet<String> {
        self.created.lock().expect("not poisoned").clone()
    }

    fn until(&self, count: usize) {
        let start = Instant::now();
        while self.created().len() < count {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "{} were created",
                self.created().len()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Creates jobs until it is over; `ask` says nothing where the connection broke.
    fn create(&self, ask: impl Fn(&str) -> Option<Answer>) {
        while !self.over.load(Ordering::Relaxed) {
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            let body = json!({"name": format!("job-{number}"), "command": ["true"], "suspend": true});
            let Some(answer) = ask(&body.to_string()) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            match answer.status {
                201 => {
                    let id = answer.json()["id"].as_str().expect("an id").to_owned();
                    assert!(self.created.lock().expect("not poisoned").insert(id), "an id twice");
                }
                503 => {
                    assert!(answer.header("retry-after").is_some(), "{answer:?}");
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => panic!("{answer:?}"),
            }
        }
    }
}

/// Asserts that each job is there.
fn all_there(server: &Server, ids: &BTreeSet<String>) {
    for id in ids {
        let answer = server.ask("GET", &format!("/jobs/{id}"), &[], "");
        assert_eq!(answer.status, 200, "{id} was answered with 201 and is gone: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_restarts_under_load_loses_nothing() {
    let setup = Setup {
        fsync: "on",
        buffers: "16MB",
    };
    let Some(cluster) = Cluster::start(setup).await else {
        return;
    };
    let url = cluster.database().await;
    tokio::task::spawn_blocking(move || {
        let server = Server::start(&world(), &["--drain", "0", "--store", &url]);
        answers(&server);
        let running = run(
            &server,
            "running",
            "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.1; done",
        );
        in_state(&server, &running, "running");
        let (load, address) = (Load::default(), server.address);
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| load.create(|body| ask(address, body)));
            }
            for signal in ["INT", "QUIT"] {
                load.until(load.created().len() + 50);
                cluster.tell(signal);
                let before = load.refused.load(Ordering::Relaxed);
                let down = Instant::now();
                while down.elapsed() < Duration::from_secs(2) || load.refused.load(Ordering::Relaxed) == before {
                    assert_eq!(server.ask("GET", "/livez", &[], "").status, 200, "the process works");
                    assert!(down.elapsed() < Duration::from_secs(20), "nobody was refused");
                    std::thread::sleep(Duration::from_millis(100));
                }
                cluster.tell("start");
            }
            load.until(load.created().len() + 50);
            load.over.store(true, Ordering::Relaxed);
        });
        all_there(&server, &load.created());
        assert!(load.refused.load(Ordering::Relaxed) > 0);
        let start = Instant::now();
        while server.ask("GET", "/readyz", &[], "").status != 200 {
            assert!(start.elapsed() < Duration::from_secs(20), "it is ready again");
            std::thread::sleep(Duration::from_millis(50));
        }
        // What ran meanwhile lost nothing either.
        let job = loop {
            let job = server.ask("GET", &format!("/jobs/{running}"), &[], "").json();
            if job["log_complete"] == true {
                break job;
            }
            assert!(start.elapsed() < Duration::from_secs(40), "{job}");
            std::thread::sleep(Duration::from_millis(100));
        };
        assert_eq!(job["state"], "succeeded", "{job}");
        let expected: Vec<String> = (1..=100).map(|number| number.to_string()).collect();
        assert_eq!(crate::restarted::lines(&server, &running), expected);
    })
    .await
    .expect("no panic");
}

/// Kills a server while jobs are created, three times, and looks for those that it had said were created.
fn killed_under_load(store: &str) {
    let world = world();
    let load = Load::default();
    for _ in 0..3 {
        let mut server = Server::start(&world, &["--drain", "0", "--store", store]);
        answers(&server);
        all_there(&server, &load.created());
        load.over.store(false, Ordering::Relaxed);
        let address = server.address;
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| load.create(|body| ask(address, body)));
            }
            load.until(load.created().len() + 60);
            server.kill();
            load.over.store(true, Ordering::Relaxed);
        });
    }
    let server = Server::start(&world, &["--drain", "0", "--store", store]);
    answers(&server);
    all_there(&server, &load.created());
    let counts = server.ask("GET", "/jobs/counts", &[], "").json();
    let suspended = counts["counts"]["suspended"].as_u64();
    // One that was committed and whose answer did not arrive may be there as well: at most one of each who asked.
    let created = load.created().len() as u64;
    assert!(
        suspended.is_some_and(|n| (created..=created + 12).contains(&n)),
        "{counts} and {created}"
    );
}

/// Creates a job at a server that may be killed meanwhile.
fn ask(address: std::net::SocketAddr, body: &str) -> Option<Answer> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    let length = body.len();
    write!(
        stream,
        "POST /jobs HTTP/1.0\r\nhost: localhost\r\n{JSON}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = bytes.split_off(end + 4);
    // An answer that was cut off is none.
    serde_json::from_slice::<serde_json::Value>(&body).ok()?;
    Some(Answer { status, head, body })
}

#[test]
fn a_server_with_sqlite_that_is_killed_under_load_loses_no_job() {
    let dir = tempfile::tempdir().expect("a directory");
    killed_under_load(&format!("sqlite:{}", dir.path().join("jobs.sqlite").display()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_postgresql_that_is_killed_under_load_loses_no_job() {
    let Some(cluster) = shared().await else { return };
    let url = cluster.database().await;
    tokio::task::spawn_blocking(move || killed_under_load(&url))
        .await
        .expect("no panic");
}

/// Starts a server that has a disk of its own, of a few MiB, at `dir`.
fn on_a_small_disk(world: &TestEnvironment, dir: &std::path::Path, args: &[&str]) -> Server {
    let start = Instant::now();
    let served = world.command(&[&["serve", "--listen", "127.0.0.1:0", "--drain", "0"], args].concat());
    #[expect(clippy::disallowed_methods, reason = "the server is waited for by the test")]
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--",
            "/bin/sh",
            "-c",
            "mount -t tmpfs -o size=6m none \"$0\" && exec \"$@\"",
        ])
        .arg(dir)
        .arg(served.get_program())
        .args(served.get_args())
        .env_clear()
        .current_dir(world.path("home"))
        .envs(served.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(std::process::Stdio::null());
    Server::spawn(command, start)
}

#[test]
fn a_full_disk_under_sqlite_is_told_and_forgotten_when_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        _ = std::io::stderr().write_all(b"SKIPPED: only root can mount a small disk\n");
        return;
    }
    let world = world();
    let dir = world.path("disk");
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).expect("set");
    let store = format!("sqlite:{}", dir.join("jobs.sqlite").display());
    let server = on_a_small_disk(&world, &dir, &["--store", &store]);
    answers(&server);
    let before = run(&server, "before", "echo before");
    whole(&server, &before);
    let writing = run(
        &server,
        "writing",
        "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.05; done; echo end",
    );
    in_state(&server, &writing, "running");
    // The disk as the server sees it.
    let filler = std::path::PathBuf::from(format!("/proc/{}/root{}/filler", server.pid(), dir.display()));
    let fill = || {
        let mut file = std::fs::File::create(&filler).expect("a file");
        while file.write_all(&[7; 4096]).is_ok() {}
        while file.write_all(&[7; 64]).is_ok() {}
    };
    fill();
    let spec = json!({"name": "refused", "command": ["true"], "env": {"A": "x".repeat(30_000)}}).to_string();
    let start = Instant::now();
    let mut refused = 0;
    while refused < 5 {
        let answer = server.ask("POST", "/jobs", &[JSON], &spec);
        // A page of the database may be free yet.
        if answer.status != 201 {
            problem(&answer, 507, "store-full");
            let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
            assert!(detail.contains("delete jobs"), "{detail}");
            refused += 1;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "it is never full");
        fill();
    }
    // Everything that only reads works, and nobody is sent elsewhere for good.
    assert_eq!(server.ask("GET", "/livez", &[], "").status, 200);
    assert_eq!(server.ask("GET", &format!("/jobs/{before}"), &[], "").status, 200);
    assert_eq!(crate::restarted::lines(&server, &before), ["before"]);
    std::thread::sleep(Duration::from_secs(2));
    std::fs::remove_file(&filler).expect("removed");
    let start = Instant::now();
    while server.ask("POST", "/jobs", &[JSON], &spec).status != 201 {
        assert!(start.elapsed() < Duration::from_secs(10), "there is room again");
        std::thread::sleep(Duration::from_millis(100));
    }
    // The job that ran meanwhile has all of its lines, and its end.
    let start = Instant::now();
    loop {
        let job = server.ask("GET", &format!("/jobs/{writing}"), &[], "").json();
        if job["log_complete"] == true {
            assert_eq!(job["state"], "succeeded", "{job}");
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{job}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut expected: Vec<String> = (1..=100).map(|number| number.to_string()).collect();
    expected.push("end".to_owned());
    assert_eq!(crate::restarted::lines(&server, &writing), expected);
}
