//! What changes the database: one after the other, each in a transaction of its own.

use std::time::Duration;

use anyhow::Context as _;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Executor as _, Sqlite as Driver, SqliteConnection};
use tokio::sync::MutexGuard;

use super::{STATEMENT, Sqlite, Turn, audit, fault};
use crate::dashboard::job::{Change, Job, JobId, State};
use crate::dashboard::log::Chunk;
use crate::dashboard::store::audit::state as state_of;
use crate::dashboard::store::list::columns;
use crate::dashboard::store::row::{self, get};
use crate::dashboard::store::{Changed, Scope, StoreError, documents};

/// From how many free pages on a file is made smaller; fewer are soon needed again.
const FREE_PAGES: i64 = 256;
/// How many pages are given back at once, so that others need not wait long for their turn.
const VACUUM_PAGES: &str = "PRAGMA incremental_vacuum(1024)";

/// How many pages SQLite lets a database have.
const PAGES: u64 = 4_294_967_294;

/// What a transaction is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Usual,
    /// It is on the disk, with all before it, when it is committed.
    Durable,
    /// It deletes, which may take a few pages before it gives many back.
    MakesRoom,
}

/// A transaction and the turn to write; undone by [`Sqlite::tidy`] or the next one where it is dropped uncommitted.
///
/// Not sqlx's own: SQLite undoes a transaction by itself where the disk is full or a statement took too long, and sqlx would
/// take the connection for one within a transaction ever after.
pub(super) struct Write<'a> {
    turn: MutexGuard<'a, Turn>,
    pub(super) connection: PoolConnection<Driver>,
}

impl Write<'_> {
    /// Ends a transaction that found nothing to do.
    pub(super) async fn end(mut self) {
        undo(&mut self.turn, &mut self.connection).await;
    }
}

impl Sqlite {
    async fn turn(&self) -> Result<MutexGuard<'_, Turn>, StoreError> {
        fault::late(
            tokio::time::timeout(STATEMENT, self.inner.turn.lock()).await,
            "waiting for the turn to write",
        )
    }

    pub(super) async fn begin(&self, kind: Kind) -> Result<Write<'_>, StoreError> {
        let mut turn = self.turn().await?;
        let mut connection = self.writer().await?;
        undo(&mut turn, &mut connection).await;
        let durable = kind == Kind::Durable;
        if turn.durable != durable {
            let pragma = if durable {
                "PRAGMA synchronous = FULL"
            } else {
                "PRAGMA synchronous = NORMAL"
            };
            connection.execute(pragma).await.map_err(fault::sqlite)?;
            turn.durable = durable;
        }
        let over_quota = kind == Kind::MakesRoom;
        if let Some(pages) = self.inner.quota_pages
            && turn.over_quota != over_quota
        {
            let most = if over_quota { PAGES } else { pages };
            let pragma = AssertSqlSafe(format!("PRAGMA max_page_count = {most}"));
            connection.execute(pragma).await.map_err(fault::sqlite)?;
            turn.over_quota = over_quota;
        }
        // The lock is taken at the beginning: a transaction that reads first could find that it may not write.
        connection.execute("BEGIN IMMEDIATE").await.map_err(fault::sqlite)?;
        turn.begun = true;
        if let Some(fence) = &self.fence {
            // Within the transaction: nobody can take the lease between this and the commit.
            let query = sqlx::query("SELECT 1 FROM leases WHERE name = ? AND holder = ?");
            let query = query.bind(fence.lease.clone()).bind(fence.holder.clone());
            let held = query.fetch_optional(&mut *connection).await.map_err(fault::sqlite)?;
            if held.is_none() {
                undo(&mut turn, &mut connection).await;
                return Err(StoreError::LeaseLost);
            }
        }
        Ok(Write { turn, connection })
    }

    /// Does something that writes, to its end, and leaves no transaction open behind it. Nobody has to wait for it: a
    /// request that is given up between a commit and the telling of it would leave viewers with what is not true.
    pub(super) async fn settled<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let settled = tokio::spawn(async move {
            let result = work.await;
            if result.is_err() {
                store.tidy().await;
            }
            result
        });
        settled
            .await
            .context("the server stops")
            .map_err(StoreError::Unavailable)?
    }

    pub(super) async fn tidy(&self) {
        let mut turn = self.inner.turn.lock().await;
        if turn.begun
            && let Ok(mut connection) = self.inner.writer.acquire().await
        {
            undo(&mut turn, &mut connection).await;
        }
    }

    pub(super) async fn write_change(
        &self,
        id: JobId,
        version: i64,
        change: Change,
    ) -> Result<Option<Job>, StoreError> {
        // After this one the runner forgets its own copy of the log.
        let kind = match change.log_complete {
            Some(true) => Kind::Durable,
            _ => Kind::Usual,
        };
        let mut write = self.begin(kind).await?;
        let connection = &mut *write.connection;
        let Some(before) = row_of(connection, id).await?.filter(|job| job.version == version) else {
            write.end().await;
            return Ok(None);
        };
        if change.is_empty() {
            write.end().await;
            return Ok(Some(before));
        }
        let (state, owner) = (before.state, before.owner.clone());
        let job = row::changed(before, &change);
        let query = sqlx::query(
            "UPDATE jobs SET state = ?, reason = ?, message = ?, started_ms = ?, finished_ms = ?, exit_code = ?,
                attempts = ?, cancelling = ?, log_complete = ?, open = ?, version = ? WHERE id = ?",
        );
        let query = query
            .bind(job.state.number())
            .bind(job.reason.as_deref())
            .bind(job.message.as_deref())
            .bind(job.started_ms)
            .bind(job.finished_ms)
            .bind(job.exit_code)
            .bind(job.attempts)
            .bind(job.cancelling)
            .bind(job.log_complete)
            .bind(row::is_open(&job))
            .bind(job.version)
            .bind(id.number());
        run(connection, query).await?;
        if job.state != state {
            count(connection, &owner, state, -1).await?;
            count(connection, &owner, job.state, 1).await?;
        }
        if let Some(act) = &self.act {
            let (before, after) = (Some(state.name().to_owned()), Some(state_of(&job)));
            audit::add(connection, act, format!("job/{id}"), &owner, before, after).await?;
        }
        self.commit(write, Some(Changed::Job(job.clone()))).await?;
        Ok(Some(job))
    }

    pub(super) async fn write_delete(&self, id: JobId, scope: Scope) -> Result<bool, StoreError> {
        let mut write = self.begin(Kind::MakesRoom).await?;
        let connection = &mut *write.connection;
        let job = row_of(connection, id).await?;
        let mine = |job: &Job| match &scope {
            Scope::All => true,
            Scope::Owner(owner) => *owner == job.owner,
        };
        let Some(job) = job.filter(|job| job.state.is_final() && mine(job)) else {
            write.end().await;
            return Ok(false);
        };
        let number = id.number();
        let origin = match job.template {
            Some(_) => {
                let query = sqlx::query(documents::ORIGIN).bind(number);
                let found = query.fetch_optional(&mut *connection).await.map_err(fault::sqlite)?;
                found.as_ref().map(row::origin).transpose()?
            }
            None => None,
        };
        for (name, value) in &row::tags(&job.labels, origin.as_ref()) {
            let sql = "DELETE FROM job_labels WHERE name = ? AND value = ? AND id = ?";
            run(connection, sqlx::query(sql).bind(name).bind(value).bind(number)).await?;
        }
        run(
            connection,
            sqlx::query("DELETE FROM job_names WHERE rowid = ?").bind(number),
        )
        .await?;
        let sql = "UPDATE log_total SET bytes = bytes
            - coalesce((SELECT sum(length(data)) FROM log_parts WHERE job = ?), 0)";
        run(connection, sqlx::query(sql).bind(number)).await?;
        // The spec, the log and the idempotency key go with it.
        run(connection, sqlx::query("DELETE FROM jobs WHERE id = ?").bind(number)).await?;
        count(connection, &job.owner, job.state, -1).await?;
        if let Some(act) = &self.act {
            let before = Some(job.state.name().to_owned());
            audit::add(connection, act, format!("job/{id}"), &job.owner, before, None).await?;
        }
        self.commit(write, Some(Changed::Deleted { id, owner: job.owner }))
            .await?;
        let store = self.clone();
        tokio::spawn(async move {
            if let Err(error) = store.give_back().await {
                tracing::warn!(error = ?anyhow::Error::new(error), "free pages of the database could not be given back");
            }
        });
        Ok(true)
    }

    pub(super) async fn write_log(&self, id: JobId, chunk: Chunk) -> Result<(), StoreError> {
        let mut write = self.begin(Kind::Usual).await?;
        let connection = &mut *write.connection;
        let (number, first) = (id.number(), row::number(chunk.first)?);
        let stored = sqlx::query(
            "SELECT lines, length(data) FROM log_parts WHERE job = ?1 AND first = ?2
             UNION ALL SELECT -1, 0 FROM jobs WHERE id = ?1 ORDER BY 1 DESC LIMIT 1",
        );
        let stored = stored.bind(number).bind(first).fetch_optional(&mut *connection).await;
        // The job was deleted: its log has no place any more.
        let Some(stored) = stored.map_err(fault::sqlite)? else {
            write.end().await;
            return Ok(());
        };
        let lines = row::number(chunk.lines)?;
        // The same part again; or the longer one of two that begin alike, from two servers that read at once.
        if get::<_, i64>(&stored, 0)? >= lines {
            write.end().await;
            return Ok(());
        }
        let grown = i64::try_from(chunk.data.len()).unwrap_or(i64::MAX) - get::<_, i64>(&stored, 1)?;
        let query = sqlx::query(
            "INSERT INTO log_parts (job, first, lines, bytes, position, data) VALUES (?, ?, ?, ?, ?, ?)
             ON CONFLICT (job, first) DO UPDATE SET lines = excluded.lines, bytes = excluded.bytes,
                position = excluded.position, data = excluded.data",
        );
        let query = query
            .bind(number)
            .bind(first)
            .bind(lines)
            .bind(row::number(chunk.bytes)?)
            .bind(row::clean(&chunk.position))
            .bind(chunk.data);
        run(connection, query).await?;
        run(
            connection,
            sqlx::query("UPDATE log_total SET bytes = bytes + ?").bind(grown),
        )
        .await?;
        self.commit(write, None).await
    }

    pub(super) async fn write_lease(&self, name: String, holder: String, ttl: Duration) -> Result<bool, StoreError> {
        let mut write = self.begin(Kind::Usual).await?;
        let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 4);
        // A lease that has more time left than it was given comes from before the clock was put back.
        let query = sqlx::query(
            "INSERT INTO leases (name, holder, ttl_ms, until_ms)
             VALUES (?1, ?2, ?3, CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?3)
             ON CONFLICT (name) DO UPDATE
             SET holder = excluded.holder, ttl_ms = excluded.ttl_ms, until_ms = excluded.until_ms
             WHERE leases.holder = excluded.holder
                OR leases.until_ms NOT BETWEEN excluded.until_ms - ?3 + 1 AND excluded.until_ms - ?3 + leases.ttl_ms",
        );
        let query = query.bind(name).bind(holder).bind(ttl);
        let taken = query
            .execute(&mut *write.connection)
            .await
            .map_err(fault::sqlite)?
            .rows_affected()
            > 0;
        self.commit(write, None).await?;
        Ok(taken)
    }

    /// Commits, and tells what has changed.
    pub(super) async fn commit(
        &self,
        write: Write<'_>,
        changed: impl IntoIterator<Item = Changed>,
    ) -> Result<(), StoreError> {
        let Write {
            mut turn,
            mut connection,
        } = write;
        connection.execute("COMMIT").await.map_err(fault::sqlite)?;
        turn.begun = false;
        for changed in changed {
            // Nobody may be listening.
            _ = self.inner.changes.send(changed);
        }
        Ok(())
    }

    /// Gives free pages back to the file system.
    async fn give_back(&self) -> Result<(), StoreError> {
        loop {
            let _turn = self.turn().await?;
            let mut connection = self.writer().await?;
            let row = sqlx::query("PRAGMA freelist_count")
                .fetch_one(&mut *connection)
                .await
                .map_err(fault::sqlite)?;
            if get::<_, i64>(&row, 0)? <= FREE_PAGES {
                return Ok(());
            }
            sqlx::query(VACUUM_PAGES)
                .execute(&mut *connection)
                .await
                .map_err(fault::sqlite)?;
        }
    }
}

/// Undoes a transaction that was left.
async fn undo(turn: &mut Turn, connection: &mut SqliteConnection) {
    if turn.begun {
        // It fails where SQLite has undone it already.
        _ = connection.execute("ROLLBACK").await;
        turn.begun = false;
    }
}

pub(super) async fn run(connection: &mut SqliteConnection, query: super::Query<'_>) -> Result<(), StoreError> {
    query.execute(connection).await.map_err(fault::sqlite)?;
    Ok(())
}

pub(super) async fn row_of(connection: &mut SqliteConnection, id: JobId) -> Result<Option<Job>, StoreError> {
    let sql = concat!("SELECT ", columns!("jobs"), " FROM jobs WHERE id = ?");
    let row = sqlx::query(sql).bind(id.number()).fetch_optional(connection).await;
    row.map_err(fault::sqlite)?.as_ref().map(row::job).transpose()
}

/// Adds to the counters.
async fn count(connection: &mut SqliteConnection, owner: &str, state: State, by: i64) -> Result<(), StoreError> {
    let sql = "INSERT INTO job_counts (owner, state, n) VALUES (?, ?, ?)
        ON CONFLICT (owner, state) DO UPDATE SET n = n + excluded.n";
    run(connection, sqlx::query(sql).bind(owner).bind(state.number()).bind(by)).await?;
    let sql = "INSERT INTO job_totals (state, n) VALUES (?, ?) ON CONFLICT (state) DO UPDATE SET n = n + excluded.n";
    run(connection, sqlx::query(sql).bind(state.number()).bind(by)).await
}
