//! Everything a verb needs from the outside, built in one place.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::OnceCell;

use crate::config::Settings;
use crate::drive::cluster::Cluster;
use crate::drive::docker::Docker;
use crate::drive::exec::{Exec, System};
use crate::report::Reporter;

/// The outside as one run sees it; cheap to clone.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    settings: Settings,
    reporter: Reporter,
    exec: Arc<dyn Exec>,
    http: reqwest::Client,
    docker: tokio::sync::Mutex<Option<Docker>>,
    cluster: OnceCell<Cluster>,
}

impl World {
    /// Builds the real world. Nothing is contacted yet.
    ///
    /// # Errors
    /// The HTTP client cannot be set up, which only a broken TLS set-up can cause.
    pub fn real(settings: Settings, reporter: Reporter) -> Result<Self> {
        Self::with_exec(settings, reporter, Arc::new(System))
    }

    /// Builds a world whose programs are run by `exec`; for tests.
    ///
    /// # Errors
    /// As [`World::real`].
    pub fn with_exec(settings: Settings, reporter: Reporter, exec: Arc<dyn Exec>) -> Result<Self> {
        install_crypto();
        let http = reqwest::Client::builder()
            .user_agent(concat!("labctl/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            .build()
            .context("set up the HTTP client")?;
        Ok(Self(Arc::new(Inner {
            settings,
            reporter,
            exec,
            http,
            docker: tokio::sync::Mutex::new(None),
            cluster: OnceCell::new(),
        })))
    }

    /// Returns what the run was told.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Returns where events go.
    pub fn reporter(&self) -> &Reporter {
        &self.0.reporter
    }

    /// Returns what runs programs.
    pub fn exec(&self) -> &dyn Exec {
        self.0.exec.as_ref()
    }

    /// Asks the user whether labctl may go on; `--yes` answers for them, and so does having nobody to ask, with no.
    pub fn consent(&self, question: &str) -> bool {
        let settings = self.settings();
        if settings.yes {
            return true;
        }
        if !settings.ask {
            return false;
        }
        let mut answer = String::new();
        self.reporter().suspend(&mut || {
            _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{question} [y/N] ").as_bytes());
            _ = std::io::stdin().read_line(&mut answer);
        });
        matches!(answer.trim(), "y" | "Y" | "yes")
    }

    /// Returns the HTTP client: no redirects followed by default policy of reqwest (10), proxies of the environment.
    pub fn http(&self) -> &reqwest::Client {
        &self.0.http
    }

    /// Returns the container engine, looking for it where none was found yet.
    ///
    /// # Errors
    /// [`crate::error::Code::EngineMissing`] and its siblings, with how to get one.
    pub async fn docker(&self) -> Result<Docker> {
        let mut known = self.0.docker.lock().await;
        if let Some(docker) = known.as_ref() {
            return Ok(docker.clone());
        }
        let docker = Docker::find(&self.0.settings).await?;
        *known = Some(docker.clone());
        Ok(docker)
    }

    /// Forgets the engine, after it was started or stopped.
    pub async fn forget_docker(&self) {
        *self.0.docker.lock().await = None;
    }

    /// Returns the lab's cluster: our own kubeconfig, checked against the UID the lab was made with.
    ///
    /// # Errors
    /// [`crate::error::Code::ClusterMissing`], [`crate::error::Code::ClusterWrong`] or
    /// [`crate::error::Code::ClusterUnready`].
    pub async fn cluster(&self) -> Result<Cluster> {
        self.0
            .cluster
            .get_or_try_init(|| Cluster::connect(&self.0.settings))
            .await
            .cloned()
    }
}

/// Chooses ring for TLS, once for the whole process: two providers are linked in by different libraries otherwise.
pub fn install_crypto() {
    _ = rustls::crypto::ring::default_provider().install_default();
}
