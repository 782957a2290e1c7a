//! A server under test, and what its clients do: the real program, asked over a socket.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take: the machine may be small, and a cluster is slow.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Where the programs of the jobs are, in a container and on this machine.
const PATH: &str = "/usr/bin:/bin";

/// A server under test.
pub(crate) struct Subject<'a> {
    child: Child,
    address: SocketAddr,
    /// Takes away what the runner still has of a job that ended.
    forget: Box<dyn Fn(&str) + Sync + 'a>,
}

impl Drop for Subject<'_> {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// An answer, read whole.
pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    pub(super) body: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(500)]);
        write!(
            f,
            "{}: {body:?} ({} bytes)\n{}",
            self.status,
            self.body.len(),
            self.head
        )
    }
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(super) fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line.eq_ignore_ascii_case(header))
    }
}

impl<'a> Subject<'a> {
    /// Starts `labctl serve` with its data in `dir`; `forget` takes away what the runner still has of a job that ended.
    #[expect(
        clippy::disallowed_methods,
        reason = "tests run the program as a user would, in an environment of their own"
    )]
    pub(crate) fn start(
        dir: &Path,
        args: &[&str],
        variables: &[(&str, &str)],
        forget: impl Fn(&str) + Sync + 'a,
    ) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_labctl"))
            .args(["serve", "--listen", "127.0.0.1:0", "--drain", "0", "--finish", "5s"])
            .args(args)
            .env_clear()
            .env("LABCTL_DATA_DIR", dir)
            .env("SECRET_OF_THE_SERVER", "told")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("labctl starts");
        let mut log = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let address = loop {
            let line = log
                .next()
                .expect("a line that says where it listens")
                .expect("readable");
            let line: Value = serde_json::from_str(&line).expect("JSON");
            if line["message"] == "listening" {
                break line["address"]
                    .as_str()
                    .expect("an address")
                    .parse()
                    .expect("an address");
            }
        };
        // A pipe that nobody reads is full one day.
        std::thread::spawn(move || log.map_while(Result::ok).for_each(drop));
        let subject = Self {
            child,
            address,
            forget: Box::new(forget),
        };
        let began = Instant::now();
        while subject.get("/readyz").status != 200 {
            assert!(began.elapsed() < PATIENCE, "{:?}", subject.get("/readyz"));
            std::thread::sleep(Duration::from_millis(50));
        }
        subject
    }

    pub(super) fn send(&self, method: &str, path: &str, headers: &[&str], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        // HTTP/1.0 has no parts of bodies that would have to be put together.
        let mut head = format!("{method} {path} HTTP/1.0\r\nhost: localhost\r\n");
        for header in headers {
            _ = write!(head, "{header}\r\n");
        }
        if !body.is_empty() {
            _ = write!(
                head,
                "content-type: application/json\r\ncontent-length: {}\r\n",
                body.len()
            );
        }
        write!(stream, "{head}\r\n{body}").expect("sent");
        stream
    }

    pub(super) fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let mut bytes = Vec::new();
        self.send(method, path, headers, body)
            .read_to_end(&mut bytes)
            .expect("answered");
        let end = bytes
            .windows(4)
            .position(|part| part == b"\r\n\r\n")
            .expect("a whole head");
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        Answer {
            status,
            head,
            body: bytes.split_off(end + 4),
        }
    }

    pub(super) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "")
    }

    pub(super) fn post(&self, path: &str) -> Answer {
        self.ask("POST", path, &[], "")
    }

    /// Creates a job of a document that says what is special about it, and returns its id.
    pub(super) fn create(&self, special: &Value) -> String {
        let answer = self.ask("POST", "/jobs", &[], &document(special));
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["id"].as_str().expect("an id").to_owned()
    }

    pub(super) fn shell(&self, script: &str) -> String {
        self.create(&json!({"command": ["sh", "-c", script]}))
    }

    pub(super) fn job(&self, id: &str) -> Value {
        self.get(&format!("/jobs/{id}")).json()
    }

    pub(super) fn wait(&self, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let job = self.job(id);
            if is(&job) {
                return job;
            }
            assert!(began.elapsed() < PATIENCE, "not {what}: {job}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(super) fn state(&self, id: &str, state: &str) -> Value {
        self.wait(id, state, |job| job["state"] == state)
    }

    /// Waits until a job has ended and its log is stored.
    pub(super) fn end(&self, id: &str) -> Value {
        self.wait(id, "stored whole", |job| job["log_complete"] == true)
    }

    /// Reads what the program printed. What the dashboard itself says within a log is apart: a runner that begins attempts
    /// itself says more about them than one that sees them begin.
    pub(super) fn printed_by(&self, id: &str, query: &str) -> String {
        let answer = self.get(&format!("/jobs/{id}/logs?format=text{query}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = String::from_utf8(answer.body).expect("UTF-8");
        text.split_inclusive('\n')
            .filter(|line| !line.starts_with("[labctl] "))
            .collect()
    }

    pub(super) fn bytes(&self, id: &str) -> Vec<u8> {
        let answer = self.get(&format!("/jobs/{id}/logs"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    pub(super) fn text(&self, id: &str) -> String {
        String::from_utf8(self.bytes(id)).expect("UTF-8")
    }

    pub(super) fn lines(&self, id: &str, query: &str) -> Vec<Value> {
        let answer = self.get(&format!("/jobs/{id}/logs?format=ndjson{query}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect()
    }

    /// Waits until a job has printed this.
    pub(super) fn printed(&self, id: &str, text: &str) {
        let began = Instant::now();
        while !self.text(id).contains(text) {
            assert!(began.elapsed() < PATIENCE, "no `{text}`: {}", self.job(id));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Reads a log without the runner's help: what it has of the job is taken away.
    pub(super) fn outlives(&self, id: &str) {
        self.end(id);
        let before = (self.bytes(id), self.lines(id, ""), self.job(id));
        (self.forget)(id);
        let after = (self.bytes(id), self.lines(id, ""), self.job(id));
        assert_eq!(String::from_utf8_lossy(&before.0), String::from_utf8_lossy(&after.0));
        assert_eq!((before.1, before.2), (after.1, after.2));
    }
}

/// Makes a whole document. A node of a cluster has room for all cases at once with these limits.
pub(super) fn document(special: &Value) -> String {
    let mut whole = json!({
        "name": "conformance", "env": {"PATH": PATH},
        "limits": {"memory_mib": 64, "cpu_milli": 300, "seconds": 300},
    });
    for (name, value) in special.as_object().expect("an object") {
        match (value, &mut whole[name]) {
            (Value::Object(more), Value::Object(known)) => known.extend(more.clone()),
            (value, place) => *place = value.clone(),
        }
    }
    whole.to_string()
}
