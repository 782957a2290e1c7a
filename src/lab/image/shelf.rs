//! What images there are, in the lab's registry and in the engine, who uses them, and the removal of those that nobody
//! uses.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result};
use bollard::query_parameters as query;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;
use serde_json::Value;

use super::store::Store;
use crate::config::LABEL;
use crate::drive::docker::{Docker, failed};
use crate::drive::files::Digest;
use crate::drive::registry::Registry;
use crate::error::{Code, Diagnose, Diagnosis, diagnosis};
use crate::world::World;

/// What Docker calls an image whose name a newer one has taken.
pub(crate) const UNNAMED: &str = "<none>:<none>";

/// One image that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Image {
    /// Its name: with the registry's address for what pods use, as the engine has it otherwise.
    pub name: String,
    /// The digest of its manifest, or its id in the engine.
    pub digest: String,
    /// How many bytes its layers have, as they are held.
    pub size: u64,
    /// `registry` or `engine`.
    pub held_by: &'static str,
    /// The pods (`namespace/name`) or containers that use it.
    pub used_by: Vec<String>,
    /// Its labels of labctl.
    pub labels: BTreeMap<String, String>,
    /// The blobs it is made of; for the registry alone.
    #[serde(skip)]
    blobs: BTreeMap<String, u64>,
    #[serde(skip)]
    manifest: Option<(String, Digest)>,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// The names of the images.
    pub images: Vec<String>,
    /// How many bytes that gave back.
    pub bytes: u64,
}

/// Returns which pods use which image, by the name in their specification. Without a cluster nobody uses any.
///
/// # Errors
/// There is a cluster and it does not answer: who uses what cannot be known.
pub async fn pods(world: &World) -> Result<BTreeMap<String, Vec<String>>> {
    let cluster = match world.cluster().await {
        Ok(cluster) => cluster,
        Err(error) if diagnosis(&error).is_some_and(|found| found.code == Code::ClusterMissing) => {
            return Ok(BTreeMap::new());
        }
        Err(error) => return Err(error),
    };
    let list = Api::<Pod>::all(cluster.client())
        .list(&ListParams::default())
        .await
        .diagnose(|| Diagnosis::new(Code::ClusterUnready, "list the pods").hint("labctl status shows the cluster"))?;
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in list {
        let name = format!(
            "{}/{}",
            pod.metadata.namespace.unwrap_or_default(),
            pod.metadata.name.unwrap_or_default()
        );
        let spec = pod.spec.unwrap_or_default();
        let images = spec
            .containers
            .into_iter()
            .chain(spec.init_containers.unwrap_or_default())
            .filter_map(|container| container.image);
        for image in images.collect::<BTreeSet<_>>() {
            out.entry(image).or_default().push(name.clone());
        }
    }
    Ok(out)
}

/// Returns what the lab's registry holds.
///
/// # Errors
/// [`Code::ImageRegistry`].
pub async fn in_registry(registry: &Registry, pods: &BTreeMap<String, Vec<String>>) -> Result<Vec<Image>> {
    let mut out = Vec::new();
    for repository in registry.repositories().await? {
        for tag in registry.tags(&repository).await? {
            let Some(manifest) = registry.manifest(&repository, &tag).await? else {
                continue;
            };
            let json = manifest.json();
            let mut labels = BTreeMap::new();
            if let Some(digest) = json["config"]["digest"].as_str().and_then(Digest::parse)
                && let Some(bytes) = registry.small_blob(&repository, digest).await?
            {
                let config: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                labels = ours(
                    config["config"]["Labels"]
                        .as_object()
                        .into_iter()
                        .flatten()
                        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))),
                );
            }
            let blobs: BTreeMap<String, u64> = std::iter::once(&json["config"])
                .chain(json["layers"].as_array().into_iter().flatten())
                .filter_map(|part| Some((part["digest"].as_str()?.to_owned(), part["size"].as_u64()?)))
                .collect();
            let name = format!("{}/{repository}:{tag}", registry.host());
            let by_digest = format!("{}/{repository}@{}", registry.host(), manifest.digest);
            let used_by = [&name, &by_digest]
                .into_iter()
                .filter_map(|name| pods.get(name))
                .flatten()
                .cloned()
                .collect();
            out.push(Image {
                name,
                digest: manifest.digest.oci(),
                size: blobs.values().sum(),
                held_by: "registry",
                used_by,
                labels,
                blobs,
                manifest: Some((repository.clone(), manifest.digest)),
            });
        }
    }
    Ok(out)
}

/// Returns what the engine holds of labctl's.
///
/// # Errors
/// [`Code::EngineFailed`].
pub async fn in_engine(docker: &Docker) -> Result<Vec<Image>> {
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for container in docker.containers(HashMap::new()).await? {
        let name = container.names.unwrap_or_default().join(",").replace('/', "");
        users
            .entry(container.image_id.unwrap_or_default())
            .or_default()
            .push(name);
    }
    let images = docker
        .images(HashMap::from([("label".to_owned(), vec![LABEL.to_owned()])]))
        .await?;
    Ok(images
        .into_iter()
        .map(|image| Image {
            name: image
                .repo_tags
                .first()
                .filter(|name| *name != UNNAMED)
                .cloned()
                .unwrap_or_else(|| image.id.clone()),
            used_by: users.get(&image.id).cloned().unwrap_or_default(),
            digest: image.id,
            size: u64::try_from(image.size).unwrap_or_default(),
            held_by: "engine",
            labels: ours(image.labels),
            blobs: BTreeMap::new(),
            manifest: None,
        })
        .collect())
}

fn ours(labels: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    labels
        .into_iter()
        .filter(|(name, _)| name.starts_with("labctl.dev/"))
        .collect()
}

/// Returns which of the registry's images nobody uses, and how many bytes their removal gives back: a blob that an image
/// shares with one that stays gives nothing.
pub fn unused(images: &[Image], keep: impl Fn(&str) -> bool) -> (Vec<Image>, u64) {
    // A manifest goes with all its tags, so one that has a used tag stays.
    let stays = |image: &Image| !image.used_by.is_empty() || keep(&image.name);
    let staying: BTreeSet<_> = images
        .iter()
        .filter(|image| stays(image))
        .map(|image| &image.digest)
        .collect();
    let (kept, gone): (Vec<_>, Vec<_>) = images.iter().partition(|image| staying.contains(&image.digest));
    let needed: BTreeSet<_> = kept.iter().flat_map(|image| image.blobs.keys()).collect();
    let freed: BTreeMap<_, _> = gone
        .iter()
        .flat_map(|image| &image.blobs)
        .filter(|(digest, _)| !needed.contains(digest))
        .collect();
    (gone.into_iter().cloned().collect(), freed.into_values().sum())
}

/// Removes from the lab's registry what no pod uses and `keep` refuses, and collects its garbage.
///
/// # Errors
/// [`Code::ImageRegistry`], [`Code::EngineFailed`].
pub async fn prune_registry(
    docker: &Docker,
    registry: &Registry,
    container: &str,
    pods: &BTreeMap<String, Vec<String>>,
    keep: impl Fn(&str) -> bool,
) -> Result<Pruned> {
    let images = in_registry(registry, pods).await?;
    let (gone, bytes) = unused(&images, keep);
    let mut removed = BTreeSet::new();
    for image in &gone {
        if let Some((repository, digest)) = &image.manifest
            && removed.insert((repository.clone(), *digest))
        {
            registry.delete_manifest(repository, *digest).await?;
        }
    }
    let images = gone.into_iter().map(|image| image.name).collect();
    if removed.is_empty() {
        return Ok(Pruned { images, bytes: 0 });
    }
    collect_garbage(docker, container).await?;
    Ok(Pruned { images, bytes })
}

/// Lets the registry remove blobs that no manifest names, and starts it again: it remembers blobs that it has seen, and
/// would go on saying that it has them.
async fn collect_garbage(docker: &Docker, container: &str) -> Result<()> {
    let found = docker
        .container(container)
        .await?
        .with_context(|| format!("there is no container `{container}`"))?;
    let program = found.path.filter(|path| path.ends_with("/registry"));
    let config = found.args.unwrap_or_default().pop().unwrap_or_default();
    let argv = [
        program.as_deref().unwrap_or("registry"),
        "garbage-collect",
        "--delete-untagged",
        &config,
    ];
    let (code, said) = docker.exec(container, &argv).await?;
    if code != 0 {
        let last = said.lines().last().unwrap_or_default().to_owned();
        return Err(anyhow::anyhow!(last).context(
            Diagnosis::new(
                Code::ImageRegistry,
                format!("the registry's garbage collection exited with {code}"),
            )
            .hint(format!("docker exec {container} {} shows all of it", argv.join(" "))),
        ));
    }
    docker
        .api()
        .restart_container(container, None::<query::RestartContainerOptions>)
        .await
        .diagnose(|| failed(format!("start the container `{container}` again")))
}

/// Removes the engine's images of labctl that no container uses and no other image is built on.
///
/// # Errors
/// [`Code::EngineFailed`].
pub async fn prune_engine(docker: &Docker, keep: impl Fn(&str) -> bool) -> Result<Pruned> {
    let mut out = Pruned::default();
    for image in in_engine(docker).await? {
        if !image.used_by.is_empty() || keep(&image.name) {
            continue;
        }
        let reference = if image.name.is_empty() {
            &image.digest
        } else {
            &image.name
        };
        match docker
            .api()
            .remove_image(reference, None::<query::RemoveImageOptions>, None)
            .await
        {
            Ok(_) => {
                out.images.push(image.name);
                out.bytes += image.size;
            }
            // 404: gone meanwhile; 409: another image is built on it, or a container was made of it meanwhile.
            Err(bollard::errors::Error::DockerResponseServerError {
                status_code: 404 | 409, ..
            }) => {}
            Err(error) => return Err(error).diagnose(|| failed(format!("remove the image `{}`", image.name))),
        }
    }
    Ok(out)
}

/// Removes from the cache the images that are not in the registry any more.
///
/// # Errors
/// The cache cannot be written.
pub fn prune_cache(store: &Store, held: &[Image]) -> Result<Pruned> {
    let names: BTreeSet<_> = held.iter().map(|image| image.name.as_str()).collect();
    let (images, bytes) = store.prune(|name| names.contains(name))?;
    Ok(Pruned { images, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, digest: &str, blobs: &[(&str, u64)], used: bool) -> Image {
        Image {
            name: name.into(),
            digest: digest.into(),
            size: blobs.iter().map(|(_, size)| size).sum(),
            held_by: "registry",
            used_by: if used { vec!["default/pod".into()] } else { vec![] },
            labels: BTreeMap::new(),
            blobs: blobs.iter().map(|&(digest, size)| (digest.to_owned(), size)).collect(),
            manifest: None,
        }
    }

    #[test]
    fn what_is_used_or_shared_stays() {
        let images = [
            image("used:1", "m1", &[("base", 100), ("one", 10)], true),
            // The same manifest under another name: removing it would take `used:1` too.
            image("alias:1", "m1", &[("base", 100), ("one", 10)], false),
            image("old:1", "m2", &[("base", 100), ("two", 20)], false),
            image("old:2", "m3", &[("two", 20), ("three", 3)], false),
            image("kept:1", "m4", &[("four", 4)], false),
        ];
        let (gone, bytes) = unused(&images, |name| name.starts_with("kept"));
        let names: Vec<_> = gone.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(names, ["old:1", "old:2"]);
        assert_eq!(bytes, 23, "`base` is shared, and `two` counts once");
    }
}
