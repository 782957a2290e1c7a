//! An answer that goes on while something happens: the lines of a running job.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Field;
use crate::check::matcher::{Fields, Matcher, Path};
use crate::check::spec::Span;

/// A stream of lines over HTTP.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogStream {
    /// The URL. The connection is opened at once and read until it ends, or until `read_for` is over.
    pub get: String,
    /// Headers of the request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// How long it is read at most; 20 s without it.
    pub read_for: Option<Span>,
    /// Close the connection after this many lines, as a viewer does who goes away.
    pub close_after: Option<usize>,
    /// A question that is put at the moment at which the first line is there.
    pub at_first_line: Option<AtFirstLine>,
    /// What is expected.
    pub expect: StreamExpect,
}

/// A GET that is made when the first line has come: what else is true at that moment?
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtFirstLine {
    /// The URL; its answer must be JSON.
    pub get: String,
    /// Values within the answer.
    pub json: Fields,
}

/// What is expected of a stream. A line is what a person would see: of Server-Sent Events it is the text of `data:`.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamExpect {
    /// The status code.
    pub status: Matcher,
    /// The media type.
    pub content_type: Option<Matcher>,
    /// The lines, an array of texts.
    pub lines: Option<Matcher>,
    /// All of it, as one text with a newline behind each line.
    pub text: Option<Matcher>,
    /// Milliseconds from the request to the first line.
    pub first_line_ms: Option<Matcher>,
    /// Milliseconds from the first line to the last: a dump at the end has next to none.
    pub spread_ms: Option<Matcher>,
    /// Whether the server ended the stream.
    pub ended: Option<Matcher>,
}

impl LogStream {
    /// Returns how long the stream is read at most.
    pub fn read_for(&self) -> Duration {
        self.read_for.map_or(Duration::from_secs(20), |span| span.0)
    }

    /// Returns what is expected of what came.
    pub(super) fn fields(&self) -> Vec<Field> {
        let root = Path::root();
        let expect = &self.expect;
        let mut fields = vec![Field::at("status", &root, &expect.status)];
        let named = [
            ("content_type", &expect.content_type),
            ("first_line_ms", &expect.first_line_ms),
            ("lines", &expect.lines),
            ("text", &expect.text),
            ("spread_ms", &expect.spread_ms),
            ("ended", &expect.ended),
        ];
        for (name, matcher) in named {
            fields.extend(matcher.as_ref().map(|matcher| Field::at(name, &root, matcher)));
        }
        for (path, matcher) in self.at_first_line.iter().flat_map(|at| &at.json.0) {
            fields.push(Field::at("at_first_line", path, matcher));
        }
        fields
    }

    /// Applies `f` to every text that may hold placeholders.
    pub(super) fn map_text(&self, f: &dyn Fn(&str) -> String) -> Self {
        let matcher = |m: &Option<Matcher>| m.as_ref().map(|m| m.map_text(f));
        Self {
            get: f(&self.get),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), f(value)))
                .collect(),
            at_first_line: self.at_first_line.as_ref().map(|at| AtFirstLine {
                get: f(&at.get),
                json: at.json.map_text(f),
            }),
            expect: StreamExpect {
                status: self.expect.status.map_text(f),
                content_type: matcher(&self.expect.content_type),
                lines: matcher(&self.expect.lines),
                text: matcher(&self.expect.text),
                first_line_ms: matcher(&self.expect.first_line_ms),
                spread_ms: matcher(&self.expect.spread_ms),
                ended: matcher(&self.expect.ended),
            },
            ..self.clone()
        }
    }
}
