//! The parts of a server that runs jobs: which store, which runner, and what brings them together.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Args;
use crate::config;
use crate::dashboard::auth::Auth;
use crate::dashboard::control::Control;
use crate::dashboard::control::retain::Keep;
use crate::dashboard::health::Health;
use crate::dashboard::http::Api;
use crate::dashboard::http::guard::Guard;
use crate::dashboard::http::streams::Streams;
use crate::dashboard::log::hub::Hub;
use crate::dashboard::log::relay::redis::Redis;
use crate::dashboard::log::relay::{Relay, Wire};
use crate::dashboard::runner::Runner;
use crate::dashboard::runner::kubernetes::{self, Kubernetes};
use crate::dashboard::runner::process::{Options, ProcessRunner};
use crate::dashboard::service::Service;
use crate::dashboard::service::rate::Rate;
use crate::dashboard::store::postgres::Postgres;
use crate::dashboard::store::sqlite::{self, Sqlite};
use crate::dashboard::store::{JobStore, StoreError};
use crate::drive::files;
use crate::error::{Code, Diagnose, Diagnosis};

/// The name of the database in the data directory.
const DATABASE: &str = "jobs.sqlite";
/// The name of the directory of the process runner in it.
const PROCESSES: &str = "processes";
/// How long it is waited, after all jobs have ended, for what they wrote last to be stored.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long it is waited between two tries to reach the store at the start.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What runs jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum RunnerKind {
    /// Child processes of the server
    Process,
    /// Kubernetes Jobs in one namespace
    Kubernetes,
    /// Nothing: health and version are all that is served
    None,
}

/// Where jobs are kept.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum StoreUrl {
    /// A file.
    Sqlite(PathBuf),
    /// A server. The URL may have a password in it.
    Postgres(String),
}

impl std::fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Self::Postgres(_) => f.write_str("Postgres(..)"),
        }
    }
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.is_empty() && path != ":memory:" {
                return Ok(Self::Sqlite(PathBuf::from(path)));
            }
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        // What was given may hold a password, so it is not repeated.
        Err("it must be sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME".to_owned())
    }
}

/// The parts, at work.
pub(super) struct Parts {
    api: Api,
    work: JoinHandle<()>,
    runner: Arc<dyn Runner>,
    stop_jobs: bool,
    ending: CancellationToken,
}

impl Parts {
    /// Puts the parts together and sets them to work; nothing where no jobs are run.
    pub(super) async fn begin(
        args: &Args,
        kind: RunnerKind,
        auth: Auth,
        health: &Health,
        closing: &CancellationToken,
    ) -> Result<Option<Self>> {
        let data = args.data_dir.clone().map_or_else(config::data_dir, Ok);
        let Some(runner) = runner(kind, args, data.clone()).await? else {
            return Ok(None);
        };
        let holder = holder(kind, data.as_deref().ok());
        let places = Places {
            url: store_url(args, data)?,
            quota_bytes: args.quota.map(|mib| mib.saturating_mul(1 << 20)),
            health: health.clone(),
            keep: args.keep()?,
            redis: redis(args, health)?,
            job_rate: args.job_rate()?,
        };
        // Until it is put together, no job can be asked for.
        health.set("store", Err("it has not answered since the server started".to_owned()));
        let store = places.first().await?;
        let most = args.max_streams.get();
        let most_each = match (args.max_streams_per_user, &auth) {
            (Some(each), _) => each.get(),
            // One who watches everything keeps nobody else from watching.
            (None, Auth::Tokens(_)) => most.div_ceil(2),
            (None, Auth::Local(_)) => most,
        };
        let guard = Guard::new(auth, args.host.clone());
        let api = Api::new(guard, Streams::new(most, most_each, closing.clone()));
        let ending = CancellationToken::new();
        let (handle, ended, ready) = (Handle::current(), ending.clone(), api.clone());
        let worker = Arc::clone(&runner);
        // A thread of its own: the compiler does not see that the opening of a database may go from thread to thread.
        let work = tokio::task::spawn_blocking(move || {
            handle.block_on(work(ready, places, store, worker, holder, ended));
        });
        Ok(Some(Self {
            api,
            work,
            runner,
            stop_jobs: args.stop_jobs,
            ending,
        }))
    }

    /// Returns what routes of jobs use.
    pub(super) fn api(&self) -> Api {
        self.api.clone()
    }

    /// Ends the work, and leaves the jobs that run to the next server, or ends them.
    pub(super) async fn end(self) {
        if self.stop_jobs {
            // While their ends can still be written down.
            self.runner.leave(true).await;
            tokio::time::sleep(LAST_WORDS).await;
        }
        self.ending.cancel();
        _ = self.work.await;
        if !self.stop_jobs {
            let jobs = self.runner.leave(false).await;
            if jobs > 0 {
                tracing::info!(jobs, "jobs go on without this server; the next one takes them up");
            }
        }
    }
}

/// Runs jobs, from when the store is there. A database that comes later than the server is no reason to end: `/readyz`
/// says so meanwhile.
async fn work(
    api: Api,
    places: Places,
    mut known: Option<Arc<dyn JobStore>>,
    runner: Arc<dyn Runner>,
    holder: String,
    ending: CancellationToken,
) {
    let hub = Hub::default();
    let begin = async {
        loop {
            match places.begin(known.take(), &runner, &hub, &holder).await {
                Ok(begun) => return begun,
                Err(error) => {
                    let text = format!("{:#}", anyhow::Error::new(error));
                    tracing::warn!(error = text, "the store cannot be used yet; it is tried again");
                    places
                        .health
                        .set("store", Err("the database does not answer".to_owned()));
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    };
    let (service, control, relay) = tokio::select! {
        begun = begin => begun,
        () = ending.cancelled() => return,
    };
    api.ready(service);
    tokio::select! {
        () = control.run() => {}
        () = relay.run() => {}
        () = ending.cancelled() => {}
    }
    // Another server need not wait until the lease is over.
    control.release().await;
}

/// Where the store is, and who is told how it is.
struct Places {
    url: StoreUrl,
    quota_bytes: Option<u64>,
    health: Health,
    keep: Keep,
    redis: Option<Arc<dyn Wire>>,
    job_rate: Option<NonZeroU32>,
}

impl Places {
    /// Opens the store; nothing where it may come later.
    async fn first(&self) -> Result<Option<Arc<dyn JobStore>>> {
        if let StoreUrl::Sqlite(path) = &self.url {
            private_file(path)?;
        }
        match (self.open().await, &self.url) {
            (Ok(store), _) => Ok(Some(store)),
            (Err(StoreError::Unavailable(_) | StoreError::Timeout(_)), StoreUrl::Postgres(_)) => {
                self.health.set("store", Err("the database does not answer".to_owned()));
                Ok(None)
            }
            (Err(error), StoreUrl::Sqlite(path)) => Err(error).diagnose(|| {
                Diagnosis::new(
                    Code::Setting,
                    format!("the database `{}` cannot be used", path.display()),
                )
                .hint("labctl serve --store sqlite:PATH takes another file")
            }),
            (Err(error), StoreUrl::Postgres(_)) => Err(error).diagnose(|| {
                Diagnosis::new(Code::Setting, "the database of --store cannot be used")
                    .hint("labctl serve --store postgres://USER:PASSWORD@HOST/NAME")
            }),
        }
    }

    /// Puts together what needs a store that answers.
    async fn begin(
        &self,
        known: Option<Arc<dyn JobStore>>,
        runner: &Arc<dyn Runner>,
        hub: &Hub,
        holder: &str,
    ) -> std::result::Result<(Service, Control, Relay), StoreError> {
        let store = match known {
            Some(store) => store,
            None => self.open().await?,
        };
        let control = Control::new(
            Arc::clone(&store),
            Arc::clone(runner),
            hub.clone(),
            self.health.clone(),
            holder.to_owned(),
            self.keep,
        );
        let service = Service::new(
            Arc::clone(&store),
            Arc::clone(runner),
            control.clone(),
            hub.clone(),
            self.job_rate.map(Rate::new),
        )
        .await?;
        service.seed().await?;
        let wires = self.redis.iter().cloned().chain(store.wire()).collect();
        self.health.set("store", Ok(store.name()));
        Ok((service, control, Relay::new(hub.clone(), wires)))
    }

    async fn open(&self) -> std::result::Result<Arc<dyn JobStore>, StoreError> {
        match &self.url {
            StoreUrl::Sqlite(path) => {
                let settings = sqlite::Settings {
                    quota_bytes: self.quota_bytes,
                };
                Ok(Arc::new(Sqlite::open(path, settings).await?))
            }
            StoreUrl::Postgres(url) => Ok(Arc::new(Postgres::open(url).await?)),
        }
    }
}

/// Finds the store: the flag, the variable, then a file in the data directory.
fn store_url(args: &Args, data: std::result::Result<PathBuf, Diagnosis>) -> Result<StoreUrl> {
    Ok(match (args.store.clone(), config::text_variable("LABCTL_STORE")) {
        (Some(url), _) => url,
        (None, Some(text)) => text
            .parse()
            .map_err(|wrong| Diagnosis::new(Code::Setting, format!("LABCTL_STORE: {wrong}")))?,
        (None, None) => StoreUrl::Sqlite(data?.join(DATABASE)),
    })
}

/// The address of a Redis. It may have a password in it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RedisUrl(String);

impl std::fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedisUrl(..)")
    }
}

impl FromStr for RedisUrl {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text.starts_with("redis://") || text.starts_with("rediss://") {
            return Ok(Self(text.to_owned()));
        }
        Err("it must be redis://HOST:6379, or rediss://USER:PASSWORD@HOST:6379 for TLS".to_owned())
    }
}

/// Finds the Redis between servers: the flag, then the variable; nothing where there is none.
fn redis(args: &Args, health: &Health) -> Result<Option<Arc<dyn Wire>>> {
    let Some(RedisUrl(url)) = super::setting(args.redis.clone(), "LABCTL_REDIS", RedisUrl::from_str)? else {
        return Ok(None);
    };
    let redis = Redis::start(&url, health.clone())
        .diagnose(|| Diagnosis::new(Code::Setting, "the Redis of --redis cannot be used"))?;
    Ok(Some(Arc::new(redis)))
}

/// Makes a file that nobody but its owner may read, where there is none: what jobs print and the environment that they
/// get is not for everybody on the machine.
fn private_file(path: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let dir = path.parent().unwrap_or(Path::new("."));
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| files::explain(error, "make the directory", dir))?;
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path);
    file.map(drop).map_err(|error| files::explain(error, "open", path))
}

/// Opens the runner; nothing where no jobs are run. This is the one place that knows which runners there are.
async fn runner(kind: RunnerKind, args: &Args, data: Result<PathBuf, Diagnosis>) -> Result<Option<Arc<dyn Runner>>> {
    match kind {
        RunnerKind::Process => {
            let runner = ProcessRunner::open(Options {
                dir: data?.join(PROCESSES),
                slots: args.slots,
                program: None,
            })?;
            Ok(Some(Arc::new(runner)))
        }
        RunnerKind::Kubernetes => {
            let settings = kubernetes::Settings {
                kubeconfig: args.kubeconfig.clone(),
                namespace: args.namespace.clone(),
                image: args.job_image.clone(),
                priority_classes: args.priority_class.iter().cloned().collect(),
                limits: kubernetes::Limits::default(),
            };
            let runner = Kubernetes::connect(settings).await.diagnose(|| {
                Diagnosis::new(Code::Setting, "the cluster in which jobs are to run cannot be found").hint(
                    "labctl serve --runner kubernetes --kubeconfig FILE names it; in a pod, its service account does",
                )
            })?;
            Ok(Some(Arc::new(runner)))
        }
        RunnerKind::None => Ok(None),
    }
}

/// Names this server in the lease: where it is, and which of those that were there.
///
/// A server whose jobs are processes has their directory for itself, so whoever had the lease under the directory's name
/// is gone: a server that follows one that was killed need not wait for the lease to end.
fn holder(kind: RunnerKind, data: Option<&Path>) -> String {
    let node = rustix::system::uname();
    let node = node.nodename().to_string_lossy();
    match (kind, data) {
        (RunnerKind::Process, Some(data)) => {
            let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
            format!("{node}{}", data.display())
        }
        _ => format!(
            "{node}/{}/{}",
            std::process::id(),
            jiff::Timestamp::now().as_millisecond()
        ),
    }
}

/// Allows this process as many open files as it may have: a stream needs one, and the usual limit is for programs that
/// use `select`.
pub(super) fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
