//! What is kept, and for how long: the oldest ended jobs leave in small batches, and full logs take no more.
//!
//! Nothing is removed to make room: history goes by age and by number alone, as was chosen. Where there is no room, new
//! jobs are refused ([`Control::room`]), and those that run go on without the rest of their output.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::{BATCH, Control};
use crate::dashboard::job::{Job, State};
use crate::dashboard::store::audit::{Act, Verb};
use crate::dashboard::store::{Filter, Page, Scope, StoreError};

/// A job with this label and this value is removed by nobody but who deletes it.
pub const HOLD: (&str, &str) = ("keep", "true");
/// How many jobs are removed before others have their turn.
const REMOVED_AT_ONCE: u64 = 50;
/// How long that turn is.
const PAUSE: Duration = Duration::from_millis(100);
/// How long what was counted of the logs is believed.
const BELIEVED: Duration = Duration::from_secs(1);
/// How far the clock may have moved against the time that passed before nothing is removed by age.
const JUMP: Duration = Duration::from_secs(300);

/// What is kept; nothing set keeps everything.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// How long a job is kept after its end.
    pub age: Option<Duration>,
    /// How many jobs that have ended are kept; the oldest ones leave. Those that are held ([`HOLD`]) do not count.
    pub jobs: Option<u64>,
    /// How many bytes the logs of all jobs may have in the store, compressed.
    pub logs_bytes: Option<u64>,
    /// How many bytes of one job's output are kept, as it was written.
    pub log_bytes: Option<u64>,
    /// How long it is kept who did what; without it for ever.
    pub acts: Option<Duration>,
    /// How often it is looked for what is to leave.
    pub every: Duration,
    /// The time in milliseconds since 1970.
    pub clock: fn() -> i64,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            age: None,
            jobs: None,
            logs_bytes: None,
            log_bytes: None,
            acts: None,
            every: Duration::from_secs(30),
            clock: super::now_ms,
        }
    }
}

/// Why a job's output is not kept any further; the text is the last line of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Job(u64),
    All(u64),
}

impl Cut {
    pub(super) fn text(self) -> String {
        match self {
            Self::Job(bytes) => format!(
                "the log is cut here: no more than {bytes} bytes of a job's output are kept (--job-log-max-bytes); the job goes on"
            ),
            Self::All(bytes) => format!(
                "the log is cut here: the logs of all jobs have the {bytes} bytes that they may have (--logs-max-bytes); the job goes on"
            ),
        }
    }
}

/// What was counted of the logs of all jobs, and when.
#[derive(Debug, Default)]
pub(super) struct Counted(Option<(Instant, u64)>);

/// Tells whether the clock can be believed: it and the time that passed since the beginning agree.
pub(super) struct Clock {
    read: fn() -> i64,
    began_ms: i64,
    began: Instant,
}

impl Clock {
    pub(super) fn new(read: fn() -> i64) -> Self {
        Self {
            read,
            began_ms: read(),
            began: Instant::now(),
        }
    }

    /// Returns the time in milliseconds since 1970; nothing where the clock was put forward or back since it was last
    /// believed. From the next look on the new time is believed: somebody may have put it right.
    pub(super) fn believed(&mut self) -> Option<i64> {
        let now = (self.read)();
        let passed = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        let moved = now.saturating_sub(self.began_ms.saturating_add(passed)).unsigned_abs();
        (self.began_ms, self.began) = (now, Instant::now());
        (u128::from(moved) <= JUMP.as_millis()).then_some(now)
    }
}

impl Control {
    /// Returns how many bytes the logs of all jobs have, as counted a moment ago. A store that does not answer is not
    /// asked again before that moment is over: whoever asks has lines to show.
    async fn logs_bytes(&self) -> Result<u64, StoreError> {
        let counted = || self.0.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counted().0;
        if let Some((_, bytes)) = known.filter(|(at, _)| at.elapsed() < BELIEVED) {
            return Ok(bytes);
        }
        let asked = self.0.store.log_bytes().await;
        let bytes = *asked.as_ref().unwrap_or(&known.map_or(0, |(_, bytes)| bytes));
        counted().0 = Some((Instant::now(), bytes));
        asked
    }

    /// Asks whether there is room for the log of one more job.
    ///
    /// # Errors
    /// The store failed. What is said where there is no room is for whoever creates the job.
    pub async fn room(&self) -> Result<Result<(), String>, StoreError> {
        let Some(most) = self.0.keep.logs_bytes else {
            return Ok(Ok(()));
        };
        let bytes = self.logs_bytes().await?;
        Ok(if bytes < most {
            Ok(())
        } else {
            Err(format!(
                "the logs of all jobs have {bytes} bytes and may have {most}: delete jobs that have ended, or start the server with a larger --logs-max-bytes or with --keep-for"
            ))
        })
    }

    /// Returns why no more of a job's output is kept, where `bytes` of it are.
    pub(super) async fn cut(&self, bytes: u64) -> Result<Option<Cut>, StoreError> {
        let keep = &self.0.keep;
        if let Some(most) = keep.log_bytes.filter(|most| bytes >= *most) {
            return Ok(Some(Cut::Job(most)));
        }
        match keep.logs_bytes {
            Some(most) if self.logs_bytes().await? >= most => Ok(Some(Cut::All(most))),
            _ => Ok(None),
        }
    }

    /// Removes what is to leave, as long as this server has the lease.
    pub(super) async fn retain(&self) {
        let keep = self.0.keep;
        let mut clock = Clock::new(keep.clock);
        loop {
            if let Err(error) = self.sweep(&mut clock).await {
                self.trouble("remove jobs that are kept no longer", &error);
            }
            if keep.logs_bytes.is_some()
                && let Ok(room) = self.room().await
            {
                // Full is no reason to send requests elsewhere: everything but creating jobs works.
                self.0
                    .health
                    .set("logs", Ok(room.err().unwrap_or_else(|| "there is room".to_owned())));
            }
            tokio::time::sleep(keep.every).await;
        }
    }

    async fn sweep(&self, clock: &mut Clock) -> Result<(), StoreError> {
        let keep = self.0.keep;
        if let Some(age) = keep.age {
            match clock.believed() {
                Some(now) => {
                    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                    self.remove_ended(now.saturating_sub(age), u64::MAX).await?;
                }
                None => {
                    tracing::warn!("the clock was moved: no job is removed by its age before it is looked at again");
                }
            }
        }
        if let Some(most) = keep.jobs {
            let excess = self.ended().await?.saturating_sub(most);
            if excess > 0 {
                // Only now, because it is the one thing here that is counted.
                let excess = excess.saturating_sub(self.count_held().await?);
                self.remove_ended(i64::MAX, excess).await?;
            }
        }
        Ok(())
    }

    /// Returns how many jobs have ended.
    async fn ended(&self) -> Result<u64, StoreError> {
        let counts = self.0.store.counts(&Scope::All).await?;
        let ended = counts.iter().filter(|(state, _)| state.is_final());
        Ok(ended.map(|(_, n)| u64::try_from(*n).unwrap_or_default()).sum())
    }

    /// Returns how many jobs that have ended are held.
    async fn count_held(&self) -> Result<u64, StoreError> {
        let filter = Filter {
            states: State::ALL.into_iter().filter(|state| state.is_final()).collect(),
            labels: [(HOLD.0.to_owned(), HOLD.1.to_owned())].into(),
            ..Filter::default()
        };
        let (mut after, mut held) = (None, 0);
        loop {
            let page = Page { after, limit: BATCH };
            let jobs = self.0.store.list(&Scope::All, &filter, page).await?;
            let Some(last) = jobs.last() else { return Ok(held) };
            after = Some(last.id);
            held += jobs.len() as u64;
        }
    }

    /// Removes at most `most` jobs that ended before a time, oldest first: those that are whole and not held.
    async fn remove_ended(&self, before_ms: i64, most: u64) -> Result<(), StoreError> {
        let (mut after, mut removed) = (None, 0);
        while removed < most {
            let jobs = self.0.store.expired(before_ms, after, BATCH).await?;
            let Some(last) = jobs.last() else { break };
            after = Some((last.finished_ms.unwrap_or_default(), last.id));
            for job in jobs.iter().filter(|job| may_leave(job)) {
                if removed >= most {
                    break;
                }
                let act = Act::of_server("retention", Verb::Delete, (self.0.keep.clock)());
                if self.0.store.by(act).delete(job.id, &Scope::All).await? {
                    removed += 1;
                    if removed.is_multiple_of(REMOVED_AT_ONCE) {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
        if removed > 0 {
            tracing::info!(removed, "removed jobs that are kept no longer");
        }
        Ok(())
    }
}

/// Returns whether a job that has ended may be removed: whatever it wrote is stored, and nobody wants it kept.
fn may_leave(job: &Job) -> bool {
    job.state.is_final() && job.log_complete && job.labels.get(HOLD.0).map(String::as_str) != Some(HOLD.1)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    static NOW: AtomicI64 = AtomicI64::new(1_800_000_000_000);

    #[test]
    fn a_clock_that_was_moved_is_believed_at_the_second_look() {
        let year = 365 * 86_400_000;
        let mut clock = Clock::new(|| NOW.load(Ordering::Relaxed));
        let begin = NOW.load(Ordering::Relaxed);
        assert_eq!(clock.believed(), Some(begin));
        for moved in [year, -year, 1000 * year, i64::MIN / 2] {
            NOW.fetch_add(moved, Ordering::Relaxed);
            assert_eq!(clock.believed(), None, "moved by {moved}");
            assert_eq!(clock.believed(), Some(NOW.load(Ordering::Relaxed)));
        }
    }
}
