//! Waiting before something is tried again: longer each time, and never at the same moment as everybody else.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// The first wait, and the longest.
const RANGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// See the module.
pub(super) struct Pause {
    next: Duration,
    keys: RandomState,
}

impl Pause {
    pub(super) fn new() -> Self {
        Self {
            next: RANGE.0,
            keys: RandomState::new(),
        }
    }

    /// Begins with the first wait again.
    pub(super) fn reset(&mut self) {
        self.next = RANGE.0;
    }

    /// Returns how long to wait now: between half of the time and all of it.
    pub(super) fn take(&mut self) -> Duration {
        let share = u32::try_from(self.keys.hash_one(self.next) % 1000).unwrap_or(0);
        let wait = self.next / 2 + self.next / 2 * share / 1000;
        self.next = (self.next * 2).min(RANGE.1);
        // Another value for the same time.
        self.keys = RandomState::new();
        wait
    }

    /// Waits.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.take()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_limit_and_begin_again() {
        let mut pause = Pause::new();
        let waits: Vec<Duration> = (0..10).map(|_| pause.take()).collect();
        for (number, wait) in waits.iter().enumerate() {
            let whole = (RANGE.0 * (1 << number)).min(RANGE.1);
            assert!((whole / 2..=whole).contains(wait), "{number}: {wait:?}");
        }
        pause.reset();
        assert!(pause.take() <= RANGE.0);
    }

    #[test]
    fn two_do_not_wait_alike() {
        let of = |_| {
            let mut pause = Pause::new();
            (0..6).map(|_| pause.take()).collect::<Vec<_>>()
        };
        assert_ne!(of(0), of(1));
    }
}
