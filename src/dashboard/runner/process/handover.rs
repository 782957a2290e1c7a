//! From one server to the next: jobs that are left, taken up, or found without anybody.

use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::entry::Keeper;
use super::place::Order;
use super::{ProcessRunner, keeper};
use crate::dashboard::job::{JobId, reason};
use crate::drive::files::Lock;

/// How often it is looked whether the keeper that an earlier server left has ended.
const ORPHAN_LOOK: Duration = Duration::from_millis(50);
/// How long jobs have to end when the server is stopped: longer than their keepers give them.
const PARTING: Duration = Duration::from_secs(8);

impl ProcessRunner {
    /// Waits until the keeper that a server left behind has ended its job, and learns how.
    pub(super) async fn wait_for_orphan(self, id: JobId) {
        self.until_unlocked(id).await;
        let lost = "the server that ran it went away, and its jobs with it";
        self.settle(id, reason::SERVER_LOST, lost).await;
    }

    async fn until_unlocked(&self, id: JobId) {
        let lock = self.place(id).lock();
        // A lock that cannot be tried says no more than one that is free: nobody is waited for.
        while let Ok(Err(_)) = Lock::try_take(&lock, "labctl serve") {
            tokio::time::sleep(ORPHAN_LOOK).await;
        }
    }

    /// Listens to the keeper of a job that an earlier server left, until it ends.
    pub(super) async fn take_up(self, id: JobId, stream: UnixStream, orders: mpsc::UnboundedReceiver<Order>) {
        let place = self.place(id);
        let (bell, lifeline) = stream.into_split();
        // What happened while nobody listened.
        self.heard(id, &place, &[keeper::RECORD]);
        if self.listen(id, &place, bell, lifeline, orders).await {
            return self.left(id);
        }
        // The connection may close a moment before the last of the keeper is gone.
        self.until_unlocked(id).await;
        let lost = "the process that kept it ended too early, and its program with it";
        self.settle(id, reason::GONE, lost).await;
    }

    /// Takes notice that a job goes on without this server.
    pub(super) fn left(&self, id: JobId) {
        let mut jobs = self.jobs();
        if let Some(entry) = jobs.all.get_mut(&id) {
            entry.keeper = Keeper::Orphan;
        }
        jobs.running -= 1;
        drop(jobs);
        self.0.parted.notify_one();
    }

    /// Leaves the jobs that run, or ends them; returns how many go on.
    pub(super) async fn part(&self, stop: bool) -> usize {
        let going_on = {
            let mut jobs = self.jobs();
            jobs.leaving = true;
            for entry in jobs.all.values() {
                entry.order(if stop { Order::Stop } else { Order::Leave });
            }
            jobs.running
        };
        let all = async {
            while self.jobs().running > 0 {
                self.0.parted.notified().await;
            }
        };
        // One that cannot be told in this time ends by its broken lifeline.
        _ = tokio::time::timeout(PARTING, all).await;
        if stop { 0 } else { going_on }
    }
}
