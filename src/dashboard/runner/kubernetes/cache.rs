//! What the watches have seen: the facts of every Job and pod of the dashboard, by job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::desired;
use super::observed::{self, JobFacts, PodFacts};
use crate::dashboard::job::{JobId, Phase, Seen};

/// What is known of one job.
#[derive(Default)]
struct Known {
    job: Option<JobFacts>,
    /// The API server has no Job for these pods.
    jobless: bool,
    /// In the order of attempts.
    pods: Vec<PodFacts>,
    /// Why the last pod could not be created.
    uncreated: Option<String>,
    /// What was told last.
    told: Option<Seen>,
    changed: Arc<Notify>,
}

impl Known {
    /// Returns whether only pods were seen, and it is not known whether there is a Job.
    fn lacks_job(&self) -> bool {
        self.job.is_none() && !self.jobless && !self.pods.is_empty()
    }

    fn seen(&self) -> Seen {
        let seen = observed::seen(self.job.as_ref(), &self.pods, self.uncreated.as_deref());
        if self.lacks_job() {
            return Seen {
                phase: Phase::Waiting,
                reason: None,
                message: None,
                finished_ms: None,
                ..seen
            };
        }
        seen
    }
}

#[derive(Default)]
struct State {
    /// Whether all jobs and pods are known.
    synced: bool,
    jobs: BTreeMap<JobId, Known>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Cache(Mutex<State>);

/// What a reader of logs wants to know of a job.
pub(super) struct View {
    /// Its pods, in the order of attempts.
    pub(super) pods: Vec<PodFacts>,
    /// How it is.
    pub(super) seen: Option<Seen>,
    /// Whether this is all, and a change would be told.
    pub(super) synced: bool,
}

impl Cache {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether the watches see everything.
    pub(super) fn set_synced(&self, synced: bool) {
        self.state().synced = synced;
    }

    /// Returns whether a Job is there.
    pub(super) fn has(&self, id: JobId) -> bool {
        let state = self.state();
        let job = state.jobs.get(&id).and_then(|known| known.job.as_ref());
        state.synced && job.is_some_and(|job| !job.deleted)
    }

    /// Returns the facts of a Job.
    pub(super) fn job(&self, id: JobId) -> Option<JobFacts> {
        self.state().jobs.get(&id)?.job.clone()
    }

    /// Returns what is known of a job.
    pub(super) fn view(&self, id: JobId) -> View {
        let state = self.state();
        let known = state.jobs.get(&id);
        View {
            pods: known.map(|known| known.pods.clone()).unwrap_or_default(),
            seen: known.map(Known::seen),
            synced: state.synced,
        }
    }

    /// Returns what wakes whoever waits for a change of a job.
    pub(super) fn changed(&self, id: JobId) -> Arc<Notify> {
        Arc::clone(&self.state().jobs.entry(id).or_default().changed)
    }

    pub(super) fn put_job(&self, job: JobFacts) {
        let mut state = self.state();
        let known = state.jobs.entry(job.id).or_default();
        known.job = Some(job);
        known.jobless = false;
        known.changed.notify_waiters();
    }

    pub(super) fn put_pod(&self, pod: PodFacts) {
        let mut state = self.state();
        let known = state.jobs.entry(pod.id).or_default();
        // What could not be created before is created now.
        known.uncreated = None;
        match known.pods.iter_mut().find(|old| old.uid == pod.uid) {
            Some(old) => *old = pod,
            None => known.pods.push(pod),
        }
        observed::sort(&mut known.pods);
        known.changed.notify_waiters();
    }

    pub(super) fn remove_job(&self, id: JobId) {
        if let Some(known) = self.state().jobs.get_mut(&id) {
            if let Some(job) = &mut known.job {
                job.deleted = true;
            }
            known.changed.notify_waiters();
        }
    }

    pub(super) fn remove_pod(&self, id: JobId, uid: &str) {
        if let Some(known) = self.state().jobs.get_mut(&id) {
            known.pods.retain(|pod| pod.uid != uid);
            known.changed.notify_waiters();
        }
    }

    /// Keeps the Jobs that are listed, and takes the others for deleted. Returns the jobs of those.
    pub(super) fn keep_jobs(&self, listed: &BTreeSet<JobId>) -> Vec<JobId> {
        let gone: Vec<JobId> = {
            let state = self.state();
            let unlisted = state
                .jobs
                .iter()
                .filter(|(id, known)| known.job.is_some() && !listed.contains(id));
            unlisted.map(|(id, _)| *id).collect()
        };
        for id in &gone {
            self.remove_job(*id);
        }
        gone
    }

    /// Keeps the pods that are listed, by UID. Returns the jobs of the others.
    pub(super) fn keep_pods(&self, listed: &BTreeSet<String>) -> Vec<JobId> {
        let mut state = self.state();
        let mut changed = Vec::new();
        for (id, known) in &mut state.jobs {
            let before = known.pods.len();
            known.pods.retain(|pod| listed.contains(&pod.uid));
            if known.pods.len() != before {
                known.changed.notify_waiters();
                changed.push(*id);
            }
        }
        changed
    }

    /// Returns whether pods were seen of a Job that was not. Two watches have no common order: the Job may be on its way, or
    /// gone.
    pub(super) fn lacks_job(&self, id: JobId) -> bool {
        let state = self.state();
        state.jobs.get(&id).is_some_and(Known::lacks_job)
    }

    /// Remembers that the API server has no Job for a job's pods.
    pub(super) fn set_jobless(&self, id: JobId) {
        if let Some(known) = self.state().jobs.get_mut(&id) {
            known.jobless = known.job.is_none();
        }
    }

    /// Remembers why a Job's pod cannot be created; nothing of a Job that is not known.
    pub(super) fn put_uncreated(&self, name: &str, why: String) -> Option<JobId> {
        let id = name.strip_prefix(desired::NAME_PREFIX)?.parse().ok()?;
        let mut state = self.state();
        let known = state.jobs.get_mut(&id)?;
        known.uncreated = Some(why);
        Some(id)
    }

    /// Returns all jobs.
    pub(super) fn ids(&self) -> Vec<JobId> {
        self.state().jobs.keys().copied().collect()
    }

    /// Returns how a job is, where that is not what was told last or `again` asks for it. What is gone is forgotten.
    pub(super) fn tell(&self, id: JobId, again: bool) -> Option<Seen> {
        let mut state = self.state();
        let known = state.jobs.get_mut(&id)?;
        if known.job.is_none() && known.pods.is_empty() && known.told.is_none() {
            // Nothing was ever seen of it; somebody only asked.
            known.changed.notify_waiters();
            state.jobs.remove(&id);
            return None;
        }
        let seen = known.seen();
        let new = again || known.told.as_ref() != Some(&seen);
        let deleted = known.job.as_ref().is_none_or(|job| job.deleted);
        if deleted && known.pods.is_empty() || seen.phase == Phase::Gone {
            known.changed.notify_waiters();
            state.jobs.remove(&id);
        } else {
            known.told = Some(seen.clone());
        }
        new.then_some(seen)
    }
}
