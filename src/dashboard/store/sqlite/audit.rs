//! Who did what, in SQLite. One writes at a time, so entries are numbered in the order in which they are committed.

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::write::{Kind as Write, run};
use super::{Query, Sqlite, fault};
use crate::dashboard::store::audit::{self, Act, Audit, COLUMNS, Entry, SEALED_AT_ONCE, Seal};
use crate::dashboard::store::row;
use crate::dashboard::store::{Scope, StoreError};

/// The statement that writes an entry.
macro_rules! entry {
    () => {
        "INSERT INTO audit (at_ms, actor, verb, object, owner, was, became, request_id, ip)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    };
}
pub(super) use entry;

/// Binds the values of [`entry`] to a statement that ends with it.
pub(super) fn bound<'q>(
    query: Query<'q>,
    act: &'q Act,
    object: String,
    owner: &'q str,
    before: Option<String>,
    after: Option<String>,
) -> Query<'q> {
    query
        .bind(act.at_ms)
        .bind(&act.actor)
        .bind(act.verb.name())
        .bind(object)
        .bind(owner)
        .bind(act.before.clone().or(before))
        .bind(after)
        .bind(&act.request_id)
        .bind(&act.ip)
}

/// Writes down what was done to an object.
pub(super) async fn add(
    connection: &mut SqliteConnection,
    act: &Act,
    object: String,
    owner: &str,
    before: Option<String>,
    after: Option<String>,
) -> Result<(), StoreError> {
    let query = bound(sqlx::query(entry!()), act, object, owner, before, after);
    run(connection, query).await
}

impl Sqlite {
    async fn write_seal(&self, now_ms: i64) -> Result<Option<Seal>, StoreError> {
        let mut write = self.begin(Write::Usual).await?;
        let connection = &mut *write.connection;
        let last = sqlx::query(audit::LAST_SEAL).fetch_optional(&mut *connection).await;
        let last = last.map_err(fault::sqlite)?.as_ref().map(row::seal).transpose()?;
        let sql = AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM audit WHERE number > ? ORDER BY number LIMIT ?"
        ));
        let query = sqlx::query(sql)
            .bind(last.as_ref().map_or(0, |seal| seal.last))
            .bind(SEALED_AT_ONCE);
        let rows = query.fetch_all(&mut *connection).await.map_err(fault::sqlite)?;
        let entries = rows.iter().map(row::act).collect::<Result<Vec<_>, _>>()?;
        let Some(seal) = Seal::new(last.as_ref(), &entries, now_ms) else {
            write.end().await;
            return Ok(None);
        };
        let query = sqlx::query(audit::ADD_SEAL)
            .bind(seal.place)
            .bind(seal.first)
            .bind(seal.last)
            .bind(seal.entries)
            .bind(seal.at_ms)
            .bind(seal.before.as_slice())
            .bind(seal.digest.as_slice());
        run(connection, query).await?;
        self.commit(write, None).await?;
        Ok(Some(seal))
    }

    async fn write_forgetting(&self, before_ms: i64) -> Result<u64, StoreError> {
        let oldest = self.seals(0, audit::LOOKED_AT).await?;
        let Some(last) = audit::leaving(&oldest, before_ms) else {
            return Ok(0);
        };
        let mut write = self.begin(Write::MakesRoom).await?;
        let connection = &mut *write.connection;
        let query = sqlx::query("DELETE FROM audit WHERE number <= ?").bind(last.last);
        let gone = query.execute(&mut *connection).await.map_err(fault::sqlite)?;
        run(
            connection,
            sqlx::query("DELETE FROM audit_seals WHERE place <= ?").bind(last.place),
        )
        .await?;
        self.commit(write, None).await?;
        Ok(gone.rows_affected())
    }
}

#[async_trait]
impl Audit for Sqlite {
    async fn acts(
        &self,
        scope: &Scope,
        object: Option<&str>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut reader = self.reader().await?;
        // A `+` keeps an index from being used: of an object there are never many entries.
        let (lead, whose) = match (scope, object) {
            (Scope::All, None) => ("", ""),
            (Scope::All, Some(_)) => ("AND object = ?3", ""),
            (Scope::Owner(_), None) => ("", "AND owner = ?4"),
            (Scope::Owner(_), Some(_)) => ("AND object = ?3", "AND +owner = ?4"),
        };
        let sql = AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM audit WHERE number < ?1 {lead} {whose} ORDER BY number DESC LIMIT ?2"
        ));
        let mut query = sqlx::query(sql)
            .bind(before.unwrap_or(i64::MAX))
            .bind(limit)
            .bind(object);
        if let Scope::Owner(owner) = scope {
            query = query.bind(owner);
        }
        let rows = reader.all(query).await?;
        rows.iter().map(row::act).collect()
    }

    async fn seal_acts(&self, now_ms: i64) -> Result<Option<Seal>, StoreError> {
        // Looked at first beside whoever writes: mostly there is nothing to do.
        let mut reader = self.reader().await?;
        let sql = "SELECT 1 FROM audit WHERE number > coalesce((SELECT max(last) FROM audit_seals
            WHERE place = (SELECT max(place) FROM audit_seals)), 0) LIMIT 1";
        if reader.first(sqlx::query(sql)).await?.is_none() {
            return Ok(None);
        }
        drop(reader);
        let store = self.clone();
        self.settled(async move { store.write_seal(now_ms).await }).await
    }

    async fn seals(&self, after: i64, limit: u32) -> Result<Vec<Seal>, StoreError> {
        let mut reader = self.reader().await?;
        let rows = reader.all(sqlx::query(audit::SEALS).bind(after).bind(limit)).await?;
        rows.iter().map(row::seal).collect()
    }

    async fn acts_between(&self, first: i64, last: i64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let mut reader = self.reader().await?;
        let sql = AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM audit WHERE number BETWEEN ?1 AND ?2 ORDER BY number LIMIT ?3"
        ));
        let rows = reader.all(sqlx::query(sql).bind(first).bind(last).bind(limit)).await?;
        rows.iter().map(row::act).collect()
    }

    async fn forget_acts(&self, before_ms: i64) -> Result<u64, StoreError> {
        let store = self.clone();
        self.settled(async move { store.write_forgetting(before_ms).await })
            .await
    }
}
