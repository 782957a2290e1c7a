//! Rows of lists, kept for whoever lists them next.
//!
//! Pages are asked for again and again, by every viewer and after every change, and of the fifty rows of a page one has
//! changed, or none. So the database is asked which jobs are on the page and in which version; a row that was read in this
//! version already is neither read, sent nor decoded again, nor is what was made of it. A version of a row never changes,
//! so nothing here can be out of date, whoever writes.

use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hashlink::LruCache;
use serde_json::value::RawValue;

use crate::dashboard::job::{Job, JobId};

/// How many rows are kept: those of eighty pages, in about four megabytes.
const KEPT: usize = 4096;
/// How long it is remembered how many jobs there are.
const SIZE_AGE: Duration = Duration::from_secs(1);
/// How many texts are remembered that few of the newest jobs have, and for how long.
const RARE: (usize, Duration) = (256, Duration::from_secs(10));
/// Up to how long a page is worth keeping; exports, which pass every job once, take longer ones.
pub(super) const PAGE: i64 = 120;

/// A row of a list, shared with all who list it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Listed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    job: Job,
    written: OnceLock<Box<RawValue>>,
}

impl Listed {
    /// Wraps a job.
    pub fn new(job: Job) -> Self {
        Self(Arc::new(Inner {
            job,
            written: OnceLock::new(),
        }))
    }

    /// Returns the row as JSON, which the first one who asks writes. There is one such form, that of the API.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn written(
        &self,
        write: impl FnOnce(&Job) -> serde_json::Result<Box<RawValue>>,
    ) -> serde_json::Result<&RawValue> {
        if let Some(written) = self.0.written.get() {
            return Ok(written);
        }
        let written = write(&self.0.job)?;
        Ok(self.0.written.get_or_init(|| written))
    }

    /// Returns the job alone.
    pub fn into_job(self) -> Job {
        Arc::try_unwrap(self.0).map_or_else(|shared| shared.job.clone(), |own| own.job)
    }
}

impl Deref for Listed {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.0.job
    }
}

impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.0.job == other.0.job
    }
}

/// A row by its id and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) id: JobId,
    pub(super) version: i64,
}

/// The rows that were listed lately, and how many there were.
pub(super) struct Rows {
    kept: Mutex<LruCache<JobId, Listed>>,
    size: Mutex<Option<(Instant, i64)>>,
    rare: Mutex<LruCache<String, Instant>>,
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            kept: Mutex::new(LruCache::new(KEPT)),
            size: Mutex::default(),
            rare: Mutex::new(LruCache::new(RARE.0)),
        }
    }
}

impl Rows {
    /// Returns how many jobs there were a moment ago, where that is known: which way is shorter does not change with every
    /// job.
    pub(super) fn size(&self) -> Option<i64> {
        let known = *self.size.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(at, _)| at.elapsed() < SIZE_AGE).map(|(_, size)| size)
    }

    /// Takes note of how many jobs there are.
    pub(super) fn keep_size(&self, size: i64) {
        *self.size.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), size));
    }

    /// Returns whether a text was not in enough of the newest jobs for a page, a moment ago: who looks for it again, as a
    /// page does that is shown, need not look there again first. It changes how a page is found, and not what is on it.
    pub(super) fn is_rare(&self, text: &str) -> bool {
        let mut rare = self.rare.lock().unwrap_or_else(PoisonError::into_inner);
        rare.get(text).is_some_and(|at| at.elapsed() < RARE.1)
    }

    /// Takes note that a text was not in enough of the newest jobs for a page.
    pub(super) fn keep_rare(&self, text: &str) {
        let mut rare = self.rare.lock().unwrap_or_else(PoisonError::into_inner);
        rare.insert(text.to_owned(), Instant::now());
    }

    /// Returns the rows that are kept in these versions, and the ids of the others.
    pub(super) fn known(&self, keys: &[Key]) -> (Vec<Listed>, Vec<i64>) {
        let mut rows = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut known, mut unknown) = (Vec::with_capacity(keys.len()), Vec::new());
        for key in keys {
            match rows.get(&key.id).filter(|row| row.version == key.version) {
                Some(row) => known.push(row.clone()),
                None => unknown.push(key.id.number()),
            }
        }
        (known, unknown)
    }

    /// Keeps rows.
    pub(super) fn keep(&self, new: &[Listed]) {
        let mut rows = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for row in new {
            // Somebody may have read a later version meanwhile.
            if rows.peek(&row.id).is_none_or(|kept| kept.version < row.version) {
                rows.insert(row.id, row.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::dashboard::job::State;

    fn row(number: i64, version: i64) -> Listed {
        Listed::new(Job {
            id: JobId::from_number(number).expect("an id"),
            name: "test".into(),
            owner: "ada".into(),
            state: State::Pending,
            reason: None,
            message: None,
            template: None,
            labels: BTreeMap::new(),
            parent: None,
            created_ms: 0,
            started_ms: None,
            finished_ms: None,
            exit_code: None,
            attempts: 0,
            cancelling: false,
            log_complete: false,
            version,
        })
    }

    fn key(number: i64, version: i64) -> Key {
        Key {
            id: JobId::from_number(number).expect("an id"),
            version,
        }
    }

    #[test]
    fn a_row_is_known_in_the_version_that_was_read() {
        let rows = Rows::default();
        rows.keep(&[row(1, 3), row(2, 1)]);
        let (known, unknown) = rows.known(&[key(3, 1), key(2, 1), key(1, 4)]);
        assert_eq!((known, unknown), (vec![row(2, 1)], vec![3, 1]));
        // Whoever read it before comes later.
        rows.keep(&[row(1, 4)]);
        rows.keep(&[row(1, 3)]);
        assert_eq!(rows.known(&[key(1, 4)]).0, [row(1, 4)]);
        assert_eq!(rows.known(&[key(1, 3)]).1, [1]);
    }

    #[test]
    fn rows_that_were_not_asked_for_make_room() {
        let rows = Rows::default();
        rows.keep(&[row(0, 1)]);
        let many = i64::try_from(KEPT).expect("small");
        for number in 1..=many {
            assert_eq!(rows.known(&[key(0, 1)]).0.len(), 1, "{number}");
            rows.keep(&[row(number, 1)]);
        }
        assert_eq!(rows.known(&[key(1, 1)]).1, [1]);
        assert_eq!(rows.known(&[key(0, 1), key(many, 1)]).0.len(), 2);
    }

    #[test]
    fn a_row_is_written_once() {
        let row = row(1, 1);
        let mut count = 0;
        for _ in 0..2 {
            let written = row.written(|job| {
                count += 1;
                serde_json::value::to_raw_value(&job.name)
            });
            assert_eq!(written.expect("written").get(), "\"test\"");
        }
        assert_eq!(count, 1);
    }
}
