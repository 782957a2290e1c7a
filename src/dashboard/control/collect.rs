//! Reading one job's output: from the runner into the hub at once, and into the store in parts.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::retain::Cut;
use super::{Backoff, Control};
use crate::dashboard::job::{Job, JobId, State};
use crate::dashboard::log::hub::Feed;
use crate::dashboard::log::{Chunk, Line, Stream};
use crate::dashboard::runner::Batch;
use crate::dashboard::store::{Scope, StoreError};

/// A part is stored when it has this many bytes, or is this old.
const PART_BYTES: usize = 256 << 10;
const PART_AGE: Duration = Duration::from_millis(500);
/// How many bytes may wait for a slow store; then the runner waits. Until then viewers see lines as they come.
const WAITING_BYTES: usize = 4 << 20;
/// What a line costs beside its bytes, where bytes are counted.
const LINE_COST: usize = 32;
/// How many batches may wait to be looked at.
const WAITING: usize = 4;
/// How long it is waited where the runner has nothing more of a job that has not ended: between two attempts, or its end
/// is not told yet.
const PAUSE: Duration = Duration::from_millis(50);

/// How often it is looked whether a job has ended whose output is kept no further.
const CUT_LOOK: Duration = Duration::from_millis(500);
/// Where reading goes on in a log that was cut: nowhere.
const CUT: &str = "cut";

/// Returns whether a job's output is to be read: there may be more than is stored.
pub(super) fn wanted(job: &Job) -> bool {
    matches!(job.state, State::Running | State::Stopping) || job.state.is_final() && !job.log_complete
}

/// Reads a job's output until it is stored whole and the job has ended, or nothing of the job runs, or it is deleted.
pub(super) async fn run(control: Control, id: JobId) {
    let mut backoff = Backoff::new();
    // One feed for all rounds: viewers must not take a break between two of them for the end.
    let mut feed = None;
    loop {
        match round(&control, id, &mut feed).await {
            Ok(Round::Over) => break,
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
    drop(feed);
    control.collected(id);
    // Who wanted it to be read meanwhile found that it was.
    match control.0.store.job(id, &Scope::All).await {
        Ok(Some(job)) => control.collect(&job),
        Ok(None) => control.discard(id).await,
        Err(_) => control.wake(),
    }
}

enum Round {
    /// All its lines are stored, and nothing more comes as the job is now.
    Over,
    /// The job has not ended, or its end came while it was read.
    MoreMayCome,
}

async fn round(control: &Control, id: JobId, feed: &mut Option<Feed>) -> anyhow::Result<Round> {
    let store = &control.0.store;
    let Some(job) = store.job(id, &Scope::All).await? else {
        return Ok(Round::Over);
    };
    if !wanted(&job) {
        return Ok(Round::Over);
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
    if position == CUT {
        if !job.state.is_final() {
            tokio::time::sleep(CUT_LOOK).await;
            return Ok(Round::MoreMayCome);
        }
    } else {
        let size = match control.0.keep.log_bytes {
            Some(_) => store.log_size(id).await?,
            None => 0,
        };
        let (sender, batches) = mpsc::channel(WAITING);
        let (followed, kept) = tokio::join!(
            control.0.runner.follow(&job, &position, stored + 1, sender),
            keep(control, id, feed, batches, size)
        );
        // Where it was cut, the runner found nobody who listens.
        if kept? {
            return Ok(Round::MoreMayCome);
        }
        followed?;
    }
    // Whether it had ended is what was known before reading: an end that came meanwhile can have lines behind it. And
    // where the row changed meanwhile, the next round sees how.
    if job.state.is_final() && control.complete(&job).await? {
        control.forget(&job).await;
        return Ok(Round::Over);
    }
    Ok(Round::MoreMayCome)
}

/// Lines that wait to be stored.
#[derive(Default)]
struct Part {
    lines: Vec<Line>,
    cost: usize,
    position: String,
}

/// Shows lines as they come and stores them in parts, until no more come, or no more are kept; says whether that is so.
/// `size` bytes are stored already.
async fn keep(
    control: &Control,
    id: JobId,
    feed: &Feed,
    mut batches: mpsc::Receiver<Batch>,
    mut size: u64,
) -> Result<bool, StoreError> {
    let mut part = Part::default();
    let mut cut = false;
    let mut due = Instant::now();
    let mut ended = false;
    let mut storing = None;
    loop {
        let full = ended || part.cost >= PART_BYTES || Instant::now() >= due;
        if storing.is_none() && !part.lines.is_empty() && full {
            storing = Some(Box::pin(store(control, id, std::mem::take(&mut part))));
        }
        if ended && storing.is_none() {
            return Ok(cut);
        }
        tokio::select! {
            batch = batches.recv(), if !ended && part.cost < WAITING_BYTES => match batch {
                Some(batch) => {
                    if part.lines.is_empty() {
                        due = Instant::now() + PART_AGE;
                    }
                    feed.push(batch.lines.iter().cloned());
                    size += batch.lines.iter().map(|line| line.bytes.len() as u64).sum::<u64>();
                    part.cost += batch.lines.iter().map(|line| line.bytes.len() + LINE_COST).sum::<usize>();
                    part.lines.extend(batch.lines);
                    part.position = batch.position;
                    if let Some(why) = surely_cut(control, size).await
                        && let Some(last) = part.lines.last()
                    {
                        let note = Line {
                            number: last.number + 1,
                            at_us: jiff::Timestamp::now().as_microsecond(),
                            attempt: last.attempt,
                            stream: Stream::Note,
                            partial: false,
                            bytes: why.text().into(),
                        };
                        feed.push([note.clone()]);
                        part.lines.push(note);
                        CUT.clone_into(&mut part.position);
                        (cut, ended) = (true, true);
                        batches.close();
                    }
                }
                None => ended = true,
            },
            stored = async { storing.as_mut().expect("asked only where there is one").await }, if storing.is_some() => {
                storing = None;
                feed.stored(stored?);
            }
            () = tokio::time::sleep_until(due), if storing.is_none() && !part.lines.is_empty() => {}
        }
    }
}

/// Returns why no more is kept. Where the store does not say, more is.
async fn surely_cut(control: &Control, size: u64) -> Option<Cut> {
    match control.cut(size).await {
        Ok(cut) => cut,
        Err(error) => {
            control.trouble("ask how many bytes the logs have", &error);
            None
        }
    }
}

/// Stores a part, however long the store is away; returns the number of its last line.
async fn store(control: &Control, id: JobId, part: Part) -> Result<u64, StoreError> {
    let last = part.lines.last().map_or(0, |line| line.number);
    let chunk = Chunk::pack(&part.lines, part.position).map_err(StoreError::Broken)?;
    drop(part.lines);
    let mut backoff = Backoff::new();
    loop {
        match control.0.store.append_log(id, &chunk).await {
            Ok(()) => return Ok(last),
            Err(error @ (StoreError::Unavailable(_) | StoreError::Timeout(_) | StoreError::Full(_))) => {
                control.trouble("store a part of a log", &error);
                backoff.wait().await;
            }
            Err(error) => return Err(error),
        }
    }
}
