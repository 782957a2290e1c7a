//! Puts counters right in PostgreSQL.

use sqlx::Acquire as _;

use super::{Postgres, fault};
use crate::dashboard::store::StoreError;
use crate::dashboard::store::counters::DRIFT;
use crate::dashboard::store::row::get;

impl Postgres {
    /// Returns by how much counters were off, in all.
    pub(super) async fn write_recount(&self) -> Result<u64, StoreError> {
        let mut connection = self.connection().await?;
        let rows = sqlx::query(DRIFT).fetch_all(&mut *connection).await;
        let rows = rows.map_err(fault::postgres)?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut transaction = connection.begin().await.map_err(fault::postgres)?;
        // Two servers that found the same would put it right twice.
        self.holds(&mut transaction).await?;
        let mut all = 0_u64;
        for row in &rows {
            let (everybody, owner): (i32, String) = (get(row, 0)?, get(row, 1)?);
            let (state, drift): (i16, i64) = (get(row, 2)?, get(row, 3)?);
            all = all.saturating_add(drift.unsigned_abs());
            let query = if everybody == 0 {
                let sql = "INSERT INTO job_counts (owner, state, shard, n) VALUES ($1, $2, 0, $3)
                    ON CONFLICT (owner, state, shard) DO UPDATE SET n = job_counts.n + excluded.n";
                sqlx::query(sql).bind(owner)
            } else {
                let sql = "INSERT INTO job_totals (state, shard, n) VALUES ($1, 0, $2)
                    ON CONFLICT (state, shard) DO UPDATE SET n = job_totals.n + excluded.n";
                sqlx::query(sql)
            };
            let query = query.bind(state).bind(drift.saturating_neg());
            query.execute(&mut *transaction).await.map_err(fault::postgres)?;
        }
        transaction.commit().await.map_err(fault::postgres)?;
        Ok(all)
    }
}
