//! The servers that are measured, as processes.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::load::{self, Ask};

/// How long a server may take to answer.
const START: Duration = Duration::from_secs(30);

/// A server that runs until this is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

#[expect(
    clippy::disallowed_methods,
    reason = "a server must end with the bench, and its own pid is what is looked at"
)]
fn command(program: &Path) -> Command {
    Command::new(program)
}

fn free_address() -> Result<SocketAddr> {
    // Free now, and nobody else on this machine looks for one.
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn log(dir: &Path, name: &str) -> Result<File> {
    File::create(dir.join(name)).context("make a log")
}

impl Server {
    /// Starts labctl.
    pub(crate) fn labctl(dir: &Path, store: &str, args: &[&str]) -> Result<Self> {
        let address = free_address()?;
        let child = command(Path::new(env!("CARGO_BIN_EXE_labctl")))
            .args([
                "serve",
                "--listen",
                &address.to_string(),
                "--store",
                store,
                "--drain",
                "0s",
                // Its jobs would go on.
                "--stop-jobs",
            ])
            .arg("--data-dir")
            .arg(dir)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log(dir, "labctl.log")?)
            .spawn()
            .context("start labctl")?;
        Ok(Self { child, address })
    }

    /// Waits for the first 200 of a list of jobs.
    pub(crate) async fn ready(&self) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = load::once(self.address, &Ask::get("/jobs?limit=1")).await {
            ensure!(begun.elapsed() < START, "a server does not answer: {error:#}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Returns the resident memory of the process and its children that are workers of it.
    pub(crate) fn resident(&self) -> Result<Resident> {
        let mut sum = Resident::default();
        for pid in self.processes()? {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the server is gone")?;
            let kib = |name: &str| -> u64 {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
                    .unwrap_or(0)
            };
            sum.all += kib("VmRSS");
            sum.own += kib("RssAnon");
            sum.peak += kib("VmHWM");
        }
        Ok(sum)
    }

    /// The process itself; of uvicorn its workers, too. Jobs of labctl are sessions of their own and do not count.
    fn processes(&self) -> Result<Vec<u32>> {
        let mut all = vec![self.child.id()];
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // After the name in parentheses: state, parent.
            let parent = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            let argv = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if parent == Some(self.child.id()) && argv.contains("multiprocessing") && argv.contains("spawn_main") {
                all.push(pid);
            }
        }
        Ok(all)
    }

    /// Returns how many descriptors and threads the process has.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let count = |what: &str| -> Result<usize> {
            let entries =
                std::fs::read_dir(format!("/proc/{}/{what}", self.child.id())).context("the server is gone")?;
            Ok(entries.count())
        };
        Ok(Counts {
            descriptors: count("fd")?,
            threads: count("task")?,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        _ = self.child.wait();
    }
}

/// Memory, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Resident {
    /// All that is in memory, with files that are mapped: the program, the database.
    pub(crate) all: u64,
    /// What is the process's own.
    own: u64,
    /// The most that was in memory.
    peak: u64,
}

impl fmt::Display for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, own, peak) = (self.all >> 10, self.own >> 10, self.peak >> 10);
        write!(
            f,
            "{all} MiB (of which {own} MiB are no mapped files; the peak was {peak} MiB)"
        )
    }
}

/// What a process has open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} descriptors, {} threads", self.descriptors, self.threads)
    }
}

/// The yardstick, installed.
pub(crate) struct Peer {
    python: PathBuf,
    app: PathBuf,
}

impl Peer {
    /// Installs it with pip, where it is not there yet.
    pub(crate) fn installed() -> Result<Self> {
        let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/serve/peer");
        let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peer");
        let python = venv.join("bin/python");
        let done = venv.join("installed");
        if !done.exists() {
            run(command(Path::new("python3")).args(["-m", "venv"]).arg(&venv))?;
            let mut pip = command(&python);
            pip.args(["-m", "pip", "install", "--quiet", "--requirement"]);
            run(pip.arg(app.join("requirements.txt")))?;
            File::create(done)?;
        }
        Ok(Self { python, app })
    }

    fn python(&self, database: &str) -> Command {
        let mut command = command(&self.python);
        command
            .current_dir(&self.app)
            .env("DATABASE_URL", database)
            .env("SYNCHRONOUS", "FULL")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Gives it the jobs that labctl has.
    pub(crate) fn seed(&self, database: &str, rows: &[u8]) -> Result<()> {
        let mut child = self.python(database).arg("seed.py").stdin(Stdio::piped()).spawn()?;
        child.stdin.take().context("no pipe")?.write_all(rows)?;
        ensure!(child.wait()?.success(), "the yardstick cannot be seeded");
        Ok(())
    }

    /// Starts it with a worker a processor.
    pub(crate) fn server(&self, dir: &Path, database: &str) -> Result<Server> {
        let address = free_address()?;
        let workers = std::thread::available_parallelism()?.to_string();
        let child = self
            .python(database)
            .args([
                "-m",
                "uvicorn",
                "app:app",
                "--workers",
                &workers,
                "--port",
                &address.port().to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(log(dir, "peer.log")?)
            .stderr(log(dir, "peer.err.log")?)
            .spawn()
            .context("start uvicorn")?;
        Ok(Server { child, address })
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
