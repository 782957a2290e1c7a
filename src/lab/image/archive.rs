//! Images made of layers, and the archive that engines and nodes take.
//!
//! The archive is an OCI layout and a `docker save` archive in one (the form that Docker writes since version 25):
//! Docker 20.10 and newer read `manifest.json`, containerd reads `index.json` with the names in its annotations. A
//! blob that several images share is in it once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};

use super::store::{Layer, copy_verified};
use crate::drive::files::{self, Digest};

/// The media type of an image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an index of manifests.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of an image configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of a layer that is not compressed.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The annotation by which containerd finds an image's full name.
pub const NAME: &str = "io.containerd.image.name";
/// The annotation by which the OCI specification names an image in a layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The content of the file `oci-layout`.
pub const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The time that every image says it was made at.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// How a container of an image is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// What is always run.
    pub entrypoint: Vec<String>,
    /// The arguments where none are given.
    pub cmd: Vec<String>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The user, such as `65532` or `65532:65532`; empty is root.
    pub user: String,
    /// The working directory; empty is `/`.
    pub dir: String,
    /// The ports it listens on, such as `8080/tcp`.
    pub ports: BTreeSet<String>,
    /// The labels.
    pub labels: BTreeMap<String, String>,
}

/// An image: its name, its layers from the bottom up, and how it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The full name, such as `registry.k8s.io/pause:3.10.2` or `localhost:5001/labctl/job-dashboard:0123456789ab`.
    pub name: String,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// How it is run.
    pub config: Config,
}

impl Image {
    /// Makes an image that says nothing about how it is run.
    pub fn new(name: impl Into<String>, layers: Vec<Layer>) -> Self {
        Self {
            name: name.into(),
            layers,
            config: Config::default(),
        }
    }

    /// Returns the image configuration, whose digest is the id that engines show.
    pub fn config_json(&self) -> Vec<u8> {
        let mut run = serde_json::Map::new();
        let config = &self.config;
        if !config.user.is_empty() {
            run.insert("User".into(), json!(config.user));
        }
        if !config.ports.is_empty() {
            let ports: serde_json::Map<_, _> = config.ports.iter().map(|port| (port.clone(), json!({}))).collect();
            run.insert("ExposedPorts".into(), Value::Object(ports));
        }
        let env: Vec<_> = config
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if !env.is_empty() {
            run.insert("Env".into(), json!(env));
        }
        if !config.entrypoint.is_empty() {
            run.insert("Entrypoint".into(), json!(config.entrypoint));
        }
        if !config.cmd.is_empty() {
            run.insert("Cmd".into(), json!(config.cmd));
        }
        if !config.dir.is_empty() {
            run.insert("WorkingDir".into(), json!(config.dir));
        }
        if !config.labels.is_empty() {
            run.insert("Labels".into(), json!(config.labels));
        }
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| layer.digest.oci()).collect();
        let history: Vec<_> = self
            .layers
            .iter()
            .map(|_| json!({"created": CREATED, "created_by": "labctl"}))
            .collect();
        json!({
            "created": CREATED,
            "architecture": architecture(),
            "os": "linux",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        })
        .to_string()
        .into_bytes()
    }

    /// Returns the manifest.
    pub fn manifest_json(&self) -> Vec<u8> {
        let config = self.config_json();
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| json!({"mediaType": LAYER, "digest": layer.digest.oci(), "size": layer.size}))
            .collect();
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": Digest::of(&config).oci(), "size": config.len()},
            "layers": layers,
        })
        .to_string()
        .into_bytes()
    }

    /// Returns the image's id: the digest of its configuration, which Docker shows as `Id`.
    pub fn id(&self) -> Digest {
        Digest::of(&self.config_json())
    }

    /// Returns the digest of the manifest, by which a registry knows the image.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest_json())
    }

    /// Returns how many bytes the layers have.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// Returns the entry of an index for this image.
    pub(super) fn descriptor(&self) -> Value {
        let manifest = self.manifest_json();
        json!({
            "mediaType": MANIFEST,
            "digest": Digest::of(&manifest).oci(),
            "size": manifest.len(),
            "annotations": {NAME: self.name, REF_NAME: self.name},
            "platform": {"architecture": architecture(), "os": "linux"},
        })
    }
}

/// Returns this machine's architecture by the name that images use.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Several images as one archive.
#[derive(Debug, Clone)]
pub struct Archive {
    images: Vec<Image>,
}

impl Archive {
    /// Makes the archive of some images; nothing is read or written yet.
    pub fn of(images: &[Image]) -> Self {
        Self {
            images: images.to_vec(),
        }
    }

    /// Writes the archive. The same images give the same bytes.
    ///
    /// # Errors
    /// A layer is not what its digest says, or `out` fails.
    pub fn write(&self, out: impl Write) -> Result<()> {
        let mut archive = tar::Builder::new(out);
        self.append(&mut archive)?;
        archive
            .into_inner()
            .and_then(|mut out| out.flush())
            .context("end the archive")
    }

    fn append<W: Write>(&self, archive: &mut tar::Builder<W>) -> Result<()> {
        let mut small = |path: &str, contents: &[u8]| -> Result<()> {
            archive
                .append_data(&mut header(contents.len() as u64), path, contents)
                .with_context(|| format!("pack `{path}`"))
        };
        let blob = |digest: Digest| format!("blobs/sha256/{}", digest.hex());
        let entries: Vec<_> = self.images.iter().map(Image::descriptor).collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        let manifests: Vec<_> = self
            .images
            .iter()
            .map(|image| {
                let layers: Vec<_> = image.layers.iter().map(|layer| blob(layer.digest)).collect();
                json!({"Config": blob(image.id()), "RepoTags": [image.name], "Layers": layers})
            })
            .collect();
        small("oci-layout", LAYOUT.as_bytes())?;
        small("index.json", index.to_string().as_bytes())?;
        small("manifest.json", json!(manifests).to_string().as_bytes())?;
        let mut written = BTreeSet::new();
        for image in &self.images {
            for bytes in [image.config_json(), image.manifest_json()] {
                if written.insert(Digest::of(&bytes)) {
                    small(&blob(Digest::of(&bytes)), &bytes)?;
                }
            }
        }
        for layer in self.images.iter().flat_map(|image| &image.layers) {
            if !written.insert(layer.digest) {
                continue;
            }
            let mut header = header(layer.size);
            header
                .set_path(blob(layer.digest))
                .and_then(|()| {
                    header.set_cksum();
                    archive.get_mut().write_all(header.as_bytes())
                })
                .context("pack a layer")?;
            copy_verified(layer, archive.get_mut())?;
            let padding = usize::try_from(layer.size.next_multiple_of(512) - layer.size).unwrap_or_default();
            archive
                .get_mut()
                .write_all(&[0; 512][..padding])
                .context("pack a layer")?;
        }
        Ok(())
    }

    /// Writes the archive to a file, whole or not at all.
    ///
    /// # Errors
    /// As [`Archive::write`]; the file cannot be written.
    pub fn save(&self, path: &std::path::Path) -> Result<()> {
        let parent = path.parent().unwrap_or(std::path::Path::new("."));
        files::make_dir(parent)?;
        let fail = |error| files::explain(error, "write", path);
        let temporary = tempfile::Builder::new()
            .prefix(".labctl-")
            .tempfile_in(parent)
            .map_err(fail)?;
        self.write(io::BufWriter::with_capacity(1 << 20, temporary.as_file()))?;
        temporary.persist(path).map_err(|error| fail(error.error))?;
        Ok(())
    }

    /// Returns the archive as a stream, for [`crate::drive::docker::Docker::load`]; it is written while it is read.
    pub fn stream(&self) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static {
        let images = self.clone();
        crate::drive::archive::stream(move |archive| images.append(archive))
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(super::layer::EPOCH);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::image::layer::Tree;
    use crate::lab::image::store::Store;
    use futures_util::StreamExt;

    fn two() -> (tempfile::TempDir, [Image; 2]) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Store::at(dir.path());
        let mut tree = Tree::new();
        tree.bytes("shared", 0o644, "s".repeat(3000));
        let shared = store.layer(&tree).expect("a layer");
        let mut tree = Tree::new();
        tree.bytes("own", 0o644, "o");
        let own = store.layer(&tree).expect("a layer");
        let mut second = Image::new("localhost/two:1", vec![shared.clone(), own]);
        second.config.entrypoint = vec!["/own".into()];
        (dir, [Image::new("localhost/one:1", vec![shared]), second])
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        tar::Archive::new(bytes)
            .entries()
            .expect("entries")
            .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
            .collect()
    }

    #[tokio::test]
    async fn a_shared_layer_is_in_the_archive_once() {
        let (_dir, images) = two();
        let mut bytes = Vec::new();
        Archive::of(&images).write(&mut bytes).expect("written");
        let names = names(&bytes);
        assert_eq!(names.len(), 3 + 4 + 2, "{names:?}");
        let unique: BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        let mut streamed = Vec::new();
        let mut stream = std::pin::pin!(Archive::of(&images).stream());
        while let Some(part) = stream.next().await {
            streamed.extend_from_slice(&part.expect("a part"));
        }
        assert_eq!(streamed, bytes, "the stream is the archive");
    }

    #[tokio::test]
    async fn a_corrupt_layer_ends_the_stream_with_an_error() {
        let (_dir, images) = two();
        files::write(&images[0].layers[0].path, vec![0; 4608]).expect("written");
        let parts: Vec<_> = Archive::of(&images).stream().collect().await;
        let error = parts.into_iter().find_map(Result::err).expect("an error");
        assert!(error.to_string().contains("not what its name says"), "{error}");
    }

    #[test]
    fn the_configuration_is_what_engines_expect() {
        let (_dir, images) = two();
        let config: Value = serde_json::from_slice(&images[1].config_json()).expect("JSON");
        assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(2));
        assert_eq!(config["config"]["Entrypoint"][0], "/own");
        let manifest: Value = serde_json::from_slice(&images[1].manifest_json()).expect("JSON");
        assert_eq!(manifest["config"]["digest"], images[1].id().oci());
        assert_eq!(
            manifest["layers"][0]["digest"], config["rootfs"]["diff_ids"][0],
            "digest is diff id"
        );
    }
}
