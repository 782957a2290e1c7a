//! `labctl doctor` as users see it.

use crate::harness::TestEnvironment;

#[test]
fn in_a_world_with_nothing_it_says_everything_and_exits_with_3() {
    let world = TestEnvironment::new();
    let output = world.run(&["doctor"]);
    assert_eq!((output.exit, output.stderr.as_str()), (Some(3), ""), "{output}");
    assert!(output.stdout.contains("PROBLEM  engine"), "{output}");
    assert!(output.stdout.contains("no package mirror answered"), "{output}");
    assert!(output.stdout.contains("to be set right before `labctl up`"), "{output}");
    // Paths of the temporary directory may be long; nothing else may be.
    let long = output
        .stdout
        .lines()
        .find(|line| line.chars().count() > 80 && !line.contains("$TEST"));
    assert_eq!(long, None);
}

#[test]
fn the_document_and_the_table_say_the_same() {
    let world = TestEnvironment::new();
    let document = world.run(&["doctor", "--json"]).json().remove(0);
    let table = world.run(&["doctor"]).stdout;
    let findings = document["findings"].as_array().expect("findings");
    assert!(findings.len() >= 10, "{document}");
    assert_eq!(document["worst"], "problem");
    for finding in findings {
        let topic = finding["topic"].as_str().expect("a topic");
        assert!(table.contains(topic), "{topic} is not in the table");
        let code = finding["code"].as_str().expect("a code");
        assert!(
            labctl::error::Code::ALL.iter().any(|known| known.id() == code),
            "{code}"
        );
        if finding["severity"] == "problem" || finding["severity"] == "warning" {
            assert!(finding["why"].as_str().is_some_and(|why| !why.is_empty()), "{finding}");
            assert!(
                finding["fix"].as_array().is_some_and(|fix| !fix.is_empty()),
                "{finding}"
            );
        }
    }
}

#[test]
fn it_sets_right_what_it_can_and_leaves_the_rest() {
    let world = TestEnvironment::new();
    let left = world.write("home/.local/state/labctl/engine/dockerd.pid", "4999999");
    let output = world.run(&["doctor", "--fix", "--quiet"]);
    assert_eq!(output.exit, Some(3), "there is no engine still: {output}");
    assert!(!left.exists(), "{output}");
    assert!(world.path("home/.cache/labctl").is_dir(), "{output}");
}

#[test]
fn the_other_labctl_is_found_by_name_and_told_apart() {
    let world = TestEnvironment::new();
    world.program("labctl", "exec true # github.com/iximiuz/labctl");
    let output = world.run(&["doctor", "--json"]);
    let document = output.json().remove(0);
    let findings = document["findings"].as_array().expect("findings");
    let name = findings
        .iter()
        .find(|finding| finding["code"] == "LAB-ENV-013")
        .expect("judged");
    assert_eq!(name["severity"], "warning");
    assert_eq!(name["seen"], "$TEST/bin/labctl is the CLI of iximiuz Labs");
}

#[test]
fn a_port_that_is_taken_is_named_with_its_holder() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = held.local_addr().expect("an address").port();
    let world = TestEnvironment::new();
    let record = serde_json::json!({
        "format": 1,
        "ports": { "http": port, "grpc": 1, "mtls": 1, "metrics": 1, "registry": 1 },
        "cluster": "kind",
    });
    world.write("home/.local/state/labctl/labs/labctl/lab.json", record.to_string());
    let document = world.run(&["doctor", "--json"]).json().remove(0);
    let findings = document["findings"].as_array().expect("findings");
    let taken = findings.iter().find(|finding| {
        finding["seen"]
            .as_str()
            .is_some_and(|seen| seen.contains(&port.to_string()))
    });
    let taken = taken.unwrap_or_else(|| panic!("{document}"));
    assert_eq!(taken["code"], "LAB-ENV-010");
    if cfg!(target_os = "linux") {
        let pid = format!("(pid {})", std::process::id());
        assert!(
            taken["seen"].as_str().is_some_and(|seen| seen.ends_with(&pid)),
            "{taken}"
        );
    }
}
