//! What changes the database.

use std::time::Duration;

use sqlx::PgConnection;

use super::{Postgres, audit, fault, listen};
use crate::dashboard::job::{Change, Job, JobId, State};
use crate::dashboard::log::Chunk;
use crate::dashboard::store::audit::state as state_of;
use crate::dashboard::store::list::columns;
use crate::dashboard::store::row;
use crate::dashboard::store::{StoreError, documents};

/// Changes a row that has a version, and its counters where the state changes.
const CHANGE: &str = concat!(
    "WITH old AS (
        SELECT id, owner, state FROM jobs WHERE id = $1 AND version = $2
            AND ($15::text IS NULL OR EXISTS (SELECT FROM leases WHERE name = $15 AND holder = $16))
        FOR UPDATE
    ), new AS (
        UPDATE jobs SET
            state = coalesce($3, jobs.state),
            reason = CASE WHEN $4 THEN $5 ELSE reason END,
            message = CASE WHEN $6 THEN $7 ELSE message END,
            started_ms = coalesce($8, started_ms),
            finished_ms = coalesce($9, finished_ms),
            exit_code = coalesce($10, exit_code),
            attempts = coalesce($11, attempts),
            cancelling = coalesce($12, cancelling),
            log_complete = coalesce($13, log_complete),
            open = NOT (coalesce($3, jobs.state) = ANY($14) AND coalesce($13, log_complete)),
            version = version + 1
        FROM old WHERE jobs.id = old.id
        RETURNING ",
    columns!("jobs"),
    "), moved AS (
        SELECT old.id, old.owner, m.state, m.n FROM old JOIN new ON new.id = old.id AND new.state <> old.state
        CROSS JOIN LATERAL (VALUES (old.state, -1), (new.state, 1)) m (state, n)
    ), counts AS (
        INSERT INTO job_counts (owner, state, shard, n) SELECT owner, state, id % 4, n FROM moved ORDER BY state
        ON CONFLICT (owner, state, shard) DO UPDATE SET n = job_counts.n + excluded.n
    ), totals AS (
        INSERT INTO job_totals (state, shard, n) SELECT state, id % 16, n FROM moved ORDER BY state
        ON CONFLICT (state, shard) DO UPDATE SET n = job_totals.n + excluded.n
    )
    SELECT ",
    columns!("new"),
    ", pg_notify('labctl_jobs', 'c' || new.id) FROM new"
);

/// Appends a part of a log. The same part again changes nothing; of two that begin alike, from two servers that read at
/// once, the longer one stays.
const APPEND: &str = "WITH old AS (
        SELECT octet_length(data) AS size FROM log_parts WHERE job = $1 AND first = $2
    ), part AS (
        INSERT INTO log_parts (job, first, lines, bytes, position, data) SELECT $1, $2, $3, $4, $5, $6
        WHERE $7::text IS NULL OR EXISTS (SELECT FROM leases WHERE name = $7 AND holder = $8)
        ON CONFLICT (job, first) DO UPDATE SET lines = excluded.lines, bytes = excluded.bytes,
            position = excluded.position, data = excluded.data
        WHERE log_parts.lines < excluded.lines
        RETURNING octet_length(data) AS size
    )
    INSERT INTO log_totals (shard, bytes) SELECT $1 % 16, part.size - coalesce((SELECT size FROM old), 0) FROM part
    ON CONFLICT (shard) DO UPDATE SET bytes = log_totals.bytes + excluded.bytes";

impl Postgres {
    pub(super) async fn write_change(
        &self,
        id: JobId,
        version: i64,
        change: &Change,
    ) -> Result<Option<Job>, StoreError> {
        let mut connection = self.connection().await?;
        if change.is_empty() {
            let sql = concat!("SELECT ", columns!("jobs"), " FROM jobs WHERE id = $1 AND version = $2");
            let row = sqlx::query(sql)
                .bind(id.number())
                .bind(version)
                .fetch_optional(&mut *connection)
                .await;
            return row.map_err(fault::postgres)?.as_ref().map(row::job).transpose();
        }
        let text = |text: &Option<Option<String>>| text.as_ref().and_then(|text| text.as_deref().map(row::clean));
        let ended: Vec<i16> = State::ALL
            .into_iter()
            .filter(|state| state.is_final())
            .map(State::number)
            .collect();
        let query = sqlx::query(CHANGE)
            .bind(id.number())
            .bind(version)
            .bind(change.state.map(State::number))
            .bind(change.reason.is_some())
            .bind(text(&change.reason))
            .bind(change.message.is_some())
            .bind(text(&change.message))
            .bind(change.started_ms)
            .bind(change.finished_ms)
            .bind(change.exit_code)
            .bind(
                change
                    .attempts
                    .map(|attempts| i32::try_from(attempts).unwrap_or(i32::MAX)),
            )
            .bind(change.cancelling)
            .bind(change.log_complete)
            .bind(ended)
            .bind(self.fence.as_ref().map(|fence| fence.lease.as_str()))
            .bind(self.fence.as_ref().map(|fence| fence.holder.as_str()));
        let Some(act) = &self.act else {
            let row = query.fetch_optional(&mut *connection).await.map_err(fault::postgres)?;
            if row.is_none() {
                self.holds(&mut connection).await?;
            }
            return row.as_ref().map(row::job).transpose();
        };
        let mut transaction = audit::begin(&mut connection, Some(act)).await?;
        let row = query.fetch_optional(&mut *transaction).await.map_err(fault::postgres)?;
        let Some(job) = row.as_ref().map(row::job).transpose()? else {
            self.holds(&mut transaction).await?;
            return Ok(None);
        };
        let after = Some(state_of(&job));
        audit::add(&mut transaction, act, format!("job/{id}"), &job.owner, None, after).await?;
        transaction.commit().await.map_err(fault::postgres)?;
        Ok(Some(job))
    }

    pub(super) async fn write_delete(&self, id: JobId, owner: Option<&str>) -> Result<bool, StoreError> {
        let mut connection = self.connection().await?;
        let mut transaction = audit::begin(&mut connection, self.act.as_deref()).await?;
        let number = id.number();
        // Whoever stores a part of its log at this moment is waited for, and then its part is seen.
        let sql = concat!(
            "SELECT ",
            columns!("jobs"),
            " FROM jobs WHERE id = $1 AND ($2 IS NULL OR owner = $2) FOR UPDATE"
        );
        let row = sqlx::query(sql)
            .bind(number)
            .bind(owner)
            .fetch_optional(&mut *transaction)
            .await;
        let job = row.map_err(fault::postgres)?.as_ref().map(row::job).transpose()?;
        let Some(job) = job.filter(|job| job.state.is_final()) else {
            return Ok(false);
        };
        self.holds(&mut transaction).await?;
        let origin = match job.template {
            Some(_) => {
                let query = sqlx::query(documents::ORIGIN).bind(number);
                let found = query.fetch_optional(&mut *transaction).await.map_err(fault::postgres)?;
                found.as_ref().map(row::origin).transpose()?
            }
            None => None,
        };
        let (names, values): (Vec<String>, Vec<String>) = row::tags(&job.labels, origin.as_ref()).into_iter().unzip();
        // The spec, the parts of the name and the key go with the row.
        let query = sqlx::query(
            "WITH labels AS (
                DELETE FROM job_labels l USING unnest($2::text[], $3::text[]) AS own (name, value)
                WHERE l.name = own.name AND l.value = own.value AND l.id = $1
            ), parts AS (
                DELETE FROM log_parts WHERE job = $1 RETURNING octet_length(data) AS size
            ), job AS (
                DELETE FROM jobs WHERE id = $1
            ), counts AS (
                INSERT INTO job_counts (owner, state, shard, n) VALUES ($4, $5, $1 % 4, -1)
                ON CONFLICT (owner, state, shard) DO UPDATE SET n = job_counts.n + excluded.n
            ), totals AS (
                INSERT INTO job_totals (state, shard, n) VALUES ($5, $1 % 16, -1)
                ON CONFLICT (state, shard) DO UPDATE SET n = job_totals.n + excluded.n
            ), bytes AS (
                INSERT INTO log_totals (shard, bytes) SELECT $1 % 16, -coalesce(sum(size), 0) FROM parts
                ON CONFLICT (shard) DO UPDATE SET bytes = log_totals.bytes + excluded.bytes
            )
            SELECT pg_notify('labctl_jobs', $6)",
        );
        let query = query
            .bind(number)
            .bind(names)
            .bind(values)
            .bind(&job.owner)
            .bind(job.state.number())
            .bind(listen::deleted(id, &job.owner));
        query.execute(&mut *transaction).await.map_err(fault::postgres)?;
        if let Some(act) = &self.act {
            let before = Some(job.state.name().to_owned());
            audit::add(&mut transaction, act, format!("job/{id}"), &job.owner, before, None).await?;
        }
        transaction.commit().await.map_err(fault::postgres)?;
        Ok(true)
    }

    pub(super) async fn write_log(&self, id: JobId, chunk: &Chunk) -> Result<(), StoreError> {
        let query = sqlx::query(APPEND)
            .bind(id.number())
            .bind(row::number(chunk.first)?)
            .bind(row::number(chunk.lines)?)
            .bind(row::number(chunk.bytes)?)
            .bind(row::clean(&chunk.position))
            .bind(&chunk.data)
            .bind(self.fence.as_ref().map(|fence| fence.lease.as_str()))
            .bind(self.fence.as_ref().map(|fence| fence.holder.as_str()));
        let mut connection = self.connection().await?;
        match query.execute(&mut *connection).await {
            // The job was deleted: its log has no place any more.
            Err(error) if is(&error, "23503") => Ok(()),
            Err(error) => Err(fault::postgres(error)),
            Ok(done) if done.rows_affected() > 0 => Ok(()),
            // The same part again, or refused.
            Ok(_) => self.holds(&mut connection).await,
        }
    }

    /// Says whether the lease is still had by whom this store is for.
    pub(super) async fn holds(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let Some(fence) = &self.fence else { return Ok(()) };
        let query = sqlx::query("SELECT FROM leases WHERE name = $1 AND holder = $2");
        let query = query.bind(&fence.lease).bind(&fence.holder);
        match query.fetch_optional(connection).await.map_err(fault::postgres)? {
            Some(_) => Ok(()),
            None => Err(StoreError::LeaseLost),
        }
    }

    pub(super) async fn write_lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<bool, StoreError> {
        let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 4);
        // A lease that has more time left than it was given comes from before the clock was put back.
        let query = sqlx::query(
            "INSERT INTO leases (name, holder, ttl_ms, until_ms)
             SELECT $1, $2, $3, (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $3
             ON CONFLICT (name) DO UPDATE
             SET holder = excluded.holder, ttl_ms = excluded.ttl_ms, until_ms = excluded.until_ms
             WHERE leases.holder = excluded.holder
                OR leases.until_ms NOT BETWEEN excluded.until_ms - $3 + 1 AND excluded.until_ms - $3 + leases.ttl_ms",
        );
        let mut connection = self.connection().await?;
        let done = query.bind(name).bind(holder).bind(ttl).execute(&mut *connection).await;
        Ok(done.map_err(fault::postgres)?.rows_affected() > 0)
    }
}

/// Returns whether an error of the database has a code.
pub(super) fn is(error: &sqlx::Error, code: &str) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|own| own == code)
}
