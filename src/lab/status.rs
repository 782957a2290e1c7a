//! What there is of a lab now, by looking.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use bollard::query_parameters as query;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;

use super::image::shelf::UNNAMED;
use super::record::{Origin, Record};
use super::step::registry;
use crate::config::{LABEL, SHARED};
use crate::drive::cluster::Cluster;
use crate::drive::docker::{Docker, Source};
use crate::world::World;

/// How long anything that is asked over HTTP may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A lab as it is.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The lab's name.
    pub lab: String,
    /// Whether all of it is there and answers.
    pub up: bool,
    /// The container engine, or why there is none.
    pub engine: Part<EngineStatus>,
    /// The cluster, or why there is none.
    pub cluster: Part<ClusterStatus>,
    /// Where the dashboard answers, or why it does not.
    pub dashboard: Part<DashboardStatus>,
    /// The image registry, or why it does not answer.
    pub registry: Part<RegistryStatus>,
    /// Helm's releases, newest revision each.
    pub releases: Vec<Release>,
    /// Images in the engine that are the lab's or shared by labs.
    pub images: Vec<Image>,
    /// The lab's own kubeconfig.
    pub kubeconfig: String,
}

/// Something that is there, or the reason why it is not.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part<T> {
    /// It is there.
    There(T),
    /// It is not, because of this.
    Missing(String),
}

impl<T> Part<T> {
    fn of(result: Result<T>) -> Self {
        match result {
            Ok(there) => Self::There(there),
            Err(error) => Self::Missing(error.to_string()),
        }
    }

    /// Returns whether it is there.
    pub fn is_there(&self) -> bool {
        matches!(self, Self::There(_))
    }
}

/// The container engine.
#[derive(Debug, Serialize)]
pub struct EngineStatus {
    /// Its version.
    pub version: String,
    /// Its address.
    pub host: String,
    /// Whether labctl started it.
    pub managed: bool,
}

/// The cluster.
#[derive(Debug, Serialize)]
pub struct ClusterStatus {
    /// Kubernetes's version.
    pub version: String,
    /// Its UID: that of the namespace `kube-system`.
    pub uid: String,
    /// Its nodes, and whether each is Ready.
    pub nodes: Vec<NodeStatus>,
}

/// A node.
#[derive(Debug, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Whether it is Ready.
    pub ready: bool,
}

/// The dashboard.
#[derive(Debug, Serialize)]
pub struct DashboardStatus {
    /// Its URL.
    pub url: String,
}

/// The image registry.
#[derive(Debug, Serialize)]
pub struct RegistryStatus {
    /// Its address, as in image names.
    pub address: String,
}

/// A Helm release.
#[derive(Debug, Serialize)]
pub struct Release {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its revision.
    pub revision: u64,
    /// Helm's word for its state, such as `deployed`.
    pub status: String,
}

/// An image in the engine.
#[derive(Debug, Serialize)]
pub struct Image {
    /// Its name; its digest where a newer image has taken the name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Looks at the lab.
///
/// # Errors
/// Only where the lab's own record cannot be read; what is not there is part of the answer.
pub async fn look(world: &World) -> Result<Status> {
    let settings = world.settings();
    let record = Record::read(settings)?.unwrap_or_default();
    let docker = world.docker().await;
    let (cluster, dashboard, registry) = tokio::join!(
        cluster(world),
        dashboard(world, &record),
        registry_status(world, &record)
    );
    let releases = match world.cluster().await {
        Ok(connection) => releases(&connection).await,
        Err(_) => Vec::new(),
    };
    let images = match &docker {
        Ok(docker) => images(docker, settings.lab.as_str()).await,
        Err(_) => Vec::new(),
    };
    let engine = Part::of(docker.map(|docker| EngineStatus {
        version: docker.version().to_owned(),
        host: docker.host().to_owned(),
        managed: *docker.source() == Source::Managed,
    }));
    let ours = record.cluster == Origin::Kind;
    Ok(Status {
        lab: settings.lab.to_string(),
        up: cluster
            .as_ref()
            .is_ok_and(|cluster| cluster.nodes.iter().all(|node| node.ready))
            && dashboard.is_ok()
            && (registry.is_ok() || !ours),
        engine,
        cluster: Part::of(cluster),
        dashboard: Part::of(dashboard),
        registry: Part::of(registry),
        releases,
        images,
        kubeconfig: settings.kubeconfig().display().to_string(),
    })
}

async fn cluster(world: &World) -> Result<ClusterStatus> {
    let connection = world.cluster().await?;
    let client = connection.client();
    let version = client.apiserver_version().await?.git_version;
    let nodes = Api::<Node>::all(client).list(&ListParams::default()).await?;
    Ok(ClusterStatus {
        version,
        uid: connection.uid().to_owned(),
        nodes: nodes
            .into_iter()
            .map(|node| NodeStatus {
                name: node.metadata.name.unwrap_or_default(),
                ready: node
                    .status
                    .iter()
                    .flat_map(|status| status.conditions.iter().flatten())
                    .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            })
            .collect(),
    })
}

async fn dashboard(world: &World, record: &Record) -> Result<DashboardStatus> {
    let url = format!("http://127.0.0.1:{}", record.ports.http);
    let answer = world
        .http()
        .get(format!("{url}/healthz"))
        .timeout(ANSWER_LIMIT)
        .send()
        .await
        .map_err(|_| anyhow::anyhow!("{url} does not answer"))?;
    anyhow::ensure!(
        answer.status().is_success(),
        "{url}/healthz answers {}",
        answer.status()
    );
    Ok(DashboardStatus { url })
}

async fn registry_status(world: &World, record: &Record) -> Result<RegistryStatus> {
    let address = format!("localhost:{}", record.ports.registry);
    let url = format!("http://127.0.0.1:{}/v2/", record.ports.registry);
    let answer = world.http().get(url).timeout(ANSWER_LIMIT).send().await;
    let answers = answer.is_ok_and(|answer| answer.status().is_success());
    anyhow::ensure!(
        answers,
        "the container `{}` does not answer at {address}",
        registry::container(world.settings().lab.as_str())
    );
    Ok(RegistryStatus { address })
}

async fn releases(connection: &Cluster) -> Vec<Release> {
    let Ok(secrets) = Api::<Secret>::all(connection.client())
        .list_metadata(&ListParams::default().labels("owner=helm"))
        .await
    else {
        return Vec::new();
    };
    let mut newest: HashMap<(String, String), Release> = HashMap::new();
    for secret in secrets {
        let labels = secret.metadata.labels.unwrap_or_default();
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let release = Release {
            namespace: secret.metadata.namespace.unwrap_or_default(),
            name: label("name"),
            revision: label("version").parse().unwrap_or(0),
            status: label("status"),
        };
        let key = (release.namespace.clone(), release.name.clone());
        if newest.get(&key).is_none_or(|known| known.revision < release.revision) {
            newest.insert(key, release);
        }
    }
    let mut out: Vec<Release> = newest.into_values().collect();
    out.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    out
}

async fn images(docker: &Docker, lab: &str) -> Vec<Image> {
    let mut out = Vec::new();
    for owner in [lab, SHARED] {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{LABEL}={owner}")])]);
        let options = query::ListImagesOptionsBuilder::default().filters(&filters).build();
        let Ok(images) = docker.api().list_images(Some(options)).await else {
            continue;
        };
        for image in images {
            let bytes = u64::try_from(image.size).unwrap_or(0);
            let mut names: Vec<String> = image.repo_tags.into_iter().filter(|name| name != UNNAMED).collect();
            if names.is_empty() {
                names.push(image.id);
            }
            out.extend(names.into_iter().map(|name| Image { name, bytes }));
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}
