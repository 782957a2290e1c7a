//! Reading what this machine is: the kernel, the limits, the disks, the ports, the programs, the clock.
//!
//! Facts only; what they mean for the lab is decided in [`crate::lab::machine`]. Whatever cannot be read is `None` and
//! never an error: a doctor that fails where it cannot look helps nobody.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::debian::Release;
use super::docker::Docker;
use super::exec::{self, Cmd, Exec};
use super::files;
use crate::config::{self, Settings};
use crate::error::Code;

mod engine;
mod holder;
mod left;
mod limits;

/// How long one program may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);
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
        engine::facts(engine),
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
        capabilities: limits::capabilities(),
        inotify: number("/proc/sys/fs/inotify/max_user_instances").zip(number("/proc/sys/fs/inotify/max_user_watches")),
        cpus: std::thread::available_parallelism()
            .ok()
            .and_then(|n| u64::try_from(n.get()).ok()),
        memory: limits::memory(&text("/proc/meminfo")),
        cpu_limit_milli: limits::cpu(),
        memory_limit: limits::memory_limit(),
        cgroup: limits::cgroup(),
        ports: holder::ports(&questions.ports, published),
        places,
        programs,
        clock: Clock {
            here: unix(SystemTime::now()),
            there,
            not_before: newest(),
        },
        others: left::others(),
        proxies: proxies(),
        bundle: bundle(),
        stale: left::stale(settings),
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
