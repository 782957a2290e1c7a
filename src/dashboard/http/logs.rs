//! `/jobs/{id}/logs`: a job's output as text, as JSON lines or as events, and from where a client left off.

use std::fmt::Write as _;
use std::io;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::Response;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::api::{ApiEnd, ApiGap, ApiLine};
use super::events::StreamEvent;
use super::extract::{Id, single};
use super::guard::By;
use super::openapi::LogsRefused;
use super::problem::{Kind, Problem};
use super::query::{Format, Log};
use super::streams::{self, Events, HEARTBEAT, Open};
use super::{Api, accept, api};
use crate::dashboard::job::JobId;
use crate::dashboard::log::{Line, Stream};
use crate::dashboard::service::tail::{Item, Tail};
use crate::dashboard::service::{Caller, Service, ServiceError};

/// What the dashboard itself says within plain text begins with this.
const OWN_WORD: &str = "[labctl] ";

/// Read a job's log
///
/// As plain text, as `application/x-ndjson` (a line of the log or `{"gap": ...}` a line), or as server-sent events:
/// `line` with a line, its number as the event's id; `gap` where lines are lost; `end` when there is no more. Whoever
/// comes back with `Last-Event-ID` goes on with the line after it.
#[utoipa::path(
    get, path = "/jobs/{id}/logs", operation_id = "readLog", tag = "logs",
    params(
        ("id" = String, Path, description = "The job's id", min_length = 13, max_length = 13, pattern = "^[0-7][0-9a-hjkmnp-tv-z]{12}$"),
        ("follow" = Option<bool>, Query, description = "Wait for lines that are not written yet, until the job ends"),
        ("tail" = Option<u64>, Query, description = "Only the last so many lines of what is there now", minimum = 0),
        ("since" = Option<String>, Query, description = "Only lines written at this time or later: RFC 3339, or how long ago (`90s`, `1h30m`, `7d`)"),
        ("until" = Option<String>, Query, description = "Only lines written before this time, in the same forms"),
        ("attempt" = Option<u32>, Query, description = "Only lines of this attempt, from 1", minimum = 0),
        ("previous" = Option<bool>, Query, description = "Only lines of the attempt before the newest one"),
        ("stream" = Option<Stream>, Query, description = "Only lines written there; a Kubernetes log has both as one, `merged`"),
        ("level" = Option<crate::dashboard::log::level::Level>, Query, description = "Only lines that say they are so bad or worse, be it in JSON, logfmt, klog's head or a word; lines that say nothing are left out"),
        ("grep" = Option<String>, Query, description = "Only lines that this regular expression matches (RE2's syntax)"),
        ("timestamps" = Option<bool>, Query, description = "Begin lines of plain text with their time"),
        ("from" = Option<u64>, Query, description = "Only from the line with this number on", minimum = 1),
        ("format" = Option<String>, Query, description = "`text`, `ndjson` or `sse`; wins over `Accept`", pattern = "^(text|ndjson|sse)$"),
        ("Last-Event-ID" = Option<String>, Header, description = "The number of the last line that the client has", pattern = "^[0-9]{1,19}$"),
    ),
    responses(
        (status = 200, description = "The log", content(
            (String = "text/plain"), (ApiLine<'static> = "application/x-ndjson"), (StreamEvent = "text/event-stream"),
        )),
        LogsRefused,
    )
)]
pub(super) async fn read(
    State(api): State<Api>,
    By(caller): By,
    Id(id): Id,
    headers: HeaderMap,
    mut log: Log,
) -> Result<Response, Problem> {
    if let Some(last) = last_event(&headers)? {
        log.resume(last);
    }
    let format = log.format.unwrap_or_else(|| {
        let wanted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
        Format::ALL[accept::choose(wanted, &Format::MEDIA)]
    });
    let service = api.service()?;
    if log.previous {
        let job = service.job(&caller, id).await?;
        let Some(before) = job.attempts.checked_sub(1).filter(|before| *before > 0) else {
            let why = format!(
                "`previous`: the job has had {} attempts, so there is none before the newest",
                job.attempts
            );
            return Err(Problem::new(Kind::Parameter).detail(why));
        };
        log.select.attempt = Some(before);
    }
    let last = log.select.from.map_or(0, |from| from.saturating_sub(1));
    let follow = log.select.follow;
    let tail = service.tail(&caller, id, log.select).await?;
    let open = api.streams.open(&caller.name)?;
    let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reading = Reading {
        service: service.clone(),
        caller,
        id,
        tail,
        writer: Writer {
            format,
            timestamps: log.timestamps,
            within: false,
            last,
            events: Events::default(),
        },
        follow,
        open,
        heartbeat,
        state: Stage::Begin,
    };
    let media_type = match format {
        Format::Text => "text/plain; charset=utf-8",
        Format::Ndjson => Format::MEDIA[1],
        Format::Events => Format::MEDIA[2],
    };
    let stream = futures_util::stream::unfold(reading, Reading::step);
    Ok(streams::response(media_type, Body::from_stream(stream)))
}

/// Returns the number of the last line that a client has, where it says so.
fn last_event(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    const NAME: HeaderName = HeaderName::from_static("last-event-id");
    let Some(text) = single(headers, &NAME)?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let number = text
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten();
    number
        .map(Some)
        .ok_or_else(|| Problem::new(Kind::Parameter).detail("`Last-Event-ID` must be the number of a line"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    Middle,
    Done,
}

/// A log on its way to a client.
struct Reading {
    service: Service,
    caller: Caller,
    id: JobId,
    tail: Tail,
    writer: Writer,
    follow: bool,
    open: Open,
    heartbeat: Interval,
    state: Stage,
}

impl Reading {
    /// Returns what is sent next. One part is made at a time, and the next one only when the client took it.
    async fn step(mut self) -> Option<(io::Result<Bytes>, Self)> {
        match self.state {
            Stage::Done => return None,
            Stage::Begin if self.writer.format == Format::Events => {
                self.state = Stage::Middle;
                let bytes = self.writer.events.retry().take();
                return Some((Ok(bytes), self));
            }
            Stage::Begin | Stage::Middle => self.state = Stage::Middle,
        }
        loop {
            let closing = async {
                // What is there already is sent whole; what is waited for is not.
                if self.follow {
                    self.open.closing.cancelled().await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            let events = self.writer.format == Format::Events;
            let item = tokio::select! {
                biased;
                () = closing => {
                    self.state = Stage::Done;
                    if events {
                        let bytes = self.writer.events.comment("the server is stopping").retry().take();
                        return Some((Ok(bytes), self));
                    }
                    return None;
                }
                item = self.tail.next() => item,
                _ = self.heartbeat.tick(), if events => {
                    let bytes = self.writer.events.comment("").take();
                    return Some((Ok(bytes), self));
                }
            };
            let sent = match item {
                Ok(Some(item)) => Ok(self.writer.item(&item)),
                Ok(None) => {
                    self.state = Stage::Done;
                    self.end().await
                }
                // Deleted meanwhile: nothing more will ever come.
                Err(ServiceError::NotFound) => {
                    self.state = Stage::Done;
                    Ok(self.writer.end(true))
                }
                Err(error) => {
                    self.state = Stage::Done;
                    self.writer.broken(&Problem::from(error))
                }
            };
            match sent {
                Ok(bytes) if bytes.is_empty() && self.state == Stage::Done => return None,
                Ok(bytes) if bytes.is_empty() => {}
                sent => return Some((sent, self)),
            }
        }
    }

    async fn end(&mut self) -> io::Result<Bytes> {
        if self.writer.format != Format::Events {
            return Ok(Bytes::new());
        }
        match self.service.job(&self.caller, self.id).await {
            Ok(job) => Ok(self.writer.end(job.log_complete)),
            Err(ServiceError::NotFound) => Ok(self.writer.end(true)),
            Err(error) => self.writer.broken(&Problem::from(error)),
        }
    }
}

/// Writes parts of a log in the form that a client wants.
struct Writer {
    format: Format,
    timestamps: bool,
    /// Whether the line before goes on in the next one.
    within: bool,
    last: u64,
    events: Events,
}

impl Writer {
    fn item(&mut self, item: &Item) -> Bytes {
        let mut out = Vec::new();
        match item {
            Item::Lines { lines, seen } => {
                for line in lines {
                    self.line(&mut out, line);
                }
                if self.format == Format::Events && lines.last().is_none_or(|line| line.number < *seen) {
                    // Lines that were passed over need not be looked at again by a client that comes back.
                    self.events.place(*seen);
                }
                self.last = *seen;
            }
            Item::Gap { from, to } => {
                let gap = ApiGap { from: *from, to: *to };
                match self.format {
                    Format::Text => {
                        self.break_line(&mut out);
                        out.extend(format!("{OWN_WORD}lines {from} to {to} are lost\n").as_bytes());
                    }
                    Format::Ndjson => out.extend(format!("{{\"gap\":{{\"from\":{from},\"to\":{to}}}}}\n").as_bytes()),
                    Format::Events => {
                        self.events.event("gap", Some(*to), &gap);
                    }
                }
                self.last = *to;
            }
        }
        if self.format == Format::Events {
            self.events.take()
        } else {
            out.into()
        }
    }

    fn line(&mut self, out: &mut Vec<u8>, line: &Line) {
        match self.format {
            Format::Text => self.text(out, line),
            Format::Ndjson => {
                // A line always can be written as JSON.
                _ = serde_json::to_writer(&mut *out, &ApiLine::from(line));
                out.push(b'\n');
            }
            Format::Events => {
                self.events.event("line", Some(line.number), &ApiLine::from(line));
            }
        }
    }

    fn text(&mut self, out: &mut Vec<u8>, line: &Line) {
        if line.stream == Stream::Note {
            self.break_line(out);
        }
        if !self.within {
            if self.timestamps {
                let mut text = api::time(line.at_us);
                text.push(' ');
                out.extend(text.as_bytes());
            }
            if line.stream == Stream::Note {
                out.extend(OWN_WORD.as_bytes());
            }
        }
        out.extend_from_slice(&line.bytes);
        self.within = line.partial;
        if !line.partial {
            out.push(b'\n');
        }
    }

    /// Ends a line that was to go on: what comes now is not the rest of it.
    fn break_line(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.within) {
            out.push(b'\n');
        }
    }

    fn end(&mut self, complete: bool) -> Bytes {
        if self.format != Format::Events {
            return Bytes::new();
        }
        let end = ApiEnd {
            last: self.last,
            complete,
        };
        let id = (self.last > 0).then_some(self.last);
        self.events.event("end", id, &end).take()
    }

    /// A client of events comes back by itself; every other one must see that this is not the end of the log.
    fn broken(&mut self, problem: &Problem) -> io::Result<Bytes> {
        let mut why = String::new();
        _ = write!(why, "{}; come back later", problem.kind().title());
        if self.format == Format::Events {
            return Ok(self.events.comment(&why).retry().take());
        }
        Err(io::Error::other(why))
    }
}
