//! An API server for tests, as far as the runner can see: objects with watches, and logs that can be cut, ended and
//! rotated. It runs in the test's own process, without a network.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State as Shared};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::super::desired::Defaults;
use super::super::{Kubernetes, Limits};

/// In the place of a status: that of an answer which has begun, and breaks off.
const BROKEN_OFF: u16 = 0;

type Params = Query<BTreeMap<String, String>>;
type Chunk = Result<Bytes, std::io::Error>;

#[derive(Default)]
struct Inner {
    version: u64,
    /// By kind (`jobs`, `pods`, `events`) and name.
    objects: BTreeMap<(&'static str, String), Value>,
    watches: Vec<(&'static str, mpsc::UnboundedSender<Chunk>)>,
    logs: BTreeMap<String, Log>,
    /// What was asked, as `METHOD path?query body`.
    asked: Vec<String>,
    /// Answers to requests that begin so, before anything else is looked at.
    answers: VecDeque<(String, u16, Value)>,
    /// No request is answered.
    away: bool,
    late: Option<Late>,
    /// From which version on a kind can be watched.
    oldest: BTreeMap<&'static str, u64>,
}

/// A list that takes longer to read than what was read of another kind can be watched from.
#[derive(Clone, Copy)]
struct Late {
    kind: &'static str,
    time: Duration,
    too_old: &'static str,
}

#[derive(Default)]
struct Log {
    removed: bool,
    /// When each line was written, in nanoseconds since 1970, and the line.
    lines: Vec<(i64, Vec<u8>)>,
    open: Vec<mpsc::UnboundedSender<Chunk>>,
}

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<Inner>>);

fn kind_of(text: &str) -> &'static str {
    ["jobs", "pods", "events"]
        .into_iter()
        .find(|kind| *kind == text)
        .expect("a kind")
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

fn answer(code: u16, value: &Value) -> Response {
    (StatusCode::from_u16(code).expect("a code"), axum::Json(value)).into_response()
}

fn streamed(receiver: mpsc::UnboundedReceiver<Chunk>) -> Response {
    let chunks = stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    });
    Body::from_stream(chunks).into_response()
}

fn stamped(at: i64, line: &[u8]) -> Bytes {
    let time = jiff::Timestamp::from_nanosecond(i128::from(at)).expect("a time");
    [format!("{time:.9} ").as_bytes(), line, b"\n"].concat().into()
}

impl Fake {
    pub(super) fn runner(&self) -> Kubernetes {
        let objects = "/apis/batch/v1/namespaces/demo/{kind}";
        let core = "/api/v1/namespaces/demo/{kind}";
        let router = Router::new()
            .route(objects, get(list).post(create))
            .route(&format!("{objects}/{{name}}"), get(read).patch(change).delete(remove))
            .route(core, get(list))
            .route(&format!("{core}/{{name}}"), get(read))
            .route(&format!("{core}/{{name}}/log"), get(log))
            .with_state(self.clone());
        let client = kube::Client::new(Gate(self.clone(), router), "demo");
        let defaults = Defaults {
            image: Some("box:1".to_owned()),
            ..Defaults::default()
        };
        Kubernetes::new(client, "demo", defaults, Limits::default())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic")
    }

    /// Puts an object there, as new or changed.
    pub(super) fn put(&self, kind: &'static str, mut object: Value) {
        let mut inner = self.lock();
        inner.version += 1;
        object["metadata"]["resourceVersion"] = inner.version.to_string().into();
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let old = inner.objects.insert((kind, name), object.clone());
        inner.tell(kind, if old.is_some() { "MODIFIED" } else { "ADDED" }, &object);
    }

    pub(super) fn delete(&self, kind: &'static str, name: &str) {
        let mut inner = self.lock();
        inner.version += 1;
        let Some(mut object) = inner.objects.remove(&(kind, name.to_owned())) else {
            return;
        };
        object["metadata"]["resourceVersion"] = inner.version.to_string().into();
        inner.tell(kind, "DELETED", &object);
    }

    pub(super) fn object(&self, kind: &'static str, name: &str) -> Option<Value> {
        self.lock().objects.get(&(kind, name.to_owned())).cloned()
    }

    /// Puts an object there without a word to the watches, as if they were late.
    pub(super) fn put_unseen(&self, kind: &'static str, object: Value) {
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        self.lock().objects.insert((kind, name), object);
    }

    /// Removes an object without a word to the watches, as if they had missed it.
    pub(super) fn delete_unseen(&self, kind: &'static str, name: &str) {
        self.lock().objects.remove(&(kind, name.to_owned()));
    }

    /// Says on the watches of a kind that they are too old.
    pub(super) fn gone(&self, kind: &'static str) {
        let object = failure(410, "Expired", "too old resource version");
        self.lock().tell(kind, "ERROR", &object);
    }

    /// Says on the watches of a kind that nothing has happened.
    pub(super) fn bookmark(&self, kind: &'static str) {
        let mut inner = self.lock();
        let version = inner.version.to_string();
        let object = json!({"kind": "", "apiVersion": "", "metadata": {"resourceVersion": version}});
        inner.tell(kind, "BOOKMARK", &object);
    }

    /// Ends all watches in the middle of a line.
    pub(super) fn cut_watches(&self) {
        let inner = &mut *self.lock();
        for (_, watch) in inner.watches.drain(..) {
            _ = watch.send(Ok(Bytes::from_static(b"{\"type\":\"MODI")));
            _ = watch.send(Err(std::io::Error::new(
                std::io::ErrorKind::ConnectionReset,
                "reset by peer",
            )));
        }
    }

    /// Goes away, or comes back.
    pub(super) fn set_away(&self, away: bool) {
        self.lock().away = away;
        if away {
            self.cut_watches();
        }
    }

    /// Answers the next request that begins so.
    pub(super) fn answer_next(&self, request: &str, code: u16, reason: &str, message: &str) {
        let value = failure(code, reason, message);
        self.lock().answers.push_back((request.to_owned(), code, value));
    }

    /// Begins to answer the next request that begins so, and says nothing more.
    pub(super) fn break_off_next(&self, request: &str) {
        let answer = (request.to_owned(), BROKEN_OFF, Value::Null);
        self.lock().answers.push_back(answer);
    }

    /// Answers every list of a kind only after a time, and no list of another kind that was read until then can be
    /// watched from.
    pub(super) fn list_late(&self, kind: &'static str, time: Duration, too_old: &'static str) {
        let mut inner = self.lock();
        inner.late = Some(Late { kind, time, too_old });
        inner.oldest.insert(too_old, u64::MAX);
    }

    /// Forgets what was of a kind: no watch can go on from it.
    pub(super) fn expire(&self, kind: &'static str) {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        inner.oldest.insert(kind, version);
    }

    /// Returns what was asked that begins so.
    pub(super) fn asked(&self, begins: &str) -> Vec<String> {
        let inner = self.lock();
        inner
            .asked
            .iter()
            .filter(|asked| asked.starts_with(begins))
            .cloned()
            .collect()
    }

    /// Writes a line into a pod's log.
    pub(super) fn write(&self, pod: &str, at: i64, line: impl AsRef<[u8]>) {
        let mut inner = self.lock();
        let log = inner.logs.entry(pod.to_owned()).or_default();
        log.lines.push((at, line.as_ref().to_vec()));
        let chunk = stamped(at, line.as_ref());
        log.open.retain(|open| open.send(Ok(chunk.clone())).is_ok());
    }

    /// Puts something into all open readings that is no line of the program.
    pub(super) fn say(&self, pod: &str, text: &'static str) {
        for open in &self.lock().logs.entry(pod.to_owned()).or_default().open {
            _ = open.send(Ok(Bytes::from_static(text.as_bytes())));
        }
    }

    /// Answers the next reading of a pod's log with words of the kubelet, as it does where the container is removed.
    pub(super) fn remove_container(&self, pod: &str) {
        self.lock().logs.entry(pod.to_owned()).or_default().removed = true;
    }

    /// Ends all open readings of a pod's log as if all was read.
    pub(super) fn end_log(&self, pod: &str) {
        self.lock().logs.entry(pod.to_owned()).or_default().open.clear();
    }

    /// Ends them with an error, in the middle of a line.
    pub(super) fn cut_log(&self, pod: &str) {
        let mut inner = self.lock();
        for open in inner.logs.entry(pod.to_owned()).or_default().open.drain(..) {
            _ = open.send(Ok(Bytes::from_static(b"2026-01-01T00:00:00.000000000Z half of a li")));
            _ = open.send(Err(std::io::Error::other("connection reset by peer")));
        }
    }

    /// Forgets the lines so far, as a rotation does.
    pub(super) fn rotate_log(&self, pod: &str) {
        self.lock().logs.entry(pod.to_owned()).or_default().lines.clear();
    }

    /// Returns how many readings of a pod's log are open.
    pub(super) fn readers(&self, pod: &str) -> usize {
        let mut inner = self.lock();
        let log = inner.logs.entry(pod.to_owned()).or_default();
        log.open.retain(|open| !open.is_closed());
        log.open.len()
    }
}

impl Inner {
    fn tell(&mut self, kind: &'static str, event: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({"type": event, "object": object})));
        self.watches
            .retain(|(watched, watch)| *watched != kind || watch.send(Ok(line.clone())).is_ok());
    }
}

/// Notes every request, and answers some of them before anybody else can.
#[derive(Clone)]
struct Gate(Fake, Router);

impl tower::Service<http::Request<kube::client::Body>> for Gate {
    type Response = Response;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<kube::client::Body>) -> Self::Future {
        let Self(fake, router) = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.expect("a body");
            let asked = format!("{} {} {}", head.method, head.uri, String::from_utf8_lossy(&body));
            let early = {
                let mut inner = fake.lock();
                let place = inner.answers.iter().position(|(begins, ..)| asked.starts_with(begins));
                let early = place.and_then(|place| inner.answers.remove(place));
                inner.asked.push(asked);
                let away = (503, failure(503, "ServiceUnavailable", "the server is away"));
                early
                    .map(|(_, code, value)| (code, value))
                    .or(inner.away.then_some(away))
            };
            if let Some((code, value)) = early {
                return Ok(if code == BROKEN_OFF {
                    Body::from_stream(stream::pending::<Chunk>()).into_response()
                } else {
                    answer(code, &value)
                });
            }
            let request = http::Request::from_parts(head, Body::from(body));
            tower::ServiceExt::oneshot(router, request).await
        })
    }
}

async fn list(Shared(fake): Shared<Fake>, Path(kind): Path<String>, Query(query): Params) -> Response {
    let kind = kind_of(&kind);
    let watches = query.contains_key("watch");
    let late = fake.lock().late;
    if let Some(late) = late.filter(|late| !watches && late.kind == kind) {
        tokio::time::sleep(late.time).await;
        let mut inner = fake.lock();
        inner.version += 1;
        let version = inner.version;
        inner.oldest.insert(late.too_old, version);
    }
    let mut inner = fake.lock();
    let selector = query.get("labelSelector").cloned().unwrap_or_default();
    let wanted = |object: &Value| {
        let mut wants = selector.split(',').filter(|part| !part.is_empty());
        wants.all(|part| {
            let (name, value) = part.split_once('=').expect("name=value");
            object["metadata"]["labels"][name] == value
        })
    };
    if watches {
        let (sender, receiver) = mpsc::unbounded_channel();
        let from: u64 = query["resourceVersion"].parse().expect("a version");
        if inner.oldest.get(kind).is_some_and(|oldest| from < *oldest) {
            return answer(410, &failure(410, "Expired", "too old resource version"));
        }
        let newer = |object: &&Value| {
            let version = object["metadata"]["resourceVersion"]
                .as_str()
                .and_then(|version| version.parse().ok());
            version.is_some_and(|version: u64| version > from)
        };
        for object in inner
            .objects
            .iter()
            .filter(|((of, _), _)| *of == kind)
            .map(|(_, object)| object)
            .filter(newer)
        {
            let line = format!("{}\n", json!({"type": "MODIFIED", "object": object}));
            _ = sender.send(Ok(line.into()));
        }
        inner.watches.push((kind, sender));
        return streamed(receiver);
    }
    let of_kind = inner.objects.iter().filter(|((of, _), _)| *of == kind);
    let items: Vec<&Value> = of_kind
        .map(|(_, object)| object)
        .filter(|object| wanted(object))
        .collect();
    answer(
        200,
        &json!({"metadata": {"resourceVersion": inner.version.to_string()}, "items": items}),
    )
}

async fn create(Shared(fake): Shared<Fake>, Path(kind): Path<String>, body: Bytes) -> Response {
    let object: Value = serde_json::from_slice(&body).expect("JSON");
    let name = object["metadata"]["name"].as_str().expect("a name");
    if fake.object(kind_of(&kind), name).is_some() {
        return answer(409, &failure(409, "AlreadyExists", "it is there"));
    }
    fake.put(kind_of(&kind), object.clone());
    answer(201, &object)
}

async fn read(Shared(fake): Shared<Fake>, Path((kind, name)): Path<(String, String)>) -> Response {
    match fake.object(kind_of(&kind), &name) {
        Some(object) => answer(200, &object),
        None => answer(404, &failure(404, "NotFound", "not found")),
    }
}

async fn change(Shared(fake): Shared<Fake>, Path((kind, name)): Path<(String, String)>, body: Bytes) -> Response {
    let Some(mut object) = fake.object(kind_of(&kind), &name) else {
        return answer(404, &failure(404, "NotFound", "not found"));
    };
    merge(&mut object, &serde_json::from_slice(&body).expect("JSON"));
    fake.put(kind_of(&kind), object.clone());
    answer(200, &object)
}

fn merge(into: &mut Value, from: &Value) {
    match from.as_object() {
        Some(from) => from.iter().for_each(|(name, value)| merge(&mut into[name], value)),
        None => *into = from.clone(),
    }
}

async fn remove(Shared(fake): Shared<Fake>, Path((kind, name)): Path<(String, String)>) -> Response {
    let Some(object) = fake.object(kind_of(&kind), &name) else {
        return answer(404, &failure(404, "NotFound", "not found"));
    };
    fake.delete(kind_of(&kind), &name);
    answer(200, &object)
}

async fn log(Shared(fake): Shared<Fake>, Path((_, pod)): Path<(String, String)>, Query(query): Params) -> Response {
    if fake.object("pods", &pod).is_none() {
        return answer(404, &failure(404, "NotFound", "not found"));
    }
    let since = query.get("sinceTime").map(|since| {
        let since: jiff::Timestamp = since.parse().expect("a time");
        assert_eq!(since.subsec_nanosecond(), 0, "the log API knows whole seconds");
        i64::try_from(since.as_nanosecond()).expect("this century")
    });
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut inner = fake.lock();
    let log = inner.logs.entry(pod).or_default();
    if log.removed {
        return "unable to retrieve container logs for containerd://b0c3".into_response();
    }
    for (at, line) in log
        .lines
        .iter()
        .filter(|(at, _)| since.is_none_or(|since| *at >= since))
    {
        _ = sender.send(Ok(stamped(*at, line)));
    }
    if query.contains_key("follow") {
        log.open.push(sender);
    }
    streamed(receiver)
}
