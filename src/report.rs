//! What labctl says while it works.
//!
//! Domain code emits an [`Event`] to a [`Sink`] and never prints. Sinks: [`human`] (with [`progress`]
//! bars on a terminal), [`json`] (one event a line), and [`Recorded`] in tests.

pub mod event;
pub mod human;
pub mod json;
pub mod junit;
pub mod progress;
pub mod tap;

use std::sync::{Arc, Mutex, PoisonError};

pub use event::Event;

/// Receives the events of a run.
pub trait Sink: Send + Sync {
    /// Takes one event. Must not block for long: steps wait for it.
    fn emit(&self, event: &Event);

    /// Removes what is drawn over (bars), so that other text can be printed; called once, before the last words.
    fn finish(&self) {}

    /// Runs `print` while nothing else draws on the terminal, for a question or a child that owns the terminal.
    fn suspend(&self, print: &mut dyn FnMut()) {
        print();
    }
}

/// A handle on the sink of this run; cheap to clone.
#[derive(Clone)]
pub struct Reporter(Arc<dyn Sink>);

impl Reporter {
    /// Makes a reporter that gives its events to `sink`.
    pub fn new(sink: impl Sink + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Emits one event.
    #[expect(clippy::needless_pass_by_value, reason = "events are made where they are emitted")]
    pub fn emit(&self, event: Event) {
        self.0.emit(&event);
    }

    /// Says something worth knowing.
    pub fn note(&self, text: impl Into<String>) {
        self.emit(Event::Note { text: text.into() });
    }

    /// Says something that may become a problem.
    pub fn warn(&self, text: impl Into<String>) {
        self.emit(Event::Warning { text: text.into() });
    }

    /// See [`Sink::finish`].
    pub fn finish(&self) {
        self.0.finish();
    }

    /// See [`Sink::suspend`].
    pub fn suspend(&self, print: &mut dyn FnMut()) {
        self.0.suspend(print);
    }
}

/// Keeps every event, for tests.
#[derive(Default, Clone)]
pub struct Recorded(Arc<Mutex<Vec<Event>>>);

impl Recorded {
    /// Returns the events so far, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sink for Recorded {
    fn emit(&self, event: &Event) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(event.clone());
    }
}
