//! What was found: the rule, the words and their place, why it matters, and what to do instead.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::rule::{Class, Rule};
use super::span::{Document, Place};

/// A change that would end a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// The bytes of the file that are replaced.
    pub span: Range<usize>,
    /// What comes in their place.
    pub with: String,
}

/// One thing that a rule found.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The rule.
    pub rule: Arc<Rule>,
    /// The bytes of the file.
    pub span: Range<usize>,
    /// Where it begins.
    pub start: Place,
    /// Where it ends.
    pub end: Place,
    /// The words that were found, on one line and cut where they are long.
    pub words: String,
    /// What is wrong with them.
    pub message: String,
    /// What to do.
    pub instead: String,
    /// The change that would do it, where there is only one.
    pub fix: Option<Fix>,
}

/// How many characters of the words a finding shows.
const SHOWN: usize = 60;

/// Collects what the rules find in one file.
pub(super) struct Sink<'d> {
    document: &'d Document<'d>,
    found: Vec<Finding>,
}

/// What a rule says beside its own text.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Replaces the rule's message.
    pub(super) message: Option<String>,
    /// Replaces the rule's advice.
    pub(super) instead: Option<String>,
    /// A change that would end the finding.
    pub(super) fix: Option<Fix>,
}

impl Said {
    /// Says what is wrong.
    pub(super) fn message(text: impl Into<String>) -> Self {
        Self {
            message: Some(text.into()),
            ..Self::default()
        }
    }

    /// Says what to do.
    pub(super) fn instead(mut self, text: impl Into<String>) -> Self {
        self.instead = Some(text.into());
        self
    }

    /// Offers a change.
    pub(super) fn fix(mut self, span: Range<usize>, with: impl Into<String>) -> Self {
        self.fix = Some(Fix {
            span,
            with: with.into(),
        });
        self
    }
}

impl<'d> Sink<'d> {
    pub(super) fn new(document: &'d Document<'d>) -> Self {
        Self {
            document,
            found: Vec::new(),
        }
    }

    /// Adds a finding.
    pub(super) fn add(&mut self, rule: &Arc<Rule>, span: Range<usize>, said: Said) {
        let text = self.document.text;
        let words = text.get(span.clone()).unwrap_or_default();
        self.found.push(Finding {
            rule: Arc::clone(rule),
            start: self.document.place(span.start),
            end: self.document.place(span.end),
            words: one_line(words),
            message: said.message.unwrap_or_else(|| rule.message.clone()),
            instead: said.instead.unwrap_or_else(|| rule.instead.clone()),
            fix: said.fix,
            span,
        });
    }

    /// Returns the findings in the order of their places.
    pub(super) fn finish(mut self) -> Vec<Finding> {
        self.found
            .sort_by(|a, b| (a.span.start, a.span.end, &a.rule.id).cmp(&(b.span.start, b.span.end, &b.rule.id)));
        self.found
            .dedup_by(|a, b| a.rule.id == b.rule.id && a.span == b.span && a.message == b.message);
        self.found
    }
}

/// Puts words on one line, and cuts them where they are long.
fn one_line(words: &str) -> String {
    let mut out = String::new();
    for (index, c) in words.trim_end_matches(['\n', '\r']).chars().enumerate() {
        if index == SHOWN {
            out.push_str("...");
            break;
        }
        match c {
            '\n' => out.push(' '),
            '\r' => {}
            // What turns the direction of a terminal, or is not seen on it, is shown by its number.
            c if c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}') =>
            {
                _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// How much of a document is padding, and what to cut first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Score {
    /// Weighted hits of the slop class per 1,000 words; weak ones count only above the human 90th percentile.
    pub per_1000: f64,
    /// What to cut or rewrite, the heaviest first: the rule's id, how many hits, and their weight.
    pub cut: Vec<(String, usize, f64)>,
}

impl Score {
    /// Weighs the findings of a document of this many words.
    pub fn of(findings: &[Finding], words: usize) -> Self {
        let mut cut: Vec<(String, usize, f64)> = Vec::new();
        for finding in findings.iter().filter(|finding| finding.rule.class == Class::Slop) {
            let weight = finding.rule.strength.weight();
            match cut.iter_mut().find(|(id, ..)| *id == finding.rule.id) {
                Some((_, count, sum)) => {
                    *count += 1;
                    *sum += weight;
                }
                None => cut.push((finding.rule.id.clone(), 1, weight)),
            }
        }
        cut.sort_by(|a, b| b.2.total_cmp(&a.2));
        let sum: f64 = cut.iter().map(|(_, _, weight)| weight).sum();
        #[expect(clippy::cast_precision_loss, reason = "a count of words")]
        let words = words.max(100) as f64;
        Self {
            per_1000: sum * 1000.0 / words,
            cut,
        }
    }
}

/// What came of one file.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The file, as it is named to people.
    pub path: PathBuf,
    /// What was found and not allowed.
    pub findings: Vec<Finding>,
    /// How many findings an allow with a reason took away.
    pub allowed: usize,
    /// How many words of prose the file has.
    pub words: usize,
    /// How much of it is padding.
    pub score: Score,
    /// Why the file was not read as prose, where it was not.
    pub skipped: Option<String>,
}
