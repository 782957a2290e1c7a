//! What the last judgement of a chapter saw, kept with the lab's state: hints and `--explain` speak of it.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::chapter::Chapter;
use crate::check::evidence::History;
use crate::check::judge::Reason;
use crate::check::schedule::Judged;
use crate::config::Settings;
use crate::drive::files;

/// One check as it was judged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Last {
    /// The check's id.
    pub check: String,
    /// `pass`, `fail`, `error` or `skip`.
    pub verdict: String,
    /// What was asked.
    pub asked: String,
    /// Where something was not as expected.
    pub at: Option<String>,
    /// What was expected there.
    pub expected: Option<String>,
    /// What was there.
    pub actual: Option<String>,
    /// What it means, where the chapter's author foresaw it.
    pub so: Option<String>,
    /// All that was seen.
    pub history: History,
}

/// Writes a judgement down. What was known of checks that were not judged now is kept.
///
/// # Errors
/// The file cannot be written.
pub fn write(settings: &Settings, chapter: &Chapter, judged: &[Judged]) -> Result<()> {
    let mut all: Vec<Last> = judged.iter().map(one).collect();
    for old in read(settings, &chapter.id) {
        if chapter.checks.iter().any(|check| check.id == old.check) && !all.iter().any(|new| new.check == old.check) {
            all.push(old);
        }
    }
    let text = serde_json::to_string(&all)? + "\n";
    files::write(&path(settings, &chapter.id), text)
}

/// Reads the last judgement of a chapter; empty where there is none that can be read.
pub fn read(settings: &Settings, chapter: &str) -> Vec<Last> {
    std::fs::read_to_string(path(settings, chapter))
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

fn path(settings: &Settings, chapter: &str) -> PathBuf {
    settings.lab_dir().join("judged").join(format!("{chapter}.json"))
}

fn one(judged: &Judged) -> Last {
    let (finding, so) = match &judged.judgement.reason {
        Reason::Unmet { finding, cause } => (Some(finding), cause.clone()),
        Reason::Aborted { finding, cause } => (Some(finding), Some(cause.clone())),
        Reason::Blind { why } => (None, Some(why.clone())),
        Reason::Held | Reason::Skipped { .. } => (None, None),
    };
    Last {
        check: judged.id.clone(),
        verdict: judged.verdict().word().to_owned(),
        asked: judged.asked.clone(),
        at: finding.map(|finding| finding.at.clone()),
        expected: finding.map(|finding| finding.expected.clone()),
        actual: finding.map(|finding| finding.actual.clone()),
        so,
        history: judged.history.clone(),
    }
}
