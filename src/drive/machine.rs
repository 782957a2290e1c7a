//! Reading what this machine is: the kernel, the limits, the disks, the ports, the programs, the clock.
//!
//! Facts only; what they mean for the lab is decided in [`crate::lab::machine`]. Whatever cannot be read is `None` and
//! never an error: a doctor that fails where it cannot look helps nobody.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::debian::Release;
use super::docker::{self, Docker};
use super::exec::{self, Cmd, Exec};
use super::files;
use crate::config::{self, Settings};
use crate::error::Code;

mod holder;

/// How long one program may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(5);
/// How long a server may take to say what time it is.
const DATE_LIMIT: Duration = Duration::from_secs(3);

/// What is known of the machine.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The operating system.
    pub os: Os,
    /// The capability bounding set of this process, and the highest capability that the kernel knows.
    pub capabilities: Option<(u64, u32)>,
    /// `fs.inotify.max_user_instances` and `fs.inotify.max_user_watches`.
    pub inotify: Option<(u64, u64)>,
    /// The container engine.
    pub engine: EngineFacts,
    /// How many processors the machine has.
    pub cpus: Option<u64>,
    /// How many bytes of memory the machine has, and how many of them are available.
    pub memory: Option<(u64, u64)>,
    /// How many thousandths of a processor the control group of this process may use.
    pub cpu_limit_milli: Option<u64>,
    /// How many bytes of memory the control group of this process may use.
    pub memory_limit: Option<u64>,
    /// 1 or 2.
    pub cgroup: Option<u8>,
    /// Where labctl and the engine keep files.
    pub places: Vec<Place>,
    /// The ports that were asked about.
    pub ports: Vec<Port>,
    /// The programs that were asked about.
    pub programs: Vec<Program>,
    /// Whether the network answers, and what time it says.
    pub clock: Clock,
    /// Other programs named labctl.
    pub others: Vec<OtherLabctl>,
    /// The proxy variables that are set; passwords are left out.
    pub proxies: Vec<(String, String)>,
    /// Where the certificate authorities of this machine are, and whether a variable says so.
    pub bundle: Option<(PathBuf, bool)>,
    /// Files that a labctl which was killed has left.
    pub stale: Vec<Stale>,
}

/// The operating system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Os {
    /// What its release file says.
    pub release: Release,
    /// The kernel's release.
    pub kernel: String,
    /// Whether this process runs as root.
    pub root: bool,
}

/// What is known of the container engine.
#[derive(Debug, Clone, Default)]
pub struct EngineFacts {
    /// What it says of itself, where one answers.
    pub up: Option<EngineUp>,
    /// Why none answers: the code and the text of the error, with its hints.
    pub down: Option<(Code, String, Vec<String>)>,
}

/// What an engine says of itself.
#[derive(Debug, Clone, Default)]
pub struct EngineUp {
    /// Its version.
    pub version: String,
    /// Its address.
    pub host: String,
    /// Whether labctl started it.
    pub managed: bool,
    /// How many processors it sees.
    pub cpus: u64,
    /// How many bytes of memory it sees.
    pub memory: u64,
    /// The system it runs on, such as `Docker Desktop`.
    pub system: String,
    /// The kernel it runs on.
    pub kernel: String,
    /// How it stores images: `overlay2`, or `overlayfs` with the containerd image store.
    pub driver: String,
    /// Whether images are kept by containerd.
    pub containerd_store: bool,
    /// The OCI runtime it uses where none is asked for.
    pub runtime: String,
    /// Whether it runs without root.
    pub rootless: bool,
    /// The control group version it uses.
    pub cgroup: Option<u8>,
    /// Ports that containers publish: the port, the container, and the lab it belongs to.
    pub published: Vec<(u16, String, Option<String>)>,
}

/// A directory and its file system.
#[derive(Debug, Clone)]
pub struct Place {
    /// What is kept there: `state`, `cache` or `images`.
    pub what: &'static str,
    /// The directory.
    pub path: PathBuf,
    /// Whether it exists.
    pub exists: bool,
    /// Whether this process may write to it, or to the nearest parent that exists.
    pub writable: bool,
    /// How many bytes are free.
    pub free: Option<u64>,
    /// Which file system it is on.
    pub device: Option<u64>,
}

/// A port on the loopback address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// What the lab wants it for.
    pub what: &'static str,
    /// Its number.
    pub number: u16,
    /// Whether it can be had.
    pub free: bool,
    /// Who has it, where that can be seen: a container's name or `nginx (pid 12)`.
    pub holder: Option<String>,
    /// The lab of the container that has it.
    pub lab: Option<String>,
}

/// A program, found or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub path: Option<PathBuf>,
    /// What it printed when asked for its version.
    pub said: Option<String>,
}

/// What time it is here and elsewhere, in seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clock {
    /// Here.
    pub here: i64,
    /// Elsewhere, and who said so; nothing where no server answered.
    pub there: Option<(i64, String)>,
    /// The time of the newest file that must be older than now, and which it is.
    pub not_before: Option<(i64, String)>,
}

/// Another program named labctl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherLabctl {
    /// Where it is.
    pub path: PathBuf,
    /// Which program it is, where that can be told.
    pub which: Option<&'static str>,
    /// Whether typing `labctl` runs it.
    pub first: bool,
}

/// A file that a labctl which was killed has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// The file.
    pub path: PathBuf,
    /// Why it is stale.
    pub why: String,
}

/// What to look at besides the machine itself.
#[derive(Debug, Clone, Default)]
pub struct Questions {
    /// Ports on the loopback address, and what they are wanted for.
    pub ports: Vec<(&'static str, u16)>,
    /// Programs, and the arguments that make them print their version.
    pub programs: Vec<(&'static str, &'static [&'static str])>,
    /// Web addresses whose answer says what time it is; the machine's own package mirror comes first.
    pub time_servers: Vec<String>,
}

/// Looks at the machine. Takes a few seconds at most: every part has a time limit.
pub async fn read(
    settings: &Settings,
    exec: &dyn Exec,
    http: &reqwest::Client,
    engine: anyhow::Result<Docker>,
    questions: &Questions,
) -> Facts {
    let mut servers = apt_mirrors(Path::new("/etc/apt"));
    servers.truncate(2);
    servers.extend(questions.time_servers.iter().cloned());
    let (engine, programs, there) = tokio::join!(
        engine_facts(engine),
        futures_util::future::join_all(questions.programs.iter().map(|(name, args)| program(exec, name, args))),
        time_elsewhere(http, &servers),
    );
    let images = engine.1.unwrap_or_else(|| PathBuf::from("/var/lib/docker"));
    let engine = engine.0;
    let mut places = vec![
        place("state", settings.dirs.state()),
        place("cache", settings.dirs.cache()),
    ];
    // The directory of an engine on another machine, or in a virtual one, says nothing about this disk.
    if engine.up.as_ref().is_none_or(|up| up.kernel == kernel()) {
        places.push(place("images", &images));
    }
    let published = engine.up.as_ref().map(|up| up.published.as_slice()).unwrap_or_default();
    Facts {
        os: os(),
        capabilities: capabilities(),
        inotify: number("/proc/sys/fs/inotify/max_user_instances").zip(number("/proc/sys/fs/inotify/max_user_watches")),
        cpus: std::thread::available_parallelism()
            .ok()
            .and_then(|n| u64::try_from(n.get()).ok()),
        memory: memory(&text("/proc/meminfo")),
        cpu_limit_milli: cpu_limit(),
        memory_limit: memory_limit(),
        cgroup: cgroup(),
        ports: holder::ports(&questions.ports, published),
        places,
        programs,
        clock: Clock {
            here: unix(SystemTime::now()),
            there,
            not_before: newest(),
        },
        others: others(),
        proxies: proxies(),
        bundle: bundle(),
        stale: stale(settings),
        engine,
    }
}

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn number(path: impl AsRef<Path>) -> Option<u64> {
    text(path).trim().parse().ok()
}

fn unix(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or_default()
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn os() -> Os {
    let mut release = Release::of_this_machine();
    if cfg!(target_os = "macos") {
        "macos".clone_into(&mut release.id);
        "macOS".clone_into(&mut release.name);
    }
    Os {
        release,
        kernel: kernel(),
        root: rustix::process::geteuid().is_root(),
    }
}

fn capabilities() -> Option<(u64, u32)> {
    let last = number("/proc/sys/kernel/cap_last_cap").and_then(|last| u32::try_from(last).ok())?;
    Some((parse_bounding(&text("/proc/self/status"))?, last))
}

fn parse_bounding(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

fn memory(meminfo: &str) -> Option<(u64, u64)> {
    let kib = |key: &str| {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kib("MemTotal:")? * 1024, kib("MemAvailable:")? * 1024))
}

fn cgroup() -> Option<u8> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        Some(2)
    } else {
        root.join("memory").exists().then_some(1)
    }
}

/// Returns the directories of this process's control group for a controller, the most specific first.
fn cgroup_dirs(controller: &str) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for line in text("/proc/self/cgroup").lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let root = if controllers.is_empty() {
            PathBuf::from("/sys/fs/cgroup")
        } else if controllers.split(',').any(|name| name == controller) {
            Path::new("/sys/fs/cgroup").join(controller)
        } else {
            continue;
        };
        for dir in Path::new(path.trim_start_matches('/')).ancestors() {
            dirs.push(root.join(dir));
        }
    }
    dirs
}

fn cpu_limit() -> Option<u64> {
    cgroup_dirs("cpu").iter().filter_map(|dir| cpu_limit_in(dir)).min()
}

fn cpu_limit_in(dir: &Path) -> Option<u64> {
    let v2 = text(dir.join("cpu.max"));
    let (quota, period): (u64, u64) = match v2.split_once(' ') {
        Some((quota, period)) => (quota.parse().ok()?, period.trim().parse().ok()?),
        None => (
            number(dir.join("cpu.cfs_quota_us"))?,
            number(dir.join("cpu.cfs_period_us"))?,
        ),
    };
    (quota * 1000).checked_div(period)
}

fn memory_limit() -> Option<u64> {
    cgroup_dirs("memory")
        .iter()
        .filter_map(|dir| number(dir.join("memory.max")).or_else(|| number(dir.join("memory.limit_in_bytes"))))
        // cgroup v1 says "no limit" with a number near 2^63.
        .filter(|&limit| limit < 1 << 60)
        .min()
}

fn place(what: &'static str, path: &Path) -> Place {
    use std::os::unix::fs::MetadataExt;
    let existing = path.ancestors().find(|dir| dir.exists());
    Place {
        what,
        path: path.to_owned(),
        exists: path.exists(),
        writable: existing
            .is_some_and(|dir| dir.is_dir() && rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()),
        free: files::free_space(path).ok(),
        device: existing.and_then(|dir| Some(dir.metadata().ok()?.dev())),
    }
}

async fn engine_facts(engine: anyhow::Result<Docker>) -> (EngineFacts, Option<PathBuf>) {
    let engine = match engine {
        Ok(engine) => engine,
        Err(error) => {
            let found = crate::error::diagnosis(&error);
            let down = Some((
                found.map_or(Code::EngineMissing, |found| found.code),
                found.map_or_else(|| format!("{error:#}"), |found| found.message.clone()),
                found.map(|found| found.hints.clone()).unwrap_or_default(),
            ));
            return (EngineFacts { up: None, down }, None);
        }
    };
    let limit = Duration::from_secs(5);
    let info = tokio::time::timeout(limit, engine.api().info()).await;
    let info = match info {
        Ok(Ok(info)) => info,
        Ok(Err(error)) => {
            return (
                engine_failed(format!("the engine does not describe itself: {error}")),
                None,
            );
        }
        Err(_) => {
            return (
                engine_failed("the engine did not describe itself within 5s".into()),
                None,
            );
        }
    };
    let containers = tokio::time::timeout(limit, engine.containers(HashMap::new())).await;
    let published = containers.ok().and_then(Result::ok).unwrap_or_default();
    let published = published
        .iter()
        .flat_map(|container| {
            let labels = container.labels.clone().unwrap_or_default();
            let lab = labels
                .get(config::LABEL)
                .or_else(|| labels.get("io.x-k8s.kind.cluster"))
                .cloned();
            let name = container.names.as_ref().and_then(|names| names.first());
            let name = name
                .map(|name| name.trim_start_matches('/').to_owned())
                .unwrap_or_default();
            let ports = container.ports.clone().unwrap_or_default();
            ports
                .into_iter()
                .filter_map(move |port| Some((port.public_port?, name.clone(), lab.clone())))
        })
        .collect();
    let options = info.security_options.unwrap_or_default();
    let status = info.driver_status.unwrap_or_default();
    let up = EngineUp {
        version: engine.version().to_owned(),
        host: engine.host().to_owned(),
        managed: *engine.source() == docker::Source::Managed,
        cpus: info.ncpu.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
        memory: info.mem_total.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
        system: info.operating_system.unwrap_or_default(),
        kernel: info.kernel_version.unwrap_or_default(),
        driver: info.driver.unwrap_or_default(),
        containerd_store: status
            .iter()
            .flatten()
            .any(|word| word.contains("io.containerd.snapshotter")),
        runtime: info.default_runtime.unwrap_or_default(),
        rootless: options.iter().any(|option| option.contains("name=rootless")),
        cgroup: info.cgroup_version.and_then(|version| version.to_string().parse().ok()),
        published,
    };
    let root = info.docker_root_dir.map(PathBuf::from);
    (
        EngineFacts {
            up: Some(up),
            down: None,
        },
        root,
    )
}

fn engine_failed(message: String) -> EngineFacts {
    EngineFacts {
        up: None,
        down: Some((Code::EngineFailed, message, Vec::new())),
    }
}

async fn program(exec: &dyn Exec, name: &'static str, args: &[&'static str]) -> Program {
    let path = exec::find_on_path(name);
    let said = match &path {
        Some(path) => version_of(exec, path, args).await,
        None => None,
    };
    Program { name, path, said }
}

/// Asks a program for its version; nothing where it cannot say.
pub async fn version_of(exec: &dyn Exec, path: &Path, args: &[&'static str]) -> Option<String> {
    let output = exec
        .run(&Cmd::new(path).args(args.iter().copied()).limit(VERSION_LIMIT))
        .await
        .ok()?;
    Some(output.stdout.trim().to_owned())
}

/// Returns the package mirrors that apt is set up to use: whatever this machine reaches, it reaches them.
fn apt_mirrors(etc: &Path) -> Vec<String> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(etc.join("sources.list.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    names.sort();
    names.insert(0, etc.join("sources.list"));
    let mut found: Vec<String> = Vec::new();
    for name in names {
        for line in text(&name).lines().filter(|line| !line.trim_start().starts_with('#')) {
            for word in line.split_whitespace().filter(|word| word.starts_with("http")) {
                if !found.iter().any(|known| known == word) {
                    found.push(word.to_owned());
                }
            }
        }
    }
    found
}

async fn time_elsewhere(http: &reqwest::Client, servers: &[String]) -> Option<(i64, String)> {
    for server in servers {
        let Ok(Ok(answer)) = tokio::time::timeout(DATE_LIMIT, http.head(server).send()).await else {
            continue;
        };
        let host = answer.url().host_str().unwrap_or(server).to_owned();
        let date = answer
            .headers()
            .get(http::header::DATE)
            .and_then(|date| date.to_str().ok());
        if let Some(time) = date.and_then(parse_date) {
            return Some((time, host));
        }
    }
    None
}

fn parse_date(text: &str) -> Option<i64> {
    let zoned = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(zoned.timestamp().as_second())
}

/// Returns the newest time that must be in the past: that of this program's file, or of the package lists.
fn newest() -> Option<(i64, String)> {
    let mut paths = vec![PathBuf::from("/etc/os-release"), PathBuf::from("/var/lib/dpkg/status")];
    paths.extend(std::env::current_exe().ok());
    paths
        .into_iter()
        .filter_map(|path| Some((unix(path.metadata().ok()?.modified().ok()?), path.display().to_string())))
        .max()
}

fn others() -> Vec<OtherLabctl> {
    let own = std::env::current_exe().and_then(std::fs::canonicalize).ok();
    let mut out: Vec<OtherLabctl> = Vec::new();
    let mut own_seen = false;
    for path in exec::all_on_path("labctl") {
        let real = std::fs::canonicalize(&path).ok();
        if real.is_some() && real == own {
            own_seen = true;
        } else if !out.iter().any(|known| known.path == path) {
            let which = which_labctl(&path);
            out.push(OtherLabctl {
                path,
                which,
                first: !own_seen,
            });
        }
    }
    if let Some(home) = config::variable("HOME") {
        let usual = Path::new(&home).join(".iximiuz/labctl/bin/labctl");
        if usual.exists() && !out.iter().any(|known| known.path == usual) {
            out.push(OtherLabctl {
                which: which_labctl(&usual),
                path: usual,
                first: false,
            });
        }
    }
    out
}

/// Tells which program a file named labctl is, by what is written in it; it is not run.
fn which_labctl(path: &Path) -> Option<&'static str> {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if real.to_string_lossy().contains("/.iximiuz/") {
        return Some("the CLI of iximiuz Labs");
    }
    let bytes = std::fs::read(&real).ok()?;
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    if has(b"iximiuz/labctl") {
        return Some("the CLI of iximiuz Labs");
    }
    let first = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if first.starts_with(b"#!") && first.windows(6).any(|window| window == b"python") {
        return Some("a Python package's script");
    }
    has(b"LAB-ENV-001").then_some("another copy of this program")
}

fn proxies() -> Vec<(String, String)> {
    [
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "all_proxy",
        "no_proxy",
        "NO_PROXY",
    ]
    .into_iter()
    .filter_map(|name| Some((name.to_owned(), without_password(&config::text_variable(name)?))))
    .collect()
}

fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://...@{host}"),
        (None, Some((_, host))) => format!("...@{host}"),
        _ => url.to_owned(),
    }
}

fn bundle() -> Option<(PathBuf, bool)> {
    if let Some(path) = config::variable("SSL_CERT_FILE") {
        return Some((PathBuf::from(path), true));
    }
    [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/cert.pem",
    ]
    .into_iter()
    .map(PathBuf::from)
    .find(|path| path.exists())
    .map(|path| (path, false))
}

fn stale(settings: &Settings) -> Vec<Stale> {
    let mut out = Vec::new();
    let hour_ago = SystemTime::now().checked_sub(Duration::from_secs(3600));
    for path in files::walk(settings.dirs.state()).unwrap_or_default() {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let pid_file = path.extension().is_some_and(|extension| extension == "pid");
        let old = path
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| hour_ago.is_some_and(|limit| time < limit));
        if pid_file {
            let pid = text(&path)
                .trim()
                .parse::<i32>()
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            // A process of another user cannot be signalled and is alive all the same.
            let alive = pid.is_some_and(|pid| {
                !matches!(rustix::process::test_kill_process(pid), Err(error) if error == rustix::io::Errno::SRCH)
            });
            if !alive {
                out.push(Stale {
                    why: format!("no process has the number {}", text(&path).trim()),
                    path,
                });
            }
        } else if name.starts_with(".labctl-") && old {
            out.push(Stale {
                path,
                why: "a file that was being written when labctl was killed".into(),
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(
            parse_bounding("Name:\tx\nCapBnd:\t000001fffeffffff\n"),
            Some(0x1ff_feff_ffff)
        );
        assert_eq!(parse_bounding("Name:\tx\n"), None);
        assert_eq!(
            memory("MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    600 kB\n"),
            Some((1_024_000, 614_400))
        );
    }

    #[test]
    fn limits_of_both_control_group_versions_are_read() {
        let dir = tempfile::tempdir().expect("temporary directory");
        files::write(&dir.path().join("cpu.max"), "150000 100000\n").expect("written");
        assert_eq!(cpu_limit_in(dir.path()), Some(1500));
        files::write(&dir.path().join("cpu.max"), "max 100000\n").expect("written");
        assert_eq!(cpu_limit_in(dir.path()), None);
        let dir = tempfile::tempdir().expect("temporary directory");
        files::write(&dir.path().join("cpu.cfs_quota_us"), "50000\n").expect("written");
        files::write(&dir.path().join("cpu.cfs_period_us"), "100000\n").expect("written");
        assert_eq!(cpu_limit_in(dir.path()), Some(500));
        files::write(&dir.path().join("cpu.cfs_quota_us"), "-1\n").expect("written");
        assert_eq!(cpu_limit_in(dir.path()), None);
    }

    #[test]
    fn a_password_in_a_proxy_is_not_shown() {
        assert_eq!(without_password("http://me:secret@proxy:3128"), "http://...@proxy:3128");
        assert_eq!(without_password("me:secret@proxy:3128"), "...@proxy:3128");
        assert_eq!(without_password("http://proxy:3128"), "http://proxy:3128");
    }

    #[test]
    fn a_date_header_is_read() {
        assert_eq!(parse_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse_date("yesterday"), None);
    }

    #[test]
    fn the_other_labctl_is_known_by_what_is_in_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("labctl");
        files::write(&file, b"\x7fELF..github.com/iximiuz/labctl/cmd..").expect("written");
        assert_eq!(which_labctl(&file), Some("the CLI of iximiuz Labs"));
        files::write(&file, b"#!/usr/bin/python3\nimport labctl\n").expect("written");
        assert_eq!(which_labctl(&file), Some("a Python package's script"));
        files::write(&file, b"#!/bin/sh\n").expect("written");
        assert_eq!(which_labctl(&file), None);
    }

    #[test]
    fn mirrors_are_read_in_both_of_apts_forms() {
        let dir = tempfile::tempdir().expect("temporary directory");
        files::write(
            &dir.path().join("sources.list"),
            "# deb http://old/ x\ndeb http://one/debian x main\n",
        )
        .expect("written");
        files::write(
            &dir.path().join("sources.list.d/debian.sources"),
            "Types: deb\nURIs: http://two/debian\n",
        )
        .expect("written");
        assert_eq!(apt_mirrors(dir.path()), ["http://one/debian", "http://two/debian"]);
    }

    #[test]
    fn a_pid_file_without_its_process_is_stale() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let settings = Settings {
            lab: config::LabName::parse("labctl").expect("a name"),
            dirs: config::Dirs::new(dir.path().join("state"), dir.path().join("cache")),
            yes: false,
            json: false,
            ask: false,
        };
        let alive = settings.dirs.engine().join("alive.pid");
        let dead = settings.dirs.engine().join("dead.pid");
        files::write(&alive, std::process::id().to_string()).expect("written");
        // The highest number that Linux gives is 4194304.
        files::write(&dead, "4999999").expect("written");
        let found = stale(&settings);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].path, dead);
    }
}
