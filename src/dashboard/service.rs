//! What can be asked of the dashboard, by whomever: HTTP, gRPC and pages call these and nothing below.
//!
//! Knows no status codes and no headers. Every call takes a [`Caller`]; whoever's job it may not see does not exist for it.

pub mod audit;
pub mod bulk;
pub mod documents;
pub mod rate;
pub mod tail;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

pub use self::audit::Via;
use self::rate::{Left, Rate};
use super::control::{Control, now_ms};
use super::job::spec::{Fault, Spec};
use super::job::template::Origin;
use super::job::{self, Change, Job, JobId, State, reason};
use super::log::hub::Hub;
use super::runner::{Runner, RunnerError};
use super::store::audit::{Act, Verb};
use super::store::documents::Kind;
use super::store::{Changed, Counts, Created, Filter, JobStore, Key, Listed, NewJob, Page, Scope, StoreError};

/// How many jobs a page may have.
pub const PAGE_LIMIT: u32 = 500;
/// How long an idempotency key may be.
pub const KEY_BYTES: usize = 255;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name under which jobs are created.
    pub name: String,
    /// Whether everybody's jobs are seen and may be changed.
    pub admin: bool,
    /// How the request came.
    pub via: Via,
}

impl Caller {
    /// Makes one of whom nothing more is known.
    pub fn new(name: impl Into<String>, admin: bool) -> Self {
        Self {
            name: name.into(),
            admin,
            via: Via::default(),
        }
    }

    fn scope(&self) -> Scope {
        if self.admin {
            Scope::All
        } else {
            Scope::Owner(self.name.clone())
        }
    }
}

/// Why something asked for was not done.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is no such job, or it is not the caller's.
    #[error("there is no such job")]
    NotFound,
    /// The document is well formed and wrong.
    #[error("the job cannot be run as it is written")]
    Invalid(Vec<Fault>),
    /// A parameter is wrong; the text says which and why.
    #[error("{0}")]
    Parameter(String),
    /// The idempotency key was used with another document.
    #[error("this Idempotency-Key was used for another job")]
    KeyReused,
    /// Another request with the same idempotency key is being worked on.
    #[error("a request with this Idempotency-Key is in flight")]
    KeyInFlight,
    /// The job is in a state in which this cannot be done; the text says why.
    #[error("{0}")]
    State(String),
    /// The job changed since the caller looked at it.
    #[error("the job has changed since")]
    Changed,
    /// There is no such document, or it is not the caller's.
    #[error("there is no such {0}")]
    Missing(Kind),
    /// Another document has the name.
    #[error("there is a {0} of this name already")]
    Taken(Kind),
    /// The document is somebody else's, who alone may change it.
    #[error("only its owner may change this {0}")]
    NotYours(Kind),
    /// Only an admin may ask for this.
    #[error("only an admin may ask for this")]
    NotAdmin,
    /// The document changed since the caller looked at it.
    #[error("the {0} has changed since")]
    Stale(Kind),
    /// The document is well formed and wrong.
    #[error("the {0} cannot be used as it is written")]
    Faulty(Kind, Vec<Fault>),
    /// The arguments of a template are wrong.
    #[error("no job can be made with these parameters")]
    Arguments(Vec<Fault>),
    /// There are as many documents as there may be.
    #[error("there are as many {0}s as there may be; delete some first")]
    TooMany(Kind),
    /// The caller has created as many jobs as may be created in this time.
    #[error("one user may create {} in a minute; ask again in {} s", left.quota, after.as_secs())]
    TooFast {
        /// When one more may be created, in whole seconds.
        after: Duration,
        /// What is left.
        left: Left,
    },
    /// There is no room for more jobs; the text says of what, and what to do.
    #[error("{0}")]
    Full(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The runner failed.
    #[error(transparent)]
    Runner(#[from] RunnerError),
}

/// The result of what the service is asked.
pub type Result<T> = std::result::Result<T, ServiceError>;

struct Inner {
    store: Arc<dyn JobStore>,
    runner: Arc<dyn Runner>,
    control: Control,
    hub: Hub,
    /// Keys of requests that are being worked on in this server: owner and key.
    in_flight: Mutex<BTreeSet<(String, String)>>,
    /// How many jobs may be created in which time, where that is limited.
    rate: Option<Rate>,
    /// Had by whoever looks whether a job of a schedule runs, until its next one is there.
    one_at_a_time: tokio::sync::Mutex<()>,
}

/// See the module; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

/// A key that is in flight until this is dropped.
struct InFlight<'a>(&'a Inner, (String, String));

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut keys = self.0.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        keys.remove(&self.1);
    }
}

/// What is done to a job that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// End it; asking again is no error, nor is asking for one that has ended so.
    Cancel,
    /// Hold it back.
    Suspend,
    /// Let it go on.
    Resume,
}

impl Service {
    /// Puts it together and asks the store for the newest id.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn new(
        store: Arc<dyn JobStore>,
        runner: Arc<dyn Runner>,
        control: Control,
        hub: Hub,
        rate: Option<Rate>,
    ) -> std::result::Result<Self, StoreError> {
        control.know(store.newest().await?);
        Ok(Self(Arc::new(Inner {
            store,
            runner,
            control,
            hub,
            in_flight: Mutex::default(),
            rate,
            one_at_a_time: tokio::sync::Mutex::default(),
        })))
    }

    /// Returns how many jobs a caller may create, where that is limited.
    pub fn left(&self, caller: &Caller) -> Option<Left> {
        Some(self.0.rate.as_ref()?.left(&caller.name, Instant::now()))
    }

    /// Creates a job. With a key, asking again with the same document returns the job of the first time.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`], [`ServiceError::KeyReused`], [`ServiceError::KeyInFlight`], [`ServiceError::TooFast`],
    /// [`ServiceError::Full`], [`ServiceError::Store`].
    pub async fn create(&self, caller: &Caller, spec: Spec, key: Option<String>) -> Result<Created> {
        let key = key
            .map(|key| checked_key(key, &serde_json::to_vec(&spec).unwrap_or_default(), None))
            .transpose()?;
        let act = caller.act(Verb::Create, None);
        self.create_from(&caller.name, act, spec, key, None, None).await
    }

    async fn create_from(
        &self,
        owner: &str,
        act: Act,
        spec: Spec,
        key: Option<Key>,
        template: Option<Origin>,
        parent: Option<JobId>,
    ) -> Result<Created> {
        let faults = spec.faults();
        if !faults.is_empty() {
            return Err(ServiceError::Invalid(faults));
        }
        if let Err(why) = self.0.control.room().await? {
            return Err(ServiceError::Full(why));
        }
        let _in_flight = key.as_ref().map(|key| self.take_key(owner, key)).transpose()?;
        if let Err(refused) = self.take_one(owner) {
            // A request that is sent again creates nothing.
            let known = match &key {
                Some(key) => self.0.store.keyed(owner, key).await,
                None => Ok(None),
            };
            return match known {
                Ok(Some(job)) => Ok(Created::Replayed(job)),
                Ok(None) => Err(refused),
                Err(StoreError::KeyReused) => Err(ServiceError::KeyReused),
                Err(error) => Err(error.into()),
            };
        }
        let created = self
            .0
            .store
            .by(act)
            .create(NewJob {
                id: self.0.control.new_id(),
                owner: owner.to_owned(),
                spec,
                template,
                parent,
                created_ms: now_ms(),
                key,
            })
            .await;
        if let (Some(rate), Ok(Created::Replayed(_)) | Err(_)) = (&self.0.rate, &created) {
            rate.give_back(owner);
        }
        match created {
            Ok(created) => {
                if let Created::New(job) = &created {
                    self.0.control.created(job.clone());
                }
                Ok(created)
            }
            Err(StoreError::KeyReused) => Err(ServiceError::KeyReused),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes one job from what a caller may create.
    fn take_one(&self, owner: &str) -> Result<()> {
        let Some(rate) = &self.0.rate else { return Ok(()) };
        let now = Instant::now();
        rate.take(owner, now).map_err(|after| ServiceError::TooFast {
            // Who comes back when it is said is not refused once more.
            after: Duration::from_secs(after.as_secs() + u64::from(after.subsec_nanos() > 0)),
            left: rate.left(owner, now),
        })
    }

    fn take_key(&self, owner: &str, key: &Key) -> Result<InFlight<'_>> {
        let name = (owner.to_owned(), key.key.clone());
        let mut keys = self.0.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.insert(name.clone()) {
            Ok(InFlight(&self.0, name))
        } else {
            Err(ServiceError::KeyInFlight)
        }
    }

    /// Creates a job that runs what another one ran.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], and those of [`Service::create`].
    pub async fn rerun(&self, caller: &Caller, id: JobId, key: Option<String>) -> Result<Created> {
        let job = self.job(caller, id).await?;
        if let Some(why) = self.rerun_refused(&job).await? {
            return Err(ServiceError::State(why));
        }
        let mut spec = self.spec(caller, id).await?;
        // It was held back once; whoever wants it to run again wants it to run.
        spec.suspend = false;
        let key = key
            .map(|key| checked_key(key, &serde_json::to_vec(&spec).unwrap_or_default(), Some(id)))
            .transpose()?;
        let template = match job.template {
            None => None,
            Some(name) => Some(self.0.store.origin(id).await?.unwrap_or_else(|| name.as_str().into())),
        };
        let act = caller.act(Verb::Rerun, Some(format!("job/{id}")));
        self.create_from(&caller.name, act, spec, key, template, Some(id)).await
    }

    /// Returns why a job may not be run again; nothing where it may, also where its template is gone.
    ///
    /// # Errors
    /// [`ServiceError::Store`].
    pub async fn rerun_refused(&self, job: &Job) -> Result<Option<String>> {
        let Some(name) = &job.template else { return Ok(None) };
        match self.template(name, None).await {
            Ok(kept) if kept.document.allow_rerun => Ok(None),
            Ok(_) => Ok(Some(format!(
                "a job of the template `{name}` is not run again, which is how the template wants it; make a new one from it"
            ))),
            Err(ServiceError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns a job.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::Store`].
    pub async fn job(&self, caller: &Caller, id: JobId) -> Result<Job> {
        let job = self.0.store.job(id, &caller.scope()).await?;
        job.ok_or(ServiceError::NotFound)
    }

    /// Returns what a job was to run.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::Store`].
    pub async fn spec(&self, caller: &Caller, id: JobId) -> Result<Spec> {
        self.job(caller, id).await?;
        self.0.store.spec(id).await?.ok_or(ServiceError::NotFound)
    }

    /// Returns a page of jobs, newest first; the page's limit is cut to [`PAGE_LIMIT`].
    ///
    /// # Errors
    /// [`ServiceError::Store`].
    pub async fn list(&self, caller: &Caller, filter: &Filter, page: Page) -> Result<Vec<Listed>> {
        let page = Page {
            limit: page.limit.clamp(1, PAGE_LIMIT),
            ..page
        };
        Ok(self.0.store.list(&caller.scope(), filter, page).await?)
    }

    /// Returns how many jobs are in each state.
    ///
    /// # Errors
    /// [`ServiceError::Store`].
    pub async fn counts(&self, caller: &Caller) -> Result<Counts> {
        Ok(self.0.store.counts(&caller.scope()).await?)
    }

    /// Does something to a job. `version` is that of the row which the caller looked at, where it says so.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::State`], [`ServiceError::Changed`], [`ServiceError::Runner`],
    /// [`ServiceError::Store`].
    pub async fn act(&self, caller: &Caller, id: JobId, action: Action, version: Option<i64>) -> Result<Job> {
        let _turn = match action {
            Action::Suspend | Action::Resume => Some(self.0.control.turn(id).await),
            Action::Cancel => None,
        };
        loop {
            let job = self.job(caller, id).await?;
            if version.is_some_and(|version| version != job.version) {
                return Err(ServiceError::Changed);
            }
            let Some(change) = wanted(caller, &job, action)? else {
                return Ok(job);
            };
            match action {
                // The runner may refuse, and then nothing has changed.
                Action::Suspend => self.0.runner.suspend(&job, true).await?,
                // What is asked for is written down first, so that it is done also where this server ends now; and a job
                // whose row says that it is held is held again whenever the runner tells that it goes on.
                Action::Cancel | Action::Resume => {}
            }
            let verb = match action {
                Action::Cancel => Verb::Cancel,
                Action::Suspend => Verb::Suspend,
                Action::Resume => Verb::Resume,
            };
            // The change is refused where it is not in this state any more.
            let store = self.store_for(caller, verb, Some(job.state.name().to_owned()));
            let Some(job) = store.change(id, job.version, &change).await? else {
                continue;
            };
            match action {
                // It may have been begun since, by whoever had read the row before.
                Action::Suspend => self.0.control.held(id),
                Action::Resume => self.0.runner.suspend(&job, false).await?,
                Action::Cancel => {}
            }
            self.0.control.wake();
            return Ok(job);
        }
    }

    /// Deletes a job that has ended, with its log.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::State`], [`ServiceError::Store`].
    pub async fn delete(&self, caller: &Caller, id: JobId) -> Result<()> {
        let job = self.job(caller, id).await?;
        if !job.state.is_final() {
            return Err(ServiceError::State(format!(
                "the job is {}; cancel it first, and delete it when it has ended",
                job.state
            )));
        }
        let store = self.store_for(caller, Verb::Delete, None);
        if !store.delete(id, &caller.scope()).await? {
            return Err(ServiceError::NotFound);
        }
        // What the runner has of it goes too, now if it can be; a Job of Kubernetes would go by its TTL later.
        if let Err(error) = self.0.runner.end(&job).await {
            tracing::info!(job_id = %id, error = format!("{:#}", anyhow::Error::new(error)), "what the runner has of a deleted job is left to its own time");
        }
        Ok(())
    }

    /// Returns changes of jobs that the caller may see, as they happen.
    pub fn changes(&self) -> tokio::sync::broadcast::Receiver<Changed> {
        self.0.store.changes()
    }

    /// Returns whether a change is one that the caller may see.
    pub fn may_see(caller: &Caller, change: &Changed) -> bool {
        let owner = match change {
            Changed::Job(job) => &job.owner,
            Changed::Deleted { owner, .. } => owner,
            Changed::Missed => return true,
        };
        caller.admin || caller.name == *owner
    }
}

/// Returns what an action changes in a job's row; nothing where it is done already.
fn wanted(caller: &Caller, job: &Job, action: Action) -> Result<Option<Change>> {
    // What its owner did needs no word; of what somebody else did, the owner wants to know who it was.
    let by = |what: &str| (caller.name != job.owner).then(|| format!("{} {what}", caller.name));
    let refused = |what: &str| {
        Err(ServiceError::State(format!(
            "the job is {} and cannot be {what}",
            job.state
        )))
    };
    match action {
        Action::Cancel if job.cancelling || job.state == State::Cancelled => Ok(None),
        Action::Cancel if job.state.is_final() => refused("cancelled"),
        Action::Cancel => Ok(Some(job::asked_to_end(job, by("asked for it")))),
        Action::Suspend if job.state.is_final() || job.state == State::Stopping || job.cancelling => {
            refused("suspended")
        }
        Action::Suspend if job.is_held() => Ok(None),
        Action::Suspend => Ok(Some(Change {
            state: Some(State::Suspended),
            reason: Some(Some(reason::HELD.to_owned())),
            message: Some(by("held it back").map(|text| job::clipped(&text))),
            ..Change::default()
        })),
        Action::Resume if matches!(job.state, State::Pending | State::Running) => Ok(None),
        Action::Resume if job.state == State::Suspended && !job.cancelling => Ok(Some(Change {
            state: Some(State::Pending),
            reason: Some(None),
            message: Some(None),
            ..Change::default()
        })),
        Action::Resume => refused("resumed"),
    }
}

/// Takes a client's key with a digest of what was asked under it.
fn checked_key(key: String, asked: &[u8], parent: Option<JobId>) -> Result<Key> {
    let sane = (1..=KEY_BYTES).contains(&key.len()) && key.bytes().all(|byte| (0x21..0x7f).contains(&byte));
    if !sane {
        return Err(ServiceError::Parameter(format!(
            "an Idempotency-Key has 1 to {KEY_BYTES} printable ASCII characters without spaces"
        )));
    }
    let mut hasher = Sha256::new();
    hasher.update(asked);
    hasher.update(parent.map_or(-1, JobId::number).to_be_bytes());
    Ok(Key {
        key,
        body: hasher.finalize().into(),
    })
}
