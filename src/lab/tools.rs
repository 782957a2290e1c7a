//! Finding `kind`, `kubectl` and `helm`: on PATH, downloaded before, built before, downloaded now.
//!
//! A tool on PATH is taken only in a version that the lab was tested with; what is there already, in whatever place,
//! is preferred over the network.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use semver::Version;

use super::machine::{Finding, Severity};
use super::programs::Programs;
use super::versions::{self, pinned};
use crate::drive::download::Download;
use crate::drive::exec::{self};
use crate::drive::files::{self, Digest};
use crate::drive::machine::{Facts, version_of};
use crate::error::{Code, Diagnosis};
use crate::world::World;

/// The oldest Helm 3 that the charts are used with.
const OLDEST_HELM_MINOR: u64 = 13;

/// A command-line tool of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tool {
    /// Makes clusters of containers.
    Kind,
    /// Talks to a cluster.
    Kubectl,
    /// Installs charts.
    Helm,
}

/// Where a tool was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// On PATH.
    Path,
    /// Downloaded by labctl.
    Downloaded,
    /// Built by labctl.
    Built,
}

/// A tool that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// How it came there.
    pub origin: Origin,
}

impl Tool {
    /// Every tool.
    pub const ALL: [Self; 3] = [Self::Kind, Self::Kubectl, Self::Helm];

    /// Returns the program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Kubectl => "kubectl",
            Self::Helm => "helm",
        }
    }

    /// Returns the arguments that make it print its version without asking a cluster.
    pub fn version_args(self) -> &'static [&'static str] {
        match self {
            Self::Kind => &["version"],
            Self::Kubectl => &["version", "--client", "--output=json"],
            Self::Helm => &["version", "--short"],
        }
    }

    /// Returns whether a version will do.
    pub fn fits(self, version: &Version) -> bool {
        let versions = pinned();
        match self {
            Self::Kind => (version.major, version.minor) == (versions.go.kind.major, versions.go.kind.minor),
            Self::Kubectl => {
                let wanted = &versions.kubernetes;
                version.major == wanted.major && version.minor.abs_diff(wanted.minor) <= 1
            }
            Self::Helm => version.major == 3 && version.minor >= OLDEST_HELM_MINOR,
        }
    }

    /// Returns which versions will do, for people.
    pub fn wanted(self) -> String {
        let versions = pinned();
        match self {
            Self::Kind => format!("{}.{}.x", versions.go.kind.major, versions.go.kind.minor),
            Self::Kubectl => {
                let wanted = &versions.kubernetes;
                format!(
                    "{0}.{1} to {0}.{2}",
                    wanted.major,
                    wanted.minor.saturating_sub(1),
                    wanted.minor + 1
                )
            }
            Self::Helm => format!("3.{OLDEST_HELM_MINOR} or a newer 3.x"),
        }
    }

    fn pin(self) -> Option<&'static versions::Download> {
        pinned().tools.get(self.name())
    }

    fn pinned_version(self) -> &'static Version {
        let versions = pinned();
        let own = self.pin().and_then(|pin| pin.version.as_ref());
        own.unwrap_or(match self {
            Self::Kind => &versions.go.kind,
            Self::Kubectl => &versions.kubernetes,
            Self::Helm => &versions.go.helm,
        })
    }
}

/// Reads a version from what a tool printed: the first word that is one.
pub fn parse_version(said: &str) -> Option<Version> {
    said.split(|c: char| c.is_whitespace() || "\",".contains(c))
        .find_map(|word| {
            let word = word.strip_prefix("go").unwrap_or(word);
            let word = word.strip_prefix('v').unwrap_or(word);
            Version::parse(word).ok()
        })
}

/// Returns a tool that can be used, downloading it where it is not there and can be had.
///
/// # Errors
/// [`Code::ToolMissing`] with what was tried. What was downloaded before and is damaged is removed and fetched again.
pub async fn find(world: &World, tool: Tool) -> Result<PathBuf> {
    if let Some(found) = locate(world, tool).await? {
        return Ok(found.path);
    }
    let name = tool.name();
    let missing = Diagnosis::new(Code::ToolMissing, format!("there is no `{name}` {}", tool.wanted())).hint(format!(
        "labctl up builds it from source, or put `{name}` {} on PATH",
        tool.wanted()
    ));
    let to = target(world, tool);
    let Some(download) = release(tool) else {
        return Err(missing
            .hint(format!(
                "for this platform ({}) there is no release to download",
                platform()
            ))
            .error());
    };
    world
        .reporter()
        .note(format!("downloading {name} {}", tool.pinned_version()));
    if let Err(error) = download.to(world.http(), &to, |_, _| ()).await {
        return Err(error.context(missing));
    }
    let digest = Digest::of_file(&to).map_err(|error| files::explain(error, "read", &to))?;
    files::write(&digest_file(&to), digest.hex())?;
    Ok(to)
}

/// Returns a tool that is there already, or nothing; the network is not asked.
///
/// # Errors
/// A damaged file cannot be removed.
pub async fn locate(world: &World, tool: Tool) -> Result<Option<Found>> {
    for path in exec::all_on_path(tool.name()) {
        if version(world, tool, &path)
            .await
            .is_some_and(|version| tool.fits(&version))
        {
            return Ok(Some(Found {
                path,
                origin: Origin::Path,
            }));
        }
    }
    let downloaded = target(world, tool);
    if downloaded.exists() {
        if intact(&downloaded) {
            return Ok(Some(Found {
                path: downloaded,
                origin: Origin::Downloaded,
            }));
        }
        world.reporter().warn(format!(
            "{}: `{}` is not what was downloaded; it is removed",
            Code::CacheCorrupt.id(),
            downloaded.display()
        ));
        std::fs::remove_file(&downloaded).map_err(|error| files::explain(error, "remove", &downloaded))?;
    }
    let built = Programs::new(&world.settings().dirs);
    if built.path(tool.name()).exists() && built.wanting().is_none() {
        // A damaged build is told by the step that made it, which builds it anew.
        return Ok(built.verified(tool.name()).ok().map(|path| Found {
            path,
            origin: Origin::Built,
        }));
    }
    Ok(None)
}

/// Asks a tool on PATH for its version, once for as long as the file does not change: some take seconds to answer
/// (wrappers of cloud SDKs do), which would be added to every `labctl kubectl`.
async fn version(world: &World, tool: Tool, path: &Path) -> Option<Version> {
    use std::os::unix::fs::MetadataExt;
    let meta = path.metadata().ok()?;
    let key = format!("{} {} {}", path.display(), meta.size(), meta.mtime());
    let memo = world.settings().dirs.tools().join("versions.json");
    let text = std::fs::read_to_string(&memo).unwrap_or_default();
    // A memo that cannot be read or written costs time, and nothing else.
    let mut known: BTreeMap<String, Option<String>> = serde_json::from_str(&text).unwrap_or_default();
    let said = if let Some(said) = known.get(&key) {
        said.clone()
    } else {
        let said = version_of(world.exec(), path, tool.version_args()).await;
        let said = said
            .as_deref()
            .and_then(parse_version)
            .map(|version| version.to_string());
        known.retain(|old, _| !old.starts_with(&format!("{} ", path.display())));
        known.insert(key, said.clone());
        if let Ok(text) = serde_json::to_string_pretty(&known) {
            _ = files::write(&memo, text);
        }
        said
    };
    Version::parse(&said?).ok()
}

/// Returns what is to be downloaded for this platform, where its digest is known.
fn release(tool: Tool) -> Option<Download> {
    let pin = tool.pin()?;
    let fill = |text: &str| {
        text.replace("{version}", &tool.pinned_version().to_string())
            .replace("{os}", os())
            .replace("{arch}", arch())
    };
    let mut download = Download::new(fill(&pin.url), pin.sha256.get(&platform())?);
    download.member = pin.member.as_deref().map(fill);
    Some(download)
}

fn target(world: &World, tool: Tool) -> PathBuf {
    let dir = format!("{}-{}", tool.name(), tool.pinned_version());
    world.settings().dirs.tools().join(dir).join(tool.name())
}

fn digest_file(path: &Path) -> PathBuf {
    path.with_extension("sha256")
}

fn intact(path: &Path) -> bool {
    let wanted = std::fs::read_to_string(digest_file(path)).unwrap_or_default();
    Digest::of_file(path).is_ok_and(|digest| digest.hex() == wanted.trim())
}

fn os() -> &'static str {
    if cfg!(target_os = "macos") {
        "darwin"
    } else {
        std::env::consts::OS
    }
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn platform() -> String {
    format!("{}-{}", os(), arch())
}

/// Returns the programs that the doctor asks for their version.
pub fn questions() -> Vec<(&'static str, &'static [&'static str])> {
    let mut out: Vec<(&str, &[&str])> = Tool::ALL.map(|tool| (tool.name(), tool.version_args())).to_vec();
    out.push(("go", &["version"]));
    out
}

/// Judges the tools on PATH: none of them must be there, for labctl brings its own.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    facts
        .programs
        .iter()
        .map(|program| {
            let code = Code::ToolMissing;
            let tool = Tool::ALL.into_iter().find(|tool| tool.name() == program.name);
            let Some(path) = &program.path else {
                let why = match tool {
                    Some(tool) => format!("labctl brings its own ({})", tool.wanted()),
                    None => "needed only where nothing can be downloaded and labctl builds from source".into(),
                };
                return Finding::ok(program.name, code, "not on PATH").but(Severity::Note, why);
            };
            let version = program.said.as_deref().and_then(parse_version);
            let Some(version) = version else {
                return Finding::ok(
                    program.name,
                    code,
                    format!("{} does not say its version", path.display()),
                )
                .but(Severity::Note, "labctl does not use it");
            };
            let found = Finding::ok(program.name, code, format!("{version} at {}", path.display()));
            match tool {
                Some(tool) if !tool.fits(&version) => found.but(
                    Severity::Note,
                    format!("labctl uses {}, and brings its own", tool.wanted()),
                ),
                None if version < pinned().go.minimum => found
                    .but(
                        Severity::Note,
                        format!(
                            "{} is the oldest that builds the lab's programs from source",
                            pinned().go.minimum
                        ),
                    )
                    .fix("https://go.dev/dl/ has a newer one; not needed where images can be pulled"),
                _ => found,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Dirs, LabName, Settings};
    use crate::drive::exec::{Cmd, Exec, ExecError, Output};
    use crate::report::{Event, Recorded, Reporter};

    struct Nothing;

    #[async_trait::async_trait]
    impl Exec for Nothing {
        async fn run(&self, cmd: &Cmd) -> Result<Output, ExecError> {
            Err(ExecError::Start {
                program: cmd.name(),
                source: std::io::ErrorKind::NotFound.into(),
            })
        }
    }

    fn world(dir: &Path) -> (World, Recorded) {
        let settings = Settings {
            lab: LabName::parse("labctl").expect("a name"),
            dirs: Dirs::new(dir.join("state"), dir.join("cache")),
            yes: false,
            json: false,
            ask: false,
        };
        let seen = Recorded::default();
        let world = World::with_exec(settings, Reporter::new(seen.clone()), Arc::new(Nothing)).expect("a world");
        (world, seen)
    }

    #[test]
    fn versions_are_read_from_what_the_tools_print() {
        let read = |said| parse_version(said).map(|version| version.to_string());
        assert_eq!(read("kind v0.33.0 go1.26.7 linux/amd64").as_deref(), Some("0.33.0"));
        assert_eq!(read("v3.22.0+g144ca65").as_deref(), Some("3.22.0+g144ca65"));
        assert_eq!(read("go version go1.26.7 linux/amd64").as_deref(), Some("1.26.7"));
        let kubectl = "{\n \"clientVersion\": {\n \"major\": \"1\",\n \"gitVersion\": \"v1.37.0\",\n \"goVersion\": \"go1.26.6\" } }";
        assert_eq!(read(kubectl).as_deref(), Some("1.37.0"));
        assert_eq!(read("no version here"), None);
    }

    #[test]
    fn only_versions_that_were_tested_fit() {
        let fits = |tool: Tool, text: &str| tool.fits(&Version::parse(text).expect("a version"));
        let kubernetes = &pinned().kubernetes;
        let near = |delta: i64| format!("1.{}.9", kubernetes.minor.saturating_add_signed(delta));
        assert!(fits(Tool::Kubectl, &near(-1)) && fits(Tool::Kubectl, &near(1)));
        assert!(!fits(Tool::Kubectl, &near(-2)) && !fits(Tool::Kubectl, &near(2)));
        assert!(fits(Tool::Helm, "3.13.0") && !fits(Tool::Helm, "3.12.9") && !fits(Tool::Helm, "4.0.0"));
        let kind = &pinned().go.kind;
        assert!(fits(Tool::Kind, &format!("0.{}.7", kind.minor)));
        assert!(!fits(Tool::Kind, &format!("0.{}.0", kind.minor + 1)));
    }

    #[test]
    fn every_pin_is_a_whole_digest_and_its_own_tool_fits() {
        for tool in Tool::ALL {
            let pin = tool.pin().expect("it is in versions.toml");
            assert!(tool.fits(tool.pinned_version()), "{tool:?} {}", tool.pinned_version());
            assert!(pin.sha256.contains_key("linux-amd64"));
            for (platform, digest) in &pin.sha256 {
                let whole = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
                assert!(whole, "{tool:?} {platform}: {digest}");
            }
            assert!(!release(tool).is_some_and(|download| download.url.contains('{')));
        }
    }

    #[tokio::test]
    async fn a_download_is_used_while_it_is_intact_and_removed_when_it_is_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (world, seen) = world(dir.path());
        assert_eq!(locate(&world, Tool::Helm).await.expect("readable"), None);
        let path = target(&world, Tool::Helm);
        files::write_executable(&path, "helm").expect("written");
        files::write(&digest_file(&path), Digest::of(b"helm").hex()).expect("written");
        let found = locate(&world, Tool::Helm)
            .await
            .expect("readable")
            .expect("it is there");
        assert_eq!(
            (found.path.as_path(), found.origin),
            (path.as_path(), Origin::Downloaded)
        );
        // The same size: only its digest tells.
        files::write_executable(&path, "evil").expect("written");
        assert_eq!(locate(&world, Tool::Helm).await.expect("readable"), None);
        assert!(!path.exists());
        let warned = seen.events().into_iter().any(|event| match event {
            Event::Warning { text } => text.contains("LAB-ENV-018"),
            _ => false,
        });
        assert!(warned);
    }
}
