//! Debian and Ubuntu: what is installed, installing more, and a root file system from packages.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::exec::{Cmd, Exec};
use crate::error::{Code, Diagnose, Diagnosis};

/// How long apt may wait for another apt or dpkg.
const LOCK_WAIT_SECONDS: u32 = 120;
/// How long an apt run may take.
const APT_LIMIT: Duration = Duration::from_secs(1200);
/// How many system calls may go by without an answer before a mirror counts as gone.
const MIRROR_TIMEOUT_SECONDS: u32 = 20;

/// What `/etc/os-release` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release {
    /// The distribution, such as `debian`.
    pub id: String,
    /// The distributions it is like, such as `debian` for Ubuntu's `ubuntu debian`.
    pub like: Vec<String>,
    /// Its name with its version, for people.
    pub name: String,
}

impl Release {
    /// Reads the release of this machine; an unknown one is empty.
    pub fn of_this_machine() -> Self {
        Self::parse(&std::fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut release = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let value = value.trim().trim_matches('"');
            match key {
                "ID" => value.clone_into(&mut release.id),
                "ID_LIKE" => release.like = value.split_whitespace().map(str::to_owned).collect(),
                "PRETTY_NAME" => value.clone_into(&mut release.name),
                _ => {}
            }
        }
        release
    }

    /// Returns whether apt is this system's package manager.
    pub fn has_apt(&self) -> bool {
        self.id == "debian" || self.like.iter().any(|like| like == "debian")
    }
}

/// Returns whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns those of the packages that are not installed.
pub async fn missing<'a>(exec: &dyn Exec, packages: &[&'a str]) -> Vec<&'a str> {
    let mut out = Vec::new();
    for &package in packages {
        let cmd = Cmd::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]);
        let installed = exec
            .run(&cmd)
            .await
            .is_ok_and(|output| output.stdout.trim() == "installed");
        if !installed {
            out.push(package);
        }
    }
    out
}

/// Installs packages: first from the lists that are there, then with new lists.
///
/// # Errors
/// [`Code::PackageRegistry`] with the end of apt's output.
pub async fn install(
    exec: &dyn Exec,
    packages: &[&str],
    log: &Path,
    doing: impl Fn(&str) + Send + Sync + 'static,
) -> Result<()> {
    let doing = std::sync::Arc::new(doing);
    let apt = |args: &[&str]| {
        let doing = std::sync::Arc::clone(&doing);
        Cmd::new("apt-get")
            .args([
                "-o".to_owned(),
                format!("DPkg::Lock::Timeout={LOCK_WAIT_SECONDS}"),
                "-o".to_owned(),
                format!("Acquire::http::Timeout={MIRROR_TIMEOUT_SECONDS}"),
                "-o".to_owned(),
                "Acquire::Retries=2".to_owned(),
                "-o".to_owned(),
                "Dpkg::Use-Pty=0".to_owned(),
            ])
            .args(args.iter().map(|&arg| arg.to_owned()))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .limit(APT_LIMIT)
            .log(log)
            .on_line(move |line| doing(line))
    };
    let failed = || {
        Diagnosis::new(
            Code::PackageRegistry,
            format!("install the Debian packages {}", packages.join(", ")),
        )
        .hint("apt-get update says whether the mirror answers; then run the same command again")
    };
    exec.run(&apt(&["update", "--error-on=any"])).await.diagnose(failed)?;
    let mut args = vec!["install", "--yes", "--no-install-recommends"];
    args.extend(packages);
    exec.run(&apt(&args)).await.diagnose(failed)?;
    Ok(())
}

/// Writes a root file system of Debian packages as one tar file. Needs root and the package mmdebstrap.
///
/// Documentation, manuals and translations are left out. The same packages give the same bytes.
///
/// # Errors
/// [`Code::PackageRegistry`] with the end of the output.
pub async fn bootstrap(
    exec: &dyn Exec,
    suite: &str,
    packages: &[String],
    tar: &Path,
    log: &Path,
    doing: impl Fn(&str) + Send + Sync + 'static,
) -> Result<()> {
    const LEFT_OUT: [&str; 7] = [
        "/usr/share/doc/*",
        "/usr/share/man/*",
        "/usr/share/locale/*",
        "/usr/share/info/*",
        "/usr/share/zoneinfo/*",
        "/usr/share/lintian/*",
        "/usr/lib/*/gconv/*",
    ];
    let cmd = Cmd::new("mmdebstrap")
        .args(["--mode=root", "--variant=minbase", "--format=tar"])
        .arg(format!("--include={}", packages.join(",")))
        .args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")))
        .arg(suite)
        .arg(tar)
        .env("SOURCE_DATE_EPOCH", "0")
        .limit(APT_LIMIT)
        .log(log)
        .on_line(move |line| doing(line));
    exec.run(&cmd).await.diagnose(|| {
        Diagnosis::new(Code::PackageRegistry, "make a root file system from Debian packages")
            .hint("apt-get update says whether the mirror answers; then run the same command again")
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        let debian = Release::parse("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n");
        assert!(debian.has_apt());
        assert_eq!(debian.name, "Debian GNU/Linux 12 (bookworm)");
        assert!(Release::parse("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n").has_apt());
        assert!(!Release::parse("ID=fedora\n").has_apt());
        assert!(!Release::parse("").has_apt());
    }
}
