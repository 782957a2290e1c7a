//! What can go wrong, what it is called, and which exit code it gives.
//!
//! Inside, code uses `anyhow` with `.context(..)`. At a boundary a [`Diagnosis`] is put on the chain: it adds a stable
//! id, a kind and the next command. [`render`] prints the chain once, at the end of `main`.
//!
//! The tables here are the only ones: README and `labctl doctor --explain` are written from them.

use std::fmt::{self, Write as _};
use std::io;
use std::process::ExitCode;
use std::sync::LazyLock;

/// What an exit code of labctl means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was asked for is done and holds.
    Done,
    /// labctl did its work, and at least one criterion is not met.
    Unmet,
    /// The command line, a spec or a setting is wrong.
    Usage,
    /// The environment does not allow it: no engine, no cluster, the wrong cluster, a time limit of ours.
    Environment,
    /// A bug in labctl.
    Bug,
    /// Stopped by Ctrl-C or SIGTERM.
    Interrupted,
    /// What the program exited with that labctl ran in its place (`labctl kubectl ..`).
    Program(u8),
}

impl Exit {
    /// Every exit code of labctl's own, in the order in which README lists them.
    pub const ALL: [Self; 6] = [
        Self::Done,
        Self::Unmet,
        Self::Usage,
        Self::Environment,
        Self::Bug,
        Self::Interrupted,
    ];

    /// Returns the number the process exits with.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Unmet => 1,
            Self::Usage => 2,
            Self::Environment => 3,
            Self::Bug => 70,
            Self::Interrupted => 130,
            Self::Program(code) => code,
        }
    }

    /// Returns one line that says what the code means.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, and everything asked for holds",
            Self::Unmet => "labctl did its work; at least one criterion is not met",
            Self::Usage => "the command line, a spec or a setting is wrong",
            Self::Environment => {
                "the environment does not allow it (no engine, no cluster, the wrong cluster, a time limit)"
            }
            Self::Bug => "a bug in labctl",
            Self::Interrupted => "stopped by Ctrl-C; run the same command again to go on",
            Self::Program(_) => "what the program exited with that labctl ran",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $exit:ident, $title:literal;)*) => {
        /// A stable name for one way in which a command can fail, or one finding of `labctl doctor`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code, in order of its id.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the id that users and scripts see. It never changes once released.
            pub fn id(self) -> &'static str { match self { $(Self::$name => $id,)* } }

            /// Returns the exit code that this failure gives.
            pub fn exit(self) -> Exit { match self { $(Self::$name => Exit::$exit,)* } }

            /// Returns what the code stands for, in a few words.
            pub fn title(self) -> &'static str { match self { $(Self::$name => $title,)* } }
        }
    };
}

codes! {
    /// No container engine answers.
    EngineMissing = "LAB-ENV-001", Environment, "no container engine answers";
    /// An engine is there, and this user may not talk to it.
    EngineDenied = "LAB-ENV-002", Environment, "the container engine refuses this user";
    /// The engine answers and is older than what the lab needs.
    EngineTooOld = "LAB-ENV-003", Environment, "the container engine is too old";
    /// The engine went away or failed while it worked for us.
    EngineFailed = "LAB-ENV-004", Environment, "the container engine failed";
    /// The machine's capability bounding set lacks what privileged containers ask for.
    CapabilitiesBounded = "LAB-ENV-005", Environment, "the capability bounding set is short";
    /// Too few inotify instances or watches for a cluster.
    Inotify = "LAB-ENV-006", Environment, "too few inotify instances";
    /// Too little memory for what the lab requests.
    Memory = "LAB-ENV-007", Environment, "too little memory";
    /// Too few processors for what the lab requests.
    Cpu = "LAB-ENV-008", Environment, "too few processors";
    /// Too little free disk space.
    Disk = "LAB-ENV-009", Environment, "too little free disk space";
    /// A port that the lab wants is taken.
    PortTaken = "LAB-ENV-010", Environment, "a port is taken";
    /// A tool is missing and could not be had.
    ToolMissing = "LAB-ENV-011", Environment, "a tool is missing";
    /// The clock is wrong, so certificates would not be valid.
    Clock = "LAB-ENV-012", Environment, "the clock is wrong";
    /// Another program named labctl is earlier on PATH.
    OtherLabctl = "LAB-ENV-013", Environment, "another labctl is earlier on PATH";
    /// A directory labctl must write to cannot be written.
    NotWritable = "LAB-ENV-014", Environment, "a directory cannot be written";
    /// Another labctl holds the lab's lock.
    LockHeld = "LAB-ENV-015", Environment, "another labctl works on this lab";
    /// An image registry does not answer, or answers with an error.
    ImageRegistry = "LAB-ENV-016", Environment, "an image registry does not answer";
    /// A package registry (Debian, Go modules) does not answer.
    PackageRegistry = "LAB-ENV-017", Environment, "a package registry does not answer";
    /// A cache entry does not have the digest it should have.
    CacheCorrupt = "LAB-ENV-018", Environment, "a cache entry is corrupt";
    /// The lab has no cluster.
    ClusterMissing = "LAB-ENV-019", Environment, "the lab has no cluster";
    /// The cluster that answers is not the one the lab was made in.
    ClusterWrong = "LAB-ENV-020", Environment, "another cluster answers";
    /// The cluster is there and does not become ready, or does not answer.
    ClusterUnready = "LAB-ENV-021", Environment, "the cluster is not ready";
    /// A program that labctl ran failed.
    ProgramFailed = "LAB-ENV-022", Environment, "a program failed";
    /// A time limit of labctl's ran out.
    Timeout = "LAB-ENV-023", Environment, "a time limit ran out";
    /// A name the lab wants is used by something that is not the lab's.
    Foreign = "LAB-ENV-024", Environment, "a name is used by something that is not the lab's";
    /// Something labelled is left after a teardown.
    LeftOver = "LAB-ENV-025", Environment, "something is left after teardown";
    /// The dashboard does not answer.
    DashboardDown = "LAB-ENV-026", Environment, "the dashboard does not answer";
    /// The kernel runs cgroup v1, which Kubernetes is leaving.
    CgroupV1 = "LAB-ENV-027", Environment, "the kernel uses cgroup v1";
    /// The engine keeps images, or runs, in a way that the lab must know of.
    EngineStorage = "LAB-ENV-028", Environment, "the engine is set up in an unusual way";
    /// A proxy or a private certificate authority is between the lab and the network.
    Proxy = "LAB-ENV-029", Environment, "a proxy is in the way";
    /// Files that a killed labctl left.
    Stale = "LAB-ENV-030", Environment, "files of a killed labctl are left";
    /// The dashboard answers that it cannot do it now.
    DashboardFailed = "LAB-ENV-031", Environment, "the dashboard cannot do it now";
    /// The command line is wrong.
    Arguments = "LAB-USE-001", Usage, "the command line is wrong";
    /// There is no such chapter.
    UnknownChapter = "LAB-USE-002", Usage, "there is no such chapter";
    /// A setting has a value that cannot be used.
    Setting = "LAB-USE-003", Usage, "a setting cannot be used";
    /// A question was asked and there is nobody to answer it.
    NeedsYes = "LAB-USE-004", Usage, "a question needs an answer";
    /// The dashboard refuses what it was asked.
    DashboardRefused = "LAB-USE-005", Usage, "the dashboard refuses the request";
    /// The chapter was never started.
    NotStarted = "LAB-USE-006", Usage, "the chapter was never started";
    /// A spec file cannot be read.
    SpecUnreadable = "LAB-SPEC-001", Usage, "a spec file cannot be read";
    /// A spec file is not what it must be.
    SpecInvalid = "LAB-SPEC-002", Usage, "a spec file is not valid";
    /// Criteria of a chapter are not met.
    CriteriaUnmet = "LAB-CHK-001", Unmet, "criteria are not met";
    /// Something happened that labctl's authors did not foresee.
    Bug = "LAB-BUG-001", Bug, "a bug in labctl";
    /// Ctrl-C or SIGTERM.
    Interrupted = "LAB-INT-001", Interrupted, "stopped before it was done";
}

/// A failure as the user sees it: what failed, under which id, and what to do next.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// The stable name of this kind of failure.
    pub code: Code,
    /// What failed, in one line without a full stop.
    pub message: String,
    /// What to do next, most useful first; each a sentence or a command.
    pub hints: Vec<String>,
}

impl Diagnosis {
    /// Makes a diagnosis without hints.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hints: Vec::new(),
        }
    }

    /// Adds a hint: the next command, or the next thing to look at.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Turns the diagnosis into an error.
    pub fn error(self) -> anyhow::Error {
        anyhow::Error::new(self)
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnosis {}

/// What a full disk means to the user, wherever it shows: any write can be the one that finds it full.
static DISK_FULL: LazyLock<Diagnosis> = LazyLock::new(|| {
    Diagnosis::new(Code::Disk, "the disk is full")
        .hint("labctl image prune frees images that no lab uses; labctl teardown --all frees everything")
        .hint("then run the same command again; it goes on from here")
});

fn is_full(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause
        .downcast_ref::<io::Error>()
        .is_some_and(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// Returns the outermost diagnosis on an error's chain, or that of a full disk where none was made and the disk is full.
pub fn diagnosis(error: &anyhow::Error) -> Option<&Diagnosis> {
    // `anyhow::Error::downcast_ref` also finds a diagnosis that was attached with `.context(..)`, but only on the
    // outermost layers; a cause deeper down is found by walking.
    error
        .downcast_ref::<Diagnosis>()
        .or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<Diagnosis>()))
        .or_else(|| error.chain().any(is_full).then(|| &*DISK_FULL))
}

/// Returns the exit code for an error: that of its diagnosis, or [`Exit::Environment`] where a plain error came up.
///
/// A plain error is nearly always a file or a connection that failed; a broken promise inside labctl is a panic,
/// which gives [`Exit::Bug`].
pub fn exit_of(error: &anyhow::Error) -> Exit {
    diagnosis(error).map_or(Exit::Environment, |found| found.code.exit())
}

/// Writes an error for people: `error[ID]: ..`, its causes, then its hints.
pub fn render(error: &anyhow::Error) -> String {
    let found = diagnosis(error);
    let mut text = String::new();
    let head = error.to_string();
    match found {
        Some(d) => _ = writeln!(text, "error[{}]: {head}", d.code.id()),
        None => _ = writeln!(text, "error: {head}"),
    }
    let mut last = head;
    for cause in error.chain().skip(1) {
        let line = cause.to_string();
        // Libraries often repeat their source in their own text; once is enough.
        if last.contains(&line) {
            continue;
        }
        let mut lines = line.lines();
        _ = writeln!(text, "  caused by: {}", lines.next().unwrap_or_default());
        for more in lines {
            _ = writeln!(text, "             {more}");
        }
        last = line;
    }
    for hint in found.map(|d| d.hints.as_slice()).unwrap_or_default() {
        _ = writeln!(text, "  hint: {hint}");
    }
    text
}

/// Adds a [`Diagnosis`] to the error of a result.
pub trait Diagnose<T> {
    /// Puts the diagnosis that `make` returns on the error's chain, where there is an error.
    ///
    /// # Errors
    /// The error it was given, with the diagnosis on top.
    fn diagnose(self, make: impl FnOnce() -> Diagnosis) -> anyhow::Result<T>;
}

impl<T, E> Diagnose<T> for Result<T, E>
where
    E: Into<anyhow::Error>,
{
    fn diagnose(self, make: impl FnOnce() -> Diagnosis) -> anyhow::Result<T> {
        self.map_err(|error| error.into().context(make()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_sorted_within_their_group() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.id()), "{} is used twice", code.id());
        }
    }

    #[test]
    fn a_diagnosis_is_found_below_other_context() {
        let error = Diagnosis::new(Code::PortTaken, "port 8080 is taken")
            .hint("labctl up --http-port 8081")
            .error()
            .context("create the cluster");
        assert_eq!(exit_of(&error), Exit::Environment);
        let text = render(&error);
        assert_eq!(
            text,
            "error[LAB-ENV-010]: create the cluster\n  caused by: port 8080 is taken\n  hint: labctl up --http-port 8081\n"
        );
    }

    #[test]
    fn a_full_disk_is_told_wherever_it_shows() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = anyhow::Error::new(full).context("pack `libc.so.6`");
        assert_eq!(diagnosis(&error).map(|found| found.code), Some(Code::Disk));
        let text = render(&error);
        assert!(text.starts_with("error[LAB-ENV-009]: pack `libc.so.6`\n"), "{text}");
        assert!(text.contains("hint: labctl image prune"), "{text}");
        // Who knew more has said more.
        let known = error.context(Diagnosis::new(Code::EngineFailed, "build the image"));
        assert_eq!(diagnosis(&known).map(|found| found.code), Some(Code::EngineFailed));
    }

    #[test]
    fn a_cause_that_repeats_its_parent_is_printed_once() {
        let inner = anyhow::anyhow!("connection refused");
        let error = inner.context("ask the registry: connection refused");
        assert_eq!(render(&error), "error: ask the registry: connection refused\n");
    }
}
