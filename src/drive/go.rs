//! The Go toolchain: building the programs of one module, with progress.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;

use super::exec::{Cmd, Exec};
use crate::error::{Code, Diagnose, Diagnosis};

/// How long a build from nothing may take on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(5400);

/// A build of all programs of a module.
pub struct Build<'a> {
    /// The folder with `go.mod`.
    pub module: &'a Path,
    /// Where the programs go.
    pub out: &'a Path,
    /// The root of the build and module caches.
    pub cache: &'a Path,
    /// Packages by import path or pattern; `tool` means every tool of `go.mod`.
    pub packages: &'a [&'a str],
    /// Values for the linker's `-X`.
    pub variables: &'a [(String, String)],
    /// The file that gets the whole output.
    pub log: &'a Path,
}

/// What a build is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Fetching modules.
    Fetch,
    /// Compiling: so many packages of so many.
    Compile(u64, u64),
}

/// Returns the version of a Go toolchain, such as `1.26.8`.
///
/// # Errors
/// [`Code::ToolMissing`]: there is no Go.
pub async fn version(exec: &dyn Exec) -> Result<semver::Version> {
    let missing = || {
        Diagnosis::new(
            Code::ToolMissing,
            "building Kubernetes needs the Go toolchain, and there is none on PATH",
        )
        .hint("install Go 1.26 or newer from https://go.dev/dl/, then run the same command again")
        .hint("or use --images pull where an image registry can be reached")
    };
    let output = exec
        .run(&Cmd::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local"))
        .await
        .diagnose(missing)?;
    parse_version(&output.stdout).ok_or_else(|| missing().error())
}

fn parse_version(text: &str) -> Option<semver::Version> {
    let number = text.trim().strip_prefix("go")?.split(['-', ' ']).next()?;
    let mut parts = number.split('.').map(str::parse::<u64>);
    let major = parts.next()?.ok()?;
    let minor = parts.next()?.ok()?;
    let patch = parts.next().and_then(Result::ok).unwrap_or(0);
    Some(semver::Version::new(major, minor, patch))
}

impl Build<'_> {
    /// Builds, calling `on_stage` as it goes on. A build that was ended goes on where it was: the toolchain keeps every
    /// compiled package in its cache.
    ///
    /// # Errors
    /// [`Code::PackageRegistry`] where modules cannot be had, [`Code::Disk`], [`Code::ProgramFailed`] otherwise.
    pub async fn run(&self, exec: &dyn Exec, on_stage: impl Fn(Stage) + Send + Sync + 'static) -> Result<()> {
        super::files::make_dir(self.out)?;
        on_stage(Stage::Fetch);
        let flags = ["-mod=readonly", "-trimpath", "-buildvcs=false"];
        exec.run(&self.go(&["mod", "download"]))
            .await
            .diagnose(|| self.failed("fetch the Go modules of Kubernetes and its tools"))?;
        let stale = self
            .go(&["list", "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}"])
            .args(flags)
            .args(self.packages.iter().copied());
        let stale = exec
            .run(&stale)
            .await
            .diagnose(|| self.failed("list the Go packages to compile"))?;
        let mut names: Vec<&str> = stale.stdout.lines().filter(|line| !line.is_empty()).collect();
        names.sort_unstable();
        names.dedup();
        let total = names.len() as u64;
        let done = Arc::new(AtomicU64::new(0));
        let on_stage = Arc::new(on_stage);
        on_stage(Stage::Compile(0, total));
        let settings: Vec<String> = self
            .variables
            .iter()
            .map(|(name, value)| format!("-X {name}={value}"))
            .collect();
        let mut out = self.out.as_os_str().to_owned();
        // With the slash Go takes it for a folder even where there is one program.
        out.push("/");
        let build = self
            .go(&["build", "-v"])
            .args(flags)
            .args(["-ldflags".to_owned(), format!("-s -w {}", settings.join(" "))])
            .arg("-o")
            .arg(out)
            .args(self.packages.iter().copied())
            .limit(BUILD_LIMIT)
            .on_line(move |line| {
                // `-v` prints an import path as it is compiled; anything else is a message.
                if !line.contains([' ', ':', '\t']) {
                    let n = done.fetch_add(1, Ordering::Relaxed) + 1;
                    on_stage(Stage::Compile(n.min(total), total));
                }
            });
        exec.run(&build)
            .await
            .diagnose(|| self.failed("compile Kubernetes and its tools"))?;
        Ok(())
    }

    fn go(&self, args: &[&str]) -> Cmd {
        Cmd::new("go")
            .args(args.iter().copied())
            .dir(self.module)
            .env("GOCACHE", self.cache.join("build"))
            .env("GOMODCACHE", self.cache.join("mod"))
            // What a user has set for other projects must not change what is built here.
            .env("GOENV", "off")
            .env("GOWORK", "off")
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0")
            // Without it the module cache cannot be removed.
            .env("GOFLAGS", "-modcacherw")
            .without_env("GOOS")
            .without_env("GOARCH")
            .log(self.log)
    }

    fn failed(&self, what: &str) -> Diagnosis {
        let code = if what.starts_with("fetch") {
            Code::PackageRegistry
        } else {
            Code::ProgramFailed
        };
        Diagnosis::new(code, what)
            .hint("run the same command again: what is fetched and compiled is kept")
            .hint(format!("the whole output: {}", self.log.display()))
    }

    /// Returns the folder of a module's source in the module cache, fetching it where it is not there.
    ///
    /// # Errors
    /// [`Code::PackageRegistry`].
    pub async fn source(&self, exec: &dyn Exec, module: &str) -> Result<PathBuf> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Download {
            dir: PathBuf,
        }
        let output = exec
            .run(&self.go(&["mod", "download", "-json", module]))
            .await
            .diagnose(|| self.failed(&format!("fetch the source of the Go module {module}")))?;
        let download: Download = serde_json::from_str(&output.stdout)
            .diagnose(|| self.failed(&format!("fetch the source of the Go module {module}")))?;
        Ok(download.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions() {
        assert_eq!(parse_version("go1.26.8\n"), Some(semver::Version::new(1, 26, 8)));
        assert_eq!(parse_version("go1.27-devel_x"), Some(semver::Version::new(1, 27, 0)));
        assert_eq!(parse_version("command not found"), None);
    }
}
