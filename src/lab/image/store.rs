//! The cache of layers and images: an OCI layout folder (`oci-layout`, `index.json`, `blobs/sha256/`).
//!
//! Blobs are shared by digest and written whole or not at all. A tree that was written before is not written again:
//! `recipes/<inputs>` remembers which blob it gave. A blob is read and compared with its digest before it is used; one
//! that is not what its name says is removed and made again ([`Code::CacheCorrupt`]).

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::archive::Image;
use super::layer::{KnownFiles, Tree};
use crate::config::Settings;
use crate::drive::files::{self, Digest, Tee};
use crate::error::Code;
use crate::report::Reporter;

/// A layer that is in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its uncompressed archive, which is also its diff id.
    pub digest: Digest,
    /// How many bytes the archive has.
    pub size: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// A folder in OCI layout.
#[derive(Clone)]
pub struct Store {
    root: PathBuf,
    reporter: Option<Reporter>,
}

impl Store {
    /// Opens a store, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            reporter: None,
        }
    }

    /// Opens the store in the user's cache; what is rebuilt is noted there.
    pub fn of(settings: &Settings, reporter: &Reporter) -> Self {
        Self {
            root: settings.dirs.cache().join("oci"),
            reporter: Some(reporter.clone()),
        }
    }

    /// Returns the folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the digests of files that were read before.
    pub fn known_files(&self) -> KnownFiles {
        KnownFiles::new(self.root.join("known"))
    }

    /// Returns where the blob of a digest is, whether it is there or not.
    pub fn blob(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Returns the layer of a tree, writing it where the cache has no sound one.
    ///
    /// # Errors
    /// A file of the tree cannot be read or changes meanwhile, or the cache cannot be written.
    pub fn layer(&self, tree: &Tree) -> Result<Layer> {
        let inputs = tree.inputs(&self.known_files())?;
        let recipe = self.root.join("recipes").join(inputs.hex());
        if let Ok(text) = std::fs::read_to_string(&recipe)
            && let Some(digest) = Digest::parse(text.trim())
            && let Some(layer) = self.sound(digest)?
        {
            return Ok(layer);
        }
        let dir = self.root.join("blobs/sha256");
        files::make_dir(&dir)?;
        let fail = |error| files::explain(error, "write into", &dir);
        let temporary = tempfile::Builder::new()
            .prefix(".labctl-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(&dir)
            .map_err(fail)?;
        let mut hashing = Tee::new(BufWriter::with_capacity(1 << 20, temporary));
        let read = tree.write(&mut hashing)?;
        anyhow::ensure!(
            read == inputs,
            "a file of the layer was changed while it was read; run the same command again"
        );
        let (buffered, digest, size) = hashing.finish();
        let temporary = buffered.into_inner().map_err(|error| fail(error.into_error()))?;
        let path = self.blob(digest);
        temporary.persist(&path).map_err(|error| fail(error.error))?;
        files::write(&recipe, digest.oci())?;
        Ok(Layer { digest, size, path })
    }

    /// Writes a small blob (a configuration, a manifest) and returns its digest.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        files::write(&self.blob(digest), bytes)?;
        Ok(digest)
    }

    /// Returns the blob of a digest as a layer if it is there and is what its name says; removes it if it is not.
    ///
    /// # Errors
    /// A corrupt blob cannot be removed.
    pub fn sound(&self, digest: Digest) -> Result<Option<Layer>> {
        let path = self.blob(digest);
        let Ok(found) = Digest::of_file(&path) else {
            return Ok(None);
        };
        if found == digest {
            let size = std::fs::metadata(&path)
                .with_context(|| format!("look at `{}`", path.display()))?
                .len();
            return Ok(Some(Layer { digest, size, path }));
        }
        if let Some(reporter) = &self.reporter {
            reporter.warn(format!(
                "{}: `{}` is not what its name says (its digest is {found}); it is made again",
                Code::CacheCorrupt.id(),
                path.display()
            ));
        }
        std::fs::remove_file(&path).map_err(|error| files::explain(error, "remove the corrupt", &path))?;
        Ok(None)
    }

    /// Adds an image to the layout's `index.json`, so that other tools can read the folder; an older one of the same
    /// name is replaced.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub fn record(&self, image: &Image) -> Result<()> {
        self.put(&image.config_json())?;
        self.put(&image.manifest_json())?;
        files::write(&self.root.join("oci-layout"), super::archive::LAYOUT)?;
        let path = self.root.join("index.json");
        let mut entries: Vec<Value> = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .and_then(|value| value["manifests"].as_array().cloned())
            .unwrap_or_default();
        let name = |entry: &Value| entry["annotations"][super::archive::NAME].as_str().map(str::to_owned);
        entries.retain(|entry| name(entry).as_deref() != Some(&image.name));
        entries.push(image.descriptor());
        let index = json!({"schemaVersion": 2, "mediaType": super::archive::INDEX, "manifests": entries});
        files::write(&path, index.to_string())
    }

    /// Removes every image whose name `keep` refuses, then every blob that no image needs; returns the names and how
    /// many bytes of disk that gave back.
    ///
    /// # Errors
    /// The cache cannot be read or written.
    pub fn prune(&self, keep: impl Fn(&str) -> bool) -> Result<(Vec<String>, u64)> {
        let path = self.root.join("index.json");
        let Ok(bytes) = std::fs::read(&path) else {
            return Ok((Vec::new(), 0));
        };
        let index: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let (mut needed, mut kept, mut gone) = (std::collections::BTreeSet::new(), Vec::new(), Vec::new());
        for entry in index["manifests"].as_array().into_iter().flatten() {
            let name = entry["annotations"][super::archive::NAME].as_str().unwrap_or_default();
            if !keep(name) {
                gone.push(name.to_owned());
                continue;
            }
            kept.push(entry.clone());
            let Some(digest) = entry["digest"].as_str().and_then(Digest::parse) else {
                continue;
            };
            needed.insert(digest);
            let manifest: Value =
                serde_json::from_slice(&std::fs::read(self.blob(digest)).unwrap_or_default()).unwrap_or_default();
            let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
            for part in std::iter::once(&manifest["config"]).chain(&layers) {
                needed.extend(part["digest"].as_str().and_then(Digest::parse));
            }
        }
        let index = json!({"schemaVersion": 2, "mediaType": super::archive::INDEX, "manifests": kept});
        files::write(&path, index.to_string())?;
        let mut freed = 0;
        for blob in files::walk(&self.root.join("blobs"))? {
            let digest = blob.file_name().and_then(|name| name.to_str()).and_then(Digest::parse);
            if digest.is_none_or(|digest| !needed.contains(&digest)) {
                freed += files::disk_usage(&blob);
                std::fs::remove_file(&blob).map_err(|error| files::explain(error, "remove", &blob))?;
            }
        }
        Ok((gone, freed))
    }
}

/// Copies a whole sound blob to a writer; fails at the end if the bytes were not the digest's.
///
/// # Errors
/// The blob cannot be read, is not what its name says, or `out` fails.
pub fn copy_verified(layer: &Layer, out: impl Write) -> Result<()> {
    let mut file = std::fs::File::open(&layer.path).with_context(|| format!("open `{}`", layer.path.display()))?;
    let mut tee = Tee::new(out);
    std::io::copy(&mut file, &mut tee).with_context(|| format!("read `{}`", layer.path.display()))?;
    let (_, digest, _) = tee.finish();
    if digest == layer.digest {
        return Ok(());
    }
    Err(crate::error::Diagnosis::new(
        Code::CacheCorrupt,
        format!("`{}` is not what its name says", layer.path.display()),
    )
    .hint("run the same command again: it is made again")
    .error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Event, Recorded};

    fn tree() -> Tree {
        let mut tree = Tree::new();
        tree.bytes("a", 0o644, vec![1; 10_000]);
        tree
    }

    #[test]
    fn a_layer_is_written_once_and_a_corrupt_one_again() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let recorded = Recorded::default();
        let store = Store {
            root: dir.path().to_owned(),
            reporter: Some(Reporter::new(recorded.clone())),
        };
        let first = store.layer(&tree()).expect("a layer");
        let written = first.path.metadata().expect("there").modified().expect("a time");
        assert_eq!(store.layer(&tree()).expect("a layer"), first);
        assert_eq!(
            first.path.metadata().expect("there").modified().expect("a time"),
            written
        );
        // One flipped byte, same size.
        let mut bytes = std::fs::read(&first.path).expect("there");
        bytes[700] ^= 1;
        files::write(&first.path, &bytes).expect("written");
        assert_eq!(store.layer(&tree()).expect("a layer"), first);
        assert_eq!(Digest::of_file(&first.path).expect("there"), first.digest);
        let noted = recorded.events().into_iter().any(|event| match event {
            Event::Warning { text } => text.contains("LAB-ENV-018"),
            _ => false,
        });
        assert!(noted, "nobody was told");
        // A truncated recipe and a missing blob.
        for recipe in files::walk(&dir.path().join("recipes")).expect("a folder") {
            files::write(&recipe, "sha256:12").expect("written");
        }
        std::fs::remove_file(&first.path).expect("removed");
        assert_eq!(store.layer(&tree()).expect("a layer"), first);
    }

    #[test]
    fn prune_keeps_what_is_shared() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Store::at(dir.path());
        let shared = store.layer(&tree()).expect("a layer");
        let mut other = Tree::new();
        other.bytes("b", 0o644, vec![2; 50_000]);
        let own = store.layer(&other).expect("a layer");
        let keep = Image::new("localhost/keep:1", vec![shared.clone()]);
        let gone = Image::new("localhost/gone:1", vec![shared.clone(), own.clone()]);
        store.record(&keep).expect("recorded");
        store.record(&gone).expect("recorded");
        let (names, freed) = store.prune(|name| name.contains("keep")).expect("pruned");
        assert_eq!(names, ["localhost/gone:1"]);
        assert!(freed >= own.size);
        assert!(shared.path.exists() && !own.path.exists());
        assert!(store.blob(keep.digest()).exists());
    }
}
