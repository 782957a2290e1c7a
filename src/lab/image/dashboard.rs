//! The dashboard's image: this very executable on an empty base.
//!
//! Two layers below it change rarely (the shared libraries; users, certificates and `/tmp`), so a new labctl costs one
//! layer. The tag is a digest of everything that is in the image, so it is known before anything is built.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::archive::{Config, Image};
use super::closure::Closure;
use super::layer::Tree;
use super::store::Store;
use crate::config;
use crate::drive::files::{self, Hasher};

/// The repository of the image in the lab's registry.
pub const REPOSITORY: &str = "labctl/job-dashboard";
/// The user that it runs as, by number, as `runAsNonRoot` wants it.
pub const USER: u64 = 65532;
/// Where the executable is in the image.
pub const EXECUTABLE: &str = "/usr/local/bin/labctl";

/// Where Linux distributions keep the bundle of certificate authorities.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The name of this machine's CA bundle in a build context.
const CA_BUNDLE: &str = "ca-certificates.crt";

/// What the image will be made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    trees: [Tree; 3],
    config: Config,
    tag: String,
}

impl Recipe {
    /// Reads what an executable needs and works out the tag; writes nothing but notes of digests.
    ///
    /// # Errors
    /// The executable is not for Linux, or a library it needs cannot be found.
    pub fn of(executable: &Path, store: &Store) -> Result<Self> {
        Self::with_bundle(executable, bundle().as_deref(), store)
    }

    fn with_bundle(executable: &Path, bundle: Option<&Path>, store: &Store) -> Result<Self> {
        let executable =
            std::fs::canonicalize(executable).with_context(|| format!("find `{}`", executable.display()))?;
        let closure = Closure::of(Path::new("/"), &[&executable])
            .with_context(|| format!("find what `{}` needs", executable.display()))?;
        let mut base = Tree::new();
        base.dir("/tmp", 0o1777)
            .bytes(
                "/etc/passwd",
                0o644,
                format!("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/:/sbin/nologin\n"),
            )
            .bytes("/etc/group", 0o644, format!("root:x:0:\nnonroot:x:{USER}:\n"))
            // Without it the resolver of glibc asks DNS for `localhost` first.
            .bytes("/etc/nsswitch.conf", 0o644, "hosts: files dns\n");
        if let Some(bundle) = bundle {
            base.file("/etc/ssl/certs/ca-certificates.crt", 0o644, bundle);
        }
        let mut top = Tree::new();
        top.file(EXECUTABLE, 0o755, &executable);
        let config = Config {
            entrypoint: vec![EXECUTABLE.into()],
            cmd: ["serve", "--listen", "0.0.0.0:8080"].map(String::from).into(),
            env: [("SSL_CERT_FILE".into(), "/etc/ssl/certs/ca-certificates.crt".into())].into(),
            user: format!("{USER}:{USER}"),
            ports: ["8080/tcp".into()].into(),
            labels: [
                (config::LABEL.into(), config::SHARED.into()),
                (
                    "org.opencontainers.image.version".into(),
                    env!("CARGO_PKG_VERSION").into(),
                ),
            ]
            .into(),
            ..Config::default()
        };
        let trees = [closure.libraries, base, top];
        let mut hasher = Hasher::default();
        for tree in &trees {
            hasher.field(tree.inputs(&store.known_files())?.hex());
        }
        hasher.field(format!("{config:?}"));
        let tag = hasher.finish().short();
        Ok(Self { trees, config, tag })
    }

    /// Returns the image's tag: a digest of what is in it.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Returns the image's name in a registry, such as `localhost:5001/labctl/job-dashboard:0123456789ab`.
    pub fn name(&self, registry: &str) -> String {
        format!("{registry}/{REPOSITORY}:{}", self.tag)
    }

    /// Writes the layers that the cache lacks and returns the image.
    ///
    /// # Errors
    /// A file changed since [`Recipe::of`], or the cache cannot be written.
    pub fn build(&self, registry: &str, store: &Store) -> Result<Image> {
        let layers = self
            .trees
            .iter()
            .filter(|tree| tree.paths().next().is_some())
            .map(|tree| store.layer(tree))
            .collect::<Result<Vec<_>>>()?;
        let mut image = Image::new(self.name(registry), layers);
        image.config = self.config.clone();
        image
            .config
            .labels
            .insert(config::INPUTS_LABEL.into(), self.tag.clone());
        store.record(&image)?;
        Ok(image)
    }
}

/// Returns the running executable.
///
/// # Errors
/// The operating system does not say, or it was replaced since it started (a new build): the file that is there now is
/// not what runs.
pub fn executable() -> Result<PathBuf> {
    let path = std::env::current_exe().context("find the running executable")?;
    anyhow::ensure!(
        path.exists(),
        "the executable `{}` was replaced while it ran; run the same command again",
        path.display()
    );
    Ok(path)
}

/// Returns whether the image can be made from the running executable: on Linux, where containers can run it.
pub fn from_executable() -> bool {
    cfg!(target_os = "linux")
}

fn bundle() -> Option<PathBuf> {
    BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// Digest of the engine build's inputs, for hosts on which the executable cannot run in a container.
///
/// # Errors
/// The recipe is not part of this binary.
pub fn engine_build_tag(source: &Path, store: &Store) -> Result<String> {
    let mut tree = source_tree(source)?;
    tree.bytes("Dockerfile", 0o644, dockerfile()?);
    Ok(tree.inputs(&store.known_files())?.short())
}

/// Returns the build context of the multi-stage recipe: labctl's own sources and the Dockerfile.
///
/// # Errors
/// The sources cannot be read.
pub fn engine_build_context(source: &Path) -> Result<Vec<u8>> {
    let mut tree = source_tree(source)?;
    tree.bytes("Dockerfile", 0o644, dockerfile()?);
    let mut bytes = Vec::new();
    tree.write(&mut bytes)?;
    Ok(bytes)
}

fn dockerfile() -> Result<&'static str> {
    crate::assets::text("assets/images/job-dashboard/Dockerfile").context("the recipe is not part of this binary")
}

/// Returns the paths of the targets that a manifest names.
fn targets(manifest: &str) -> impl Iterator<Item = &str> {
    manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'))
}

fn source_tree(source: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    for file in ["Cargo.toml", "Cargo.lock", "build.rs"] {
        tree.file(file, 0o644, source.join(file));
    }
    for folder in ["src", "assets", "charts", "labs"] {
        tree.dir(folder, 0o755);
        tree.copy(folder, &source.join(folder))?;
    }
    // Targets that the manifest names must exist, and the image needs none of what is in them.
    let manifest = source.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).map_err(|error| files::explain(error, "read", &manifest))?;
    for target in targets(&text).filter(|target| ["tests/", "benches/"].iter().any(|top| target.starts_with(top))) {
        tree.bytes(target, 0o644, "fn main() {}\n");
    }
    // A company's TLS proxy is trusted by this machine and by no fresh container; the build fetches crates through it.
    match bundle() {
        Some(bundle) => tree.file(CA_BUNDLE, 0o644, bundle),
        None => tree.bytes(CA_BUNDLE, 0o644, ""),
    };
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_gets_this_machine_s_certificate_authorities() {
        let tree = source_tree(Path::new(env!("CARGO_MANIFEST_DIR"))).expect("a tree");
        assert!(tree.has(CA_BUNDLE));
        assert!(dockerfile().expect("embedded").contains("COPY ca-certificates.crt"));
        let manifest = include_str!("../../../Cargo.toml");
        assert!(targets(manifest).any(|target| target == "benches/up.rs"));
        for target in targets(manifest) {
            assert!(tree.has(target), "the manifest names {target}");
        }
    }

    #[test]
    fn the_tag_is_known_before_and_follows_the_content() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Store::at(dir.path().join("store"));
        let exe = dir.path().join("labctl");
        std::fs::copy("/bin/ls", &exe).expect("copied");
        let recipe = Recipe::with_bundle(&exe, None, &store).expect("a recipe");
        assert!(!store.root().join("blobs").exists(), "nothing is built for a tag");
        let image = recipe.build("localhost:5001", &store).expect("an image");
        assert_eq!(
            image.name,
            format!("localhost:5001/labctl/job-dashboard:{}", recipe.tag())
        );
        assert_eq!(image.layers.len(), 3);
        // The same program elsewhere is the same image; another program is another, by one layer.
        let other = dir.path().join("elsewhere");
        std::fs::copy(&exe, &other).expect("copied");
        let same = Recipe::with_bundle(&other, None, &store).expect("a recipe");
        assert_eq!(same.tag(), recipe.tag());
        std::fs::copy("/bin/cat", &exe).expect("copied");
        let changed = Recipe::with_bundle(&exe, None, &store).expect("a recipe");
        assert_ne!(changed.tag(), recipe.tag());
        let new = changed.build("localhost:5001", &store).expect("an image");
        assert_eq!(new.layers[1], image.layers[1]);
        assert_ne!(new.layers[2], image.layers[2]);
    }
}
