//! How many jobs one caller may create in a minute. Pure: whoever asks says what time it is.
//!
//! Nobody waits for a minute to begin anew: what was used comes back evenly, one job after the other.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// In which time a caller may create as many jobs as are allowed.
pub const WINDOW: Duration = Duration::from_secs(60);
/// How many callers are remembered before those are forgotten who have used nothing lately.
const CALLERS: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Rate {
    quota: NonZeroU32,
    /// By caller, when what they used has come back whole.
    whole: Mutex<HashMap<String, Instant>>,
}

/// What a caller has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// How many jobs may be created in a [`WINDOW`].
    pub quota: u32,
    /// How many may be created now.
    pub jobs: u32,
    /// In which time all of them may be again.
    pub whole_in: Duration,
}

impl Rate {
    /// Allows so many jobs in a [`WINDOW`].
    pub fn new(quota: NonZeroU32) -> Self {
        Self {
            quota,
            whole: Mutex::default(),
        }
    }

    /// Returns what one job uses up, as the time in which it comes back.
    fn one(&self) -> Duration {
        WINDOW / self.quota.get()
    }

    /// Returns what a caller has left.
    pub fn left(&self, caller: &str, now: Instant) -> Left {
        let whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let whole_in = whole
            .get(caller)
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let free = (self.one() * self.quota.get()).saturating_sub(whole_in);
        let jobs = free.as_nanos() / self.one().as_nanos().max(1);
        Left {
            quota: self.quota.get(),
            jobs: u32::try_from(jobs).unwrap_or(u32::MAX),
            whole_in,
        }
    }

    /// Takes one job from what a caller has left.
    ///
    /// # Errors
    /// There is none left; one comes back in this time.
    pub fn take(&self, caller: &str, now: Instant) -> Result<(), Duration> {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if whole.len() >= CALLERS {
            whole.retain(|_, at| *at > now);
        }
        let before = whole.get(caller).map_or(now, |at| (*at).max(now));
        let after = before + self.one();
        let over = after
            .saturating_duration_since(now)
            .saturating_sub(self.one() * self.quota.get());
        if over > Duration::ZERO {
            return Err(over);
        }
        whole.insert(caller.to_owned(), after);
        Ok(())
    }

    /// Gives back what was taken for a job that was not created.
    pub fn give_back(&self, caller: &str) {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = whole.get_mut(caller)
            && let Some(before) = at.checked_sub(self.one())
        {
            *at = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_comes_back_one_by_one() {
        let rate = Rate::new(NonZeroU32::new(6).expect("some"));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rate.left("ada", start).jobs, 6);
        for left in (0..6).rev() {
            assert_eq!(rate.take("ada", start), Ok(()));
            assert_eq!(rate.left("ada", start).jobs, left);
        }
        assert_eq!(rate.take("ada", start), Err(Duration::from_secs(10)));
        assert_eq!(
            rate.take("ada", at(4)),
            Err(Duration::from_secs(6)),
            "a refusal costs nothing"
        );
        assert_eq!(rate.take("bob", at(4)), Ok(()), "each has their own");
        assert_eq!(
            (rate.take("ada", at(10)), rate.take("ada", at(11))),
            (Ok(()), Err(Duration::from_secs(9)))
        );
        rate.give_back("ada");
        assert_eq!(rate.take("ada", at(11)), Ok(()));
        let left = rate.left("ada", at(30));
        assert_eq!((left.quota, left.jobs, left.whole_in), (6, 2, Duration::from_secs(40)));
        assert_eq!(rate.left("ada", at(900)).jobs, 6, "and never more than that");
    }

    #[test]
    fn who_has_used_nothing_lately_is_forgotten() {
        let rate = Rate::new(NonZeroU32::new(60_000).expect("some"));
        let start = Instant::now();
        for number in 0..CALLERS {
            rate.take(&number.to_string(), start).expect("one");
        }
        rate.take("last", start + WINDOW).expect("one");
        assert_eq!(rate.whole.lock().expect("not poisoned").len(), 1);
    }
}
