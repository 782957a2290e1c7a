//! The two programs that labctl is below a server that runs jobs as processes: the keeper of a job, and what becomes the
//! job's program. Neither is for people, so clap does not know them, and neither waits for what a verb needs.

use std::process::ExitCode;

use crate::dashboard::runner::process::{keeper, stage};

/// Becomes what the first argument says where it is one of the two; returns nothing otherwise.
pub fn main_if_called() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let verb = args.next()?;
    if verb == keeper::VERB {
        return Some(keeper::main(args.next()));
    }
    (verb == stage::VERB).then(stage::main)
}
