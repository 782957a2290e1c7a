//! `labctl healthcheck`, as an image without curl asks a server.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use rustix::process::Signal;

use crate::harness::{Output, TestEnvironment};
use crate::serve::{Server, bare};

/// Asks the server at an address from a world that has nothing, not even a home, and a proxy that nobody is at.
fn check(address: SocketAddr, more: &[&str]) -> Output {
    let mut world = bare();
    world.set("LABCTL_DATA_DIR", "").set("NO_PROXY", "");
    let url = format!("http://{address}");
    let mut output = world.run(&[&["healthcheck", "--url", &url], more].concat());
    let port = format!(":{}", address.port());
    for text in [&mut output.stdout, &mut output.stderr] {
        *text = text.replace(&port, ":PORT");
    }
    output
}

/// Answers the first connection with some bytes, and keeps it open where it is to be.
fn answering(bytes: &'static [u8], open: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("asked");
        let mut request = [0; 4096];
        _ = stream.read(&mut request);
        _ = stream.write_all(bytes);
        while open && stream.read(&mut request).is_ok_and(|read| read > 0) {}
    });
    address
}

#[test]
fn a_server_that_is_ready_is_healthy() {
    let world = bare();
    let server = Server::start_whole(&world, &[]);
    for more in [&[][..], &["--live"], &["--timeout", "10s", "--quiet"]] {
        let output = check(server.address, more);
        assert_eq!((output.exit, output.stderr.as_str()), (Some(0), ""), "{output}");
        let path = if more == ["--live"] { "/livez" } else { "/readyz" };
        let begin = format!("http://127.0.0.1:PORT{path}: ok in ");
        assert!(
            output.stdout.starts_with(&begin) && output.stdout.lines().count() == 1,
            "{output}"
        );
    }
    let said = &check(server.address, &["--json"]).json()[0];
    assert_eq!(
        (&said["v"], &said["healthy"], &said["status"]),
        (&1.into(), &true.into(), &200.into())
    );
    assert!(
        said["checks"].as_array().is_some_and(|checks| !checks.is_empty()),
        "{said}"
    );
    // A server behind another path.
    let url = format!("http://{}/below/", server.address);
    let output = world.run(&["healthcheck", "--url", &url]);
    assert_eq!(output.exit, Some(3), "{output}");
    assert!(output.stderr.contains("/below/readyz is no job-dashboard"), "{output}");
}

#[test]
fn it_costs_next_to_nothing() {
    let world = bare();
    let server = Server::start_whole(&world, &[]);
    let times = (0..5).map(|_| {
        let start = Instant::now();
        assert_eq!(check(server.address, &[]).exit, Some(0));
        start.elapsed()
    });
    let best = times.min().expect("five");
    // The best of five: what the program needs, not what else this machine does.
    assert!(best < Duration::from_millis(50), "{best:?}");
}

#[test]
fn a_server_that_stops_is_not_ready_and_alive() {
    let world = bare();
    let server = Server::start_whole(&world, &["--drain", "60s"]);
    server.signal(Signal::TERM);
    server.log_until("stopping; a second signal ends it at once");
    assert_snapshot!(check(server.address, &[]), @r"
    exit 1
    ----- stdout
    http://127.0.0.1:PORT/readyz: not ready (503)
      server: the server is stopping
    ");
    assert_eq!(check(server.address, &["--live"]).exit, Some(0));
    let output = check(server.address, &["--json"]);
    let said = &output.json()[0];
    assert_eq!((output.exit, &said["healthy"]), (Some(1), &false.into()), "{output}");
    assert!(said.to_string().contains("the server is stopping"), "{said}");
}

#[test]
fn a_server_without_its_database_is_not_ready_and_says_which_part() {
    let world = bare();
    let server = Server::start(&world, &["--store", "postgres://nobody@127.0.0.1:9/none"]);
    let output = check(server.address, &[]);
    assert_eq!((output.exit, output.stderr.as_str()), (Some(1), ""), "{output}");
    assert!(output.stdout.contains("\n  store: "), "{output}");
    assert!(!output.stdout.contains("server:"), "only what is wrong: {output}");
    assert_eq!(check(server.address, &["--live"]).exit, Some(0));
}

#[test]
fn where_nobody_listens_it_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let output = check(address, &[]);
    assert_eq!((output.exit, output.stdout.as_str()), (Some(3), ""), "{output}");
    let begin = "error[LAB-ENV-026]: http://127.0.0.1:PORT/readyz does not answer\n  caused by: connect to 127.0.0.1\n";
    assert!(output.stderr.starts_with(begin), "{output}");
    assert!(output.stderr.contains("hint: labctl serve"), "{output}");
}

#[test]
fn what_is_no_server_of_ours_is_told() {
    for (bytes, code, word) in [
        (&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], "LAB-ENV-026", "talk HTTP"),
        (b"", "LAB-ENV-026", "talk HTTP"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"status\": \"rea",
            "LAB-ENV-026",
            "talk HTTP",
        ),
        (
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "LAB-ENV-031",
            "404 Not Found",
        ),
        // It is not followed.
        (
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n",
            "LAB-ENV-031",
            "302 Found",
        ),
    ] {
        let output = check(answering(bytes, false), &[]);
        assert_eq!((output.exit, output.stdout.as_str()), (Some(3), ""), "{output}");
        assert!(output.stderr.contains(code) && output.stderr.contains(word), "{output}");
    }
    // Something before the server says no.
    let output = check(
        answering(b"HTTP/1.1 503 x\r\ncontent-length: 3\r\n\r\nno\x1b", false),
        &[],
    );
    assert_eq!(
        (output.exit, output.stdout.as_str()),
        (Some(1), "http://127.0.0.1:PORT/readyz: not ready (503)\n"),
        "{output}"
    );
    let hostile = b"HTTP/1.1 503 x\r\nconnection: close\r\n\r\n\
        {\"checks\": [{\"name\": \"a\", \"ok\": false, \"detail\": \"\\u001b[2Jb\\nc\"}]}";
    let output = check(answering(hostile, false), &[]);
    assert_eq!(output.exit, Some(1), "{output}");
    assert!(output.stdout.ends_with("\n  a:  [2Jb c\n"), "{output}");
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    for bytes in [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"] {
        let start = Instant::now();
        let output = check(answering(bytes, true), &["--timeout", "300ms"]);
        let took = start.elapsed();
        assert_eq!((output.exit, output.stdout.as_str()), (Some(3), ""), "{output}");
        assert!(output.stderr.contains("caused by: no answer after "), "{output}");
        assert!((300..1500).contains(&took.as_millis()), "{took:?}");
    }
}

#[test]
fn what_cannot_be_asked_is_a_usage_error() {
    let world = TestEnvironment::new();
    for (args, word) in [
        (["--url", "https://127.0.0.1"], "it must begin with http:// and a host"),
        (
            ["--url", "http://u:p@127.0.0.1"],
            "it must not have a user or password in it",
        ),
        (["--url", "http://127.0.0.1:99999"], "its port must be a number"),
        (["--timeout", "0"], "it must be longer than 0"),
        (["--timeout", "soon"], "it must be a time such as"),
    ] {
        let output = world.run(&[&["healthcheck"][..], &args].concat());
        assert_eq!((output.exit, output.stdout.as_str()), (Some(2), ""), "{output}");
        assert!(output.stderr.contains(word), "{output}");
    }
}
