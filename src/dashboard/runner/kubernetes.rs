//! Jobs as Kubernetes Jobs, in one namespace.
//!
//! | module | what it owns |
//! |---|---|
//! | [`desired`] | the Job that a job becomes; pure |
//! | [`observed`] | how a job is, from its Job and pods; pure |
//! | [`cursor`] | reading a pod's log from where it was left; pure |
//! | `watch`, `kind`, `cache` | one watch each of Jobs, pods and events, and what they have seen |
//! | `follow` | the output of a job, attempt by attempt |
//! | `trouble` | what errors of the API server mean |
//!
//! A Job is created without a time to live and removed a while after its row and log are stored. Whoever deletes it
//! before takes the rest of its log away with it; the row says so.

mod cache;
pub mod cursor;
pub mod desired;
mod follow;
mod kind;
pub mod observed;
mod pause;
mod trouble;
mod watch;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use k8s_openapi::api::batch::v1::Job as KubeJob;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tokio::sync::mpsc;

use self::cache::Cache;
use self::desired::Defaults;
use self::trouble::NotCreated;
use super::{Batch, Runner, RunnerError, Told};
use crate::dashboard::health::Heard;
use crate::dashboard::job::spec::{Priority, Spec};
use crate::dashboard::job::{Job, Phase, Seen, State};

/// How long the API server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long it may take to begin an answer, that of a watch too, and to go on with it, but for that of a watch.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Who changes fields, in the objects' managed fields.
const MANAGER: &str = desired::MANAGED_BY.1;

/// Which cluster, and what jobs get there.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The kubeconfig; without it the server runs in the cluster, by its service account. No other one is looked for.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace; without it that of the kubeconfig's context, or of the server's own pod.
    pub namespace: Option<String>,
    /// The image of jobs that name none.
    pub image: Option<String>,
    /// The `PriorityClass` of priorities that have one.
    pub priority_classes: BTreeMap<Priority, String>,
    /// How long silence is borne.
    pub limits: Limits,
}

/// How long silence is borne before a connection is taken for dead. The defaults suit every cluster; tests have no time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many seconds the API server keeps a watch open; one that is silent for 5 s more is dead. The API server sends a
    /// bookmark a minute, so the default is a little more than that.
    pub watch_seconds: u32,
    /// How long an open log may be silent before it is opened again: what was cut without a word is found so, and an idle
    /// connection is younger than any proxy lets it grow old.
    pub log_silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            watch_seconds: 65,
            log_silence: Duration::from_secs(240),
        }
    }
}

/// See the module; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Kubernetes(Arc<Inner>);

struct Inner {
    calls: Client,
    /// Without a limit: the log API answers with its first line, however long that takes.
    logs: Client,
    namespace: String,
    defaults: Defaults,
    limits: Limits,
    cache: Cache,
    /// When a watch said something, be it a bookmark.
    heard: Heard,
    /// Where it is told why a job waits that has no Job yet.
    told: Mutex<Option<mpsc::Sender<Told>>>,
}

impl Kubernetes {
    /// Reads how to reach the cluster. Nothing is asked of it yet: a server may start before its API server does.
    ///
    /// # Errors
    /// The kubeconfig cannot be used, or there is none and this is no pod with a service account's token.
    pub async fn connect(settings: Settings) -> Result<Self> {
        // There is one provider in this program; naming it twice is no harm.
        _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = match &settings.kubeconfig {
            Some(path) => from_file(path).await?,
            None => Config::incluster().context(
                "find the cluster that this server runs in; outside of a pod, or in one without a service account's token, give a --kubeconfig",
            )?,
        };
        config.connect_timeout = Some(CONNECT_LIMIT);
        config.read_timeout = None;
        let namespace = settings.namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("make a client of the API server")?;
        let defaults = Defaults {
            image: settings.image,
            priority_classes: settings.priority_classes,
        };
        Ok(Self::new(client, namespace, defaults, settings.limits))
    }

    /// Runs jobs by a client that is there.
    pub fn new(client: Client, namespace: impl Into<String>, defaults: Defaults, limits: Limits) -> Self {
        let namespace = namespace.into();
        let heard = Heard::default();
        Self(Arc::new(Inner {
            calls: limited(client.clone(), &namespace, &heard),
            logs: client,
            namespace,
            defaults,
            limits,
            cache: Cache::default(),
            heard,
            told: Mutex::default(),
        }))
    }

    fn calls(&self) -> Client {
        self.0.calls.clone()
    }

    fn logs(&self) -> Client {
        self.0.logs.clone()
    }

    fn namespace(&self) -> &str {
        &self.0.namespace
    }

    fn limits(&self) -> Limits {
        self.0.limits
    }

    fn cache(&self) -> &Cache {
        &self.0.cache
    }

    fn jobs(&self) -> Api<KubeJob> {
        Api::namespaced(self.calls(), self.namespace())
    }

    /// Asks whether the Job of that name is the job's own: nothing is done to one that only has its name.
    async fn is_ours(&self, job: &Job) -> Result<bool, RunnerError> {
        if self.cache().has(job.id) {
            return Ok(true);
        }
        let found = self.jobs().get_opt(&desired::name(job.id)).await.map_err(trouble::of)?;
        // One that is gone by now is created at the next try.
        Ok(found.is_none_or(|found| observed::owner_of(&found.metadata) == Some(job.id)))
    }

    /// Tells why a job waits that has no Job yet.
    fn tell_waiting(&self, job: &Job, reason: &str, message: String) {
        let held = job.state == State::Suspended;
        let seen = Seen {
            // What is held back and cannot be created is still held back.
            phase: if held { Phase::Suspended } else { Phase::Waiting },
            reason: Some(reason.to_owned()),
            message: Some(message),
            exit_code: None,
            attempts: 0,
            started_ms: None,
            finished_ms: None,
        };
        let told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = &*told {
            // Where nobody has time to listen it is told at the next try.
            _ = told.try_send(Told::Seen(job.id, seen));
        }
    }

    /// Changes a Job, if it is there.
    async fn patch(&self, job: &Job, patch: Value) -> Result<(), RunnerError> {
        if !self.is_ours(job).await? {
            return Ok(());
        }
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match self
            .jobs()
            .patch(&desired::name(job.id), &params, &Patch::Merge(patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(trouble::of(error)),
        }
    }

    async fn delete(&self, job: &Job) -> Result<(), RunnerError> {
        if !self.is_ours(job).await? {
            return Ok(());
        }
        // Without `Background`, what is deleted through batch/v1 leaves its pods behind.
        match self
            .jobs()
            .delete(&desired::name(job.id), &DeleteParams::background())
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(trouble::of(error)),
        }
    }
}

async fn from_file(path: &Path) -> Result<Config> {
    let unusable = || format!("use the kubeconfig `{}`", path.display());
    let kubeconfig = Kubeconfig::read_from(path).with_context(unusable)?;
    let mut proxies = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let proxied = proxies.any(|cluster| cluster.proxy_url.is_some());
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(unusable)?;
    // From the environment kube takes a proxy for whatever address, and a proxy has another loopback address.
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if local && !proxied {
        config.proxy_url = None;
    }
    Ok(config)
}

/// Returns a client whose answers come in time, or are an error: on a dead connection there would never be one, nor the
/// rest of one that has begun. A watch says nothing for as long as nothing happens, and whoever reads it knows for how long.
/// What a watch says is heard here: kube-runtime keeps bookmarks to itself.
fn limited(client: Client, namespace: &str, heard: &Heard) -> Client {
    let heard = heard.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (client, heard) = (client.clone(), heard.clone());
        async move {
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let answer = match tokio::time::timeout(ANSWER_LIMIT, client.send(request)).await {
                Ok(answer) => answer?,
                Err(_) => return Err(kube::Error::Service(late("no answer"))),
            };
            if is_watch && answer.status().is_success() {
                heard.now();
            }
            Ok(answer.map(|body| {
                if is_watch {
                    let body = body.map_frame(move |frame| {
                        heard.now();
                        frame
                    });
                    body.map_err(tower::BoxError::from).boxed_unsync()
                } else {
                    timely(body)
                }
            }))
        }
    });
    Client::new(service, namespace)
}

fn late(what: &str) -> tower::BoxError {
    format!("{what} in {} s", ANSWER_LIMIT.as_secs()).into()
}

/// Returns a body of which each part comes in time, or is an error.
fn timely(body: Body) -> UnsyncBoxBody<Bytes, tower::BoxError> {
    let frames = stream::unfold(Some(body), |body| async {
        let mut body = body?;
        match tokio::time::timeout(ANSWER_LIMIT, body.frame()).await {
            Ok(frame) => Some((frame?.map_err(tower::BoxError::from), Some(body))),
            Err(_) => Some((Err(late("no more of the answer")), None)),
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

#[async_trait]
impl Runner for Kubernetes {
    fn name(&self) -> String {
        format!("Kubernetes, namespace {}", self.namespace())
    }

    fn heard(&self) -> Option<Heard> {
        Some(self.0.heard.clone())
    }

    async fn begin(&self, job: &Job, spec: &Spec) -> Result<(), RunnerError> {
        if self.cache().has(job.id) {
            return Ok(());
        }
        let object = desired::job(job, spec, &self.0.defaults).map_err(RunnerError::Refused)?;
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let Err(error) = self.jobs().create(&params, &object).await else {
            return Ok(());
        };
        match trouble::not_created(error, self.namespace()) {
            NotCreated::Exists if self.is_ours(job).await? => Ok(()),
            NotCreated::Exists => Err(RunnerError::Refused(format!(
                "the namespace `{}` has a Job `{}` that is not the dashboard's",
                self.namespace(),
                desired::name(job.id)
            ))),
            NotCreated::Waits { reason, message, error } => {
                self.tell_waiting(job, reason, message);
                Err(error)
            }
            NotCreated::Other(error) => Err(error),
        }
    }

    async fn end(&self, job: &Job) -> Result<(), RunnerError> {
        self.delete(job).await
    }

    async fn suspend(&self, job: &Job, suspend: bool) -> Result<(), RunnerError> {
        // One that is not there yet is created as its row says.
        if !suspend {
            return self.patch(job, desired::resume()).await;
        }
        // The row can be behind what was seen.
        let view = self.cache().view(job.id);
        let begun = view.seen.map_or(0, |seen| seen.attempts).max(job.attempts);
        let counted = self.cache().job(job.id).map_or(0, |known| known.counted());
        self.patch(job, desired::hold(begun.saturating_sub(counted))).await
    }

    async fn forget(&self, job: &Job) -> Result<(), RunnerError> {
        let Some(known) = self.cache().job(job.id) else {
            return self.patch(job, desired::forget()).await;
        };
        if known.deleted || known.forgotten {
            return Ok(());
        }
        // The Job controller may not have noticed the end yet; the time begins when it does.
        self.patch(job, desired::forget()).await
    }

    async fn follow(
        &self,
        job: &Job,
        position: &str,
        next: u64,
        lines: mpsc::Sender<Batch>,
    ) -> Result<(), RunnerError> {
        self.follow_job(job, position, next, lines).await
    }

    async fn watch(&self, told: mpsc::Sender<Told>) {
        let set = |told| *self.0.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
        set(Some(told.clone()));
        self.watch_all(&told).await;
        set(None);
    }
}

#[cfg(test)]
#[path = "kubernetes/kubernetes_tests.rs"]
mod tests;
