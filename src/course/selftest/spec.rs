//! `selftest.yaml`: the worlds in which a chapter must be judged, and how. It lies beside `chapter.yaml`, and learners
//! need not read it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::check::spec::{self as check_spec, Place, Span, SpecError};
use crate::course::catalogue::Entry;
use crate::course::chapter::Chapter;
use crate::course::setup::{self, Serve, Step};
use crate::error::{Code, Diagnosis};

const FILE: &str = "selftest.yaml";
/// How many faults every criterion must have.
const FAULTS: usize = 2;

/// The selftest of a chapter.
#[derive(Debug, Clone)]
pub struct Spec {
    /// How the chapter is judged where it begins.
    pub at_start: AtStart,
    /// Other solutions, which must pass.
    pub alternatives: Vec<Alternative>,
    /// Faults, each of which must be caught.
    pub faults: Vec<Fault>,
    /// Reasons why something of a check is not proven by a fault, by `check` or `check field`.
    pub unproven: BTreeMap<String, String>,
}

/// How a chapter is judged where it begins.
#[derive(Debug, Clone)]
pub enum AtStart {
    /// It begins without a lab, so nothing can be told.
    NoLab,
    /// For each criterion, the check that fails.
    Fails(BTreeMap<String, String>),
}

/// Another solution.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alternative {
    /// Its name; files of `alternatives/<id>/` are put over the solution's.
    pub id: String,
    /// What it does otherwise.
    pub what: String,
    /// Changes of the solution's files.
    #[serde(default)]
    pub edit: Vec<Edit>,
    /// Programs that apply it.
    #[serde(default)]
    pub run: Vec<Step>,
    /// Programs that take it back; the solution's own run after them.
    #[serde(default)]
    pub undo: Vec<Step>,
    /// The server that is judged.
    pub serve: Option<Serve>,
}

/// A fault put into the solution.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Its name; files of `faults/<id>/` are put over the solution's.
    pub id: String,
    /// What is broken, or how the answer is faked.
    pub breaks: String,
    /// Changes of the solution's files; the solution is applied again after them.
    #[serde(default)]
    pub edit: Vec<Edit>,
    /// Programs that break it.
    #[serde(default)]
    pub run: Vec<Step>,
    /// Programs that mend it; the solution's own run after them.
    #[serde(default)]
    pub undo: Vec<Step>,
    /// The server that is judged.
    pub serve: Option<Serve>,
    /// The checks that fail: these and no others.
    pub caught_by: Vec<String>,
    /// How long they are waited for; 3 s without it. More where the cluster must come so far that the fault alone fails
    /// them.
    pub within: Option<Span>,
}

/// A change of a file's text.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The file, from the workspace.
    pub file: PathBuf,
    /// A text that occurs exactly once in it.
    pub find: String,
    /// What is put in its place.
    pub put: String,
}

impl Edit {
    /// Applies the change.
    ///
    /// # Errors
    /// The text does not occur exactly once: the fault would be another one than its author meant, or none.
    pub fn apply(&self, text: &str, fault: &str) -> Result<String> {
        let times = text.matches(&self.find).count();
        anyhow::ensure!(
            times == 1,
            "`{fault}`: `{}` occurs {times} times in {}, must occur once",
            self.find,
            self.file.display()
        );
        Ok(text.replacen(&self.find, &self.put, 1))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    at_start: Spanned<serde_json::Value>,
    #[serde(default)]
    alternatives: Vec<Spanned<Alternative>>,
    faults: Vec<Spanned<Fault>>,
    #[serde(default)]
    unproven: BTreeMap<String, String>,
}

impl Spec {
    /// Reads the selftest of a chapter.
    ///
    /// # Errors
    /// [`Code::SpecInvalid`] with its place; [`Code::SpecUnreadable`] where the chapter has none.
    pub fn of(entry: &Entry, chapter: &Chapter) -> Result<Self> {
        let file = chapter.file.with_file_name(FILE);
        let text = entry.text(FILE)?.ok_or_else(|| {
            let text = format!("chapter {} has no selftest: there is no {}", chapter.id, file.display());
            Diagnosis::new(Code::SpecUnreadable, text).error()
        })?;
        read(&text, chapter).map_err(|error| error.in_file(&file).error())
    }

    /// Returns what no fault proves and nobody gave a reason for: criteria with too few faults, checks with none.
    pub fn survivors(&self, chapter: &Chapter) -> Vec<String> {
        let mut out = Vec::new();
        for criterion in &chapter.criteria {
            let faults = self
                .faults
                .iter()
                .filter(|fault| fault.caught_by.iter().any(|check| criterion.checks.contains(check)))
                .count();
            if faults < FAULTS && !self.unproven.contains_key(&criterion.id) {
                out.push(format!(
                    "criterion {} has {faults} faults, needs {FAULTS}",
                    criterion.id
                ));
            }
        }
        for check in &chapter.checks {
            let caught = self.faults.iter().any(|fault| fault.caught_by.contains(&check.id));
            if !caught && !self.unproven.contains_key(&check.id) {
                out.push(format!("check {}: no fault trips it", check.id));
            }
        }
        out
    }
}

fn read(text: &str, chapter: &Chapter) -> Result<Spec, SpecError> {
    let raw: Raw = check_spec::read(text)?;
    let checks: Vec<String> = chapter.checks.iter().map(|check| check.id.clone()).collect();
    let known = |id: &str, place: Place| check_spec::known_at(place, "check", id, &checks);
    let sound = |what: &str, run: &[Step], undo: &[Step], place: Place| {
        let fault = run.iter().chain(undo).find_map(setup::fault);
        fault.map_or(Ok(()), |text| Err(SpecError::new(place, format!("{what}: {text}"))))
    };
    let place = Place::of(&raw.at_start);
    let at_start = match raw.at_start.value {
        serde_json::Value::String(word) if word == "no-lab" => AtStart::NoLab,
        value => {
            let map: BTreeMap<String, String> = serde_json::from_value(value)
                .context("read")
                .map_err(|_| SpecError::new(place, "`at_start` is `no-lab`, or names a check for each criterion"))?;
            for criterion in &chapter.criteria {
                let Some(check) = map.get(&criterion.id) else {
                    let text = format!(
                        "`at_start` does not say which check fails for criterion `{}`",
                        criterion.id
                    );
                    return Err(SpecError::new(place, text));
                };
                known(check, place)?;
            }
            AtStart::Fails(map)
        }
    };
    for alternative in &raw.alternatives {
        let Alternative { id, run, undo, .. } = &alternative.value;
        sound(&format!("alternative `{id}`"), run, undo, Place::of(alternative))?;
    }
    for fault in &raw.faults {
        let place = Place::of(fault);
        let id = &fault.value.id;
        if fault.value.caught_by.is_empty() {
            return Err(SpecError::new(
                place,
                format!("fault `{id}`: `caught_by` names no check"),
            ));
        }
        for check in &fault.value.caught_by {
            known(check, place)?;
        }
        sound(&format!("fault `{id}`"), &fault.value.run, &fault.value.undo, place)?;
        if raw.faults.iter().filter(|other| other.value.id == *id).count() > 1 {
            return Err(SpecError::new(place, format!("two faults have the id `{id}`")));
        }
    }
    Ok(Spec {
        at_start,
        alternatives: raw.alternatives.into_iter().map(|one| one.value).collect(),
        faults: raw.faults.into_iter().map(|one| one.value).collect(),
        unproven: raw.unproven,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_must_fit_exactly_once() {
        let edit = Edit {
            file: "a".into(),
            find: "x".into(),
            put: "y".into(),
        };
        assert_eq!(edit.apply("axb", "f").expect("once"), "ayb");
        for text in ["ab", "axbx"] {
            assert!(edit.apply(text, "f").is_err(), "{text}");
        }
    }
}
