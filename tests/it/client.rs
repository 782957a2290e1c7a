//! `labctl jobs` as its users see it, against a real server.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use insta::{Settings, assert_snapshot};

use crate::harness::{Output, TestEnvironment};
use crate::serve::{Server, bare};

/// A server, and a world in which clients run. They have different homes, as on two machines.
fn pair() -> (TestEnvironment, Server, TestEnvironment) {
    let own = bare();
    let server = Server::start(&own, &["--drain", "0"]);
    let mut world = TestEnvironment::new();
    world.set("LABCTL_DASHBOARD_URL", format!("http://{}", server.address));
    (own, server, world)
}

fn id(output: &Output) -> String {
    output.stdout.trim().to_owned()
}

/// Hides what differs from run to run.
fn stable(test: impl FnOnce()) {
    let mut settings = Settings::clone_current();
    settings.add_filter(r"\b0[0-9a-hjkmnp-tv-z]{12}\b", "[id]");
    settings.add_filter(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "[time]");
    settings.add_filter(r"127\.0\.0\.1:\d+", "[address]");
    settings.add_filter(r"\$TIME|\b\d+\.\ds", "[span]");
    settings.add_filter(r"(owner +)\S+", "$1[owner]");
    settings.bind(test);
}

#[test]
fn help_says_how_to_begin() {
    let output = TestEnvironment::new().run(&["jobs", "--help"]);
    assert_eq!(output.exit, Some(0));
    for word in [
        "run",
        "list",
        "get",
        "logs",
        "cancel",
        "rerun",
        "delete",
        "templates",
        "schedules",
        "labctl serve",
        "--url",
    ] {
        assert!(output.stdout.contains(word), "{word}: {output}");
    }
}

#[test]
fn the_exit_code_is_the_jobs() {
    let (_own, _server, world) = pair();
    stable(|| {
        assert_snapshot!(world.run(&["jobs", "run", "--follow", "--", "/bin/sh", "-c", "echo hello"]), @r"
        exit 0
        ----- stdout
        hello
        ----- stderr
        [id] is pending
        [id] succeeded after [span]
        ");
        assert_snapshot!(world.run(&["jobs", "run", "--wait", "--", "/bin/sh", "-c", "exit 7"]), @r"
        exit 1
        ----- stdout
        [id]
        ----- stderr
        [id] failed after [span]: ExitCode: the program ended with exit code 7
        ");
    });
}

#[test]
fn a_job_is_listed_shown_and_deleted() {
    let (_own, _server, world) = pair();
    stable(|| {
        assert_snapshot!(world.run(&["jobs", "list"]), @r"
        exit 0
        ----- stderr
        no jobs; labctl jobs run -- echo hello runs one
        ");
    });
    let args = [
        "jobs",
        "run",
        "--wait",
        "--name",
        "greet",
        "--label",
        "team=a",
        "--",
        "/bin/echo",
        "it's me",
    ];
    let job = id(&world.run(&args));
    stable(|| {
        assert_snapshot!(world.run(&["jobs", "list", "--state", "succeeded", "--label", "team=a"]), @r"
        exit 0
        ----- stdout
        ID             NAME   STATE      AGE   TOOK  WHY
        [id]  greet  succeeded  [span]  [span]
        ");
        assert_snapshot!(world.run(&["jobs", "get", &job]), @r"
        exit 0
        ----- stdout
        id         [id]
        name       greet
        owner      [owner]
        state      succeeded
        exit code  0
        attempts   1 of 1
        created    [time]
        started    [time]
        finished   [time]
        took       [span]
        command    /bin/echo 'it'\''s me'
        label      team=a
        limits     1h00m of time, 512 MiB of memory, 1 of a core, 64 MiB of output
        ");
    });
    let output = world.run(&["jobs", "logs", &job]);
    assert_eq!(
        (output.exit, output.stdout.as_str()),
        (Some(0), "it's me\n"),
        "{output}"
    );
    let lines = world.run(&["jobs", "logs", "--json", &job]).json();
    assert_eq!(lines[0]["text"], "it's me");
    let listed = world.run(&["jobs", "list", "--json"]).json();
    assert_eq!(
        (&listed[0]["v"], &listed[0]["jobs"][0]["id"]),
        (&1.into(), &job.as_str().into())
    );
    let again = world.run(&["jobs", "rerun", &job]);
    assert_eq!(again.exit, Some(0), "{again}");
    let second = id(&again);
    assert_eq!(world.run(&["jobs", "logs", "--follow", &second]).stdout, "it's me\n");
    let output = world.run(&["jobs", "delete", &job]);
    assert_eq!((output.exit, output.stdout), (Some(0), format!("{job} is deleted\n")));
}

#[test]
fn failures_say_what_to_do_next() {
    let (_own, server, world) = pair();
    stable(|| {
        assert_snapshot!(world.run(&["jobs", "get", "0000000000001"]), @r"
        exit 2
        ----- stderr
        error[LAB-USE-005]: there is no such job
          hint: labctl jobs list shows the jobs that you may see
        ");
        assert_snapshot!(world.run(&["jobs", "run", "--name", "a b", "--retries", "500", "--", "x"]), @r"
        exit 2
        ----- stderr
        error[LAB-USE-001]: no job can be run so
          /name: a name has 1 to 63 letters, digits, `-`, `_` and `.`, and begins and ends with a letter or digit
          /retries: at most 100
          hint: labctl jobs run --help
        ");
    });
    let long = id(&world.run(&["jobs", "run", "--", "/bin/sh", "-c", "exec /bin/sleep 60"]));
    let output = world.run(&["jobs", "delete", &long]);
    assert_eq!(output.exit, Some(2), "{output}");
    assert!(output.stderr.contains("cancel it first"), "{output}");
    let output = world.run(&["jobs", "cancel", &long]);
    assert_eq!(
        (output.exit, output.stdout),
        (Some(0), format!("{long} is asked to end\n"))
    );
    for args in [
        &["jobs", "get", "nonsense"][..],
        &["jobs", "list", "--state", "lost"],
        &["jobs", "run"],
        &["jobs", "--url", "ftp://x", "list"],
    ] {
        let output = world.run(args);
        assert_eq!(
            (output.exit, output.stdout.as_str()),
            (Some(2), ""),
            "{args:?}: {output}"
        );
    }
    drop(server);
    for args in [
        &["jobs", "list"][..],
        &["jobs", "logs", "-f", &long],
        &["jobs", "run", "--", "x"],
    ] {
        let output = world.run(args);
        assert_eq!(
            (output.exit, output.stdout.as_str()),
            (Some(3), ""),
            "{args:?}: {output}"
        );
        assert!(output.stderr.contains("error[LAB-ENV-026]"), "{output}");
        assert!(output.stderr.contains("hint: labctl serve"), "{output}");
    }
}

#[test]
fn a_token_is_taken_from_the_variable_or_the_file() {
    let own = bare();
    let tokens = own.path("tokens");
    labctl::drive::files::write_secret(&tokens, "# all\nana:ana-0123456789abc\n").expect("written");
    let file = tokens.display().to_string();
    let server = Server::start(&own, &["--drain", "0", "--token-file", &file]);
    let mut world = TestEnvironment::new();
    world.set("LABCTL_DASHBOARD_URL", format!("http://{}", server.address));
    let output = world.run(&["jobs", "list"]);
    assert_eq!(output.exit, Some(2), "{output}");
    assert!(output.stderr.contains("LABCTL_TOKEN"), "{output}");
    assert_eq!(world.run(&["jobs", "--token-file", &file, "list"]).exit, Some(0));
    world.set("LABCTL_TOKEN", "ana-0123456789abc");
    assert_eq!(world.run(&["jobs", "list"]).exit, Some(0));
}

#[test]
fn following_goes_on_where_the_server_came_back() {
    let own = bare();
    let mut server = Server::start(&own, &["--drain", "0"]);
    let address = server.address;
    let mut world = TestEnvironment::new();
    world.set("LABCTL_DASHBOARD_URL", format!("http://{address}"));
    let script = "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo line $i; /bin/sleep 0.01; done";
    let job = id(&world.run(&["jobs", "run", "--", "/bin/sh", "-c", script]));
    let mut command = world.command(&["jobs", "logs", "--follow", &job]);
    let mut client = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("labctl starts");
    let mut lines = BufReader::new(client.stdout.take().expect("a pipe")).lines();
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < 30 {
        seen.push(lines.next().expect("a line").expect("text"));
    }
    server.kill();
    std::thread::sleep(Duration::from_millis(400));
    let server = Server::start(&own, &["--drain", "0", &format!("--listen={address}")]);
    seen.extend(lines.map_while(Result::ok));
    let output = client.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("it is made again"), "{said}");
    let stored = server.ask("GET", &format!("/jobs/{job}/logs"), &[], "").text();
    assert_eq!(
        seen,
        stored.lines().collect::<Vec<_>>(),
        "nothing is lost and nothing comes twice"
    );
}
