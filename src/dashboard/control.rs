//! What makes jobs happen: it begins those that were created, writes down what the runner sees, stores their output,
//! and cleans up behind them. One server at a time does this: the one that has the lease.
//!
//! Everything here may be cut off at any moment and is done again from what the store and the runner say: it keeps no
//! truth of its own.

mod collect;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::health::Health;
use super::job::{self, Change, Job, JobId, Phase, Seen, State, reason};
use super::log::hub::Hub;
use super::runner::{Runner, RunnerError, Told};
use super::store::{JobStore, StoreError};

/// The lease that says which server does this.
const LEASE: &str = "control";
/// How long the lease is held without being renewed.
const LEASE_TTL: Duration = Duration::from_secs(15);
/// How often it is renewed, and looked for work that nobody announced.
const BEAT: Duration = Duration::from_secs(5);
/// How long it is waited after something failed, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// How many rows one look at the store takes.
const BATCH: u32 = 500;
/// A job that the runner does not know is gone only if it was begun this long ago: runners tell late.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// Returns the time in milliseconds since 1970.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Waits longer each time, up to a limit.
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(BACKOFF.0)
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(BACKOFF.1);
    }
}

struct Inner {
    store: Arc<dyn JobStore>,
    runner: Arc<dyn Runner>,
    hub: Hub,
    health: Health,
    holder: String,
    wake: Notify,
    /// Who reads which job's output.
    collectors: Mutex<BTreeMap<JobId, JoinHandle<()>>>,
}

/// See the module; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

impl Control {
    /// Puts it together; nothing happens before [`Control::run`]. `holder` names this server in the lease.
    pub fn new(store: Arc<dyn JobStore>, runner: Arc<dyn Runner>, hub: Hub, health: Health, holder: String) -> Self {
        Self(Arc::new(Inner {
            store,
            runner,
            hub,
            health,
            holder,
            wake: Notify::new(),
            collectors: Mutex::default(),
        }))
    }

    /// Says that there is something to do: a job was created, resumed or cancelled.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Works until it is dropped: while it has the lease.
    pub async fn run(&self) {
        loop {
            self.wait_for_lease().await;
            tracing::info!(
                holder = self.0.holder,
                runner = self.0.runner.name(),
                "this server runs the jobs"
            );
            tokio::select! {
                () = self.keep_lease() => {}
                () = self.work() => {}
            }
            self.stop_collectors();
            tracing::warn!(holder = self.0.holder, "another server runs the jobs");
        }
    }

    async fn wait_for_lease(&self) {
        loop {
            match self.0.store.lease(LEASE, &self.0.holder, LEASE_TTL).await {
                Ok(true) => return,
                Ok(false) => self.0.health.set("control", Ok("another server runs the jobs".into())),
                Err(error) => self.trouble("ask for the lease", &error),
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Returns when the lease is lost, or could not be renewed in its time.
    async fn keep_lease(&self) {
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(BEAT).await;
            match self.0.store.lease(LEASE, &self.0.holder, LEASE_TTL).await {
                Ok(true) => renewed = tokio::time::Instant::now(),
                Ok(false) => return,
                Err(error) => {
                    self.trouble("renew the lease", &error);
                    if renewed.elapsed() + BEAT > LEASE_TTL {
                        return;
                    }
                }
            }
        }
    }

    async fn work(&self) {
        let (sender, told) = mpsc::channel(1024);
        let runner = Arc::clone(&self.0.runner);
        tokio::join!(runner.watch(sender), self.listen(told), self.begin_all());
    }

    /// Says in the log and in `/readyz` that the store failed.
    fn trouble(&self, what: &str, error: &StoreError) {
        tracing::warn!(error = format!("{:#}", anyhow::anyhow!("{error}")), cause = ?error, what, "the store failed");
        self.0.health.set("store", Err(error.to_string()));
    }

    fn store_answers(&self) {
        self.0.health.set("store", Ok(self.0.store.name()));
    }

    /// Begins what waits, ends what is to end, and reads what is unread: at once when woken, and on every beat.
    async fn begin_all(&self) {
        let mut backoff = Backoff::new();
        loop {
            match self.look().await {
                Ok(()) => {
                    self.store_answers();
                    backoff = Backoff::new();
                    _ = tokio::time::timeout(BEAT, self.0.wake.notified()).await;
                }
                Err(error) => {
                    self.trouble("look for work", &error);
                    backoff.wait().await;
                }
            }
        }
    }

    async fn look(&self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let jobs = self.0.store.unfinished(after, BATCH).await?;
            let Some(last) = jobs.last() else { return Ok(()) };
            after = Some(last.id);
            for job in jobs {
                self.advance(&job).await?;
            }
        }
    }

    /// Does for one job what its row asks for.
    async fn advance(&self, job: &Job) -> Result<(), StoreError> {
        if job.cancelling && !job.state.is_final() {
            return self.end(job).await;
        }
        match job.state {
            State::Pending | State::Suspended => self.begin(job).await,
            State::Running | State::Stopping | State::Succeeded | State::Failed | State::Cancelled => {
                self.collect(job);
                Ok(())
            }
        }
    }

    async fn begin(&self, job: &Job) -> Result<(), StoreError> {
        let Some(spec) = self.0.store.spec(job.id).await? else {
            return Ok(());
        };
        match self.0.runner.begin(job, &spec).await {
            Ok(()) => Ok(()),
            Err(RunnerError::Refused(why)) => {
                tracing::info!(job_id = %job.id, why, "the runner refused a job");
                self.saw(
                    job.id,
                    &Seen {
                        reason: Some(reason::START.to_owned()),
                        message: Some(why),
                        ..quiet(Phase::Failed)
                    },
                )
                .await
            }
            Err(error) => {
                tracing::warn!(job_id = %job.id, error = format!("{:#}", anyhow::Error::new(error)), "a job could not be begun; it is tried again");
                Ok(())
            }
        }
    }

    async fn end(&self, job: &Job) -> Result<(), StoreError> {
        if let Err(error) = self.0.runner.end(job).await {
            tracing::warn!(job_id = %job.id, error = format!("{:#}", anyhow::Error::new(error)), "a job could not be ended; it is tried again");
            return Ok(());
        }
        if job.attempts == 0 && job.state != State::Running {
            // It never ran, so nobody will tell that it is gone.
            return self.saw(job.id, &quiet(Phase::Gone)).await;
        }
        Ok(())
    }

    /// Writes down what the runner tells.
    async fn listen(&self, mut told: mpsc::Receiver<Told>) {
        let mut known: BTreeMap<JobId, ()> = BTreeMap::new();
        while let Some(told) = told.recv().await {
            match told {
                Told::Seen(id, seen) => {
                    known.insert(id, ());
                    self.saw_surely(id, &seen).await;
                }
                Told::Synced => {
                    self.0.health.set("runner", Ok(self.0.runner.name()));
                    self.miss(&known).await;
                    known.clear();
                }
                Told::Blind(why) => {
                    tracing::warn!(why, "the runner does not see its jobs");
                    self.0.health.set("runner", Err(why));
                    known.clear();
                }
            }
        }
    }

    /// Says of jobs that ran and that the runner does not know that they are gone.
    async fn miss(&self, known: &BTreeMap<JobId, ()>) {
        let mut after = None;
        loop {
            let jobs = match self.0.store.unfinished(after, BATCH).await {
                Ok(jobs) => jobs,
                Err(error) => return self.trouble("look for jobs that are gone", &error),
            };
            let Some(last) = jobs.last() else { return };
            after = Some(last.id);
            for job in jobs {
                let begun = job.started_ms.is_some() || job.attempts > 0 || job.cancelling;
                let age = now_ms() - job.started_ms.unwrap_or(job.created_ms);
                let old = u128::try_from(age).is_ok_and(|age| age >= GONE_AFTER.as_millis());
                if !job.state.is_final() && begun && old && !known.contains_key(&job.id) {
                    tracing::warn!(job_id = %job.id, "the runner does not know this job any more");
                    self.saw_surely(job.id, &quiet(Phase::Gone)).await;
                }
            }
        }
    }

    async fn saw_surely(&self, id: JobId, seen: &Seen) {
        let mut backoff = Backoff::new();
        loop {
            match self.saw(id, seen).await {
                Ok(()) => return,
                Err(error @ (StoreError::Unavailable(_) | StoreError::Timeout(_) | StoreError::Full(_))) => {
                    self.trouble("write down how a job is", &error);
                    backoff.wait().await;
                }
                Err(error) => return self.trouble("write down how a job is", &error),
            }
        }
    }

    /// Writes down what is seen of a job, against whoever else changes its row.
    async fn saw(&self, id: JobId, seen: &Seen) -> Result<(), StoreError> {
        loop {
            let Some(job) = self.0.store.job(id, &super::store::Scope::All).await? else {
                return Ok(());
            };
            let change = job::observe(&job, seen, now_ms());
            if change.is_empty() {
                self.collect(&job);
                return Ok(());
            }
            if let Some(after) = self.0.store.change(id, job.version, &change).await? {
                if change.state.is_some() {
                    tracing::info!(
                        job_id = %id,
                        state_from = %job.state,
                        state_to = %after.state,
                        reason = after.reason,
                        "a job changed its state"
                    );
                }
                self.collect(&after);
                return Ok(());
            }
            // Somebody else changed the row meanwhile.
        }
    }

    /// Makes sure that somebody reads the job's output, if there is or was any.
    fn collect(&self, job: &Job) {
        let wanted = matches!(job.state, State::Running | State::Stopping) || job.state.is_final() && !job.log_complete;
        if !wanted {
            return;
        }
        let mut collectors = self.0.collectors.lock().unwrap_or_else(PoisonError::into_inner);
        collectors.retain(|_, task| !task.is_finished());
        if let Entry::Vacant(place) = collectors.entry(job.id) {
            place.insert(tokio::spawn(collect::run(self.clone(), job.id)));
        }
    }

    fn stop_collectors(&self) {
        let mut collectors = self.0.collectors.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, task) in std::mem::take(&mut *collectors) {
            task.abort();
        }
    }

    /// Marks a job's log as whole, after which the runner may forget the job.
    async fn complete(&self, job: &Job) -> Result<bool, StoreError> {
        let change = Change {
            log_complete: Some(true),
            ..Change::default()
        };
        Ok(self.0.store.change(job.id, job.version, &change).await?.is_some())
    }
}

/// An observation that says nothing but how the job is.
fn quiet(phase: Phase) -> Seen {
    Seen {
        phase,
        reason: None,
        message: None,
        exit_code: None,
        attempts: 0,
        started_ms: None,
        finished_ms: None,
    }
}
