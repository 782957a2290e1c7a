//! What makes jobs happen: it begins those that were created, writes down what the runner sees, stores their output,
//! and cleans up behind them. One server at a time does this: the one that has the lease.
//!
//! Everything here may be cut off at any moment and is done again from what the store and the runner say: it keeps no
//! truth of its own.

mod begin;
mod collect;
pub mod fire;
mod recount;
pub mod retain;
mod seal;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::retain::Keep;
use super::health::Health;
use super::job::{self, Change, Job, JobId, Phase, Seen, reason};
use super::log::hub::Hub;
use super::runner::{Runner, Told};
use super::store::{JobStore, Scope, StoreError};

/// The lease that says which server does this.
const LEASE: &str = "control";
/// How many turns there are to hold jobs back.
const TURNS: usize = 64;
/// How long the lease is held without being renewed.
const LEASE_TTL: Duration = Duration::from_secs(15);
/// How long before its end nothing is done any more: what was asked of the store by then has been answered.
const LEASE_MARGIN: Duration = Duration::from_secs(3);
/// How often it is renewed, and looked for work that nobody announced.
const BEAT: Duration = Duration::from_secs(5);
/// How long it is waited after something failed, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// How many new jobs are remembered; where more come at once, all that wait are looked at.
const NEW: usize = 4096;
/// How many rows one look at the store takes.
const BATCH: u32 = 500;
/// A job that the runner does not know is gone only if it was begun this long ago: runners tell late.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// How long a runner has to tell of a job that is to end and never ran, before it is taken as one that was never there.
const NEVER_THERE: Duration = Duration::from_secs(1);

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
    /// A schedule changed.
    planned: Notify,
    /// The newest id that this server made or knows of.
    last: Mutex<Option<JobId>>,
    /// What there is to do, besides looking every now and then.
    todo: Mutex<Todo>,
    /// Who reads which job's output.
    collectors: Mutex<BTreeMap<JobId, JoinHandle<()>>>,
    asked: Mutex<Asked>,
    /// Whose turn it is to hold a job back or to let it go on: see [`Control::turn`].
    turns: [tokio::sync::Mutex<()>; TURNS],
    keep: Keep,
    counted: Mutex<retain::Counted>,
}

/// What there is to do.
#[derive(Default)]
struct Todo {
    /// Look at all jobs that need work.
    all: bool,
    /// Begin these, which are new: all that wait are not looked at for each that comes.
    new: Vec<Job>,
}

/// What the runner was asked since this server has the lease, so that it is not asked for the same on every beat.
#[derive(Default)]
struct Asked {
    /// Jobs that it has begun, as long as their rows may still say otherwise.
    begun: BTreeSet<JobId>,
    /// Jobs that never ran and that it was first asked to end at this time.
    ended: BTreeMap<JobId, Instant>,
    /// Jobs that it was asked to hold back.
    held: BTreeSet<JobId>,
    /// Jobs behind which it could not clean up; nothing where the job was deleted.
    left: BTreeMap<JobId, Option<Job>>,
}

/// See the module; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

impl Control {
    /// Puts it together; nothing happens before [`Control::run`]. `holder` names this server in the lease.
    #[expect(clippy::needless_pass_by_value, reason = "what is put together takes its parts")]
    pub fn new(
        store: Arc<dyn JobStore>,
        runner: Arc<dyn Runner>,
        hub: Hub,
        health: Health,
        holder: String,
        keep: Keep,
    ) -> Self {
        Self(Arc::new(Inner {
            // A server that was stopped for a while and wakes writes nothing over what the next one wrote.
            store: store.fenced(LEASE, &holder),
            runner,
            hub,
            health,
            holder,
            wake: Notify::new(),
            planned: Notify::new(),
            last: Mutex::default(),
            todo: Mutex::default(),
            collectors: Mutex::default(),
            asked: Mutex::default(),
            turns: [const { tokio::sync::Mutex::const_new(()) }; TURNS],
            keep,
            counted: Mutex::default(),
        }))
    }

    /// Says that there is something to do: a job was resumed or cancelled.
    pub fn wake(&self) {
        self.todo().all = true;
        self.0.wake.notify_one();
    }

    /// Waits for the turn to hold a job back or to let it go on, at this server. Whoever has it reads what is wanted, and
    /// asks the runner for that, before somebody else wants something else: a job that was let go on in between would be
    /// held once more, and begin once more.
    pub async fn turn(&self, id: JobId) -> tokio::sync::MutexGuard<'_, ()> {
        // Jobs share turns: few are held at once, and the runner is quick.
        let place = id.number().unsigned_abs() % TURNS as u64;
        self.0.turns[usize::try_from(place).unwrap_or_default()].lock().await
    }

    /// Says that a schedule was made, changed or resumed.
    pub fn plan(&self) {
        self.0.planned.notify_one();
    }

    /// Makes the id of a new job. Ids never go back in one server, whatever its clock does.
    pub fn new_id(&self) -> JobId {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let id = JobId::after(*last, now_ms(), noise());
        *last = Some(id);
        id
    }

    /// Takes note of an id, so that new ones follow it.
    pub fn know(&self, id: Option<JobId>) {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = id.max(*last);
    }

    /// Says that a job was created.
    pub fn created(&self, job: Job) {
        let mut todo = self.todo();
        // Where another server runs the jobs, nobody takes them from here.
        if todo.new.len() < NEW {
            todo.new.push(job);
        } else {
            todo.all = true;
        }
        drop(todo);
        self.0.wake.notify_one();
    }

    fn todo(&self) -> MutexGuard<'_, Todo> {
        self.0.todo.lock().unwrap_or_else(PoisonError::into_inner)
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
            self.0.hub.lead(true);
            self.say_collectors(&self.collectors());
            if let Some(heard) = self.0.runner.heard() {
                self.0.health.hear("runner", heard);
            }
            tokio::select! {
                () = self.keep_lease() => {}
                () = self.work() => {}
            }
            self.0.hub.lead(false);
            self.stop_collectors();
            // Nobody listens to it here, so what it said last is no reason to send no requests.
            self.0.health.forget("runner");
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

    /// Gives the lease back, so that another server need not wait until it ends. To be called after [`Control::run`] was
    /// dropped.
    pub async fn release(&self) {
        self.0.hub.lead(false);
        self.stop_collectors();
        if let Err(error) = self.0.store.lease(LEASE, &self.0.holder, Duration::ZERO).await {
            self.trouble("give the lease back", &error);
        }
    }

    /// Returns when the lease is lost, or could not be renewed in its time.
    async fn keep_lease(&self) {
        // Counted from before it was asked for: the store counts from a moment after that.
        let mut asked = Instant::now();
        loop {
            let end = asked + LEASE_TTL - LEASE_MARGIN;
            tokio::time::sleep(BEAT).await;
            let now = Instant::now();
            let renewed = tokio::time::timeout_at(end, self.0.store.lease(LEASE, &self.0.holder, LEASE_TTL)).await;
            match renewed {
                Ok(Ok(true)) => asked = now,
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => {
                    self.trouble("renew the lease", &error);
                    if Instant::now() + BEAT > end {
                        return tokio::time::sleep_until(end).await;
                    }
                }
            }
        }
    }

    async fn work(&self) {
        *self.asked() = Asked::default();
        let (sender, told) = mpsc::channel(1024);
        let runner = Arc::clone(&self.0.runner);
        tokio::join!(
            runner.watch(sender),
            self.listen(told),
            self.begin_all(),
            self.fire_all(),
            self.retain(),
            self.seal_all(),
            self.recount_all()
        );
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says in the log and in `/readyz` that the store failed.
    fn trouble(&self, what: &str, error: &StoreError) {
        if matches!(error, StoreError::LeaseLost) {
            tracing::warn!(what, "another server has taken over: what this one did last is refused");
            return;
        }
        tracing::warn!(error = format!("{:#}", anyhow::anyhow!("{error}")), cause = ?error, what, "the store failed");
        self.0.health.set("store", Err(error.to_string()));
    }

    fn store_answers(&self) {
        self.0.health.set("store", Ok(self.0.store.name()));
    }

    /// Writes down what the runner tells.
    async fn listen(&self, mut told: mpsc::Receiver<Told>) {
        let mut known = BTreeSet::new();
        // Jobs that the runner should know and has not told of, and since when.
        let mut missing: BTreeMap<JobId, Instant> = BTreeMap::new();
        // What could not be written down, for a reason that is no break of the store.
        let mut unwritten: BTreeMap<JobId, Seen> = BTreeMap::new();
        let mut again = tokio::time::interval(BEAT);
        loop {
            let told = tokio::select! {
                told = told.recv() => told,
                _ = again.tick() => {
                    let gone = missing.extract_if(.., |_, since| since.elapsed() >= GONE_AFTER).map(|(id, _)| id);
                    unwritten.extend(gone.map(|id| (id, quiet(Phase::Gone))));
                    for (id, seen) in std::mem::take(&mut unwritten) {
                        if !self.saw_surely(id, &seen).await {
                            unwritten.insert(id, seen);
                        }
                    }
                    continue;
                }
            };
            match told {
                Some(Told::Seen(id, seen)) => {
                    known.insert(id);
                    missing.remove(&id);
                    unwritten.remove(&id);
                    if !self.saw_surely(id, &seen).await {
                        unwritten.insert(id, seen);
                    }
                }
                Some(Told::Synced) => {
                    self.0.health.set("runner", Ok(self.0.runner.name()));
                    missing = self.missing(&known).await;
                    known.clear();
                }
                Some(Told::Blind(why)) => {
                    tracing::warn!(why, "the runner does not see its jobs");
                    self.0.health.set("runner", Err(why));
                    known.clear();
                    missing.clear();
                }
                None => return,
            }
        }
    }

    /// Returns the jobs that were begun and that the runner does not know; it has some time yet to tell of them.
    async fn missing(&self, known: &BTreeSet<JobId>) -> BTreeMap<JobId, Instant> {
        let mut out = BTreeMap::new();
        let mut after = None;
        let mut backoff = Backoff::new();
        loop {
            let jobs = match self.0.store.unfinished(after, BATCH).await {
                Ok(jobs) => jobs,
                Err(error) => {
                    self.trouble("look for jobs that are gone", &error);
                    backoff.wait().await;
                    continue;
                }
            };
            let Some(last) = jobs.last() else { return out };
            after = Some(last.id);
            for job in jobs {
                let begun = job.started_ms.is_some() || job.attempts > 0;
                if begun && !job.state.is_final() && !known.contains(&job.id) {
                    tracing::warn!(job_id = %job.id, "the runner does not know this job");
                    out.insert(job.id, Instant::now());
                }
            }
        }
    }

    /// Writes down what is seen of a job, however long the store is away. Says whether it is written.
    async fn saw_surely(&self, id: JobId, seen: &Seen) -> bool {
        let mut backoff = Backoff::new();
        loop {
            match self.saw(id, seen).await {
                Ok(()) => return true,
                Err(error @ (StoreError::Unavailable(_) | StoreError::Timeout(_) | StoreError::Full(_))) => {
                    self.trouble("write down how a job is", &error);
                    backoff.wait().await;
                }
                Err(error) => {
                    self.trouble("write down how a job is", &error);
                    return false;
                }
            }
        }
    }

    /// Writes down what is seen of a job, against whoever else changes its row.
    async fn saw(&self, id: JobId, seen: &Seen) -> Result<(), StoreError> {
        loop {
            let Some(job) = self.0.store.job(id, &Scope::All).await? else {
                // It was deleted, and whoever deleted it could not know what the runner still has.
                self.discard(id).await;
                return Ok(());
            };
            if job.is_held() && matches!(seen.phase, Phase::Waiting | Phase::Running) {
                // It was begun as it was before, or this was seen before it was held.
                self.asked().held.remove(&id);
                self.hold(job.clone()).await?;
            }
            if job.reason.as_deref() == Some(reason::GONE) && seen.phase == Phase::Running {
                // Another server had to take it as gone while the one that ran it slept.
                if let Err(error) = self.0.runner.end(&job).await {
                    tracing::warn!(job_id = %id, error = format!("{:#}", anyhow::Error::new(error)), "a job that was taken as gone could not be ended");
                }
                return Ok(());
            }
            let change = job::observe(&job, seen, now_ms());
            if change.is_empty() {
                if job.log_complete {
                    // This server, or one before it, ended between storing the log and saying so to the runner.
                    self.forget(&job).await;
                }
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

    /// Lets the runner forget a job whose log is stored whole.
    async fn forget(&self, job: &Job) {
        if let Err(error) = self.0.runner.forget(job).await {
            tracing::warn!(job_id = %job.id, error = format!("{:#}", anyhow::Error::new(error)), "the runner could not clean up behind a job; it is tried again");
            self.asked().left.insert(job.id, Some(job.clone()));
        }
    }

    async fn discard(&self, id: JobId) {
        if let Err(error) = self.0.runner.discard(id).await {
            tracing::warn!(job_id = %id, error = format!("{:#}", anyhow::Error::new(error)), "the runner could not remove a job that was deleted; it is tried again");
            self.asked().left.insert(id, None);
        }
    }

    /// Makes sure that somebody reads the job's output, if there is or was any.
    fn collect(&self, job: &Job) {
        if !collect::wanted(job) {
            return;
        }
        let mut collectors = self.collectors();
        if let Entry::Vacant(place) = collectors.entry(job.id) {
            place.insert(tokio::spawn(collect::run(self.clone(), job.id)));
            self.say_collectors(&collectors);
        }
    }

    /// Takes note that nobody reads a job's output any more.
    fn collected(&self, id: JobId) {
        let mut collectors = self.collectors();
        collectors.remove(&id);
        self.say_collectors(&collectors);
    }

    /// Says in `/readyz` how many jobs' output is read. Whoever says so holds the collectors, and they are stopped before
    /// it is said that another server runs the jobs: so nobody says this after that.
    fn say_collectors(&self, collectors: &BTreeMap<JobId, JoinHandle<()>>) {
        if !self.0.hub.leads() {
            return;
        }
        let said = match collectors.len() {
            1 => "this server runs the jobs; it reads the output of 1 job".to_owned(),
            many => format!("this server runs the jobs; it reads the output of {many} jobs"),
        };
        self.0.health.set("control", Ok(said));
    }

    fn collectors(&self) -> MutexGuard<'_, BTreeMap<JobId, JoinHandle<()>>> {
        self.0.collectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop_collectors(&self) {
        for (_, task) in std::mem::take(&mut *self.collectors()) {
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

/// Returns bits that two servers which make an id in the same millisecond do not share by rule.
fn noise() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let hash = KEYS.hash_one(COUNT.fetch_add(1, Ordering::Relaxed));
    u32::try_from(hash >> 42).unwrap_or_default()
}
