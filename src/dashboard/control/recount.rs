//! Compares the counters with the jobs, now and then.

use std::time::Duration;

use super::Control;
use crate::dashboard::store::StoreError;

/// How often counters are compared with the jobs. It takes about half a second for a million of them.
const EVERY: Duration = Duration::from_secs(600);

impl Control {
    /// Puts counters right that are off, as long as this server has the lease.
    pub(super) async fn recount_all(&self) {
        // What is new has other things to do first.
        tokio::time::sleep(self.0.keep.every).await;
        loop {
            match self.0.store.recount().await {
                Ok(0) => self.0.health.set("counters", Ok("they agree with the jobs".to_owned())),
                Ok(drift) => {
                    tracing::warn!(drift, "counters did not agree with the jobs and were put right");
                    let said = format!("they were off by {drift} and were put right");
                    self.0.health.set("counters", Ok(said));
                }
                // So many jobs that it takes too long: nothing is known to be wrong.
                Err(StoreError::Timeout(error)) => tracing::debug!(?error, "counting all jobs takes too long"),
                Err(error) => self.trouble("compare the counters with the jobs", &error),
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}
