//! `/events`: what happens to the jobs that a caller may see, as it happens.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Api;
use super::api::{ApiCounts, ApiJob};
use super::guard::By;
use super::openapi::EventsRefused;
use super::problem::Problem;
use super::streams::{self, Events, HEARTBEAT, Open};
use crate::dashboard::job::{Job, JobId};
use crate::dashboard::service::{Caller, Service, ServiceError};
use crate::dashboard::store::Changed;

/// How long changes are gathered: of a job that changes twice meanwhile, the last row is sent.
const GATHER: Duration = Duration::from_millis(100);
/// Where more jobs than this change meanwhile, reading the list again is cheaper than hearing of each.
const MOST: usize = 500;

/// Counters that all viewers of an owner's jobs share, so that they cost one read however many look.
#[derive(Clone, Default)]
pub struct SharedCounts(Arc<tokio::sync::Mutex<Known>>);

/// Counters by owner, and of everybody, with when they were read.
type Known = BTreeMap<Option<String>, (Instant, ApiCounts)>;

impl SharedCounts {
    /// Returns counters that are at most [`GATHER`] old.
    async fn of(&self, service: &Service, caller: &Caller) -> Result<ApiCounts, ServiceError> {
        let whose = (!caller.admin).then(|| caller.name.clone());
        let mut known = self.0.lock().await;
        known.retain(|_, (at, _)| at.elapsed() < GATHER);
        if let Some((_, counts)) = known.get(&whose) {
            return Ok(counts.clone());
        }
        let counts = ApiCounts::from(service.counts(caller).await?);
        known.insert(whose, (Instant::now(), counts.clone()));
        Ok(counts)
    }
}

/// One event of a stream, as the description of `text/event-stream` in OpenAPI has it: the schema is of each event.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it is written as text, and described here")]
pub(super) struct StreamEvent {
    /// What `Last-Event-ID` says to go on behind it.
    pub(super) id: Option<String>,
    /// What happened.
    pub(super) event: Option<String>,
    /// JSON, or a line of a log.
    pub(super) data: String,
    /// Milliseconds before a client that was cut off comes back.
    pub(super) retry: Option<u64>,
}

/// Hear of changes
///
/// Server-sent events: `counts` at first, then `job` with a job's new row, `deleted` with its `id`, and `counts` after
/// changes, gathered over about 100 ms. `reset` says that changes were missed: read the list again. Whoever comes back
/// with a `Last-Event-ID` is told so, too.
#[utoipa::path(
    get, path = "/events", operation_id = "watchJobs", tag = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "Any: the client was here before")),
    responses((status = 200, description = "Changes, until the client or the server ends", content((StreamEvent = "text/event-stream"))), EventsRefused)
)]
pub(super) async fn watch(State(api): State<Api>, By(caller): By, headers: HeaderMap) -> Result<Response, Problem> {
    let service = api.service()?.clone();
    let open = api.streams.open(&caller.name)?;
    let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watching = Watching {
        changes: service.changes(),
        service,
        counts: api.counts.clone(),
        caller,
        open,
        heartbeat,
        gathered: BTreeMap::new(),
        missed: headers.contains_key("last-event-id"),
        // The counters of now are the first event.
        due: Some(Instant::now()),
        begun: false,
        done: false,
    };
    let stream = futures_util::stream::unfold(watching, Watching::step);
    Ok(streams::response("text/event-stream", Body::from_stream(stream)))
}

/// One who hears of changes.
struct Watching {
    service: Service,
    changes: Receiver<Changed>,
    counts: SharedCounts,
    caller: Caller,
    open: Open,
    heartbeat: Interval,
    /// The newest row of each job that changed; nothing of one that was deleted.
    gathered: BTreeMap<JobId, Option<Job>>,
    missed: bool,
    due: Option<Instant>,
    begun: bool,
    done: bool,
}

impl Watching {
    async fn step(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.done {
            return None;
        }
        let mut out = Events::default();
        if !std::mem::replace(&mut self.begun, true) {
            out.retry();
        }
        while out.is_empty() || self.due.is_some_and(|due| due <= Instant::now()) {
            let due = self.due.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = self.open.closing.cancelled() => {
                    out.comment("the server is stopping").retry();
                    self.done = true;
                    break;
                }
                () = tokio::time::sleep_until(due), if self.due.is_some() => {
                    self.due = None;
                    self.tell(&mut out).await;
                }
                changed = self.changes.recv() => self.hear(changed),
                _ = self.heartbeat.tick() => {
                    out.comment("");
                }
            }
            if self.done {
                break;
            }
        }
        Some((Ok(out.take()), self))
    }

    fn hear(&mut self, changed: Result<Changed, RecvError>) {
        match changed {
            Ok(changed) if !Service::may_see(&self.caller, &changed) => return,
            Ok(Changed::Job(job)) => {
                self.gathered.insert(job.id, Some(job));
            }
            Ok(Changed::Deleted { id, .. }) => {
                self.gathered.insert(id, None);
            }
            Ok(Changed::Missed) | Err(RecvError::Lagged(_)) => self.missed = true,
            Err(RecvError::Closed) => {
                self.done = true;
                return;
            }
        }
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
        self.missed |= self.gathered.len() > MOST;
        if self.missed {
            self.gathered.clear();
        }
    }

    /// Writes what was gathered.
    async fn tell(&mut self, out: &mut Events) {
        // Any id does: that there is one is what makes a client send it when it comes back.
        let id = Some(1);
        if std::mem::take(&mut self.missed) {
            out.event("reset", id, &json!({}));
        }
        for (gone, job) in std::mem::take(&mut self.gathered) {
            match job {
                Some(job) => out.event("job", id, &ApiJob::from(job)),
                None => out.event("deleted", id, &json!({"id": gone})),
            };
        }
        match self.counts.of(&self.service, &self.caller).await {
            Ok(counts) => {
                out.event("counts", id, &counts);
            }
            // The rows are told all the same; the counters come with the next change.
            Err(error) => tracing::debug!(%error, "no counters for a viewer"),
        }
    }
}
