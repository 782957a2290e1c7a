//! The lab's cluster, through its API (kube), by the lab's own kubeconfig and never by an ambient context.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Namespace;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};

use super::files;
use crate::config::Settings;
use crate::error::{Code, Diagnose, Diagnosis};

/// How long the API server may take to accept a connection; a dead cluster must not hang a command.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long it may take to answer one request that is not a watch.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A cluster that answered and is the one the lab was made in.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    uid: String,
}

impl Cluster {
    /// Connects with the lab's kubeconfig and compares the cluster's UID with the one that `up` recorded.
    ///
    /// # Errors
    /// [`Code::ClusterMissing`], [`Code::ClusterWrong`], [`Code::ClusterUnready`].
    pub async fn connect(settings: &Settings) -> Result<Self> {
        let found = Self::connect_any(settings).await?;
        let recorded = std::fs::read_to_string(uid_path(settings)).unwrap_or_default();
        let recorded = recorded.trim();
        if !recorded.is_empty() && recorded != found.uid {
            return Err(Diagnosis::new(
                Code::ClusterWrong,
                format!(
                    "the cluster that `{}` leads to is not the lab's (its UID is {}, the lab's is {recorded})",
                    settings.kubeconfig().display(),
                    found.uid
                ),
            )
            .hint("labctl up writes the lab's kubeconfig again; labctl teardown forgets the lab")
            .error());
        }
        Ok(found)
    }

    /// Connects with the lab's kubeconfig to whatever answers; for `up`, which records the UID.
    ///
    /// # Errors
    /// [`Code::ClusterMissing`] or [`Code::ClusterUnready`].
    pub async fn connect_any(settings: &Settings) -> Result<Self> {
        let path = settings.kubeconfig();
        if !path.exists() {
            return Err(Diagnosis::new(
                Code::ClusterMissing,
                format!("the lab `{}` has no cluster", settings.lab),
            )
            .hint("labctl up makes it")
            .error());
        }
        let unreadable = || {
            Diagnosis::new(
                Code::ClusterMissing,
                format!("the kubeconfig `{}` cannot be used", path.display()),
            )
            .hint("labctl up writes it again")
        };
        let kubeconfig = Kubeconfig::read_from(&path).diagnose(unreadable)?;
        let proxied = kubeconfig.clusters.iter().any(|named| {
            named
                .cluster
                .as_ref()
                .is_some_and(|cluster| cluster.proxy_url.is_some())
        });
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .diagnose(unreadable)?;
        // From the environment kube takes a proxy for whatever address, NO_PROXY or not; the lab's is on loopback.
        if !proxied {
            config.proxy_url = None;
        }
        config.connect_timeout = Some(CONNECT_LIMIT);
        config.read_timeout = None;
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config).diagnose(unreadable)?;
        let unready = || {
            Diagnosis::new(
                Code::ClusterUnready,
                format!("the lab's cluster does not answer at {url}"),
            )
            .hint("labctl up brings it back; labctl doctor says what is wrong with the machine")
        };
        let system = tokio::time::timeout(ANSWER_LIMIT, Api::<Namespace>::all(client.clone()).get("kube-system"))
            .await
            .context("no answer")
            .diagnose(unready)?
            .diagnose(unready)?;
        Ok(Self {
            client,
            uid: system.metadata.uid.unwrap_or_default(),
        })
    }

    /// Returns the API client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Returns the cluster's UID: that of its `kube-system` namespace, which lives as long as the cluster does.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Records this cluster as the lab's.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub fn record(&self, settings: &Settings) -> Result<()> {
        files::write(&uid_path(settings), format!("{}\n", self.uid))
    }
}

fn uid_path(settings: &Settings) -> std::path::PathBuf {
    settings.lab_dir().join("cluster-uid")
}
