//! The pinned versions: `assets/versions.toml`, typed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Result;
use serde::Deserialize;

use crate::assets;
use crate::config;
use crate::error::{Code, Diagnose, Diagnosis};

/// What `assets/versions.toml` says.
#[derive(Debug, Clone, Deserialize)]
pub struct Versions {
    /// The version of Kubernetes, without a `v`.
    pub kubernetes: semver::Version,
    /// The root file system under the node image.
    pub base: Base,
    /// The node image.
    pub node: Upstream,
    /// The image registry.
    pub registry: Upstream,
    /// Versions of the Go side.
    pub go: Go,
    /// Tools that are downloaded, by name.
    pub tools: BTreeMap<String, Download>,
}

/// A tool's release, ready-made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// The version, where it is not that of the Go side: the newest whose digests more than one public source confirms.
    pub version: Option<semver::Version>,
    /// Where it is; `{version}`, `{os}` and `{arch}` are replaced.
    pub url: String,
    /// The file's name in the archive, where the release is a `.tar.gz`.
    pub member: Option<String>,
    /// The SHA-256 digest of what `url` gives, by platform (`linux-amd64`).
    pub sha256: BTreeMap<String, String>,
}

/// The root file system under the node image.
#[derive(Debug, Clone, Deserialize)]
pub struct Base {
    /// The Debian release.
    pub suite: String,
    /// Its packages.
    pub packages: Vec<String>,
}

/// An image that others publish.
#[derive(Debug, Clone, Deserialize)]
pub struct Upstream {
    /// Its name, with its digest.
    pub upstream: String,
}

/// Versions of the Go side that labctl itself must know.
#[derive(Debug, Clone, Deserialize)]
pub struct Go {
    /// The oldest Go toolchain that builds the module.
    pub minimum: semver::Version,
    /// KIND.
    pub kind: semver::Version,
    /// containerd.
    pub containerd: semver::Version,
    /// Helm.
    pub helm: semver::Version,
    /// The CNI plugins.
    pub cni: semver::Version,
    /// The image registry.
    pub distribution: semver::Version,
}

static VERSIONS: OnceLock<Versions> = OnceLock::new();

fn embedded() -> Versions {
    let text = assets::text("assets/versions.toml").expect("the file is embedded");
    toml::from_str(text).expect("a unit test reads the file")
}

/// Takes the pins from the file that `LABCTL_VERSIONS` names instead of the embedded ones, if it is set.
///
/// # Errors
/// [`Code::SpecUnreadable`] or [`Code::SpecInvalid`], with the line.
pub fn choose() -> Result<()> {
    let Some(path) = config::variable("LABCTL_VERSIONS").map(PathBuf::from) else {
        return Ok(());
    };
    let text = std::fs::read_to_string(&path).diagnose(|| {
        Diagnosis::new(Code::SpecUnreadable, format!("read `{}`", path.display()))
            .hint("LABCTL_VERSIONS names it; unset it to use the pins that labctl was built with")
    })?;
    let versions: Versions = toml::from_str(&text).diagnose(|| {
        Diagnosis::new(
            Code::SpecInvalid,
            format!("`{}` is not a file of versions", path.display()),
        )
        .hint("assets/versions.toml in labctl's repository is the form")
    })?;
    _ = VERSIONS.set(versions);
    Ok(())
}

/// Returns the pinned versions.
pub fn pinned() -> &'static Versions {
    VERSIONS.get_or_init(embedded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_well_formed_and_agrees_with_the_go_module() {
        let versions = pinned();
        let go_mod = assets::text("assets/go/go.mod").expect("embedded");
        for (module, version) in [
            ("k8s.io/kubernetes", &versions.kubernetes),
            ("sigs.k8s.io/kind", &versions.go.kind),
            ("helm.sh/helm/v3", &versions.go.helm),
            ("github.com/containerd/containerd/v2", &versions.go.containerd),
            ("github.com/containernetworking/plugins", &versions.go.cni),
            ("github.com/distribution/distribution/v3", &versions.go.distribution),
        ] {
            let line = format!("{module} v{version}");
            assert!(go_mod.contains(&line), "assets/go/go.mod has no `{line}`");
        }
        assert!(go_mod.contains(&format!("\ngo {}\n", versions.go.minimum)));
    }
}
