//! Reads lines from an HTTP answer and notes when each of them came.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::{Context, Probe, http};
use crate::check::ask::LogStream;
use crate::check::evidence::Evidence;

/// How many bytes of a stream are kept.
const KEEP: usize = 4 << 20;
/// How long the question at the first line may take.
const ASIDE: Duration = Duration::from_secs(5);

/// What came so far.
#[derive(Default)]
struct Lines {
    events: bool,
    rest: Vec<u8>,
    all: Vec<String>,
    bytes: usize,
}

impl Lines {
    /// Takes bytes as they came; a line is one only when its newline is there.
    fn push(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len();
        if self.bytes > KEEP {
            return;
        }
        self.rest.extend_from_slice(chunk);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.line(&line[..end]);
        }
    }

    fn end(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.line(&rest);
        }
    }

    fn line(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(bytes)).into_owned();
        if !self.events {
            self.all.push(text);
        } else if let Some(data) = text.strip_prefix("data:") {
            self.all.push(data.strip_prefix(' ').unwrap_or(data).to_owned());
        }
    }
}

#[async_trait]
impl Probe for LogStream {
    async fn observe(&self, context: &Context<'_>) -> Evidence {
        let client = match http::streaming() {
            Ok(client) => client,
            Err(error) => return Evidence::blind(format!("the HTTP client cannot be set up: {error:#}")),
        };
        let mut request = client.get(&self.get);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let start = Instant::now();
        let answer = match tokio::time::timeout(self.read_for(), request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_builder() => {
                return Evidence::blind(format!("the request cannot be made: {error}"));
            }
            Ok(Err(error)) => return Evidence::nothing(http::no_answer(&error)),
            Err(_) => {
                let limit = self.read_for().as_secs_f32();
                return Evidence::nothing(format!("not even the head of an answer within {limit}s"));
            }
        };
        let status = answer.status().as_u16();
        let kind = answer
            .headers()
            .get(::http::header::CONTENT_TYPE)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let mut lines = Lines {
            events: kind
                .as_deref()
                .is_some_and(|kind| kind.starts_with("text/event-stream")),
            ..Lines::default()
        };
        let (mut first, mut last, mut aside) = (None, None, None);
        let mut ended = false;
        let mut broken = None;
        let mut body = answer.bytes_stream();
        loop {
            let left = self.read_for().saturating_sub(start.elapsed());
            let chunk = match tokio::time::timeout(left, body.next()).await {
                Err(_) => break,
                Ok(None) => {
                    ended = true;
                    break;
                }
                Ok(Some(Err(error))) => {
                    broken = Some(error.to_string());
                    break;
                }
                Ok(Some(Ok(chunk))) => chunk,
            };
            let before = lines.all.len();
            lines.push(&chunk);
            if lines.all.len() > before {
                let now = start.elapsed();
                first.get_or_insert(now);
                last = Some(now);
                if aside.is_none()
                    && let Some(at) = &self.at_first_line
                {
                    aside = Some(ask_aside(&context.http, &at.get).await);
                }
            }
            if self.close_after.is_some_and(|enough| lines.all.len() >= enough) {
                break;
            }
        }
        if ended {
            lines.end();
        }
        let mut value = json!({"status": status, "ended": ended});
        if let Some(kind) = kind {
            value["content_type"] = kind.into();
        }
        if let (Some(first), Some(last)) = (first, last) {
            value["first_line_ms"] = millis(first);
            value["spread_ms"] = millis(last.saturating_sub(first));
        }
        if let Some(aside) = aside {
            value["at_first_line"] = aside;
        }
        if let Some(why) = broken {
            value["broken"] = why.into();
        }
        value["text"] = lines
            .all
            .iter()
            .fold(String::new(), |text, line| text + line + "\n")
            .into();
        value["lines"] = lines.all.into();
        Evidence::one("", value)
    }
}

async fn ask_aside(client: &reqwest::Client, url: &str) -> Value {
    let asked = async { client.get(url).send().await?.json::<Value>().await };
    match tokio::time::timeout(ASIDE, asked).await {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => json!({"no_answer": http::no_answer(&error)}),
        Err(_) => json!({"no_answer": "no answer in time"}),
    }
}

fn millis(time: Duration) -> Value {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_came() {
        let mut lines = Lines::default();
        for part in ["on", "e\ntwo\r\n", "", "th", "ree"] {
            lines.push(part.as_bytes());
        }
        assert_eq!(lines.all, ["one", "two"]);
        lines.end();
        assert_eq!(lines.all, ["one", "two", "three"]);
    }

    #[test]
    fn of_events_only_the_data_is_a_line() {
        let mut lines = Lines {
            events: true,
            ..Lines::default()
        };
        lines.push(b": hello\nid: 7\nevent: line\ndata: one\n\ndata:two\n\n");
        assert_eq!(lines.all, ["one", "two"]);
    }
}
