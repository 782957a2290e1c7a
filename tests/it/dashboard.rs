//! A dashboard without HTTP, over real processes and a real store that can be taken away.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use labctl::dashboard::control::Control;
use labctl::dashboard::control::retain::Keep;
use labctl::dashboard::health::Health;
use labctl::dashboard::job::spec::{Limits, Priority, Spec};
use labctl::dashboard::job::template::Origin;
use labctl::dashboard::job::{Change, Job, JobId};
use labctl::dashboard::log::hub::Hub;
use labctl::dashboard::log::{Chunk, Line};
use labctl::dashboard::runner::process::{Options, ProcessRunner};
use labctl::dashboard::service::tail::{Item, Select};
use labctl::dashboard::service::{Action, Caller, Service, ServiceError};
use labctl::dashboard::store::audit::{Act, Audit, Entry, Seal};
use labctl::dashboard::store::documents::{Document, Documents, Kind, Mark, NewDocument};
use labctl::dashboard::store::sqlite::{self, Sqlite};
use labctl::dashboard::store::{
    Changed, Counts, Created, Filter, JobStore, Key, Listed, NewJob, Page, Scope, StoreError,
};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A store that can be taken away.
#[derive(Clone)]
pub(crate) struct Flaky {
    inner: Arc<dyn JobStore>,
    pub(crate) down: Arc<AtomicBool>,
    /// Marks of schedules cannot be written.
    pub(crate) cut: Arc<AtomicBool>,
    /// How often it was asked while it was away.
    pub(crate) refused: Arc<AtomicUsize>,
    /// How long storing a part of a log takes.
    pub(crate) slow: Arc<std::sync::Mutex<Duration>>,
}

impl Flaky {
    fn answer(&self) -> Result<&dyn JobStore, StoreError> {
        if self.down.load(Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(StoreError::Unavailable(anyhow::anyhow!("taken away by the test")));
        }
        Ok(&*self.inner)
    }
}

#[async_trait]
impl Documents for Flaky {
    async fn documents(&self, kind: Kind, scope: &Scope) -> Result<Vec<Document>, StoreError> {
        self.answer()?.documents(kind, scope).await
    }
    async fn document(&self, kind: Kind, name: &str, version: Option<i64>) -> Result<Option<Document>, StoreError> {
        self.answer()?.document(kind, name, version).await
    }
    async fn add_document(&self, kind: Kind, new: &NewDocument) -> Result<Option<Document>, StoreError> {
        self.answer()?.add_document(kind, new).await
    }
    async fn change_document(
        &self,
        kind: Kind,
        name: &str,
        version: i64,
        text: &str,
        now_ms: i64,
    ) -> Result<Option<Document>, StoreError> {
        self.answer()?.change_document(kind, name, version, text, now_ms).await
    }
    async fn remove_document(&self, kind: Kind, name: &str, version: i64) -> Result<bool, StoreError> {
        self.answer()?.remove_document(kind, name, version).await
    }
    async fn origin(&self, id: JobId) -> Result<Option<Origin>, StoreError> {
        self.answer()?.origin(id).await
    }
    async fn marks(&self) -> Result<BTreeMap<String, Mark>, StoreError> {
        self.answer()?.marks().await
    }
    async fn set_mark(&self, schedule: &str, before: Option<i64>, mark: &Mark) -> Result<bool, StoreError> {
        // A server that is cut off after it made a job and before it could say so.
        if self.cut.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable(anyhow::anyhow!("cut off by the test")));
        }
        self.answer()?.set_mark(schedule, before, mark).await
    }
}

#[async_trait]
impl Audit for Flaky {
    async fn acts(
        &self,
        scope: &Scope,
        object: Option<&str>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        self.answer()?.acts(scope, object, before, limit).await
    }
    async fn seal_acts(&self, now_ms: i64) -> Result<Option<Seal>, StoreError> {
        self.answer()?.seal_acts(now_ms).await
    }
    async fn seals(&self, after: i64, limit: u32) -> Result<Vec<Seal>, StoreError> {
        self.answer()?.seals(after, limit).await
    }
    async fn acts_between(&self, first: i64, last: i64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        self.answer()?.acts_between(first, last, limit).await
    }
    async fn forget_acts(&self, before_ms: i64) -> Result<u64, StoreError> {
        self.answer()?.forget_acts(before_ms).await
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
    async fn keyed(&self, owner: &str, key: &Key) -> Result<Option<Job>, StoreError> {
        self.answer()?.keyed(owner, key).await
    }
    async fn job(&self, id: JobId, scope: &Scope) -> Result<Option<Job>, StoreError> {
        self.answer()?.job(id, scope).await
    }
    async fn spec(&self, id: JobId) -> Result<Option<Spec>, StoreError> {
        self.answer()?.spec(id).await
    }
    async fn list(&self, scope: &Scope, filter: &Filter, page: Page) -> Result<Vec<Listed>, StoreError> {
        self.answer()?.list(scope, filter, page).await
    }
    async fn counts(&self, scope: &Scope) -> Result<Counts, StoreError> {
        self.answer()?.counts(scope).await
    }
    async fn recount(&self) -> Result<u64, StoreError> {
        self.answer()?.recount().await
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
    async fn expired(
        &self,
        ended_before_ms: i64,
        after: Option<(i64, JobId)>,
        limit: u32,
    ) -> Result<Vec<Job>, StoreError> {
        self.answer()?.expired(ended_before_ms, after, limit).await
    }
    async fn log_size(&self, id: JobId) -> Result<u64, StoreError> {
        self.answer()?.log_size(id).await
    }
    fn fenced(&self, lease: &str, holder: &str) -> Arc<dyn JobStore> {
        Arc::new(Self {
            inner: self.inner.fenced(lease, holder),
            ..self.clone()
        })
    }
    fn by(&self, act: Act) -> Arc<dyn JobStore> {
        Arc::new(Self {
            inner: self.inner.by(act),
            ..self.clone()
        })
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
pub(crate) struct Dashboard {
    pub(crate) dir: PathBuf,
    top: Option<tempfile::TempDir>,
    pub(crate) store: Arc<Flaky>,
    pub(crate) service: Service,
    pub(crate) control: Control,
    pub(crate) health: Health,
    pub(crate) work: tokio::task::JoinHandle<()>,
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl Dashboard {
    pub(crate) async fn new(slots: usize) -> Self {
        let top = tempfile::tempdir().expect("a directory");
        let mut dashboard = Self::at(top.path(), "one", slots).await;
        dashboard.top = Some(top);
        dashboard
    }

    /// Begins one with a database that others may share, and a directory for jobs of its own.
    pub(crate) async fn at(dir: &Path, name: &str, slots: usize) -> Self {
        Self::keeping(dir, name, slots, Keep::default()).await
    }

    /// Begins one that keeps no more than it is told.
    pub(crate) async fn keeping(dir: &Path, name: &str, slots: usize, keep: Keep) -> Self {
        let inner = Sqlite::open(&dir.join("jobs.sqlite"), sqlite::Settings::default())
            .await
            .expect("a store");
        let store = Arc::new(Flaky {
            inner: Arc::new(inner),
            down: Arc::default(),
            cut: Arc::default(),
            refused: Arc::default(),
            slow: Arc::default(),
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
        let health = Health::default();
        let control = Control::new(
            store.clone() as Arc<dyn JobStore>,
            runner.clone(),
            hub.clone(),
            health.clone(),
            name.to_owned(),
            keep,
        );
        let service = Service::new(store.clone(), runner, control.clone(), hub, None)
            .await
            .expect("a service");
        let work = tokio::spawn({
            let control = control.clone();
            async move { control.run().await }
        });
        Self {
            dir,
            top: None,
            store,
            service,
            control,
            health,
            work,
        }
    }

    pub(crate) async fn create(&self, spec: Spec) -> Job {
        match self.service.create(&caller(), spec, None).await.expect("created") {
            Created::New(job) => job,
            Created::Replayed(job) => panic!("{job:?} was there"),
        }
    }

    pub(crate) async fn job(&self, id: JobId) -> Job {
        self.service.job(&caller(), id).await.expect("there")
    }

    pub(crate) async fn until(&self, id: JobId, what: &str, wanted: impl Fn(&Job) -> bool) -> Job {
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

    pub(crate) async fn whole(&self, id: JobId) -> Job {
        self.until(id, "a whole log", |job| job.log_complete).await
    }

    pub(crate) async fn act(&self, id: JobId, action: Action) -> Result<Job, ServiceError> {
        self.service.act(&caller(), id, action, None).await
    }

    /// Reads a log, waiting for its end.
    pub(crate) async fn follow(&self, id: JobId, select: Select) -> Vec<Line> {
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

    /// Waits until a part says this of itself in `/readyz`; nothing where it says nothing.
    pub(crate) async fn until_said(&self, part: &str, wanted: Option<&str>) {
        let until = Instant::now() + LIMIT;
        loop {
            let checks = self.health.readiness().checks;
            let said = checks.iter().find(|check| check.name == part);
            let said = said.map(|check| check.detail.as_str());
            if said == wanted {
                return;
            }
            assert!(Instant::now() < until, "{part} says {said:?} and not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn nothing_left(&self) {
        let jobs = self.dir.join("jobs");
        let until = Instant::now() + LIMIT;
        while let Some(left) = std::fs::read_dir(&jobs).expect("there").next() {
            assert!(Instant::now() < until, "{left:?} is left");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub(crate) fn caller() -> Caller {
    Caller::new("ann", false)
}

pub(crate) fn shell(script: &str) -> Spec {
    Spec {
        name: "test".into(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
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

pub(crate) fn text(lines: &[Line]) -> Vec<String> {
    lines
        .iter()
        .map(|line| String::from_utf8_lossy(&line.bytes).into_owned())
        .collect()
}

pub(crate) fn in_order(lines: &[Line]) {
    let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
    assert_eq!(
        numbers,
        (1..=lines.len() as u64).collect::<Vec<_>>(),
        "every line once and in order"
    );
}
