//! Documents in PostgreSQL.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{Postgres, Whose, audit, fault, timely};
use crate::dashboard::job::JobId;
use crate::dashboard::job::template::Origin;
use crate::dashboard::store::documents::{self, Document, Documents, Kind, Mark, NewDocument};
use crate::dashboard::store::row;
use crate::dashboard::store::{Scope, StoreError};

impl Postgres {
    /// Does a statement that returns the document, and keeps its new version.
    async fn write_document(
        &self,
        kind: Kind,
        query: super::Query<'_>,
        before: Option<i64>,
    ) -> Result<Option<Document>, StoreError> {
        let mut connection = self.connection().await?;
        let mut transaction = audit::begin(&mut connection, self.act.as_deref()).await?;
        let found = query.fetch_optional(&mut *transaction).await.map_err(fault::postgres)?;
        let Some(document) = found.as_ref().map(row::document).transpose()? else {
            return Ok(None);
        };
        if kind.keeps_versions() {
            let keep = sqlx::query(documents::KEEP).bind(kind.number()).bind(&document.name);
            keep.execute(&mut *transaction).await.map_err(fault::postgres)?;
        }
        if let Some(act) = &self.act {
            let object = format!("{kind}/{}", document.name);
            let (before, after) = (before.map(documents::version), documents::version(document.version));
            audit::add(&mut transaction, act, object, &document.owner, before, Some(after)).await?;
        }
        transaction.commit().await.map_err(fault::postgres)?;
        Ok(Some(document))
    }
}

#[async_trait]
impl Documents for Postgres {
    async fn documents(&self, kind: Kind, scope: &Scope) -> Result<Vec<Document>, StoreError> {
        let Some(Whose(owner)) = Whose::new(scope) else {
            return Ok(Vec::new());
        };
        timely(async {
            let mut connection = self.connection().await?;
            let query = sqlx::query(documents::LIST).bind(kind.number()).bind(owner);
            let rows = query.fetch_all(&mut *connection).await.map_err(fault::postgres)?;
            rows.iter().map(row::document).collect()
        })
        .await
    }

    async fn document(&self, kind: Kind, name: &str, version: Option<i64>) -> Result<Option<Document>, StoreError> {
        if name.contains('\0') {
            return Ok(None);
        }
        timely(async {
            let mut connection = self.connection().await?;
            let query = match version {
                None => sqlx::query(documents::GET).bind(kind.number()).bind(name),
                Some(version) => sqlx::query(documents::GET_VERSION)
                    .bind(kind.number())
                    .bind(name)
                    .bind(version),
            };
            let found = query.fetch_optional(&mut *connection).await.map_err(fault::postgres)?;
            found.as_ref().map(row::document).transpose()
        })
        .await
    }

    async fn add_document(&self, kind: Kind, new: &NewDocument) -> Result<Option<Document>, StoreError> {
        let query = sqlx::query(documents::ADD)
            .bind(kind.number())
            .bind(row::clean(&new.name))
            .bind(row::clean(&new.owner))
            .bind(new.now_ms)
            .bind(&new.text);
        timely(self.write_document(kind, query, None)).await
    }

    async fn change_document(
        &self,
        kind: Kind,
        name: &str,
        version: i64,
        text: &str,
        now_ms: i64,
    ) -> Result<Option<Document>, StoreError> {
        let query = sqlx::query(documents::CHANGE)
            .bind(kind.number())
            .bind(row::clean(name))
            .bind(version)
            .bind(text)
            .bind(now_ms);
        timely(self.write_document(kind, query, Some(version))).await
    }

    async fn remove_document(&self, kind: Kind, name: &str, version: i64) -> Result<bool, StoreError> {
        timely(async {
            let mut connection = self.connection().await?;
            let mut transaction = audit::begin(&mut connection, self.act.as_deref()).await?;
            let query = sqlx::query(documents::REMOVE)
                .bind(kind.number())
                .bind(row::clean(name))
                .bind(version);
            let removed = query.fetch_optional(&mut *transaction).await.map_err(fault::postgres)?;
            let Some(removed) = removed else {
                return Ok(false);
            };
            if let Some(act) = &self.act {
                let (object, owner): (_, String) = (format!("{kind}/{name}"), row::get(&removed, 0)?);
                let before = Some(documents::version(version));
                audit::add(&mut transaction, act, object, &owner, before, None).await?;
            }
            if kind == Kind::Schedule {
                let query = sqlx::query(documents::REMOVE_MARK).bind(row::clean(name));
                query.execute(&mut *transaction).await.map_err(fault::postgres)?;
            }
            transaction.commit().await.map_err(fault::postgres)?;
            Ok(true)
        })
        .await
    }

    async fn origin(&self, id: JobId) -> Result<Option<Origin>, StoreError> {
        timely(async {
            let mut connection = self.connection().await?;
            let query = sqlx::query(documents::ORIGIN).bind(id.number());
            let found = query.fetch_optional(&mut *connection).await.map_err(fault::postgres)?;
            found.as_ref().map(row::origin).transpose()
        })
        .await
    }

    async fn marks(&self) -> Result<BTreeMap<String, Mark>, StoreError> {
        timely(async {
            let mut connection = self.connection().await?;
            let query = sqlx::query(documents::MARKS);
            let rows = query.fetch_all(&mut *connection).await.map_err(fault::postgres)?;
            rows.iter().map(row::mark).collect()
        })
        .await
    }

    async fn set_mark(&self, schedule: &str, before: Option<i64>, mark: &Mark) -> Result<bool, StoreError> {
        timely(async {
            let mut connection = self.connection().await?;
            let query = sqlx::query(documents::SET_MARK)
                .bind(schedule)
                .bind(mark.done_ms)
                .bind(mark.job.map(JobId::number))
                .bind(mark.said.as_deref().map(row::clean))
                .bind(before);
            let done = query.execute(&mut *connection).await.map_err(fault::postgres)?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }
}
