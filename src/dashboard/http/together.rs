//! What is the same for all who ask at the same moment is found once.
//!
//! A page that many look at is asked for by many at the same moment, above all when something on it has changed. Whoever
//! asks while it is being found waits for the next finding, which is for all who wait then. So an answer was always found
//! after it was asked for, and nobody sees less than he would have seen alone.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// See the module; cheap to clone, all clones are one.
pub(super) struct Together<K, V>(Arc<Mutex<HashMap<K, Arc<Slot<V>>>>>);

impl<K, V> Clone for Together<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, V> Default for Together<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

struct Slot<V> {
    /// How many have asked.
    asked: AtomicU64,
    /// Had by whoever finds it.
    found: tokio::sync::Mutex<Found<V>>,
}

struct Found<V> {
    /// So many had asked before it began to be found.
    before: u64,
    /// Nothing where it could not be found.
    answer: Option<V>,
}

/// A slot that is given up when nobody asks any more.
struct Asking<'a, K: Eq + Hash, V> {
    all: &'a Together<K, V>,
    key: K,
    slot: Arc<Slot<V>>,
}

impl<K: Eq + Hash, V> Drop for Asking<'_, K, V> {
    fn drop(&mut self) {
        let mut slots = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Clones are made under the lock alone: this one's and the map's mean that nobody else has one.
        if Arc::strong_count(&self.slot) == 2 {
            slots.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Together<K, V> {
    /// Returns what `find` finds, or what somebody else's found who asked for the same, after this was called.
    ///
    /// # Errors
    /// Those of `find`. An error is nobody else's: those who waited for it then ask each for itself, and at once.
    pub(super) async fn get<E>(&self, key: K, find: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(key.clone()).or_insert_with(|| {
                Arc::new(Slot {
                    asked: AtomicU64::new(0),
                    found: tokio::sync::Mutex::new(Found {
                        before: 0,
                        answer: None,
                    }),
                })
            }))
        };
        let asking = Asking { all: self, key, slot };
        let mine = asking.slot.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut found = asking.slot.found.lock().await;
        if found.before >= mine {
            if let Some(answer) = &found.answer {
                return Ok(answer.clone());
            }
            drop(found);
            return find.await;
        }
        let before = asking.slot.asked.load(Ordering::SeqCst);
        // Where this is given up, nothing is said of it, and the next one who waits finds it.
        let answer = find.await;
        *found = Found {
            before,
            answer: answer.as_ref().ok().cloned(),
        };
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// Counts how often something is found, which takes as long as it is held up.
    #[derive(Default)]
    struct Source {
        begun: AtomicU32,
        hold: tokio::sync::RwLock<()>,
    }

    impl Source {
        async fn find(&self) -> Result<u32, String> {
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            _ = self.hold.read().await;
            Ok(number)
        }
    }

    /// Lets the others go on until they wait.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_asks_while_it_is_found_gets_what_is_found_after() {
        let (together, source) = (Together::default(), Arc::new(Source::default()));
        let held = source.hold.write().await;
        let ask = |key: &'static str| {
            let (together, source) = (together.clone(), Arc::clone(&source));
            tokio::spawn(async move { together.get(key, source.find()).await })
        };
        let first = ask("a");
        settle().await;
        let later: Vec<_> = (0..9).map(|_| ask("a")).collect();
        let other = ask("b");
        settle().await;
        // One finds for `a`, one for `b`; nine wait.
        assert_eq!(source.begun.load(Ordering::SeqCst), 2);
        drop(held);
        assert_eq!(timeout(LONG, first).await.expect("in time").expect("no panic"), Ok(1));
        assert_eq!(timeout(LONG, other).await.expect("in time").expect("no panic"), Ok(2));
        for answer in timeout(LONG, join_all(later)).await.expect("in time") {
            assert_eq!(answer.expect("no panic"), Ok(3));
        }
        // And nothing is kept for who asks when nobody does.
        assert!(together.0.lock().expect("no panic").is_empty());
        assert_eq!(together.get("a", source.find()).await, Ok(4));
    }

    #[tokio::test]
    async fn what_is_given_up_is_found_by_the_next() {
        let (together, source) = (Together::default(), Arc::new(Source::default()));
        let held = source.hold.write().await;
        let ask = || {
            let (together, source) = (together.clone(), Arc::clone(&source));
            tokio::spawn(async move { together.get((), source.find()).await })
        };
        let first = ask();
        settle().await;
        let later: Vec<_> = (0..3).map(|_| ask()).collect();
        settle().await;
        first.abort();
        assert!(first.await.expect_err("ended").is_cancelled());
        settle().await;
        drop(held);
        for answer in timeout(LONG, join_all(later)).await.expect("in time") {
            assert_eq!(answer.expect("no panic"), Ok(2));
        }
        assert!(together.0.lock().expect("no panic").is_empty());
    }

    #[tokio::test]
    async fn an_error_is_nobody_elses_and_holds_nobody_up() {
        let (together, source) = (Together::default(), Arc::new(Source::default()));
        let held = source.hold.write().await;
        let fail = || {
            let (together, source) = (together.clone(), Arc::clone(&source));
            tokio::spawn(async move {
                together
                    .get((), async {
                        source.find().await?;
                        // Long enough that one after the other would be seen.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        Err::<u32, _>("down".to_owned())
                    })
                    .await
            })
        };
        let first = fail();
        settle().await;
        let later: Vec<_> = (0..20).map(|_| fail()).collect();
        settle().await;
        drop(held);
        let begun = std::time::Instant::now();
        assert_eq!(first.await.expect("no panic"), Err("down".to_owned()));
        for answer in join_all(later).await {
            assert_eq!(answer.expect("no panic"), Err("down".to_owned()));
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(together.0.lock().expect("no panic").is_empty());
    }
}
