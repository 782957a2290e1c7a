//! The last step before a job's program: this process sets its own limits and becomes the program.
//!
//! A program's limits must be set between fork and exec. Doing that in the keeper needs code that runs in a forked
//! process, which Rust cannot check; a process of its own can be checked. It is started by the keeper with a socket as
//! standard input, reads from it what to do, and writes to it why it could not: where the socket just closes, the program
//! has begun.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

use crate::dashboard::job::spec::Limits;

/// The hidden verb.
pub const VERB: &str = "job-exec";

/// How large a file a job may write. There is no setting for it: it only keeps one runaway file from filling the disk.
const FILE_BYTES: u64 = 10 << 30;
/// How many files a process of a job may have open, at first and at most.
const FILES: (u64, u64) = (1024, 65_536);
/// A process may have this much more than the job's memory before the kernel refuses it more. What the job uses is
/// measured by its keeper, which ends it with a reason; a program that is refused memory ends in its own way. So this is
/// for what grows faster than it is measured.
const MEMORY_SLACK: u64 = 256 << 20;
/// What the kernel's out-of-memory killer is told: this before the server and the keepers (proc_pid_oom_score_adj(5)).
#[cfg(target_os = "linux")]
const OOM_SCORE: &str = "500";

/// What the keeper asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) command: Vec<String>,
    pub(super) limits: Limits,
    /// The keeper's process: with it, this one ends.
    pub(super) keeper: i32,
}

/// Why the program was not begun.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) message: String,
    /// The exit code that a shell would give for it: 127 for a program that is not there, 126 for one that is none.
    pub(super) code: i32,
}

/// Becomes the program; returns only where that fails.
pub fn main() -> ExitCode {
    let channel = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map(UnixStream::from);
    let Ok(mut channel) = channel else {
        return ExitCode::FAILURE;
    };
    let refusal = match prepare(&mut channel) {
        Ok(orders) => become_program(&orders),
        Err(error) => Refusal {
            message: format!("the job's limits cannot be set: {error:#}"),
            code: 126,
        },
    };
    _ = channel.write_all(&serde_json::to_vec(&refusal).unwrap_or_default());
    ExitCode::FAILURE
}

fn prepare(channel: &mut UnixStream) -> Result<Orders> {
    let mut text = Vec::new();
    channel.read_to_end(&mut text).context("read the orders")?;
    let orders: Orders = serde_json::from_slice(&text).context("labctl job-exec is started by a job's keeper alone")?;
    let null = std::fs::File::open("/dev/null").context("open `/dev/null`")?;
    rustix::stdio::dup2_stdin(&null).context("close the standard input")?;
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        set_parent_process_death_signal(Some(Signal::KILL)).context("end with the keeper")?;
        anyhow::ensure!(
            getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == orders.keeper),
            "the keeper is gone"
        );
        // A program of another user could not be ended by a keeper of this one.
        rustix::thread::set_no_new_privs(true).context("give up new privileges")?;
        // Where this is not allowed the job is as likely to be ended as everything else.
        if let Ok(mut file) = std::fs::File::options().write(true).open("/proc/self/oom_score_adj") {
            _ = file.write_all(OOM_SCORE.as_bytes());
        }
    }
    let limits = &orders.limits;
    let memory = u64::from(limits.memory_mib) << 20;
    let cpu = (u64::from(limits.seconds) * u64::from(limits.cpu_milli))
        .div_ceil(1000)
        .max(1);
    // A program that catches SIGXCPU has a few seconds to end.
    limit(Resource::Cpu, cpu, cpu + 5)?;
    limit(Resource::Data, memory * 2 + MEMORY_SLACK, memory * 2 + MEMORY_SLACK)?;
    limit(Resource::Fsize, FILE_BYTES, FILE_BYTES)?;
    limit(Resource::Nofile, FILES.0, FILES.1)?;
    limit(Resource::Core, 0, 0)?;
    Ok(orders)
}

/// Sets a limit, or keeps the one that there is where that is lower.
fn limit(resource: Resource, soft: u64, hard: u64) -> Result<()> {
    let now = rustix::process::getrlimit(resource);
    let hard = now.maximum.map_or(hard, |now| now.min(hard));
    let new = Rlimit {
        current: Some(soft.min(hard)),
        maximum: Some(hard),
    };
    rustix::process::setrlimit(resource, new).with_context(|| format!("limit {resource:?}"))
}

fn become_program(orders: &Orders) -> Refusal {
    // What the server was given by its shell, or by whatever else began it, is nothing of the job's.
    close_fds::set_fds_cloexec(3, &[]);
    let program = orders.command.first().map(String::as_str).unwrap_or_default();
    #[expect(
        clippy::disallowed_methods,
        reason = "the process is replaced, so no exit code can be lost"
    )]
    let error = std::process::Command::new(program)
        .args(orders.command.iter().skip(1))
        .exec();
    let path = crate::config::text_variable("PATH").unwrap_or_default();
    let (message, code) = match error.kind() {
        std::io::ErrorKind::NotFound if program.contains('/') => (
            format!("`{program}` cannot be started: there is no such file, or what it says it is run by is not there"),
            127,
        ),
        std::io::ErrorKind::NotFound => (
            format!("`{program}` cannot be started: there is no such program in {path}"),
            127,
        ),
        std::io::ErrorKind::PermissionDenied => (
            format!("`{program}` cannot be started: it is not a file that may be executed"),
            126,
        ),
        _ => (format!("`{program}` cannot be started: {error}"), 126),
    };
    Refusal { message, code }
}
