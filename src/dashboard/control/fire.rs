//! Schedules: jobs that are made when their time has come, by the server that has the lease.
//!
//! What makes an occurrence one job, however often and by whomever it is worked on, is its idempotency key, which is made
//! of the schedule's name and the time of the occurrence. The mark that says how far a schedule came is written after
//! the job: whoever is cut off between the two finds the job again.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::{BEAT, Backoff, Control, now_ms};
use crate::dashboard::job::schedule::{Concurrency, Due, LABEL, Schedule};
use crate::dashboard::job::spec::{Fault, Spec};
use crate::dashboard::job::template::{Origin, Template};
use crate::dashboard::job::{self, Job, State};
use crate::dashboard::store::audit::{Act, Verb};
use crate::dashboard::store::documents::{Document, Kind, Mark};
use crate::dashboard::store::{Created, Filter, JobStore, Key, Listed, NewJob, Page, Scope, StoreError};

/// How many jobs that have not ended are looked for.
const UNENDED: u32 = 100;

/// A job that a schedule makes: its document, and the template it is from.
pub type Prepared = (Spec, Option<Origin>);

/// Returns the job that a schedule makes now, or why it makes none; for an occurrence where `at_ms` is its time.
///
/// # Errors
/// The store failed.
pub async fn prepared(
    store: &dyn JobStore,
    schedule: &Schedule,
    at_ms: Option<i64>,
) -> Result<Result<Prepared, Vec<Fault>>, StoreError> {
    let wrong = |pointer: &str, detail: &str| {
        Ok(Err(vec![Fault {
            pointer: pointer.to_owned(),
            detail: detail.to_owned(),
        }]))
    };
    let (spec, origin) = match (&schedule.job, &schedule.template) {
        (Some(job), _) => (job.clone(), None),
        (None, Some(name)) => {
            let Some(document) = store.document(Kind::Template, name, None).await? else {
                return wrong("/template", "there is no such template");
            };
            let Ok(template) = serde_json::from_str::<Template>(&document.text) else {
                return wrong("/template", "the template is of another version of labctl");
            };
            match template.expand(&schedule.parameters) {
                Ok(spec) => {
                    let origin = Origin {
                        template: document.name,
                        version: document.version,
                        parameters: template.shown(&schedule.parameters),
                    };
                    (spec, Some(origin))
                }
                Err(faults) => return Ok(Err(faults)),
            }
        }
        (None, None) => return wrong("/job", "it says of no job what it runs"),
    };
    let spec = schedule.labelled(spec, at_ms);
    let faults = spec.faults();
    Ok(if faults.is_empty() {
        Ok((spec, origin))
    } else {
        Err(faults)
    })
}

/// Returns the key that makes an occurrence one job. Clients cannot send it: theirs have no spaces.
pub fn key(schedule: &str, at_ms: i64) -> Key {
    let key = format!("schedule {schedule} {at_ms}");
    Key {
        // What the schedule runs may change between two tries of one occurrence, which is one all the same.
        body: Sha256::digest(&key).into(),
        key,
    }
}

impl Control {
    /// Makes jobs when they are due, for ever.
    pub(super) async fn fire_all(&self) {
        let mut backoff = Backoff::new();
        loop {
            let now = now_ms();
            match self.fire_due(now).await {
                Ok(next) => {
                    backoff = Backoff::new();
                    let until = next.map(|next| u64::try_from(next - now_ms()).unwrap_or_default());
                    // Another server may change a schedule, and the clock may be set: so it is looked again soon.
                    let pause = until.map_or(BEAT, |ms| Duration::from_millis(ms.max(1)).min(BEAT));
                    _ = tokio::time::timeout(pause, self.0.planned.notified()).await;
                }
                Err(error) => {
                    self.trouble("look for schedules that are due", &error);
                    backoff.wait().await;
                }
            }
        }
    }

    /// Makes the jobs that are due at a time, in milliseconds since 1970, and returns when the next one is.
    ///
    /// # Errors
    /// The store failed. What was not done is done by the next call.
    pub async fn fire_due(&self, now_ms: i64) -> Result<Option<i64>, StoreError> {
        let documents = self.0.store.documents(Kind::Schedule, &Scope::All).await?;
        if documents.is_empty() {
            return Ok(None);
        }
        let mut marks = self.0.store.marks().await?;
        let mut next = None;
        let mut failed = None;
        for document in documents {
            let mark = marks.remove(&document.name);
            // A schedule that cannot be worked on keeps no other one from its time.
            match self.fire_one(&document, mark.as_ref(), now_ms).await {
                Ok(Some(at)) => next = Some(next.map_or(at, |next: i64| next.min(at))),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(schedule = document.name, error = ?error, "a schedule's job could not be made; it is tried again");
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(next), Err)
    }

    async fn fire_one(&self, document: &Document, mark: Option<&Mark>, now_ms: i64) -> Result<Option<i64>, StoreError> {
        let Ok(schedule) = serde_json::from_str::<Schedule>(&document.text) else {
            tracing::warn!(
                schedule = document.name,
                "a schedule is of another version of labctl and makes no jobs"
            );
            return Ok(None);
        };
        if schedule.suspend {
            return Ok(None);
        }
        let timing = match schedule.timing() {
            Ok(timing) => timing,
            Err(why) => {
                tracing::warn!(
                    schedule = document.name,
                    why,
                    "a schedule cannot be understood and makes no jobs"
                );
                return Ok(None);
            }
        };
        let before = mark.map(|mark| mark.done_ms);
        let done: Vec<i64> = before.into_iter().chain([document.changed_ms]).collect();
        let after = match schedule.due(&timing, &done, now_ms) {
            Due::Nothing => None,
            Due::Missed(at) => Some(Mark {
                done_ms: at,
                job: None,
                said: Some(format!(
                    "no job was made at {}: no server ran, and now it is too late",
                    timing.local(at)
                )),
            }),
            Due::Run(at) => Some(self.fire(&schedule, &document.owner, at, now_ms).await?),
        };
        if let Some(after) = after {
            if let Some(said) = &after.said {
                tracing::warn!(schedule = document.name, said, "a schedule made no job");
            }
            if !self.0.store.set_mark(&document.name, before, &after).await? {
                tracing::debug!(
                    schedule = document.name,
                    "another server has worked on a schedule as well"
                );
            }
        }
        Ok(timing.next(now_ms))
    }

    /// Makes the job of an occurrence, or says why there is none.
    async fn fire(&self, schedule: &Schedule, owner: &str, at_ms: i64, now_ms: i64) -> Result<Mark, StoreError> {
        let store = &*self.0.store;
        let left_out = |said: String| Mark {
            done_ms: at_ms,
            job: None,
            said: Some(said),
        };
        let made = |job: &Job| Mark {
            done_ms: at_ms,
            job: Some(job.id),
            said: None,
        };
        let (spec, origin) = match prepared(store, schedule, Some(at_ms)).await? {
            Ok(prepared) => prepared,
            Err(faults) => {
                let faults: Vec<String> = faults
                    .iter()
                    .take(3)
                    .map(|fault| format!("`{}`: {}", fault.pointer, fault.detail))
                    .collect();
                return Ok(left_out(format!("no job can be made: {}", faults.join("; "))));
            }
        };
        if schedule.concurrency == Concurrency::Forbid
            && let Some(job) = self.unended(schedule, owner).await?.first()
        {
            // A server may have been cut off before it could say that it had made it, and somebody may have asked for it.
            if let Some(job) = store.keyed(owner, &key(&schedule.name, at_ms)).await? {
                return Ok(made(&job));
            }
            return Ok(left_out(format!("left out, because job {} has not ended", job.id)));
        }
        let act = |verb| Act::of_server(&format!("schedule {}", schedule.name), verb, now_ms);
        let created = store
            .by(act(Verb::Create))
            .create(NewJob {
                id: self.new_id(),
                owner: owner.to_owned(),
                spec,
                template: origin,
                parent: None,
                created_ms: now_ms,
                key: Some(key(&schedule.name, at_ms)),
            })
            .await?;
        let job = match created {
            Created::New(job) => {
                tracing::info!(schedule = schedule.name, job_id = %job.id, late_ms = now_ms - at_ms, "a schedule made a job");
                job
            }
            Created::Replayed(job) => job,
        };
        if schedule.concurrency == Concurrency::Replace {
            for other in self.unended(schedule, owner).await? {
                if other.id < job.id {
                    self.ask_to_end(other, act(Verb::Cancel)).await?;
                }
            }
        }
        self.wake();
        Ok(made(&job))
    }

    /// Returns the jobs of a schedule that have not ended, newest first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn unended(&self, schedule: &Schedule, owner: &str) -> Result<Vec<Job>, StoreError> {
        let filter = Filter {
            states: State::ALL.into_iter().filter(|state| !state.is_final()).collect(),
            labels: [(LABEL.to_owned(), schedule.name.clone())].into(),
            ..Filter::default()
        };
        let page = Page {
            after: None,
            limit: UNENDED,
        };
        let jobs = self
            .0
            .store
            .list(&Scope::Owner(owner.to_owned()), &filter, page)
            .await?;
        Ok(jobs.into_iter().map(Listed::into_job).collect())
    }

    async fn ask_to_end(&self, mut job: Job, act: Act) -> Result<(), StoreError> {
        let store = self.0.store.by(act);
        while !job.state.is_final() && !job.cancelling {
            let change = job::asked_to_end(&job, Some("the next job of its schedule took its place".to_owned()));
            if store.change(job.id, job.version, &change).await?.is_some() {
                return Ok(());
            }
            let Some(now) = self.0.store.job(job.id, &Scope::All).await? else {
                return Ok(());
            };
            job = now;
        }
        Ok(())
    }
}
