//! What must hold for any bytes (`fuzz/properties.rs`), for those that fuzzing and people thought worth keeping.

use std::path::Path;
use std::time::{Duration, Instant};

#[path = "../../fuzz/properties.rs"]
mod properties;

/// Calls a property with every seed, with beginnings and ends of it, and with bytes of it turned; returns the seeds.
fn replay(target: &str, property: fn(&[u8])) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let seeds: Vec<Vec<u8>> = std::fs::read_dir(&dir)
        .expect("seeds")
        .map(|entry| std::fs::read(entry.expect("readable").path()).expect("a seed"))
        .collect();
    assert!(seeds.len() >= 2, "there are seeds in {}", dir.display());
    property(b"");
    for seed in &seeds {
        property(seed);
        for cut in 0..seed.len().min(64) {
            property(&seed[..cut]);
            property(&seed[cut..]);
            let mut turned = seed.clone();
            turned[cut] ^= 0x20;
            property(&turned);
        }
    }
    seeds
}

#[test]
fn seeds_of_cursors_hold() {
    replay("cursor", properties::cursor);
}

#[test]
fn seeds_of_queries_hold() {
    replay("filter", properties::filter);
}

#[test]
fn seeds_of_frames_hold() {
    replay("frames", properties::frames);
}

#[test]
fn seeds_of_specs_hold() {
    replay("spec", properties::spec);
}

#[test]
fn seeds_of_prose_hold_and_a_long_text_takes_no_longer_than_its_length() {
    for seed in replay("prose", properties::prose) {
        // What grows with the square of the length would take minutes here.
        let long = seed.repeat((64 << 10) / seed.len() + 1);
        let start = Instant::now();
        properties::prose(&long);
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}
