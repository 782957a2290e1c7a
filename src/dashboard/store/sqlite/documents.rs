//! Documents in SQLite.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::write::{Kind as Write, run};
use super::{Sqlite, audit, fault};
use crate::dashboard::job::JobId;
use crate::dashboard::job::template::Origin;
use crate::dashboard::store::documents::{self, Document, Documents, Kind, Mark, NewDocument};
use crate::dashboard::store::row;
use crate::dashboard::store::{Scope, StoreError};

async fn optional(
    connection: &mut SqliteConnection,
    query: super::Query<'_>,
) -> Result<Option<sqlx::sqlite::SqliteRow>, StoreError> {
    query.fetch_optional(connection).await.map_err(fault::sqlite)
}

impl Sqlite {
    async fn write_document(&self, kind: Kind, new: NewDocument) -> Result<Option<Document>, StoreError> {
        let mut write = self.begin(Write::Usual).await?;
        let query = sqlx::query(documents::ADD)
            .bind(kind.number())
            .bind(row::clean(&new.name))
            .bind(row::clean(&new.owner))
            .bind(new.now_ms)
            .bind(new.text);
        let Some(added) = optional(&mut write.connection, query).await? else {
            write.end().await;
            return Ok(None);
        };
        let added = row::document(&added)?;
        self.keep(kind, &added.name, &mut write.connection).await?;
        self.wrote(kind, &added, None, &mut write.connection).await?;
        self.commit(write, None).await?;
        Ok(Some(added))
    }

    async fn keep(&self, kind: Kind, name: &str, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        if kind.keeps_versions() {
            run(
                connection,
                sqlx::query(documents::KEEP).bind(kind.number()).bind(name.to_owned()),
            )
            .await?;
        }
        Ok(())
    }

    /// Writes down who made or changed a document.
    async fn wrote(
        &self,
        kind: Kind,
        document: &Document,
        before: Option<i64>,
        connection: &mut SqliteConnection,
    ) -> Result<(), StoreError> {
        let Some(act) = &self.act else { return Ok(()) };
        let object = format!("{kind}/{}", document.name);
        let (before, after) = (before.map(documents::version), documents::version(document.version));
        audit::add(connection, act, object, &document.owner, before, Some(after)).await
    }

    async fn write_document_change(
        &self,
        kind: Kind,
        name: String,
        version: i64,
        text: String,
        now_ms: i64,
    ) -> Result<Option<Document>, StoreError> {
        let mut write = self.begin(Write::Usual).await?;
        let query = sqlx::query(documents::CHANGE)
            .bind(kind.number())
            .bind(name)
            .bind(version)
            .bind(text)
            .bind(now_ms);
        let Some(changed) = optional(&mut write.connection, query).await? else {
            write.end().await;
            return Ok(None);
        };
        let changed = row::document(&changed)?;
        self.keep(kind, &changed.name, &mut write.connection).await?;
        self.wrote(kind, &changed, Some(version), &mut write.connection).await?;
        self.commit(write, None).await?;
        Ok(Some(changed))
    }

    async fn write_document_removal(&self, kind: Kind, name: String, version: i64) -> Result<bool, StoreError> {
        let mut write = self.begin(Write::MakesRoom).await?;
        let query = sqlx::query(documents::REMOVE)
            .bind(kind.number())
            .bind(name.clone())
            .bind(version);
        let Some(removed) = optional(&mut write.connection, query).await? else {
            write.end().await;
            return Ok(false);
        };
        if let Some(act) = &self.act {
            let (object, owner): (_, String) = (format!("{kind}/{name}"), row::get(&removed, 0)?);
            let before = Some(documents::version(version));
            audit::add(&mut write.connection, act, object, &owner, before, None).await?;
        }
        if kind == Kind::Schedule {
            run(&mut write.connection, sqlx::query(documents::REMOVE_MARK).bind(name)).await?;
        }
        self.commit(write, None).await?;
        Ok(true)
    }

    async fn write_mark(&self, schedule: String, before: Option<i64>, mark: Mark) -> Result<bool, StoreError> {
        let mut write = self.begin(Write::Usual).await?;
        let query = sqlx::query(documents::SET_MARK)
            .bind(schedule)
            .bind(mark.done_ms)
            .bind(mark.job.map(JobId::number))
            .bind(mark.said.as_deref().map(row::clean))
            .bind(before);
        let done = query.execute(&mut *write.connection).await.map_err(fault::sqlite)?;
        self.commit(write, None).await?;
        Ok(done.rows_affected() > 0)
    }
}

#[async_trait]
impl Documents for Sqlite {
    async fn documents(&self, kind: Kind, scope: &Scope) -> Result<Vec<Document>, StoreError> {
        let mut reader = self.reader().await?;
        let owner = match scope {
            Scope::All => None,
            Scope::Owner(owner) => Some(owner),
        };
        let query = sqlx::query(documents::LIST).bind(kind.number()).bind(owner);
        let rows = reader.all(query).await?;
        rows.iter().map(row::document).collect()
    }

    async fn document(&self, kind: Kind, name: &str, version: Option<i64>) -> Result<Option<Document>, StoreError> {
        let mut reader = self.reader().await?;
        let query = match version {
            None => sqlx::query(documents::GET).bind(kind.number()).bind(name),
            Some(version) => sqlx::query(documents::GET_VERSION)
                .bind(kind.number())
                .bind(name)
                .bind(version),
        };
        let found = reader.first(query).await?;
        found.as_ref().map(row::document).transpose()
    }

    async fn add_document(&self, kind: Kind, new: &NewDocument) -> Result<Option<Document>, StoreError> {
        let (store, new) = (self.clone(), new.clone());
        self.settled(async move { store.write_document(kind, new).await }).await
    }

    async fn change_document(
        &self,
        kind: Kind,
        name: &str,
        version: i64,
        text: &str,
        now_ms: i64,
    ) -> Result<Option<Document>, StoreError> {
        let (store, name, text) = (self.clone(), name.to_owned(), text.to_owned());
        self.settled(async move { store.write_document_change(kind, name, version, text, now_ms).await })
            .await
    }

    async fn remove_document(&self, kind: Kind, name: &str, version: i64) -> Result<bool, StoreError> {
        let (store, name) = (self.clone(), name.to_owned());
        self.settled(async move { store.write_document_removal(kind, name, version).await })
            .await
    }

    async fn origin(&self, id: JobId) -> Result<Option<Origin>, StoreError> {
        let mut reader = self.reader().await?;
        let query = sqlx::query(documents::ORIGIN).bind(id.number());
        let found = reader.first(query).await?;
        found.as_ref().map(row::origin).transpose()
    }

    async fn marks(&self) -> Result<BTreeMap<String, Mark>, StoreError> {
        let mut reader = self.reader().await?;
        let query = sqlx::query(documents::MARKS);
        let rows = reader.all(query).await?;
        rows.iter().map(row::mark).collect()
    }

    async fn set_mark(&self, schedule: &str, before: Option<i64>, mark: &Mark) -> Result<bool, StoreError> {
        let (store, schedule, mark) = (self.clone(), schedule.to_owned(), mark.clone());
        self.settled(async move { store.write_mark(schedule, before, mark).await })
            .await
    }
}
