//! Puts counters right in SQLite.

use super::Sqlite;
use super::write::{Kind, run};
use crate::dashboard::store::StoreError;
use crate::dashboard::store::counters::DRIFT;
use crate::dashboard::store::row::get;

impl Sqlite {
    /// Returns by how much counters were off, in all.
    pub(super) async fn write_recount(&self) -> Result<u64, StoreError> {
        // Beside whoever writes: it looks at every job.
        let mut reader = self.reader().await?;
        let rows = reader.all(sqlx::query(DRIFT)).await?;
        drop(reader);
        if rows.is_empty() {
            return Ok(0);
        }
        let mut write = self.begin(Kind::Usual).await?;
        let mut all = 0_u64;
        for row in &rows {
            let (everybody, owner): (i64, String) = (get(row, 0)?, get(row, 1)?);
            let (state, drift): (i16, i64) = (get(row, 2)?, get(row, 3)?);
            all = all.saturating_add(drift.unsigned_abs());
            let query = if everybody == 0 {
                let sql = "INSERT INTO job_counts (owner, state, n) VALUES (?, ?, ?)
                    ON CONFLICT (owner, state) DO UPDATE SET n = n + excluded.n";
                sqlx::query(sql).bind(owner)
            } else {
                let sql = "INSERT INTO job_totals (state, n) VALUES (?, ?)
                    ON CONFLICT (state) DO UPDATE SET n = n + excluded.n";
                sqlx::query(sql)
            };
            let query = query.bind(state).bind(drift.saturating_neg());
            run(&mut write.connection, query).await?;
        }
        self.commit(write, None).await?;
        Ok(all)
    }
}
