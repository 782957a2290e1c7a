//! What the checks of each chapter saw in the worlds of its selftest, judged again by the specs of now: a spec that no
//! longer catches a fault, or refuses a solution, is found without a cluster. And each expectation is taken away in turn:
//! one that no recorded fault needs is found too. `labctl chapter selftest NN --record tests/recorded` records anew.

use std::collections::BTreeSet;
use std::path::Path;

use labctl::config;

use crate::harness::TestEnvironment;

const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded");

#[test]
fn the_chapters_still_judge_what_was_seen_as_they_did() {
    let chapters = ["00", "01", "02", "03", "04", "05"];
    let recorded: BTreeSet<String> = std::fs::read_dir(RECORDED)
        .expect("recordings")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(recorded, chapters.map(|id| format!("{id}.json")).into());
    let mut world = TestEnvironment::new();
    world.set("PATH", "");
    let mut args = vec!["chapter", "selftest", "--replay", RECORDED];
    args.extend(chapters);
    let output = world.run(&args);
    assert_eq!(output.exit, Some(0), "{output}");
    for id in chapters {
        let text = std::fs::read_to_string(Path::new(RECORDED).join(format!("{id}.json"))).expect("readable");
        let looks = text.matches("\"met\": false").count();
        // Enough faults that this is worth something, and nothing of the machine on which it was recorded.
        assert!(looks >= 11, "chapter {id}: {looks}");
        let home = config::variable("HOME").and_then(|home| home.into_string().ok());
        for trace in [home.unwrap_or_default() + "/", "PRIVATE KEY".into(), "eyJhbGci".into()] {
            assert!(!text.contains(&trace) || trace == "/", "chapter {id} has {trace}");
        }
    }
}
