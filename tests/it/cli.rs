//! The command line: help, exit codes, errors.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use clap::{Command, CommandFactory};
use insta::assert_snapshot;

use crate::harness::TestEnvironment;

/// Returns every verb and sub-verb as its words.
fn verbs() -> Vec<(Vec<String>, Command)> {
    fn walk(command: &Command, words: &[String], out: &mut Vec<(Vec<String>, Command)>) {
        for verb in command.get_subcommands() {
            let mut words = words.to_vec();
            words.push(verb.get_name().to_owned());
            walk(verb, &words, out);
            out.push((words, verb.clone()));
        }
    }
    let mut out = Vec::new();
    walk(&labctl::cli::Cli::command(), &[], &mut out);
    out
}

#[test]
fn the_command_line_is_consistent() {
    labctl::cli::Cli::command().debug_assert();
}

#[test]
fn every_verb_has_help_that_fits_and_says_what_it_does() {
    let world = TestEnvironment::new();
    for (words, verb) in verbs() {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(
            !about.is_empty(),
            "`labctl {}` does not say what it does",
            words.join(" ")
        );
        assert!(
            !about.ends_with('.'),
            "`labctl {}`: no full stop at the end",
            words.join(" ")
        );
        // What comes after `labctl kubectl` is kubectl's own, `--help` too.
        if verb.is_disable_help_flag_set() {
            continue;
        }
        for argument in verb.get_arguments().filter(|argument| !argument.is_hide_set()) {
            assert!(
                argument.get_help().is_some(),
                "`labctl {}`: {} has no help",
                words.join(" "),
                argument.get_id()
            );
        }
        let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
        args.push("--help");
        let output = world.run(&args);
        assert_eq!((output.exit, output.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(output.stdout.contains("Usage: labctl"), "{args:?}: {}", output.stdout);
        let long = output.stdout.lines().find(|line| line.chars().count() > 100);
        assert_eq!(long, None, "{args:?}: a line is too long for a terminal");
        let mut told = BTreeSet::new();
        let told_twice = output
            .stdout
            .lines()
            .find(|line| line.trim().len() > 40 && !told.insert(line.trim()));
        assert_eq!(told_twice, None, "{args:?}: a line is there twice");
    }
}

#[test]
fn what_is_long_to_tell_of_a_verb_is_told_by_its_own_help_alone() {
    let world = TestEnvironment::new();
    let overview = world.run(&["--help"]).stdout;
    for (verb, more) in [
        ("serve", "Runs jobs, follows their output and keeps their history"),
        ("healthcheck", "For HEALTHCHECK of an image"),
        ("dashboard", "A browser asks for a name and a password"),
        ("completions", "For fish: labctl completions fish"),
    ] {
        let long = world.run(&[verb, "--help"]).stdout;
        let short = world.run(&[verb, "-h"]).stdout;
        assert!(long.contains(more), "{long}");
        assert!(!short.contains(more), "{short}");
        assert!(!overview.contains(more), "{overview}");
        let about = long.lines().next().expect("a line");
        assert!(short.starts_with(about) && overview.contains(about), "{overview}");
    }
}

#[test]
fn help_names_the_first_command() {
    let output = TestEnvironment::new().run(&["--help"]);
    assert_eq!(output.exit, Some(0));
    assert!(output.stdout.contains("labctl up"), "{}", output.stdout);
}

#[test]
fn the_version_is_printed() {
    assert_snapshot!(TestEnvironment::new().run(&["--version"]), @r"
    exit 0
    ----- stdout
    labctl $VERSION
    ");
}

#[test]
fn an_unknown_verb_gets_a_suggestion() {
    let output = TestEnvironment::new().run(&["dcotor"]);
    assert_eq!((output.exit, output.stdout.as_str()), (Some(2), ""));
    assert!(output.stderr.contains("doctor"), "{}", output.stderr);
}

#[test]
fn a_bad_lab_name_is_a_usage_error() {
    assert_snapshot!(TestEnvironment::new().run(&["--lab", "Not A Name", "doctor"]), @r"
    exit 2
    ----- stderr
    error[LAB-USE-003]: `Not A Name` cannot be a lab's name
      hint: use 1 to 30 lower-case letters, digits and hyphens, beginning with a letter, such as `labctl --lab demo up`
    ");
}

#[test]
fn no_home_is_a_usage_error_that_names_the_way_out() {
    let mut world = TestEnvironment::new();
    world.set("HOME", "");
    assert_snapshot!(world.run(&["doctor"]), @r"
    exit 2
    ----- stderr
    error[LAB-USE-003]: no home directory is set, so there is no place for the lab's files
      hint: set LABCTL_STATE_DIR to a directory that can be written
    ");
}

#[test]
fn without_a_cluster_its_tools_say_so() {
    let world = TestEnvironment::new();
    for args in [&["kubectl", "get", "pods"][..], &["helm", "list"], &["env"]] {
        let output = world.run(args);
        assert_eq!(output.exit, Some(3), "{args:?}");
        assert!(
            output.stderr.starts_with("error[LAB-ENV-019]:"),
            "{args:?}: {}",
            output.stderr
        );
        assert!(output.stderr.contains("hint: labctl up"), "{args:?}: {}", output.stderr);
        assert_eq!(output.stdout, "", "{args:?}: eval must see nothing");
    }
}

/// Puts a kubectl on PATH that is of the right version and tells what it was given.
fn with_kubectl(world: &TestEnvironment) {
    let version = &labctl::lab::versions::pinned().kubernetes;
    world.program(
        "kubectl",
        &format!(
            "if [ \"$1\" = version ]; then echo '{{\"gitVersion\": \"v{version}\"}}'; exit; fi\n\
             echo \"$KUBECONFIG $*\"; exit 7"
        ),
    );
    let kubeconfig = world.lab().join("kubeconfig");
    labctl::drive::files::write(&kubeconfig, "apiVersion: v1\n").expect("written");
}

#[test]
fn kubectl_gets_its_arguments_word_for_word_and_the_labs_kubeconfig() {
    let mut world = TestEnvironment::new();
    with_kubectl(&world);
    world.set("KUBECONFIG", "/somewhere/else");
    assert_snapshot!(world.run(&["kubectl", "-n", "demo", "get", "pods", "-o", "json", "--help", "--", "-x"]), @r"
    exit 7
    ----- stdout
    $TEST/home/.local/state/labctl/labs/labctl/kubeconfig -n demo get pods -o json --help -- -x
    ");
}

#[test]
fn who_ends_labctl_kubectl_ends_kubectl() {
    let world = TestEnvironment::new();
    with_kubectl(&world);
    let version = &labctl::lab::versions::pinned().kubernetes;
    world.program(
        "kubectl",
        &format!(
            "if [ \"$1\" = version ]; then echo '{{\"gitVersion\": \"v{version}\"}}'; exit; fi\n\
             echo $$; exec sleep 600"
        ),
    );
    let mut child = world
        .command(&["kubectl", "port-forward", "svc/x", "1:1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().expect("a pipe")),
        &mut line,
    )
    .expect("a line");
    // It is the same process, so no signal can end one of them alone.
    assert_eq!(line.trim(), child.id().to_string());
    child.kill().expect("ended");
    child.wait().expect("ended");
}

#[test]
fn a_kubectl_of_another_version_is_not_used() {
    let world = TestEnvironment::new();
    with_kubectl(&world);
    world.program("kubectl", "echo '{\"gitVersion\": \"v1.20.0\"}'");
    let output = world.run(&["kubectl", "get", "pods"]);
    assert_eq!(output.exit, Some(3));
    assert!(output.stderr.contains("LAB-ENV-011"), "{}", output.stderr);
}

#[test]
fn env_can_be_evaluated() {
    let world = TestEnvironment::new();
    with_kubectl(&world);
    assert_snapshot!(world.run(&["env"]), @r"
    exit 0
    ----- stdout
    export KUBECONFIG='$TEST/home/.local/state/labctl/labs/labctl/kubeconfig'
    ");
    assert_snapshot!(world.run(&["env", "--shell", "fish"]), @r"
    exit 0
    ----- stdout
    set -gx KUBECONFIG '$TEST/home/.local/state/labctl/labs/labctl/kubeconfig'
    ");
    let output = world.run(&["env", "--json"]);
    assert!(
        output.json()[0]["KUBECONFIG"]
            .as_str()
            .is_some_and(|path| path.ends_with("labctl/kubeconfig"))
    );
}

#[test]
fn a_home_that_cannot_be_written_is_told_before_anything_is_done() {
    // Root may write anywhere, so a permission would not stop it; the kernel's own file systems do.
    if !cfg!(target_os = "linux") {
        return;
    }
    let mut world = TestEnvironment::new();
    world.set("HOME", "/sys");
    let output = world.run(&["up"]);
    assert_eq!(output.exit, Some(3));
    assert!(output.stderr.contains("error[LAB-ENV-014]"), "{}", output.stderr);
    assert!(output.stderr.contains("LABCTL_STATE_DIR"), "{}", output.stderr);
}

#[test]
fn without_an_engine_the_doctor_says_which_error_it_is() {
    let world = TestEnvironment::new();
    let output = world.run(&["doctor"]);
    assert_eq!(output.exit, Some(3));
    assert!(output.stdout.contains("LAB-ENV-001"), "{}", output.stdout);
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let world = TestEnvironment::new();
    for args in [&["doctor"][..], &["doctor", "--json"], &["--help"], &["up", "--help"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = world.command(args);
        let output = command
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .expect("labctl starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn an_interrupt_ends_it_with_130_and_says_how_to_go_on() {
    let world = TestEnvironment::new();
    let mark = world.path("asked");
    // The doctor asks every tool for its version; this one takes its time.
    world.program("helm", &format!(": > {}; while :; do :; done", mark.display()));
    let mut command = world.command(&["doctor"]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("labctl starts");
    let pid = rustix::process::Pid::from_child(&child);
    for _ in 0..200 {
        if mark.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    assert!(mark.exists(), "helm was never asked");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signalled");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("LAB-INT-001") && stderr.contains("labctl doctor"),
        "{stderr}"
    );
}

#[test]
fn json_is_json_on_success_and_on_failure() {
    let world = TestEnvironment::new();
    for args in [
        &["doctor", "--json"][..],
        &["up", "--plan", "--json"],
        &["kubectl", "--json", "get"],
    ] {
        let output = world.run(args);
        let lines = output.json();
        let last = lines.last().expect("at least the end of the run");
        assert_eq!(last["event"], "finished", "{args:?}: {output}");
    }
}

#[test]
fn every_exit_code_is_distinct_and_documented() {
    use labctl::error::{Code, Exit};
    let mut seen = BTreeSet::new();
    for exit in Exit::ALL {
        assert!(seen.insert(exit.code()), "{exit:?}");
        assert!(!exit.meaning().is_empty());
    }
    for code in Code::ALL {
        assert!(Exit::ALL.contains(&code.exit()), "{}", code.id());
    }
}
