//! The output of a job: the logs of its pods, one after the other, from where reading was left.
//!
//! The end of an answer is not the end of the log: the kubelet ends one after four idle hours, a proxy after minutes, and
//! a restart of the API server at once. So a log is whole only when it was read to its end after the program had ended.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::anyhow;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Resource as _;
use kube::api::{Api, ListParams, LogParams};
use kube::client::Body;
use kube::core::{Request, Status};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::cursor::{Decoder, Place, Read};
use super::observed::PodFacts;
use super::pause::Pause;
use super::{Kubernetes, desired, observed, trouble};
use crate::dashboard::job::{Job, Phase, reason};
use crate::dashboard::log::{Line, Stream};
use crate::dashboard::runner::{BATCH_BYTES, Batch, RunnerError};

/// How long it may be silent after its program is seen to have ended.
const AFTER_END: Duration = Duration::from_secs(2);
/// How long it is tried to read a log that cannot be read before that is told.
const GIVE_UP: Duration = Duration::from_secs(60);
/// How long it is waited for the next attempt before the caller is asked whether it still wants to know.
const WAIT: Duration = Duration::from_secs(60);
/// The same where the watches do not see anything.
const BLIND_WAIT: Duration = Duration::from_secs(1);
/// How long a job that has ended may take to be written down; asked again sooner, its log would be opened in vain.
const SETTLE: Duration = Duration::from_millis(200);
/// What a place has as its number of bytes after the job wrote too many of them.
const FULL: u64 = u64::MAX;

/// How an answer of the log API ended.
enum Ended {
    /// By itself.
    Clean,
    /// It was silent for too long.
    Silent,
    /// With an error.
    Cut(String),
    /// The program does not run yet.
    NotYet,
    /// The pod is not there any more.
    Gone,
    /// Nobody wants more of the job.
    Stopped,
}

impl Kubernetes {
    /// See [`crate::dashboard::runner::Runner::follow`].
    pub(super) async fn follow_job(
        &self,
        job: &Job,
        position: &str,
        next: u64,
        lines: mpsc::Sender<Batch>,
    ) -> Result<(), RunnerError> {
        let Ok(place) = position.parse::<Place>() else {
            // Another runner wrote the log so far, so this one has nothing of it.
            tracing::warn!(job_id = %job.id, position, "the log of this job was read by another runner");
            return Ok(());
        };
        if place.bytes == FULL {
            return self.end_full(job).await;
        }
        let mut reader = Reader {
            kubernetes: self,
            job,
            place,
            whole: false,
            next,
            lines,
            complete: false,
            said: BTreeSet::new(),
        };
        reader.run().await
    }

    /// Ends a job that wrote too much. Its Job says so for whoever looks at it next.
    async fn end_full(&self, job: &Job) -> Result<(), RunnerError> {
        if job.state.is_final() {
            return Ok(());
        }
        self.patch(job, desired::ended(reason::OUTPUT)).await?;
        self.delete(job).await
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.calls(), self.namespace())
    }

    async fn list_pods(&self, job: &Job) -> Result<Vec<PodFacts>, RunnerError> {
        let params = ListParams::default().labels(&desired::selector_of(job.id));
        let list = self.pods().list(&params).await.map_err(trouble::of)?;
        let mut pods: Vec<PodFacts> = list.items.iter().filter_map(PodFacts::of).collect();
        observed::sort(&mut pods);
        Ok(pods)
    }
}

struct Reader<'a> {
    kubernetes: &'a Kubernetes,
    job: &'a Job,
    place: Place,
    /// The log of the place's pod was read to its end.
    whole: bool,
    next: u64,
    lines: mpsc::Sender<Batch>,
    /// Everything was read that was there when the last answer ended.
    complete: bool,
    /// What the kubelet said; it says the same at each try.
    said: BTreeSet<String>,
}

impl Reader<'_> {
    async fn run(&mut self) -> Result<(), RunnerError> {
        let until = Instant::now() + WAIT;
        loop {
            let changed = self.kubernetes.cache().changed(self.job.id);
            let changed = changed.notified();
            let view = self.kubernetes.cache().view(self.job.id);
            // Of a job that has ended nothing may be overlooked, and what was seen can be older than its end.
            let pods = if view.synced && !self.job.state.is_final() {
                view.pods
            } else {
                self.kubernetes.list_pods(self.job).await?
            };
            if let Some(pod) = pods.iter().find(|pod| pod.has_log() && self.is_next(pod)) {
                if self.place.attempt == 0 || self.place.pod != pod.order() {
                    self.place = self.place.next(pod.order());
                    self.whole = false;
                }
                if !self.read_pod(pod).await? {
                    return Ok(());
                }
                self.whole = true;
                continue;
            }
            let phase = view.seen.map_or(Phase::Gone, |seen| seen.phase);
            let ended = view.synced && matches!(phase, Phase::Succeeded | Phase::Failed | Phase::Gone);
            if ended && !self.job.state.is_final() {
                tokio::time::sleep(SETTLE).await;
            }
            if ended || self.job.state.is_final() || Instant::now() >= until {
                return Ok(());
            }
            let wait = if view.synced { WAIT } else { BLIND_WAIT };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(until.min(Instant::now() + wait)) => {}
                () = self.lines.closed() => return Ok(()),
            }
        }
    }

    fn is_next(&self, pod: &PodFacts) -> bool {
        match pod.order().cmp(&self.place.pod) {
            _ if self.place.attempt == 0 => true,
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => !self.whole,
            std::cmp::Ordering::Greater => true,
        }
    }

    /// Reads a pod's log to its end; says whether more of the job is wanted.
    async fn read_pod(&mut self, pod: &PodFacts) -> Result<bool, RunnerError> {
        let mut finished = pod.is_finished();
        let mut pause = Pause::new();
        let mut troubled: Option<Instant> = None;
        self.complete = false;
        loop {
            let before = self.place.clone();
            let ended = self.read_answer(pod, finished).await?;
            if self.place != before {
                pause.reset();
                troubled = None;
            }
            match &ended {
                Ended::Stopped => return Ok(false),
                Ended::Clean | Ended::NotYet if finished => return Ok(true),
                Ended::Clean => self.complete = true,
                Ended::Silent | Ended::NotYet | Ended::Gone => {}
                Ended::Cut(why) => {
                    self.complete = false;
                    tracing::debug!(job_id = %self.job.id, pod = pod.name, why, "the log of a pod was cut");
                    let since = *troubled.get_or_insert_with(Instant::now);
                    if since.elapsed() >= GIVE_UP {
                        return Err(RunnerError::Unavailable(anyhow!(
                            "the log of the pod `{}` cannot be read: {why}",
                            pod.name
                        )));
                    }
                }
            }
            match self.ask(pod).await {
                Ok(Some(now)) => finished = now,
                Ok(None) => {
                    if !self.complete {
                        let text = format!(
                            "the pod `{}` was deleted before its output was read to the end; lines can be missing here",
                            pod.name
                        );
                        return self.note(text).await;
                    }
                    return Ok(true);
                }
                Err(error) if troubled.is_some_and(|since| since.elapsed() >= GIVE_UP) => return Err(error),
                Err(error) => {
                    troubled.get_or_insert_with(Instant::now);
                    tracing::debug!(job_id = %self.job.id, pod = pod.name, error = %error, "a pod could not be asked for");
                }
            }
            if !(finished && self.complete) {
                tokio::select! {
                    () = pause.wait() => {}
                    () = self.lines.closed() => return Ok(false),
                }
            }
        }
    }

    /// Asks whether a pod's program has ended; nothing where the pod is not there.
    async fn ask(&self, pod: &PodFacts) -> Result<Option<bool>, RunnerError> {
        let found = self.kubernetes.pods().get_opt(&pod.name).await.map_err(trouble::of)?;
        let found = found
            .as_ref()
            .and_then(PodFacts::of)
            .filter(|found| found.uid == pod.uid);
        Ok(found.map(|found| found.is_finished()))
    }

    /// Opens the log at the place and reads it as far as it goes.
    async fn read_answer(&mut self, pod: &PodFacts, finished: bool) -> Result<Ended, RunnerError> {
        let request = match self.request(pod, finished) {
            Ok(request) => request,
            Err(error) => return Ok(Ended::Cut(error)),
        };
        let client = self.kubernetes.logs();
        let mut answer = match self.patiently(pod, finished, client.send(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Ok(Ended::Cut(trouble::chain(&error))),
            Err(ended) => return Ok(ended),
        };
        if !answer.status().is_success() {
            return refused(answer).await;
        }
        let mut decoder = Decoder::new(self.place.clone());
        let mut out = Vec::new();
        loop {
            let frame = match self.patiently(pod, finished, answer.body_mut().frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Ok(Ended::Cut(error.to_string())),
                Ok(None) => break,
                Err(ended) => return Ok(ended),
            };
            let Ok(data) = frame.into_data() else { continue };
            for part in data.chunks(BATCH_BYTES) {
                decoder.push(part, &mut out);
                self.place = decoder.place().clone();
                if !self.give(&mut out).await? {
                    return Ok(Ended::Stopped);
                }
            }
        }
        if finished {
            // What has no line end now will never have one.
            self.place = decoder.finish(&mut out);
        } else {
            decoder.end(&mut out);
        }
        if !self.give(&mut out).await? {
            return Ok(Ended::Stopped);
        }
        Ok(Ended::Clean)
    }

    fn request(&self, pod: &PodFacts, finished: bool) -> Result<http::Request<Body>, String> {
        // Other pods' places mean nothing here.
        let since = self.place.since().map(Timestamp::from_second).transpose();
        let params = LogParams {
            container: Some(desired::CONTAINER.to_owned()),
            follow: !finished,
            timestamps: true,
            since_time: since.map_err(|error| error.to_string())?,
            ..LogParams::default()
        };
        let url = Pod::url_path(&(), Some(self.kubernetes.namespace()));
        let request = Request::new(url).logs(&pod.name, &params);
        Ok(request.map_err(|error| error.to_string())?.map(Body::from))
    }

    /// Waits for the log, as long as that makes sense.
    async fn patiently<T>(&self, pod: &PodFacts, finished: bool, what: impl Future<Output = T>) -> Result<T, Ended> {
        let mut what = std::pin::pin!(what);
        let began = Instant::now();
        loop {
            tokio::select! {
                out = &mut what => return Ok(out),
                () = self.lines.closed() => return Err(Ended::Stopped),
                () = tokio::time::sleep(AFTER_END) => {}
            }
            if finished {
                if began.elapsed() >= super::ANSWER_LIMIT {
                    return Err(Ended::Cut("the log does not come".to_owned()));
                }
                continue;
            }
            let view = self.kubernetes.cache().view(self.job.id);
            let lives = view
                .pods
                .iter()
                .any(|known| known.uid == pod.uid && !known.is_finished());
            if view.synced && !lives || began.elapsed() >= self.kubernetes.limits().log_silence {
                return Err(Ended::Silent);
            }
        }
    }

    /// Gives lines to whoever wants them; says whether more are wanted.
    async fn give(&mut self, out: &mut Vec<Read>) -> Result<bool, RunnerError> {
        if out.is_empty() {
            return Ok(true);
        }
        let lines = out.drain(..).filter_map(|read| self.line(read)).collect::<Vec<_>>();
        if lines.is_empty() {
            return Ok(true);
        }
        let view = self.kubernetes.cache().job(self.job.id);
        let limit = view.and_then(|job| job.output_bytes);
        let full = limit.filter(|limit| self.place.bytes > *limit);
        if !self.send(lines).await {
            return Ok(false);
        }
        let Some(limit) = full else { return Ok(true) };
        self.place.bytes = FULL;
        let text = format!(
            "the program wrote more than the {} MiB of output of its limit, and is ended",
            limit >> 20
        );
        _ = self.note(text).await?;
        self.kubernetes.end_full(self.job).await?;
        Ok(false)
    }

    fn line(&mut self, read: Read) -> Option<Line> {
        match read {
            Read::Line { at_us, partial, bytes } => {
                let number = self.next;
                self.next += 1;
                Some(Line {
                    number,
                    at_us,
                    attempt: self.place.attempt,
                    stream: Stream::Merged,
                    partial,
                    bytes,
                })
            }
            Read::Rotated => {
                Some(self.own_line("the log was rotated while it was not read; lines can be missing here".to_owned()))
            }
            // The container is removed, and it had been read to its end.
            Read::Said(_) if self.complete => None,
            Read::Said(text) => {
                let new = self.said.insert(text.clone());
                new.then(|| self.own_line(format!("Kubernetes says: {text}")))
            }
        }
    }

    fn own_line(&mut self, text: String) -> Line {
        let number = self.next;
        self.next += 1;
        Line {
            number,
            at_us: jiff::Timestamp::now().as_microsecond(),
            attempt: self.place.attempt,
            stream: Stream::Note,
            partial: false,
            bytes: text.into(),
        }
    }

    async fn note(&mut self, text: String) -> Result<bool, RunnerError> {
        let line = self.own_line(text);
        Ok(self.send(vec![line]).await)
    }

    async fn send(&self, lines: Vec<Line>) -> bool {
        let batch = Batch {
            lines,
            position: self.place.to_string(),
        };
        self.lines.send(batch).await.is_ok()
    }
}

/// Says what an answer means that is no log.
async fn refused(answer: http::Response<Body>) -> Result<Ended, RunnerError> {
    let code = answer.status().as_u16();
    let body = tokio::time::timeout(super::ANSWER_LIMIT, answer.into_body().collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        _ => return Ok(Ended::Cut(format!("code {code}"))),
    };
    let status = serde_json::from_slice::<Status>(&body);
    let message = status.map_or_else(|_| String::from_utf8_lossy(&body).into_owned(), |status| status.message);
    match code {
        400 => Ok(Ended::NotYet),
        404 => Ok(Ended::Gone),
        401 | 403 => Err(RunnerError::Unavailable(anyhow!(
            "the dashboard may not read the logs of pods: {message}"
        ))),
        _ => Ok(Ended::Cut(format!("{message} (code {code})"))),
    }
}
