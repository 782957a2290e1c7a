//! The same done to many jobs: those that are named, or those that a filter finds.

use std::fmt::{self, Write as _};

use futures_util::stream::{self, StreamExt as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::{Action, Caller, PAGE_LIMIT, Result, Service, ServiceError};
use crate::dashboard::job::{Job, JobId, State};
use crate::dashboard::store::{Created, Filter, Listed, Page};

/// How many jobs are worked on at once.
const AT_ONCE: usize = 8;
/// How many jobs are counted at most before somebody is asked: whoever would change more need not know by how much.
const COUNTED: u64 = 10_000;

/// Something that can be done to jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    /// End them.
    Cancel,
    /// Run what they ran again, as new jobs.
    Rerun,
    /// Hold them back.
    Suspend,
    /// Let them go on.
    Resume,
    /// Delete them, with their logs.
    Delete,
}

impl Deed {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Cancel, Self::Rerun, Self::Suspend, Self::Resume, Self::Delete];

    /// Returns the name in forms and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Rerun => "rerun",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Delete => "delete",
        }
    }

    /// Returns whether it makes sense for a job as it is.
    pub fn fits(self, job: &Job) -> bool {
        let ends = job.state.is_final() || job.cancelling;
        match self {
            Self::Cancel => !ends,
            Self::Rerun => true,
            Self::Suspend => matches!(job.state, State::Pending | State::Running) && !ends,
            Self::Resume => job.state == State::Suspended && !ends,
            Self::Delete => job.state.is_final(),
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What something would be done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// How many jobs the filter finds.
    pub matched: u64,
    /// To how many of them it can be done as they are.
    pub fit: u64,
    /// The newest of them.
    pub newest: Option<JobId>,
    /// The last one that was counted, where there are more.
    pub more: Option<JobId>,
}

/// What was done.
#[derive(Debug)]
pub struct Performed {
    /// How many jobs were looked at.
    pub matched: u64,
    /// To how many of them it could be done as they were.
    pub fit: u64,
    /// To how many it was done.
    pub done: u64,
    /// Those that refused, and why. One that was deleted meanwhile is none of them.
    pub refused: Vec<(JobId, ServiceError)>,
    /// The newest of them.
    pub newest: Option<JobId>,
    /// The last one that was looked at, where there are more.
    pub more: Option<JobId>,
}

impl Service {
    /// Does something to a job; returns the job that a rerun made. With a key, a rerun that is asked for twice makes one
    /// job.
    ///
    /// # Errors
    /// Those of [`Service::act`], [`Service::delete`] and [`Service::rerun`].
    pub async fn perform(&self, caller: &Caller, deed: Deed, id: JobId, key: Option<&str>) -> Result<Option<JobId>> {
        match deed {
            Deed::Cancel => self.act(caller, id, Action::Cancel, None).await.map(|_| None),
            Deed::Suspend => self.act(caller, id, Action::Suspend, None).await.map(|_| None),
            Deed::Resume => self.act(caller, id, Action::Resume, None).await.map(|_| None),
            Deed::Delete => self.delete(caller, id).await.map(|()| None),
            Deed::Rerun => {
                let key = key.map(|key| one_of(key, id));
                let (Created::New(job) | Created::Replayed(job)) = self.rerun(caller, id, key).await?;
                Ok(Some(job.id))
            }
        }
    }

    /// Does something to several jobs at once; the results are in the order of the ids.
    pub async fn perform_each(
        &self,
        caller: &Caller,
        deed: Deed,
        ids: &[JobId],
        key: Option<&str>,
    ) -> Vec<(JobId, Result<Option<JobId>>)> {
        stream::iter(ids.iter().copied())
            .map(|id| async move { (id, self.perform(caller, deed, id, key).await) })
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    /// Counts to which jobs something would be done, from after a job on and up to 10,000 of them. Nothing is done.
    ///
    /// # Errors
    /// [`ServiceError::Store`].
    pub async fn count_for(
        &self,
        caller: &Caller,
        deed: Deed,
        filter: &Filter,
        after: Option<JobId>,
    ) -> Result<Counted> {
        let mut counted = Counted {
            matched: 0,
            fit: 0,
            newest: None,
            more: after,
        };
        while counted.matched < COUNTED {
            let part = self.part(caller, deed, filter, counted.more, PAGE_LIMIT).await?;
            counted.matched += part.matched;
            counted.fit += part.fit.len() as u64;
            counted.newest = counted.newest.or(part.newest);
            counted.more = part.more;
            if part.more.is_none() {
                break;
            }
        }
        Ok(counted)
    }

    /// Does something to the jobs of one page of a filter, as far as it can be done to them. Done again, from after
    /// [`Performed::more`] on, it comes to all of them.
    ///
    /// # Errors
    /// [`ServiceError::Store`], where some may have been done.
    pub async fn perform_page(
        &self,
        caller: &Caller,
        deed: Deed,
        filter: &Filter,
        page: Page,
        key: Option<&str>,
    ) -> Result<Performed> {
        let part = self.part(caller, deed, filter, page.after, page.limit).await?;
        let mut performed = Performed {
            matched: part.matched,
            fit: part.fit.len() as u64,
            done: 0,
            refused: Vec::new(),
            newest: part.newest,
            more: part.more,
        };
        for (id, result) in self.perform_each(caller, deed, &part.fit, key).await {
            match result {
                Ok(_) => performed.done += 1,
                Err(ServiceError::NotFound) => {}
                // The others will not fare better.
                Err(error @ ServiceError::Store(_)) => return Err(error),
                Err(error) => performed.refused.push((id, error)),
            }
        }
        Ok(performed)
    }

    async fn part(
        &self,
        caller: &Caller,
        deed: Deed,
        filter: &Filter,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Part> {
        let limit = limit.clamp(1, PAGE_LIMIT);
        let jobs = self.list(caller, filter, Page { after, limit }).await?;
        let full = jobs.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
        let fit = jobs.iter().filter(|job| deed.fits(job)).map(|job| job.id);
        Ok(Part {
            matched: jobs.len() as u64,
            fit: fit.collect(),
            newest: jobs.first().map(|job| job.id),
            more: jobs.last().map(|job: &Listed| job.id).filter(|_| full),
        })
    }
}

/// Returns the key for one of the jobs that are run again under a key, however long that is.
fn one_of(key: &str, id: JobId) -> String {
    let mut out = String::from("bulk:");
    for byte in &Sha256::digest(key)[..16] {
        _ = write!(out, "{byte:02x}");
    }
    _ = write!(out, ":{id}");
    out
}

/// A page of jobs that something is to be done to.
struct Part {
    matched: u64,
    fit: Vec<JobId>,
    newest: Option<JobId>,
    more: Option<JobId>,
}
