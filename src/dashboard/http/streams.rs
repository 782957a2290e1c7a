//! Answers that go on for long: how many there may be, and how they end when the server does.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::problem::{Kind, Problem};

/// How often a stream of events without events says that it lives: proxies cut what is silent for a minute.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

/// The streams of a server; cheap to clone, all clones are one.
#[derive(Debug, Clone)]
pub struct Streams {
    room: Arc<Semaphore>,
    most: usize,
    /// How many one caller may have, and how many each has.
    most_each: usize,
    each: Arc<Mutex<HashMap<String, usize>>>,
    closing: CancellationToken,
}

/// A stream that is open; another one may take its place when this is dropped.
#[derive(Debug)]
pub(super) struct Open {
    _room: OwnedSemaphorePermit,
    caller: String,
    each: Arc<Mutex<HashMap<String, usize>>>,
    /// Is cancelled when the server ends.
    pub(super) closing: CancellationToken,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = each.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                each.remove(&self.caller);
            }
        }
    }
}

impl Streams {
    /// Allows `most` streams, and each caller `most_each` of them; they are to end when `closing` is cancelled.
    pub fn new(most: usize, most_each: usize, closing: CancellationToken) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            room: Arc::new(Semaphore::new(most)),
            most,
            most_each,
            each: Arc::default(),
            closing,
        }
    }

    /// Opens one for a caller.
    ///
    /// # Errors
    /// There are as many as may be, or the caller has as many.
    pub(super) fn open(&self, caller: &str) -> Result<Open, Problem> {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let own = each.get(caller).copied().unwrap_or_default();
        if own >= self.most_each {
            return Err(
                Problem::new(Kind::Streams).detail(format!("{own} of yours are open, and no user may have more"))
            );
        }
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            Problem::new(Kind::Streams).detail(format!("{} are open; close some, or ask again later", self.most))
        })?;
        each.insert(caller.to_owned(), own + 1);
        Ok(Open {
            _room: room,
            caller: caller.to_owned(),
            each: Arc::clone(&self.each),
            closing: self.closing.clone(),
        })
    }

    /// Returns how many are open.
    pub fn count(&self) -> usize {
        self.most - self.room.available_permits()
    }
}

/// Text of server-sent events, as the HTML standard has them.
#[derive(Debug, Default)]
pub(super) struct Events(Vec<u8>);

impl Events {
    /// Adds an event; its data is one line of JSON.
    pub(super) fn event(&mut self, name: &str, id: Option<u64>, data: &impl Serialize) -> &mut Self {
        if let Some(id) = id {
            self.0.extend(format!("id: {id}\n").as_bytes());
        }
        self.0.extend(format!("event: {name}\ndata: ").as_bytes());
        // What cannot be written as JSON is a bug that must not break the frame of the events around it.
        let before = self.0.len();
        if let Err(error) = serde_json::to_writer(&mut self.0, data) {
            tracing::error!(%error, name, "an event cannot be written");
            self.0.truncate(before);
            self.0.extend(b"null");
        }
        self.0.extend(b"\n\n");
        self
    }

    /// Moves the client's place without an event.
    pub(super) fn place(&mut self, id: u64) -> &mut Self {
        self.0.extend(format!("id: {id}\n\n").as_bytes());
        self
    }

    /// Says when a client whose connection ends is to come back: not all of them at once.
    pub(super) fn retry(&mut self) -> &mut Self {
        let milliseconds = 1000 + RandomState::new().hash_one(()) % 2000;
        self.0.extend(format!("retry: {milliseconds}\n\n").as_bytes());
        self
    }

    /// Adds what clients pass over. Keeps the connection awake, and tells people who look at it with curl.
    pub(super) fn comment(&mut self, text: &str) -> &mut Self {
        self.0.extend(format!(": {text}\n\n").as_bytes());
        self
    }

    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.0).into()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Makes the response of a stream: nobody on the way may keep it or hold it back.
pub(super) fn response(media_type: &'static str, body: axum::body::Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-store, no-transform"),
        ),
        (
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        ),
    ];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_streams_as_may_be() {
        let streams = Streams::new(3, 2, CancellationToken::new());
        let first = streams.open("ada").expect("room");
        let _second = streams.open("ada").expect("room");
        assert_eq!(streams.open("ada").expect_err("ada has hers").kind(), Kind::Streams);
        let _third = streams.open("bob").expect("room for others");
        assert_eq!(streams.open("bob").expect_err("full").kind(), Kind::Streams);
        assert_eq!(streams.count(), 3);
        drop(first);
        assert!(streams.open("ada").is_ok());
    }

    #[test]
    fn events_are_framed_whatever_is_in_them() {
        let mut events = Events::default();
        events
            .event("line", Some(7), &"a\nb\r\u{2028}</script>")
            .place(9)
            .comment("x");
        let text = String::from_utf8(events.take().to_vec()).expect("UTF-8");
        assert_eq!(
            text,
            "id: 7\nevent: line\ndata: \"a\\nb\\r\u{2028}</script>\"\n\nid: 9\n\n: x\n\n"
        );
        assert!(events.is_empty());
        for _ in 0..100 {
            let text = String::from_utf8(events.retry().take().to_vec()).expect("UTF-8");
            let number: u64 = text.trim().trim_start_matches("retry: ").parse().expect("a number");
            assert!((1000..3000).contains(&number), "{text}");
        }
    }
}
