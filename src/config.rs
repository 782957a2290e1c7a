//! Settings: the only place that reads the environment, and the only one that knows where labctl keeps its files.
//!
//! A flag wins over its environment variable, which wins over the default. Every variable is in [`VARIABLES`], from
//! which the reference in `labctl --help` is printed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Code, Diagnosis};

/// An environment variable that labctl reads.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it does, and its default.
    pub about: &'static str,
}

/// Every environment variable that labctl reads, apart from the standard ones of the tools it runs.
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "LABCTL_LAB",
        about: "the lab's name (default: labctl); each lab has its own cluster, network and state",
    },
    Variable {
        name: "LABCTL_STATE_DIR",
        about: "where labs keep kubeconfig, certificates, logs and progress (default: $XDG_STATE_HOME/labctl or ~/.local/state/labctl)",
    },
    Variable {
        name: "LABCTL_CACHE_DIR",
        about: "where downloads and builds are kept (default: $XDG_CACHE_HOME/labctl or ~/.cache/labctl)",
    },
    Variable {
        name: "LABCTL_DATA_DIR",
        about: "where `labctl serve` keeps jobs and their history (default: $XDG_DATA_HOME/labctl or ~/.local/share/labctl)",
    },
    Variable {
        name: "LABCTL_STORE",
        about: "the database of `labctl serve`, as --store: sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME",
    },
    Variable {
        name: "LABCTL_REDIS",
        about: "the Redis between servers of `labctl serve`, as --redis: redis://HOST:6379, or rediss:// for TLS",
    },
    Variable {
        name: "LABCTL_KEEP_FOR",
        about: "how long `labctl serve` keeps jobs after their end, as --keep-for: 30d, say (default: for ever)",
    },
    Variable {
        name: "LABCTL_KEEP_JOBS",
        about: "how many jobs that have ended `labctl serve` keeps, as --keep-jobs (default: all)",
    },
    Variable {
        name: "LABCTL_KEEP_AUDIT",
        about: "how long `labctl serve` keeps who did what, as --keep-audit: 365d, say (default: for ever)",
    },
    Variable {
        name: "LABCTL_LOGS_MAX_BYTES",
        about: "how many bytes the logs of all jobs may have in the store, as --logs-max-bytes: 10GiB, say (default: no limit)",
    },
    Variable {
        name: "LABCTL_JOB_LOG_MAX_BYTES",
        about: "how many bytes of one job's output are kept, as --job-log-max-bytes (default: no limit)",
    },
    Variable {
        name: "LABCTL_JOB_RATE",
        about: "how many jobs one user may create in a minute, as --job-rate (default: no limit)",
    },
    Variable {
        name: "LABCTL_TOKEN_FILE",
        about: "who may use the dashboard, as --token-file: for `labctl serve` all tokens, for `labctl jobs` one",
    },
    Variable {
        name: "LABCTL_TOKEN",
        about: "the token with which `labctl jobs` asks the dashboard; wins over LABCTL_TOKEN_FILE",
    },
    Variable {
        name: "LABCTL_DASHBOARD_URL",
        about: "the dashboard that `labctl jobs` asks (default: the lab's, then http://127.0.0.1:8080)",
    },
    Variable {
        name: "LABCTL_WORK",
        about: "the folder of your work on the chapters, as --work (default: work, in the current folder)",
    },
    Variable {
        name: "LABCTL_ENGINE_DIR",
        about: "where the engine that labctl manages keeps its data (default: /var/lib/labctl/engine)",
    },
    Variable {
        name: "LABCTL_YES",
        about: "1 answers every question with yes, as --yes does",
    },
    Variable {
        name: "LABCTL_REQUIRE_LAB",
        about: "1 makes a test that would be skipped for want of a cluster fail",
    },
    Variable {
        name: "LABCTL_KEEP_LAB",
        about: "1 leaves the tests' lab when they are done, for a look at it",
    },
    Variable {
        name: "LABCTL_TEST_HELM",
        about: "the helm that the tests of the chart use, where none is on PATH",
    },
    Variable {
        name: "LABCTL_BENCH_SLOP_GUARD",
        about: "the folder of Python's package slop_guard, whose list of phrases the benchmark of labctl prose reads",
    },
    Variable {
        name: "LABCTL_IMAGE_MIRROR",
        about: "host:port of an image registry to pull upstream images from instead of the public ones (plain HTTP on loopback)",
    },
    Variable {
        name: "LABCTL_VERSIONS",
        about: "a file to take version pins from instead of those built in; the form of assets/versions.toml",
    },
    Variable {
        name: "DOCKER_HOST",
        about: "the container engine to use; wins over Docker contexts and over the engine that labctl manages",
    },
    Variable {
        name: "DOCKER_CONTEXT",
        about: "the Docker context to use",
    },
    Variable {
        name: "NO_COLOR",
        about: "any value turns colours off",
    },
    Variable {
        name: "CI",
        about: "any value turns progress bars and questions off",
    },
];

/// The name of the label on everything labctl creates; its value is the lab's name.
pub const LABEL: &str = "labctl.dev/lab";

/// The value of [`LABEL`] on what all labs of a machine share: the image registry, built images.
pub const SHARED: &str = "shared";

/// The name of the label that holds the digest of the inputs that something was made from.
pub const INPUTS_LABEL: &str = "labctl.dev/inputs";

/// The annotation of a namespace in which the learner works, with the chapter as its value.
pub const CHAPTER_ANNOTATION: &str = "labctl.dev/chapter";

/// Reads an environment variable; an empty one counts as unset.
pub fn variable(name: &str) -> Option<OsString> {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the environment"
    )]
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Reads an environment variable as text; one that is not UTF-8 counts as unset.
pub fn text_variable(name: &str) -> Option<String> {
    variable(name).and_then(|value| value.into_string().ok())
}

/// Finds where a server keeps its data: `LABCTL_DATA_DIR`, then the XDG variable, then the home directory.
///
/// # Errors
/// Neither a variable nor a home directory says where.
pub fn data_dir() -> Result<PathBuf, Diagnosis> {
    let found = variable("LABCTL_DATA_DIR")
        .map(PathBuf::from)
        .or_else(|| variable("XDG_DATA_HOME").map(|dir| Path::new(&dir).join("labctl")))
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".local/share/labctl")));
    found.ok_or_else(|| {
        Diagnosis::new(
            Code::Setting,
            "no home directory is set, so there is no place for jobs and their history",
        )
        .hint("labctl serve --data-dir DIR")
        .hint("labctl serve --runner none serves health and version alone")
    })
}

/// A lab's name: what a Kubernetes name and a Docker name both allow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LabName(String);

impl LabName {
    /// The name used when none is given.
    pub const DEFAULT: &'static str = "labctl";

    /// Checks a name.
    ///
    /// # Errors
    /// The name is not 1 to 30 lower-case letters, digits and inner hyphens, beginning with a letter, or is `shared`.
    pub fn parse(text: &str) -> Result<Self, Diagnosis> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let well_formed = (1..=30).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(inner)
            && !text.ends_with('-');
        if !well_formed || text == SHARED {
            return Err(Diagnosis::new(
                Code::Setting,
                format!("`{text}` cannot be a lab's name"),
            )
            .hint("use 1 to 30 lower-case letters, digits and hyphens, beginning with a letter, such as `labctl --lab demo up`"));
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for LabName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where upstream images come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Images {
    /// Pull if an image registry answers within a few seconds, else build
    Auto,
    /// Pull; fail if no image registry answers
    Pull,
    /// Build everything from package registries
    Build,
}

/// The ports on the loopback address at which the lab's cluster is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// The dashboard's HTTP.
    pub http: u16,
    /// The dashboard's gRPC.
    pub grpc: u16,
    /// The dashboard's mTLS.
    pub mtls: u16,
    /// Metrics.
    pub metrics: u16,
    /// The image registry.
    pub registry: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            http: 8080,
            grpc: 8081,
            mtls: 8443,
            metrics: 8090,
            registry: 5001,
        }
    }
}

/// Directories, all under two roots.
#[derive(Debug, Clone)]
pub struct Dirs {
    state: PathBuf,
    cache: PathBuf,
    engine: PathBuf,
}

impl Dirs {
    /// Makes the directories of labctl below two roots, which need not exist yet; the engine's is below the first.
    pub fn new(state: impl Into<PathBuf>, cache: impl Into<PathBuf>) -> Self {
        let state = state.into();
        Self {
            engine: state.join("engine"),
            cache: cache.into(),
            state,
        }
    }

    /// Finds the roots: `LABCTL_STATE_DIR` and `LABCTL_CACHE_DIR`, then the XDG variables, then the home directory.
    ///
    /// # Errors
    /// Neither a variable nor a home directory says where.
    pub fn from_environment() -> Result<Self, Diagnosis> {
        let root = |own: &str, xdg: &str, below_home: &str| {
            variable(own)
                .map(PathBuf::from)
                .or_else(|| variable(xdg).map(|dir| Path::new(&dir).join("labctl")))
                .or_else(|| variable("HOME").map(|home| Path::new(&home).join(below_home).join("labctl")))
                .ok_or_else(|| {
                    Diagnosis::new(
                        Code::Setting,
                        "no home directory is set, so there is no place for the lab's files",
                    )
                    .hint(format!("set {own} to a directory that can be written"))
                })
        };
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        Ok(Self {
            // Not below the state: two engines on one machine would take each other's bridge and firewall rules away.
            engine: absolute(
                variable("LABCTL_ENGINE_DIR").map_or_else(|| PathBuf::from("/var/lib/labctl/engine"), PathBuf::from),
            ),
            state: absolute(root("LABCTL_STATE_DIR", "XDG_STATE_HOME", ".local/state")?),
            cache: absolute(root("LABCTL_CACHE_DIR", "XDG_CACHE_HOME", ".cache")?),
        })
    }

    /// Returns the same directories with another root of the state.
    #[must_use]
    pub fn with_state(mut self, state: impl Into<PathBuf>) -> Self {
        self.state = state.into();
        self
    }

    /// Returns the root of all state.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Returns the root of the cache: nothing in it is missed once removed.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Returns the directory of one lab's state.
    pub fn lab(&self, lab: &LabName) -> PathBuf {
        self.state.join("labs").join(lab.as_str())
    }

    /// Returns the directory of the engine that labctl manages: one for the machine.
    pub fn engine(&self) -> &Path {
        &self.engine
    }

    /// Returns the directory of the tools that labctl downloaded or built.
    pub fn tools(&self) -> PathBuf {
        self.cache.join("tools")
    }
}

/// Everything that a run was told, resolved once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which lab.
    pub lab: LabName,
    /// Where files are.
    pub dirs: Dirs,
    /// Whether every question is answered with yes.
    pub yes: bool,
    /// Whether there is a person at a terminal to ask.
    pub ask: bool,
    /// Whether standard output is for programs: JSON alone.
    pub json: bool,
}

impl Settings {
    /// Returns the lab's own kubeconfig, which is the only one that labctl ever uses for its own cluster.
    pub fn kubeconfig(&self) -> PathBuf {
        self.lab_dir().join("kubeconfig")
    }

    /// Returns the directory of this lab's state.
    pub fn lab_dir(&self) -> PathBuf {
        self.dirs.lab(&self.lab)
    }

    /// Returns the directory of this lab's logs.
    pub fn log_dir(&self) -> PathBuf {
        self.lab_dir().join("logs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lab_names() {
        for good in ["labctl", "a", "demo-2"] {
            assert!(LabName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "2nd", "A", "a_b", "a-", "shared", "a/../b", &"x".repeat(31)] {
            assert!(LabName::parse(bad).is_err(), "{bad}");
        }
    }
}
