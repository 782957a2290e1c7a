//! What a database's errors mean to those who asked.

use anyhow::Context as _;
use sqlx::migrate::MigrateError;

use super::StoreError;

/// Returns what an error of SQLite means. Codes: <https://sqlite.org/rescode.html>.
pub(super) fn sqlite(error: sqlx::Error) -> StoreError {
    let code = match &error {
        sqlx::Error::Database(database) => database.code().and_then(|code| code.parse::<i32>().ok()),
        _ => None,
    };
    let Some(code) = code else { return driver(error) };
    let (busy, locked, no_memory, read_only, interrupted, io, full, cannot_open) = (5, 6, 7, 8, 9, 10, 13, 14);
    match code & 0xff {
        primary if primary == full || primary == read_only => StoreError::Full(error.into()),
        // Reading failed (SQLITE_IOERR_READ, _SHORT_READ): not for want of room.
        primary if primary == io && matches!(code >> 8, 1 | 2) => StoreError::Unavailable(error.into()),
        // A quota and some file systems say this where the disk is full.
        primary if primary == io => StoreError::Full(error.into()),
        primary if primary == interrupted => StoreError::Timeout(error.into()),
        primary if [busy, locked, no_memory, cannot_open].contains(&primary) => StoreError::Unavailable(error.into()),
        _ => StoreError::Broken(error.into()),
    }
}

/// Returns what an error of PostgreSQL means. Codes: appendix A of its documentation.
pub(super) fn postgres(error: sqlx::Error) -> StoreError {
    let code = match &error {
        sqlx::Error::Database(database) => database.code().map(std::borrow::Cow::into_owned),
        _ => None,
    };
    let Some(code) = code else { return driver(error) };
    match code.as_str() {
        // disk_full, read_only_sql_transaction: a standby, or a provider that closed a full disk for writing.
        "53100" | "25006" => StoreError::Full(error.into()),
        // query_canceled is the statement timeout, lock_not_available the one of locks.
        "57014" | "55P03" => StoreError::Timeout(error.into()),
        // serialization_failure, deadlock_detected: another try helps.
        "40001" | "40P01" => StoreError::Unavailable(error.into()),
        // Connections, authorization, unknown databases, resources, shutdown, system errors.
        code if ["08", "28", "3D", "53", "57", "58"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            StoreError::Unavailable(error.into())
        }
        _ => StoreError::Broken(error.into()),
    }
}

fn driver(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => StoreError::Unavailable(error.into()),
        _ => StoreError::Broken(error.into()),
    }
}

/// Returns what it means that a migration failed.
pub(super) fn migration(error: MigrateError, meaning: impl Fn(sqlx::Error) -> StoreError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => meaning(error),
        MigrateError::VersionMismatch(version) => StoreError::Broken(anyhow::anyhow!(
            "migration {version} of this database is not the one of this labctl; use the labctl that made it, or another database"
        )),
        error => StoreError::Broken(anyhow::Error::from(error).context("bring the database up to date")),
    }
}

/// Says that the time for a request is over.
pub(super) fn late<T>(result: Result<T, tokio::time::error::Elapsed>, what: &str) -> Result<T, StoreError> {
    result
        .with_context(|| format!("{what} took too long"))
        .map_err(StoreError::Timeout)
}
