//! What runs jobs: child processes of this machine, or Kubernetes Jobs.
//!
//! A runner is told what is wanted and says what it sees; it decides nothing about states. Everything may be asked twice,
//! and after a restart of the server everything is asked again.

pub mod kubernetes;
pub mod process;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::health::Heard;
use super::job::spec::Spec;
use super::job::{Job, JobId, Seen};
use super::log::Line;

/// Why a runner did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// It does not answer; it may come back.
    #[error("the runner does not answer")]
    Unavailable(#[source] anyhow::Error),
    /// It wants fewer requests; asking again later helps.
    #[error("the runner is overloaded")]
    Busy(#[source] anyhow::Error),
    /// It refuses this job for good; the text is for the job's owner.
    #[error("{0}")]
    Refused(String),
    /// This runner cannot do this at all, such as suspending a process that has begun.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// What a runner tells without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A job as it is now.
    Seen(JobId, Seen),
    /// All jobs that the runner knows have been told since the last of these; a job that was not is not there.
    Synced,
    /// It does not see its jobs any more; why, for `/readyz`.
    Blind(String),
}

/// Lines that follow each other, and where the runner goes on after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The lines; at least one, and no more than about [`BATCH_BYTES`] of them where there is more than one.
    pub lines: Vec<Line>,
    /// Where reading goes on after the last of them; only the runner knows what it means.
    pub position: String,
}

/// How many bytes of lines a batch should have at most: a reader that is behind holds a few batches.
pub const BATCH_BYTES: usize = 256 << 10;

/// What is asked of a runner.
#[async_trait]
pub trait Runner: Send + Sync {
    /// Returns what it is, for the log and for `/readyz`.
    fn name(&self) -> String;

    /// Returns when it last heard of what runs its jobs, for `/readyz`; nothing where it runs them itself.
    fn heard(&self) -> Option<Heard> {
        None
    }

    /// Begins a job. One that was begun already is left as it is.
    ///
    /// # Errors
    /// [`RunnerError`].
    async fn begin(&self, job: &Job, spec: &Spec) -> Result<(), RunnerError>;

    /// Asks a job to end: gently at first, and then for good. One that is not there has ended.
    ///
    /// # Errors
    /// [`RunnerError`].
    async fn end(&self, job: &Job) -> Result<(), RunnerError>;

    /// Holds a job back, or lets it go on.
    ///
    /// # Errors
    /// [`RunnerError`]; [`RunnerError::Unsupported`] where it has begun and cannot be held.
    async fn suspend(&self, job: &Job, suspend: bool) -> Result<(), RunnerError>;

    /// Forgets a job that has ended: its row and its log are stored.
    ///
    /// # Errors
    /// [`RunnerError`].
    async fn forget(&self, job: &Job) -> Result<(), RunnerError>;

    /// Removes what is left of a job that the store does not know (any more). A runner that keeps nothing need not.
    ///
    /// # Errors
    /// [`RunnerError`].
    async fn discard(&self, id: JobId) -> Result<(), RunnerError> {
        _ = id;
        Ok(())
    }

    /// Parts from the jobs that run, because the server stops: they go on, and the next server finds them; or, with
    /// `stop`, they end, with a reason that says so. Returns how many go on. Nothing is begun after it.
    async fn leave(&self, stop: bool) -> usize {
        _ = stop;
        0
    }

    /// Sends a job's lines from `position` on (empty: from its beginning), numbered from `next`, until nothing more can
    /// come for now, and then returns: the attempt ended, or the job. Breaks of the connection are the runner's to mend;
    /// lines that are lost for good are told by a line of [`super::log::Stream::Note`]. A line is sent as soon as it is
    /// there, not when a batch is full.
    ///
    /// # Errors
    /// It cannot be read now; the same call again may work.
    async fn follow(&self, job: &Job, position: &str, next: u64, lines: mpsc::Sender<Batch>)
    -> Result<(), RunnerError>;

    /// Tells how jobs are: all of them at first, then [`Told::Synced`], then every change. Ends with the receiver.
    async fn watch(&self, told: mpsc::Sender<Told>);
}
