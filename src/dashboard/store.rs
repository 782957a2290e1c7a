//! Where jobs are kept: SQLite for one server, PostgreSQL for many. One suite of tests holds for both.
//!
//! Rows are narrow, so that a list reads little; specs and logs lie beside them. Counters per owner and state are kept by
//! whoever changes a row, in the same transaction, so that nobody has to count. Rows that lists showed lately are kept by
//! their versions ([`Listed`]), so that a page is not read twice. SQL is written in these modules alone.

pub mod audit;
pub mod documents;
pub mod postgres;
pub mod sqlite;

mod counters;
mod fault;
mod gram;
mod list;
mod listed;
mod migration;
mod row;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::audit::{Act, Audit};
use self::documents::Documents;
pub use self::listed::Listed;
use super::job::spec::Spec;
use super::job::template::Origin;
use super::job::{Change, Job, JobId, State};
use super::log::Chunk;
use super::log::relay::Wire;

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not answer, or broke the connection; it may come back.
    #[error("the database does not answer")]
    Unavailable(#[source] anyhow::Error),
    /// It took longer than a request may take.
    #[error("the database took too long")]
    Timeout(#[source] anyhow::Error),
    /// There is no room: the disk or the quota is full.
    #[error("the database has no room left")]
    Full(#[source] anyhow::Error),
    /// The same idempotency key came with another document.
    #[error("the idempotency key was used for another job")]
    KeyReused,
    /// Another server has taken the lease of the one that asked.
    #[error("another server has taken over")]
    LeaseLost,
    /// What is stored cannot be understood, or a statement is wrong: a bug.
    #[error("the database cannot be used")]
    Broken(#[source] anyhow::Error),
}

/// Whose jobs a request may see. It becomes part of every statement, so a job of somebody else does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    All,
    /// Those of one owner.
    Owner(String),
}

/// A job to be created.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its id, made by the caller ([`JobId::after`]).
    pub id: JobId,
    /// Who creates it.
    pub owner: String,
    /// What it is to run.
    pub spec: Spec,
    /// The template it is made from.
    pub template: Option<Origin>,
    /// The job that it is a rerun of.
    pub parent: Option<JobId>,
    /// When, in milliseconds since 1970.
    pub created_ms: i64,
    /// The key under which the owner may ask again and get the same job.
    pub key: Option<Key>,
}

/// An idempotency key as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// What the client sent.
    pub key: String,
    /// The digest of what it sent the key with, to tell another document under the same key.
    pub body: [u8; 32],
}

/// What became of a [`NewJob`].
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    /// It was created.
    New(Job),
    /// The key was known, with the same document: this job was created then.
    Replayed(Job),
}

/// Which jobs a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those in one of these states; empty means any.
    pub states: Vec<State>,
    /// Those of this owner.
    pub owner: Option<String>,
    /// Those with all of these labels; an empty value is a value.
    pub labels: BTreeMap<String, String>,
    /// Those made from a template with all of these parameters as they were given, as text.
    pub parameters: BTreeMap<String, String>,
    /// Those whose name contains this text, or whose id begins with it (from 8 characters on), without regard to case.
    pub text: Option<String>,
    /// Those made from this template.
    pub template: Option<String>,
    /// Those created at this time or later, in milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Those created before this time.
    pub until_ms: Option<i64>,
    /// Those that ran so long, or have been running for so long.
    pub min_duration: Option<MinDuration>,
}

/// How long jobs ran at least, from their first attempt to their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinDuration {
    /// So many milliseconds.
    pub ms: i64,
    /// Until when those count that have not ended, in milliseconds since 1970.
    pub now_ms: i64,
}

/// Which part of a list: newest first, from after the job that ended the page before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The last job of the page before.
    pub after: Option<JobId>,
    /// How many jobs at most.
    pub limit: u32,
}

/// How many jobs there are in each state; states without jobs have 0.
pub type Counts = BTreeMap<State, i64>;

/// Returns counters of no jobs.
fn no_counts() -> Counts {
    State::ALL.into_iter().map(|state| (state, 0)).collect()
}

/// How many ids that follow each other are tried where two servers made the same one.
const ID_TRIES: u32 = 16;

/// What a store tells of a job that changed; the row is as it is after the change.
#[derive(Debug, Clone, PartialEq)]
pub enum Changed {
    /// A job was created or changed.
    Job(Job),
    /// A job was deleted.
    Deleted {
        /// Its id.
        id: JobId,
        /// Whose it was.
        owner: String,
    },
    /// Changes may have been missed, because the connection on which they are told broke: what is shown must be read
    /// again.
    Missed,
}

/// Opens the store at an address: `postgres://...`, or the path of an SQLite file, with `sqlite:` before it or not.
///
/// # Errors
/// It cannot be opened; no error has the address of a PostgreSQL database in it, for that may have a password.
pub async fn open(address: &str, settings: sqlite::Settings) -> Result<Arc<dyn JobStore>, StoreError> {
    if ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| address.starts_with(scheme))
    {
        return Ok(Arc::new(postgres::Postgres::open(address).await?));
    }
    let path = address
        .strip_prefix("sqlite:")
        .map_or(address, |rest| rest.strip_prefix("//").unwrap_or(rest));
    Ok(Arc::new(sqlite::Sqlite::open(Path::new(path), settings).await?))
}

/// Who must have which lease, for a change to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fence {
    lease: String,
    holder: String,
}

/// A store of jobs, of the documents that jobs are made of, and of who did what.
#[async_trait]
pub trait JobStore: Documents + Audit {
    /// Returns what it is, for the log and for `/readyz`, without secrets: `SQLite`, `PostgreSQL 15.18`.
    fn name(&self) -> String;

    /// Asks the database for an answer.
    ///
    /// # Errors
    /// There is none.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Returns the newest id, so that a server whose clock went back goes on from there.
    ///
    /// # Errors
    /// As every call: [`StoreError`].
    async fn newest(&self) -> Result<Option<JobId>, StoreError>;

    /// Creates a job in state `pending` (or `suspended`, where its spec says so).
    ///
    /// # Errors
    /// [`StoreError::KeyReused`], and as every call.
    async fn create(&self, job: NewJob) -> Result<Created, StoreError>;

    /// Returns the job that an owner's key was used for.
    ///
    /// # Errors
    /// [`StoreError::KeyReused`] where it was used with another document, and as every call.
    async fn keyed(&self, owner: &str, key: &Key) -> Result<Option<Job>, StoreError>;

    /// Returns a job's row.
    ///
    /// # Errors
    /// As every call.
    async fn job(&self, id: JobId, scope: &Scope) -> Result<Option<Job>, StoreError>;

    /// Returns what a job was to run.
    ///
    /// # Errors
    /// As every call.
    async fn spec(&self, id: JobId) -> Result<Option<Spec>, StoreError>;

    /// Returns a page of jobs, newest first.
    ///
    /// # Errors
    /// As every call.
    async fn list(&self, scope: &Scope, filter: &Filter, page: Page) -> Result<Vec<Listed>, StoreError>;

    /// Returns the counters.
    ///
    /// # Errors
    /// As every call.
    async fn counts(&self, scope: &Scope) -> Result<Counts, StoreError>;

    /// Compares the counters with the jobs that there are, and puts them right. Returns by how much they were off: the sum
    /// of what each was. It looks at every job, so it is nothing for a request.
    ///
    /// # Errors
    /// As every call.
    async fn recount(&self) -> Result<u64, StoreError>;

    /// Changes a job's row where it still has this version, and returns it as it is then; nothing where it has another
    /// version or is gone. The job, its counters and its version change together.
    ///
    /// # Errors
    /// As every call.
    async fn change(&self, id: JobId, version: i64, change: &Change) -> Result<Option<Job>, StoreError>;

    /// Returns jobs that still need work (not ended, or ended with a log that is not whole), oldest first, after an id.
    ///
    /// # Errors
    /// As every call.
    async fn unfinished(&self, after: Option<JobId>, limit: u32) -> Result<Vec<Job>, StoreError>;

    /// Deletes a job with its spec, labels and log; only one that has ended. Says whether it was there.
    ///
    /// # Errors
    /// As every call.
    async fn delete(&self, id: JobId, scope: &Scope) -> Result<bool, StoreError>;

    /// Returns the jobs that ended first of those that ended before a time, for retention; from after one on, named by
    /// its end and its id.
    ///
    /// # Errors
    /// As every call.
    async fn expired(
        &self,
        ended_before_ms: i64,
        after: Option<(i64, JobId)>,
        limit: u32,
    ) -> Result<Vec<Job>, StoreError>;

    /// Appends a part of a job's log. The same part twice is one.
    ///
    /// # Errors
    /// As every call.
    async fn append_log(&self, id: JobId, chunk: &Chunk) -> Result<(), StoreError>;

    /// Returns the parts of a job's log that have lines from `from` on, in order.
    ///
    /// # Errors
    /// As every call.
    async fn log(&self, id: JobId, from: u64, limit: u32) -> Result<Vec<Chunk>, StoreError>;

    /// Returns the newest part of a job's log.
    ///
    /// # Errors
    /// As every call.
    async fn log_end(&self, id: JobId) -> Result<Option<Chunk>, StoreError>;

    /// Returns how many bytes the stored lines of a job have, line ends not counted.
    ///
    /// # Errors
    /// As every call.
    async fn log_size(&self, id: JobId) -> Result<u64, StoreError>;

    /// Returns how many bytes the log parts of all jobs have in the store.
    ///
    /// # Errors
    /// As every call.
    async fn log_bytes(&self) -> Result<u64, StoreError>;

    /// Takes or renews a lease; says whether `holder` has it now. Whoever has it does what only one server may do.
    ///
    /// # Errors
    /// As every call.
    async fn lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<bool, StoreError>;

    /// Returns this store for the holder of a lease alone: what it changes and appends is refused with
    /// [`StoreError::LeaseLost`] once somebody else has taken the lease, however late the old holder notices.
    fn fenced(&self, lease: &str, holder: &str) -> Arc<dyn JobStore>;

    /// Returns this store for something that somebody does: what it creates, changes and deletes, jobs and documents, is
    /// written down as done by him, in the same transaction.
    fn by(&self, act: Act) -> Arc<dyn JobStore>;

    /// Returns a wire to the other servers on this store, where the database is one; opened with the first call.
    fn wire(&self) -> Option<Arc<dyn Wire>> {
        None
    }

    /// Returns changes as they happen, by whichever server. A receiver that lags is told so and reads again.
    fn changes(&self) -> tokio::sync::broadcast::Receiver<Changed>;
}
