//! Who did what, in PostgreSQL.
//!
//! A transaction gets the number of its entry when it writes it and is seen when it commits, so numbers may come to be seen
//! out of their order. Whoever seals must not pass one by: everybody who writes an entry shares a lock until he has
//! committed, and who seals has it for himself for a moment. What has a number by then is seen after.

use async_trait::async_trait;
use sqlx::{Acquire as _, AssertSqlSafe, PgConnection, Postgres as Driver, Transaction};

use super::{Postgres, Whose, fault, timely};
use crate::dashboard::store::audit::{self, Act, Audit, COLUMNS, Entry, SEALED_AT_ONCE, Seal};
use crate::dashboard::store::row::{self, get};
use crate::dashboard::store::{Scope, StoreError};

/// The lock, as an expression: shared by who writes.
macro_rules! lock {
    ($function:literal) => {
        concat!($function, "(hashtextextended('labctl audit', 0))")
    };
}
pub(super) use lock;

const ADD: &str = "INSERT INTO audit (at_ms, actor, verb, object, owner, was, became, request_id, ip)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";

/// Begins a transaction in which something is written down, where that is so: it waits for its turn before it has anything
/// that others wait for.
pub(super) async fn begin<'a>(
    connection: &'a mut PgConnection,
    act: Option<&Act>,
) -> Result<Transaction<'a, Driver>, StoreError> {
    let mut transaction = connection.begin().await.map_err(fault::postgres)?;
    if act.is_some() {
        let query = sqlx::query(concat!("SELECT ", lock!("pg_advisory_xact_lock_shared")));
        query.execute(&mut *transaction).await.map_err(fault::postgres)?;
    }
    Ok(transaction)
}

/// Writes down what was done to an object, in a transaction that [`begin`] began.
pub(super) async fn add(
    connection: &mut PgConnection,
    act: &Act,
    object: String,
    owner: &str,
    before: Option<String>,
    after: Option<String>,
) -> Result<(), StoreError> {
    let query = sqlx::query(ADD)
        .bind(act.at_ms)
        .bind(&act.actor)
        .bind(act.verb.name())
        .bind(object)
        .bind(owner)
        .bind(act.before.clone().or(before))
        .bind(after)
        .bind(&act.request_id)
        .bind(&act.ip);
    query.execute(connection).await.map_err(fault::postgres)?;
    Ok(())
}

impl Postgres {
    async fn write_seal(&self, now_ms: i64) -> Result<Option<Seal>, StoreError> {
        let mut connection = self.connection().await?;
        let last = sqlx::query(audit::LAST_SEAL).fetch_optional(&mut *connection).await;
        let last = last.map_err(fault::postgres)?.as_ref().map(row::seal).transpose()?;
        let after = last.as_ref().map_or(0, |seal| seal.last);
        // Mostly there is nothing to do, and nobody has to wait.
        let any = sqlx::query("SELECT FROM audit WHERE number > $1 LIMIT 1").bind(after);
        if any
            .fetch_optional(&mut *connection)
            .await
            .map_err(fault::postgres)?
            .is_none()
        {
            return Ok(None);
        }
        let sql = concat!(
            "WITH turn AS MATERIALIZED (SELECT ",
            lock!("pg_advisory_xact_lock"),
            ") SELECT coalesce(max(number), 0) FROM audit, turn"
        );
        let newest = sqlx::query(sql).fetch_one(&mut *connection).await;
        let newest: i64 = get(&newest.map_err(fault::postgres)?, 0)?;
        let sql = AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM audit WHERE number > $1 AND number <= $2 ORDER BY number LIMIT $3"
        ));
        let query = sqlx::query(sql).bind(after).bind(newest).bind(SEALED_AT_ONCE);
        let rows = query.fetch_all(&mut *connection).await.map_err(fault::postgres)?;
        let entries = rows.iter().map(row::act).collect::<Result<Vec<_>, _>>()?;
        let Some(seal) = Seal::new(last.as_ref(), &entries, now_ms) else {
            return Ok(None);
        };
        let mut transaction = connection.begin().await.map_err(fault::postgres)?;
        self.holds(&mut transaction).await?;
        let query = sqlx::query(audit::ADD_SEAL)
            .bind(seal.place)
            .bind(seal.first)
            .bind(seal.last)
            .bind(seal.entries)
            .bind(seal.at_ms)
            .bind(seal.before.as_slice())
            .bind(seal.digest.as_slice());
        // Another server that seals at this moment has the same place.
        query.execute(&mut *transaction).await.map_err(fault::postgres)?;
        transaction.commit().await.map_err(fault::postgres)?;
        Ok(Some(seal))
    }

    async fn write_forgetting(&self, before_ms: i64) -> Result<u64, StoreError> {
        let oldest = self.read_seals(0, audit::LOOKED_AT).await?;
        let Some(last) = audit::leaving(&oldest, before_ms) else {
            return Ok(0);
        };
        let mut connection = self.connection().await?;
        let mut transaction = connection.begin().await.map_err(fault::postgres)?;
        self.holds(&mut transaction).await?;
        let query = sqlx::query("DELETE FROM audit WHERE number <= $1").bind(last.last);
        let gone = query.execute(&mut *transaction).await.map_err(fault::postgres)?;
        let query = sqlx::query("DELETE FROM audit_seals WHERE place <= $1").bind(last.place);
        query.execute(&mut *transaction).await.map_err(fault::postgres)?;
        transaction.commit().await.map_err(fault::postgres)?;
        Ok(gone.rows_affected())
    }

    async fn read_seals(&self, after: i64, limit: u32) -> Result<Vec<Seal>, StoreError> {
        let mut connection = self.connection().await?;
        let query = sqlx::query(audit::SEALS).bind(after).bind(i64::from(limit));
        let rows = query.fetch_all(&mut *connection).await.map_err(fault::postgres)?;
        rows.iter().map(row::seal).collect()
    }
}

#[async_trait]
impl Audit for Postgres {
    async fn acts(
        &self,
        scope: &Scope,
        object: Option<&str>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        let Some(Whose(owner)) = Whose::new(scope) else {
            return Ok(Vec::new());
        };
        if object.is_some_and(|object| object.contains('\0')) {
            return Ok(Vec::new());
        }
        // One order that one index has, so that no other one is walked; of an object there are never many entries.
        let (walk, order) = match (owner, object) {
            (None, None) => ("number < $1", "number DESC"),
            (Some(_), None) => ("(owner, number) < ($4, $1) AND owner = $4", "owner DESC, number DESC"),
            (_, Some(_)) => (
                "(object, number) < ($3, $1) AND object = $3 AND ($4 IS NULL OR owner = $4)",
                "object DESC, number DESC",
            ),
        };
        timely(async {
            let mut connection = self.connection().await?;
            let sql = AssertSqlSafe(format!(
                "SELECT {COLUMNS} FROM audit WHERE {walk} ORDER BY {order} LIMIT $2"
            ));
            let query = sqlx::query(sql)
                .bind(before.unwrap_or(i64::MAX))
                .bind(i64::from(limit))
                .bind(object)
                .bind(owner);
            let rows = query.fetch_all(&mut *connection).await.map_err(fault::postgres)?;
            rows.iter().map(row::act).collect()
        })
        .await
    }

    async fn seal_acts(&self, now_ms: i64) -> Result<Option<Seal>, StoreError> {
        timely(self.write_seal(now_ms)).await
    }

    async fn seals(&self, after: i64, limit: u32) -> Result<Vec<Seal>, StoreError> {
        timely(self.read_seals(after, limit)).await
    }

    async fn acts_between(&self, first: i64, last: i64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        timely(async {
            let mut connection = self.connection().await?;
            let sql = AssertSqlSafe(format!(
                "SELECT {COLUMNS} FROM audit WHERE number BETWEEN $1 AND $2 ORDER BY number LIMIT $3"
            ));
            let query = sqlx::query(sql).bind(first).bind(last).bind(i64::from(limit));
            let rows = query.fetch_all(&mut *connection).await.map_err(fault::postgres)?;
            rows.iter().map(row::act).collect()
        })
        .await
    }

    async fn forget_acts(&self, before_ms: i64) -> Result<u64, StoreError> {
        timely(self.write_forgetting(before_ms)).await
    }
}
