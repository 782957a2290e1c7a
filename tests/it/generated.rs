//! What is written from the code and committed: it must be what the code of now would write.
//!
//! `cargo test --test it generated -- --ignored` writes it again.

use std::path::PathBuf;

use crate::harness::checkout;

/// Returns every generated file and its contents.
fn files() -> Vec<(PathBuf, String)> {
    let openapi = serde_json::to_string_pretty(labctl::dashboard::http::openapi::document()).expect("JSON");
    vec![(checkout().join("assets/schema/openapi.json"), openapi + "\n")]
}

#[test]
fn what_is_committed_is_what_the_code_says() {
    for (path, expected) in files() {
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        let same = found == expected;
        let line = found
            .lines()
            .zip(expected.lines())
            .position(|(found, expected)| found != expected);
        assert!(
            same,
            "{} is not what the code says (line {}); `cargo test --test it generated -- --ignored` writes it",
            path.display(),
            line.map_or(0, |line| line + 1),
        );
    }
}

#[test]
#[ignore = "it writes into the checkout"]
fn write_it() {
    for (path, contents) in files() {
        labctl::drive::files::write(&path, contents).expect("written");
    }
}
