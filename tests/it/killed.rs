//! A server that is killed, and the one that comes after it.

use std::time::{Duration, Instant};

use crate::dashboard::{LIMIT, shell};

/// The real program, serving.
struct Served {
    child: std::process::Child,
    address: String,
}

impl Served {
    fn start(world: &crate::harness::TestEnvironment) -> Self {
        use std::io::BufRead as _;
        let mut child = world
            .command(&["serve", "--listen", "127.0.0.1:0", "--slots", "4"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("labctl starts");
        let mut log = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
        let address = loop {
            let mut line = String::new();
            log.read_line(&mut line).expect("a line");
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            if let Some(address) = line["address"].as_str() {
                break format!("http://{address}");
            }
        };
        // Whoever writes to a full pipe waits.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, address }
    }

    async fn get(&self, path: &str) -> String {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let until = Instant::now() + LIMIT;
        loop {
            // A server that has just begun answers with 503 until its store is open.
            let answer = client
                .get(format!("{}{path}", self.address))
                .send()
                .await
                .expect("an answer");
            if answer.status() == 200 {
                return answer.text().await.expect("a body");
            }
            assert!(Instant::now() < until, "{path}: {}", answer.status());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn job(&self, id: &str) -> serde_json::Value {
        serde_json::from_str(&self.get(&format!("/jobs/{id}")).await).expect("JSON")
    }

    async fn lines(&self, id: &str) -> Vec<(u64, String)> {
        let text = self.get(&format!("/jobs/{id}/logs?format=ndjson")).await;
        let line = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let text = line["text"]
                .as_str()
                .or(line["line"].as_str())
                .unwrap_or_default()
                .to_owned();
            (line["number"].as_u64().unwrap_or_default(), text)
        };
        text.lines().map(line).collect()
    }

    async fn create(&self, script: &str) -> String {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        self.get("/jobs").await;
        let spec = serde_json::to_value(shell(script)).expect("JSON");
        let answer = client
            .post(format!("{}/jobs", self.address))
            .json(&spec)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 201);
        let job: serde_json::Value = answer.json().await.expect("JSON");
        job["id"].as_str().expect("an id").to_owned()
    }

    async fn until(&self, id: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let until = Instant::now() + LIMIT;
        loop {
            let job = self.job(id).await;
            if wanted(&job) {
                return job;
            }
            assert!(Instant::now() < until, "{job}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // SIGKILL: nothing of it can say goodbye.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Returns whether a process has a text in its command line or its environment.
fn runs(mark: &str) -> bool {
    std::fs::read_dir("/proc").expect("/proc").flatten().any(|entry| {
        ["cmdline", "environ"].iter().any(|name| {
            let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(mark)
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_leaves_no_process_and_loses_no_line() {
    labctl::world::install_crypto();
    let mut world = crate::harness::TestEnvironment::new();
    world.set("PATH", "/usr/local/bin:/usr/bin:/bin");
    let server = Served::start(&world);
    let script =
        "trap 'echo bye; exit 0' TERM; setsid sleep 600 & i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";
    let running = server.create(script).await;
    let deaf = server
        .create("trap '' TERM; echo deaf; while :; do sleep 0.1; done")
        .await;
    let held = server.create("echo begin; sleep 600").await;
    for id in [&running, &deaf, &held] {
        server.until(id, |job| job["state"] == "running").await;
    }
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let asked = client
        .post(format!("{}/jobs/{held}/suspend", server.address))
        .send()
        .await
        .expect("an answer");
    assert!(asked.status().is_success(), "{}", asked.status());
    server.until(&held, |job| job["state"] == "suspended").await;
    // Some of the lines are in the store by now, and some are not.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let seen = server.lines(&running).await;
    assert!(seen.len() > 20, "{seen:?}");
    drop(server);

    let killed = Instant::now();
    let server = Served::start(&world);
    let job = server.until(&running, |job| job["log_complete"] == true).await;
    assert!(
        killed.elapsed() < Duration::from_secs(4),
        "it took {:?} to know",
        killed.elapsed()
    );
    assert_eq!(
        (job["state"].as_str(), job["reason"].as_str()),
        (Some("failed"), Some("ServerLost")),
        "{job}"
    );
    let lines = server.lines(&running).await;
    assert_eq!(lines[..seen.len()], seen, "lines keep their numbers");
    let numbers: Vec<u64> = lines.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=lines.len() as u64).collect::<Vec<_>>());
    let counted: Vec<u64> = lines.iter().map_while(|(_, text)| text.parse().ok()).collect();
    assert_eq!(
        counted,
        (1..=counted.len() as u64).collect::<Vec<_>>(),
        "no line is lost or repeated"
    );
    assert!(
        counted.len() >= seen.len() && lines.iter().any(|(_, text)| text == "bye"),
        "{:?}",
        lines.last()
    );
    // One that does not want to end is ended, and the new server waits for that.
    let job = server.until(&deaf, |job| job["log_complete"] == true).await;
    assert_eq!(job["reason"], "ServerLost");
    assert_eq!(server.lines(&deaf).await[0], (1, "deaf".to_owned()));
    for id in [&running, &deaf] {
        assert!(!runs(id), "nothing of {id} runs");
    }
    // One that was held back is still, and can be resumed.
    assert_eq!(server.job(&held).await["state"], "suspended");
    let asked = client
        .post(format!("{}/jobs/{held}/resume", server.address))
        .send()
        .await
        .expect("an answer");
    assert!(asked.status().is_success(), "{}", asked.status());
    let job = server.until(&held, |job| job["state"] == "running").await;
    assert_eq!(job["attempts"], 2);
    let until = Instant::now() + LIMIT;
    while server.lines(&held).await != [(1, "begin".to_owned()), (2, "begin".to_owned())] {
        assert!(Instant::now() < until, "{:?}", server.lines(&held).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let next = server.create("echo works").await;
    server.until(&next, |job| job["state"] == "succeeded").await;
    drop(server);
    let until = Instant::now() + LIMIT;
    while runs(&held) {
        assert!(Instant::now() < until, "{held} still runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
