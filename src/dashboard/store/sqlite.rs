//! SQLite: jobs in one file, for one server.
//!
//! There is one connection that writes, because SQLite lets one write at a time, and a few that read beside it (WAL).
//! A commit is not pushed to the disk at once (`synchronous = NORMAL`): what a killed server had committed is there when
//! the next one starts, and a machine that lost its power has a database that is whole and may lack the last moments.
//! Two kinds of commits are pushed to the disk, and with them all before them: those that create jobs, because whoever
//! is told that a job is there may rely on it, and the one that says that a job's log is stored whole, because after it
//! the runner forgets its own copy.

mod audit;
mod counters;
mod create;
mod documents;
mod readers;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteArguments, SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Sqlite as Driver};
use tokio::sync::{Mutex, broadcast};

use self::readers::{Deadline, Reader, Readers};
use super::audit::Act;
use super::list::{self, Ask, Bind, Dialect, Reach, Statement, columns};
use super::listed::{Key, Listed, Rows};
use super::row::{self, get};
use super::{
    Changed, Counts, Created, Fence, Filter, JobStore, NewJob, Page, Scope, StoreError, fault, migration, no_counts,
};
use crate::dashboard::job::spec::Spec;
use crate::dashboard::job::{Change, Job, JobId};
use crate::dashboard::log::Chunk;

/// How many connections read.
const READERS: u32 = 4;
/// How long it is waited for another process that writes.
const BUSY: Duration = Duration::from_secs(2);
/// How long a statement may take.
const STATEMENT: Duration = Duration::from_secs(5);
/// How large the WAL file stays after a burst.
const WAL_BYTES: u64 = 32 << 20;
/// How much of the file a reading connection maps into memory; what it does not touch costs nothing.
const MAPPED_BYTES: u64 = 4 << 30;
/// How many changes a receiver may be behind.
const CHANGES: usize = 4096;

/// What can be chosen about an SQLite store.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// How large the database may become, in bytes; more is refused with [`StoreError::Full`].
    pub quota_bytes: Option<u64>,
}

/// A store in an SQLite file; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Sqlite {
    inner: Arc<Inner>,
    fence: Option<Arc<Fence>>,
    /// What is written down beside what it changes.
    act: Option<Arc<Act>>,
}

struct Inner {
    version: String,
    readers: Arc<Readers>,
    writer: SqlitePool,
    /// Until when the connection that writes may do what it does.
    deadline: Deadline,
    quota_pages: Option<u64>,
    /// Rows that were listed lately.
    rows: Rows,
    /// Whose turn it is to write: changes are told in the order in which they are committed.
    turn: Mutex<Turn>,
    /// Jobs that are to be created with the next turn.
    waiting: create::Waiting,
    changes: broadcast::Sender<Changed>,
}

/// How the connection that writes is left.
#[derive(Default)]
struct Turn {
    /// A transaction was begun and not committed.
    begun: bool,
    /// Its commits are pushed to the disk.
    durable: bool,
    /// It may exceed the quota: what makes room must not fail for want of it.
    over_quota: bool,
}

impl Sqlite {
    /// Opens the database of a file, makes it where there is none, and brings it up to date.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the file cannot be opened, [`StoreError::Broken`] where it is no database of
    /// this labctl, and as every call.
    pub async fn open(path: &Path, settings: Settings) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY)
            .foreign_keys(true)
            .pragma("journal_size_limit", WAL_BYTES.to_string())
            .pragma("temp_store", "memory")
            .disable_statement_logging();
        // This one writes, so a connection that only reads cannot be told it.
        let vacuumed = options.clone().auto_vacuum(SqliteAutoVacuum::Incremental);
        // A page has 4096 bytes; a database without room for its tables cannot be made.
        let quota_pages = settings.quota_bytes.map(|bytes| (bytes / 4096).max(64));
        let limited = match quota_pages {
            Some(pages) => vacuumed.pragma("max_page_count", pages.to_string()),
            None => vacuumed,
        };
        let opened = |error| match fault::sqlite(error) {
            StoreError::Unavailable(error) => {
                StoreError::Unavailable(error.context(format!("open the database `{}`", path.display())))
            }
            StoreError::Broken(error) => {
                StoreError::Broken(error.context(format!("`{}` is no database of labctl", path.display())))
            }
            other => other,
        };
        let deadline = Deadline::default();
        let watched = deadline.clone();
        // Two that open a new file at once would each turn it to its mode: SQLite lets one of them fail at that, and waits
        // for nobody.
        let alone = alone(path)
            .await
            .map_err(|error| error.context(format!("open the database `{}`", path.display())))
            .map_err(StoreError::Unavailable)?;
        // It lives as long as the store: there is nothing to heal in a file.
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(STATEMENT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .after_connect(move |connection, _| {
                let watched = watched.clone();
                Box::pin(async move {
                    watched.begin(STATEMENT);
                    watched.watch(connection).await
                })
            })
            .connect_with(limited)
            .await
            .map_err(opened)?;
        // Making an index on a large table takes its time.
        deadline.begin(Duration::MAX);
        let migrated = migration::all("sqlite").map_err(StoreError::Broken)?.run(&writer).await;
        migrated.map_err(|error| fault::migration(error, fault::sqlite))?;
        drop(alone);
        let readers = Arc::new(Readers::new(
            options
                .create_if_missing(false)
                .read_only(true)
                // What the system has in its cache is read without a call for each page.
                .pragma("mmap_size", MAPPED_BYTES.to_string()),
            READERS,
        ));
        let version = readers.get().await?.one(sqlx::query("SELECT sqlite_version()")).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                version: get(&version, 0)?,
                readers,
                writer,
                deadline,
                quota_pages,
                rows: Rows::default(),
                turn: Mutex::default(),
                waiting: create::Waiting::default(),
                changes: broadcast::Sender::new(CHANGES),
            }),
            fence: None,
            act: None,
        })
    }

    /// Closes the database; what is asked afterwards is answered with [`StoreError::Unavailable`].
    pub async fn close(&self) {
        self.inner.readers.close().await;
        // The last connection that closes moves the WAL into the database.
        self.inner.writer.close().await;
    }

    async fn reader(&self) -> Result<Reader, StoreError> {
        self.inner.readers.get().await
    }

    /// Returns the connection that writes, with the time of one call.
    async fn writer(&self) -> Result<PoolConnection<Driver>, StoreError> {
        let connection = self.inner.writer.acquire().await.map_err(fault::sqlite)?;
        self.inner.deadline.begin(STATEMENT);
        Ok(connection)
    }
}

/// Waits to be the only one, of all processes, who opens a database and brings it up to date; that is until what this
/// returns is dropped. SQLite has no lock that outlives the transaction of one migration, so a file beside the database is
/// the lock. Not the database itself: SQLite's own locks would be gone when it is closed.
async fn alone(path: &Path) -> anyhow::Result<std::fs::File> {
    let beside = PathBuf::from(format!("{}-migrate", path.display()));
    tokio::task::spawn_blocking(move || {
        let file = std::fs::File::create(&beside).with_context(|| format!("make the lock `{}`", beside.display()))?;
        file.lock().with_context(|| format!("lock `{}`", beside.display()))?;
        Ok(file)
    })
    .await?
}

type Query<'q> = sqlx::query::Query<'q, Driver, SqliteArguments>;

fn query(statement: &Statement) -> Query<'_> {
    let mut query = sqlx::query(AssertSqlSafe(statement.sql.clone()));
    for bind in &statement.binds {
        query = match bind {
            Bind::Number(number) => query.bind(*number),
            Bind::State(number) => query.bind(*number),
            Bind::Text(text) => query.bind(text.clone()),
            // Only PostgreSQL is asked for lists of numbers.
            Bind::Numbers(_) => query.bind(None::<i64>),
        };
    }
    query
}

#[async_trait]
impl Ask for Reader {
    const DIALECT: Dialect = Dialect::Sqlite;

    async fn jobs(&mut self, statement: &Statement) -> Result<Vec<Job>, StoreError> {
        // A page comes as one value: the driver copies each value of each row, and sends each row from thread to thread,
        // which took longer than finding and reading them.
        let whole = Statement {
            sql: row::as_json(&statement.sql),
            ..statement.clone()
        };
        row::jobs_from_json(get(&self.one(query(&whole)).await?, 0)?)
    }

    async fn keys(&mut self, statement: &Statement) -> Result<Vec<Key>, StoreError> {
        let whole = Statement {
            sql: row::keys_as_json(&statement.sql),
            ..statement.clone()
        };
        row::keys_from_json(get(&self.one(query(&whole)).await?, 0)?)
    }

    async fn with_ids(&mut self, ids: Vec<i64>) -> Result<Vec<Job>, StoreError> {
        let rows = concat!(
            "SELECT ",
            columns!("j"),
            " FROM json_each(?) e CROSS JOIN jobs j ON j.id = e.value"
        );
        let statement = Statement {
            sql: row::as_json(rows),
            binds: vec![Bind::Text(serde_json::to_string(&ids).map_err(row::broken)?)],
            has_one_plan: false,
        };
        row::jobs_from_json(get(&self.one(query(&statement)).await?, 0)?)
    }

    async fn size(&mut self) -> Result<i64, StoreError> {
        let row = self.one(sqlx::query("SELECT coalesce(sum(n), 0) FROM job_totals"));
        get(&row.await?, 0)
    }

    async fn reach(&mut self, statement: Statement) -> Result<Reach, StoreError> {
        let row = self.one(query(&statement)).await?;
        Ok(Reach {
            oldest: get(&row, 0)?,
            ids: get(&row, 1)?,
        })
    }
}

#[async_trait]
impl JobStore for Sqlite {
    fn name(&self) -> String {
        format!("SQLite {}", self.inner.version)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let mut reader = self.reader().await?;
        reader.first(sqlx::query("SELECT 1 FROM leases LIMIT 1")).await?;
        Ok(())
    }

    async fn newest(&self) -> Result<Option<JobId>, StoreError> {
        let mut reader = self.reader().await?;
        let row = reader.one(sqlx::query("SELECT max(id) FROM jobs")).await?;
        get::<_, Option<i64>>(&row, 0)?.map(row::id).transpose()
    }

    async fn create(&self, job: NewJob) -> Result<Created, StoreError> {
        self.write_new(job).await
    }

    async fn keyed(&self, owner: &str, key: &super::Key) -> Result<Option<Job>, StoreError> {
        let sql = "SELECT id, body FROM job_keys WHERE owner = ? AND key = ?";
        let query = sqlx::query(sql).bind(owner.to_owned()).bind(key.key.clone());
        let rows = self.reader().await?.all(query).await?;
        let Some(known) = rows.first() else { return Ok(None) };
        if get::<_, Vec<u8>>(known, 1)? != key.body {
            return Err(StoreError::KeyReused);
        }
        self.job(row::id(get(known, 0)?)?, &Scope::All).await
    }

    async fn job(&self, id: JobId, scope: &Scope) -> Result<Option<Job>, StoreError> {
        let mut reader = self.reader().await?;
        let owner = match scope {
            Scope::All => None,
            Scope::Owner(owner) => Some(owner),
        };
        let sql = concat!(
            "SELECT ",
            columns!("jobs"),
            " FROM jobs WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)"
        );
        let row = reader.first(sqlx::query(sql).bind(id.number()).bind(owner)).await?;
        row.as_ref().map(row::job).transpose()
    }

    async fn spec(&self, id: JobId) -> Result<Option<Spec>, StoreError> {
        let mut reader = self.reader().await?;
        let query = sqlx::query("SELECT spec FROM job_specs WHERE id = ?").bind(id.number());
        let row = reader.first(query).await?;
        row.map(|row| row::spec(&get::<_, String>(&row, 0)?)).transpose()
    }

    async fn list(&self, scope: &Scope, filter: &Filter, page: Page) -> Result<Vec<Listed>, StoreError> {
        list::page(&mut self.reader().await?, &self.inner.rows, scope, filter, page).await
    }

    async fn counts(&self, scope: &Scope) -> Result<Counts, StoreError> {
        let mut reader = self.reader().await?;
        let query = match scope {
            Scope::All => sqlx::query("SELECT state, n FROM job_totals"),
            Scope::Owner(owner) => sqlx::query("SELECT state, n FROM job_counts WHERE owner = ?").bind(owner),
        };
        let mut counts = no_counts();
        for row in reader.all(query).await? {
            counts.insert(row::state(get(&row, 0)?)?, get(&row, 1)?);
        }
        Ok(counts)
    }

    async fn recount(&self) -> Result<u64, StoreError> {
        let store = self.clone();
        self.settled(async move { store.write_recount().await }).await
    }

    async fn change(&self, id: JobId, version: i64, change: &Change) -> Result<Option<Job>, StoreError> {
        let (store, change) = (self.clone(), change.clone());
        self.settled(async move { store.write_change(id, version, change).await })
            .await
    }

    async fn unfinished(&self, after: Option<JobId>, limit: u32) -> Result<Vec<Job>, StoreError> {
        let mut reader = self.reader().await?;
        let sql = concat!(
            "SELECT ",
            columns!("jobs"),
            " FROM jobs INDEXED BY jobs_open WHERE open = 1 AND id > ? ORDER BY id LIMIT ?"
        );
        let query = sqlx::query(sql).bind(after.map_or(-1, JobId::number)).bind(limit);
        let rows = reader.all(query).await?;
        rows.iter().map(row::job).collect()
    }

    async fn delete(&self, id: JobId, scope: &Scope) -> Result<bool, StoreError> {
        let (store, scope) = (self.clone(), scope.clone());
        self.settled(async move { store.write_delete(id, scope).await }).await
    }

    async fn expired(
        &self,
        ended_before_ms: i64,
        after: Option<(i64, JobId)>,
        limit: u32,
    ) -> Result<Vec<Job>, StoreError> {
        let mut reader = self.reader().await?;
        let sql = concat!(
            "SELECT ",
            columns!("jobs"),
            " FROM jobs INDEXED BY jobs_finished WHERE finished_ms < ?1 AND finished_ms >= ?2 AND (finished_ms, id) > (?2, ?3)
             ORDER BY finished_ms, id LIMIT ?4"
        );
        let (end, id) = after.map_or((i64::MIN, -1), |(end, id)| (end, id.number()));
        let query = sqlx::query(sql).bind(ended_before_ms).bind(end).bind(id).bind(limit);
        let rows = reader.all(query).await?;
        rows.iter().map(row::job).collect()
    }

    async fn append_log(&self, id: JobId, chunk: &Chunk) -> Result<(), StoreError> {
        let (store, chunk) = (self.clone(), chunk.clone());
        self.settled(async move { store.write_log(id, chunk).await }).await
    }

    async fn log(&self, id: JobId, from: u64, limit: u32) -> Result<Vec<Chunk>, StoreError> {
        // No line has a number that cannot be stored.
        let Ok(from) = row::number(from) else {
            return Ok(Vec::new());
        };
        let mut reader = self.reader().await?;
        let query = sqlx::query(
            "SELECT first, lines, bytes, position, data FROM log_parts WHERE job = ?1 AND first >= coalesce(
                (SELECT p.first FROM log_parts p WHERE p.job = ?1 AND p.first <= ?2 ORDER BY p.first DESC LIMIT 1), 0)
             AND first + lines > ?2 ORDER BY first LIMIT ?3",
        );
        let query = query.bind(id.number()).bind(from).bind(limit);
        let rows = reader.all(query).await?;
        rows.iter().map(row::chunk).collect()
    }

    async fn log_end(&self, id: JobId) -> Result<Option<Chunk>, StoreError> {
        let mut reader = self.reader().await?;
        let sql = "SELECT first, lines, bytes, position, data FROM log_parts WHERE job = ? ORDER BY first DESC LIMIT 1";
        let row = reader.first(sqlx::query(sql).bind(id.number())).await?;
        row.as_ref().map(row::chunk).transpose()
    }

    async fn log_size(&self, id: JobId) -> Result<u64, StoreError> {
        let mut reader = self.reader().await?;
        let query = sqlx::query("SELECT coalesce(sum(bytes), 0) FROM log_parts WHERE job = ?").bind(id.number());
        row::count(get(&reader.one(query).await?, 0)?)
    }

    async fn log_bytes(&self) -> Result<u64, StoreError> {
        let mut reader = self.reader().await?;
        let row = reader.one(sqlx::query("SELECT bytes FROM log_total")).await?;
        row::count(get(&row, 0)?)
    }

    async fn lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<bool, StoreError> {
        let (mut store, name, holder) = (self.clone(), name.to_owned(), holder.to_owned());
        // Who takes the lease need not have it.
        store.fence = None;
        self.settled(async move { store.write_lease(name, holder, ttl).await })
            .await
    }

    fn fenced(&self, lease: &str, holder: &str) -> Arc<dyn JobStore> {
        Arc::new(Self {
            fence: Some(Arc::new(Fence {
                lease: lease.to_owned(),
                holder: holder.to_owned(),
            })),
            ..self.clone()
        })
    }

    fn by(&self, act: Act) -> Arc<dyn JobStore> {
        Arc::new(Self {
            act: Some(Arc::new(act)),
            ..self.clone()
        })
    }

    fn changes(&self) -> broadcast::Receiver<Changed> {
        self.inner.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Row as _;

    use super::*;
    use crate::dashboard::job::State;
    use crate::dashboard::store::MinDuration;

    #[tokio::test]
    async fn every_list_walks_along_an_index_in_order() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Sqlite::open(&dir.path().join("jobs.db"), Settings::default())
            .await
            .expect("opened");
        let mut reader = store.reader().await.expect("a connection");
        let mut seen = 0;
        for bits in 0..128_u32 {
            let filter = Filter {
                states: match bits & 3 {
                    0 => vec![],
                    1 => vec![State::Failed],
                    _ => vec![State::Failed, State::Running, State::Pending],
                },
                owner: (bits & 4 > 0).then(|| "ada".to_owned()),
                labels: if bits & 8 > 0 {
                    [("a".into(), "b".into()), ("c".into(), "d".into())].into()
                } else {
                    [].into()
                },
                text: (bits & 16 > 0).then(|| "night".to_owned()),
                template: (bits & 32 > 0).then(|| "etl".to_owned()),
                min_duration: (bits & 64 > 0).then_some(MinDuration { ms: 60_000, now_ms: 9 }),
                ..Filter::default()
            };
            for statement in list::statements(Dialect::Sqlite, &Scope::All, &filter) {
                // Pages are asked for by their keys.
                let sql = if statement.sql.contains(".version") {
                    row::keys_as_json(&statement.sql)
                } else {
                    statement.sql.clone()
                };
                let explained = Statement {
                    sql: format!("EXPLAIN QUERY PLAN {sql}"),
                    ..statement
                };
                let rows = reader.all(query(&explained)).await.expect("a plan");
                let plan: Vec<String> = rows.iter().map(|row| row.get(3)).collect();
                let plan = plan.join("\n");
                // `d` is the walk itself, which is limited; FTS5 is asked as a virtual table.
                let scans = plan
                    .lines()
                    .filter(|line| line.contains("SCAN") && !line.contains("VIRTUAL TABLE"));
                let tables: Vec<&str> = scans
                    .filter(|line| line.contains("job") || line.ends_with(" j"))
                    .collect();
                assert!(tables.is_empty(), "{}\n{plan}", explained.sql);
                // Several states are merged, and what comes of a walk is put in order once more.
                let merged = plan.contains("MERGE (UNION ALL)");
                let sorts = plan.matches("TEMP B-TREE").count();
                assert!(sorts <= usize::from(merged), "{}\n{plan}", explained.sql);
                assert!(merged || !explained.sql.contains("UNION"), "{}\n{plan}", explained.sql);
                seen += 1;
            }
        }
        assert!(seen > 500, "{seen} statements");
        for sql in [
            "SELECT max(id) FROM jobs",
            "SELECT id FROM jobs INDEXED BY jobs_open WHERE open = 1 AND id > ? ORDER BY id LIMIT ?",
            "SELECT id FROM jobs INDEXED BY jobs_finished WHERE finished_ms < ?1 AND finished_ms >= ?2
                AND (finished_ms, id) > (?2, ?3) ORDER BY finished_ms, id LIMIT ?4",
            "DELETE FROM jobs WHERE id = ?",
        ] {
            let explained = Statement {
                sql: format!("EXPLAIN QUERY PLAN {sql}"),
                binds: Vec::new(),
                has_one_plan: false,
            };
            let rows = reader.all(query(&explained)).await.expect("a plan");
            let plan: Vec<String> = rows.iter().map(|row| row.get(3)).collect();
            assert!(plan.iter().all(|step| step.contains("SEARCH")), "{sql}: {plan:?}");
        }
    }
}
