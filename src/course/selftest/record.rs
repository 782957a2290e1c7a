//! Recorded evidence: what the checks of a chapter saw in the worlds of its selftest. It is judged again without a
//! cluster, by the spec of now, so that a change of a spec which no longer catches a fault is found in a second.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Spec, spoil};
use crate::check::ask;
use crate::check::evidence::Evidence;
use crate::check::judge::{self, State};
use crate::check::schedule::Judged;
use crate::course::chapter::Chapter;
use crate::drive::files;

/// What was seen in the selftest of a chapter.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// The chapter's id.
    pub chapter: String,
    /// What each check saw last, in each world in which it must pass or must fail.
    pub looks: Vec<Look>,
}

/// What one check saw last in one world.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// Which world.
    pub world: String,
    /// The check.
    pub check: String,
    /// Whether what is asked was met.
    pub met: bool,
    /// The values of the placeholders in what is asked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub filled: BTreeMap<String, String>,
    /// What was seen.
    pub evidence: Evidence,
}

impl Recording {
    /// Makes an empty recording.
    pub fn of(chapter: &Chapter) -> Self {
        Self {
            chapter: chapter.id.clone(),
            looks: Vec::new(),
        }
    }

    /// Adds what one check saw.
    pub fn add(&mut self, world: &str, judged: &Judged, met: bool) {
        if let Some(last) = judged.history.0.last() {
            self.looks.push(Look {
                world: world.to_owned(),
                check: judged.id.clone(),
                met,
                filled: judged.filled.clone(),
                evidence: last.evidence.clone(),
            });
        }
    }

    /// Returns the recording with another one's worlds in the place of its own of the same names.
    #[must_use]
    pub fn with(mut self, newer: Self) -> Self {
        self.looks
            .retain(|look| newer.looks.iter().all(|new| new.world != look.world));
        self.looks.extend(newer.looks);
        self
    }

    /// Writes the recording; folders of this machine get a name instead.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path, folders: &[(&str, &Path)]) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)? + "\n";
        for (name, folder) in folders {
            text = text.replace(&folder.display().to_string(), name);
        }
        files::write(path, text)
    }

    /// Reads a recording.
    ///
    /// # Errors
    /// The file is not there or not one.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| files::explain(error, "read", path))?;
        serde_json::from_str(&text).with_context(|| format!("`{}` is no recording of a selftest", path.display()))
    }

    /// Judges what was seen by the spec of now, and returns what is wrong: a look that comes to something else than it
    /// must, and expectations that no recorded fault needs.
    pub fn replay(&self, chapter: &Chapter, spec: &Spec) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut caught: BTreeMap<String, Vec<spoil::Caught<'_>>> = BTreeMap::new();
        for look in &self.looks {
            let Some(check) = chapter.checks.iter().find(|check| check.id == look.check) else {
                wrong.push(format!(
                    "{}: there is no check {} any more; record again",
                    look.world, look.check
                ));
                continue;
            };
            let expect = check.ask.map_text(&|text| ask::fill(text, &look.filled)).expect();
            let met = matches!(judge::look(&expect, &look.evidence), State::Met);
            if met != look.met {
                let (now, then) = if met { ("passes", "failed") } else { ("fails", "passed") };
                wrong.push(format!(
                    "{}: {} {now} now, and {then} when it was recorded",
                    look.world, look.check
                ));
            }
            if !look.met {
                caught.entry(look.check.clone()).or_default().push(spoil::Caught {
                    expect,
                    evidence: &look.evidence,
                });
            }
        }
        for check in &chapter.checks {
            if !self.looks.iter().any(|look| look.check == check.id && look.met) {
                wrong.push(format!(
                    "{}: nothing recorded shows that it can pass; record again",
                    check.id
                ));
            }
        }
        wrong.extend(spoil::survivors(chapter, spec, &caught));
        wrong
    }
}
