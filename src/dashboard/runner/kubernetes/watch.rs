//! The watches: of Jobs, of pods, and of events that say why a pod cannot be created. Each is opened once for all jobs.
//!
//! The API server sends a bookmark a minute and ends a watch after the time in [`super::Limits`]; one that is silent for longer is
//! dead, and is opened again from the last bookmark. What is too old for that is listed anew (410, see [`super::kind`]).
//! Where the API server is away, everything begins again with a list.
//!
//! Nothing is told but what is known of both Jobs and pods: while one of them is listed anew, the other one's changes
//! wait.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job as KubeJob;
use k8s_openapi::api::core::v1::{Event as KubeEvent, Pod};
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::cache::Cache;
use super::kind::{Kind, LIST_LIMIT};
use super::observed::{self, FAILED_CREATE, JobFacts, PodFacts};
use super::pause::Pause;
use super::{ANSWER_LIMIT, Kubernetes, desired, trouble};
use crate::dashboard::job::JobId;
use crate::dashboard::runner::Told;

/// How many objects a page of a list has.
const PAGE: u32 = 500;
/// How often a watch may be cut in a row; then the API server is taken for away.
const CUTS: u32 = 3;

/// A list that is being read, or was.
struct Listing<T> {
    listed: BTreeSet<T>,
    /// It is being read.
    reading: bool,
    /// It was read to its end, and is not older than what was told last.
    done: bool,
    /// All of it was told.
    told: bool,
}

impl<T> Listing<T> {
    fn new() -> Self {
        Self {
            listed: BTreeSet::new(),
            reading: false,
            done: false,
            told: false,
        }
    }

    /// Begins to read it. One that was read and waits for the other to be read counts all the same: where a watch is too
    /// old again and again, the two would else never be done at one moment.
    fn begin(&mut self) {
        self.listed.clear();
        self.reading = true;
        if std::mem::take(&mut self.told) {
            self.done = false;
        }
    }

    /// Ends to read it, and returns what is in it.
    fn end(&mut self) -> BTreeSet<T> {
        self.reading = false;
        self.done = true;
        std::mem::take(&mut self.listed)
    }

    /// Takes note that all of it was told. What is read once more meanwhile is told once more when it is read.
    fn tell(&mut self) {
        self.done = !self.reading;
        self.told = self.done;
    }
}

impl Kubernetes {
    /// Tells how jobs are until nobody listens.
    pub(super) async fn watch_all(&self, told: &mpsc::Sender<Told>) {
        let mut pause = Pause::new();
        loop {
            let why = tokio::select! {
                why = self.watch_once(told, &mut pause) => why,
                () = told.closed() => return,
            };
            self.cache().set_synced(false);
            if told.send(Told::Blind(why)).await.is_err() {
                return;
            }
            pause.wait().await;
        }
    }

    fn watcher_config(&self) -> watcher::Config {
        watcher::Config::default()
            .timeout(self.limits().watch_seconds)
            .page_size(PAGE)
    }

    /// Lists and watches until that fails, and says why it did.
    async fn watch_once(&self, told: &mpsc::Sender<Told>, pause: &mut Pause) -> String {
        let ours = self.watcher_config().labels(&desired::selector());
        let jobs: Api<KubeJob> = Api::namespaced(self.calls(), self.namespace());
        let pods: Api<Pod> = Api::namespaced(self.calls(), self.namespace());
        let events: Api<KubeEvent> = Api::namespaced(self.calls(), self.namespace());
        let why = self
            .watcher_config()
            .fields(&format!("involvedObject.kind=Job,reason={FAILED_CREATE}"));
        let mut jobs = Kind::new(jobs, ours.clone());
        let mut pods = Kind::new(pods, ours);
        let mut events = Kind::new(events, why);
        let mut may_see_events = true;
        let (mut job_list, mut pod_list) = (Listing::new(), Listing::new());
        let mut cuts = 0;
        let mut heard = Instant::now();
        loop {
            let synced = job_list.done && pod_list.done;
            let changed = tokio::select! {
                event = jobs.next() => event.map(|event| take_job(self.cache(), &mut job_list, event)),
                event = pods.next() => event.map(|event| take_pod(self.cache(), &mut pod_list, event)),
                event = events.next(), if may_see_events => match event {
                    Ok(event) => Ok(take_event(self.cache(), event)),
                    Err(error) => {
                        // Jobs are run all the same where events may not be read; only a reason is not told then.
                        if trouble::is_forbidden(&error) {
                            tracing::warn!(
                                namespace = self.namespace(),
                                "events may not be watched, so it is not told why a pod cannot be created"
                            );
                            may_see_events = false;
                            continue;
                        }
                        Err(error)
                    }
                },
                () = tokio::time::sleep_until(heard + LIST_LIMIT), if !synced => {
                    return "the API server takes too long to list the jobs".to_owned();
                }
            };
            heard = Instant::now();
            match changed {
                Ok(changed) => {
                    cuts = 0;
                    let now = job_list.done && pod_list.done;
                    if !now {
                        continue;
                    }
                    let changed = if synced { changed } else { self.cache().ids() };
                    // The body of an answer can stop coming.
                    let found = tokio::time::timeout(ANSWER_LIMIT, self.find_jobs(&changed, &mut job_list));
                    match found.await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => {
                            return format!("the API server does not answer: {}", trouble::chain(&error));
                        }
                        Err(_) => return "the API server takes too long to say what Jobs there are".to_owned(),
                    }
                    let ended = if synced {
                        self.tell(told, &changed).await
                    } else {
                        pause.reset();
                        job_list.tell();
                        pod_list.tell();
                        self.tell_all(told).await
                    };
                    if ended.is_none() {
                        return "nobody listens".to_owned();
                    }
                }
                // It goes on from the last bookmark.
                Err(error @ (watcher::Error::WatchFailed(_) | watcher::Error::WatchError(_)))
                    if cuts < CUTS && !trouble::is_too_old(&error) =>
                {
                    cuts += 1;
                    tracing::debug!(error = trouble::chain(&error), "a watch was cut");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return trouble::blind(&error, self.namespace()),
            }
        }
    }

    /// Asks for the Jobs of pods whose Job was not seen: what one watch sees may come before what another one does, and only
    /// the API server knows that there is no Job.
    async fn find_jobs(&self, changed: &[JobId], list: &mut Listing<JobId>) -> kube::Result<()> {
        for id in changed.iter().copied().filter(|id| self.cache().lacks_job(*id)) {
            let found = self.jobs().get_opt(&desired::name(id)).await?;
            match found.as_ref().and_then(JobFacts::of) {
                Some(facts) => {
                    // A list that is being read can be older than it.
                    list.listed.insert(id);
                    self.cache().put_job(facts);
                }
                None => self.cache().set_jobless(id),
            }
        }
        Ok(())
    }

    async fn tell_all(&self, told: &mpsc::Sender<Told>) -> Option<()> {
        self.cache().set_synced(true);
        for id in self.cache().ids() {
            if let Some(seen) = self.cache().tell(id, true) {
                told.send(Told::Seen(id, seen)).await.ok()?;
            }
        }
        told.send(Told::Synced).await.ok()
    }

    async fn tell(&self, told: &mpsc::Sender<Told>, changed: &[JobId]) -> Option<()> {
        for id in changed {
            if let Some(seen) = self.cache().tell(*id, false) {
                told.send(Told::Seen(*id, seen)).await.ok()?;
            }
        }
        Some(())
    }
}

fn take_job(cache: &Cache, list: &mut Listing<JobId>, event: Event<KubeJob>) -> Vec<JobId> {
    match event {
        Event::Init => {
            list.begin();
            Vec::new()
        }
        Event::InitApply(job) | Event::Apply(job) => {
            let Some(facts) = JobFacts::of(&job) else {
                return Vec::new();
            };
            let id = facts.id;
            if list.reading {
                list.listed.insert(id);
            }
            cache.put_job(facts);
            vec![id]
        }
        Event::InitDone => cache.keep_jobs(&list.end()),
        Event::Delete(job) => {
            let Some(facts) = JobFacts::of(&job) else {
                return Vec::new();
            };
            let id = facts.id;
            // The last state of it: it may have ended between the event before and this one.
            cache.put_job(facts);
            cache.remove_job(id);
            vec![id]
        }
    }
}

fn take_pod(cache: &Cache, list: &mut Listing<String>, event: Event<Pod>) -> Vec<JobId> {
    match event {
        Event::Init => {
            list.begin();
            Vec::new()
        }
        Event::InitApply(pod) | Event::Apply(pod) => {
            let Some(facts) = PodFacts::of(&pod) else {
                return Vec::new();
            };
            let id = facts.id;
            if list.reading {
                list.listed.insert(facts.uid.clone());
            }
            cache.put_pod(facts);
            vec![id]
        }
        Event::InitDone => cache.keep_pods(&list.end()),
        Event::Delete(pod) => {
            let Some(facts) = PodFacts::of(&pod) else {
                return Vec::new();
            };
            cache.remove_pod(facts.id, &facts.uid);
            vec![facts.id]
        }
    }
}

fn take_event(cache: &Cache, event: Event<KubeEvent>) -> Vec<JobId> {
    let (Event::Apply(event) | Event::InitApply(event)) = event else {
        return Vec::new();
    };
    let told = observed::failed_create(&event);
    let told = told.and_then(|(name, why)| cache.put_uncreated(&name, why));
    told.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lists_that_never_rest_at_one_moment_are_done_all_the_same() {
        let (mut jobs, mut pods) = (Listing::<u8>::new(), Listing::<u8>::new());
        jobs.begin();
        pods.begin();
        jobs.listed.insert(1);
        assert_eq!(jobs.end(), BTreeSet::from([1]));
        // The watch of Jobs is too old at once, and pods are not listed yet.
        jobs.begin();
        pods.end();
        assert!(jobs.reading && jobs.done && pods.done);
        jobs.tell();
        pods.tell();
        // What was told of Jobs is older than what is being read of them.
        assert!(!jobs.done && pods.done);
        jobs.end();
        assert!(jobs.done && pods.done);
        jobs.tell();
        pods.tell();
        assert!(jobs.done && pods.done);
        // What was told is not to be told again from an old list.
        pods.begin();
        assert!(!pods.done && jobs.done);
        jobs.begin();
        assert!(!jobs.done);
    }
}
