//! Who did what, and whether that is still as it was written.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Caller, Result, Service, ServiceError};
use crate::dashboard::control::now_ms;
use crate::dashboard::store::JobStore;
use crate::dashboard::store::audit::{Act, Entry, SEALED_AT_ONCE, Seal, Verb};

/// How many seals are looked at in one call.
pub const CHECKED_AT_ONCE: u32 = 20;

/// How a caller's request came, as far as that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Via {
    /// Its id.
    pub request_id: Option<Arc<str>>,
    /// The address of the other end of its connection.
    pub ip: Option<IpAddr>,
}

impl Caller {
    /// Returns what the caller is about to do, to be written down.
    pub(super) fn act(&self, verb: Verb, before: Option<String>) -> Act {
        Act {
            at_ms: now_ms(),
            actor: self.name.clone(),
            verb,
            before,
            request_id: self.via.request_id.as_deref().map(str::to_owned),
            ip: self.via.ip.map(|ip| ip.to_canonical().to_string()),
        }
    }
}

/// What was found of seals that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// How many seals were looked at.
    pub seals: u64,
    /// How many entries they have.
    pub entries: u64,
    /// What is wrong with the first one that is not as it was made; those after it were not looked at.
    pub wrong: Option<String>,
    /// The last one that was looked at and is as it was made.
    pub last: Option<Seal>,
    /// Whether there are more after it.
    pub more: bool,
}

impl Service {
    /// Returns the store for something that a caller does.
    pub(super) fn store_for(&self, caller: &Caller, verb: Verb, before: Option<String>) -> Arc<dyn JobStore> {
        self.0.store.by(caller.act(verb, before))
    }

    /// Returns what was done to objects that are or were the caller's, newest first, from before an entry's number on; to
    /// one of them where it is named, such as `job/ID`.
    ///
    /// # Errors
    /// [`ServiceError::Store`].
    pub async fn acts(
        &self,
        caller: &Caller,
        object: Option<&str>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Entry>> {
        Ok(self.0.store.acts(&caller.scope(), object, before, limit).await?)
    }

    /// Looks whether seals after a place, and the entries that they have, are as they were written.
    ///
    /// # Errors
    /// [`ServiceError::NotAdmin`], because they have everybody's entries; [`ServiceError::Store`].
    pub async fn check_acts(&self, caller: &Caller, after: i64) -> Result<Checked> {
        if !caller.admin {
            return Err(ServiceError::NotAdmin);
        }
        let store = &self.0.store;
        // With the one before, which the first one has to follow, where it is still there.
        let mut seals = store.seals(after.saturating_sub(1), CHECKED_AT_ONCE + 2).await?;
        let mut before = match seals.first() {
            Some(first) if first.place == after => Some(seals.remove(0)),
            _ => None,
        };
        let most = usize::try_from(CHECKED_AT_ONCE).unwrap_or(usize::MAX);
        let more = seals.len() > most;
        seals.truncate(most);
        let mut checked = Checked {
            seals: 0,
            entries: 0,
            wrong: None,
            last: before.clone(),
            more,
        };
        for seal in seals {
            // One more than may be there: one that was put between them is one too many.
            let limit = u32::try_from(SEALED_AT_ONCE + 1).unwrap_or(u32::MAX);
            let first = before
                .as_ref()
                .map_or(seal.first, |before| before.last.saturating_add(1));
            let entries = store.acts_between(first, seal.last, limit).await?;
            checked.wrong = seal.wrong(before.as_ref(), &entries);
            if checked.wrong.is_some() {
                checked.more = false;
                break;
            }
            checked.seals += 1;
            checked.entries += entries.len() as u64;
            checked.last = Some(seal.clone());
            before = Some(seal);
        }
        Ok(checked)
    }
}
