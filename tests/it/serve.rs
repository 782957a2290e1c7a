//! `labctl serve` as its users see it: the real program, a real port, real signals.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::TestEnvironment;

const LIMIT: Duration = Duration::from_secs(10);

/// A server that is running; killed where a test gives up on it.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Receiver<Value>,
    /// From the start of the process to the first whole answer with 200.
    first_answer: Duration,
}

/// What a server answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
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
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .next()
    }
}

/// As [`Server::ask`], where the server itself cannot be reached: from several threads.
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let mut stream = send(address, method, path, headers, body);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("answered");
    let end = bytes
        .windows(4)
        .position(|part| part == b"\r\n\r\n")
        .unwrap_or_else(|| {
            panic!(
                "no whole head of {method} {path}: {:?}",
                String::from_utf8_lossy(&bytes)
            )
        });
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    Answer {
        status,
        head,
        body: bytes.split_off(end + 4),
    }
}

fn send(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(2 * LIMIT)).expect("set");
    let mut head = format!("{method} {path} HTTP/1.0\r\n");
    if !headers.iter().any(|header| header.starts_with("host:")) {
        head.push_str("host: localhost\r\n");
    }
    for header in headers {
        _ = write!(head, "{header}\r\n");
    }
    if !body.is_empty() {
        _ = write!(head, "content-length: {}\r\n", body.len());
    }
    // The server may have said no before it has read all of it.
    _ = write!(stream, "{head}\r\n{body}");
    stream
}

impl Server {
    pub(crate) fn start(world: &TestEnvironment, args: &[&str]) -> Self {
        let start = Instant::now();
        let mut all = vec!["serve"];
        if !args.iter().any(|arg| arg.starts_with("--listen")) {
            all.extend(["--listen", "127.0.0.1:0"]);
        }
        all.extend(args);
        Self::spawn(world.command(&all), start)
    }

    /// As [`Server::start`], and waits until it can do all that it is for.
    pub(crate) fn start_whole(world: &TestEnvironment, args: &[&str]) -> Self {
        let server = Self::start(world, args);
        server.ready();
        server
    }

    /// Waits for the server that a command becomes.
    pub(crate) fn spawn(mut command: Command, start: Instant) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("labctl starts");
        let (sender, log) = channel();
        let stdout = child.stdout.take().expect("a pipe");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value: Value =
                    serde_json::from_str(&line).unwrap_or_else(|error| panic!("`{line}` is not JSON: {error}"));
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        let listening = loop {
            let line: Value = log.recv_timeout(LIMIT).expect("a line that says where it listens");
            if line["message"] == "listening" {
                break line;
            }
        };
        let address = listening["address"]
            .as_str()
            .expect("an address")
            .parse()
            .expect("an address");
        let mut server = Self {
            child,
            address,
            log,
            first_answer: Duration::ZERO,
        };
        assert_eq!(server.get("/healthz").0, 200);
        server.first_answer = start.elapsed();
        server
    }

    /// Waits until the server says that it can do all that it is for.
    fn ready(&self) {
        let start = Instant::now();
        while self.get("/readyz").0 != 200 {
            assert!(start.elapsed() < LIMIT, "{:?}", self.get("/readyz"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn get(&self, path: &str) -> (u16, String) {
        let answer = self.ask("GET", path, &["x-request-id: test-1"], "");
        (answer.status, answer.text())
    }

    /// Sends a request and reads all of the answer. HTTP/1.0 has no parts of bodies that would have to be put together.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        ask(self.address, method, path, headers, body)
    }

    /// Sends a request.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[&str], body: &str) -> TcpStream {
        send(self.address, method, path, headers, body)
    }

    /// Ends the server as nothing can be done against.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalled");
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waited") {
                return status;
            }
            assert!(start.elapsed() < LIMIT, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns the lines of the log up to and with the one with this message.
    pub(crate) fn log_until(&self, message: &str) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let line = self
                .log
                .recv_timeout(LIMIT)
                .unwrap_or_else(|_| panic!("no `{message}` after {lines:?}"));
            let found = line["message"] == message;
            lines.push(line);
            if found {
                return lines;
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A world as poor as the dashboard's own image: no home, no CA bundle, nothing on PATH. It has a place for jobs.
pub(crate) fn bare() -> TestEnvironment {
    let mut world = TestEnvironment::new();
    let nothing = world.write("empty.pem", "").display().to_string();
    let empty = world.path("empty").display().to_string();
    let data = world.path("data").display().to_string();
    world
        .set("HOME", "")
        .set("LABCTL_DATA_DIR", data)
        .set("SSL_CERT_FILE", nothing)
        .set("SSL_CERT_DIR", empty);
    world
}

#[test]
fn it_answers_within_200_ms_of_its_start() {
    let world = bare();
    let times: Vec<_> = (0..5)
        .map(|_| Server::start(&world, &["--drain", "0"]).first_answer)
        .collect();
    let best = times.iter().min().expect("five");
    // The best of five: what the program needs, not what else this machine does.
    assert!(*best < Duration::from_millis(200), "{times:?}");
}

#[test]
fn each_request_is_one_line_of_json() {
    let world = bare();
    let server = Server::start(&world, &[]);
    server.get("/nowhere?secret=1");
    let lines = server.log_until("request");
    assert_eq!(lines.last().expect("a line")["path"], "/healthz");
    let lines = server.log_until("request");
    let line = lines.last().expect("a line");
    assert_eq!(line["level"], "INFO");
    assert_eq!(
        (line["method"].as_str(), line["status"].as_u64()),
        (Some("GET"), Some(404))
    );
    assert_eq!(line["path"], "/nowhere", "the query stays out of the log");
    assert_eq!(line["request_id"], "test-1");
    assert!(
        line["duration_ms"].is_number() && line["timestamp"].is_string(),
        "{line}"
    );
}

#[test]
fn sigterm_makes_it_unready_then_ends_it_with_0() {
    let world = bare();
    let mut server = Server::start(&world, &["--drain", "700ms"]);
    server.ready();
    let asked = Instant::now();
    server.signal(Signal::TERM);
    server.log_until("stopping; a second signal ends it at once");
    let (status, body) = server.get("/readyz");
    assert_eq!(status, 503, "{body}");
    assert_eq!(server.get("/healthz").0, 200);
    assert_eq!(server.ended().code(), Some(0));
    assert!(asked.elapsed() >= Duration::from_millis(700), "{:?}", asked.elapsed());
    server.log_until("stopped");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let world = bare();
    let mut server = Server::start(&world, &["--drain", "60s"]);
    server.signal(Signal::TERM);
    server.log_until("stopping; a second signal ends it at once");
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(130));
}

#[test]
fn ctrl_c_does_not_wait_for_the_drain() {
    let world = bare();
    let mut server = Server::start(&world, &["--drain", "60s"]);
    server.signal(Signal::INT);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn a_taken_port_is_an_error_that_names_the_holder() {
    let world = bare();
    let server = Server::start(&world, &[]);
    let output = bare().run(&["serve", "--listen", &server.address.to_string()]);
    assert_eq!(output.exit, Some(3), "{output}");
    let pid = format!("(pid {})", server.child.id());
    assert!(output.stderr.contains("error[LAB-ENV-010]: port "), "{output}");
    assert!(
        output.stderr.contains(&pid) && output.stderr.contains("labctl serve"),
        "{output}"
    );
    assert_eq!(output.stdout, "");
}

#[test]
fn wrong_flags_are_refused_before_anything_listens() {
    for args in [
        ["serve", "--listen", "8080"],
        ["serve", "--listen", "localhost"],
        ["serve", "--drain=-5s", ""],
        ["serve", "--drain", "soon"],
        ["serve", "--log-level", "loud"],
        ["serve", "--log-format", "xml"],
    ] {
        let words: Vec<_> = args.into_iter().filter(|word| !word.is_empty()).collect();
        let output = bare().run(&words);
        assert_eq!(output.exit, Some(2), "{args:?}: {output}");
        assert!(output.stderr.contains(&args[1][..7]), "{output}");
    }
}

#[test]
fn an_address_that_others_reach_wants_tokens_or_has_no_jobs() {
    let world = bare();
    let output = world.run(&["serve", "--listen", "0.0.0.0:0", "--runner", "process"]);
    assert_eq!((output.exit, output.stdout.as_str()), (Some(2), ""), "{output}");
    assert!(output.stderr.contains("error[LAB-USE-003]"), "{output}");
    assert!(output.stderr.contains("--token-file"), "{output}");
    let readable = world.write("tokens", "ana:0123456789abcdef\n").display().to_string();
    let output = world.run(&["serve", "--listen", "0.0.0.0:0", "--token-file", &readable]);
    assert_eq!(output.exit, Some(2), "{output}");
    assert!(output.stderr.contains("hint: chmod 600"), "{output}");

    // As the chart runs it.
    let server = Server::start(&world, &["--listen=0.0.0.0:0", "--drain", "0"]);
    assert_eq!(server.get("/readyz").0, 200);
    assert_eq!(server.ask("GET", "/version", &["host: any.example"], "").status, 200);
    let answer = server.ask("POST", "/jobs", &["content-type: application/json"], "{}");
    assert_eq!(
        (answer.status, &answer.json()["code"]),
        (404, &"not-found".into()),
        "{answer:?}"
    );
    assert!(!world.path("data").exists(), "it needs no place for jobs");
}

#[test]
fn without_a_place_for_jobs_it_says_how_to_name_one() {
    let mut world = bare();
    world.set("LABCTL_DATA_DIR", "");
    let output = world.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(output.exit, Some(2), "{output}");
    assert!(output.stderr.contains("--data-dir DIR"), "{output}");
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let world = bare();
    let path = world.write("notes.txt", "not a database, but a text of some length\n".repeat(100));
    let url = format!("sqlite:{}", path.display());
    let output = world.run(&["serve", "--listen", "127.0.0.1:0", "--store", &url]);
    assert_eq!(output.exit, Some(2), "{output}");
    assert!(
        output.stderr.contains("LAB-USE-003") && output.stderr.contains("notes.txt"),
        "{output}"
    );
    assert!(
        std::fs::read_to_string(path)
            .expect("there")
            .starts_with("not a database")
    );
    for bad in ["sqlite:", "mysql://u:secret@h/d", "/tmp/x.db"] {
        let output = world.run(&["serve", "--store", bad]);
        assert_eq!(output.exit, Some(2), "{bad}: {output}");
        assert!(output.stderr.contains("sqlite:PATH"), "{output}");
        let mut world = bare();
        world.set("LABCTL_STORE", bad);
        let output = world.run(&["serve"]);
        assert_eq!(output.exit, Some(2), "{bad}: {output}");
        assert!(
            output.stderr.contains("LABCTL_STORE") && !output.stderr.contains("secret"),
            "{output}"
        );
    }
}

#[test]
fn the_probe_says_what_it_was_answered() {
    let world = bare();
    let server = Server::start(&world, &[]);
    server.ready();
    let base = format!("http://{}", server.address);
    let run = |url: &str, expect: &str| bare().run(&["probe", "http", url, "--expect", expect]);
    let output = run(&format!("{base}/readyz"), "200");
    assert_eq!(output.exit, Some(0), "{output}");
    assert!(output.stdout.contains(": 200 in "), "{output}");
    assert_eq!(run(&format!("{base}/nowhere"), "404").exit, Some(0));
    let output = run(&format!("{base}/nowhere"), "200");
    assert_eq!(output.exit, Some(1), "{output}");
    assert!(output.stdout.contains("404"), "{output}");
    drop(server);
    let output = run(&format!("{base}/readyz"), "200");
    assert_eq!(output.exit, Some(3), "{output}");
    assert!(output.stderr.contains("LAB-ENV-026"), "{output}");
    assert_eq!(run("https://127.0.0.1/", "200").exit, Some(2));
}

#[test]
fn the_probe_waits_for_a_server_that_is_late() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    let url = format!("http://{port}/");
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(400));
        let listener = std::net::TcpListener::bind(port).expect("the port");
        let (mut stream, _) = listener.accept().expect("asked");
        let mut head = [0; 512];
        _ = stream.read(&mut head).expect("a head");
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("answered");
    });
    let output = bare().run(&["probe", "http", &url, "--expect", "204", "--within", "10s"]);
    assert_eq!(output.exit, Some(0), "{output}");
    late.join().expect("it was asked");
}

#[test]
fn completions_go_to_standard_output() {
    let world = bare();
    let output = world.run(&["completions", "bash"]);
    assert_eq!((output.exit, output.stderr.as_str()), (Some(0), ""));
    assert!(output.stdout.contains("complete -F _labctl"), "{output}");
    assert_eq!(world.run(&["completions", "tcsh"]).exit, Some(2));
}
