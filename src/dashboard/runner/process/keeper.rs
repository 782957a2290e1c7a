//! The keeper of one job: labctl again, started by the server, below which the job's program runs.
//!
//! Its standard input is its lifeline: instructions come in on it, and when it closes (the server was killed, however)
//! the keeper ends the job and everything below it, unless the server said before that it leaves (`lifeline`). What the program writes it appends to a file; how the job is it
//! writes to another. Both outlive the server. On its standard output it rings: a byte says that there is something new.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::end::{PROCESSES, Why, exit_code, failure};
use super::lifeline::Lifeline;
use super::output::{Head, Writer};
use super::place::{Instructions, Life, Place, Record, private_dir};
use super::stage::{self, Refusal};
use super::tree::Tree;
use crate::dashboard::job::{clipped, reason};
use crate::dashboard::log::{Cutter, Stream};
use crate::drive::files::Lock;

/// The hidden verb.
pub const VERB: &str = "job-keeper";

/// Rung when there is new output.
pub(super) const OUTPUT: u8 = b'o';
/// Rung when the record changed.
pub(super) const RECORD: u8 = b'r';

/// How long a job has between SIGTERM and SIGKILL.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How long it is waited for processes that do not end at SIGKILL because the kernel holds them.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is waited for the end of the output once nobody of the job is left to write any.
const DRAIN: Duration = Duration::from_secs(1);
/// How long it is waited before another attempt: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often what a job uses is looked at, and how often where it is near what it may use.
const LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(20));
/// How much of a stream is read at once.
const READ_BYTES: usize = 64 << 10;

/// Keeps the job of a directory to its end.
pub fn main(dir: Option<OsString>) -> ExitCode {
    let kept = dir
        .context("labctl job-keeper is started by `labctl serve` alone, which names a job's directory")
        .and_then(|dir| start(Place::new(dir)));
    match kept {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The server reads this, and makes it the job's message.
            _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(place: Place) -> Result<()> {
    // It leads a session already where a shell started it, which is as good.
    _ = rustix::process::setsid();
    let own = rustix::process::getpid();
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(own)).context("become the reaper of the job's processes")?;
    let lock = Lock::try_take(&place.lock(), &format!("the keeper with pid {}", own.as_raw_nonzero()))?;
    let _lock = lock.map_err(|holder| anyhow!("the job has a keeper: {holder}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut keeper = Keeper::new(place, own).await?;
        let kept = keeper.keep().await;
        // Whatever failed, nothing may be left.
        keeper.kill();
        kept
    })
}

struct Ending {
    why: Why,
    /// When what does not end by itself is killed; nothing once it was.
    kill: Option<Instant>,
}

/// What became of an attempt.
enum Ended {
    /// The program did not begin.
    Refused(Refusal),
    /// It ended.
    Status(WaitStatus),
}

/// What is read of one stream of the program.
struct Source {
    stream: Stream,
    pipe: Option<pipe::Receiver>,
    buffer: Box<[u8]>,
    cutter: Cutter,
}

impl Source {
    fn new(stream: Stream, pipe: Option<impl Into<OwnedFd>>) -> Result<Self> {
        let pipe = pipe.context("the program's output has no pipe")?;
        Ok(Self {
            stream,
            pipe: Some(pipe::Receiver::from_owned_fd(pipe.into()).context("read the program's output")?),
            buffer: vec![0; READ_BYTES].into(),
            cutter: Cutter::default(),
        })
    }

    /// Returns how many bytes were read; 0 at the end, after which it is not asked again.
    async fn read(&mut self) -> usize {
        let Some(pipe) = &mut self.pipe else { return 0 };
        let read = pipe.read(&mut self.buffer).await.unwrap_or(0);
        if read == 0 {
            self.pipe = None;
        }
        read
    }

    fn is_open(&self) -> bool {
        self.pipe.is_some()
    }
}

struct Keeper {
    place: Place,
    instructions: Instructions,
    record: Record,
    output: Writer,
    lifeline: Lifeline,
    children: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    deadline: Instant,
    own: Pid,
    program: Option<Pid>,
    ending: Option<Ending>,
    look: Instant,
}

impl Keeper {
    async fn new(place: Place, own: Pid) -> Result<Self> {
        let (lifeline, first) = Lifeline::take().await?;
        let instructions: Instructions = serde_json::from_str(&first).context("read the instructions")?;
        let record = Record {
            keeper: Some(own.as_raw_nonzero().get()),
            // What an earlier keeper wrote down when the job was held back.
            ..place.record().unwrap_or_default()
        };
        let now = Instant::now();
        Ok(Self {
            output: Writer::open(&place.output())?,
            place,
            deadline: now + Duration::from_secs(instructions.limits.seconds.into()),
            instructions,
            record,
            lifeline,
            children: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            own,
            program: None,
            ending: None,
            look: now,
        })
    }

    /// Keeps the job until it has ended or is held back.
    async fn keep(&mut self) -> Result<()> {
        loop {
            let ended = self.attempt().await?;
            let Some(pause) = self.judge(ended)? else {
                return Ok(());
            };
            let until = Instant::now() + pause;
            while self.ending.is_none() && Instant::now() < until {
                tokio::select! {
                    why = self.lifeline.told() => self.end(why)?,
                    _ = self.terminate.recv() => self.end(Why::ServerLost)?,
                    _ = self.interrupt.recv() => self.end(Why::ServerLost)?,
                    () = sleep_until(self.deadline) => self.end(Why::Deadline)?,
                    () = sleep_until(until) => {}
                }
            }
            if let Some(ending) = self.ending.take() {
                return self.ended_by(&ending.why);
            }
        }
    }

    fn tree(&self) -> Tree {
        Tree::new(self.own, self.program)
    }

    /// Runs the program once, until neither it nor anything below it is left.
    async fn attempt(&mut self) -> Result<Ended> {
        self.record.attempts += 1;
        let mut sources = match self.begin()? {
            Ok(sources) => sources,
            Err(refusal) => return Ok(Ended::Refused(refusal)),
        };
        self.record.life = Life::Running;
        self.record.reason = None;
        self.record.message = None;
        self.record.started_ms.get_or_insert_with(|| now_us() / 1000);
        self.save()?;
        self.look = Instant::now() + LOOK.1;
        let mut status = None;
        while status.is_none() {
            let kill = self.ending.as_ref().and_then(|ending| ending.kill);
            let [out, err] = &mut sources;
            tokio::select! {
                read = out.read(), if out.is_open() => self.took(out, read)?,
                read = err.read(), if err.is_open() => self.took(err, read)?,
                _ = self.children.recv() => {}
                why = self.lifeline.told() => self.end(why)?,
                _ = self.terminate.recv() => self.end(Why::ServerLost)?,
                _ = self.interrupt.recv() => self.end(Why::ServerLost)?,
                () = sleep_until(self.deadline), if self.ending.is_none() => self.end(Why::Deadline)?,
                () = sleep_until(kill.unwrap_or(self.deadline)), if kill.is_some() => self.kill_now(),
                () = sleep_until(self.look) => self.look()?,
            }
            status = reap(self.program);
        }
        // What the program left running ends with it, as in a container.
        self.kill();
        self.program = None;
        for source in &mut sources {
            // Only a process that is none of ours any more can still hold the pipe open.
            while source.is_open() {
                let read = tokio::time::timeout(DRAIN, source.read()).await.unwrap_or(0);
                if read == 0 {
                    break;
                }
                self.took(source, read)?;
            }
            if let Some(rest) = source.cutter.finish() {
                self.output.line(self.head(source.stream), false, &rest);
                self.write()?;
            }
        }
        Ok(status.map_or_else(
            || {
                Ended::Refused(Refusal {
                    message: "the program's end was missed".to_owned(),
                    code: 126,
                })
            },
            Ended::Status,
        ))
    }

    /// Begins the program in a fresh directory; says why where it does not begin.
    fn begin(&mut self) -> Result<Result<[Source; 2], Refusal>> {
        for dir in [self.place.work(), self.place.tmp()] {
            fresh(&dir, self.record.attempts)?;
        }
        let (mut ours, theirs) = UnixStream::pair().context("make a socket")?;
        #[expect(
            clippy::disallowed_methods,
            reason = "a keeper waits for every process below it itself"
        )]
        let mut command = std::process::Command::new(own_program()?);
        command
            .arg0("labctl")
            .arg(stage::VERB)
            .env_clear()
            .env("HOME", self.place.work())
            .env("TMPDIR", self.place.tmp())
            .envs(&self.instructions.env)
            .env("LABCTL_JOB_ID", &self.instructions.id)
            .current_dir(self.place.work())
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("start the job's program")?;
        // The other end of the socket must be the program's alone, or its end is never seen.
        drop(command);
        self.program = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let orders = stage::Orders {
            command: self.instructions.command.clone(),
            limits: self.instructions.limits,
            keeper: self.own.as_raw_nonzero().get(),
        };
        let orders = serde_json::to_vec(&orders).context("write orders")?;
        // Where it ends before it has read them, what it says or its end tells more than this error would.
        _ = ours.write_all(&orders);
        _ = ours.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        _ = ours.read_to_end(&mut answer);
        if !answer.is_empty() {
            let refusal = serde_json::from_slice(&answer).context("read why the program was not begun")?;
            self.kill();
            return Ok(Err(refusal));
        }
        Ok(Ok([
            Source::new(Stream::Stdout, child.stdout.take())?,
            Source::new(Stream::Stderr, child.stderr.take())?,
        ]))
    }

    fn head(&self, stream: Stream) -> Head {
        Head {
            stream,
            attempt: self.record.attempts,
            at_us: now_us(),
        }
    }

    /// Keeps what was read of a stream, up to what the job may write.
    fn took(&mut self, source: &mut Source, read: usize) -> Result<()> {
        let limit = u64::from(self.instructions.limits.output_mib) << 20;
        let room = usize::try_from(limit - self.record.output.min(limit)).unwrap_or(usize::MAX);
        let kept = read.min(room);
        if kept > 0 {
            self.record.output += kept as u64;
            let head = self.head(source.stream);
            let output = &mut self.output;
            source.cutter.push(&source.buffer[..kept], |line, partial| {
                output.line(head, partial, &line);
            });
            self.write()?;
        }
        if read > kept {
            self.end(Why::Output)?;
        }
        Ok(())
    }

    /// Writes lines to the file and rings. A job whose output cannot be kept is ended.
    fn write(&mut self) -> Result<()> {
        match self.output.flush() {
            Ok(()) => self.ring(OUTPUT),
            Err(error) => self.end(Why::OutputLost(error.to_string()))?,
        }
        Ok(())
    }

    fn note(&mut self, text: &str) -> Result<()> {
        self.output.line(self.head(Stream::Note), false, text.as_bytes());
        self.write()
    }

    fn ring(&self, what: u8) {
        self.lifeline.ring(what);
    }

    fn save(&self) -> Result<()> {
        self.place.write_record(&self.record)?;
        self.ring(RECORD);
        Ok(())
    }

    /// Looks at what the job uses.
    fn look(&mut self) -> Result<()> {
        let mut pause = LOOK.0;
        let usage = self.tree().usage();
        let limit = u64::from(self.instructions.limits.memory_mib) << 20;
        if usage.memory > limit / 2 || usage.processes > PROCESSES / 4 {
            pause = LOOK.1;
        }
        if usage.processes > PROCESSES {
            self.end(Why::Processes)?;
        } else if usage.memory > limit && self.tree().memory() > limit {
            self.end(Why::Memory)?;
        }
        self.look = Instant::now() + pause;
        Ok(())
    }

    /// Begins to end the job, or the attempt; the first reason stays.
    fn end(&mut self, why: Why) -> Result<()> {
        if let Some(ending) = &mut self.ending {
            // Who holds a job back and then cancels it wants it cancelled.
            if ending.why == Why::Held && why == Why::Asked {
                ending.why = why;
            }
            return Ok(());
        }
        let now = Instant::now();
        let at_once = matches!(why, Why::Memory | Why::Processes);
        let (reason, message) = why.words(&self.instructions.limits);
        self.ending = Some(Ending {
            why,
            kill: Some(if at_once { now } else { now + GRACE }),
        });
        self.record.life = Life::Ending;
        self.record.reason = reason;
        self.record.message = message;
        if !at_once {
            self.tree().signal(Signal::TERM);
            // One that is stopped would not take notice.
            self.tree().signal(Signal::CONT);
        }
        self.save()
    }

    /// Ends what has not ended in its time.
    fn kill_now(&mut self) {
        if let Some(ending) = &mut self.ending {
            ending.kill = None;
        }
        self.tree().signal(Signal::KILL);
    }

    /// Ends everything below the keeper, and waits until it is gone.
    fn kill(&mut self) {
        let program = self.program;
        self.tree().kill(PATIENCE, || _ = reap(program));
    }

    /// Decides what comes after an attempt: a pause and another one, or nothing.
    fn judge(&mut self, ended: Ended) -> Result<Option<Duration>> {
        let status = match ended {
            Ended::Refused(refusal) => {
                self.record.exit_code = Some(refusal.code);
                self.finish(Life::Failed, Some(reason::START.to_owned()), Some(&refusal.message))?;
                return Ok(None);
            }
            Ended::Status(status) => status,
        };
        self.record.exit_code = exit_code(status);
        if let Some(ending) = self.ending.take() {
            self.ended_by(&ending.why)?;
            return Ok(None);
        }
        if self.record.exit_code == Some(0) {
            self.finish(Life::Succeeded, None, None)?;
            return Ok(None);
        }
        self.record.failures += 1;
        let (reason, how) = failure(status);
        let Record { attempts, failures, .. } = self.record;
        if failures > self.instructions.retries {
            let (reason, message) = if failures == 1 {
                (reason, format!("the program {how}"))
            } else {
                (
                    reason::RETRIES,
                    format!("{failures} attempts failed; the last one {how}"),
                )
            };
            self.finish(Life::Failed, Some(reason.to_owned()), Some(&message))?;
            return Ok(None);
        }
        let pause = BACKOFF.0.saturating_mul(1 << (failures - 1).min(10)).min(BACKOFF.1);
        let message = format!("attempt {attempts} {how}; the next one begins in {} s", pause.as_secs());
        self.note(&message)?;
        self.record.life = Life::Between;
        self.record.reason = Some(reason.to_owned());
        self.record.message = Some(message);
        self.save()?;
        Ok(Some(pause))
    }

    /// Writes down the end of a job that its keeper ended, or that it is held back.
    fn ended_by(&mut self, why: &Why) -> Result<()> {
        if *why == Why::Held {
            self.record.life = Life::Held;
            self.record.reason = None;
            self.record.message = None;
            return self.save();
        }
        let (reason, message) = why.words(&self.instructions.limits);
        if let Some(message) = &message
            && !matches!(why, Why::OutputLost(_))
        {
            self.note(message)?;
        }
        self.finish(Life::Failed, reason, message.as_deref())
    }

    fn finish(&mut self, life: Life, reason: Option<String>, message: Option<&str>) -> Result<()> {
        self.record.life = life;
        self.record.reason = reason;
        self.record.message = message.map(clipped);
        self.record.finished_ms = Some(now_us() / 1000);
        self.save()
    }
}

/// Reaps whatever has ended below the keeper; returns how the program ended where it was among that.
fn reap(program: Option<Pid>) -> Option<WaitStatus> {
    let mut found = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if Some(pid) == program {
            found = Some(status);
        }
    }
    found
}

/// Makes an empty directory where there may be one that an earlier attempt has filled.
fn fresh(dir: &std::path::Path, attempt: u32) -> Result<()> {
    if std::fs::remove_dir_all(dir).is_err() && dir.exists() {
        // The program took itself the right to remove something in it; the whole goes with the job.
        let aside = dir.with_extension(format!("before-{attempt}"));
        std::fs::rename(dir, &aside).with_context(|| format!("move `{}` out of the way", dir.display()))?;
    }
    private_dir(dir)
}

/// Returns this very program, also where its file has been replaced by a newer one.
pub(super) fn own_program() -> Result<std::path::PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok("/proc/self/exe".into());
    }
    std::env::current_exe().context("find the running program")
}

fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
