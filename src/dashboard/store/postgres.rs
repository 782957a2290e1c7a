//! PostgreSQL: jobs for any number of servers.
//!
//! Each statement is a transaction of its own that does all that belongs together, so a change is one round trip, and
//! what is told of it (`NOTIFY`) is told exactly when it is committed. Sessions are set up so that plans do not depend on
//! statistics: lists say themselves along which index they walk (`super::list`). What can be planned in one way alone is
//! planned once a connection, which is half of what a short statement costs; the rest has connections of its own, on which
//! it is planned for its values.
//!
//! A connection that breaks is an error for whoever uses it then, and the next one opens another.

mod audit;
mod counters;
mod create;
mod documents;
mod listen;
mod read;
mod wire;
mod write;

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Postgres as Driver, Row as _};
use tokio::sync::broadcast;

use super::audit::Act;
use super::list::{self, columns};
use super::listed::{Listed, Rows};
use super::row::{self, get};
use super::{
    Changed, Counts, Created, Fence, Filter, JobStore, NewJob, Page, Scope, StoreError, fault, migration, no_counts,
};
use crate::dashboard::job::spec::Spec;
use crate::dashboard::job::{Change, Job, JobId};
use crate::dashboard::log::Chunk;
use crate::dashboard::log::relay::Wire;

/// How many connections a server has at most for what is planned once, and for what is planned each time; and one more on
/// which it listens.
const CONNECTIONS: (u32, u32) = (12, 8);
/// How long a request waits for a connection, be it that all are in use or that the database does not answer.
const ACQUIRE: Duration = Duration::from_secs(2);
/// How long a connection may lie unused and be taken for alive.
const TRUSTED: Duration = Duration::from_millis(500);
/// How long a call may take in all; longer than the session's own limits, which are told more precisely.
const CALL: Duration = Duration::from_secs(8);
/// How long the migrations may take, with waiting for another server that runs them.
const MIGRATION: Duration = Duration::from_secs(300);
/// How long it is waited between two tries to be the one that runs them.
const MIGRATION_PAUSE: Duration = Duration::from_millis(50);
/// How many changes a receiver may be behind.
const CHANGES: usize = 4096;

/// What every session is set to.
///
/// A statement may take 5 s and wait 2 s for a lock. A plan reads no table from end to end where an index can be had, and
/// looks rows up one by one, for there are never many; compiling it or running it in parallel costs more than these
/// statements take. Entries of an index are read in its order, and not gathered and sorted, nor sorted a part at a time,
/// which is what a database does that knows nothing of a table yet (an index of texts can only be gathered from, and is).
/// A session whose server is gone leaves no transaction open.
const SESSION: &str = "SET statement_timeout = '5s'; SET lock_timeout = '2s';
    SET idle_in_transaction_session_timeout = '10s';
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off;
    SET enable_bitmapscan = off; SET enable_incremental_sort = off; SET max_parallel_workers_per_gather = 0";

/// A store in PostgreSQL; cheap to clone, all clones are one. The connections are closed with the last clone.
#[derive(Clone)]
pub struct Postgres {
    inner: Arc<Inner>,
    fence: Option<Arc<Fence>>,
    /// What is written down beside what it changes.
    act: Option<Arc<Act>>,
}

struct Inner {
    /// For statements that are planned once.
    pool: PgPool,
    /// For those that are planned for their values.
    planning: PgPool,
    version: String,
    /// Rows that were listed lately.
    rows: Rows,
    changes: broadcast::Sender<Changed>,
    options: PgConnectOptions,
    wire: wire::Place,
    /// Jobs that wait to be created.
    waiting: create::Waiting,
    _listener: listen::Listener,
}

impl Postgres {
    /// Connects to a database by its URL (`postgres://user:password@host/database`) and brings it up to date.
    ///
    /// The URL is in no error and in no log: it may have a password.
    ///
    /// # Errors
    /// [`StoreError::Broken`] where the URL is none or the database is of another labctl, and as every call.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url)
            // What the parser says may quote the URL.
            .map_err(|_| {
                StoreError::Broken(anyhow!(
                    "the address of the database is no URL such as postgres://user:password@host:5432/database"
                ))
            })?
            .application_name("labctl")
            .disable_statement_logging();
        let place = place(&options);
        // Boxed, as the compiler cannot see through the borrows of sqlx that it may go to another thread.
        let migrating: BoxFuture<'static, _> = Box::pin(migrate(options.clone(), place.clone()));
        let version = tokio::time::timeout(MIGRATION, migrating).await;
        let version = fault::late(version, "bringing the database up to date")??;
        let broke = listen::Break::default();
        let pool = pool(&options, CONNECTIONS.0, "force_generic_plan", &broke);
        let planning = self::pool(&options, CONNECTIONS.1, "force_custom_plan", &broke);
        let changes = broadcast::Sender::new(CHANGES);
        let listener = listen::Listener::start(options.clone(), pool.clone(), changes.clone(), broke)
            .await
            .map_err(|error| opened(error, &place))?;
        let inner = Inner {
            pool,
            planning,
            version,
            rows: Rows::default(),
            changes,
            options,
            wire: wire::Place::default(),
            waiting: create::Waiting::default(),
            _listener: listener,
        };
        Ok(Self {
            inner: Arc::new(inner),
            fence: None,
            act: None,
        })
    }

    async fn connection(&self) -> Result<PoolConnection<Driver>, StoreError> {
        self.inner.pool.acquire().await.map_err(fault::postgres)
    }
}

/// Returns connections whose statements are planned in one way.
fn pool(options: &PgConnectOptions, most: u32, plans: &'static str, broke: &listen::Break) -> PgPool {
    let broke = broke.clone();
    PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(ACQUIRE)
        // Asking a connection whether it is alive takes as long as asking it for a page.
        .test_before_acquire(false)
        .before_acquire(move |connection, metadata| {
            let ask = metadata.idle_for > TRUSTED || broke.within(metadata.idle_for);
            Box::pin(async move {
                if ask {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move {
                let session = AssertSqlSafe(format!("{SESSION}; SET plan_cache_mode = {plans}"));
                connection.execute(sqlx::raw_sql(session)).await?;
                Ok(())
            })
        })
        .connect_lazy_with(options.clone())
}

/// Returns where a database is, without who uses it and with what password.
fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or("postgres");
    match options.get_socket() {
        Some(socket) => format!("database `{database}` at {}", socket.display()),
        None => format!("database `{database}` at {}:{}", options.get_host(), options.get_port()),
    }
}

/// Brings the database up to date, one server at a time (an advisory lock), and returns its version.
async fn migrate(options: PgConnectOptions, place: String) -> Result<String, StoreError> {
    let place = place.as_str();
    // A connection without the limits of a session: making an index on a large table takes its time.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ACQUIRE)
        .connect_with(options)
        .await;
    let pool = pool.map_err(|error| opened(error, place))?;
    let row = sqlx::query("SHOW server_version")
        .fetch_one(&pool)
        .await
        .map_err(|error| opened(error, place))?;
    let version: String = get(&row, 0)?;
    let mut migrator = migration::all("postgres").map_err(StoreError::Broken)?;
    // sqlx's own lock waits within a statement, and whoever makes an index beside those who write waits for the end of
    // every statement: two servers that start at once would wait for each other.
    migrator.set_locking(false);
    let mut connection = pool.acquire().await.map_err(|error| opened(error, place))?;
    while !locked(&mut connection).await.map_err(|error| opened(error, place))? {
        tokio::time::sleep(MIGRATION_PAUSE).await;
    }
    let migrated = async {
        remove_broken_indexes(&mut connection).await.map_err(fault::postgres)?;
        let migrated = migrator.run_direct(None, &mut *connection, false).await;
        migrated.map_err(|error| fault::migration(error, |error| opened(error, place)))
    };
    let migrated = migrated.await;
    drop(connection);
    // The lock goes with the session.
    pool.close().await;
    migrated?;
    // `15.18 (Debian 15.18-0+deb12u1)`: the packager says nothing of interest.
    Ok(version.split(' ').next().unwrap_or_default().to_owned())
}

/// Takes the lock of those who bring the database up to date, for as long as the session lives; says whether it was free.
async fn locked(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let row = sqlx::query("SELECT pg_try_advisory_lock(hashtextextended('labctl migrations', 0))");
    row.fetch_one(connection).await?.try_get(0)
}

/// Removes indexes that were made beside those who write, by a server that ended before they were whole: nobody reads
/// them, everybody keeps them up to date, and they are in the way of the next attempt.
async fn remove_broken_indexes(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let sql = "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
        WHERE NOT i.indisvalid AND t.relname = ANY('{jobs,job_labels,job_names,log_parts}')
            AND t.relnamespace = current_schema()::regnamespace";
    for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
        let index: String = row.try_get(0)?;
        // The database has quoted the name where it must be.
        let drop = AssertSqlSafe(format!("DROP INDEX CONCURRENTLY IF EXISTS {index}"));
        sqlx::query(drop).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Returns what it means that a database cannot be opened.
fn opened(error: sqlx::Error, place: &str) -> StoreError {
    match fault::postgres(error) {
        StoreError::Unavailable(error) => StoreError::Unavailable(error.context(format!("connect to {place}"))),
        other => other,
    }
}

/// Gives a call its time.
async fn timely<T>(call: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
    let result = tokio::time::timeout(CALL, call).await;
    // The session would have ended the statement: it is the connection that does not answer.
    result
        .context("the database did not answer in time")
        .map_err(StoreError::Unavailable)?
}

type Query<'q> = sqlx::query::Query<'q, Driver, PgArguments>;

/// Whose jobs a statement may see, for a condition that NULL turns off.
struct Whose<'a>(Option<&'a str>);

impl<'a> Whose<'a> {
    /// Returns nothing where it can be nobody's.
    fn new(scope: &'a Scope) -> Option<Self> {
        match scope {
            Scope::All => Some(Self(None)),
            Scope::Owner(owner) => (!owner.contains('\0')).then_some(Self(Some(owner))),
        }
    }
}

#[async_trait]
impl JobStore for Postgres {
    fn name(&self) -> String {
        format!("PostgreSQL {}", self.inner.version)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        timely(async { self.connection().await?.ping().await.map_err(fault::postgres) }).await
    }

    async fn newest(&self) -> Result<Option<JobId>, StoreError> {
        timely(async {
            let mut connection = self.connection().await?;
            let row = sqlx::query("SELECT max(id) FROM jobs")
                .fetch_one(&mut *connection)
                .await;
            get::<_, Option<i64>>(&row.map_err(fault::postgres)?, 0)?
                .map(row::id)
                .transpose()
        })
        .await
    }

    async fn create(&self, job: NewJob) -> Result<Created, StoreError> {
        timely(self.write_new(job)).await
    }

    async fn keyed(&self, owner: &str, key: &super::Key) -> Result<Option<Job>, StoreError> {
        timely(self.replayed(owner, key)).await
    }

    async fn job(&self, id: JobId, scope: &Scope) -> Result<Option<Job>, StoreError> {
        let Some(Whose(owner)) = Whose::new(scope) else {
            return Ok(None);
        };
        timely(async {
            let mut connection = self.connection().await?;
            let sql = concat!(
                "SELECT ",
                columns!("jobs"),
                " FROM jobs WHERE id = $1 AND ($2 IS NULL OR owner = $2)"
            );
            let row = sqlx::query(sql)
                .bind(id.number())
                .bind(owner)
                .fetch_optional(&mut *connection)
                .await;
            row.map_err(fault::postgres)?.as_ref().map(row::job).transpose()
        })
        .await
    }

    async fn spec(&self, id: JobId) -> Result<Option<Spec>, StoreError> {
        timely(async {
            let mut connection = self.connection().await?;
            let query = sqlx::query("SELECT spec FROM job_specs WHERE id = $1").bind(id.number());
            let row = query.fetch_optional(&mut *connection).await.map_err(fault::postgres)?;
            row.map(|row| row::spec(&get::<_, String>(&row, 0)?)).transpose()
        })
        .await
    }

    async fn list(&self, scope: &Scope, filter: &Filter, page: Page) -> Result<Vec<Listed>, StoreError> {
        timely(async {
            let mut reader = read::Reader::new(&self.inner);
            list::page(&mut reader, &self.inner.rows, scope, filter, page).await
        })
        .await
    }

    async fn counts(&self, scope: &Scope) -> Result<Counts, StoreError> {
        let mut counts = no_counts();
        let Some(Whose(owner)) = Whose::new(scope) else {
            return Ok(counts);
        };
        timely(async {
            let mut connection = self.connection().await?;
            let query = match owner {
                None => sqlx::query("SELECT state, sum(n)::bigint FROM job_totals GROUP BY state"),
                Some(owner) => {
                    let sql = "SELECT state, sum(n)::bigint FROM job_counts WHERE owner = $1 GROUP BY state";
                    sqlx::query(sql).bind(owner)
                }
            };
            for row in query.fetch_all(&mut *connection).await.map_err(fault::postgres)? {
                counts.insert(row::state(get(&row, 0)?)?, get(&row, 1)?);
            }
            Ok(counts)
        })
        .await
    }

    async fn recount(&self) -> Result<u64, StoreError> {
        timely(self.write_recount()).await
    }

    async fn change(&self, id: JobId, version: i64, change: &Change) -> Result<Option<Job>, StoreError> {
        timely(self.write_change(id, version, change)).await
    }

    async fn unfinished(&self, after: Option<JobId>, limit: u32) -> Result<Vec<Job>, StoreError> {
        timely(async {
            let mut connection = self.connection().await?;
            let sql = concat!(
                "SELECT ",
                columns!("jobs"),
                " FROM jobs WHERE open AND id > $1 ORDER BY id LIMIT $2"
            );
            let query = sqlx::query(sql)
                .bind(after.map_or(-1, JobId::number))
                .bind(i64::from(limit));
            let rows = query.fetch_all(&mut *connection).await.map_err(fault::postgres)?;
            rows.iter().map(row::job).collect()
        })
        .await
    }

    async fn delete(&self, id: JobId, scope: &Scope) -> Result<bool, StoreError> {
        let Some(Whose(owner)) = Whose::new(scope) else {
            return Ok(false);
        };
        timely(self.write_delete(id, owner)).await
    }

    async fn expired(
        &self,
        ended_before_ms: i64,
        after: Option<(i64, JobId)>,
        limit: u32,
    ) -> Result<Vec<Job>, StoreError> {
        timely(async {
            let mut connection = self.connection().await?;
            let sql = concat!(
                "SELECT ",
                columns!("jobs"),
                " FROM jobs WHERE finished_ms < $1 AND (finished_ms, id) > ($2, $3) ORDER BY finished_ms, id LIMIT $4"
            );
            let (end, id) = after.map_or((i64::MIN, -1), |(end, id)| (end, id.number()));
            let query = sqlx::query(sql)
                .bind(ended_before_ms)
                .bind(end)
                .bind(id)
                .bind(i64::from(limit));
            let rows = query.fetch_all(&mut *connection).await.map_err(fault::postgres)?;
            rows.iter().map(row::job).collect()
        })
        .await
    }

    async fn append_log(&self, id: JobId, chunk: &Chunk) -> Result<(), StoreError> {
        timely(self.write_log(id, chunk)).await
    }

    async fn log(&self, id: JobId, from: u64, limit: u32) -> Result<Vec<Chunk>, StoreError> {
        // No line has a number that cannot be stored.
        let Ok(from) = row::number(from) else {
            return Ok(Vec::new());
        };
        timely(async {
            let mut connection = self.connection().await?;
            let query = sqlx::query(
                "SELECT first, lines, bytes, position, data FROM log_parts WHERE job = $1 AND first >= coalesce(
                    (SELECT p.first FROM log_parts p WHERE p.job = $1 AND p.first <= $2 ORDER BY p.first DESC LIMIT 1),
                    0)
                 AND first + lines > $2 ORDER BY first LIMIT $3",
            );
            let query = query.bind(id.number()).bind(from).bind(i64::from(limit));
            let rows = query.fetch_all(&mut *connection).await.map_err(fault::postgres)?;
            rows.iter().map(row::chunk).collect()
        })
        .await
    }

    async fn log_end(&self, id: JobId) -> Result<Option<Chunk>, StoreError> {
        timely(async {
            let mut connection = self.connection().await?;
            let query = sqlx::query(
                "SELECT first, lines, bytes, position, data FROM log_parts WHERE job = $1 ORDER BY first DESC LIMIT 1",
            );
            let row = query
                .bind(id.number())
                .fetch_optional(&mut *connection)
                .await
                .map_err(fault::postgres)?;
            row.as_ref().map(row::chunk).transpose()
        })
        .await
    }

    async fn log_size(&self, id: JobId) -> Result<u64, StoreError> {
        timely(async {
            let mut connection = self.connection().await?;
            let query = sqlx::query("SELECT coalesce(sum(bytes), 0)::bigint FROM log_parts WHERE job = $1");
            let row = query.bind(id.number()).fetch_one(&mut *connection).await;
            row::count(get(&row.map_err(fault::postgres)?, 0)?)
        })
        .await
    }

    async fn log_bytes(&self) -> Result<u64, StoreError> {
        timely(async {
            let mut connection = self.connection().await?;
            let query = sqlx::query("SELECT coalesce(sum(bytes), 0)::bigint FROM log_totals");
            row::count(get(
                &query.fetch_one(&mut *connection).await.map_err(fault::postgres)?,
                0,
            )?)
        })
        .await
    }

    async fn lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<bool, StoreError> {
        timely(self.write_lease(name, holder, ttl)).await
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

    fn wire(&self) -> Option<Arc<dyn Wire>> {
        Some(self.inner.wire.get(&self.inner.options, &self.inner.pool))
    }

    fn changes(&self) -> broadcast::Receiver<Changed> {
        self.inner.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: StoreError) -> String {
        let debug = format!("{error:?}");
        format!("{debug} {:#}", anyhow::Error::new(error))
    }

    #[tokio::test]
    async fn no_error_has_the_password() {
        for url in [
            "postgres://ada:s3cret@127.0.0.1:1/jobs",
            "postgres://ada:s3cret@127.0.0.1:99999/jobs",
            "postgres://ada:s3cret@/jobs?host=/nowhere/at/all",
            "postgres://ada:s3cret@[::1/jobs",
            "postgres://ada:s3cret@127.0.0.1:1/jobs?sslmode=s3cret",
        ] {
            let error = Postgres::open(url).await.err().expect("nobody is there");
            let told = told(error);
            assert!(!told.contains("s3cret"), "{told}");
        }
        let error = Postgres::open("postgres://ada:s3cret@127.0.0.1:1/jobs")
            .await
            .err()
            .expect("nobody is there");
        assert!(matches!(error, StoreError::Unavailable(_)));
        assert!(told(error).contains("connect to database `jobs` at 127.0.0.1:1"));
    }
}
