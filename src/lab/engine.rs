//! The container engine that labctl manages: installed from the system's packages, run by labctl, removed by it.
//!
//! It exists only where no engine answers, or where the one that answers cannot run privileged containers because this
//! machine withholds a capability. It has its own socket, data and log, so an engine that the user installs later is
//! not disturbed by it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::capability::{self, RUNTIME};
use crate::config::Settings;
use crate::drive::debian::{self, Release};
use crate::drive::docker::{Docker, Source, managed_socket};
use crate::drive::exec::{Cmd, find_on_path, start_daemon};
use crate::drive::files;
use crate::error::{Code, Diagnose, Diagnosis};
use crate::world::World;

/// How long a daemon may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a daemon may take to stop its containers and end.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The packages with the daemon, its runtime and what it calls.
pub const PACKAGES: [&str; 2] = ["docker.io", "iptables"];

/// Why the engine that answers will not do; nothing where it will.
///
/// # Errors
/// The engine does not say how it is set up.
pub async fn unfit(docker: &Docker) -> Result<Option<String>> {
    let withheld = capability::withheld();
    if withheld.is_empty() {
        return Ok(None);
    }
    let info = docker
        .api()
        .info()
        .await
        .diagnose(|| crate::drive::docker::failed("ask the engine how it is set up"))?;
    // An engine in a virtual machine or elsewhere does not run under this machine's bounding set.
    let local = docker.host().starts_with("unix://") && info.operating_system.as_deref() != Some("Docker Desktop");
    // Whoever set another runtime than the usual one may have solved this in their own way.
    let usual = info.default_runtime.as_deref() == Some("runc");
    Ok((local && usual).then(|| {
        format!(
            "this machine withholds {}, so its privileged containers fail",
            withheld.join(", ")
        )
    }))
}

/// Files of the managed engine.
struct Paths {
    dir: PathBuf,
    config: PathBuf,
    pid: PathBuf,
    log: PathBuf,
    data: PathBuf,
    runtime: PathBuf,
    socket: PathBuf,
    exec_root: PathBuf,
}

impl Paths {
    fn of(settings: &Settings) -> Self {
        let dir = settings.dirs.engine().to_owned();
        let socket = managed_socket(settings);
        Self {
            config: dir.join("daemon.json"),
            pid: dir.join("dockerd.pid"),
            log: dir.join("dockerd.log"),
            data: dir.join("data"),
            runtime: dir.join(RUNTIME),
            exec_root: socket.with_extension("run"),
            socket,
            dir,
        }
    }
}

/// Returns the log of the managed engine.
pub fn log(settings: &Settings) -> PathBuf {
    Paths::of(settings).log
}

/// Returns whether there is a managed engine, running or not.
pub fn exists(settings: &Settings) -> bool {
    Paths::of(settings).config.exists()
}

/// Returns the pid of the managed daemon, if it runs.
pub fn running(settings: &Settings) -> Option<u32> {
    let paths = Paths::of(settings);
    let pid: u32 = std::fs::read_to_string(&paths.pid).ok()?.trim().parse().ok()?;
    // A pid file outlives a reboot or a `kill -9`, and its number may be another program's by now.
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line);
    (line.contains("dockerd") && line.contains(&*paths.config.to_string_lossy())).then_some(pid)
}

/// Says how to get an engine on this system where labctl cannot install one.
pub fn advice(release: &Release) -> Diagnosis {
    let diagnosis = Diagnosis::new(Code::EngineMissing, "no container engine answers");
    if cfg!(target_os = "macos") {
        return diagnosis.hint("brew install colima docker && colima start --cpu 4 --memory 8");
    }
    if release.has_apt() {
        return diagnosis
            .hint("sudo labctl up --yes installs docker.io and starts it")
            .hint("or by hand: sudo apt-get install -y docker.io && sudo systemctl start docker");
    }
    match release.id.as_str() {
        "fedora" | "rhel" | "centos" | "rocky" | "almalinux" => {
            diagnosis.hint("sudo dnf install -y moby-engine && sudo systemctl enable --now docker")
        }
        "arch" => diagnosis.hint("sudo pacman -S --needed docker && sudo systemctl enable --now docker"),
        "alpine" => diagnosis.hint("apk add docker && rc-service docker start"),
        _ => diagnosis.hint("https://docs.docker.com/engine/install/ lists the packages of each system"),
    }
}

/// Starts the managed engine and waits until it answers. The packages must be installed.
///
/// # Errors
/// [`Code::EngineFailed`] with the end of its log.
pub async fn start(world: &World, doing: impl Fn(&str)) -> Result<Docker> {
    let settings = world.settings();
    let paths = Paths::of(settings);
    files::make_dir(&paths.dir)?;
    if let Some(parent) = paths.socket.parent() {
        files::make_dir(parent)?;
    }
    if let Some(pid) = running(settings) {
        // It runs and did not answer, or is set up for another world.
        doing("stopping the daemon that does not answer");
        end(pid).await?;
    }
    _ = std::fs::remove_file(&paths.pid);
    _ = std::fs::remove_file(&paths.socket);
    end_left_over_containerd(&paths).await;
    write_config(&paths)?;
    let dockerd = find_on_path("dockerd")
        .or_else(|| Some(PathBuf::from("/usr/sbin/dockerd")).filter(|path| path.exists()))
        .context("no dockerd on PATH")
        .diagnose(|| advice(&Release::of_this_machine()))?;
    doing("starting dockerd");
    let cmd = Cmd::new(dockerd)
        .arg("--config-file")
        .arg(&paths.config)
        .dir("/")
        .without_env("DOCKER_HOST");
    let pid = start_daemon(&cmd, &paths.log)?;
    let deadline = Instant::now() + START_LIMIT;
    let host = format!("unix://{}", paths.socket.display());
    loop {
        if let Ok(docker) = Docker::connect(&host, Source::Managed).await {
            world.forget_docker().await;
            return Ok(docker);
        }
        let ended = !Path::new(&format!("/proc/{pid}/exe")).exists();
        if ended || Instant::now() > deadline {
            let how = if ended {
                "ended at once".to_owned()
            } else {
                format!("did not answer within {}s", START_LIMIT.as_secs())
            };
            return Err(anyhow::anyhow!("{}", tail(&paths.log)).context(
                Diagnosis::new(Code::EngineFailed, format!("the container engine {how}"))
                    .hint(format!("its log: {}", paths.log.display()))
                    .hint("labctl doctor looks at what it needs of this machine"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn write_config(paths: &Paths) -> Result<()> {
    let mut config = serde_json::json!({
        "data-root": paths.data,
        "exec-root": paths.exec_root,
        "pidfile": paths.pid,
        "hosts": [format!("unix://{}", paths.socket.display())],
        "log-driver": "json-file",
        "log-opts": {"max-size": "10m", "max-file": "2"},
    });
    if !capability::withheld().is_empty() {
        // A copy, because the executable that runs now may be built anew or removed while containers run.
        let own = std::env::current_exe().context("find this executable")?;
        let bytes = std::fs::read(&own).with_context(|| format!("read `{}`", own.display()))?;
        files::write_executable(&paths.runtime, bytes)?;
        config["runtimes"] = serde_json::json!({ RUNTIME: {"path": paths.runtime} });
        config["default-runtime"] = RUNTIME.into();
    }
    files::write(&paths.config, format!("{config:#}\n"))
}

/// Ends the containerd that a killed dockerd left behind: a new dockerd cannot start one beside it.
async fn end_left_over_containerd(paths: &Paths) {
    let pid_file = paths.exec_root.join("containerd/containerd.pid");
    let Ok(text) = std::fs::read_to_string(&pid_file) else {
        return;
    };
    let Ok(pid) = text.trim().parse::<u32>() else { return };
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    if line.contains("containerd") && line.contains(&*paths.exec_root.to_string_lossy()) {
        _ = end(pid).await;
    }
    _ = std::fs::remove_file(&pid_file);
}

/// Asks a process to end, waits, and makes it end.
async fn end(pid: u32) -> Result<()> {
    let Some(target) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return Ok(());
    };
    let there = || Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
        if rustix::process::kill_process(target, signal).is_err() {
            return Ok(());
        }
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            if !there() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Err(Diagnosis::new(Code::EngineFailed, format!("the process {pid} does not end")).error())
}

/// Stops the managed engine and removes everything of it; returns the bytes freed, nothing where there is none.
///
/// # Errors
/// It does not end, or its files cannot be removed.
pub async fn remove(world: &World) -> Result<Option<u64>> {
    let settings = world.settings();
    let paths = Paths::of(settings);
    if !paths.dir.exists() {
        return Ok(None);
    }
    if let Some(pid) = running(settings) {
        end(pid).await?;
    }
    end_left_over_containerd(&paths).await;
    world.forget_docker().await;
    unmount_below(world, &paths).await?;
    let bytes = files::disk_usage(&paths.dir);
    for dir in [&paths.dir, &paths.exec_root] {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(files::explain(error, "remove", dir));
            }
            _ => {}
        }
    }
    _ = std::fs::remove_file(&paths.socket);
    if let Some(parent) = paths.socket.parent() {
        // Only if no other lab's engine has its socket there.
        _ = std::fs::remove_dir(parent);
    }
    Ok(Some(bytes))
}

/// A daemon that was killed leaves overlay and network mounts behind, which keep its directory from being removed.
async fn unmount_below(world: &World, paths: &Paths) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut points: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|point| Path::new(point).starts_with(&paths.data) || Path::new(point).starts_with(&paths.exec_root))
        .collect();
    points.sort_unstable();
    for point in points.into_iter().rev() {
        world.exec().run(&Cmd::new("umount").arg("--lazy").arg(point)).await?;
    }
    Ok(())
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(6)..].join("\n")
}

/// Returns whether labctl may install packages here: root, and a system with apt.
pub fn can_install(release: &Release) -> bool {
    release.has_apt() && debian::is_root()
}
