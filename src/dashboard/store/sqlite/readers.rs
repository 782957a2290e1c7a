//! The connections that read.
//!
//! The driver's pool would do, but for time: giving each call its time means to stop the connection's thread and to start
//! it again, and handing a connection back means a task. Here the time is a number that SQLite looks at, and a
//! connection lies in a list.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Query, STATEMENT};
use crate::dashboard::store::{StoreError, fault};

/// After how many steps of SQLite's machine the clock is looked at: well under a millisecond.
const STEPS: i32 = 10_000;

static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// When whatever a connection does is to end.
#[derive(Debug, Clone, Default)]
pub(super) struct Deadline(Arc<AtomicU64>);

impl Deadline {
    /// Makes a connection end what it does when its time is over, from now on.
    ///
    /// # Errors
    /// The connection's thread is gone.
    pub(super) async fn watch(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let end = Arc::clone(&self.0);
        let mut handle = connection.lock_handle().await?;
        handle.set_progress_handler(STEPS, move || now_us() < end.load(Ordering::Relaxed));
        Ok(())
    }

    /// Gives it its time, beginning now.
    pub(super) fn begin(&self, time: Duration) {
        let end = now_us().saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        self.0.store(end, Ordering::Relaxed);
    }

    fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

fn now_us() -> u64 {
    u64::try_from(BEGIN.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// A few connections, opened when they are needed and kept.
pub(super) struct Readers {
    options: SqliteConnectOptions,
    count: u32,
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Slot>>,
}

struct Slot {
    connection: SqliteConnection,
    deadline: Deadline,
}

/// A connection for one call; it goes back when it is dropped.
pub(super) struct Reader {
    readers: Arc<Readers>,
    slot: Option<Slot>,
    turn: Option<OwnedSemaphorePermit>,
    /// A statement was begun and has not ended.
    running: bool,
}

impl Readers {
    pub(super) fn new(options: SqliteConnectOptions, count: u32) -> Self {
        Self {
            options,
            count,
            turns: Arc::new(Semaphore::new(count as usize)),
            idle: Mutex::default(),
        }
    }

    /// Returns a connection that has the time of one call.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where none is free in that time or can be opened, or all are closed.
    pub(super) async fn get(self: &Arc<Self>) -> Result<Reader, StoreError> {
        let turn = match Arc::clone(&self.turns).try_acquire_owned() {
            Ok(turn) => turn,
            Err(_) => tokio::time::timeout(STATEMENT, Arc::clone(&self.turns).acquire_owned())
                .await
                .map_err(|_| StoreError::Unavailable(anyhow!("all connections that read are in use")))?
                .map_err(|_| StoreError::Unavailable(anyhow!("the database is closed")))?,
        };
        let idle = self.lock().pop();
        let slot = match idle {
            Some(slot) => slot,
            None => self.open().await.map_err(fault::sqlite)?,
        };
        slot.deadline.begin(STATEMENT);
        Ok(Reader {
            readers: Arc::clone(self),
            slot: Some(slot),
            turn: Some(turn),
            running: false,
        })
    }

    /// Waits for who reads, and closes the connections.
    pub(super) async fn close(&self) {
        // An error means that they are closed already.
        let all = self.turns.acquire_many(self.count).await;
        self.turns.close();
        drop(all);
        let idle = std::mem::take(&mut *self.lock());
        for slot in idle {
            // Nothing is lost with a connection that only reads.
            _ = slot.connection.close().await;
        }
    }

    async fn open(&self) -> Result<Slot, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        let deadline = Deadline::default();
        deadline.watch(&mut connection).await?;
        Ok(Slot { connection, deadline })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Slot>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    /// Returns the one row of a statement.
    pub(super) async fn one(&mut self, query: Query<'_>) -> Result<SqliteRow, StoreError> {
        let connection = self.begin()?;
        let row = query.fetch_one(connection).await;
        self.running = false;
        row.map_err(fault::sqlite)
    }

    /// Returns the first row of a statement, where there is one.
    pub(super) async fn first(&mut self, query: Query<'_>) -> Result<Option<SqliteRow>, StoreError> {
        let connection = self.begin()?;
        let row = query.fetch_optional(connection).await;
        self.running = false;
        row.map_err(fault::sqlite)
    }

    /// Returns all rows of a statement.
    pub(super) async fn all(&mut self, query: Query<'_>) -> Result<Vec<SqliteRow>, StoreError> {
        let connection = self.begin()?;
        let rows = query.fetch_all(connection).await;
        self.running = false;
        rows.map_err(fault::sqlite)
    }

    fn begin(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.running = true;
        let slot = self.slot.as_mut();
        slot.map(|slot| &mut slot.connection)
            .ok_or_else(|| StoreError::Broken(anyhow!("a connection is used after it went back")))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some(mut slot) = self.slot.take() else { return };
        if !self.running {
            self.readers.lock().push(slot);
            return;
        }
        // Whoever asked has gone, and the connection's thread does not know it. The next one must neither wait for that
        // statement nor give it more time.
        slot.deadline.end();
        let (readers, turn) = (Arc::clone(&self.readers), self.turn.take());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if slot.connection.ping().await.is_ok() {
                    readers.lock().push(slot);
                }
                drop(turn);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Row as _;

    use super::*;

    const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

    fn readers(count: u32) -> Arc<Readers> {
        Arc::new(Readers::new(SqliteConnectOptions::new().in_memory(true), count))
    }

    async fn answers(readers: &Arc<Readers>) {
        let row = readers
            .get()
            .await
            .expect("a connection")
            .one(sqlx::query("SELECT 7"))
            .await;
        assert_eq!(row.expect("a row").get::<i64, _>(0), 7);
    }

    #[tokio::test]
    async fn a_statement_ends_when_its_time_is_over() {
        let readers = readers(1);
        let mut reader = readers.get().await.expect("a connection");
        reader
            .slot
            .as_ref()
            .expect("a connection")
            .deadline
            .begin(Duration::from_millis(50));
        let begun = Instant::now();
        let error = reader.one(sqlx::query(ENDLESS)).await.expect_err("an end");
        assert!(matches!(error, StoreError::Timeout(_)), "{error:?}");
        assert!(begun.elapsed() < STATEMENT / 2, "{:?}", begun.elapsed());
        drop(reader);
        answers(&readers).await;
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_holds_nobody_up() {
        let readers = readers(1);
        let mut reader = readers.get().await.expect("a connection");
        let given_up = tokio::time::timeout(Duration::from_millis(50), reader.one(sqlx::query(ENDLESS))).await;
        assert!(given_up.is_err());
        let begun = Instant::now();
        drop(reader);
        answers(&readers).await;
        assert!(begun.elapsed() < STATEMENT / 2, "{:?}", begun.elapsed());
        assert_eq!(readers.lock().len(), 1, "the connection is kept");
    }

    #[tokio::test]
    async fn a_closed_database_says_so() {
        let readers = readers(2);
        answers(&readers).await;
        readers.close().await;
        let error = readers.get().await.err().expect("an error");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        readers.close().await;
    }
}
