//! The migrations of a database: the files of `assets/migrations`, applied in order, each once.
//!
//! A file is never edited once it is released: its checksum is kept with the database and compared at every start. A
//! database that is newer than this binary is used as it is, for migrations only add, and statements name their columns:
//! so replicas are replaced one after the other.

use anyhow::{Context as _, Result};
use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use crate::assets;

/// Returns the migrations of a folder of `assets/migrations`.
///
/// # Errors
/// A file's name is not `NNNN_name.sql`: a bug.
pub(super) fn all(folder: &str) -> Result<Migrator> {
    let mut migrations = Vec::new();
    for (path, contents) in assets::files(&format!("assets/migrations/{folder}")) {
        let name = path.to_string_lossy();
        let (version, description) = name
            .strip_suffix(".sql")
            .and_then(|name| name.split_once('_'))
            .and_then(|(version, name)| Some((version.parse().ok()?, name.replace('_', " "))))
            .with_context(|| format!("`{name}` is no migration's name"))?;
        let sql = std::str::from_utf8(contents).with_context(|| format!("read migration `{name}`"))?;
        migrations.push(Migration::new(
            version,
            description.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            // As sqlx itself reads files: the first line says so.
            sql.starts_with("-- no-transaction"),
        ));
    }
    migrations.sort();
    let mut migrator = Migrator::with_migrations(migrations);
    migrator.set_ignore_missing(true);
    Ok(migrator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_databases_have_the_same_migrations_numbered_without_holes() {
        let versions = |folder| -> Vec<(i64, String)> {
            let all = all(folder).expect("well named");
            all.iter().map(|m| (m.version, m.description.to_string())).collect()
        };
        let (sqlite, postgres) = (versions("sqlite"), versions("postgres"));
        assert_eq!(sqlite, postgres);
        let numbers = sqlite.iter().map(|(version, _)| *version);
        assert!(numbers.eq(1..=i64::try_from(sqlite.len()).expect("few")));
    }
}
