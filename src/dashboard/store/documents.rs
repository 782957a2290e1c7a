//! Documents with names: templates and schedules. The same statements hold for both databases.
//!
//! A document has a version, which is its `ETag`. Of templates every version is kept, also when the template is deleted:
//! a job says which one made it.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;

use super::{Scope, StoreError};
use crate::dashboard::job::JobId;
use crate::dashboard::job::template::Origin;

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A template of jobs.
    Template,
    /// A schedule of jobs.
    Schedule,
}

impl Kind {
    /// Returns the number under which stores keep it. It never changes.
    pub(super) fn number(self) -> i16 {
        match self {
            Self::Template => 0,
            Self::Schedule => 1,
        }
    }

    /// Returns whether old versions are kept.
    pub(super) fn keeps_versions(self) -> bool {
        self == Self::Template
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Template => "template",
            Self::Schedule => "schedule",
        })
    }
}

/// A document, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The name; one document of a kind has it.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// How often it changed, from 1.
    pub version: i64,
    /// When it was made, in milliseconds since 1970; of an old version, when that was.
    pub created_ms: i64,
    /// When it last changed.
    pub changed_ms: i64,
    /// The document, as JSON.
    pub text: String,
}

/// A document to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDocument {
    /// The name.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// When, in milliseconds since 1970.
    pub now_ms: i64,
    /// The document, as JSON.
    pub text: String,
}

/// How far a schedule came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// All its occurrences until then are done, in milliseconds since 1970.
    pub done_ms: i64,
    /// The last job that it made.
    pub job: Option<JobId>,
    /// Why the last occurrence came to no job, for people.
    pub said: Option<String>,
}

/// A store of documents.
#[async_trait]
pub trait Documents: Send + Sync {
    /// Returns the documents of a kind by their names; of those in the scope.
    ///
    /// # Errors
    /// As every call: [`StoreError`].
    async fn documents(&self, kind: Kind, scope: &Scope) -> Result<Vec<Document>, StoreError>;

    /// Returns a document: as it is now, or a version that was kept, also of one that was deleted.
    ///
    /// # Errors
    /// As every call.
    async fn document(&self, kind: Kind, name: &str, version: Option<i64>) -> Result<Option<Document>, StoreError>;

    /// Keeps a new document and returns it; nothing where the name is taken.
    ///
    /// # Errors
    /// As every call.
    async fn add_document(&self, kind: Kind, new: &NewDocument) -> Result<Option<Document>, StoreError>;

    /// Changes a document where it still has this version, and returns it; nothing where it has another one or is gone.
    ///
    /// # Errors
    /// As every call.
    async fn change_document(
        &self,
        kind: Kind,
        name: &str,
        version: i64,
        text: &str,
        now_ms: i64,
    ) -> Result<Option<Document>, StoreError>;

    /// Deletes a document where it still has this version. Says whether it did.
    ///
    /// # Errors
    /// As every call.
    async fn remove_document(&self, kind: Kind, name: &str, version: i64) -> Result<bool, StoreError>;

    /// Returns how a job was made from a template.
    ///
    /// # Errors
    /// As every call.
    async fn origin(&self, id: JobId) -> Result<Option<Origin>, StoreError>;

    /// Returns how far schedules came, by their names; those that had no occurrence yet are not among them.
    ///
    /// # Errors
    /// As every call.
    async fn marks(&self) -> Result<BTreeMap<String, Mark>, StoreError>;

    /// Says how far a schedule came, where nobody else has said so meanwhile: `before` is the time of the mark that was
    /// read. Says whether it did.
    ///
    /// # Errors
    /// As every call.
    async fn set_mark(&self, schedule: &str, before: Option<i64>, mark: &Mark) -> Result<bool, StoreError>;
}

/// Returns how a version is written down in [`super::audit`].
pub(super) fn version(number: i64) -> String {
    format!("version {number}")
}

pub(super) const LIST: &str = "SELECT name, owner, version, created_ms, changed_ms, document FROM documents
    WHERE kind = $1 AND ($2 IS NULL OR owner = $2) ORDER BY name";

pub(super) const GET: &str = "SELECT name, owner, version, created_ms, changed_ms, document FROM documents
    WHERE kind = $1 AND name = $2";

pub(super) const GET_VERSION: &str = "SELECT name, owner, version, changed_ms, changed_ms, document
    FROM document_versions WHERE kind = $1 AND name = $2 AND version = $3";

/// The version of a name that was used before follows the last one it had.
pub(super) const ADD: &str = "INSERT INTO documents (kind, name, owner, version, created_ms, changed_ms, document)
    SELECT $1, $2, $3,
        1 + coalesce((SELECT max(v.version) FROM document_versions v WHERE v.kind = $1 AND v.name = $2), 0),
        $4, $4, $5
    WHERE true ON CONFLICT (kind, name) DO NOTHING
    RETURNING name, owner, version, created_ms, changed_ms, document";

pub(super) const CHANGE: &str = "UPDATE documents SET version = version + 1, changed_ms = $5, document = $4
    WHERE kind = $1 AND name = $2 AND version = $3
    RETURNING name, owner, version, created_ms, changed_ms, document";

pub(super) const KEEP: &str = "INSERT INTO document_versions (kind, name, version, owner, changed_ms, document)
    SELECT kind, name, version, owner, changed_ms, document FROM documents WHERE kind = $1 AND name = $2";

pub(super) const REMOVE: &str = "DELETE FROM documents WHERE kind = $1 AND name = $2 AND version = $3
    RETURNING owner";

pub(super) const REMOVE_MARK: &str = "DELETE FROM schedule_marks WHERE name = $1";

pub(super) const ORIGIN: &str = "SELECT j.template, o.version, o.parameters FROM jobs j
    JOIN job_origins o ON o.id = j.id WHERE j.id = $1";

pub(super) const ADD_ORIGIN: &str = "INSERT INTO job_origins (id, version, parameters) VALUES ($1, $2, $3)";

pub(super) const MARKS: &str = "SELECT done_ms, job, said, name FROM schedule_marks";

/// A mark without a job keeps that of the one before.
pub(super) const SET_MARK: &str = "INSERT INTO schedule_marks (name, done_ms, job, said) VALUES ($1, $2, $3, $4)
    ON CONFLICT (name) DO UPDATE SET done_ms = excluded.done_ms, said = excluded.said,
        job = coalesce(excluded.job, schedule_marks.job)
    WHERE schedule_marks.done_ms = $5";
