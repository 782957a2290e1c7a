//! Runs jobs as child processes of this machine: the runner that needs nothing.
//!
//! Each job runs below a [`keeper`], a process of its own that bounds the job, writes its output and its end to files,
//! and ends it when the server is killed: nothing of a job is left running, and the next server finds in the job's
//! directory what became of it (`place`). A server that is stopped leaves its jobs instead, and the next one takes them
//! up (`lifeline`).
//!
//! As many jobs run at once as there are slots; of the others the next one is that with the highest priority, and of those
//! the oldest.

mod end;
mod entry;
mod handover;
pub mod keeper;
mod lifeline;
mod output;
mod place;
pub mod stage;
mod tree;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{Notify, mpsc};

use self::entry::{Entry, Keeper, nothing};
use self::place::{Instructions, Life, Order, Place, Record, private_dir};
use super::{Batch, Runner, RunnerError, Told};
use crate::config;
use crate::dashboard::job::spec::{Priority, Spec};
use crate::dashboard::job::{Job, JobId, State, clipped, reason};
use crate::dashboard::log::{Line, Stream};
use crate::drive::files::Lock;
use crate::error::{Code, Diagnosis};

/// Where programs are looked for when the server has no PATH itself.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How many jobs that were forgotten are remembered, so that a row read before does not begin one again.
const FORGOTTEN: usize = 10_000;
/// Where reading goes on in an output that cannot be read any further.
const LOST: &str = "lost";

/// How the runner is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where jobs have their directories; for one server alone.
    pub dir: PathBuf,
    /// How many jobs may run at once; by default as many as there are processors.
    pub slots: Option<NonZeroUsize>,
    /// The labctl that keeps jobs; by default the one that runs.
    pub program: Option<PathBuf>,
}

/// See the module; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct ProcessRunner(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    slots: usize,
    program: PathBuf,
    jobs: Mutex<Jobs>,
    /// Rung when a job is in [`Jobs::changed`].
    changed: Notify,
    /// Rung when [`Jobs::running`] falls.
    parted: Notify,
    _lock: Lock,
}

#[derive(Default)]
struct Jobs {
    all: BTreeMap<JobId, Entry>,
    /// Those that wait for a slot, the next one first.
    waiting: BTreeSet<(Reverse<Priority>, JobId)>,
    /// How many keepers live.
    running: usize,
    /// Those that have not been told since they changed.
    changed: BTreeSet<JobId>,
    /// Those that were forgotten lately.
    forgotten: BTreeSet<JobId>,
    /// The server stops: nothing is begun any more.
    leaving: bool,
}

impl Jobs {
    fn stop_waiting(&mut self, id: JobId) {
        for priority in Priority::ALL {
            self.waiting.remove(&(Reverse(priority), id));
        }
    }
}

impl ProcessRunner {
    /// Takes the directory for this server and reads what became of the jobs in it. To be called within a runtime.
    ///
    /// # Errors
    /// Another server has the directory, or it cannot be used.
    pub fn open(options: Options) -> Result<Self> {
        let Options { dir, slots, program } = options;
        // A keeper works in its job's directory, where a relative path would lead elsewhere.
        let dir = std::path::absolute(&dir).with_context(|| format!("find the directory `{}`", dir.display()))?;
        private_dir(&dir)?;
        let who = format!("labctl serve with pid {}", std::process::id());
        let lock = Lock::try_take(&dir.join("lock"), &who)?.map_err(|holder| {
            Diagnosis::new(
                Code::LockHeld,
                format!("run jobs in `{}`: {holder} runs its jobs there", dir.display()),
            )
            .hint("stop that server, or give this one a directory of its own")
        })?;
        private_dir(&dir.join("jobs"))?;
        let slots = slots.or_else(|| std::thread::available_parallelism().ok());
        let runner = Self(Arc::new(Inner {
            slots: slots.map_or(1, NonZeroUsize::get),
            program: match program {
                Some(program) => program,
                None => keeper::own_program()?,
            },
            dir,
            jobs: Mutex::default(),
            changed: Notify::new(),
            parted: Notify::new(),
            _lock: lock,
        }));
        runner.find()?;
        Ok(runner)
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, id: JobId) -> Place {
        Place::new(self.0.dir.join("jobs").join(id.to_string()))
    }

    /// Reads the directories that an earlier server left.
    fn find(&self) -> Result<()> {
        let dir = self.0.dir.join("jobs");
        let entries = std::fs::read_dir(&dir).with_context(|| format!("read the directory `{}`", dir.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("read the directory `{}`", dir.display()))?;
            let id = entry.file_name().to_str().and_then(|name| name.parse::<JobId>().ok());
            let Some(id) = id else {
                // What another server had begun to remove.
                place::remove(entry.path());
                continue;
            };
            let place = self.place(id);
            let record = place.record();
            let held = record.as_ref().is_some_and(|record| record.life == Life::Held);
            let ended = record.as_ref().is_some_and(Record::is_final);
            let mut entry = Entry::new(place.spec(), held, record);
            if !ended && !held {
                if let Ok(stream) = lifeline::take_up(place.dir()) {
                    let (sender, orders) = mpsc::unbounded_channel();
                    entry.keeper = Keeper::Ours(sender);
                    self.jobs().running += 1;
                    tokio::spawn(self.clone().take_up(id, stream, orders));
                } else {
                    entry.keeper = Keeper::Orphan;
                    tokio::spawn(self.clone().wait_for_orphan(id));
                }
            }
            self.jobs().all.insert(id, entry);
        }
        Ok(())
    }

    /// Says that a job changed, to whoever watches and to whoever follows its output.
    fn tell(&self, jobs: &mut Jobs, id: JobId) {
        if let Some(entry) = jobs.all.get(&id) {
            entry.ring();
        }
        jobs.changed.insert(id);
        self.0.changed.notify_one();
    }

    /// Begins jobs that wait, as long as there are slots.
    fn fill_slots(&self, jobs: &mut Jobs) {
        while jobs.running < self.0.slots && !jobs.leaving {
            let Some((_, id)) = jobs.waiting.pop_first() else {
                return;
            };
            let Some(entry) = jobs.all.get_mut(&id) else { continue };
            let Some(spec) = entry.spec.clone() else { continue };
            let (sender, orders) = mpsc::unbounded_channel();
            entry.keeper = Keeper::Ours(sender);
            jobs.running += 1;
            tokio::spawn(self.clone().keep(id, spec, orders));
        }
    }

    fn wait_for_slot(&self, jobs: &mut Jobs, id: JobId) {
        if let Some(entry) = jobs.all.get(&id)
            && let Some(turn) = entry.turn(id)
            && !entry.held
            && !entry.lives()
            && !entry.is_final()
        {
            jobs.waiting.insert(turn);
            self.fill_slots(jobs);
        }
        self.tell(jobs, id);
    }

    /// Starts a job's keeper and listens to it until it ends.
    async fn keep(self, id: JobId, spec: Spec, orders: mpsc::UnboundedReceiver<Order>) {
        match self.run(id, &spec, orders).await {
            Ok(Some(said)) => self.settle(id, reason::GONE, &said).await,
            Ok(None) => self.left(id),
            Err(error) => self.settle(id, reason::GONE, &format!("{error:#}")).await,
        }
    }

    /// Returns what is to be said where the keeper ended without an end of the job; nothing where it was left.
    async fn run(&self, id: JobId, spec: &Spec, orders: mpsc::UnboundedReceiver<Order>) -> Result<Option<String>> {
        let place = self.place(id);
        place.make(spec)?;
        let (mut keeper, lifeline) = self.start(&place, id, spec).await?;
        let bell = keeper.stdout.take().context("a keeper has no bell")?;
        if self.listen(id, &place, bell, lifeline, orders).await {
            return Ok(None);
        }
        let status = keeper.wait().await.context("wait for a job's keeper")?;
        let mut said = String::new();
        if let Some(errors) = keeper.stderr.take() {
            let read = errors.take(4096);
            tokio::pin!(read);
            _ = tokio::time::timeout(Duration::from_secs(1), read.read_to_string(&mut said)).await;
        }
        Ok(Some(match said.trim() {
            "" => format!("the process that kept it ended too early ({status}), and its program with it"),
            said => format!("the process that kept it failed: {said}"),
        }))
    }

    /// Listens to a keeper until it has ended, or was killed. Says whether it was left instead.
    async fn listen(
        &self,
        id: JobId,
        place: &Place,
        mut bell: impl AsyncRead + Unpin,
        mut lifeline: impl AsyncWrite + Unpin,
        mut orders: mpsc::UnboundedReceiver<Order>,
    ) -> bool {
        let mut rung = [0; 1024];
        loop {
            tokio::select! {
                read = bell.read(&mut rung) => match read {
                    Ok(0) | Err(_) => return false,
                    Ok(read) => self.heard(id, place, &rung[..read]),
                },
                Some(order) = orders.recv() => {
                    // Where the keeper has ended, the bell says so next.
                    let said = lifeline.write_all(order.line().as_bytes()).await;
                    if order == Order::Leave && said.is_ok() {
                        return true;
                    }
                }
            }
        }
    }

    async fn start(&self, place: &Place, id: JobId, spec: &Spec) -> Result<(Child, ChildStdin)> {
        let instructions = instructions(id, spec);
        #[expect(
            clippy::disallowed_methods,
            reason = "a keeper is talked to as long as it lives; its exit code is waited for and told"
        )]
        let mut command = Command::new(&self.0.program);
        command
            .arg0("labctl")
            .arg(keeper::VERB)
            .arg(place.dir())
            .env_clear()
            .current_dir(place.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("start a job's keeper, `{}`", self.0.program.display()))?;
        let mut lifeline = child.stdin.take().context("a keeper has no lifeline")?;
        let mut line = serde_json::to_vec(&instructions).context("write instructions")?;
        line.push(b'\n');
        // Where it fails, the keeper has ended, and says why itself.
        _ = lifeline.write_all(&line).await;
        Ok((child, lifeline))
    }

    /// Takes notice of what a keeper rang for.
    fn heard(&self, id: JobId, place: &Place, rung: &[u8]) {
        let record = rung.contains(&keeper::RECORD).then(|| place.record()).flatten();
        let mut jobs = self.jobs();
        let Some(entry) = jobs.all.get_mut(&id) else { return };
        // That the job has ended is told when its keeper has: then nobody writes into its directory any more.
        match record {
            Some(record) if !record.is_final() && record.life != Life::Held => {
                entry.record = Some(record);
                self.tell(&mut jobs, id);
            }
            _ => entry.ring(),
        }
    }

    /// Learns how a job is whose keeper lives no more. Where the keeper did not write down an end, it was killed: then
    /// what it left is ended, and the end is written down for it.
    async fn settle(&self, id: JobId, lost: &'static str, message: &str) {
        let place = self.place(id);
        let message = message.to_owned();
        let settled = tokio::task::spawn_blocking(move || {
            let record = place.record().unwrap_or_default();
            if record.is_final() || record.life == Life::Held {
                return record;
            }
            let left = tree::sweep(record.keeper, &id.to_string());
            tracing::warn!(job_id = %id, left, message, "a job lost its keeper");
            let record = Record {
                life: Life::Failed,
                reason: Some(lost.to_owned()),
                message: Some(clipped(&message)),
                finished_ms: Some(jiff::Timestamp::now().as_millisecond()),
                ..record
            };
            if let Err(error) = place.write_record(&record) {
                tracing::warn!(job_id = %id, error = format!("{error:#}"), "the end of a job could not be written down");
            }
            record
        })
        .await;
        let mut jobs = self.jobs();
        let ours = jobs.all.get_mut(&id).map(|entry| {
            let ours = matches!(entry.keeper, Keeper::Ours(_));
            entry.keeper = Keeper::None;
            entry.record = settled.ok().or(entry.record.take());
            if entry.is_final() {
                entry.held = false;
            }
            ours
        });
        if ours == Some(true) {
            jobs.running -= 1;
            self.0.parted.notify_one();
        }
        // It may have been resumed before it was held.
        self.wait_for_slot(&mut jobs, id);
        self.fill_slots(&mut jobs);
    }

    fn forget_id(&self, id: JobId) -> Result<(), RunnerError> {
        let mut jobs = self.jobs();
        if jobs.all.get(&id).is_some_and(Entry::lives) {
            return Err(RunnerError::Unavailable(anyhow!("the job {id} still runs")));
        }
        jobs.all.remove(&id);
        jobs.stop_waiting(id);
        jobs.changed.remove(&id);
        jobs.forgotten.insert(id);
        if jobs.forgotten.len() > FORGOTTEN {
            jobs.forgotten.pop_first();
        }
        drop(jobs);
        let dir = self.place(id).dir().to_owned();
        let gone = self.0.dir.join("jobs").join(format!("{id}.gone"));
        match std::fs::rename(&dir, &gone) {
            Ok(()) => place::remove(gone),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(RunnerError::Unavailable(
                    anyhow::Error::new(error).context(format!("remove `{}`", dir.display())),
                ));
            }
        }
        Ok(())
    }
}

fn instructions(id: JobId, spec: &Spec) -> Instructions {
    let path = config::variable("PATH").unwrap_or_else(|| OsString::from(PATH));
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), path.to_string_lossy().into_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    env.extend(spec.env.clone());
    Instructions {
        id: id.to_string(),
        command: spec.command.clone(),
        env,
        retries: spec.retries,
        limits: spec.limits,
    }
}

#[async_trait]
impl Runner for ProcessRunner {
    fn name(&self) -> String {
        format!("processes, {} at once", self.0.slots)
    }

    async fn begin(&self, job: &Job, spec: &Spec) -> Result<(), RunnerError> {
        let mut jobs = self.jobs();
        if jobs.forgotten.contains(&job.id) {
            return Ok(());
        }
        match jobs.all.get_mut(&job.id) {
            Some(entry) if entry.spec.is_some() => return Ok(()),
            Some(entry) => entry.spec = Some(spec.clone()),
            None => {
                let held = job.state == State::Suspended;
                jobs.all.insert(job.id, Entry::new(Some(spec.clone()), held, None));
            }
        }
        self.wait_for_slot(&mut jobs, job.id);
        Ok(())
    }

    async fn end(&self, job: &Job) -> Result<(), RunnerError> {
        let id = job.id;
        let mut jobs = self.jobs();
        let Some(entry) = jobs.all.get_mut(&id) else {
            self.tell(&mut jobs, id);
            return Ok(());
        };
        if entry.lives() {
            entry.order(Order::End);
            return Ok(());
        }
        match &mut entry.record {
            Some(record) if record.is_final() => {}
            Some(record) => {
                record.life = Life::Failed;
                record.reason = Some(reason::CANCELLED.to_owned());
                record.message = None;
                record.finished_ms = Some(jiff::Timestamp::now().as_millisecond());
                entry.held = false;
                self.place(id).write_record(record).map_err(RunnerError::Unavailable)?;
            }
            // It never ran, so there is nothing of it.
            None => {
                jobs.all.remove(&id);
            }
        }
        jobs.stop_waiting(id);
        self.tell(&mut jobs, id);
        Ok(())
    }

    async fn suspend(&self, job: &Job, suspend: bool) -> Result<(), RunnerError> {
        let id = job.id;
        let mut jobs = self.jobs();
        // One that is not begun here is begun as its row says, here or elsewhere.
        let Some(entry) = jobs.all.get_mut(&id).filter(|entry| !entry.is_final()) else {
            return Ok(());
        };
        entry.held = suspend;
        if suspend {
            entry.order(Order::Hold);
            jobs.stop_waiting(id);
            self.tell(&mut jobs, id);
        } else {
            self.wait_for_slot(&mut jobs, id);
        }
        Ok(())
    }

    async fn forget(&self, job: &Job) -> Result<(), RunnerError> {
        self.forget_id(job.id)
    }

    async fn discard(&self, id: JobId) -> Result<(), RunnerError> {
        if let Some(entry) = self.jobs().all.get(&id)
            && entry.lives()
        {
            entry.order(Order::End);
        }
        self.forget_id(id)
    }

    async fn leave(&self, stop: bool) -> usize {
        self.part(stop).await
    }

    async fn follow(
        &self,
        job: &Job,
        position: &str,
        next: u64,
        lines: mpsc::Sender<Batch>,
    ) -> Result<(), RunnerError> {
        if position == LOST {
            return Ok(());
        }
        let unavailable = RunnerError::Unavailable;
        let mut reader = output::Reader::new(self.place(job.id).output(), position, next).map_err(unavailable)?;
        let Some(mut rings) = self.jobs().all.get(&job.id).map(|entry| entry.rings.subscribe()) else {
            return Ok(());
        };
        loop {
            // Asked before reading: what was written before the end is read after it.
            let quiet = self.jobs().all.get(&job.id).is_none_or(Entry::is_quiet);
            rings.mark_unchanged();
            loop {
                match reader.read().await {
                    Ok(Some(batch)) => {
                        if lines.send(batch).await.is_err() {
                            return Ok(());
                        }
                    }
                    Ok(None) => break,
                    Err(output::ReadError::Io(error)) => return Err(RunnerError::Unavailable(error)),
                    Err(output::ReadError::Damaged(why)) => {
                        tracing::warn!(job_id = %job.id, why, "a job's output is damaged");
                        _ = lines.send(lost(reader.next(), &why)).await;
                        return Ok(());
                    }
                }
            }
            if quiet || rings.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn watch(&self, told: mpsc::Sender<Told>) {
        let known: Vec<JobId> = {
            let mut jobs = self.jobs();
            jobs.changed.clear();
            jobs.all.keys().copied().collect()
        };
        let tell = async |id: JobId| {
            let seen = self
                .jobs()
                .all
                .get(&id)
                .map_or_else(nothing, |entry| entry.seen(self.0.slots));
            told.send(Told::Seen(id, seen)).await
        };
        for id in known {
            if tell(id).await.is_err() {
                return;
            }
        }
        if told.send(Told::Synced).await.is_err() {
            return;
        }
        loop {
            let changed = std::mem::take(&mut self.jobs().changed);
            for id in changed {
                if tell(id).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = told.closed() => return,
            }
        }
    }
}

/// Says in place of lines that cannot be read that they are missing.
fn lost(number: u64, why: &str) -> Batch {
    Batch {
        lines: vec![Line {
            number,
            at_us: jiff::Timestamp::now().as_microsecond(),
            attempt: 0,
            stream: Stream::Note,
            partial: false,
            bytes: format!("the rest of the output is lost: {why}").into(),
        }],
        position: LOST.to_owned(),
    }
}
