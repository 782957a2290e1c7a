//! The parts of a server that runs jobs: which store, which runner, and what brings them together.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Args;
use crate::config;
use crate::dashboard::auth::Auth;
use crate::dashboard::control::Control;
use crate::dashboard::health::Health;
use crate::dashboard::http::Api;
use crate::dashboard::http::guard::Guard;
use crate::dashboard::http::streams::Streams;
use crate::dashboard::log::hub::Hub;
use crate::dashboard::runner::Runner;
use crate::dashboard::runner::kubernetes::{self, Kubernetes};
use crate::dashboard::runner::process::{Options, ProcessRunner};
use crate::dashboard::service::Service;
use crate::dashboard::store::sqlite::{self, Sqlite};
use crate::dashboard::store::JobStore;
use crate::drive::files;
use crate::error::{Code, Diagnose, Diagnosis};

/// The name of the database in the data directory.
const DATABASE: &str = "jobs.sqlite";
/// The name of the directory of the process runner in it.
const PROCESSES: &str = "processes";
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StoreUrl {
    /// A file.
    Sqlite(PathBuf),
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
        // What was given may hold a password, so it is not repeated.
        Err("it must be sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME".to_owned())
    }
}

/// The parts, at work.
pub(super) struct Parts {
    api: Api,
    store: Arc<dyn JobStore>,
    work: JoinHandle<()>,
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
        let store = store(args.store.clone(), data).await?;
        let hub = Hub::default();
        let control = Control::new(
            Arc::clone(&store),
            Arc::clone(&runner),
            hub.clone(),
            health.clone(),
            holder(),
        );
        let guard = Guard::new(auth, args.host.clone());
        let api = Api::new(guard, Streams::new(args.max_streams.get(), closing.clone()));
        let ready = (api.clone(), Arc::clone(&store), health.clone());
        let work = tokio::spawn(async move {
            let (api, store, health) = ready;
            // A database that comes later than the server is no reason to end: /readyz says so meanwhile.
            let service = loop {
                match Service::new(Arc::clone(&store), Arc::clone(&runner), control.clone(), hub.clone()).await {
                    Ok(service) => break service,
                    Err(error) => {
                        tracing::warn!(%error, cause = ?error, "the store does not answer yet");
                        health.set("store", Err(error.to_string()));
                        tokio::time::sleep(TRY_AGAIN).await;
                    }
                }
            };
            health.set("store", Ok(store.name()));
            api.ready(service);
            control.run().await;
        });
        Ok(Some(Self { api, store, work }))
    }

    /// Returns what routes of jobs use.
    pub(super) fn api(&self) -> Api {
        self.api.clone()
    }

    /// Ends the work.
    pub(super) async fn end(self) {
        self.work.abort();
        _ = self.work.await;
        drop(self.store);
    }
}

/// Opens the store.
async fn store(url: Option<StoreUrl>, data: Result<PathBuf, Diagnosis>) -> Result<Arc<dyn JobStore>> {
    let url = match url {
        Some(url) => url,
        None => StoreUrl::Sqlite(data?.join(DATABASE)),
    };
    match url {
        StoreUrl::Sqlite(path) => {
            private_file(&path)?;
            let opened = Sqlite::open(&path, sqlite::Settings::default()).await;
            Ok(Arc::new(opened.diagnose(|| {
                Diagnosis::new(Code::Setting, format!("the database `{}` cannot be used", path.display()))
                    .hint("labctl serve --store sqlite:PATH takes another file")
            })?))
        }
    }
}

/// Makes a file that nobody but its owner may read, where there is none: what jobs print and the environment that they
/// get is not for everybody on the machine.
fn private_file(path: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let dir = path.parent().unwrap_or(Path::new("."));
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| files::explain(error, "make the directory", dir))?;
    let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    file.map(drop).map_err(|error| files::explain(error, "open", path))
}

/// Opens the runner; nothing where no jobs are run. This is the one place that knows which runners there are.
async fn runner(
    kind: RunnerKind,
    args: &Args,
    data: Result<PathBuf, Diagnosis>,
) -> Result<Option<Arc<dyn Runner>>> {
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
            };
            let runner = Kubernetes::connect(settings).await.diagnose(|| {
                Diagnosis::new(Code::Setting, "the cluster in which jobs are to run cannot be found")
                    .hint("labctl serve --runner kubernetes --kubeconfig FILE names it; in a pod, its service account does")
            })?;
            Ok(Some(Arc::new(runner)))
        }
        RunnerKind::None => Ok(None),
    }
}

/// Names this server in the lease: where it is, and which of those that were there.
fn holder() -> String {
    let node = rustix::system::uname();
    let now = jiff::Timestamp::now().as_millisecond();
    format!("{}/{}/{now}", node.nodename().to_string_lossy(), std::process::id())
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
