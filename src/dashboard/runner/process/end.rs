//! Why a job ends, and how that is said.

use rustix::process::{Signal, WaitStatus};

use crate::dashboard::job::reason;
use crate::dashboard::job::spec::Limits;

/// How many processes a job may have.
pub(super) const PROCESSES: usize = 1024;

/// Why a job is ended by its keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    /// Somebody asked for it.
    Asked,
    /// It is held back, and begins anew when it is resumed.
    Held,
    /// The lifeline was cut.
    ServerLost,
    /// The server was stopped, and told to end its jobs.
    ServerStopped,
    Deadline,
    Memory,
    Processes,
    Output,
    /// Its output could not be written; why.
    OutputLost(String),
}

impl Why {
    /// Returns the stable word and the message; a job that is held back has neither.
    pub(super) fn words(&self, limits: &Limits) -> (Option<String>, Option<String>) {
        let (reason, message) = match self {
            Self::Asked => (reason::CANCELLED, None),
            Self::Held => return (None, None),
            Self::ServerLost => (
                reason::SERVER_LOST,
                Some("the server that ran it went away, and its jobs with it".to_owned()),
            ),
            Self::ServerStopped => (
                reason::SERVER_STOPPED,
                Some("the server that ran it was stopped with --stop-jobs".to_owned()),
            ),
            Self::Deadline => (
                reason::DEADLINE,
                Some(format!("it took longer than the {} s of its limit", limits.seconds)),
            ),
            Self::Memory => (
                reason::MEMORY,
                Some(format!(
                    "it used more than the {} MiB of memory of its limit",
                    limits.memory_mib
                )),
            ),
            Self::Processes => (
                reason::PROCESSES,
                Some(format!("it had more than {PROCESSES} processes")),
            ),
            Self::Output => (
                reason::OUTPUT,
                Some(format!(
                    "it wrote more than the {} MiB of output of its limit",
                    limits.output_mib
                )),
            ),
            Self::OutputLost(error) => (
                reason::OUTPUT_LOST,
                Some(format!("its output could not be written to the server's disk: {error}")),
            ),
        };
        (Some(reason.to_owned()), message)
    }
}

/// Returns a program's exit code; 128 and the signal's number where a signal ended it.
pub(super) fn exit_code(status: WaitStatus) -> Option<i32> {
    let signal = status.terminating_signal();
    status.exit_status().or(signal.map(|signal| 128 + signal))
}

/// Returns the stable word for how a program failed, and the rest of a sentence that says it.
pub(super) fn failure(status: WaitStatus) -> (&'static str, String) {
    let code = exit_code(status);
    match status.terminating_signal() {
        // A shell says so of a program that it ran.
        _ if code == Some(128 + Signal::XCPU.as_raw()) => {
            (reason::CPU, "used up the processor time of its limit".to_owned())
        }
        Some(signal) => (reason::SIGNAL, format!("was ended by signal {}", signal_name(signal))),
        None => (
            reason::EXIT_CODE,
            format!("ended with exit code {}", code.unwrap_or(-1)),
        ),
    }
}

/// Returns a signal's number with its name, where it is one that programs usually end by.
fn signal_name(signal: i32) -> String {
    let known = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XFSZ, "SIGXFSZ"),
        (Signal::SYS, "SIGSYS"),
    ];
    match known.iter().find(|(known, _)| known.as_raw() == signal) {
        Some((_, name)) => format!("{signal} ({name})"),
        None => signal.to_string(),
    }
}
