//! The programs that labctl builds from Go modules: Kubernetes, containerd, the CNI plugins, KIND, Helm, the registry.
//!
//! They lie in a folder named by the digest of what they were built from, with a manifest of their digests that is
//! written last. So a folder without a manifest is an unfinished build, and a program that was changed is noticed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::versions;
use crate::assets;
use crate::config::Dirs;
use crate::drive::files::{self, Digest};
use crate::drive::go::{Build, Stage};
use crate::error::{Code, Diagnosis};
use crate::world::World;

/// The packages of the module that are built: ours, and every `tool` of its `go.mod`.
const PACKAGES: [&str; 2] = ["./...", "tool"];
const MANIFEST: &str = "manifest.json";

/// Programs of one digest.
#[derive(Debug, Clone)]
pub struct Programs {
    dir: PathBuf,
    go_cache: PathBuf,
    module: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    programs: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    size: u64,
    sha256: String,
}

impl Programs {
    /// Names the programs that this labctl builds.
    pub fn new(dirs: &Dirs) -> Self {
        let go = dirs.cache().join("go");
        let digest = digest();
        Self {
            dir: go.join("out").join(digest.short()),
            module: go.join("src").join(digest.short()),
            go_cache: go,
        }
    }

    /// Returns where a program is, once built.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Says what is wanting, if anything: a look at names and sizes, not at contents.
    pub fn wanting(&self) -> Option<String> {
        let Some(manifest) = self.manifest() else {
            return Some("not built yet".into());
        };
        manifest
            .programs
            .iter()
            .find(|(name, entry)| {
                !std::fs::metadata(self.path(name)).is_ok_and(|meta| meta.is_file() && meta.len() == entry.size)
            })
            .map(|(name, _)| format!("`{name}` is missing or damaged"))
    }

    /// Checks a program's contents against the manifest and returns its path.
    ///
    /// # Errors
    /// [`Code::CacheCorrupt`]: it was changed since it was built. The build is forgotten, so the next run makes it anew.
    pub fn verified(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let manifest = self.manifest();
        let entry = manifest.as_ref().and_then(|manifest| manifest.programs.get(name));
        let now = Digest::of_file(&path).ok().map(|digest| digest.hex());
        if entry.is_some_and(|entry| now.as_deref() == Some(entry.sha256.as_str())) {
            return Ok(path);
        }
        _ = std::fs::remove_file(self.dir.join(MANIFEST));
        Err(Diagnosis::new(
            Code::CacheCorrupt,
            format!("`{}` is not what was built", path.display()),
        )
        .hint("run the same command again: it is built anew from the compiler's cache")
        .error())
    }

    fn manifest(&self) -> Option<Manifest> {
        let text = std::fs::read_to_string(self.dir.join(MANIFEST)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Builds the programs.
    ///
    /// # Errors
    /// No Go toolchain, no modules, no disk; see [`Build::run`].
    pub async fn build(
        &self,
        world: &World,
        log: &Path,
        on_stage: impl Fn(Stage) + Send + Sync + 'static,
    ) -> Result<()> {
        let pinned = versions::pinned();
        let found = crate::drive::go::version(world.exec()).await?;
        if found < pinned.go.minimum {
            return Err(Diagnosis::new(
                Code::ToolMissing,
                format!(
                    "the Go toolchain on PATH is {found}; {} is the oldest that will do",
                    pinned.go.minimum
                ),
            )
            .hint("install a newer one from https://go.dev/dl/, then run the same command again")
            .hint("or use --images pull where an image registry can be reached")
            .error());
        }
        assets::unpack("assets/go", &self.module)?;
        let variables = variables();
        let build = Build {
            module: &self.module,
            out: &self.dir,
            cache: &self.go_cache,
            packages: &PACKAGES,
            variables: &variables,
            log,
        };
        build.run(world.exec(), on_stage).await?;
        // One program is many, by the name it is called by; on this machine only kubectl is of use.
        let kubectl = self.path("kubectl");
        _ = std::fs::remove_file(&kubectl);
        std::os::unix::fs::symlink("kubelab", &kubectl).map_err(|error| files::explain(error, "link", &kubectl))?;
        let dir = self.dir.clone();
        tokio::task::spawn_blocking(move || write_manifest(&dir))
            .await
            .context("digest the programs")?
    }

    /// Returns the folder of a module's source, fetching it where it is not there.
    ///
    /// # Errors
    /// [`Code::PackageRegistry`].
    pub async fn source(&self, world: &World, module: &str, log: &Path) -> Result<PathBuf> {
        assets::unpack("assets/go", &self.module)?;
        let build = Build {
            module: &self.module,
            out: &self.dir,
            cache: &self.go_cache,
            packages: &PACKAGES,
            variables: &[],
            log,
        };
        build.source(world.exec(), module).await
    }
}

/// Returns the digest of everything the programs are made from.
pub fn digest() -> Digest {
    let mut hasher = files::Hasher::default();
    hasher.field("programs-1").field(assets::digest("assets/go").hex());
    for (name, value) in variables() {
        hasher.field(name).field(value);
    }
    hasher.field(std::env::consts::ARCH);
    hasher.finish()
}

/// The versions that the programs print: their own release builds set the same variables.
fn variables() -> Vec<(String, String)> {
    let pinned = versions::pinned();
    let kubernetes = &pinned.kubernetes;
    let mut out = Vec::new();
    let mut set = |name: &str, value: String| out.push((name.to_owned(), value));
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        set(&format!("{package}.gitVersion"), format!("v{kubernetes}"));
        set(&format!("{package}.gitMajor"), kubernetes.major.to_string());
        set(&format!("{package}.gitMinor"), kubernetes.minor.to_string());
        set(&format!("{package}.gitTreeState"), "clean".to_owned());
    }
    set(
        "helm.sh/helm/v3/internal/version.version",
        format!("v{}", pinned.go.helm),
    );
    set(
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor",
        kubernetes.major.to_string(),
    );
    set(
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor",
        kubernetes.minor.to_string(),
    );
    set(
        "github.com/containerd/containerd/v2/version.Version",
        format!("v{}", pinned.go.containerd),
    );
    set(
        "github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion",
        format!("v{}", pinned.go.cni),
    );
    set(
        "github.com/distribution/distribution/v3/version.version",
        format!("v{}", pinned.go.distribution),
    );
    out
}

fn write_manifest(dir: &Path) -> Result<()> {
    let mut programs = BTreeMap::new();
    for path in files::walk(dir)? {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name == MANIFEST {
            continue;
        }
        let size = std::fs::metadata(&path)
            .with_context(|| format!("look at `{}`", path.display()))?
            .len();
        let sha256 = Digest::of_file(&path)
            .with_context(|| format!("read `{}`", path.display()))?
            .hex();
        programs.insert(name, Entry { size, sha256 });
    }
    let text = serde_json::to_string_pretty(&Manifest { programs }).context("write the manifest")?;
    files::write(&dir.join(MANIFEST), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(dir: &Path) -> Programs {
        let programs = Programs::new(&Dirs::new(dir.join("state"), dir.join("cache")));
        files::write(&programs.path("kind"), "kind").expect("written");
        files::write(&programs.path("helm"), "helm").expect("written");
        programs
    }

    #[test]
    fn an_unfinished_build_is_wanting() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let programs = built(dir.path());
        assert_eq!(programs.wanting().as_deref(), Some("not built yet"));
        write_manifest(&programs.dir).expect("written");
        assert_eq!(programs.wanting(), None);
        assert!(programs.verified("kind").is_ok());
    }

    #[test]
    fn a_changed_program_is_never_used_and_is_built_again() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let programs = built(dir.path());
        write_manifest(&programs.dir).expect("written");
        // The same size, so only its digest tells.
        files::write(&programs.path("kind"), "evil").expect("written");
        let error = programs.verified("kind").expect_err("it was changed");
        assert_eq!(
            crate::error::diagnosis(&error).map(|d| d.code),
            Some(Code::CacheCorrupt)
        );
        assert!(programs.wanting().is_some(), "the next run must build it again");
    }

    #[test]
    fn a_missing_program_is_wanting() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let programs = built(dir.path());
        write_manifest(&programs.dir).expect("written");
        std::fs::remove_file(programs.path("helm")).expect("removed");
        assert_eq!(programs.wanting().as_deref(), Some("`helm` is missing or damaged"));
    }
}
