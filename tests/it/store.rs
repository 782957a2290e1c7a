//! The stores of the job-dashboard: one suite holds for SQLite and PostgreSQL, and each has tests of its own.

mod audit;
mod contract;
mod documents;
mod fence;
mod list;
mod parameters;
mod postgres;
mod sqlite;
mod together;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use labctl::dashboard::job::spec::{Priority, Spec};
use labctl::dashboard::job::{Change, Job, JobId, State};
use labctl::dashboard::log::{Chunk, Line, Stream};
use labctl::dashboard::store::{Created, JobStore, NewJob};

/// 2026-09-01, in milliseconds since 1970.
const BEGIN_MS: i64 = 1_788_220_800_000;

/// A store for one test.
pub(crate) struct Place {
    pub(crate) store: Arc<dyn JobStore>,
    /// What must outlive the store.
    _keep: Box<dyn std::any::Any>,
}

/// Makes a store in a file of its own.
async fn sqlite_place() -> Place {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = sqlite::open(&dir.path().join("jobs.db")).await;
    Place {
        store: Arc::new(store),
        _keep: Box::new(dir),
    }
}

/// Makes a job that is new: `ms` after [`BEGIN_MS`].
fn new_job(owner: &str, name: &str, ms: i64) -> NewJob {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    NewJob {
        id: JobId::after(None, BEGIN_MS + ms, COUNT.fetch_add(1, Ordering::Relaxed)),
        owner: owner.to_owned(),
        spec: spec(name, &[]),
        template: None,
        parent: None,
        created_ms: BEGIN_MS + ms,
        key: None,
    }
}

fn spec(name: &str, labels: &[(&str, &str)]) -> Spec {
    Spec {
        name: name.to_owned(),
        command: vec!["echo".into(), "it's \"quoted\" \\ ünï\n".into()],
        image: Some("registry.example/team/app:1".into()),
        env: BTreeMap::from([("A".into(), "b".into())]),
        labels: labels
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
        retries: 2,
        suspend: false,
        priority: Priority::Normal,
        limits: labctl::dashboard::job::spec::Limits::default(),
    }
}

async fn create(store: &dyn JobStore, new: NewJob) -> Job {
    match store.create(new).await.expect("created") {
        Created::New(job) => job,
        Created::Replayed(job) => panic!("{} was created before", job.id),
    }
}

fn to_state(state: State) -> Change {
    Change {
        state: Some(state),
        finished_ms: state.is_final().then_some(BEGIN_MS + 5000),
        ..Change::default()
    }
}

/// Brings a job to a state, whatever its version is.
async fn bring(store: &dyn JobStore, job: &Job, state: State) -> Job {
    let changed = store.change(job.id, job.version, &to_state(state)).await;
    changed.expect("changed").expect("the version is the newest")
}

fn chunk(first: u64, lines: u64, text: &str) -> Chunk {
    let lines: Vec<Line> = (first..first + lines)
        .map(|number| Line {
            number,
            at_us: 1,
            attempt: 1,
            stream: Stream::Stdout,
            partial: false,
            bytes: Bytes::copy_from_slice(format!("{text} {number}").as_bytes()),
        })
        .collect();
    Chunk::pack(&lines, format!("after {}", first + lines.len() as u64 - 1)).expect("packed")
}

/// Makes each test of the suite a test of both databases.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(&crate::store::sqlite_place().await).await;
                }
            )+
        }

        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(place) = crate::store::postgres::place().await {
                        super::$test(&place).await;
                    }
                }
            )+
        }
    };
}
use on_both;
