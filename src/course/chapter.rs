//! `chapter.yaml`, typed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::setup::{Serve, Setup};
use crate::check::spec::{self, Check, Place, RawCheck, Span, SpecError, closest, names};
use crate::error::{Code, Diagnosis};

/// A chapter of the course.
#[derive(Debug, Clone)]
pub struct Chapter {
    /// Its number, two digits.
    pub id: String,
    /// Its title.
    pub title: String,
    /// What works after it, in one sentence.
    pub works_after: String,
    /// The chapters that come before it.
    pub needs: Vec<String>,
    /// How long its checks may take together when all is well.
    pub budget: Duration,
    /// Whether it begins with the lab up; without it the learner makes the lab, or needs none.
    pub lab: bool,
    /// The file of `start/` that lists the Python packages that it needs.
    pub python: Option<String>,
    /// Where in the learner's folder the course's chart is laid out, for chapters that work on it.
    pub chart: Option<PathBuf>,
    /// The learner's server that its checks talk to as `{{url}}`.
    pub serve: Option<Serve>,
    /// What brings the world to its beginning, to its solution, and back.
    pub setup: Setup,
    /// What must be so when it is done.
    pub criteria: Vec<Criterion>,
    /// The checks that judge this.
    pub checks: Vec<Check>,
    /// The file that it was read from, for messages.
    pub file: PathBuf,
}

/// Something that must be so when a chapter is done.
#[derive(Debug, Clone)]
pub struct Criterion {
    /// Its name within the chapter.
    pub id: String,
    /// What must be so, in words.
    pub text: String,
    /// The checks that judge it, all of which must pass.
    pub checks: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    id: Spanned<String>,
    title: String,
    works_after: String,
    #[serde(default)]
    needs: Vec<String>,
    budget: Span,
    #[serde(default = "yes")]
    lab: bool,
    python: Option<String>,
    chart: Option<PathBuf>,
    serve: Option<Serve>,
    setup: Option<Spanned<Setup>>,
    criteria: Spanned<Vec<RawCriterion>>,
    checks: Vec<RawCheck>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCriterion {
    id: Spanned<String>,
    text: String,
    checks: Vec<Spanned<String>>,
}

impl Chapter {
    /// Reads a chapter from the text of its file.
    ///
    /// # Errors
    /// [`crate::error::Code::SpecInvalid`] with the file, line and column.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Diagnosis> {
        read(text, file).map_err(|error| error.in_file(file))
    }

    /// Finds a check by its id.
    ///
    /// # Errors
    /// [`Code::Arguments`] with those that there are.
    pub fn check(&self, id: &str) -> anyhow::Result<&Check> {
        if let Some(found) = self.checks.iter().find(|check| check.id == id) {
            return Ok(found);
        }
        let ids = || self.checks.iter().map(|check| check.id.as_str());
        let text = format!("chapter {} has no check `{id}`", self.id);
        let mut diagnosis = Diagnosis::new(Code::Arguments, text);
        if let Some(meant) = closest(id, ids()) {
            diagnosis = diagnosis.hint(format!("did you mean `{meant}`?"));
        }
        Err(diagnosis.hint(format!("it has {}", names(ids()))).error())
    }

    /// Returns the criterion that a check belongs to: the first one that names it, with its place in the list.
    pub fn criterion_of(&self, check: &str) -> Option<(usize, &Criterion)> {
        self.criteria
            .iter()
            .enumerate()
            .find(|(_, criterion)| criterion.checks.iter().any(|id| id == check))
    }
}

fn read(text: &str, file: &Path) -> Result<Chapter, SpecError> {
    let raw: Raw = spec::read(text)?;
    let two_digits = raw.id.value.len() == 2 && raw.id.value.bytes().all(|b| b.is_ascii_digit());
    if !two_digits {
        let text = format!("`{}` is not a chapter's id: two digits in quotes", raw.id.value);
        return Err(SpecError::new(Place::of(&raw.id), text));
    }
    if raw.criteria.value.is_empty() {
        return Err(SpecError::new(
            Place::of(&raw.criteria),
            "a chapter without criteria judges nothing",
        ));
    }
    let checks = spec::checks(raw.checks)?;
    let ids: Vec<String> = checks.iter().map(|check| check.id.clone()).collect();
    let mut criteria: Vec<Criterion> = Vec::new();
    for criterion in raw.criteria.value {
        let place = Place::of(&criterion.id);
        let id = criterion.id.value;
        if criteria.iter().any(|other| other.id == id) {
            return Err(SpecError::new(place, format!("a second criterion has the id `{id}`")));
        }
        if criterion.checks.is_empty() {
            return Err(SpecError::new(place, format!("criterion `{id}`: no check judges it")));
        }
        for check in &criterion.checks {
            spec::known("check", check, &ids)?;
        }
        criteria.push(Criterion {
            id,
            text: criterion.text,
            checks: criterion.checks.into_iter().map(|check| check.value).collect(),
        });
    }
    let used = |id: &String| criteria.iter().any(|criterion| criterion.checks.contains(id));
    if let Some(check) = checks.iter().find(|check| !used(&check.id)) {
        let text = format!(
            "check `{}`: no criterion names it, so nobody would know what it is for",
            check.id
        );
        return Err(SpecError::new(check.place, text));
    }
    if let Some(setup) = &raw.setup
        && let Some(text) = setup.value.fault()
    {
        return Err(SpecError::new(Place::of(setup), text));
    }
    let uses_url = |check: &&Check| check.ask.placeholders().contains("url");
    if let (None, Some(check)) = (&raw.serve, checks.iter().find(uses_url)) {
        let text = format!("check `{}`: `{{{{url}}}}` needs the chapter's `serve`", check.id);
        return Err(SpecError::new(check.place, text));
    }
    Ok(Chapter {
        id: raw.id.value,
        title: raw.title,
        works_after: raw.works_after,
        needs: raw.needs,
        budget: raw.budget.0,
        lab: raw.lab,
        python: raw.python,
        chart: raw.chart,
        serve: raw.serve,
        setup: raw.setup.map(|setup| setup.value).unwrap_or_default(),
        criteria,
        checks,
        file: file.to_owned(),
    })
}

#[cfg(test)]
#[path = "chapter_tests.rs"]
mod tests;
