//! Seals what was done: see [`crate::dashboard::store::audit`].

use std::time::Duration;

use tokio::time::Instant;

use super::Control;
use super::retain::Clock;
use crate::dashboard::store::StoreError;
use crate::dashboard::store::audit::SEALED_AT_ONCE;

/// How often it is looked for what is not sealed.
const EVERY: Duration = Duration::from_secs(2);

impl Control {
    /// Seals what is done, and removes what is kept no longer, as long as this server has the lease.
    pub(super) async fn seal_all(&self) {
        let keep = self.0.keep;
        let mut clock = Clock::new(keep.clock);
        let mut looked = Instant::now();
        loop {
            if let Err(error) = self.seal().await {
                self.trouble("seal what was done", &error);
            }
            if let Some(age) = keep.acts
                && looked.elapsed() >= keep.every
            {
                looked = Instant::now();
                if let Err(error) = self.forget_acts(&mut clock, age).await {
                    self.trouble("remove what was done and is kept no longer", &error);
                }
            }
            tokio::time::sleep(EVERY.min(keep.every)).await;
        }
    }

    async fn seal(&self) -> Result<(), StoreError> {
        while let Some(seal) = self.0.store.seal_acts((self.0.keep.clock)()).await? {
            // The log is kept elsewhere: whoever changes the database has to change that as well.
            tracing::info!(
                seal = seal.place,
                last = seal.last,
                digest = seal.hex(),
                "sealed what was done"
            );
            if seal.entries < SEALED_AT_ONCE {
                break;
            }
        }
        Ok(())
    }

    async fn forget_acts(&self, clock: &mut Clock, age: Duration) -> Result<(), StoreError> {
        let Some(now) = clock.believed() else { return Ok(()) };
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let mut all = 0;
        loop {
            let gone = self.0.store.forget_acts(now.saturating_sub(age)).await?;
            if gone == 0 {
                break;
            }
            all += gone;
        }
        if all > 0 {
            tracing::info!(entries = all, "removed what was done and is kept no longer");
        }
        Ok(())
    }
}
