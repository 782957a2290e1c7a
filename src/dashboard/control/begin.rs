//! What is asked of the runner: beginning jobs, holding them back, ending them.

use std::collections::BTreeSet;

use tokio::sync::broadcast;
use tokio::time::Instant;

use super::{BATCH, BEAT, Backoff, Control, NEVER_THERE, quiet};
use crate::dashboard::job::{Job, JobId, Phase, Seen, State, reason};
use crate::dashboard::runner::RunnerError;
use crate::dashboard::store::{Changed, Scope, StoreError};

impl Control {
    /// Begins what waits, ends what is to end, and reads what is unread: at once when woken, and on every beat.
    pub(super) async fn begin_all(&self) {
        let mut backoff = Backoff::new();
        let mut changes = self.0.store.changes();
        let mut looked = Instant::now();
        self.todo().all = true;
        loop {
            let todo = std::mem::take(&mut *self.todo());
            let done = if todo.all || looked.elapsed() >= BEAT {
                looked = Instant::now();
                self.look().await
            } else {
                self.begin_new(&todo.new).await
            };
            match done {
                Ok(()) => {
                    self.store_answers();
                    backoff = Backoff::new();
                    let beat = looked + BEAT;
                    tokio::select! {
                        () = self.0.wake.notified() => {}
                        told = self.asked_elsewhere(&mut changes) => match told {
                            Some(job) => self.todo().new.push(job),
                            None => self.todo().all = true,
                        },
                        () = tokio::time::sleep_until(beat) => {}
                    }
                }
                Err(error) => {
                    self.todo().all = true;
                    self.trouble("look for work", &error);
                    backoff.wait().await;
                }
            }
        }
    }

    /// Waits until a job was created, held back, let go on or cancelled, at whichever server, and returns it; nothing
    /// where changes were missed.
    async fn asked_elsewhere(&self, changes: &mut broadcast::Receiver<Changed>) -> Option<Job> {
        loop {
            match changes.recv().await {
                Ok(Changed::Job(job)) if self.is_asked(&job) => return Some(job),
                Ok(Changed::Job(_) | Changed::Deleted { .. }) => {}
                Ok(Changed::Missed) | Err(broadcast::error::RecvError::Lagged(_)) => return None,
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// Returns whether a job that changed wants something that the runner was not asked for.
    fn is_asked(&self, job: &Job) -> bool {
        let asked = self.asked();
        match job.state {
            _ if job.cancelling => !job.state.is_final(),
            State::Pending => !asked.begun.contains(&job.id) || asked.held.contains(&job.id),
            State::Suspended => job.is_held() && !asked.held.contains(&job.id),
            _ => false,
        }
    }

    async fn begin_new(&self, jobs: &[Job]) -> Result<(), StoreError> {
        for job in jobs {
            self.advance(job).await?;
        }
        Ok(())
    }

    async fn look(&self) -> Result<(), StoreError> {
        let mut after = None;
        let mut unfinished = BTreeSet::new();
        loop {
            let jobs = self.0.store.unfinished(after, BATCH).await?;
            let Some(last) = jobs.last() else { break };
            after = Some(last.id);
            for job in jobs {
                unfinished.insert(job.id);
                self.advance(&job).await?;
            }
        }
        // A row that was read before its job ended may still have been in this look, and is in none after it.
        let left = {
            let mut asked = self.asked();
            asked.begun.retain(|id| unfinished.contains(id));
            asked.ended.retain(|id, _| unfinished.contains(id));
            asked.held.retain(|id| unfinished.contains(id));
            std::mem::take(&mut asked.left)
        };
        for (id, job) in left {
            match job {
                Some(job) => self.forget(&job).await,
                None => self.discard(id).await,
            }
        }
        Ok(())
    }

    /// Does for one job what its row asks for.
    async fn advance(&self, job: &Job) -> Result<(), StoreError> {
        if job.cancelling && !job.state.is_final() {
            return self.end(job).await;
        }
        match job.state {
            State::Pending | State::Suspended => {
                self.begin(job).await?;
                self.hold(job.clone()).await
            }
            State::Running | State::Stopping | State::Succeeded | State::Failed | State::Cancelled => {
                self.collect(job);
                Ok(())
            }
        }
    }

    async fn begin(&self, job: &Job) -> Result<(), StoreError> {
        if self.asked().begun.contains(&job.id) {
            return Ok(());
        }
        let Some(spec) = self.0.store.spec(job.id).await? else {
            return Ok(());
        };
        match self.0.runner.begin(job, &spec).await {
            Ok(()) => {
                {
                    let mut asked = self.asked();
                    asked.begun.insert(job.id);
                    if job.is_held() {
                        asked.held.insert(job.id);
                    }
                }
                // Who held it back, or let it go on, while it was begun as it was before found nothing to hold.
                match self.0.store.job(job.id, &Scope::All).await? {
                    Some(now) if !now.state.is_final() => self.hold(now).await,
                    _ => Ok(()),
                }
            }
            Err(RunnerError::Refused(why)) => {
                tracing::info!(job_id = %job.id, why, "the runner refused a job");
                let refused = Seen {
                    reason: Some(reason::START.to_owned()),
                    message: Some(why),
                    ..quiet(Phase::Failed)
                };
                self.saw(job.id, &refused).await
            }
            Err(error) => {
                tracing::warn!(job_id = %job.id, error = format!("{:#}", anyhow::Error::new(error)), "a job could not be begun; it is tried again");
                Ok(())
            }
        }
    }

    /// Holds a job back, or lets it go on, where the runner was last asked for the other one: whoever asked for it may
    /// have done so at another server, or before the runner had the job. Asked again until the row, read afterwards,
    /// says the same.
    pub(super) async fn hold(&self, job: Job) -> Result<(), StoreError> {
        let mut job = job;
        loop {
            let held = job.is_held();
            // Who is to end is not let go on for that.
            if job.cancelling || self.asked().held.contains(&job.id) == held {
                return Ok(());
            }
            let _turn = self.turn(job.id).await;
            // The row that is known may be older than the last wish.
            match self.0.store.job(job.id, &Scope::All).await? {
                Some(now) if now.state.is_final() => return Ok(()),
                Some(now) if now.is_held() != held || now.cancelling => {
                    job = now;
                    continue;
                }
                Some(_) => {}
                None => return Ok(()),
            }
            match self.0.runner.suspend(&job, held).await {
                Ok(()) if held => _ = self.asked().held.insert(job.id),
                Ok(()) => _ = self.asked().held.remove(&job.id),
                Err(error) => {
                    tracing::warn!(job_id = %job.id, held, error = format!("{:#}", anyhow::Error::new(error)), "a job could not be held back or let go on; it is tried again");
                    return Ok(());
                }
            }
            match self.0.store.job(job.id, &Scope::All).await? {
                Some(now) if !now.state.is_final() => job = now,
                _ => return Ok(()),
            }
        }
    }

    /// Says that a job was just held back: the runner is asked for it once more, whatever it was asked before.
    pub fn held(&self, id: JobId) {
        self.asked().held.remove(&id);
        self.wake();
    }

    async fn end(&self, job: &Job) -> Result<(), StoreError> {
        if let Err(error) = self.0.runner.end(job).await {
            tracing::warn!(job_id = %job.id, error = format!("{:#}", anyhow::Error::new(error)), "a job could not be ended; it is tried again");
            return Ok(());
        }
        if job.attempts > 0 || job.state == State::Running {
            return Ok(());
        }
        // As far as is known it never ran. If it was about to, the runner tells of it; if it was never there, nobody does.
        let now = Instant::now();
        let first = *self.asked().ended.entry(job.id).or_insert(now);
        if now >= first + NEVER_THERE {
            return self.saw(job.id, &quiet(Phase::Gone)).await;
        }
        if first == now {
            let control = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(first + NEVER_THERE).await;
                control.wake();
            });
        }
        Ok(())
    }
}
