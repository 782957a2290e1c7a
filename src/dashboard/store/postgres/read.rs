//! Reading lists.

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _, Postgres as Driver};

use super::{Inner, Postgres, Query};
use crate::dashboard::job::Job;
use crate::dashboard::store::list::{self, Ask, Bind, Dialect, Reach, Statement, columns};
use crate::dashboard::store::listed::Key;
use crate::dashboard::store::row::{self, get};
use crate::dashboard::store::{Filter, Scope, StoreError, fault};

fn query(statement: &Statement) -> Query<'_> {
    let mut query = sqlx::query(AssertSqlSafe(statement.sql.clone()));
    for bind in &statement.binds {
        query = match bind {
            Bind::Number(number) => query.bind(*number),
            Bind::State(number) => query.bind(*number),
            Bind::Text(text) => query.bind(text),
            Bind::Numbers(numbers) => query.bind(numbers),
        };
    }
    query
}

/// A list that is being read. It has one connection at a time: with two, lists could wait for each other's.
pub(super) struct Reader<'a> {
    inner: &'a Inner,
    held: Option<Held>,
}

struct Held {
    connection: PoolConnection<Driver>,
    planned_once: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(inner: &'a Inner) -> Self {
        Self { inner, held: None }
    }

    /// Returns a connection for statements that are planned once, or each time.
    async fn connection(&mut self, planned_once: bool) -> Result<&mut PgConnection, StoreError> {
        let held = match self.held.take() {
            Some(held) if held.planned_once == planned_once => held,
            other => {
                drop(other);
                let pool = if planned_once {
                    &self.inner.pool
                } else {
                    &self.inner.planning
                };
                let connection = pool.acquire().await.map_err(fault::postgres)?;
                Held {
                    connection,
                    planned_once,
                }
            }
        };
        Ok(&mut self.held.insert(held).connection)
    }

    /// Returns the connection that there is.
    async fn any(&mut self) -> Result<&mut PgConnection, StoreError> {
        let planned_once = self.held.as_ref().is_none_or(|held| held.planned_once);
        self.connection(planned_once).await
    }
}

#[async_trait]
impl Ask for Reader<'_> {
    const DIALECT: Dialect = Dialect::Postgres;

    async fn jobs(&mut self, statement: &Statement) -> Result<Vec<Job>, StoreError> {
        let connection = self.connection(statement.has_one_plan).await?;
        let rows = query(statement).fetch_all(connection).await;
        rows.map_err(fault::postgres)?.iter().map(row::job).collect()
    }

    async fn keys(&mut self, statement: &Statement) -> Result<Vec<Key>, StoreError> {
        let keys = Statement {
            sql: format!("SELECT p.id, p.version FROM ({}) p", statement.sql),
            ..statement.clone()
        };
        let connection = self.connection(statement.has_one_plan).await?;
        let rows = query(&keys).fetch_all(connection).await.map_err(fault::postgres)?;
        let keys = rows.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?)));
        row::keys(keys.collect::<Result<_, StoreError>>()?)
    }

    async fn with_ids(&mut self, ids: Vec<i64>) -> Result<Vec<Job>, StoreError> {
        let sql = concat!("SELECT ", columns!("jobs"), " FROM jobs WHERE id = ANY($1)");
        let rows = sqlx::query(sql).bind(ids).fetch_all(self.any().await?).await;
        rows.map_err(fault::postgres)?.iter().map(row::job).collect()
    }

    async fn size(&mut self) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT coalesce(sum(n), 0)::bigint FROM job_totals")
            .fetch_one(self.any().await?)
            .await;
        get(&row.map_err(fault::postgres)?, 0)
    }

    async fn reach(&mut self, statement: Statement) -> Result<Reach, StoreError> {
        let connection = self.connection(statement.has_one_plan).await?;
        let row = query(&statement).fetch_one(connection).await.map_err(fault::postgres)?;
        Ok(Reach {
            oldest: get(&row, 0)?,
            ids: get(&row, 1)?,
        })
    }
}

impl Postgres {
    /// Returns the statements that a list may make with how the database would run each, for tests: planned on the
    /// connections that it is asked on, where a text is as good as another.
    ///
    /// # Errors
    /// As every call.
    #[doc(hidden)]
    pub async fn plans(&self, filter: &Filter) -> Result<Vec<(String, String)>, StoreError> {
        let mut reader = Reader::new(&self.inner);
        let mut plans = Vec::new();
        for statement in list::statements(Dialect::Postgres, &Scope::All, filter) {
            let connection = reader.connection(statement.has_one_plan).await?;
            let values = statement.binds.iter().map(|bind| match bind {
                Bind::Number(number) => number.to_string(),
                Bind::State(number) => number.to_string(),
                Bind::Text(_) => "'x'".to_owned(),
                Bind::Numbers(numbers) => format!(
                    "'{{{}}}'",
                    numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
                ),
            });
            let values = values.collect::<Vec<_>>().join(", ");
            let sql = &statement.sql;
            let explain = format!("PREPARE planned AS {sql}; EXPLAIN EXECUTE planned ({values})");
            let rows = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut *connection).await;
            let lines = rows
                .map_err(fault::postgres)?
                .iter()
                .map(|row| get::<_, String>(row, 0))
                .collect::<Result<Vec<_>, _>>()?;
            connection
                .execute(sqlx::raw_sql("DEALLOCATE planned"))
                .await
                .map_err(fault::postgres)?;
            plans.push((statement.sql, lines.join("\n")));
        }
        Ok(plans)
    }
}
