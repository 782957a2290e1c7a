//! Chapter 00, which needs Python and no cluster: its solution and other ones pass, and one fault of each kind is
//! caught. `labctl chapter selftest 00` tries all of them.

use std::process::Stdio;

use labctl::config;

use crate::harness::TestEnvironment;

/// What is tried of it: for each criterion something that is broken and something that is faked.
const WORLDS: [&str; 6] = [
    "alternative labctl",
    "alternative wsgi",
    "fault always-200",
    "fault gutted",
    "fault byte-for-byte",
    "fault deaf",
];

#[test]
fn chapter_00_takes_any_right_server_and_no_empty_suite() {
    let mut world = TestEnvironment::new();
    // The packages of the chapter come as they come to a learner: once, into the user's own cache.
    for name in ["PATH", "HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
        let value = config::variable(name).and_then(|value| value.into_string().ok());
        world.set(name, value.unwrap_or_default());
    }
    let state = world.path("state").display().to_string();
    world.set("LABCTL_STATE_DIR", state);
    let mut args = vec!["chapter", "selftest", "00"];
    for one in WORLDS {
        args.extend(["--only", one.split_once(' ').map_or(one, |(_, id)| id)]);
    }
    let output = world
        .command(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .expect("labctl starts");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(0), "{said}");
    for one in WORLDS.iter().chain(&["solution 1"]) {
        assert!(
            said.contains(&format!("ok    00 {one} (")),
            "`{one}` was not tried: {said}"
        );
    }
}
