//! Tests on a real cluster: one lab, made once with `labctl up`, shared by all, removed at the end.
//!
//! Without an engine, and where none may be installed, they are skipped loudly; `LABCTL_REQUIRE_LAB=1` makes that a
//! failure. `LABCTL_KEEP_LAB=1` leaves the lab for a look at it. Tests run one after the other in the order below,
//! because they share the cluster; a test that breaks something puts it right again.

mod chapters;
mod chapters_jobs;
#[path = "../conformance.rs"]
mod conformance;
mod dashboard;
mod elsewhere;
mod faults;
mod jobs;
#[expect(dead_code, reason = "the hermetic tests also stop and start it")]
#[path = "../it/postgres.rs"]
mod postgres;
mod read;
mod support;
mod up;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use support::{Lab, Skip};

type Test = (&'static str, fn(&Lab) -> anyhow::Result<()>);

/// Every test, in the order in which they run. The names are what a filter on the command line selects by.
const TESTS: &[&[Test]] = &[
    up::TESTS,
    chapters::TESTS,
    chapters_jobs::TESTS,
    read::TESTS,
    dashboard::TESTS,
    jobs::TESTS,
    jobs::conform::TESTS,
    jobs::network::TESTS,
    jobs::node::TESTS,
    elsewhere::TESTS,
    faults::TESTS,
];

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // One cluster for all, so one test at a time.
    args.test_threads = Some(1);
    let skip = if args.list { None } else { support::skip() };
    let trials = TESTS
        .iter()
        .flat_map(|tests| tests.iter())
        .map(|&(name, test)| {
            let ignored = matches!(skip, Some(Skip::Quietly(_)));
            let refused = match &skip {
                Some(Skip::AsFailure(why)) => Some(why.clone()),
                _ => None,
            };
            Trial::test(name, move || {
                if let Some(why) = refused {
                    return Err(why.into());
                }
                let lab = support::lab().map_err(|error| format!("the lab did not come up: {error}"))?;
                test(lab).map_err(|error| format!("{error:?}").into())
            })
            .with_ignored_flag(ignored)
        })
        .collect();
    if let Some(Skip::Quietly(why)) = &skip {
        support::say(&format!("SKIPPED: every test on a real cluster: {why}"));
    }
    let conclusion = libtest_mimic::run(&args, trials);
    let removed = support::remove();
    if conclusion.has_failed() {
        return conclusion.exit_code();
    }
    match removed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            support::say(&format!("FAILED: the lab could not be removed: {error:?}"));
            ExitCode::FAILURE
        }
    }
}
