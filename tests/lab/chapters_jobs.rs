//! Chapters 04 and 05 on the lab: their solutions pass, other solutions too, and what is broken or faked is caught by
//! the checks that are named for it. `labctl chapter selftest 04 05` tries all of their faults; here are one or two for
//! each criterion.

use anyhow::{Result, ensure};

use crate::Test;
use crate::support::{Lab, both};

/// The tests of this file, in order.
pub(crate) const TESTS: &[Test] = &[
    (
        "chapters_jobs::jobs_are_judged_by_what_is_in_the_cluster",
        jobs_are_judged,
    ),
    ("chapters_jobs::streams_are_judged_while_they_run", streams_are_judged),
];

/// Runs the selftest of a chapter with some of its worlds, and looks that each of them was tried and came out well.
fn selftest(lab: &Lab, chapter: &str, worlds: &[&str]) -> Result<()> {
    let mut args = vec!["chapter", "selftest", chapter];
    for world in worlds {
        let (_, id) = world.split_once(' ').unwrap_or(("", world));
        args.extend(["--only", id]);
    }
    let output = lab.labctl(&args)?;
    ensure!(output.status.code() == Some(0), "{}", both(&output));
    let said = both(&output);
    for world in worlds.iter().chain(&["solution 1"]) {
        ensure!(
            said.contains(&format!("ok    {chapter} {world} (")),
            "`{world}` was not tried: {said}"
        );
    }
    Ok(())
}

fn jobs_are_judged(lab: &Lab) -> Result<()> {
    let worlds = [
        "alternative wsgi",
        "fault pretends",
        "fault no-exit-code",
        "fault makes-it-first",
        "fault key-in-memory",
        "fault orphans",
        "fault reads-secrets",
    ];
    selftest(lab, "04", &worlds)
}

fn streams_are_judged(lab: &Lab) -> Result<()> {
    let worlds = [
        "alternative labctl",
        "fault buffered",
        "fault only-new",
        "fault off-by-one",
        "fault first-pod-only",
    ];
    selftest(lab, "05", &worlds)
}
