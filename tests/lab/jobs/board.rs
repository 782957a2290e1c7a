//! A dashboard without its HTTP, on the lab's cluster: the rights that the chart gives, SQLite, and the Kubernetes runner.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use labctl::config::Dirs;
use labctl::dashboard::control::Control;
use labctl::dashboard::control::retain::Keep;
use labctl::dashboard::health::Health;
use labctl::dashboard::job::spec::Spec;
use labctl::dashboard::job::{Job, JobId, State};
use labctl::dashboard::log::hub::Hub;
use labctl::dashboard::log::{Line, Stream};
use labctl::dashboard::runner::Runner;
use labctl::dashboard::runner::kubernetes::{Kubernetes, Limits, Settings};
use labctl::dashboard::service::tail::{Item, Select};
use labctl::dashboard::service::{Caller, Service};
use labctl::dashboard::store::sqlite::{self, Sqlite};
use labctl::dashboard::store::{Created, JobStore};
use labctl::drive::docker::Docker;
use labctl::drive::registry::Registry;
use labctl::lab::image::store::Store;
use labctl::lab::image::{job_base, load};
use serde_json::{Value, json};

use crate::support::{Lab, NAME, PORTS, program};

pub(super) const NAMESPACE: &str = "labctl-jobs";
/// How long anything may take: the machine may be small and busy.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// What all tests of this file share.
pub(super) struct Place {
    /// The kubeconfig of an account with the rights that the chart gives.
    pub(super) kubeconfig: PathBuf,
    /// The image of jobs that name none.
    pub(super) image: String,
    _dir: tempfile::TempDir,
}

static PLACE: OnceLock<Result<Place, String>> = OnceLock::new();

pub(super) fn place(lab: &Lab) -> Result<&'static Place> {
    let place = PLACE.get_or_init(|| prepare(lab).map_err(|error| format!("{error:?}")));
    place.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// Makes the namespace, the account with the chart's rights, and the image.
fn prepare(lab: &Lab) -> Result<Place> {
    let dir = tempfile::tempdir()?;
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/job-dashboard");
    let rendered = lab.ok(&[
        "helm",
        "template",
        "jobs",
        &chart.display().to_string(),
        "--namespace",
        NAMESPACE,
        "--set",
        "runner.kubernetes.enabled=true,auth.tokenSecret=people,fullnameOverride=jobs",
        "--show-only",
        "templates/role.yaml",
        "--show-only",
        "templates/serviceaccount.yaml",
    ])?;
    let objects = dir.path().join("rights.yaml");
    let namespace = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  labels:\n    pod-security.kubernetes.io/enforce: restricted\n---\n"
    );
    labctl::drive::files::write(&objects, namespace + &rendered)?;
    lab.ok(&["kubectl", "apply", "-f", &objects.display().to_string()])?;
    let token = lab.ok(&["kubectl", "create", "token", "jobs", "-n", NAMESPACE, "--duration=2h"])?;
    let own = std::fs::read_to_string(lab.dir().join("kubeconfig"))?;
    let mut config: Value = serde_saphyr::from_str(&own)?;
    config["users"][0]["user"] = json!({"token": token.trim()});
    let kubeconfig = dir.path().join("kubeconfig");
    labctl::drive::files::write_secret(&kubeconfig, serde_json::to_string(&config)?)?;
    let cache = Store::at(Dirs::from_environment()?.cache().join("images"));
    let recipe = job_base::Recipe::of_this_machine(&cache)?;
    let host = format!("localhost:{}", PORTS.registry);
    let image = recipe.build(&host, &cache)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let loaded = runtime.block_on(async { load::push(&Registry::at(&host)?, &image, None).await })?;
    Ok(Place {
        kubeconfig,
        image: loaded.name,
        _dir: dir,
    })
}

/// A dashboard without its HTTP.
pub(super) struct Board {
    pub(super) service: Service,
    pub(super) health: Health,
    work: tokio::task::JoinHandle<()>,
}

impl Drop for Board {
    fn drop(&mut self) {
        self.work.abort();
    }
}

pub(super) fn me() -> Caller {
    Caller::new("zoe", false)
}

impl Board {
    pub(super) async fn open(place: &Place, dir: &Path) -> Result<Self> {
        Self::open_by(place, place.kubeconfig.clone(), Limits::default(), dir).await
    }

    /// Opens one that reaches its cluster by another kubeconfig, and bears silence for as long as `limits` say.
    pub(super) async fn open_by(place: &Place, kubeconfig: PathBuf, limits: Limits, dir: &Path) -> Result<Self> {
        let runner = Kubernetes::connect(Settings {
            kubeconfig: Some(kubeconfig),
            namespace: Some(NAMESPACE.to_owned()),
            image: Some(place.image.clone()),
            priority_classes: BTreeMap::new(),
            limits,
        })
        .await?;
        let store = Sqlite::open(&dir.join("jobs.sqlite"), sqlite::Settings::default()).await?;
        let (store, runner): (Arc<dyn JobStore>, Arc<dyn Runner>) = (Arc::new(store), Arc::new(runner));
        let hub = Hub::default();
        let health = Health::default();
        let control = Control::new(
            Arc::clone(&store),
            Arc::clone(&runner),
            hub.clone(),
            health.clone(),
            // The one after it is the same server, started again.
            "test".to_owned(),
            Keep::default(),
        );
        let service = Service::new(store, runner, control.clone(), hub, None).await?;
        let work = tokio::spawn(async move { control.run().await });
        Ok(Self { service, health, work })
    }

    pub(super) async fn create(&self, spec: Value) -> Result<JobId> {
        let mut whole = json!({"name": "test", "limits": {"memory_mib": 32, "cpu_milli": 500}});
        for (name, value) in spec.as_object().context("an object")? {
            whole[name] = value.clone();
        }
        let spec: Spec = serde_json::from_value(whole)?;
        match self.service.create(&me(), spec, None).await? {
            Created::New(job) => Ok(job.id),
            Created::Replayed(_) => bail!("no key was given"),
        }
    }

    pub(super) async fn shell(&self, script: &str) -> Result<JobId> {
        self.create(json!({"command": ["sh", "-c", script]})).await
    }

    pub(super) async fn job(&self, id: JobId) -> Result<Job> {
        Ok(self.service.job(&me(), id).await?)
    }

    /// Waits until a job's row is as wanted.
    pub(super) async fn wait(&self, id: JobId, what: &str, wanted: impl Fn(&Job) -> bool) -> Result<Job> {
        let began = Instant::now();
        loop {
            let job = self.job(id).await?;
            if wanted(&job) {
                return Ok(job);
            }
            ensure!(began.elapsed() < PATIENCE, "{what}: {job:?}");
            ensure!(!job.log_complete || job.state.is_final(), "{job:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn state(&self, id: JobId, state: State) -> Result<Job> {
        self.wait(id, state.name(), |job| job.state == state).await
    }

    /// Waits until a job has ended and its log is stored.
    pub(super) async fn end(&self, id: JobId) -> Result<Job> {
        self.wait(id, "its end", |job| job.log_complete).await
    }

    /// Reads a log as a viewer does: until it ends, where `follow` says so.
    pub(super) async fn lines(&self, id: JobId, follow: bool) -> Result<Vec<Line>> {
        let select = Select {
            follow,
            ..Select::default()
        };
        let mut tail = self.service.tail(&me(), id, select).await?;
        let mut out = Vec::new();
        while let Some(item) = tokio::time::timeout(PATIENCE, tail.next())
            .await
            .context("the log goes on")??
        {
            match item {
                Item::Lines { lines, .. } => out.extend(lines),
                Item::Gap { from, to } => bail!("lines {from} to {to} are missing"),
            }
        }
        for (place, line) in out.iter().enumerate() {
            ensure!(line.number == place as u64 + 1, "line {} in place {place}", line.number);
        }
        Ok(out)
    }

    pub(super) async fn text(&self, id: JobId) -> Result<Vec<String>> {
        Ok(texts(&self.lines(id, false).await?))
    }
}

/// Says whether the runner sees its jobs, as `/readyz` has it.
pub(super) fn ready(board: &Board) -> bool {
    let readiness = board.health.readiness();
    readiness.checks.iter().all(|check| check.name != "runner" || check.ok)
}

/// Waits until the runner sees its jobs.
pub(super) async fn seeing(board: &Board) -> Result<()> {
    let began = Instant::now();
    while !ready(board) {
        ensure!(
            began.elapsed() < PATIENCE,
            "it does not see again: {:?}",
            board.health.readiness()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Runs a script on the lab's node.
pub(super) fn on_node(lab: &Lab, script: &str) -> Result<String> {
    engine(lab, &["exec", &format!("{NAME}-control-plane"), "sh", "-c", script])
}

/// Asks the lab's container engine.
pub(super) fn engine(lab: &Lab, args: &[&str]) -> Result<String> {
    let settings = lab.settings()?;
    let find = || {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async { Docker::find(&settings).await.map(|docker| docker.host().to_owned()) })
    };
    // Whoever asks may be within a runtime, where another one cannot be waited for.
    let host = std::thread::scope(|scope| scope.spawn(find).join());
    let host = host.map_err(|_| anyhow::anyhow!("the engine cannot be asked"))??;
    program("docker", args, &[("DOCKER_HOST", &host)])
}

pub(super) fn texts(lines: &[Line]) -> Vec<String> {
    let text = |line: &Line| {
        let text = String::from_utf8_lossy(&line.bytes).into_owned();
        if line.stream == Stream::Note {
            format!("! {text}")
        } else {
            text
        }
    };
    lines.iter().map(text).collect()
}

/// Runs a test with a dashboard of its own.
pub(super) fn with<F: Future<Output = Result<()>>>(lab: &Lab, test: impl FnOnce(Board, PathBuf) -> F) -> Result<()> {
    let place = place(lab)?;
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let board = Board::open(place, dir.path()).await?;
        test(board, dir.path().to_owned()).await
    })
}
