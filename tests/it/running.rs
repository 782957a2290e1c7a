//! A process runner with a directory of its own and the real keeper, and what it told.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use labctl::dashboard::job::spec::{Limits, Priority, Spec};
use labctl::dashboard::job::{Job, JobId, Phase, Seen, State};
use labctl::dashboard::log::Line;
use labctl::dashboard::runner::process::{Options, ProcessRunner};
use labctl::dashboard::runner::{Runner as _, Told};
use tokio::sync::{mpsc, watch};

static COUNT: AtomicU32 = AtomicU32::new(0);
/// How long a test waits for what must happen.
const LIMIT: Duration = Duration::from_secs(30);

/// A runner, and what it told so far.
pub(crate) struct Running {
    pub(crate) dir: PathBuf,
    top: Option<tempfile::TempDir>,
    pub(crate) runner: ProcessRunner,
    pub(crate) seen: watch::Receiver<BTreeMap<JobId, Seen>>,
    /// Everything told of each job, in order.
    pub(crate) history: Arc<Mutex<Vec<(JobId, Seen)>>>,
    watching: tokio::task::JoinHandle<()>,
    /// What makes the ids of this bench's jobs its own: what is left of a job is looked for by its id.
    base: i64,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Running {
    pub(crate) fn new(slots: usize) -> Self {
        let top = tempfile::tempdir().expect("a directory");
        let mut bench = Self::at(top.path(), slots);
        bench.top = Some(top);
        bench
    }

    pub(crate) fn at(dir: &Path, slots: usize) -> Self {
        let runner = ProcessRunner::open(options(dir, slots)).expect("opened");
        let (sender, seen) = watch::channel(BTreeMap::new());
        let history = Arc::new(Mutex::new(Vec::new()));
        let (told, mut telling) = mpsc::channel(64);
        let watching = tokio::spawn({
            let (runner, history) = (runner.clone(), Arc::clone(&history));
            async move {
                tokio::join!(runner.watch(told), async {
                    while let Some(told) = telling.recv().await {
                        if let Told::Seen(id, seen) = told {
                            history.lock().expect("not poisoned").push((id, seen.clone()));
                            sender.send_modify(|all| _ = all.insert(id, seen));
                        }
                    }
                });
            }
        });
        Self {
            dir: dir.to_owned(),
            top: None,
            runner,
            seen,
            history,
            watching,
            base: i64::from(std::process::id()) << 22 | i64::from(COUNT.fetch_add(1, Ordering::Relaxed)) << 8,
        }
    }

    pub(crate) fn id(&self, number: i64) -> JobId {
        JobId::from_number(self.base | number).expect("an id")
    }

    pub(crate) async fn begin(&self, id: i64, spec: &Spec) -> Job {
        let job = job(self.id(id), spec);
        self.runner.begin(&job, spec).await.expect("begun");
        job
    }

    /// Waits until a job is seen in a way.
    pub(crate) async fn until(&self, job: &Job, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let mut seen = self.seen.clone();
        let found = tokio::time::timeout(LIMIT, seen.wait_for(|all| all.get(&job.id).is_some_and(&wanted))).await;
        if let Ok(all) = found {
            return all.expect("it is told")[&job.id].clone();
        }
        panic!("{what} was never seen, but {:?}", self.seen.borrow().get(&job.id))
    }

    /// Waits until a job has written something.
    pub(crate) async fn output_of(&self, job: &Job) {
        let output = self.dir.join("jobs").join(job.id.to_string()).join("output.log");
        wait_until("the first line", || {
            std::fs::read(&output).is_ok_and(|text| !text.is_empty())
        })
        .await;
    }

    pub(crate) async fn end_of(&self, job: &Job) -> Seen {
        let ended = |seen: &Seen| matches!(seen.phase, Phase::Succeeded | Phase::Failed | Phase::Gone);
        self.until(job, "the end", ended).await
    }

    pub(crate) async fn lines(&self, job: &Job) -> Vec<Line> {
        self.lines_from(job, "", 1).await.0
    }

    pub(crate) async fn lines_from(&self, job: &Job, position: &str, next: u64) -> (Vec<Line>, String) {
        let (sender, mut batches) = mpsc::channel(4);
        let (followed, read) = tokio::join!(self.runner.follow(job, position, next, sender), async {
            let mut out = (Vec::new(), position.to_owned());
            while let Some(batch) = batches.recv().await {
                out.0.extend(batch.lines);
                out.1 = batch.position;
            }
            out
        });
        followed.expect("followed");
        read
    }

    /// Runs a job to its end.
    pub(crate) async fn run(&self, id: i64, spec: &Spec) -> (Seen, Vec<Line>) {
        let job = self.begin(id, spec).await;
        let seen = self.end_of(&job).await;
        let lines = self.lines(&job).await;
        assert_eq!(
            left_of(job.id),
            [] as [String; 0],
            "nothing may be left of a job that has ended"
        );
        (seen, lines)
    }
}

pub(crate) fn options(dir: &Path, slots: usize) -> Options {
    Options {
        dir: dir.to_owned(),
        slots: NonZeroUsize::new(slots),
        program: Some(env!("CARGO_BIN_EXE_labctl").into()),
    }
}

pub(crate) fn job(id: JobId, spec: &Spec) -> Job {
    Job {
        id,
        name: spec.name.clone(),
        owner: "somebody".into(),
        state: if spec.suspend { State::Suspended } else { State::Pending },
        reason: None,
        message: None,
        template: None,
        labels: BTreeMap::new(),
        parent: None,
        created_ms: 0,
        started_ms: None,
        finished_ms: None,
        exit_code: None,
        attempts: 0,
        cancelling: false,
        log_complete: false,
        version: 1,
    }
}

pub(crate) fn program(command: &[&str]) -> Spec {
    Spec {
        name: "test".into(),
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        image: None,
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        retries: 0,
        suspend: false,
        priority: Priority::Normal,
        limits: Limits {
            seconds: 60,
            ..Limits::default()
        },
    }
}

pub(crate) fn shell(script: &str) -> Spec {
    program(&["/bin/sh", "-c", script])
}

pub(crate) fn python(script: &str) -> Spec {
    program(&["python3", "-c", script])
}

pub(crate) fn text(lines: &[Line]) -> Vec<String> {
    lines
        .iter()
        .map(|line| String::from_utf8_lossy(&line.bytes).into_owned())
        .collect()
}

/// Returns the command lines of processes that still run for a job, by its id in their environment or arguments.
pub(crate) fn left_of(id: JobId) -> Vec<String> {
    let mark = id.to_string();
    let has = |path: PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(&mark)
    };
    let mut out = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let is_process = entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|byte| byte.is_ascii_digit());
        if is_process && (has(entry.path().join("environ")) || has(entry.path().join("cmdline"))) {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            out.push(String::from_utf8_lossy(&line).replace('\0', " "));
        }
    }
    out
}

pub(crate) async fn wait_until(what: &str, mut wanted: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !wanted() {
        assert!(Instant::now() < until, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
