//! The HTTP API of a job-dashboard, wherever it runs: requests, refusals, and streams of events.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use reqwest::{Method, StatusCode, Url, header};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Code, Diagnosis};

/// How long the server may take until its answer begins.
const ANSWER: Duration = Duration::from_secs(40);
/// How long a stream may be silent: the server says every 15 seconds that it lives.
const SILENCE: Duration = Duration::from_secs(50);
/// How often a request that may be sent again is sent where the connection fails.
const TRIES: u32 = 3;
/// How much of an event may be read before it ends.
const EVENT_BYTES: usize = 64 << 20;

/// A dashboard.
#[derive(Debug, Clone)]
pub struct Dashboard {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

/// A refusal, as `application/problem+json` has it.
#[derive(Debug, Deserialize)]
struct Problem {
    title: String,
    code: String,
    detail: Option<String>,
    #[serde(default)]
    errors: Vec<Fault>,
    request_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Fault {
    pointer: String,
    detail: String,
}

/// What a request is, beside its path.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Option<Value>,
}

impl Dashboard {
    /// Names a dashboard; nothing is sent yet.
    ///
    /// # Errors
    /// [`Code::Setting`]: the URL cannot be used, or the token cannot be sent.
    pub fn new(url: &str, token: Option<String>) -> Result<Self> {
        let wrong =
            |what: String| Diagnosis::new(Code::Setting, what).hint("labctl jobs --url http://127.0.0.1:8080 list");
        let mut base: Url = url
            .parse()
            .map_err(|error| wrong(format!("`{url}` is no URL: {error}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none_or(str::is_empty) {
            return Err(wrong(format!("`{url}` must begin with http:// or https:// and a host")).error());
        }
        if !base.username().is_empty() || base.password().is_some() {
            let what = "the dashboard's URL must not have a user or password in it";
            return Err(wrong(what.into())
                .hint("LABCTL_TOKEN or --token-file has the token")
                .error());
        }
        base.set_query(None);
        base.set_fragment(None);
        if let Some(token) = &token
            && header::HeaderValue::from_str(token).is_err()
        {
            return Err(wrong("the token has characters that cannot be sent".into()).error());
        }
        let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("labctl/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::none());
        if loopback {
            // A proxy has another loopback address.
            builder = builder.no_proxy();
        }
        let http = builder.build().context("set up the HTTP client")?;
        Ok(Self { http, base, token })
    }

    /// Returns the URL of a path, for people.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base.as_str().trim_end_matches('/'))
    }

    /// Sends a request and returns the answer's JSON; null where it has no body.
    ///
    /// # Errors
    /// [`Code::DashboardDown`], [`Code::DashboardRefused`], [`Code::DashboardFailed`].
    pub async fn send(&self, method: Method, path: &str, request: Request) -> Result<Value> {
        // What changes nothing, or says with a key which request it is, may be sent twice.
        let again = method == Method::GET || request.headers.iter().any(|(name, _)| *name == "idempotency-key");
        let mut tries = 0;
        let answer = loop {
            tries += 1;
            match self.ask(&method, path, &request).await {
                Err(_) if again && tries < TRIES => tokio::time::sleep(Duration::from_millis(200)).await,
                other => break other?,
            }
        };
        let answer = self.accepted(answer).await?;
        let bytes = answer
            .bytes()
            .await
            .map_err(|error| self.down(error.without_url().into()))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).with_context(|| self.foreign())
    }

    /// Asks for a body that may be long, and returns it part by part.
    ///
    /// # Errors
    /// As [`Dashboard::send`]; of a part, that the connection broke.
    pub async fn download(&self, path: &str, accept: &str) -> Result<BoxStream<'static, Result<Bytes>>> {
        let request = Request {
            headers: vec![("accept", accept.to_owned())],
            body: None,
        };
        let answer = self.ask(&Method::GET, path, &request).await?;
        let answer = self.accepted(answer).await?;
        let this = self.clone();
        Ok(answer
            .bytes_stream()
            .map_err(move |error| this.down(error.without_url().into()))
            .boxed())
    }

    /// Opens a stream of events; `last` is the id of the last one that is known.
    ///
    /// # Errors
    /// As [`Dashboard::send`].
    pub async fn events(&self, path: &str, last: Option<u64>) -> Result<EventStream> {
        let mut headers = vec![("accept", "text/event-stream".to_owned())];
        headers.extend(last.map(|last| ("last-event-id", last.to_string())));
        let answer = self.ask(&Method::GET, path, &Request { headers, body: None }).await?;
        let answer = self.accepted(answer).await?;
        Ok(EventStream {
            bytes: answer
                .bytes_stream()
                .map_err(|error| error.without_url().into())
                .boxed(),
            reader: EventReader::default(),
            ready: VecDeque::new(),
        })
    }

    async fn ask(&self, method: &Method, path: &str, request: &Request) -> Result<reqwest::Response> {
        let mut builder = self.http.request(method.clone(), self.url(path));
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(token) = &self.token {
            builder = builder.bearer_auth(token);
        }
        if let Some(body) = &request.body {
            builder = builder.json(body);
        }
        match tokio::time::timeout(ANSWER, builder.send()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.down(error.without_url().into())),
            Err(_) => Err(self.down(anyhow::anyhow!("no answer after {}s", ANSWER.as_secs()))),
        }
    }

    fn down(&self, error: anyhow::Error) -> anyhow::Error {
        let url = self.url("");
        error.context(
            Diagnosis::new(Code::DashboardDown, format!("the dashboard at {url} does not answer"))
                .hint("labctl serve runs one on this machine; labctl up brings a lab's back")
                .hint("labctl jobs --url URL, or LABCTL_DASHBOARD_URL, names another"),
        )
    }

    fn foreign(&self) -> Diagnosis {
        let url = self.url("");
        Diagnosis::new(
            Code::DashboardFailed,
            format!("what answers at {url} is no job-dashboard"),
        )
        .hint("labctl jobs --url URL, or LABCTL_DASHBOARD_URL, names another")
    }

    /// Turns a refusal into an error.
    async fn accepted(&self, answer: reqwest::Response) -> Result<reqwest::Response> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = answer.bytes().await.unwrap_or_default();
        let Ok(problem) = serde_json::from_slice::<Problem>(&bytes) else {
            return Err(anyhow::anyhow!("it answers with {status}").context(self.foreign()));
        };
        Err(refusal(status, problem).error())
    }
}

fn refusal(status: StatusCode, problem: Problem) -> Diagnosis {
    let code = if status.is_server_error() {
        Code::DashboardFailed
    } else {
        Code::DashboardRefused
    };
    // A title is a sentence; an error of labctl is not.
    let mut letters = problem.title.chars();
    let mut text: String = letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default();
    if let Some(detail) = problem.detail {
        text = format!("{text}: {detail}");
    }
    for fault in problem.errors {
        let place = if fault.pointer.is_empty() {
            "the document"
        } else {
            &fault.pointer
        };
        text = format!("{text}\n  {place}: {}", fault.detail);
    }
    let diagnosis = Diagnosis::new(code, text);
    let hint = match problem.code.as_str() {
        "unauthenticated" => {
            "put the token into LABCTL_TOKEN, or name its file with --token-file; labctl up makes the lab's"
        }
        "no-such-job" => "labctl jobs list shows the jobs that you may see",
        "not-found" => "the server runs no jobs, or is another program; labctl serve runs jobs on this machine",
        "state-conflict" | "runner-unsupported" => "labctl jobs get ID shows how the job is",
        "store-full" => "labctl jobs delete ID removes a job that has ended, with its log",
        _ if status == StatusCode::SERVICE_UNAVAILABLE => "the same command may work in a moment",
        "internal" => match problem.request_id {
            Some(id) => return diagnosis.hint(format!("the server's log has more under request_id {id}")),
            None => "the server's log has more",
        },
        _ => return diagnosis,
    };
    diagnosis.hint(hint)
}

/// A server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its kind; `message` where it does not say.
    pub name: String,
    /// Its data.
    pub data: String,
}

/// Events as they come.
pub struct EventStream {
    bytes: BoxStream<'static, Result<Bytes>>,
    reader: EventReader,
    ready: VecDeque<Event>,
}

impl EventStream {
    /// Returns the next event; nothing where the stream ended.
    ///
    /// # Errors
    /// The connection broke, is silent for too long, or sends no events.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let silent = || anyhow::anyhow!("nothing came for {}s", SILENCE.as_secs());
            match tokio::time::timeout(SILENCE, self.bytes.next())
                .await
                .map_err(|_| silent())?
            {
                Some(bytes) => self.ready.extend(self.reader.push(&bytes?)?),
                None => return Ok(None),
            }
        }
    }

    /// Returns the id of the newest event: what to come back with.
    pub fn last_id(&self) -> Option<u64> {
        self.reader.last_id
    }

    /// Returns when the server wants to be asked again.
    pub fn retry(&self) -> Option<Duration> {
        self.reader.retry
    }
}

/// Reads server-sent events out of bytes that are cut anywhere, as the HTML standard says.
#[derive(Debug, Default)]
struct EventReader {
    rest: Vec<u8>,
    /// How much of `rest` is known to have no line end.
    seen: usize,
    name: String,
    data: String,
    any: bool,
    last_id: Option<u64>,
    retry: Option<Duration>,
}

impl EventReader {
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>> {
        self.rest.extend_from_slice(bytes);
        let mut out = Vec::new();
        let mut begin = 0;
        while let Some(end) = self.rest[self.seen..].iter().position(|byte| *byte == b'\n') {
            let end = self.seen + end;
            let line = String::from_utf8_lossy(&self.rest[begin..end]).into_owned();
            self.line(line.trim_end_matches('\r'), &mut out);
            begin = end + 1;
            self.seen = begin;
        }
        self.rest.drain(..begin);
        self.seen = self.rest.len();
        anyhow::ensure!(
            self.rest.len() + self.data.len() <= EVENT_BYTES,
            "an event is too large"
        );
        Ok(out)
    }

    fn line(&mut self, line: &str, out: &mut Vec<Event>) {
        if line.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            if std::mem::take(&mut self.any) {
                let name = if name.is_empty() { "message".to_owned() } else { name };
                out.push(Event { name, data });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if self.any {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.any = true;
            }
            "id" => self.last_id = value.parse().ok().or(self.last_id),
            "retry" => self.retry = value.parse().ok().map(Duration::from_millis).or(self.retry),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b": hello\n\nretry: 1500\n\nid: 7\nevent: line\ndata: {\"text\":\"\xc3\xa4\"}\n\nid: 9\n\ndata: a\r\ndata:b\r\n\r\nid: x\nevent: end\ndata\n\nevent: cut\ndata: off";

    #[test]
    fn events_are_read_wherever_the_bytes_are_cut() {
        for size in 1..STREAM.len() {
            let mut reader = EventReader::default();
            let mut events = Vec::new();
            for part in STREAM.chunks(size) {
                events.extend(reader.push(part).expect("events"));
            }
            let events: Vec<_> = events
                .iter()
                .map(|event| (event.name.as_str(), event.data.as_str()))
                .collect();
            assert_eq!(
                events,
                [("line", "{\"text\":\"ä\"}"), ("message", "a\nb"), ("end", "")],
                "{size}"
            );
            assert_eq!(
                (reader.last_id, reader.retry),
                (Some(9), Some(Duration::from_millis(1500)))
            );
        }
    }

    #[test]
    fn a_url_that_cannot_be_asked_is_told() {
        crate::world::install_crypto();
        for bad in ["", "localhost:8080", "ftp://x", "http://", "http://u:p@x", "http://u@x"] {
            let error = Dashboard::new(bad, None).expect_err(bad);
            let text = crate::error::render(&error);
            assert!(
                text.contains("LAB-USE-003") && text.contains("hint: labctl jobs --url"),
                "{text}"
            );
        }
        assert!(Dashboard::new("http://127.0.0.1:1", Some("a\nb".into())).is_err());
        let dashboard = Dashboard::new("http://127.0.0.1:1/base/?x=1#y", None).expect("good");
        assert_eq!(dashboard.url("/jobs?a"), "http://127.0.0.1:1/base/jobs?a");
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_with_the_next_command() {
        crate::world::install_crypto();
        let dashboard = Dashboard::new("http://127.0.0.1:9", None).expect("good");
        let error = dashboard
            .send(Method::GET, "/jobs", Request::default())
            .await
            .expect_err("nobody");
        let text = crate::error::render(&error);
        assert!(
            text.contains("LAB-ENV-026") && text.contains("hint: labctl serve"),
            "{text}"
        );
    }

    #[test]
    fn a_refusal_says_what_and_what_to_do() {
        let problem = |json: &str| serde_json::from_str::<Problem>(json).expect("a problem");
        let invalid = problem(
            r#"{"title": "Wrong", "code": "invalid-job", "errors": [{"pointer": "/name", "detail": "bad"}, {"pointer": "", "detail": "x"}]}"#,
        );
        let found = refusal(StatusCode::UNPROCESSABLE_ENTITY, invalid);
        assert_eq!(found.message, "wrong\n  /name: bad\n  the document: x");
        assert_eq!(found.code, Code::DashboardRefused);
        let down = problem(r#"{"title": "Down", "code": "store-unavailable"}"#);
        let found = refusal(StatusCode::SERVICE_UNAVAILABLE, down);
        assert_eq!((found.code, found.hints.len()), (Code::DashboardFailed, 1));
    }
}
