//! From a job that is created to a log that is stored: control, service and tails over real processes and a real store.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use labctl::dashboard::control::Control;
use labctl::dashboard::health::Health;
use labctl::dashboard::job::spec::{Limits, Spec};
use labctl::dashboard::job::{Change, Job, JobId, State};
use labctl::dashboard::log::hub::Hub;
use labctl::dashboard::log::{Chunk, Line, Stream};
use labctl::dashboard::runner::process::{Options, ProcessRunner};
use labctl::dashboard::service::tail::{Item, Select};
use labctl::dashboard::service::{Action, Caller, Service, ServiceError};
use labctl::dashboard::store::sqlite::{self, Sqlite};
use labctl::dashboard::store::{Changed, Counts, Created, Filter, JobStore, NewJob, Page, Scope, StoreError};

const LIMIT: Duration = Duration::from_secs(30);

/// A store that can be taken away.
struct Flaky {
    inner: Sqlite,
    down: AtomicBool,
    /// How often it was asked while it was away.
    refused: AtomicUsize,
    /// How long storing a part of a log takes.
    slow: std::sync::Mutex<Duration>,
}

impl Flaky {
    fn answer(&self) -> Result<&Sqlite, StoreError> {
        if self.down.load(Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(StoreError::Unavailable(anyhow::anyhow!("taken away by the test")));
        }
        Ok(&self.inner)
    }
}

#[async_trait]
impl JobStore for Flaky {
    fn name(&self) -> String {
        self.inner.name()
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.answer()?.ping().await
    }
    async fn newest(&self) -> Result<Option<JobId>, StoreError> {
        self.answer()?.newest().await
    }
    async fn create(&self, job: NewJob) -> Result<Created, StoreError> {
        self.answer()?.create(job).await
    }
    async fn job(&self, id: JobId, scope: &Scope) -> Result<Option<Job>, StoreError> {
        self.answer()?.job(id, scope).await
    }
    async fn spec(&self, id: JobId) -> Result<Option<Spec>, StoreError> {
        self.answer()?.spec(id).await
    }
    async fn list(&self, scope: &Scope, filter: &Filter, page: Page) -> Result<Vec<Job>, StoreError> {
        self.answer()?.list(scope, filter, page).await
    }
    async fn counts(&self, scope: &Scope) -> Result<Counts, StoreError> {
        self.answer()?.counts(scope).await
    }
    async fn change(&self, id: JobId, version: i64, change: &Change) -> Result<Option<Job>, StoreError> {
        self.answer()?.change(id, version, change).await
    }
    async fn unfinished(&self, after: Option<JobId>, limit: u32) -> Result<Vec<Job>, StoreError> {
        self.answer()?.unfinished(after, limit).await
    }
    async fn delete(&self, id: JobId, scope: &Scope) -> Result<bool, StoreError> {
        self.answer()?.delete(id, scope).await
    }
    async fn expired(&self, ended_before_ms: i64, limit: u32) -> Result<Vec<Job>, StoreError> {
        self.answer()?.expired(ended_before_ms, limit).await
    }
    async fn append_log(&self, id: JobId, chunk: &Chunk) -> Result<(), StoreError> {
        let slow = *self.slow.lock().expect("not poisoned");
        tokio::time::sleep(slow).await;
        self.answer()?.append_log(id, chunk).await
    }
    async fn log(&self, id: JobId, from: u64, limit: u32) -> Result<Vec<Chunk>, StoreError> {
        self.answer()?.log(id, from, limit).await
    }
    async fn log_end(&self, id: JobId) -> Result<Option<Chunk>, StoreError> {
        self.answer()?.log_end(id).await
    }
    async fn log_bytes(&self) -> Result<u64, StoreError> {
        self.answer()?.log_bytes().await
    }
    async fn lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<bool, StoreError> {
        self.answer()?.lease(name, holder, ttl).await
    }
    fn changes(&self) -> tokio::sync::broadcast::Receiver<Changed> {
        self.inner.changes()
    }
}

/// A dashboard without HTTP.
struct Dashboard {
    dir: PathBuf,
    _top: Option<tempfile::TempDir>,
    store: Arc<Flaky>,
    service: Service,
    control: Control,
    work: tokio::task::JoinHandle<()>,
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl Dashboard {
    async fn new(slots: usize) -> Self {
        let top = tempfile::tempdir().expect("a directory");
        let mut dashboard = Self::at(top.path(), "one", slots).await;
        dashboard._top = Some(top);
        dashboard
    }

    /// Begins one with a database that others may share, and a directory for jobs of its own.
    async fn at(dir: &Path, name: &str, slots: usize) -> Self {
        let inner = Sqlite::open(&dir.join("jobs.sqlite"), sqlite::Settings::default())
            .await
            .expect("a store");
        let store = Arc::new(Flaky {
            inner,
            down: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
            slow: std::sync::Mutex::default(),
        });
        let dir = dir.join(name);
        let runner = Arc::new(
            ProcessRunner::open(Options {
                dir: dir.clone(),
                slots: NonZeroUsize::new(slots),
                program: Some(env!("CARGO_BIN_EXE_labctl").into()),
            })
            .expect("a runner"),
        );
        let hub = Hub::default();
        let control = Control::new(
            store.clone() as Arc<dyn JobStore>,
            runner.clone(),
            hub.clone(),
            Health::default(),
            name.to_owned(),
        );
        let service = Service::new(store.clone(), runner, control.clone(), hub)
            .await
            .expect("a service");
        let work = tokio::spawn({
            let control = control.clone();
            async move { control.run().await }
        });
        Self {
            dir,
            _top: None,
            store,
            service,
            control,
            work,
        }
    }

    async fn create(&self, spec: Spec) -> Job {
        match self.service.create(&caller(), spec, None).await.expect("created") {
            Created::New(job) => job,
            Created::Replayed(job) => panic!("{job:?} was there"),
        }
    }

    async fn job(&self, id: JobId) -> Job {
        self.service.job(&caller(), id).await.expect("there")
    }

    async fn until(&self, id: JobId, what: &str, wanted: impl Fn(&Job) -> bool) -> Job {
        let until = Instant::now() + LIMIT;
        loop {
            let job = self.job(id).await;
            if wanted(&job) {
                return job;
            }
            assert!(Instant::now() < until, "{what} did not happen: {job:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn whole(&self, id: JobId) -> Job {
        self.until(id, "a whole log", |job| job.log_complete).await
    }

    async fn act(&self, id: JobId, action: Action) -> Result<Job, ServiceError> {
        self.service.act(&caller(), id, action, None).await
    }

    /// Reads a log, waiting for its end.
    async fn follow(&self, id: JobId, select: Select) -> Vec<Line> {
        let select = Select { follow: true, ..select };
        let mut tail = self.service.tail(&caller(), id, select).await.expect("a tail");
        let mut out = Vec::new();
        loop {
            match tokio::time::timeout(LIMIT, tail.next())
                .await
                .expect("in time")
                .expect("read")
            {
                Some(Item::Lines { lines, .. }) => out.extend(lines),
                Some(gap @ Item::Gap { .. }) => panic!("{gap:?}"),
                None => return out,
            }
        }
    }

    async fn nothing_left(&self) {
        let jobs = self.dir.join("jobs");
        let until = Instant::now() + LIMIT;
        while let Some(left) = std::fs::read_dir(&jobs).expect("there").next() {
            assert!(Instant::now() < until, "{left:?} is left");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn caller() -> Caller {
    Caller {
        name: "ann".into(),
        admin: false,
    }
}

fn shell(script: &str) -> Spec {
    Spec {
        name: "test".into(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        image: None,
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        retries: 0,
        suspend: false,
        limits: Limits {
            seconds: 60,
            ..Limits::default()
        },
    }
}

fn text(lines: &[Line]) -> Vec<String> {
    lines
        .iter()
        .map(|line| String::from_utf8_lossy(&line.bytes).into_owned())
        .collect()
}

fn in_order(lines: &[Line]) {
    let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
    assert_eq!(
        numbers,
        (1..=lines.len() as u64).collect::<Vec<_>>(),
        "every line once and in order"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_and_its_log_is_stored_and_then_forgotten_by_the_runner() {
    let dashboard = Dashboard::new(2).await;
    let mut changes = dashboard.service.changes();
    let job = dashboard
        .create(shell("for i in 1 2 3 4 5; do echo $i; sleep 0.2; done"))
        .await;
    assert_eq!((job.state, job.version > 0), (State::Pending, true));
    let live = dashboard.follow(job.id, Select::default()).await;
    assert_eq!(text(&live), ["1", "2", "3", "4", "5"]);
    in_order(&live);
    let job = dashboard.whole(job.id).await;
    assert_eq!(
        (job.state, job.exit_code, job.attempts, job.reason),
        (State::Succeeded, Some(0), 1, None)
    );
    assert!(job.created_ms <= job.started_ms.expect("began") && job.started_ms < job.finished_ms);
    dashboard.nothing_left().await;
    assert_eq!(
        dashboard.follow(job.id, Select::default()).await,
        live,
        "the store has what was seen live"
    );
    let last = Select {
        tail: Some(2),
        ..Select::default()
    };
    assert_eq!(text(&dashboard.follow(job.id, last).await), ["4", "5"]);
    let mut states = Vec::new();
    while let Ok(change) = changes.try_recv() {
        if let Changed::Job(job) = change
            && states.last() != Some(&job.state)
        {
            states.push(job.state);
        }
    }
    assert_eq!(states, [State::Pending, State::Running, State::Succeeded]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_in_whatever_state_it_is() {
    let dashboard = Dashboard::new(1).await;
    let running = dashboard.create(shell("echo go; sleep 60")).await;
    dashboard
        .until(running.id, "running", |job| job.state == State::Running)
        .await;
    let pending = dashboard.create(shell("echo never")).await;
    let held = dashboard
        .create(Spec {
            suspend: true,
            ..shell("echo never")
        })
        .await;
    assert_eq!(held.state, State::Suspended);
    dashboard
        .until(pending.id, "waiting", |job| {
            job.reason.as_deref() == Some("WaitingForSlot")
        })
        .await;
    for id in [pending.id, held.id, running.id] {
        let asked = dashboard.act(id, Action::Cancel).await.expect("accepted");
        assert!(asked.cancelling && asked.reason.as_deref() == Some("Cancelled"));
        dashboard.act(id, Action::Cancel).await.expect("accepted twice");
        assert!(matches!(
            dashboard.act(id, Action::Suspend).await,
            Err(ServiceError::State(_))
        ));
        let job = dashboard.whole(id).await;
        assert_eq!(
            (job.state, job.reason.as_deref()),
            (State::Cancelled, Some("Cancelled"))
        );
        dashboard.act(id, Action::Cancel).await.expect("cancelled is cancelled");
        assert!(matches!(
            dashboard.act(id, Action::Resume).await,
            Err(ServiceError::State(_))
        ));
    }
    assert_eq!(text(&dashboard.follow(running.id, Select::default()).await), ["go"]);
    assert_eq!(dashboard.job(pending.id).await.attempts, 0);
    // As soon as it is created: what it did until then is known all the same.
    for _ in 0..5 {
        let job = dashboard.create(shell("sleep 60")).await;
        dashboard.act(job.id, Action::Cancel).await.expect("accepted");
        let job = dashboard.whole(job.id).await;
        assert_eq!(job.state, State::Cancelled);
        assert_eq!(job.started_ms.is_some(), job.attempts > 0);
    }
    let done = dashboard.create(shell("true")).await;
    dashboard.whole(done.id).await;
    let refused = dashboard.act(done.id, Action::Cancel).await;
    assert!(matches!(refused, Err(ServiceError::State(why)) if why.contains("succeeded")));
    dashboard.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_and_its_viewers_go_on_while_the_store_is_away() {
    let dashboard = Dashboard::new(2).await;
    let script = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; sleep 0.05; done";
    let job = dashboard.create(shell(script)).await;
    let mut tail = dashboard
        .service
        .tail(
            &caller(),
            job.id,
            Select {
                follow: true,
                ..Select::default()
            },
        )
        .await
        .expect("a tail");
    let mut seen = Vec::new();
    let mut while_away = 0;
    loop {
        match tail
            .next()
            .await
            .expect("a viewer that reads from the hub does not notice")
        {
            Some(Item::Lines { lines, .. }) => {
                if dashboard.store.down.load(Ordering::Relaxed) {
                    while_away += lines.len();
                }
                seen.extend(lines);
            }
            Some(gap @ Item::Gap { .. }) => panic!("{gap:?}"),
            None => break,
        }
        match seen.len() {
            10..20 => dashboard.store.down.store(true, Ordering::Relaxed),
            40.. => dashboard.store.down.store(false, Ordering::Relaxed),
            _ => {}
        }
    }
    assert!(while_away >= 15, "lines are shown as they come: {while_away}");
    assert!(dashboard.store.refused.load(Ordering::Relaxed) > 0);
    in_order(&seen);
    let job = dashboard.whole(job.id).await;
    assert_eq!((job.state, seen.len()), (State::Succeeded, 60));
    assert_eq!(dashboard.follow(job.id, Select::default()).await, seen);
    // One that ends while the store is away.
    let job = dashboard.create(shell("sleep 0.5; echo late; exit 4")).await;
    dashboard
        .until(job.id, "running", |job| job.state == State::Running)
        .await;
    dashboard.store.down.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(
        dashboard.service.job(&caller(), job.id).await,
        Err(ServiceError::Store(_))
    ));
    dashboard.store.down.store(false, Ordering::Relaxed);
    let job = dashboard.whole(job.id).await;
    assert_eq!((job.state, job.exit_code), (State::Failed, Some(4)));
    assert_eq!(text(&dashboard.follow(job.id, Select::default()).await), ["late"]);
    dashboard.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_slows_no_viewer() {
    let dashboard = Dashboard::new(2).await;
    *dashboard.store.slow.lock().expect("not poisoned") = Duration::from_secs(2);
    let job = dashboard
        .create(shell(
            "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; sleep 0.05; done",
        ))
        .await;
    let mut tail = dashboard
        .service
        .tail(
            &caller(),
            job.id,
            Select {
                follow: true,
                ..Select::default()
            },
        )
        .await
        .expect("a tail");
    let mut latest = Duration::ZERO;
    let mut lines = Vec::new();
    while lines.len() < 40 {
        let Some(Item::Lines { lines: new, .. }) = tail.next().await.expect("read") else {
            panic!("the log ended")
        };
        let now = jiff::Timestamp::now().as_microsecond();
        for line in &new {
            latest = latest.max(Duration::from_micros(
                u64::try_from(now - line.at_us).unwrap_or_default(),
            ));
        }
        lines.extend(new);
    }
    assert!(
        latest < Duration::from_secs(1),
        "a line came {latest:?} after it was written"
    );
    *dashboard.store.slow.lock().expect("not poisoned") = Duration::ZERO;
    dashboard.whole(job.id).await;
    assert_eq!(dashboard.follow(job.id, Select::default()).await, lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_change_a_job_at_once_each_sees_what_it_asked_for_or_why_not() {
    let dashboard = Arc::new(Dashboard::new(2).await);
    let job = dashboard.create(shell("trap '' TERM; sleep 60")).await;
    let job = dashboard
        .until(job.id, "running", |job| job.state == State::Running)
        .await;
    let stale = dashboard
        .service
        .act(&caller(), job.id, Action::Cancel, Some(job.version - 1))
        .await;
    assert!(matches!(stale, Err(ServiceError::Changed)), "{stale:?}");
    let asked = (0..20).map(|_| {
        let dashboard = Arc::clone(&dashboard);
        tokio::spawn(async move { dashboard.act(job.id, Action::Cancel).await })
    });
    for asked in futures_util::future::join_all(asked).await {
        assert!(asked.expect("joined").expect("accepted").cancelling);
    }
    assert_eq!(dashboard.whole(job.id).await.state, State::Cancelled);

    // Held back and let go on in any order: it ends as it should, and does not hang.
    let job = dashboard.create(shell("echo begin; sleep 0.3; echo end")).await;
    let asked = (0..12).map(|number| {
        let dashboard = Arc::clone(&dashboard);
        let action = if number % 2 == 0 {
            Action::Suspend
        } else {
            Action::Resume
        };
        tokio::spawn(async move { _ = dashboard.act(job.id, action).await })
    });
    futures_util::future::join_all(asked).await;
    // A resume that came before the last hold is no error, and the job may be held now.
    let until = Instant::now() + LIMIT;
    loop {
        _ = dashboard.act(job.id, Action::Resume).await;
        let job = dashboard.job(job.id).await;
        if job.state.is_final() {
            assert_eq!(job.state, State::Succeeded);
            break;
        }
        assert!(Instant::now() < until, "{job:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let lines = dashboard.follow(job.id, Select::default()).await;
    in_order(&lines);
    assert_eq!(text(&lines).last().map(String::as_str), Some("end"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_a_job_sees_it_through_being_held_back_and_tried_again() {
    let dashboard = Dashboard::new(2).await;
    let mark = dashboard.dir.join("mark");
    let script = format!(
        "echo begin; test -e {0} || {{ touch {0}; exec sleep 60; }}; echo end",
        mark.display()
    );
    let job = dashboard.create(shell(&script)).await;
    let service = dashboard.service.clone();
    let following = tokio::spawn(async move {
        let mut tail = service
            .tail(
                &caller(),
                job.id,
                Select {
                    follow: true,
                    ..Select::default()
                },
            )
            .await
            .expect("a tail");
        let mut lines = Vec::new();
        while let Some(Item::Lines { lines: new, .. }) = tail.next().await.expect("read") {
            lines.extend(new);
        }
        lines
    });
    while !mark.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let held = dashboard.act(job.id, Action::Suspend).await.expect("held");
    assert_eq!(held.state, State::Suspended);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let held = dashboard.job(job.id).await;
    assert_eq!((held.state, held.attempts), (State::Suspended, 1), "{held:?}");
    dashboard.act(job.id, Action::Resume).await.expect("resumed");
    let done = dashboard.whole(job.id).await;
    assert_eq!((done.state, done.attempts), (State::Succeeded, 2));
    let lines = tokio::time::timeout(LIMIT, following)
        .await
        .expect("in time")
        .expect("joined");
    assert_eq!(text(&lines), ["begin", "begin", "end"]);
    in_order(&lines);
    let second = Select {
        attempt: Some(2),
        ..Select::default()
    };
    assert_eq!(text(&dashboard.follow(job.id, second).await), ["begin", "end"]);

    let job = dashboard
        .create(Spec {
            retries: 1,
            ..shell("echo out; exit 1")
        })
        .await;
    let lines = dashboard.follow(job.id, Select::default()).await;
    let shape: Vec<_> = lines.iter().map(|line| (line.attempt, line.stream)).collect();
    assert_eq!(shape, [(1, Stream::Stdout), (1, Stream::Note), (2, Stream::Stdout)]);
    let job = dashboard.whole(job.id).await;
    assert_eq!(
        (job.state, job.reason.as_deref(), job.attempts),
        (State::Failed, Some("BackoffLimitExceeded"), 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_creates_one_job_however_often_it_is_sent() {
    let dashboard = Dashboard::new(2).await;
    let key = || Some("the-key".to_owned());
    let asked = (0..16).map(|_| {
        let service = dashboard.service.clone();
        tokio::spawn(async move { service.create(&caller(), shell("true"), key()).await })
    });
    let mut new = 0;
    let mut ids = Vec::new();
    for asked in futures_util::future::join_all(asked).await {
        match asked.expect("joined") {
            Ok(Created::New(job)) => {
                new += 1;
                ids.push(job.id);
            }
            Ok(Created::Replayed(job)) => ids.push(job.id),
            Err(ServiceError::KeyInFlight) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    ids.dedup();
    assert_eq!((new, ids.len()), (1, 1));
    let again = dashboard
        .service
        .create(&caller(), shell("true"), key())
        .await
        .expect("replayed");
    assert!(matches!(again, Created::Replayed(job) if job.id == ids[0]));
    let other = dashboard.service.create(&caller(), shell("false"), key()).await;
    assert!(matches!(other, Err(ServiceError::KeyReused)), "{other:?}");
    let bob = Caller {
        name: "bob".into(),
        admin: false,
    };
    let theirs = dashboard
        .service
        .create(&bob, shell("false"), key())
        .await
        .expect("a key is its owner's");
    assert!(matches!(theirs, Created::New(_)));
    for wrong in ["", "two words", "ä", &"x".repeat(256)] {
        let refused = dashboard
            .service
            .create(&caller(), shell("true"), Some(wrong.to_owned()))
            .await;
        assert!(matches!(refused, Err(ServiceError::Parameter(_))), "{wrong}");
    }
    // While the store is away nothing is created, and the same request works when it is back.
    dashboard.store.down.store(true, Ordering::Relaxed);
    let away = dashboard
        .service
        .create(&caller(), shell("true"), Some("later".into()))
        .await;
    assert!(matches!(away, Err(ServiceError::Store(StoreError::Unavailable(_)))));
    dashboard.store.down.store(false, Ordering::Relaxed);
    let back = dashboard
        .service
        .create(&caller(), shell("true"), Some("later".into()))
        .await;
    assert!(matches!(back, Ok(Created::New(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_deleted_when_it_has_ended_and_nothing_of_it_stays() {
    let dashboard = Dashboard::new(2).await;
    let job = dashboard.create(shell("echo begin; sleep 0.5; echo end")).await;
    dashboard
        .until(job.id, "running", |job| job.state == State::Running)
        .await;
    assert!(matches!(
        dashboard.service.delete(&caller(), job.id).await,
        Err(ServiceError::State(_))
    ));
    // As soon as it has ended, whether or not its log is stored.
    *dashboard.store.slow.lock().expect("not poisoned") = Duration::from_millis(300);
    dashboard.until(job.id, "the end", |job| job.state.is_final()).await;
    let mut tail = dashboard
        .service
        .tail(
            &caller(),
            job.id,
            Select {
                follow: true,
                ..Select::default()
            },
        )
        .await
        .expect("a tail");
    dashboard.service.delete(&caller(), job.id).await.expect("deleted");
    assert!(matches!(
        dashboard.service.delete(&caller(), job.id).await,
        Err(ServiceError::NotFound)
    ));
    let ended = tokio::time::timeout(LIMIT, async {
        loop {
            match tail.next().await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    });
    assert!(
        matches!(ended.await.expect("in time"), Err(ServiceError::NotFound)),
        "a viewer is told"
    );
    dashboard.nothing_left().await;
    assert!(dashboard.store.log(job.id, 1, 10).await.expect("read").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_somebody_elses_is_not_there() {
    let dashboard = Dashboard::new(2).await;
    let job = dashboard.create(shell("echo secret")).await;
    dashboard.whole(job.id).await;
    let bob = Caller {
        name: "bob".into(),
        admin: false,
    };
    let service = &dashboard.service;
    let not_found =
        |found: Result<(), ServiceError>| assert!(matches!(found, Err(ServiceError::NotFound)), "{found:?}");
    not_found(service.job(&bob, job.id).await.map(drop));
    not_found(service.spec(&bob, job.id).await.map(drop));
    not_found(service.tail(&bob, job.id, Select::default()).await.map(drop));
    not_found(service.rerun(&bob, job.id, None).await.map(drop));
    not_found(service.delete(&bob, job.id).await);
    for action in [Action::Cancel, Action::Suspend, Action::Resume] {
        not_found(service.act(&bob, job.id, action, None).await.map(drop));
    }
    let page = Page { after: None, limit: 10 };
    assert_eq!(service.list(&bob, &Filter::default(), page).await.expect("a list"), []);
    assert!(!Service::may_see(&bob, &Changed::Job(job.clone())));
    let admin = Caller { admin: true, ..bob };
    assert_eq!(service.job(&admin, job.id).await.expect("there").id, job.id);
    // A rerun is the one's who asks for it.
    let Created::New(again) = service.rerun(&admin, job.id, None).await.expect("run again") else {
        panic!("a new one")
    };
    assert_eq!((again.parent, again.owner.as_str()), (Some(job.id), "bob"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_runs_the_jobs_and_another_takes_over() {
    let top = tempfile::tempdir().expect("a directory");
    let one = Dashboard::at(top.path(), "one", 2).await;
    let job = one.create(shell("echo one")).await;
    one.whole(job.id).await;
    let two = Dashboard::at(top.path(), "two", 2).await;
    // Created at the server that has no lease, run by the one that has.
    let job = two.create(shell("echo $HOME")).await;
    let lines = two.follow(job.id, Select::default()).await;
    assert!(text(&lines)[0].contains("/one/"), "{lines:?}");
    one.work.abort();
    one.control.release().await;
    let job = two.create(shell("echo $HOME")).await;
    let lines = two.follow(job.id, Select::default()).await;
    assert!(text(&lines)[0].contains("/two/"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_jobs_run_through_few_slots() {
    let dashboard = Dashboard::new(4).await;
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(dashboard.create(shell("echo hello")).await.id);
    }
    for id in ids {
        let job = dashboard.whole(id).await;
        assert_eq!((job.state, job.attempts), (State::Succeeded, 1));
        assert_eq!(text(&dashboard.follow(id, Select::default()).await), ["hello"]);
    }
    dashboard.nothing_left().await;
    let counts = dashboard.service.counts(&caller()).await.expect("counters");
    assert_eq!(counts[&State::Succeeded], 100);
}

/// The real program, serving.
struct Served {
    child: std::process::Child,
    address: String,
}

impl Served {
    fn start(world: &crate::harness::TestEnvironment) -> Self {
        use std::io::BufRead as _;
        let mut child = world
            .command(&["serve", "--listen", "127.0.0.1:0", "--slots", "4"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("labctl starts");
        let mut log = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
        let address = loop {
            let mut line = String::new();
            log.read_line(&mut line).expect("a line");
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            if let Some(address) = line["address"].as_str() {
                break format!("http://{address}");
            }
        };
        // Whoever writes to a full pipe waits.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, address }
    }

    async fn get(&self, path: &str) -> String {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let until = Instant::now() + LIMIT;
        loop {
            // A server that has just begun answers with 503 until its store is open.
            let answer = client
                .get(format!("{}{path}", self.address))
                .send()
                .await
                .expect("an answer");
            if answer.status() == 200 {
                return answer.text().await.expect("a body");
            }
            assert!(Instant::now() < until, "{path}: {}", answer.status());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn job(&self, id: &str) -> serde_json::Value {
        serde_json::from_str(&self.get(&format!("/jobs/{id}")).await).expect("JSON")
    }

    async fn lines(&self, id: &str) -> Vec<(u64, String)> {
        let text = self.get(&format!("/jobs/{id}/logs?format=ndjson")).await;
        let line = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let text = line["text"]
                .as_str()
                .or(line["line"].as_str())
                .unwrap_or_default()
                .to_owned();
            (line["number"].as_u64().unwrap_or_default(), text)
        };
        text.lines().map(line).collect()
    }

    async fn create(&self, script: &str) -> String {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        self.get("/jobs").await;
        let spec = serde_json::to_value(shell(script)).expect("JSON");
        let answer = client
            .post(format!("{}/jobs", self.address))
            .json(&spec)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 201);
        let job: serde_json::Value = answer.json().await.expect("JSON");
        job["id"].as_str().expect("an id").to_owned()
    }

    async fn until(&self, id: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let until = Instant::now() + LIMIT;
        loop {
            let job = self.job(id).await;
            if wanted(&job) {
                return job;
            }
            assert!(Instant::now() < until, "{job}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // SIGKILL: nothing of it can say goodbye.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Returns whether a process has a text in its command line or its environment.
fn runs(mark: &str) -> bool {
    std::fs::read_dir("/proc").expect("/proc").flatten().any(|entry| {
        ["cmdline", "environ"].iter().any(|name| {
            let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(mark)
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_leaves_no_process_and_loses_no_line() {
    labctl::world::install_crypto();
    let mut world = crate::harness::TestEnvironment::new();
    world.set("PATH", "/usr/local/bin:/usr/bin:/bin");
    let server = Served::start(&world);
    let script =
        "trap 'echo bye; exit 0' TERM; setsid sleep 600 & i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";
    let running = server.create(script).await;
    let deaf = server
        .create("trap '' TERM; echo deaf; while :; do sleep 0.1; done")
        .await;
    let held = server.create("echo begin; sleep 600").await;
    for id in [&running, &deaf, &held] {
        server.until(id, |job| job["state"] == "running").await;
    }
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let asked = client
        .post(format!("{}/jobs/{held}/suspend", server.address))
        .send()
        .await
        .expect("an answer");
    assert!(asked.status().is_success(), "{}", asked.status());
    server.until(&held, |job| job["state"] == "suspended").await;
    // Some of the lines are in the store by now, and some are not.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let seen = server.lines(&running).await;
    assert!(seen.len() > 20, "{seen:?}");
    drop(server);

    let killed = Instant::now();
    let server = Served::start(&world);
    let job = server.until(&running, |job| job["log_complete"] == true).await;
    assert!(
        killed.elapsed() < Duration::from_secs(4),
        "it took {:?} to know",
        killed.elapsed()
    );
    assert_eq!(
        (job["state"].as_str(), job["reason"].as_str()),
        (Some("failed"), Some("ServerLost")),
        "{job}"
    );
    let lines = server.lines(&running).await;
    assert_eq!(lines[..seen.len()], seen, "lines keep their numbers");
    let numbers: Vec<u64> = lines.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=lines.len() as u64).collect::<Vec<_>>());
    let counted: Vec<u64> = lines.iter().map_while(|(_, text)| text.parse().ok()).collect();
    assert_eq!(
        counted,
        (1..=counted.len() as u64).collect::<Vec<_>>(),
        "no line is lost or repeated"
    );
    assert!(
        counted.len() >= seen.len() && lines.iter().any(|(_, text)| text == "bye"),
        "{:?}",
        lines.last()
    );
    // One that does not want to end is ended, and the new server waits for that.
    let job = server.until(&deaf, |job| job["log_complete"] == true).await;
    assert_eq!(job["reason"], "ServerLost");
    assert_eq!(server.lines(&deaf).await[0], (1, "deaf".to_owned()));
    for id in [&running, &deaf] {
        assert!(!runs(id), "nothing of {id} runs");
    }
    // One that was held back is still, and can be resumed.
    assert_eq!(server.job(&held).await["state"], "suspended");
    let asked = client
        .post(format!("{}/jobs/{held}/resume", server.address))
        .send()
        .await
        .expect("an answer");
    assert!(asked.status().is_success(), "{}", asked.status());
    let job = server.until(&held, |job| job["state"] == "running").await;
    assert_eq!(job["attempts"], 2);
    let until = Instant::now() + LIMIT;
    while server.lines(&held).await != [(1, "begin".to_owned()), (2, "begin".to_owned())] {
        assert!(Instant::now() < until, "{:?}", server.lines(&held).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let next = server.create("echo works").await;
    server.until(&next, |job| job["state"] == "succeeded").await;
    drop(server);
    let until = Instant::now() + LIMIT;
    while runs(&held) {
        assert!(Instant::now() < until, "{held} still runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
