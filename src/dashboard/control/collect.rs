//! Reading one job's output: from the runner into the hub at once, and into the store in parts.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Backoff, Control};
use crate::dashboard::job::{Job, JobId};
use crate::dashboard::log::hub::Feed;
use crate::dashboard::log::{Chunk, Line};
use crate::dashboard::runner::Batch;
use crate::dashboard::store::{Scope, StoreError};

/// A part is stored when it has this many bytes, or is this old.
const PART_BYTES: usize = 256 << 10;
const PART_AGE: Duration = Duration::from_millis(500);
/// How many batches may wait for the store; then the runner waits.
const WAITING: usize = 4;
/// How long it is waited where the runner has nothing more of a job that has not ended: between two attempts, or its end
/// is not told yet.
const PAUSE: Duration = Duration::from_millis(50);

/// Reads a job's output until it is stored whole and the job has ended, or the job is deleted.
pub(super) async fn run(control: Control, id: JobId) {
    let mut backoff = Backoff::new();
    // One feed for all rounds: viewers must not take a break between two of them for the end.
    let mut feed = None;
    loop {
        match round(&control, id, &mut feed).await {
            Ok(Round::Whole) => return,
            Ok(Round::MoreMayCome) => {
                tokio::time::sleep(PAUSE).await;
                backoff = Backoff::new();
            }
            Err(error) => {
                tracing::warn!(job_id = %id, error = format!("{error:#}"), "a job's output cannot be read; it is tried again");
                backoff.wait().await;
            }
        }
    }
}

enum Round {
    /// Everything is stored and nothing more comes.
    Whole,
    /// The job has not ended, or its end came while it was read.
    MoreMayCome,
}

async fn round(control: &Control, id: JobId, feed: &mut Option<Feed>) -> anyhow::Result<Round> {
    let store = &control.0.store;
    let Some(job) = store.job(id, &Scope::All).await? else {
        return Ok(Round::Whole);
    };
    if job.log_complete {
        return Ok(Round::Whole);
    }
    let (position, stored) = match store.log_end(id).await? {
        Some(chunk) => {
            let last = (chunk.first + chunk.lines).saturating_sub(1);
            (chunk.position, last)
        }
        None => (String::new(), 0),
    };
    if feed.is_none() {
        *feed = control.0.hub.feed(id, stored);
    }
    let Some(feed) = feed else {
        // A collector that was stopped is still on its way out.
        return Ok(Round::MoreMayCome);
    };
    let (sender, batches) = mpsc::channel(WAITING);
    let (followed, kept) = tokio::join!(
        control.0.runner.follow(&job, &position, stored + 1, sender),
        keep(control, id, feed, batches)
    );
    kept?;
    followed?;
    // Whether it had ended is what was known before reading: an end that came meanwhile can have lines behind it. And
    // where the row changed meanwhile, the next round sees how.
    if job.state.is_final() && control.complete(&job).await? {
        forget(control, &job).await;
        return Ok(Round::Whole);
    }
    Ok(Round::MoreMayCome)
}

async fn forget(control: &Control, job: &Job) {
    if let Err(error) = control.0.runner.forget(job).await {
        // What it leaves is found by the runner's own cleaning at its next start.
        tracing::warn!(job_id = %job.id, error = format!("{:#}", anyhow::Error::new(error)), "the runner could not clean up behind a job");
    }
}

/// Shows lines as they come and stores them in parts, until no more come.
async fn keep(control: &Control, id: JobId, feed: &Feed, mut batches: mpsc::Receiver<Batch>) -> Result<(), StoreError> {
    let mut part: Vec<Line> = Vec::new();
    let mut bytes = 0;
    let mut position = String::new();
    let mut due = Instant::now();
    loop {
        let batch = tokio::select! {
            batch = batches.recv() => batch,
            () = tokio::time::sleep_until(due), if !part.is_empty() => Some(Batch { lines: Vec::new(), position: position.clone() }),
        };
        let ended = batch.is_none();
        if let Some(batch) = batch {
            if part.is_empty() {
                due = Instant::now() + PART_AGE;
            }
            feed.push(batch.lines.iter().cloned());
            bytes += batch.lines.iter().map(|line| line.bytes.len()).sum::<usize>();
            part.extend(batch.lines);
            position = batch.position;
        }
        if !part.is_empty() && (ended || bytes >= PART_BYTES || Instant::now() >= due) {
            store(control, id, &part, &position).await?;
            feed.stored(part.last().map_or(0, |line| line.number));
            part.clear();
            bytes = 0;
        }
        if ended {
            return Ok(());
        }
    }
}

/// Stores a part, however long the store is away: lines wait, and with them the runner.
async fn store(control: &Control, id: JobId, part: &[Line], position: &str) -> Result<(), StoreError> {
    let chunk = Chunk::pack(part, position).map_err(StoreError::Broken)?;
    let mut backoff = Backoff::new();
    loop {
        match control.0.store.append_log(id, &chunk).await {
            Err(error @ (StoreError::Unavailable(_) | StoreError::Timeout(_) | StoreError::Full(_))) => {
                control.trouble("store a part of a log", &error);
                backoff.wait().await;
            }
            other => return other,
        }
    }
}
