//! A server that is stopped, and the one that takes up its jobs.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::TestEnvironment;
use crate::jobs::{in_state, run, wait, whole};
use crate::serve::Server;

fn world() -> TestEnvironment {
    let mut world = TestEnvironment::new();
    world.set("PATH", "/usr/local/bin:/usr/bin:/bin");
    world
}

fn start(world: &TestEnvironment, more: &[&str]) -> Server {
    let server = Server::start(world, &[&["--drain", "0", "--slots", "4"], more].concat());
    answers(&server);
    server
}

/// Waits until the store is open.
pub(crate) fn answers(server: &Server) {
    let start = std::time::Instant::now();
    while server.ask("GET", "/jobs", &[], "").status != 200 {
        assert!(start.elapsed() < Duration::from_secs(30), "the store does not open");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns a job's stored lines.
pub(crate) fn lines(server: &Server, id: &str) -> Vec<String> {
    let log = server.ask("GET", &format!("/jobs/{id}/logs?format=text"), &[], "");
    log.text().lines().map(str::to_owned).collect()
}

#[test]
fn jobs_go_on_while_the_server_is_restarted() {
    let world = world();
    let mut server = start(&world, &[]);
    let done = world.path("done");
    let counting = run(
        &server,
        "counting",
        &format!(
            "i=0; while [ ! -e {} ]; do i=$((i+1)); echo $i; sleep 0.02; done; echo end",
            done.display()
        ),
    );
    let short = run(&server, "test", "sleep 1.2; echo short; exit 7");
    let again = run(
        &server,
        "test",
        "echo attempt; trap 'exit 0' TERM; while :; do sleep 0.1; done",
    );
    for id in [&counting, &short, &again] {
        in_state(&server, id, "running");
    }
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
    // One of them ends while nobody is there.
    std::thread::sleep(Duration::from_millis(1500));

    let mut server = start(&world, &[]);
    let ended = whole(&server, &short);
    assert_eq!(
        (&ended["state"], &ended["exit_code"]),
        (&"failed".into(), &7.into()),
        "{ended}"
    );
    assert_eq!(lines(&server, &short), ["short"]);
    let now = wait(&server, &counting, "there", |job| job["state"] == "running");
    assert_eq!(
        (&now["state"], &now["attempts"]),
        (&"running".into(), &1.into()),
        "{now}"
    );
    // The next one can do with it whatever the first one could.
    let cancelled = server.ask("POST", &format!("/jobs/{again}/cancel"), &[], "");
    assert!((200..300).contains(&cancelled.status), "{}", cancelled.text());
    let cancelled = whole(&server, &again);
    assert_eq!(cancelled["state"], "cancelled");
    // And again.
    server.signal(Signal::INT);
    assert_eq!(server.ended().code(), Some(0));
    let mut server = start(&world, &[]);
    labctl::drive::files::write(&done, "").expect("written");
    let ended = whole(&server, &counting);
    assert_eq!(
        (&ended["state"], &ended["attempts"]),
        (&"succeeded".into(), &1.into()),
        "{ended}"
    );
    let mut all = lines(&server, &counting);
    assert_eq!(all.pop().as_deref(), Some("end"));
    let expected: Vec<String> = (1..=all.len()).map(|number| number.to_string()).collect();
    assert!(
        all == expected && all.len() > 50,
        "no line is lost or repeated: {} lines",
        all.len()
    );

    // One that was taken up ends with its server, as every other one does, where that is killed.
    let last = run(&server, "test", "while :; do sleep 0.1; done");
    in_state(&server, &last, "running");
    server.signal(Signal::TERM);
    server.ended();
    let mut server = start(&world, &[]);
    in_state(&server, &last, "running");
    std::thread::sleep(Duration::from_millis(300));
    server.kill();
    let server = start(&world, &[]);
    let ended = whole(&server, &last);
    assert_eq!(
        (&ended["state"], &ended["reason"]),
        (&"failed".into(), &"ServerLost".into()),
        "{ended}"
    );
}

#[test]
fn jobs_end_with_the_server_where_that_is_wanted() {
    let world = world();
    let mut server = start(&world, &["--stop-jobs"]);
    let id = run(
        &server,
        "test",
        "trap 'echo bye; exit 0' TERM; echo go; while :; do sleep 0.1; done",
    );
    in_state(&server, &id, "running");
    while lines(&server, &id).is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
    let server = start(&world, &[]);
    let ended = wait(&server, &id, "there", |job| job["id"].is_string());
    assert_eq!(
        (&ended["state"], &ended["reason"]),
        (&"failed".into(), &"ServerStopped".into()),
        "{ended}"
    );
    assert!(
        ended["message"]
            .as_str()
            .is_some_and(|text| text.contains("--stop-jobs")),
        "{ended}"
    );
    let said = lines(&server, &id);
    // The shell may say of its `sleep` that it was terminated.
    let said: Vec<&str> = said
        .iter()
        .map(String::as_str)
        .filter(|line| *line != "Terminated")
        .collect();
    assert!(said.starts_with(&["go", "bye"]), "{said:?}");
}

#[test]
fn a_job_has_no_file_of_the_server() {
    let world = world();
    let server = start(&world, &[]);
    let streaming = server.send("GET", "/events", &["accept: text/event-stream"], "");
    let busy = run(&server, "test", "while :; do echo x; sleep 0.05; done");
    in_state(&server, &busy, "running");
    let id = run(
        &server,
        "test",
        "for fd in /proc/self/fd/*; do echo \"${fd##*/} $(readlink $fd)\"; done",
    );
    whole(&server, &id);
    drop(streaming);
    let files = lines(&server, &id);
    // What whoever started this test left open for its children is not the server's.
    let inherited: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .expect("/proc")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.display().to_string())
        .collect();
    let beyond: Vec<&String> = files
        .iter()
        .filter(|line| !["0 ", "1 ", "2 "].iter().any(|own| line.starts_with(own)))
        // The shell keeps its input at another number, and the one that it read the directory by is gone.
        .filter(|line| {
            let target = line.split_once(' ').map_or("", |(_, target)| target);
            !target.is_empty() && target != "/dev/null" && !inherited.iter().any(|known| known == target)
        })
        .collect();
    assert_eq!(beyond, [] as [&String; 0], "{files:?}");
    assert!(files.len() >= 3 && files[0] == "0 /dev/null", "{files:?}");
}

/// A shell may leave files open in what it starts, and a server's own are nobody's business.
#[cfg(target_os = "linux")]
#[test]
fn a_job_has_no_descriptor_but_its_own_three() {
    let world = world();
    let secret = world.path("secret");
    std::fs::File::create(&secret).expect("made");
    let server = world.command(&["serve", "--listen", "127.0.0.1:0"]);
    #[expect(clippy::disallowed_methods, reason = "the server is waited for by the test")]
    let mut shell = std::process::Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(format!("exec 7<'{}' 8</dev/zero; exec \"$0\" \"$@\"", secret.display()))
        .arg(server.get_program())
        .args(server.get_args())
        .env_clear()
        .envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(std::process::Stdio::null());
    let server = Server::spawn(shell, std::time::Instant::now());
    answers(&server);
    let open = format!("/proc/{}/fd/7", server.pid());
    assert_eq!(std::fs::read_link(open).expect("the server has it"), secret);
    let id = run(&server, "fds", "ls /proc/self/fd");
    whole(&server, &id);
    // The last one is that of the directory which `ls` reads.
    assert_eq!(lines(&server, &id), ["0", "1", "2", "3"]);
}
