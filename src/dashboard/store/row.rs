//! Rows and jobs: the same columns in both databases.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use sqlx::{ColumnIndex, Decode, Row, Type};

use super::audit::{Entry, Seal};
use super::documents::{Document, Mark};
use super::list::columns;
use super::listed::Key;
use super::{NewJob, StoreError};
use crate::dashboard::job::spec::Spec;
use crate::dashboard::job::template::Origin;
use crate::dashboard::job::{Change, Job, JobId, State, reason};
use crate::dashboard::log::Chunk;

/// Says that what is stored cannot be understood.
pub(super) fn broken(error: impl Into<anyhow::Error>) -> StoreError {
    StoreError::Broken(error.into())
}

/// Reads a column by its place.
pub(super) fn get<'r, R, T>(row: &'r R, place: usize) -> Result<T, StoreError>
where
    R: Row,
    usize: ColumnIndex<R>,
    T: Decode<'r, R::Database> + Type<R::Database>,
{
    row.try_get(place).map_err(broken)
}

/// Reads a number that is an id.
pub(super) fn id(number: i64) -> Result<JobId, StoreError> {
    JobId::from_number(number).ok_or_else(|| broken(anyhow!("{number} is stored as the id of a job")))
}

/// Reads a number that is never negative.
pub(super) fn count(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| broken(anyhow!("{number} is stored where nothing negative can be")))
}

/// Returns the number as which a count is stored.
pub(super) fn number(count: u64) -> Result<i64, StoreError> {
    i64::try_from(count).map_err(|_| broken(anyhow!("{count} is more than can be stored")))
}

/// Reads a state.
pub(super) fn state(number: i16) -> Result<State, StoreError> {
    State::from_number(number).ok_or_else(|| broken(anyhow!("{number} is stored as the state of a job")))
}

/// Reads a job from a row with the columns of [`super::list::columns`].
pub(super) fn job<'r, R>(row: &'r R) -> Result<Job, StoreError>
where
    R: Row,
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    i32: Decode<'r, R::Database> + Type<R::Database>,
    i16: Decode<'r, R::Database> + Type<R::Database>,
    bool: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    from_columns(Columns(
        get(row, 0)?,
        get(row, 1)?,
        get(row, 2)?,
        get(row, 3)?,
        get(row, 4)?,
        get(row, 5)?,
        get(row, 6)?,
        get(row, 7)?,
        get(row, 8)?,
        get(row, 9)?,
        get(row, 10)?,
        get(row, 11)?,
        get(row, 12)?,
        get(row, 13)?,
        get(row, 14)?,
        get(row, 15)?,
        get(row, 16)?,
    ))
}

/// Returns a statement whose one value is a JSON array with an array for each row of one that has the columns of
/// [`super::list::columns`], in SQLite's dialect.
pub(super) fn as_json(rows: &str) -> String {
    format!(
        concat!("SELECT json_group_array(json_array(", columns!("p"), ")) FROM ({}) p"),
        rows
    )
}

/// Returns a statement whose one value is a JSON array with the id and the version of each of these rows, in SQLite's
/// dialect. Other columns are not even read: nobody asks for them.
pub(super) fn keys_as_json(rows: &str) -> String {
    format!("SELECT json_group_array(json_array(p.id, p.version)) FROM ({rows}) p")
}

/// Reads the value of [`keys_as_json`], newest first.
pub(super) fn keys_from_json(text: &str) -> Result<Vec<Key>, StoreError> {
    let rows: Vec<(i64, i64)> = serde_json::from_str(text).context("read a page").map_err(broken)?;
    keys(rows)
}

/// Returns ids and versions, newest first.
pub(super) fn keys(rows: Vec<(i64, i64)>) -> Result<Vec<Key>, StoreError> {
    let key = |(number, version)| id(number).map(|id| Key { id, version });
    let mut keys = rows.into_iter().map(key).collect::<Result<Vec<_>, _>>()?;
    // Neither an aggregate nor a query of a query promises an order; this costs nothing where there is one.
    keys.sort_by_key(|key| std::cmp::Reverse(key.id));
    Ok(keys)
}

/// The values of [`super::list::columns`].
#[derive(Deserialize)]
struct Columns(
    i64,
    String,
    String,
    i16,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
    i64,
    Option<i64>,
    Option<i64>,
    Option<i32>,
    i32,
    #[serde(deserialize_with = "flag")] bool,
    #[serde(deserialize_with = "flag")] bool,
    i64,
);

/// Reads a truth as SQLite has it, 0 or 1.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(u8::deserialize(deserializer)? != 0)
}

/// Reads the value of [`as_json`], newest first.
pub(super) fn jobs_from_json(text: &str) -> Result<Vec<Job>, StoreError> {
    let rows: Vec<Columns> = serde_json::from_str(text)
        .context("read a page of jobs")
        .map_err(broken)?;
    let mut jobs = rows.into_iter().map(from_columns).collect::<Result<Vec<_>, _>>()?;
    // An aggregate promises no order; this costs nothing where it has it.
    jobs.sort_by_key(|job| std::cmp::Reverse(job.id));
    Ok(jobs)
}

fn from_columns(row: Columns) -> Result<Job, StoreError> {
    let labels = row.7.as_deref().map(serde_json::from_str).transpose();
    Ok(Job {
        id: id(row.0)?,
        name: row.1,
        owner: row.2,
        state: state(row.3)?,
        reason: row.4,
        message: row.5,
        template: row.6,
        labels: labels
            .context("read the labels of a job")
            .map_err(broken)?
            .unwrap_or_default(),
        parent: row.8.map(id).transpose()?,
        created_ms: row.9,
        started_ms: row.10,
        finished_ms: row.11,
        exit_code: row.12,
        attempts: u32::try_from(row.13).unwrap_or_default(),
        cancelling: row.14,
        log_complete: row.15,
        version: row.16,
    })
}

/// Reads a part of a log from `first, lines, bytes, position, data`.
pub(super) fn chunk<'r, R>(row: &'r R) -> Result<Chunk, StoreError>
where
    R: Row,
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
{
    Ok(Chunk {
        first: count(get(row, 0)?)?,
        lines: count(get(row, 1)?)?,
        bytes: count(get(row, 2)?)?,
        position: get(row, 3)?,
        data: get(row, 4)?,
    })
}

/// Reads a document from `name, owner, version, created_ms, changed_ms, document`.
pub(super) fn document<'r, R>(row: &'r R) -> Result<Document, StoreError>
where
    R: Row,
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    Ok(Document {
        name: get(row, 0)?,
        owner: get(row, 1)?,
        version: get(row, 2)?,
        created_ms: get(row, 3)?,
        changed_ms: get(row, 4)?,
        text: get(row, 5)?,
    })
}

/// Reads how a job was made from `template, version, parameters`.
pub(super) fn origin<'r, R>(row: &'r R) -> Result<Origin, StoreError>
where
    R: Row,
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    let template: Option<String> = get(row, 0)?;
    let parameters: String = get(row, 2)?;
    Ok(Origin {
        template: template.unwrap_or_default(),
        version: get(row, 1)?,
        parameters: serde_json::from_str(&parameters)
            .context("read the parameters of a job")
            .map_err(broken)?,
    })
}

/// Returns the parameters of a job as they are stored.
pub(super) fn parameters_text(origin: &Origin) -> Result<String, StoreError> {
    serde_json::to_string(&origin.parameters).map_err(broken)
}

/// Reads how far a schedule came from `done_ms, job, said, name`.
pub(super) fn mark<'r, R>(row: &'r R) -> Result<(String, Mark), StoreError>
where
    R: Row,
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    let job: Option<i64> = get(row, 1)?;
    let mark = Mark {
        done_ms: get(row, 0)?,
        job: job.map(id).transpose()?,
        said: get(row, 2)?,
    };
    Ok((get(row, 3)?, mark))
}

/// Returns the row of a job that is new.
pub(super) fn fresh(new: &NewJob, id: JobId) -> Job {
    Job {
        id,
        name: new.spec.name.clone(),
        owner: new.owner.clone(),
        state: if new.spec.suspend {
            State::Suspended
        } else {
            State::Pending
        },
        reason: new.spec.suspend.then(|| reason::HELD.to_owned()),
        message: None,
        template: new.template.as_ref().map(|origin| origin.template.clone()),
        labels: new.spec.labels.clone(),
        parent: new.parent,
        created_ms: new.created_ms,
        started_ms: None,
        finished_ms: None,
        exit_code: None,
        attempts: 0,
        cancelling: false,
        log_complete: false,
        version: 1,
    }
}

/// Returns labels as they are stored; nothing for none.
pub(super) fn labels_text(labels: &BTreeMap<String, String>) -> Result<Option<String>, StoreError> {
    let text = (!labels.is_empty()).then(|| serde_json::to_string(labels));
    text.transpose().map_err(broken)
}

/// How many bytes the value of a parameter may have by which jobs are found.
const PARAMETER_BYTES: usize = 255;

/// Returns the name under which the parameter of a template stands among the labels that jobs are found by. No label's
/// name has a space.
pub(super) fn parameter(name: &str) -> String {
    format!("parameter {name}")
}

/// Returns what a job is found by: its labels, and the parameters that are one short text, number or truth value.
pub(super) fn tags(labels: &BTreeMap<String, String>, origin: Option<&Origin>) -> BTreeMap<String, String> {
    let mut tags = labels.clone();
    for (name, value) in origin.iter().flat_map(|origin| &origin.parameters) {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => continue,
        };
        if value.len() <= PARAMETER_BYTES && !value.contains('\0') && !name.contains('\0') {
            tags.insert(parameter(name), value);
        }
    }
    tags
}

/// Returns a spec as it is stored.
pub(super) fn spec_text(spec: &Spec) -> Result<String, StoreError> {
    serde_json::to_string(spec).map_err(broken)
}

/// Reads a spec.
pub(super) fn spec(text: &str) -> Result<Spec, StoreError> {
    serde_json::from_str(text)
        .context("read the spec of a job")
        .map_err(broken)
}

/// Reads an entry from a row with the columns of [`super::audit::COLUMNS`].
pub(super) fn act<'r, R>(row: &'r R) -> Result<Entry, StoreError>
where
    R: Row,
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Option<String>: Decode<'r, R::Database> + Type<R::Database>,
{
    Ok(Entry {
        number: get(row, 0)?,
        at_ms: get(row, 1)?,
        actor: get(row, 2)?,
        verb: get(row, 3)?,
        object: get(row, 4)?,
        owner: get(row, 5)?,
        before: get(row, 6)?,
        after: get(row, 7)?,
        request_id: get(row, 8)?,
        ip: get(row, 9)?,
    })
}

/// Reads a seal from `place, first, last, entries, at_ms, previous, digest`.
pub(super) fn seal<'r, R>(row: &'r R) -> Result<Seal, StoreError>
where
    R: Row,
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
{
    let digest = |place| -> Result<[u8; 32], StoreError> {
        let bytes: Vec<u8> = get(row, place)?;
        bytes
            .try_into()
            .map_err(|_| broken(anyhow!("a digest of another length is stored")))
    };
    Ok(Seal {
        place: get(row, 0)?,
        first: get(row, 1)?,
        last: get(row, 2)?,
        entries: get(row, 3)?,
        at_ms: get(row, 4)?,
        before: digest(5)?,
        digest: digest(6)?,
    })
}

/// Returns a job as it is after a change.
pub(super) fn changed(mut job: Job, change: &Change) -> Job {
    job.state = change.state.unwrap_or(job.state);
    if let Some(reason) = &change.reason {
        job.reason = reason.as_deref().map(clean);
    }
    if let Some(message) = &change.message {
        job.message = message.as_deref().map(clean);
    }
    job.started_ms = change.started_ms.or(job.started_ms);
    job.finished_ms = change.finished_ms.or(job.finished_ms);
    job.exit_code = change.exit_code.or(job.exit_code);
    job.attempts = change.attempts.unwrap_or(job.attempts);
    job.cancelling = change.cancelling.unwrap_or(job.cancelling);
    job.log_complete = change.log_complete.unwrap_or(job.log_complete);
    job.version += 1;
    job
}

/// Returns whether a job needs work.
pub(super) fn is_open(job: &Job) -> bool {
    !(job.state.is_final() && job.log_complete)
}

/// Returns a text as PostgreSQL can keep it: U+0000 is the one character that it cannot.
pub(super) fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
