//! What probes bring back: values with names, or the reason why nothing could be seen.
//!
//! Evidence is plain data that can be stored and judged again without a cluster.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What one look brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The world was seen; perhaps what was looked for was not there.
    Seen(Seen),
    /// Nothing can be said about the world.
    Blind {
        /// Why, in one line.
        why: String,
    },
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Seen {
    /// The things that were found, each with its value.
    pub candidates: Vec<Candidate>,
    /// Why there are none, or what else a reader should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its name, for people: `Pod job-dashboard-7c9f`, `the answer`.
    pub name: String,
    /// What it is like.
    pub value: Value,
}

impl Evidence {
    /// Makes evidence of one thing.
    pub fn one(name: impl Into<String>, value: Value) -> Self {
        Self::Seen(Seen {
            candidates: vec![Candidate {
                name: name.into(),
                value,
            }],
            note: None,
        })
    }

    /// Makes evidence that nothing was there.
    pub fn nothing(note: impl Into<String>) -> Self {
        Self::Seen(Seen {
            candidates: Vec::new(),
            note: Some(note.into()),
        })
    }

    /// Makes the evidence of one who could not look.
    pub fn blind(why: impl Into<String>) -> Self {
        Self::Blind { why: why.into() }
    }
}

/// Equal evidence in a row, and when it was had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was first seen, in milliseconds since the check began.
    pub at_ms: u64,
    /// When it was last seen, in milliseconds since the check began.
    pub until_ms: u64,
    /// How many looks in a row brought it.
    pub looks: u32,
    /// What was seen.
    pub evidence: Evidence,
}

/// All that one check saw, oldest first; only changes are kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct History(pub Vec<Sample>);

impl History {
    /// Adds a look at `at_ms` milliseconds since the check began.
    pub fn add(&mut self, at_ms: u64, evidence: Evidence) {
        match self.0.last_mut() {
            Some(last) if last.evidence == evidence => {
                last.until_ms = at_ms;
                last.looks += 1;
            }
            _ => self.0.push(Sample {
                at_ms,
                until_ms: at_ms,
                looks: 1,
                evidence,
            }),
        }
    }

    /// Returns how often the check looked.
    pub fn looks(&self) -> u32 {
        self.0.iter().map(|sample| sample.looks).sum()
    }
}
