//! Getting images into the lab's registry by content: only what it lacks is sent.
//!
//! Images that labctl makes go straight to the registry ([`push`]): a HEAD for each blob, a PUT for what is missing.
//!
//! Images that the engine holds take one of three [`Way`]s. Measured on a 348 MB image (three layers: 160 MB of Debian,
//! 193 MB of one Go binary, a text file) on an idle 2-core machine with Docker 20.10, the lab's registry and a node:
//!
//! | | first fill | after a one-line change |
//! |---|---|---|
//! | `kind load docker-image` | 7.7 s | 6.5 s |
//! | `docker push` | 13 to 20 s: it compresses every layer | 0.08 s |
//! | save, upload as it is | 2.2 s + 1.3 s | 3.5 s: it cannot save one layer alone |
//! | the node's pull of it | 2.0 s (not compressed) | 0.08 s |
//!
//! `cargo bench --bench load` on the same machine, idle (377 MB, medians of 5 reloads): first fill into the node 7.1 s
//! against 9.8 s of `kind load` (0.73x); reload 0.11 s against 7.6 s (69x), with the node's pull 0.20 s (37x).
//!
//! An engine's push skips a layer only if it knows under which digest this repository has it, and it learns that only
//! by pushing or pulling that layer itself. So [`Way::Save`] uploads the layers as they are and then lets the engine
//! *learn* their digests: it pulls a twin of the image (same layers, another configuration: an engine does not read an
//! image that it has) and forgets the twin. That takes 4.3 s, during which pods already use the image; it can be left
//! to a process in the background. After it, [`Way::Push`] sends the changed layer alone.
//! [`choose`] compares what the two ways will cost; what the engine learned is noted in the cache, and is believed only
//! for blobs that the registry still has.
//!
//! Engines with containerd's store (Docker 29) keep layers compressed, so for them a push is always best.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::archive::{CONFIG, Image, LAYER, MANIFEST};
use super::store::Store;
use crate::config;
use crate::drive::docker::Docker;
use crate::drive::docker::hold::in_containerd_store;
use crate::drive::files::{self, Digest};
use crate::drive::registry::{OnBytes, Registry};
use crate::error::{Code, Diagnosis};

/// How fast engines compress on one core, in bytes a second.
const COMPRESS_RATE: u64 = 20 << 20;
/// How fast an image is saved and uploaded, in bytes a second.
const SAVE_RATE: u64 = 95 << 20;

/// What a load came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The name by which pods use the image.
    pub name: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// How it went.
    pub way: Way,
    /// How many bytes were sent, where labctl sent them itself.
    pub sent: u64,
    /// Whether the engine has yet to learn the layers' digests ([`learn`]).
    pub to_learn: bool,
}

/// How an image goes to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The registry has this image already.
    Nothing,
    /// labctl sends what is missing.
    Direct,
    /// The engine pushes it.
    Push,
    /// The engine saves it, labctl uploads the layers as they are.
    Save,
}

/// A layer of an image that an engine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// How many bytes it has.
    pub size: u64,
    /// Whether the engine knows the digest of a blob that the registry has for it.
    pub known: bool,
}

/// Chooses between a push and a save: by time, estimated from measured rates.
pub fn choose(containerd_store: bool, layers: &[Held]) -> Way {
    let total: u64 = layers.iter().map(|layer| layer.size).sum();
    let unknown: u64 = layers.iter().filter(|layer| !layer.known).map(|layer| layer.size).sum();
    // What a save costs even for a small image: the twin must be pulled too.
    let save = total * 1000 / SAVE_RATE + 500;
    if containerd_store || unknown * 1000 / COMPRESS_RATE <= save {
        Way::Push
    } else {
        Way::Save
    }
}

/// Returns repository and tag that an image has in the lab's registry: `my-app:1` for `my-app:1`, and for names of
/// other registries the whole name, so that none hides another.
///
/// # Errors
/// The name is not one of an image.
pub fn target(name: &str, registry: &str) -> Result<(String, String), Diagnosis> {
    let wrong = || {
        Diagnosis::new(Code::Arguments, format!("`{name}` is not the name of an image"))
            .hint("use a name and a tag, such as `labctl image load my-app:1`")
    };
    let bare = name.split('@').next().unwrap_or(name);
    let bare = bare.strip_prefix(&format!("{registry}/")).unwrap_or(bare);
    let bare = bare
        .strip_prefix("docker.io/library/")
        .or_else(|| bare.strip_prefix("docker.io/"))
        .unwrap_or(bare);
    let (repository, tag) = match bare.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (bare, "latest"),
    };
    let repository = repository.replace(':', "-");
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && part.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
    };
    let tag_is_sound = !tag.is_empty()
        && tag.len() <= 128
        && !tag.starts_with(['.', '-'])
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if repository.split('/').all(part) && tag_is_sound {
        Ok((repository, tag.to_owned()))
    } else {
        Err(wrong())
    }
}

/// Sends an image that labctl made: a HEAD for each blob, and only what the registry lacks.
///
/// # Errors
/// [`Code::ImageRegistry`]; a layer cannot be read or is corrupt.
pub async fn push(registry: &Registry, image: &Image, on_bytes: Option<OnBytes>) -> Result<Loaded> {
    let (repository, tag) = target(&image.name, registry.host())?;
    let digest = image.digest();
    let loaded = |way, sent| Loaded {
        name: format!("{}/{repository}:{tag}", registry.host()),
        digest,
        way,
        sent,
        to_learn: false,
    };
    if registry.manifest_digest(&repository, &tag).await? == Some(digest) {
        return Ok(loaded(Way::Nothing, 0));
    }
    let mut sent = 0;
    for layer in &image.layers {
        if registry.blob_size(&repository, layer.digest).await?.is_none() {
            sent += registry
                .put_blob(&repository, layer.digest, &layer.path, on_bytes.clone())
                .await?;
        }
    }
    registry.put_small_blob(&repository, &image.config_json()).await?;
    registry
        .put_manifest(&repository, &tag, MANIFEST, &image.manifest_json())
        .await?;
    Ok(loaded(Way::Direct, sent))
}

/// Which digests an engine knows for which layers of a repository: diff id to digest.
///
/// A note, not a truth: an engine whose data was lost only pushes more slowly than foreseen.
struct Learned {
    path: PathBuf,
    digests: BTreeMap<String, String>,
}

impl Learned {
    fn of(store: &Store, docker: &Docker, registry: &Registry, repository: &str) -> Self {
        let name = Digest::of(format!("{} {} {repository}", docker.host(), registry.host()).as_bytes());
        let path = store.root().join("learned").join(name.hex());
        let digests = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self { path, digests }
    }

    fn add(&mut self, pairs: impl IntoIterator<Item = (String, String)>) -> Result<()> {
        self.digests.extend(pairs);
        files::write(&self.path, json!(self.digests).to_string())
    }
}

/// Loads an image that the engine holds.
///
/// # Errors
/// The engine has no such image, [`Code::ImageRegistry`], [`Code::EngineFailed`].
pub async fn from_engine(
    docker: &Docker,
    registry: &Registry,
    store: &Store,
    name: &str,
    doing: &(dyn Fn(&str) + Send + Sync),
) -> Result<Loaded> {
    let (repository, tag) = target(name, registry.host())?;
    let (image, there, sizes) = tokio::join!(
        docker.image(name),
        registry.manifest(&repository, &tag),
        docker.layer_sizes(name)
    );
    let image = image?.ok_or_else(|| {
        Diagnosis::new(Code::Arguments, format!("the engine has no image `{name}`"))
            .hint(format!(
                "docker build -t {name} . makes one; docker images lists those that are there"
            ))
            .error()
    })?;
    let containerd_store = in_containerd_store(&image);
    let id = image.id.unwrap_or_default();
    let full = format!("{}/{repository}:{tag}", registry.host());
    if let Some(there) = &there?
        && (there.json()["config"]["digest"] == id || there.digest.oci() == id)
    {
        return Ok(Loaded {
            name: full,
            digest: there.digest,
            way: Way::Nothing,
            sent: 0,
            to_learn: false,
        });
    }
    let diff_ids = image.root_fs.and_then(|root| root.layers).unwrap_or_default();
    let mut learned = Learned::of(store, docker, registry, &repository);
    let sizes = sizes?;
    let total = image.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
    let known = futures_util::future::try_join_all(diff_ids.iter().map(|diff_id| async {
        match learned.digests.get(diff_id).and_then(|text| Digest::parse(text)) {
            Some(digest) => Ok::<_, anyhow::Error>(registry.blob_size(&repository, digest).await?.is_some()),
            None => Ok(false),
        }
    }))
    .await?;
    let mut layers = Vec::new();
    for (i, known) in known.into_iter().enumerate() {
        // Where history and layers cannot be matched (a layer without content), an unknown one is taken for all.
        let size = if sizes.len() == diff_ids.len() { sizes[i] } else { total };
        layers.push(Held { size, known });
    }
    let way = choose(containerd_store, &layers);
    if way == Way::Push {
        doing("pushing");
        let here = format!("{}/{repository}", registry.host());
        docker.tag(name, &here, &tag).await?;
        let pushed = docker.push(&here, &tag, |line| doing(line)).await;
        let untag = async {
            if name == full {
                Ok(())
            } else {
                docker.untag(&full).await
            }
        };
        let (untagged, manifest) = tokio::join!(untag, registry.manifest(&repository, &tag));
        pushed?;
        untagged?;
        let manifest = manifest?.ok_or_else(|| {
            Diagnosis::new(
                Code::ImageRegistry,
                format!("the engine says that it pushed `{full}`, and the registry does not have it"),
            )
            .hint("docker info shows proxies and mirrors of the engine that can be in the way")
            .error()
        })?;
        let layers = manifest.json()["layers"].as_array().cloned().unwrap_or_default();
        if layers.len() == diff_ids.len() {
            let digests = layers.iter().filter_map(|layer| layer["digest"].as_str());
            learned.add(diff_ids.into_iter().zip(digests.map(str::to_owned)))?;
        }
        return Ok(Loaded {
            name: full,
            digest: manifest.digest,
            way,
            sent: 0,
            to_learn: false,
        });
    }
    doing("saving");
    let folder = store.root().join("saved");
    files::make_dir(&folder)?;
    let saved = tempfile::Builder::new()
        .prefix(".labctl-")
        .tempfile_in(&folder)
        .map_err(|error| files::explain(error, "write into", &folder))?
        .into_temp_path();
    docker.save(name, &saved, |_| {}).await?;
    doing("uploading");
    let found = Contents::read(&saved)?;
    let (digest, sent) = found.upload(&saved, registry, &repository, &tag, Some(&id)).await?;
    Ok(Loaded {
        name: full,
        digest,
        way,
        sent,
        to_learn: true,
    })
}

/// Lets the engine learn under which digests the registry has the layers of an image that [`from_engine`] saved, so
/// that the next load is a push of what changed. See the module.
///
/// # Errors
/// The engine or the registry fails; the next load is slower then, and as good.
pub async fn learn(docker: &Docker, registry: &Registry, store: &Store, name: &str) -> Result<()> {
    let (repository, tag) = target(name, registry.host())?;
    let Some(manifest) = registry.manifest(&repository, &tag).await? else {
        return Ok(());
    };
    let mut twin = manifest.json();
    let Some(digest) = twin["config"]["digest"].as_str().and_then(Digest::parse) else {
        return Ok(());
    };
    let Some(bytes) = registry.small_blob(&repository, digest).await? else {
        return Ok(());
    };
    let mut config: Value = serde_json::from_slice(&bytes).context("read the image's configuration")?;
    // Labelled as ours, so that teardown and prune find a twin that was left behind.
    if !config["config"].is_object() {
        config["config"] = json!({});
    }
    config["config"]["Labels"] = json!({config::LABEL: config::SHARED, "labctl.dev/twin": digest.oci()});
    let config_bytes = config.to_string();
    let config_digest = registry.put_small_blob(&repository, config_bytes.as_bytes()).await?;
    twin["config"]["digest"] = json!(config_digest.oci());
    twin["config"]["size"] = json!(config_bytes.len());
    let twin_bytes = twin.to_string();
    let twin_digest = Digest::of(twin_bytes.as_bytes());
    registry
        .put_manifest(
            &repository,
            &twin_digest.oci(),
            &manifest.media_type,
            twin_bytes.as_bytes(),
        )
        .await?;
    let reference = format!("{}/{repository}@{twin_digest}", registry.host());
    let pulled = docker.pull(&reference, |_| {}).await;
    _ = docker.untag(&reference).await;
    // A registry that does not delete keeps a few hundred bytes more.
    _ = registry.delete_manifest(&repository, twin_digest).await;
    pulled?;
    let diff_ids = config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
    let layers = twin["layers"].as_array().cloned().unwrap_or_default();
    let pairs = diff_ids
        .iter()
        .zip(&layers)
        .filter_map(|(diff_id, layer)| Some((diff_id.as_str()?.to_owned(), layer["digest"].as_str()?.to_owned())));
    Learned::of(store, docker, registry, &repository).add(pairs)
}

/// Loads the images of an archive file: `docker save` of any version, or an OCI layout, compressed or not.
///
/// # Errors
/// The file is not such an archive, or [`Code::ImageRegistry`].
pub async fn from_archive(registry: &Registry, path: &Path) -> Result<Vec<Loaded>> {
    let unusable = || {
        Diagnosis::new(
            Code::Arguments,
            format!("`{}` is not an archive of images", path.display()),
        )
        .hint("docker save -o FILE NAME makes one")
    };
    let mut magic = [0; 2];
    let read = std::fs::File::open(path)
        .and_then(|mut file| file.read(&mut magic))
        .with_context(|| format!("open `{}`", path.display()))
        .map_err(|error| error.context(unusable()))?;
    let unpacked;
    let path = if read == 2 && magic == [0x1f, 0x8b] {
        unpacked = gunzip(path).await?;
        &unpacked
    } else {
        path
    };
    let contents = Contents::read(path).map_err(|error| error.context(unusable()))?;
    let mut out = Vec::new();
    for (config, names, _) in &contents.images {
        for name in names {
            let (repository, tag) = target(name, registry.host())?;
            let (digest, sent) = contents
                .upload(path, registry, &repository, &tag, Some(&format!("sha256:{config}")))
                .await?;
            out.push(Loaded {
                name: format!("{}/{repository}:{tag}", registry.host()),
                digest,
                way: Way::Direct,
                sent,
                to_learn: false,
            });
        }
    }
    if out.is_empty() {
        return Err(anyhow::anyhow!("it names no image").context(unusable()));
    }
    Ok(out)
}

async fn gunzip(path: &Path) -> Result<tempfile::TempPath> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let file = std::fs::File::open(&path).with_context(|| format!("open `{}`", path.display()))?;
        let mut out = tempfile::NamedTempFile::new().context("make a temporary file")?;
        std::io::copy(&mut flate2::read::MultiGzDecoder::new(file), &mut out)
            .with_context(|| format!("unpack `{}`", path.display()))?;
        Ok(out.into_temp_path())
    })
    .await
    .context("unpack")?
}

/// Where the files of an archive are in it, and the images it names.
struct Contents {
    /// Offset and size, by path; a link has those of its target.
    files: BTreeMap<String, (u64, u64)>,
    /// The hexadecimal digest of the configuration, the names, and the layers' paths.
    images: Vec<(String, Vec<String>, Vec<String>)>,
    /// The configurations, by their digest.
    configs: BTreeMap<String, Vec<u8>>,
}

impl Contents {
    fn read(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("open `{}`", path.display()))?;
        let mut files = BTreeMap::new();
        let mut links = Vec::new();
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek().context("read the archive")? {
            let entry = entry.context("read the archive")?;
            let name = entry.path().context("read the archive")?.to_string_lossy().into_owned();
            let name = name.trim_start_matches("./").to_owned();
            if entry.header().entry_type().is_file() {
                files.insert(name, (entry.raw_file_position(), entry.size()));
            } else if let Some(target) = entry.link_name().context("read the archive")? {
                // Docker before 25 stores a layer that two images share once: `../<id>/layer.tar`.
                let folder = Path::new(&name).parent().unwrap_or(Path::new(""));
                links.push((
                    name.clone(),
                    super::layer::normal(&folder.join(target).to_string_lossy()),
                ));
            }
        }
        for (name, target) in links {
            if let Some(&place) = files.get(&target) {
                files.insert(name, place);
            }
        }
        let bytes = |name: &str| -> Result<Vec<u8>> {
            use std::os::unix::fs::FileExt;
            let &(offset, size) = files.get(name).with_context(|| format!("it has no `{name}`"))?;
            anyhow::ensure!(size <= 4 << 20, "its `{name}` has {size} bytes");
            let mut bytes = vec![0; usize::try_from(size)?];
            file.read_exact_at(&mut bytes, offset)
                .with_context(|| format!("read its `{name}`"))?;
            Ok(bytes)
        };
        let parse = |name: &str| -> Result<Value> {
            serde_json::from_slice(&bytes(name)?).with_context(|| format!("read its `{name}`"))
        };
        let strings = |value: &Value| -> Vec<String> {
            value
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|text| text.as_str().map(str::to_owned))
                .collect()
        };
        let mut found = Vec::new();
        let mut configs = BTreeMap::new();
        if files.contains_key("manifest.json") {
            for image in parse("manifest.json")?.as_array().into_iter().flatten() {
                let config = bytes(image["Config"].as_str().unwrap_or_default())?;
                found.push((config, strings(&image["RepoTags"]), strings(&image["Layers"])));
            }
        } else {
            let blob = |value: &Value| {
                let digest = value["digest"].as_str().unwrap_or_default();
                format!("blobs/{}", digest.replacen(':', "/", 1))
            };
            for entry in parse("index.json")?["manifests"].as_array().into_iter().flatten() {
                let manifest = parse(&blob(entry))?;
                let name = [super::archive::NAME, super::archive::REF_NAME]
                    .iter()
                    .find_map(|key| entry["annotations"][*key].as_str());
                let layers = manifest["layers"].as_array().into_iter().flatten().map(blob).collect();
                let names = name.into_iter().map(str::to_owned).collect();
                found.push((bytes(&blob(&manifest["config"]))?, names, layers));
            }
        }
        let images = found
            .into_iter()
            .map(|(config, names, layers)| {
                let digest = Digest::of(&config).hex();
                configs.insert(digest.clone(), config);
                (digest, names, layers)
            })
            .collect();
        Ok(Self { files, images, configs })
    }

    /// Uploads the image whose configuration has the digest `id`, or the first one.
    async fn upload(
        &self,
        path: &Path,
        registry: &Registry,
        repository: &str,
        tag: &str,
        id: Option<&str>,
    ) -> Result<(Digest, u64)> {
        let wanted = id.and_then(Digest::parse).map(|digest| digest.hex());
        let (config, _, layers) = self
            .images
            .iter()
            .find(|(digest, _, _)| Some(digest) == wanted.as_ref())
            .or_else(|| self.images.first())
            .context("the archive names no image")?;
        let bytes = &self.configs[config];
        let parsed: Value = serde_json::from_slice(bytes).context("read the image's configuration")?;
        let diff_ids: Vec<_> = parsed["rootfs"]["diff_ids"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|id| id.as_str().and_then(Digest::parse))
            .collect();
        anyhow::ensure!(
            diff_ids.len() == layers.len(),
            "the archive names {} layers and its configuration {}",
            layers.len(),
            diff_ids.len()
        );
        let mut descriptors = Vec::new();
        let mut sent = 0;
        for (layer, &diff_id) in layers.iter().zip(&diff_ids) {
            let &(offset, size) = self
                .files
                .get(layer)
                .with_context(|| format!("the archive has no `{layer}`"))?;
            let (media_type, packed) = media_type(path, offset)?;
            // What is not compressed has its diff id as its digest; of the rest the name in an OCI layout tells it.
            let digest = if packed {
                layer.rsplit('/').next().and_then(Digest::parse)
            } else {
                Some(diff_id)
            };
            let there = match digest {
                Some(digest) => registry.blob_size(repository, digest).await? == Some(size),
                None => false,
            };
            let digest = match digest {
                Some(digest) if there => digest,
                Some(digest) => {
                    sent += size;
                    registry
                        .upload(repository, digest, size, part(path, offset, size).await?, None)
                        .await?;
                    digest
                }
                None => {
                    sent += size;
                    registry
                        .upload_unknown(repository, size, part(path, offset, size).await?, None)
                        .await?
                }
            };
            descriptors.push(json!({"mediaType": media_type, "digest": digest.oci(), "size": size}));
        }
        let config_digest = registry.put_small_blob(repository, bytes).await?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config_digest.oci(), "size": bytes.len()},
            "layers": descriptors,
        })
        .to_string();
        let digest = registry
            .put_manifest(repository, tag, MANIFEST, manifest.as_bytes())
            .await?;
        Ok((digest, sent))
    }
}

/// Returns the media type of a layer by how it begins, and whether it is compressed.
fn media_type(path: &Path, offset: u64) -> Result<(&'static str, bool)> {
    use std::os::unix::fs::FileExt;
    let mut magic = [0; 4];
    let file = std::fs::File::open(path).with_context(|| format!("open `{}`", path.display()))?;
    let read = file.read_at(&mut magic, offset).context("read a layer")?;
    Ok(match &magic[..read] {
        [0x1f, 0x8b, ..] => ("application/vnd.oci.image.layer.v1.tar+gzip", true),
        [0x28, 0xb5, 0x2f, 0xfd] => ("application/vnd.oci.image.layer.v1.tar+zstd", true),
        _ => (LAYER, false),
    })
}

async fn part(
    path: &Path,
    offset: u64,
    size: u64,
) -> Result<impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static> {
    let mut file = tokio::fs::File::open(path)
        .await
        .with_context(|| format!("open `{}`", path.display()))?;
    file.seek(std::io::SeekFrom::Start(offset))
        .await
        .context("read a layer")?;
    Ok(tokio_util::io::ReaderStream::with_capacity(file.take(size), 1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::registry::tests::{Fault, stub};
    use crate::lab::image::archive::Archive;
    use crate::lab::image::layer::Tree;

    fn image(store: &Store, name: &str, change: &str) -> Image {
        let layer = |path: &str, contents: Vec<u8>| {
            let mut tree = Tree::new();
            tree.bytes(path, 0o644, contents);
            store.layer(&tree).expect("a layer")
        };
        Image::new(
            name,
            vec![
                layer("base", vec![1; 100_000]),
                layer("change", change.as_bytes().to_vec()),
            ],
        )
    }

    #[tokio::test]
    async fn only_what_the_registry_lacks_is_sent() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Store::at(dir.path());
        let (registry, held) = stub(Fault::None).await;
        let puts = || held.lock().expect("not poisoned").puts;
        let name = format!("{}/labctl/x:1", registry.host());
        let first = push(&registry, &image(&store, &name, "one"), None)
            .await
            .expect("pushed");
        assert_eq!((first.way, puts()), (Way::Direct, 3));
        assert!(first.sent > 100_000);
        let again = push(&registry, &image(&store, &name, "one"), None)
            .await
            .expect("pushed");
        assert_eq!((again.way, puts()), (Way::Nothing, 3));
        let changed = push(&registry, &image(&store, &name, "two"), None)
            .await
            .expect("pushed");
        assert_eq!(puts(), 5, "one layer and the configuration");
        assert!(changed.sent < 10_000, "{}", changed.sent);
    }

    #[tokio::test]
    async fn a_corrupt_layer_never_gets_into_the_registry() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Store::at(dir.path());
        let (registry, held) = stub(Fault::None).await;
        let image = image(&store, "x:1", "one");
        files::write(
            &image.layers[0].path,
            vec![0; usize::try_from(image.layers[0].size).expect("small")],
        )
        .expect("written");
        push(&registry, &image, None).await.expect_err("corrupt");
        assert!(held.lock().expect("not poisoned").manifests.is_empty());
    }

    #[tokio::test]
    async fn archives_are_loaded_as_they_are() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Store::at(dir.path());
        let image = image(&store, "my-app:1", "one");
        let archive = dir.path().join("x.tar");
        Archive::of(std::slice::from_ref(&image)).save(&archive).expect("saved");
        let (registry, _) = stub(Fault::None).await;
        let loaded = from_archive(&registry, &archive).await.expect("loaded");
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].name, format!("{}/my-app:1", registry.host()));
        assert_eq!(loaded[0].digest, image.digest(), "the same image, so the same manifest");
        let again = from_archive(&registry, &archive).await.expect("loaded");
        assert_eq!(again[0].sent, 0);
        // Compressed as a whole, as people send archives.
        let packed = dir.path().join("x.tar.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &std::fs::read(&archive).expect("there")).expect("packed");
        files::write(&packed, encoder.finish().expect("packed")).expect("written");
        let (registry, _) = stub(Fault::None).await;
        assert_eq!(
            from_archive(&registry, &packed).await.expect("loaded")[0].digest,
            image.digest()
        );
    }

    #[tokio::test]
    async fn what_is_no_archive_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (registry, _) = stub(Fault::None).await;
        let path = dir.path().join("x");
        for contents in ["", "text", &"z".repeat(5000)] {
            files::write(&path, contents).expect("written");
            let error = from_archive(&registry, &path).await.expect_err("no archive");
            let found = crate::error::diagnosis(&error).map(|found| found.code);
            assert_eq!(found, Some(Code::Arguments), "{error:#}");
        }
        assert!(from_archive(&registry, &dir.path().join("none")).await.is_err());
    }

    #[test]
    fn names_in_the_registry() {
        let of = |name: &str| {
            target(name, "localhost:5001")
                .map(|(repository, tag)| format!("{repository} {tag}"))
                .ok()
        };
        assert_eq!(of("my-app:1").as_deref(), Some("my-app 1"));
        assert_eq!(of("my-app").as_deref(), Some("my-app latest"));
        assert_eq!(of("docker.io/library/nginx:1").as_deref(), Some("nginx 1"));
        assert_eq!(of("localhost:5001/a/b:2").as_deref(), Some("a/b 2"));
        assert_eq!(of("gcr.io/x/y:3").as_deref(), Some("gcr.io/x/y 3"));
        assert_eq!(of("other:5000/x").as_deref(), Some("other-5000/x latest"));
        for bad in ["", "My-App:1", "a//b", "a:b:c d", "../x", "-x", "x:"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_cheaper_way_is_taken() {
        let mega = |n: u64, known| Held { size: n << 20, known };
        // Nothing known of a large image: a push would compress for a quarter of a minute.
        assert_eq!(choose(false, &[mega(160, false), mega(190, false)]), Way::Save);
        // A line changed on known layers.
        let layers = [mega(160, true), mega(190, true), Held { size: 20, known: false }];
        assert_eq!(choose(false, &layers), Way::Push);
        // A new binary on a known base: compressing 10 MB is quicker than saving 170.
        assert_eq!(choose(false, &[mega(160, true), mega(10, false)]), Way::Push);
        assert_eq!(choose(false, &[mega(160, true), mega(190, false)]), Way::Save);
        // Small images, and engines that hold compressed layers.
        assert_eq!(choose(false, &[mega(5, false)]), Way::Push);
        assert_eq!(choose(true, &[mega(900, false)]), Way::Push);
    }
}
