//! Running programs: the one place that spawns processes.
//!
//! A non-zero exit *is* an error that carries the argv, the code and the end of the output. A program runs in a process
//! group of its own, so Ctrl-C reaches labctl first, and a command that is given up takes its children with it.

mod running;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// How many lines of a failed program's output its error shows.
const TAIL_LINES: usize = 12;
/// How much of the captured output is kept; what is more is dropped from the front.
const KEEP_BYTES: usize = 8 << 20;

pub use self::running::Running;

/// Called with each line of a running program's output.
pub type OnLine = Arc<dyn Fn(&str) + Send + Sync>;

/// A program to run.
#[derive(Clone)]
pub struct Cmd {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    without: Vec<OsString>,
    dir: Option<PathBuf>,
    stdin: Vec<u8>,
    limit: Option<Duration>,
    log: Option<PathBuf>,
    on_line: Option<OnLine>,
}

impl Cmd {
    /// Names the program; without a slash it is looked up on PATH.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            without: Vec::new(),
            dir: None,
            stdin: Vec::new(),
            limit: None,
            log: None,
            on_line: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Leads kubectl, helm and what calls them to the cluster of a kubeconfig, and to no other: helm takes these variables
    /// over `KUBECONFIG`.
    #[must_use]
    pub fn on_cluster(self, kubeconfig: impl Into<OsString>) -> Self {
        self.env("KUBECONFIG", kubeconfig)
            .without_env("HELM_KUBECONTEXT")
            .without_env("HELM_KUBEAPISERVER")
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn without_env(mut self, name: impl Into<OsString>) -> Self {
        self.without.push(name.into());
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Gives the program something to read; without it standard input is empty.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Gives the program up after this long.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Appends the whole output to a file, which errors name.
    #[must_use]
    pub fn log(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    /// Calls `f` with every line of output as it comes.
    #[must_use]
    pub fn on_line(mut self, f: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_line = Some(Arc::new(f));
        self
    }

    /// Returns the command as a person would type it.
    pub fn line(&self) -> String {
        let mut text = quote(&self.program.to_string_lossy());
        for arg in &self.args {
            text.push(' ');
            text.push_str(&quote(&arg.to_string_lossy()));
        }
        text
    }

    /// Returns the program's name without its directory.
    pub fn name(&self) -> String {
        self.program
            .file_name()
            .map_or_else(|| self.program.to_string_lossy(), |name| name.to_string_lossy())
            .into_owned()
    }

    /// Returns the arguments.
    pub fn argv(&self) -> &[OsString] {
        &self.args
    }
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// What a program that ended well has printed.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Why a program did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It could not be started.
    #[error("start `{program}`: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It ended with another exit code than 0, or by a signal.
    #[error("`{line}` {how}{}", tail_text(.tail, .log.as_deref()))]
    Failed {
        /// The whole command.
        line: String,
        /// `exited with 1` or `was ended by signal 9`.
        how: String,
        /// Its exit code, where it has one.
        code: Option<i32>,
        /// The end of its output.
        tail: Vec<String>,
        /// All of its output that was kept.
        output: Box<Output>,
        /// The file with all of it.
        log: Option<PathBuf>,
    },
    /// It took longer than it may.
    #[error("`{line}` took longer than {}s{}", .limit.as_secs(), tail_text(.tail, .log.as_deref()))]
    Timeout {
        /// The whole command.
        line: String,
        /// How long it may take.
        limit: Duration,
        /// The end of its output.
        tail: Vec<String>,
        /// The file with all of it.
        log: Option<PathBuf>,
    },
    /// Reading its output or writing its log failed.
    #[error("talk to `{line}`: {source}")]
    Io {
        /// The whole command.
        line: String,
        /// Why.
        source: std::io::Error,
    },
}

impl ExecError {
    /// Returns whether the program is not there.
    pub fn not_found(&self) -> bool {
        matches!(self, Self::Start { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }

    /// Returns the exit code, where the program ran to its end.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Failed { code, .. } => *code,
            _ => None,
        }
    }

    /// Returns the file with the whole output, where there is one.
    pub fn log(&self) -> Option<&Path> {
        match self {
            Self::Failed { log, .. } | Self::Timeout { log, .. } => log.as_deref(),
            _ => None,
        }
    }

    /// Returns the end of the output, a line an entry.
    pub fn tail(&self) -> &[String] {
        match self {
            Self::Failed { tail, .. } | Self::Timeout { tail, .. } => tail,
            _ => &[],
        }
    }
}

fn tail_text(tail: &[String], log: Option<&Path>) -> String {
    let mut text = String::new();
    for line in tail {
        text.push_str("\n  | ");
        text.push_str(line);
    }
    if let Some(log) = log {
        text.push_str("\n  the whole output: ");
        text.push_str(&log.display().to_string());
    }
    text
}

/// Runs programs.
#[async_trait]
pub trait Exec: Send + Sync {
    /// Runs a program to its end. Dropping the future ends the program and its children.
    ///
    /// # Errors
    /// See [`ExecError`]; a non-zero exit is one.
    async fn run(&self, cmd: &Cmd) -> Result<Output, ExecError>;
}

/// Runs real programs.
pub struct System;

/// Ends a process group when it is dropped before the program ended.
struct Group(Option<rustix::process::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

struct Captured {
    text: Vec<u8>,
}

impl Captured {
    fn push(&mut self, line: &[u8]) {
        self.text.extend_from_slice(line);
        if self.text.len() > KEEP_BYTES {
            let cut = self.text.len() - KEEP_BYTES / 2;
            self.text.drain(..cut);
        }
    }
}

#[async_trait]
impl Exec for System {
    async fn run(&self, cmd: &Cmd) -> Result<Output, ExecError> {
        let mut command = to_command(cmd);
        command
            .stdin(if cmd.stdin.is_empty() {
                Stdio::null()
            } else {
                Stdio::piped()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| ExecError::Start {
            program: cmd.program.display().to_string(),
            source,
        })?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        let mut group = Group(pid);

        let work = async {
            if let Some(mut stdin) = child.stdin.take() {
                // A program that ends without reading all of it has its own exit code to say so.
                _ = stdin.write_all(&cmd.stdin).await;
            }
            let (sender, mut lines) = tokio::sync::mpsc::channel::<(bool, Vec<u8>)>(256);
            let out = child.stdout.take().map(|pipe| pump(pipe, true, sender.clone()));
            let err = child.stderr.take().map(|pipe| pump(pipe, false, sender.clone()));
            drop(sender);
            let pumps = async {
                tokio::join!(
                    async {
                        if let Some(pump) = out {
                            pump.await;
                        }
                    },
                    async {
                        if let Some(pump) = err {
                            pump.await;
                        }
                    }
                )
            };
            let mut log = match &cmd.log {
                Some(path) => Some(open_log(path, &cmd.line()).await?),
                None => None,
            };
            let mut stdout = Captured { text: Vec::new() };
            let mut stderr = Captured { text: Vec::new() };
            let mut tail = std::collections::VecDeque::with_capacity(TAIL_LINES);
            let collect = async {
                while let Some((is_out, line)) = lines.recv().await {
                    if let Some(log) = &mut log {
                        log.write_all(&line).await?;
                    }
                    let text = String::from_utf8_lossy(&line);
                    let shown = text.trim_end();
                    if let Some(f) = &cmd.on_line {
                        f(shown);
                    }
                    if !shown.trim().is_empty() {
                        if tail.len() == TAIL_LINES {
                            tail.pop_front();
                        }
                        tail.push_back(shown.to_owned());
                    }
                    if is_out { &mut stdout } else { &mut stderr }.push(&line);
                }
                if let Some(log) = &mut log {
                    log.flush().await?;
                }
                Ok::<(), std::io::Error>(())
            };
            let (_, collected) = tokio::join!(pumps, collect);
            collected?;
            let status = child.wait().await?;
            Ok::<_, std::io::Error>((status, stdout, stderr, tail))
        };

        let ended = match cmd.limit {
            Some(limit) => tokio::time::timeout(limit, work).await,
            None => Ok(work.await),
        };
        let Ok(ended) = ended else {
            return Err(ExecError::Timeout {
                line: cmd.line(),
                limit: cmd.limit.unwrap_or_default(),
                tail: Vec::new(),
                log: cmd.log.clone(),
            });
        };
        let (status, stdout, stderr, tail) = ended.map_err(|source| ExecError::Io {
            line: cmd.line(),
            source,
        })?;
        group.0 = None;
        let output = Output {
            stdout: String::from_utf8_lossy(&stdout.text).into_owned(),
            stderr: String::from_utf8_lossy(&stderr.text).into_owned(),
        };
        if status.success() {
            return Ok(output);
        }
        let how = if let Some(code) = status.code() {
            format!("exited with {code}")
        } else {
            use std::os::unix::process::ExitStatusExt;
            format!("was ended by signal {}", status.signal().unwrap_or_default())
        };
        Err(ExecError::Failed {
            line: cmd.line(),
            how,
            code: status.code(),
            tail: tail.into_iter().collect(),
            output: Box::new(output),
            log: cmd.log.clone(),
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that spawns programs")]
fn to_command(cmd: &Cmd) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(&cmd.program);
    command.args(&cmd.args);
    for name in &cmd.without {
        command.env_remove(name);
    }
    command.envs(cmd.env.iter().map(|(name, value)| (name, value)));
    if let Some(dir) = &cmd.dir {
        command.current_dir(dir);
    }
    command
}

async fn pump(
    pipe: impl tokio::io::AsyncRead + Unpin,
    is_out: bool,
    sender: tokio::sync::mpsc::Sender<(bool, Vec<u8>)>,
) {
    let mut reader = BufReader::with_capacity(64 << 10, pipe);
    loop {
        let mut line = Vec::new();
        // A "line" without an end must not grow without one either.
        let mut limited = (&mut reader).take(1 << 20);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if sender.send((is_out, line)).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn open_log(path: &Path, line: &str) -> std::io::Result<tokio::io::BufWriter<tokio::fs::File>> {
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    let file = tokio::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .await?;
    let mut log = tokio::io::BufWriter::new(file);
    log.write_all(format!("$ {line}\n").as_bytes()).await?;
    Ok(log)
}

/// Starts a program that outlives labctl: a session of its own, output appended to a log. Returns its pid.
///
/// # Errors
/// The log cannot be opened or the program cannot be started.
pub fn start_daemon(cmd: &Cmd, log: &Path) -> Result<u32, ExecError> {
    // Of the standard library, whose handle may be dropped while the program runs.
    let child = alone(cmd, log)?.into_std().spawn();
    Ok(child.map_err(|source| not_started(cmd, source))?.id())
}

/// Prepares a program that reads nothing and appends its output to a file.
fn alone(cmd: &Cmd, output: &Path) -> Result<tokio::process::Command, ExecError> {
    let io_error = |source| ExecError::Io {
        line: cmd.line(),
        source,
    };
    if let Some(parent) = output.parent() {
        std::fs::create_dir_all(parent).map_err(io_error)?;
    }
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(output)
        .map_err(io_error)?;
    let also = file.try_clone().map_err(io_error)?;
    let mut command = to_command(cmd);
    // A group of its own keeps the terminal's Ctrl-C away; `setsid` would need `unsafe`.
    command.process_group(0).stdin(Stdio::null()).stdout(file).stderr(also);
    Ok(command)
}

fn not_started(cmd: &Cmd, source: std::io::Error) -> ExecError {
    ExecError::Start {
        program: cmd.program.display().to_string(),
        source,
    }
}

/// Ends the programs of this name that an earlier labctl left behind when it was killed, and returns how many there were.
///
/// They are known by `mark` on their command line: a path in the lab's own state directory. Where there is no `/proc`,
/// none is found.
pub async fn end_orphans(name: &str, mark: &Path) -> usize {
    let mark = mark.to_string_lossy();
    let mut ended = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> = line
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let is_it = Path::new(&words[0]).file_name().is_some_and(|file| file == name);
        if is_it
            && words.iter().any(|word| word.starts_with(&*mark))
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            // Each was started as the leader of a group of its own.
            _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            ended.push(entry.path());
        }
    }
    for path in &ended {
        for _ in 0..100 {
            if path.join("exe").read_link().is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    ended.len()
}

/// Becomes a program, for `labctl kubectl ..`: the terminal, signals and the exit code are its own from then on, and
/// nothing is left of it when it is ended. Returns only where that cannot be done.
pub fn become_program(cmd: &Cmd) -> ExecError {
    let mut command = to_command(cmd);
    ExecError::Start {
        program: cmd.program.display().to_string(),
        source: std::os::unix::process::CommandExt::exec(command.as_std_mut()),
    }
}

/// Returns the first file of this name on PATH that can be executed.
pub fn find_on_path(name: &str) -> Option<PathBuf> {
    all_on_path(name).into_iter().next()
}

/// Returns every file of this name on PATH that can be executed, in PATH's order.
pub fn all_on_path(name: &str) -> Vec<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let Some(path) = crate::config::variable("PATH") else {
        return Vec::new();
    };
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .filter(|file| {
            file.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
        .collect()
}

impl fmt::Debug for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Cmd {
        Cmd::new("/bin/sh").arg("-c").arg(script)
    }

    #[tokio::test]
    async fn a_nonzero_exit_is_an_error_with_the_end_of_the_output() {
        let error = System
            .run(&sh("echo one; echo two >&2; exit 3"))
            .await
            .expect_err("it exits with 3");
        assert_eq!(error.code(), Some(3));
        assert!(error.to_string().contains("| two"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_program_is_told_apart() {
        let error = System
            .run(&Cmd::new("labctl-no-such-program"))
            .await
            .expect_err("it is not there");
        assert!(error.not_found());
    }

    #[tokio::test]
    async fn a_hanging_program_is_given_up_with_its_children() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mark = dir.path().join("mark");
        let script = format!("(sleep 2; touch {}) & wait", mark.display());
        let error = System
            .run(&sh(&script).limit(Duration::from_millis(200)))
            .await
            .expect_err("it hangs");
        assert!(matches!(error, ExecError::Timeout { .. }));
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert!(!mark.exists(), "the grandchild went on");
    }

    #[tokio::test]
    async fn output_is_streamed_logged_and_returned() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let log = dir.path().join("logs/x.log");
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen_too = Arc::clone(&seen);
        let output = System
            .run(&sh("echo a; cat").stdin("b").log(&log).on_line(move |line| {
                seen_too.lock().expect("not poisoned").push(line.to_owned());
            }))
            .await
            .expect("it ends well");
        assert_eq!(output.stdout, "a\nb");
        assert_eq!(*seen.lock().expect("not poisoned"), ["a", "b"]);
        assert!(std::fs::read_to_string(&log).expect("a log").ends_with("a\nb"));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_a_killed_labctl_left_behind_is_ended_and_nothing_else() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mark = dir.path().join("lab");
        let link = dir.path().join("kind");
        std::os::unix::fs::symlink("/bin/sh", &link).expect("a link");
        let spawn = |word: &Path| {
            let cmd = Cmd::new(&link).args(["-c", "sleep 30; :"]).arg("sh").arg(word);
            tokio::spawn(async move { System.run(&cmd).await })
        };
        let ours = spawn(&mark.join("kind.yaml"));
        let other = spawn(&dir.path().join("other/kind.yaml"));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(end_orphans("kind", &mark).await, 1);
        assert!(ours.await.expect("joined").is_err());
        assert!(!other.is_finished());
        other.abort();
    }

    #[test]
    fn a_command_reads_as_it_would_be_typed() {
        assert_eq!(
            Cmd::new("kind").arg("create").arg("it's").arg("").line(),
            r"kind create 'it'\''s' ''"
        );
    }
}
