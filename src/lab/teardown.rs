//! Removing a lab, and proving that nothing of it is left.
//!
//! Things are found by the label, never by what labctl remembers: a lab whose state was lost is removed as well. KIND's
//! nodes cannot carry our label; they are those on a network that does.

use std::collections::{BTreeMap, HashMap};

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use bollard::query_parameters as query;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::DeleteParams;

use super::engine;
use super::record::{Origin, Record};
use super::step::chart;
use super::tools::{self, Tool};
use crate::config::{LABEL, SHARED, Settings};
use crate::drive::cluster::Cluster;
use crate::drive::docker::{Docker, failed};
use crate::drive::exec::Cmd;
use crate::drive::files;
use crate::error::{Code, Diagnose, Diagnosis, diagnosis};
use crate::report::Event;
use crate::world::World;

/// How much is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// The lab's cluster, network and state; its image registry stays, so the next `up` is quick.
    Lab,
    /// The lab's image registry, and the images that no other lab uses, as well.
    Images,
    /// Everything of every lab, the caches, and the engine that labctl manages.
    All,
}

/// The label on what outlives a plain teardown: the image registry and its volume.
pub const KEEP_LABEL: &str = "labctl.dev/keep";

/// What was removed.
#[derive(Debug, Default, Clone, Copy)]
pub struct Removed {
    /// How many things.
    pub things: usize,
    /// How many bytes of disk they gave back, as far as it is known.
    pub bytes: u64,
}

/// Everything of the lab that the engine has.
#[derive(Debug, Default)]
struct Found {
    /// Ids with names.
    containers: BTreeMap<String, String>,
    networks: BTreeMap<String, String>,
    volumes: Vec<String>,
    images: BTreeMap<String, (String, u64)>,
}

impl Found {
    fn names(&self) -> Vec<String> {
        let mut out: Vec<String> = self
            .containers
            .values()
            .map(|name| format!("container {name}"))
            .collect();
        out.extend(self.networks.values().map(|name| format!("network {name}")));
        out.extend(self.volumes.iter().map(|name| format!("volume {name}")));
        out.extend(self.images.values().map(|(name, _)| format!("image {name}")));
        out
    }
}

/// Removes what belongs to the lab, looks again, and returns what went.
///
/// # Errors
/// Something could not be removed, or [`Code::LeftOver`] where something is left after all.
pub async fn run(world: &World, depth: Depth) -> Result<Removed> {
    let settings = world.settings();
    let mut removed = Removed::default();
    if let Some(Record {
        cluster: Origin::Existing { .. },
        ..
    }) = Record::read(settings)?
    {
        remove_from_existing(world, &mut removed).await?;
    }
    match world.docker().await {
        Ok(docker) => remove_from_engine(world, &docker, depth, &mut removed).await?,
        Err(error) if diagnosis(&error).is_some_and(|found| found.code == Code::EngineMissing) => {
            if depth < Depth::All && engine::exists(settings) {
                return Err(error.context(
                    Diagnosis::new(
                        Code::EngineMissing,
                        "the lab's engine does not run, so its containers cannot be removed",
                    )
                    .hint("labctl teardown --all removes the engine with everything in it")
                    .hint("or start it with labctl up, then run labctl teardown"),
                ));
            }
        }
        Err(error) => return Err(error),
    }
    if depth == Depth::All
        && let Some(bytes) = engine::remove(world).await?
    {
        note(
            world,
            &mut removed,
            "engine",
            "the engine that labctl manages",
            Some(bytes),
        );
    }
    let dirs = match depth {
        Depth::All => own_folders(settings),
        _ => vec![settings.lab_dir()],
    };
    for dir in dirs {
        if !dir.exists() {
            continue;
        }
        let bytes = files::disk_usage(&dir);
        std::fs::remove_dir_all(&dir).map_err(|error| files::explain(error, "remove", &dir))?;
        note(
            world,
            &mut removed,
            "directory",
            &dir.display().to_string(),
            Some(bytes),
        );
    }
    if depth == Depth::All {
        // Refused where anything else is in them, as it should be.
        _ = std::fs::remove_dir(settings.dirs.state());
        _ = std::fs::remove_dir(settings.dirs.cache());
    }
    Ok(removed)
}

/// Returns the folders that labctl makes below its two roots. The roots themselves may be anything that a user named in
/// `LABCTL_STATE_DIR` or `LABCTL_CACHE_DIR`, with files of their own in it.
fn own_folders(settings: &Settings) -> Vec<PathBuf> {
    // The lock that this run holds is among them; it is released with the run.
    let state = ["labs", "locks"].map(|name| settings.dirs.state().join(name));
    let cache = ["charts", "go", "images", "oci", "tools"].map(|name| settings.dirs.cache().join(name));
    state.into_iter().chain(cache).collect()
}

/// Takes the dashboard out of a cluster that is the user's. The namespace goes only if labctl made it.
async fn remove_from_existing(world: &World, removed: &mut Removed) -> Result<()> {
    let settings = world.settings();
    if !settings.kubeconfig().exists() {
        return Ok(());
    }
    let connection = Cluster::connect(settings).await?;
    let asked = || Diagnosis::new(Code::ClusterUnready, "ask your cluster for the lab's namespace");
    let namespaces = Api::<Namespace>::all(connection.client());
    let ours = namespaces
        .get_opt(chart::NAME)
        .await
        .diagnose(asked)?
        .is_some_and(|namespace| {
            namespace
                .metadata
                .labels
                .unwrap_or_default()
                .get(LABEL)
                .map(String::as_str)
                == Some(settings.lab.as_str())
        });
    if !ours {
        return Ok(());
    }
    let helm = Cmd::new(tools::find(world, Tool::Helm).await?)
        .args([
            "uninstall",
            chart::NAME,
            "--namespace",
            chart::NAME,
            "--ignore-not-found",
            "--wait",
        ])
        .arg("--kubeconfig")
        .arg(settings.kubeconfig())
        .without_env("KUBECONFIG")
        .limit(Duration::from_secs(180));
    world
        .exec()
        .run(&helm)
        .await
        .diagnose(|| Diagnosis::new(Code::ProgramFailed, "Helm could not uninstall the dashboard"))?;
    note(world, removed, "release", chart::NAME, None);
    namespaces
        .delete(chart::NAME, &DeleteParams::default())
        .await
        .diagnose(asked)?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while namespaces.get_opt(chart::NAME).await.diagnose(asked)?.is_some() {
        if Instant::now() > deadline {
            return Err(Diagnosis::new(
                Code::LeftOver,
                format!("the namespace `{}` is still being removed", chart::NAME),
            )
            .hint("labctl teardown looks again")
            .error());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    note(world, removed, "namespace", chart::NAME, None);
    Ok(())
}

async fn remove_from_engine(world: &World, docker: &Docker, depth: Depth, removed: &mut Removed) -> Result<()> {
    let lab = world.settings().lab.as_str();
    let found = find(docker, lab, depth).await?;
    for (id, name) in &found.containers {
        docker.remove_container(id).await?;
        note(world, removed, "container", name, None);
    }
    for (id, name) in &found.networks {
        for other in members(docker, id).await? {
            let request = bollard::models::NetworkDisconnectRequest {
                container: other.clone(),
                force: Some(true),
            };
            gone(docker.api().disconnect_network(id, request).await)
                .diagnose(|| failed(format!("take the container `{other}` off the network `{name}`")))?;
        }
        gone(docker.api().remove_network(id).await).diagnose(|| failed(format!("remove the network `{name}`")))?;
        note(world, removed, "network", name, None);
    }
    for name in &found.volumes {
        gone(
            docker
                .api()
                .remove_volume(name, None::<query::RemoveVolumeOptions>)
                .await,
        )
        .diagnose(|| failed(format!("remove the volume `{name}`")))?;
        note(world, removed, "volume", name, None);
    }
    remove_images(world, docker, found.images, removed).await?;
    let left = find(docker, lab, depth).await?.names();
    if left.is_empty() {
        return Ok(());
    }
    Err(Diagnosis::new(
        Code::LeftOver,
        format!("still there after teardown: {}", left.join(", ")),
    )
    .hint("run the same command again; docker ps -a and docker network inspect say who uses them")
    .error())
}

/// Removes images. One that another is built on is refused until that one is gone, so they are gone over again for as
/// long as that helps; what is left then is told by the second look.
async fn remove_images(
    world: &World,
    docker: &Docker,
    mut images: BTreeMap<String, (String, u64)>,
    removed: &mut Removed,
) -> Result<()> {
    loop {
        let before = images.len();
        let mut refused = BTreeMap::new();
        for (id, (name, bytes)) in images {
            let options = query::RemoveImageOptionsBuilder::default().force(true).build();
            match docker.api().remove_image(&id, Some(options), None).await {
                Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, .. }) => {
                    refused.insert(id, (name, bytes));
                    continue;
                }
                other => gone(other.map(|_| ())).diagnose(|| failed(format!("remove the image `{name}`")))?,
            }
            note(world, removed, "image", &name, Some(bytes));
        }
        if refused.is_empty() || refused.len() == before {
            return Ok(());
        }
        images = refused;
    }
}

async fn find(docker: &Docker, lab: &str, depth: Depth) -> Result<Found> {
    let label = if depth == Depth::All {
        LABEL.to_owned()
    } else {
        format!("{LABEL}={lab}")
    };
    let filters = HashMap::from([("label".to_owned(), vec![label.clone()])]);
    let keep = depth == Depth::Lab;
    let kept = |labels: &Option<HashMap<String, String>>| {
        keep && labels.as_ref().is_some_and(|labels| labels.contains_key(KEEP_LABEL))
    };
    let mut found = Found::default();
    for container in docker.containers(filters.clone()).await? {
        if !kept(&container.labels) {
            found
                .containers
                .insert(container.id.clone().unwrap_or_default(), container_name(&container));
        }
    }
    let options = query::ListNetworksOptionsBuilder::default().filters(&filters).build();
    let networks = docker
        .api()
        .list_networks(Some(options))
        .await
        .diagnose(|| failed("list networks"))?;
    for network in networks {
        let name = network.name.unwrap_or_default();
        let on_it = HashMap::from([
            ("network".to_owned(), vec![name.clone()]),
            ("label".to_owned(), vec!["io.x-k8s.kind.cluster".to_owned()]),
        ]);
        for container in docker.containers(on_it).await? {
            found
                .containers
                .insert(container.id.clone().unwrap_or_default(), container_name(&container));
        }
        found.networks.insert(network.id.unwrap_or_default(), name);
    }
    let options = query::ListVolumesOptionsBuilder::default().filters(&filters).build();
    let volumes = docker
        .api()
        .list_volumes(Some(options))
        .await
        .diagnose(|| failed("list volumes"))?;
    for volume in volumes.volumes.unwrap_or_default() {
        if !kept(&Some(volume.labels)) {
            found.volumes.push(volume.name);
        }
    }
    if depth >= Depth::Images {
        let others = other_labs(docker, lab).await?;
        let mut labels = vec![format!("{LABEL}={lab}")];
        if depth == Depth::All || others.is_empty() {
            labels.push(format!("{LABEL}={SHARED}"));
        }
        for label in labels {
            let filters = HashMap::from([("label".to_owned(), vec![label])]);
            let options = query::ListImagesOptionsBuilder::default()
                .all(false)
                .filters(&filters)
                .build();
            let images = docker
                .api()
                .list_images(Some(options))
                .await
                .diagnose(|| failed("list images"))?;
            for image in images {
                let name = image.repo_tags.first().cloned().unwrap_or_else(|| image.id.clone());
                let size = u64::try_from(image.size).unwrap_or(0);
                found.images.insert(image.id, (name, size));
            }
        }
    }
    Ok(found)
}

/// Returns the labs that have a network or a container in this engine, other than `lab`; a lab may be named twice.
async fn other_labs(docker: &Docker, lab: &str) -> Result<Vec<String>> {
    let filters = HashMap::from([("label".to_owned(), vec![LABEL.to_owned()])]);
    let options = query::ListNetworksOptionsBuilder::default().filters(&filters).build();
    let networks = docker
        .api()
        .list_networks(Some(options))
        .await
        .diagnose(|| failed("list networks"))?;
    // A lab that was torn down has no network any more, and keeps its registry, which runs from an image.
    let containers = docker.containers(filters).await?;
    Ok(networks
        .into_iter()
        .map(|network| network.labels)
        .chain(containers.into_iter().map(|container| container.labels))
        .filter_map(|labels| labels?.remove(LABEL))
        .filter(|owner| owner != lab && owner != SHARED)
        .collect())
}

async fn members(docker: &Docker, network: &str) -> Result<Vec<String>> {
    let Some(network) = docker.network(network).await? else {
        return Ok(Vec::new());
    };
    Ok(network.containers.unwrap_or_default().into_keys().collect())
}

fn container_name(container: &bollard::models::ContainerSummary) -> String {
    container
        .names
        .as_ref()
        .and_then(|names| names.first())
        .map(|name| name.trim_start_matches('/').to_owned())
        .unwrap_or_default()
}

/// Somebody else's removal of the same thing is as good as ours.
fn gone<T>(result: Result<T, bollard::errors::Error>) -> Result<(), bollard::errors::Error> {
    crate::drive::docker::absent_as_none(result).map(|_| ())
}

fn note(world: &World, removed: &mut Removed, kind: &str, name: &str, bytes: Option<u64>) {
    removed.things += 1;
    removed.bytes += bytes.unwrap_or(0);
    world.reporter().emit(Event::Removed {
        kind: kind.to_owned(),
        name: name.to_owned(),
        bytes,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Dirs, LabName};

    #[test]
    fn everything_is_labctl_s_own_and_not_what_lies_beside_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (state, cache) = (dir.path().join("state"), dir.path().join("cache"));
        for ours in [state.join("labs/demo/lab.json.old"), cache.join("go/out/x")] {
            files::write(&ours, "ours").expect("written");
        }
        let theirs = cache.join("photos/cat");
        files::write(&theirs, "theirs").expect("written");
        let settings = Settings {
            lab: LabName::parse("demo").expect("a name"),
            dirs: Dirs::new(&state, &cache),
            yes: true,
            ask: false,
            json: false,
        };
        for folder in own_folders(&settings) {
            _ = std::fs::remove_dir_all(folder);
        }
        assert!(!state.join("labs").exists() && !cache.join("go").exists());
        assert!(theirs.exists(), "a file that is not labctl's was removed");
    }
}
