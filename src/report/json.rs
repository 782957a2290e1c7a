//! Events as NDJSON on standard output: one JSON object a line, flushed at once, with the time since the start.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use super::{Event, Sink};

/// The version of the line format; it grows when a field changes its meaning.
pub const FORMAT: u32 = 1;

#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    at_ms: u64,
    // Not a file that people write, so `flatten` cannot blur an error's place.
    #[serde(flatten)]
    event: &'a Event,
}

/// Writes events as NDJSON.
pub struct Json {
    start: Instant,
    out: Mutex<Box<dyn Write + Send>>,
}

impl Json {
    /// Makes a sink that writes to `out`.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        Self {
            start: Instant::now(),
            out: Mutex::new(Box::new(out)),
        }
    }
}

impl Sink for Json {
    fn emit(&self, event: &Event) {
        let line = Line {
            v: FORMAT,
            at_ms: millis(self.start.elapsed()),
            event,
        };
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // A reader that went away must not stop the work; `main` ends quietly on a closed pipe.
        if let Ok(text) = serde_json::to_string(&line) {
            _ = writeln!(out, "{text}");
            _ = out.flush();
        }
    }
}

/// Returns a duration in whole milliseconds.
pub fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);
    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_line_an_event_with_its_kind() {
        let buffer = Buffer::default();
        let sink = Json::new(buffer.clone());
        sink.emit(&Event::Note { text: "a\nb".into() });
        let text = String::from_utf8(buffer.0.lock().expect("not poisoned").clone()).expect("UTF-8");
        assert_eq!(text.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["event"], "note");
        assert_eq!(value["text"], "a\nb");
        assert_eq!(value["v"], 1);
    }
}
