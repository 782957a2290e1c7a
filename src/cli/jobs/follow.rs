//! `labctl jobs logs`: a job's output, whole or as it comes, and on over connections that break.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;

use super::Client;
use crate::cli::Outcome;
use crate::dashboard::http::api::{ApiEnd, ApiGap, ApiLine};
use crate::dashboard::job::JobId;
use crate::dashboard::log::Stream;
use crate::dashboard::log::level::Level;
use crate::drive::dashboard::Event;
use crate::error::{Code, Exit, diagnosis};

/// How long a dashboard may be away while its output is followed.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long it is waited before the dashboard is asked again, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Which part of the output is wanted.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job's id
    id: JobId,
    /// Wait for what is not written yet, until the job ends; goes on where a connection breaks
    #[arg(long, short)]
    follow: bool,
    /// Only the last so many lines of what is there now
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Only lines written since: a time such as 2026-01-31T12:00:00Z, or how long ago, such as 90s or 1h
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only lines written before: a time or how long ago, as for --since
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only lines that this regular expression matches
    #[arg(long, value_name = "REGEX")]
    grep: Option<String>,
    /// Only lines that say they are so bad or worse, be it in JSON, logfmt or a word
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// Only lines written there
    #[arg(long, value_enum)]
    stream: Option<Stream>,
    /// Only lines of this attempt, from 1
    #[arg(long, value_name = "N", conflicts_with = "previous")]
    attempt: Option<u32>,
    /// Only lines of the attempt before the newest one
    #[arg(long)]
    previous: bool,
    /// Begin each line with its time
    #[arg(long)]
    timestamps: bool,
    /// Only from the line with this number on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
}

impl Args {
    fn path(&self) -> String {
        let mut out = format!("/jobs/{}/logs?follow={}", self.id, self.follow);
        let numbers = [
            ("tail", self.tail),
            ("attempt", self.attempt.map(u64::from)),
            ("from", self.from),
        ];
        for (name, value) in numbers.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            _ = write!(out, "&{name}={value}");
        }
        for (name, value) in [("since", &self.since), ("until", &self.until), ("grep", &self.grep)] {
            if let Some(value) = value {
                let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
                _ = write!(out, "&{name}={value}");
            }
        }
        let words = [
            ("level", self.level.map(Level::name)),
            ("stream", self.stream.map(Stream::name)),
        ];
        for (name, value) in words.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            _ = write!(out, "&{name}={value}");
        }
        for (name, on) in [("previous", self.previous), ("timestamps", self.timestamps)] {
            if on {
                _ = write!(out, "&{name}=true");
            }
        }
        out
    }

    pub(super) async fn run(&self, client: &Client<'_>) -> Result<Outcome> {
        if self.follow {
            follow(client, &self.path(), self.timestamps).await?;
            return Ok(Exit::Done);
        }
        let accept = if client.json() {
            "application/x-ndjson"
        } else {
            "text/plain"
        };
        let mut parts = client.dashboard.download(&self.path(), accept).await?;
        while let Some(part) = parts.next().await {
            // What is left is not whole; the bytes as they are, whatever they are.
            write(&part?)?;
        }
        Ok(Exit::Done)
    }
}

/// Follows the whole output of a job, for `run`.
pub(super) async fn whole(client: &Client<'_>, id: JobId) -> Result<()> {
    follow(client, &format!("/jobs/{id}/logs?follow=true"), false).await
}

fn write(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// What was printed so far.
struct Printed {
    json: bool,
    timestamps: bool,
    /// The newest line that was printed, or passed over by the server.
    last: Option<u64>,
    /// Whether the line before goes on in the next one.
    within: bool,
}

impl Printed {
    /// Prints an event; says whether it is the last one.
    fn event(&mut self, event: &Event) -> Result<bool> {
        match event.name.as_str() {
            "line" => {
                let line: ApiLine<'_> = serde_json::from_str(&event.data).context("a line of the log")?;
                // A line that came before the connection broke may come again.
                if self.last.is_some_and(|last| line.number <= last) {
                    return Ok(false);
                }
                self.last = Some(line.number);
                let mut out = Vec::new();
                if self.json {
                    out.extend(event.data.as_bytes());
                    out.push(b'\n');
                } else {
                    self.text(&line, &mut out);
                }
                write(&out)?;
            }
            "gap" => {
                let gap: ApiGap = serde_json::from_str(&event.data).context("a gap of the log")?;
                self.last = self.last.max(Some(gap.to));
                if self.json {
                    write(format!("{{\"gap\":{}}}\n", event.data).as_bytes())?;
                } else {
                    write(format!("[labctl] lines {} to {} are lost\n", gap.from, gap.to).as_bytes())?;
                }
            }
            "end" => {
                let _: ApiEnd = serde_json::from_str(&event.data).context("the end of the log")?;
                return Ok(true);
            }
            // A later server may have more to say.
            _ => {}
        }
        Ok(false)
    }

    fn text(&mut self, line: &ApiLine<'_>, out: &mut Vec<u8>) {
        if !self.within {
            if self.timestamps {
                out.extend(line.at.as_bytes());
                out.push(b' ');
            }
            if line.stream == Stream::Note {
                out.extend(b"[labctl] ");
            }
        }
        out.extend(line.bytes());
        self.within = line.partial;
        if !line.partial {
            out.push(b'\n');
        }
    }
}

/// Prints lines as they come, to the end of the job. Where the connection breaks it is made again, and the line after
/// the last one that came is asked for: nothing is lost and nothing comes twice.
async fn follow(client: &Client<'_>, path: &str, timestamps: bool) -> Result<()> {
    let mut printed = Printed {
        json: client.json(),
        timestamps,
        last: None,
        within: false,
    };
    let mut pause = BACKOFF.0;
    let mut away: Option<Instant> = None;
    loop {
        let retry = match stream(client, path, &mut printed, &mut away).await {
            Ok(Ended::Whole) => return Ok(()),
            Ok(Ended::Cut(retry)) => retry,
            Err(error) if may_come_back(&error) => {
                let since = away.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE || printed.last.is_none() && pause == BACKOFF.0 && first(&error) {
                    return Err(error);
                }
                None
            }
            Err(error) => return Err(error),
        };
        if away.get_or_insert_with(Instant::now).elapsed() < Duration::from_millis(50) {
            client
                .world
                .reporter()
                .note("the connection to the dashboard broke; it is made again");
            pause = BACKOFF.0;
        }
        tokio::time::sleep(retry.unwrap_or(pause).min(BACKOFF.1)).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

enum Ended {
    /// The job has ended, and this was all.
    Whole,
    /// The connection ended before that; when the server wants to be asked again.
    Cut(Option<Duration>),
}

/// Returns whether nobody was there at all: whoever has not begun is told at once.
fn first(error: &anyhow::Error) -> bool {
    diagnosis(error).is_some_and(|found| found.code == Code::DashboardDown)
}

/// Returns whether asking again can help: the connection broke, or the server cannot do it now.
fn may_come_back(error: &anyhow::Error) -> bool {
    !error.is::<std::io::Error>()
        && diagnosis(error).is_none_or(|found| matches!(found.code, Code::DashboardDown | Code::DashboardFailed))
}

async fn stream(client: &Client<'_>, path: &str, printed: &mut Printed, away: &mut Option<Instant>) -> Result<Ended> {
    let mut events = client.dashboard.events(path, printed.last).await?;
    *away = None;
    loop {
        let Ok(Some(event)) = events.next().await else {
            printed.last = printed.last.max(events.last_id());
            return Ok(Ended::Cut(events.retry()));
        };
        if printed.event(&event)? {
            return Ok(Ended::Whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64, partial: bool) -> Event {
        Event {
            name: "line".into(),
            data: format!(
                r#"{{"number":{number},"at":"2026-01-01T00:00:00Z","attempt":1,"stream":"stdout","text":"x","partial":{partial}}}"#
            ),
        }
    }

    #[test]
    fn a_line_that_comes_again_is_not_printed_again() {
        let mut printed = Printed {
            json: false,
            timestamps: false,
            last: Some(5),
            within: true,
        };
        assert!(!printed.event(&line(5, false)).expect("passed over"));
        assert_eq!((printed.last, printed.within), (Some(5), true), "nothing happened");
        let end = Event {
            name: "end".into(),
            data: r#"{"last":5,"complete":true}"#.into(),
        };
        assert!(printed.event(&end).expect("the end"));
        let later = Event {
            name: "new-in-2030".into(),
            data: "?".into(),
        };
        assert!(!printed.event(&later).expect("passed over"));
    }

    #[test]
    fn long_lines_are_put_together_again() {
        let mut printed = Printed {
            json: false,
            timestamps: true,
            last: None,
            within: false,
        };
        let mut out = Vec::new();
        for event in [line(1, true), line(2, false), line(3, false)] {
            let line: ApiLine<'_> = serde_json::from_str(&event.data).expect("a line");
            printed.text(&line, &mut out);
        }
        assert_eq!(
            String::from_utf8_lossy(&out),
            "2026-01-01T00:00:00Z xx\n2026-01-01T00:00:00Z x\n"
        );
    }
}
