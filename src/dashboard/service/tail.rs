//! Reading a job's log, from the store and from the hub as if they were one, while it is written and after.

use std::time::Duration;

use regex::bytes::Regex;
use serde_json::{Map, Value};

use super::{Caller, Result, Service, ServiceError};
use crate::dashboard::job::{Job, JobId};
use crate::dashboard::log::hub::{Found, Tap, Want};
use crate::dashboard::log::level::Level;
use crate::dashboard::log::{Chunk, Line, Stream};
use crate::dashboard::store::{Scope, StoreError};

/// How many bytes of lines are given at once.
const BATCH_BYTES: usize = 256 << 10;
/// How many stored parts are read at once.
const PARTS: u32 = 4;
/// How long the line may be that is a job's result.
const RESULT_BYTES: usize = 4 << 10;
/// How long it is waited where neither the hub nor the store has more: the job is about to begin, or another server runs
/// it.
const PAUSE: Duration = Duration::from_millis(50);
const LONG_PAUSE: Duration = Duration::from_millis(500);

/// Which lines of a log are wanted.
#[derive(Debug, Clone, Default)]
pub struct Select {
    /// From this line on; the newest number that was seen, plus one.
    pub from: Option<u64>,
    /// Only the last so many lines of what is there now; lines that come later follow. Looked at before the filters.
    pub tail: Option<u64>,
    /// Only lines written at this time or later, in microseconds since 1970.
    pub since_us: Option<i64>,
    /// Only lines written before this time, in microseconds since 1970.
    pub until_us: Option<i64>,
    /// Only lines of this attempt, from 1.
    pub attempt: Option<u32>,
    /// Only lines written there.
    pub stream: Option<Stream>,
    /// Only lines that say they are so bad, or worse.
    pub level: Option<Level>,
    /// Only lines that this matches, in time linear in the line's length.
    pub grep: Option<Regex>,
    /// Whether to wait for lines that are not written yet.
    pub follow: bool,
}

impl Select {
    fn wants(&self, line: &Line) -> bool {
        self.since_us.is_none_or(|since| line.at_us >= since)
            && self.until_us.is_none_or(|until| line.at_us < until)
            && self.attempt.is_none_or(|attempt| line.attempt == attempt)
            && self.stream.is_none_or(|stream| line.stream == stream)
            && self
                .level
                .is_none_or(|least| Level::of(&line.bytes).is_some_and(|level| level >= least))
            && self.grep.as_ref().is_none_or(|grep| grep.is_match(&line.bytes))
    }
}

/// What comes next in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Lines. None of them where all that were read are not wanted: `seen` still says how far reading is.
    Lines {
        /// The lines that are wanted.
        lines: Vec<Line>,
        /// The newest line that was read, wanted or not: where reading goes on.
        seen: u64,
    },
    /// Lines that were there once and are not any more.
    Gap {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
}

/// A log that is being read.
pub struct Tail {
    service: Service,
    id: JobId,
    select: Select,
    next: u64,
    tap: Option<Tap>,
    /// Asks another server for the lines, where one reads them.
    want: Option<Want>,
}

impl Service {
    /// Begins to read a job's log.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::Store`].
    pub async fn tail(&self, caller: &Caller, id: JobId, select: Select) -> Result<Tail> {
        self.job(caller, id).await?;
        let tap = self.0.hub.tap(id);
        let mut next = select.from.unwrap_or(1).max(1);
        if let Some(tail) = select.tail {
            let newest = match &tap {
                Some(tap) => tap.reach().newest,
                None => last_line(self.0.store.log_end(id).await?.as_ref()),
            };
            next = next.max((newest + 1).saturating_sub(tail));
        }
        Ok(Tail {
            service: self.clone(),
            id,
            select,
            next,
            tap,
            want: None,
        })
    }
}

impl Service {
    /// Returns what a job came to, as it said itself: the JSON object that is the last line of its output, where its output
    /// is stored whole and that line is one, of 4 KiB at most.
    ///
    /// # Errors
    /// [`ServiceError::Store`].
    pub async fn result(&self, job: &Job) -> Result<Option<Map<String, Value>>> {
        if !job.log_complete {
            return Ok(None);
        }
        let Some(end) = self.0.store.log_end(job.id).await? else {
            return Ok(None);
        };
        let lines = end.unpack().map_err(StoreError::Broken)?;
        // A word of the dashboard at the end says that output is missing there, so the line before it is not the last one.
        Ok(lines.last().and_then(result_of))
    }
}

fn result_of(line: &Line) -> Option<Map<String, Value>> {
    if line.stream == Stream::Note || line.partial || line.bytes.len() > RESULT_BYTES {
        return None;
    }
    serde_json::from_slice(&line.bytes).ok()
}

fn last_line(chunk: Option<&Chunk>) -> u64 {
    chunk.map_or(0, |chunk| (chunk.first + chunk.lines).saturating_sub(1))
}

impl Tail {
    /// Returns what comes next, waiting for it where [`Select::follow`] says so; nothing at the end of the log.
    ///
    /// May be dropped while it waits, and called again.
    ///
    /// # Errors
    /// [`ServiceError::Store`]; [`ServiceError::NotFound`] where the job is deleted meanwhile.
    pub async fn next(&mut self) -> Result<Option<Item>> {
        let mut pause = PAUSE;
        loop {
            if self.tap.is_none() {
                self.tap = self.service.0.hub.tap(self.id);
            }
            let found = self.tap.as_ref().map(|tap| tap.read(self.next, BATCH_BYTES));
            match found {
                Some(Found::Lines(lines)) if !lines.is_empty() => return Ok(Some(self.take(lines))),
                Some(Found::Lines(_)) => {
                    if !self.select.follow {
                        return Ok(None);
                    }
                    let next = self.next;
                    if let Some(tap) = &mut self.tap
                        && tap.wait(next).await.ended
                    {
                        self.tap = None;
                    }
                }
                Some(Found::Stored) => match self.stored().await? {
                    Some(item) => return Ok(Some(item)),
                    // The ring let the line go after the store had it; the store will tell.
                    None => tokio::time::sleep(PAUSE).await,
                },
                None => {
                    let dawn = self.service.0.hub.dawn(self.id);
                    // The row first: what is stored after it was read as whole is there.
                    let job = self.row().await?;
                    if let Some(item) = self.stored().await? {
                        return Ok(Some(item));
                    }
                    if job.log_complete || !self.select.follow {
                        return Ok(None);
                    }
                    // Another server may run the job; what it reads it sends, or it is found in the store.
                    if self.want.is_none() {
                        self.want = Some(self.service.0.hub.want(self.id));
                    }
                    _ = tokio::time::timeout(pause, dawn.wait()).await;
                    pause = (pause * 2).min(LONG_PAUSE);
                }
            }
        }
    }

    async fn row(&self) -> Result<Job> {
        // Whether the caller may see it was asked at the beginning.
        let job = self.service.0.store.job(self.id, &Scope::All).await?;
        job.ok_or(ServiceError::NotFound)
    }

    async fn stored(&mut self) -> Result<Option<Item>> {
        let chunks = self.service.0.store.log(self.id, self.next, PARTS).await?;
        let Some(first) = chunks.first().map(|chunk| chunk.first) else {
            return Ok(None);
        };
        if first > self.next {
            let gap = Item::Gap {
                from: self.next,
                to: first - 1,
            };
            self.next = first;
            return Ok(Some(gap));
        }
        let mut lines: Vec<Line> = Vec::new();
        for chunk in chunks {
            // A hole between two parts is told on the next call.
            if lines.last().is_some_and(|last| last.number + 1 != chunk.first) {
                break;
            }
            lines.extend(chunk.unpack().map_err(StoreError::Broken)?);
        }
        lines.retain(|line| line.number >= self.next);
        if lines.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.take(lines)))
    }

    fn take(&mut self, mut lines: Vec<Line>) -> Item {
        let seen = lines.last().map_or(self.next - 1, |line| line.number);
        self.next = seen + 1;
        lines.retain(|line| self.select.wants(line));
        Item::Lines { lines, seen }
    }
}
