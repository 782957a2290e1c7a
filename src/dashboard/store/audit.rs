//! Who did what: entries that are written in the transaction of what they tell of, and never changed.
//!
//! Entries are numbered in the order in which they were committed. Every few seconds those that are new are sealed: a
//! digest of them and of the seal before. So whoever changes or removes an entry, or puts one between others, has to make
//! all later seals anew, and the newest digest is in the server's log as well, which is kept elsewhere. Entries that are
//! kept no longer leave from the oldest on, whole seals at a time; what is left is still one chain.

use std::fmt::{self, Write as _};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Scope, StoreError};
use crate::dashboard::job::{Job, State};

/// How many entries a seal has at most.
pub const SEALED_AT_ONCE: i64 = 1000;

/// What somebody did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Made it.
    Create,
    /// Made it of another job, to run the same again.
    Rerun,
    /// Asked it to end.
    Cancel,
    /// Held it back.
    Suspend,
    /// Let it go on.
    Resume,
    /// Put something else in its place under the same name.
    Change,
    /// Removed it.
    Delete,
}

impl Verb {
    const ALL: [Self; 7] = [
        Self::Create,
        Self::Rerun,
        Self::Cancel,
        Self::Suspend,
        Self::Resume,
        Self::Change,
        Self::Delete,
    ];

    /// Returns the word under which it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Rerun => "rerun",
            Self::Cancel => "cancel",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Change => "change",
            Self::Delete => "delete",
        }
    }

    /// Reads the word.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What somebody is about to do, for [`super::JobStore::by`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who: a caller's name, or a part of the server in parentheses, which no caller's name has.
    pub actor: String,
    /// What.
    pub verb: Verb,
    /// How the object was before, where that is known to who does it.
    pub before: Option<String>,
    /// The id of the request in which it is done.
    pub request_id: Option<String>,
    /// The address of the other end of the connection: of the client, or of the last proxy before this server.
    pub ip: Option<String>,
}

impl Act {
    /// Makes one of a part of the server, such as `retention`, that nobody asked for it.
    pub fn of_server(part: &str, verb: Verb, at_ms: i64) -> Self {
        Self {
            at_ms,
            actor: format!("({part})"),
            verb,
            before: None,
            request_id: None,
            ip: None,
        }
    }
}

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number: a later entry has a greater one.
    pub number: i64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who did it.
    pub actor: String,
    /// What was done; a word that is none of [`Verb`] where a later labctl wrote it.
    pub verb: String,
    /// To what: `job/ID`, `template/NAME` or `schedule/NAME`.
    pub object: String,
    /// Whose that is or was.
    pub owner: String,
    /// How it was before.
    pub before: Option<String>,
    /// How it was after.
    pub after: Option<String>,
    /// The id of the request.
    pub request_id: Option<String>,
    /// Where it came from.
    pub ip: Option<String>,
}

/// A digest of entries that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Its place in the chain, from 1.
    pub place: i64,
    /// The number of its first entry.
    pub first: i64,
    /// The number of its last entry.
    pub last: i64,
    /// How many entries it has.
    pub entries: i64,
    /// When it was made, in milliseconds since 1970.
    pub at_ms: i64,
    /// The digest of the seal before; zeros for the first one.
    pub before: [u8; 32],
    /// The digest of that one and of the entries.
    pub digest: [u8; 32],
}

impl Seal {
    /// Makes the seal of entries that follow what another one has; nothing where there are none.
    pub fn new(before: Option<&Self>, entries: &[Entry], at_ms: i64) -> Option<Self> {
        let (first, last) = (entries.first()?, entries.last()?);
        let chained = before.map_or([0; 32], |seal| seal.digest);
        Some(Self {
            place: before.map_or(1, |seal| seal.place.saturating_add(1)),
            first: first.number,
            last: last.number,
            entries: i64::try_from(entries.len()).unwrap_or(i64::MAX),
            at_ms,
            before: chained,
            digest: digest(chained, entries),
        })
    }

    /// Returns the digest in hexadecimal digits, as it is shown and logged.
    pub fn hex(&self) -> String {
        self.digest.iter().fold(String::new(), |mut out, byte| {
            _ = write!(out, "{byte:02x}");
            out
        })
    }

    /// Says what is wrong with a seal, by the one before it where that is there, and by the entries that are there now.
    pub fn wrong(&self, before: Option<&Self>, entries: &[Entry]) -> Option<String> {
        if let Some(before) = before {
            if self.place != before.place.saturating_add(1) {
                return Some(format!(
                    "the seals between {} and {} are gone",
                    before.place, self.place
                ));
            }
            if self.before != before.digest {
                return Some(format!(
                    "seal {} is not the one that follows seal {}",
                    self.place, before.place
                ));
            }
        }
        let numbers = format!("{} to {}", self.first, self.last);
        let found = i64::try_from(entries.len()).unwrap_or(i64::MAX);
        if found != self.entries {
            return Some(format!(
                "seal {} has {} entries, {numbers}, of which there are {found}",
                self.place, self.entries
            ));
        }
        (digest(self.before, entries) != self.digest)
            .then(|| format!("an entry of those from {numbers} was changed (seal {})", self.place))
    }
}

/// Returns the digest of a digest and of entries: SHA-256 over the bytes of the former and, of each entry, its number and
/// time as 8 bytes (big-endian), then its texts in the order of [`Entry`], each as its length in bytes plus 1 (8 bytes,
/// big-endian) and its UTF-8; a text that is not there is 8 bytes of zeros.
fn digest(before: [u8; 32], entries: &[Entry]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(before);
    for entry in entries {
        hasher.update(entry.number.to_be_bytes());
        hasher.update(entry.at_ms.to_be_bytes());
        for text in [
            Some(&entry.actor),
            Some(&entry.verb),
            Some(&entry.object),
            Some(&entry.owner),
            entry.before.as_ref(),
            entry.after.as_ref(),
            entry.request_id.as_ref(),
            entry.ip.as_ref(),
        ] {
            let length = text.map_or(0, |text| text.len() as u64 + 1);
            hasher.update(length.to_be_bytes());
            hasher.update(text.map_or("", String::as_str));
        }
    }
    hasher.finalize().into()
}

/// A store of what was done.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Returns entries, newest first, from before a number on: those of objects of the scope, and of one object where it is
    /// named.
    ///
    /// # Errors
    /// As every call: [`StoreError`].
    async fn acts(
        &self,
        scope: &Scope,
        object: Option<&str>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError>;

    /// Seals entries that are not sealed, [`SEALED_AT_ONCE`] at most, and returns the seal; nothing where there are none.
    ///
    /// # Errors
    /// As every call; also where another server seals at the same moment.
    async fn seal_acts(&self, now_ms: i64) -> Result<Option<Seal>, StoreError>;

    /// Returns the seals after a place, in order.
    ///
    /// # Errors
    /// As every call.
    async fn seals(&self, after: i64, limit: u32) -> Result<Vec<Seal>, StoreError>;

    /// Returns entries in the order of their numbers, from one number to another.
    ///
    /// # Errors
    /// As every call.
    async fn acts_between(&self, first: i64, last: i64, limit: u32) -> Result<Vec<Entry>, StoreError>;

    /// Removes the oldest seals that were made before a time, with their entries, a few at most; the newest seal stays.
    /// Returns how many entries went.
    ///
    /// # Errors
    /// As every call.
    async fn forget_acts(&self, before_ms: i64) -> Result<u64, StoreError>;
}

/// Returns how a job is, as it is written down.
pub(super) fn state(job: &Job) -> String {
    // Whoever asked it to end changed nothing else of one that waits.
    if job.cancelling && matches!(job.state, State::Pending | State::Suspended | State::Running) {
        return format!("{}, asked to end", job.state);
    }
    job.state.name().to_owned()
}

/// The columns of an entry, in the order in which [`super::row::act`] reads them.
pub(super) const COLUMNS: &str = "number, at_ms, actor, verb, object, owner, was, became, request_id, ip";

pub(super) const LAST_SEAL: &str = "SELECT place, first, last, entries, at_ms, previous, digest FROM audit_seals
    ORDER BY place DESC LIMIT 1";

pub(super) const SEALS: &str = "SELECT place, first, last, entries, at_ms, previous, digest FROM audit_seals
    WHERE place > $1 ORDER BY place LIMIT $2";

pub(super) const ADD_SEAL: &str = "INSERT INTO audit_seals (place, first, last, entries, at_ms, previous, digest)
    VALUES ($1, $2, $3, $4, $5, $6, $7)";

/// How many seals are removed at once.
const FORGOTTEN_AT_ONCE: usize = 16;

/// Returns the last of the oldest seals that may leave, of those that there are.
pub(super) fn leaving(seals: &[Seal], before_ms: i64) -> Option<&Seal> {
    // The newest one stays: the next one follows it.
    let old = seals.split_last()?.1.iter();
    old.take(FORGOTTEN_AT_ONCE)
        .take_while(|seal| seal.at_ms < before_ms)
        .last()
}

/// How many seals have to be read for [`leaving`].
pub(super) const LOOKED_AT: u32 = 17;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: i64) -> Entry {
        Entry {
            number,
            at_ms: 1_800_000_000_000 + number,
            actor: "ada".into(),
            verb: "cancel".into(),
            object: "job/0abc".into(),
            owner: "bob".into(),
            before: Some("running".into()),
            after: None,
            request_id: Some("r".into()),
            ip: None,
        }
    }

    #[test]
    fn a_changed_entry_is_seen_whatever_was_changed() {
        let entries = [entry(3), entry(4), entry(7)];
        let first = Seal::new(None, &[entry(1)], 5).expect("a seal");
        let seal = Seal::new(Some(&first), &entries, 6).expect("a seal");
        assert_eq!((seal.place, seal.first, seal.last, seal.entries), (2, 3, 7, 3));
        assert_eq!(seal.wrong(Some(&first), &entries), None);
        assert_eq!(seal.wrong(None, &entries), None);
        let changes: [fn(&mut Entry); 11] = [
            |e| e.number += 1,
            |e| e.at_ms += 1,
            |e| e.actor.push('x'),
            |e| e.verb = "delete".into(),
            |e| e.object.push('x'),
            |e| e.owner.clear(),
            |e| e.before = None,
            |e| e.after = Some(String::new()),
            |e| e.request_id = None,
            |e| e.ip = Some("::1".into()),
            // A character that goes from one text to the next.
            |e| {
                e.actor.pop();
                e.verb.insert(0, 'a');
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut other = entries.clone();
            change(&mut other[1]);
            assert!(seal.wrong(Some(&first), &other).is_some(), "change {number}");
        }
        let mut turned = entries.clone();
        turned.swap(0, 1);
        assert!(seal.wrong(Some(&first), &turned).is_some());
        assert!(
            seal.wrong(Some(&first), &entries[1..])
                .is_some_and(|why| why.contains("of which there are 2"))
        );
        let other = Seal::new(None, &[entry(2)], 5).expect("a seal");
        assert!(
            seal.wrong(Some(&other), &entries)
                .is_some_and(|why| why.contains("not the one that follows"))
        );
        let third = Seal::new(Some(&seal), &[entry(9)], 7).expect("a seal");
        assert!(
            third
                .wrong(Some(&first), &[entry(9)])
                .is_some_and(|why| why.contains("are gone"))
        );
        assert_eq!(Seal::new(Some(&seal), &[], 7), None);
    }

    #[test]
    fn the_oldest_seals_leave_and_the_newest_one_stays() {
        let seal = |place: i64| Seal {
            place,
            first: place,
            last: place,
            entries: 1,
            at_ms: place * 10,
            before: [0; 32],
            digest: [0; 32],
        };
        let all: Vec<Seal> = (1..=5).map(seal).collect();
        assert_eq!(leaving(&all, 35).map(|seal| seal.place), Some(3));
        assert_eq!(leaving(&all, 10), None);
        assert_eq!(leaving(&all, 1000).map(|seal| seal.place), Some(4));
        assert_eq!(leaving(&all[..1], 1000), None);
        assert_eq!(leaving(&[], 1000), None);
    }

    #[test]
    fn every_verb_is_read_back() {
        for verb in Verb::ALL {
            assert_eq!(Verb::from_name(verb.name()), Some(verb));
        }
        assert_eq!(Verb::from_name("x"), None);
    }
}
