//! One kind of object that is watched.
//!
//! A watch goes on from where a list ended, or the watch before it. The API server keeps only so much of what was, and
//! refuses to go on from what is older (410). Then this kind alone is listed anew, after a pause that grows where that
//! happens again and again. kube-runtime alone would ask for the same version for ever where a watch cannot be begun,
//! and list without a pause where the refusal is the first thing that a watch says.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use kube::Resource;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::pause::Pause;
use super::{ANSWER_LIMIT, trouble};

/// How long a list may be silent, and how long a watch may be refused in a row.
pub(super) const LIST_LIMIT: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Kind<K> {
    api: Api<K>,
    config: watcher::Config,
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    row: Row,
}

impl<K> Kind<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    pub(super) fn new(api: Api<K>, config: watcher::Config) -> Self {
        Self {
            events: watcher(api.clone(), config.clone()).boxed(),
            api,
            config,
            row: Row::new(),
        }
    }

    /// Returns what comes next; nothing is lost where somebody does not wait for it. What is too old to go on from is an
    /// [`Event::Init`] at once, before the pause and the list: from now on nobody tells what changes.
    ///
    /// # Errors
    /// Those of kube-runtime; that it is too old only after it was for [`LIST_LIMIT`].
    pub(super) async fn next(&mut self) -> watcher::Result<Event<K>> {
        let Some(event) = self.events.next().await else {
            // The stream has no end.
            return std::future::pending().await;
        };
        match &event {
            Ok(Event::InitDone) => self.row.listed = Some(Instant::now()),
            Ok(Event::Apply(_) | Event::Delete(_)) => self.row.end(),
            Err(error) if trouble::is_too_old(error) => {
                let Some(wait) = self.row.again(Instant::now()) else {
                    return event;
                };
                tracing::info!(
                    kind = %K::kind(&()),
                    error = trouble::chain(error),
                    "a watch is too old to go on; everything of this kind is listed again"
                );
                let (api, config) = (self.api.clone(), self.config.clone());
                let later = async move {
                    tokio::time::sleep(wait).await;
                    watcher(api, config)
                };
                self.events = later.flatten_stream().boxed();
                return Ok(Event::Init);
            }
            Ok(Event::Init | Event::InitApply(_)) | Err(_) => {}
        }
        event
    }
}

/// Refusals in a row.
struct Row {
    /// When the first of them was.
    since: Option<Instant>,
    /// When the list ended that the watch goes on from.
    listed: Option<Instant>,
    pause: Pause,
}

impl Row {
    fn new() -> Self {
        Self {
            since: None,
            listed: None,
            pause: Pause::new(),
        }
    }

    /// Ends the row: the watch has told something.
    fn end(&mut self) {
        self.since = None;
        self.pause.reset();
    }

    /// Takes note of a refusal, and returns how long to wait; nothing where it was so for too long.
    fn again(&mut self, now: Instant) -> Option<Duration> {
        // Where nothing happens a watch tells nothing; but a refusal takes no longer than any other answer.
        let held = self.listed.take().is_some_and(|listed| now - listed > ANSWER_LIMIT);
        if held {
            self.end();
        }
        let since = *self.since.get_or_insert(now);
        (now - since < LIST_LIMIT).then(|| self.pause.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn refusals_in_a_row_are_borne_for_a_time_and_with_longer_and_longer_pauses() {
        let mut row = Row::new();
        let began = Instant::now();
        let (mut now, mut waits) = (began, Vec::new());
        loop {
            row.listed = Some(now);
            let Some(wait) = row.again(now) else { break };
            waits.push(wait);
            now += wait;
        }
        assert!(now - began >= LIST_LIMIT && now - began < LIST_LIMIT + 5 * SECOND);
        assert!(waits[0] <= Duration::from_millis(100), "{waits:?}");
        assert!((8..=20).contains(&waits.len()), "{waits:?}");
    }

    #[test]
    fn a_watch_that_held_begins_a_new_row() {
        let mut row = Row::new();
        let mut now = Instant::now();
        for _ in 0..5 {
            row.again(now).expect("the first");
            row.listed = Some(now);
            // Nothing happened in this time, and the watch was open.
            now += 40 * SECOND;
        }
        assert!(row.again(now).expect("the first of a row") <= Duration::from_millis(100));
        now += 29 * SECOND;
        row.end();
        now += 2 * SECOND;
        assert!(row.again(now).expect("the first since something was told") <= Duration::from_millis(100));
        now += 31 * SECOND;
        assert_eq!(row.again(now), None, "a list that is refused was no watch that held");
    }
}
