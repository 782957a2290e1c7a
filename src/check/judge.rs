//! Judging: a pure function of what is expected and what was seen.
//!
//! Nothing here looks at the world, so recorded evidence can be judged again, by this spec or by a changed one.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::ask::{Condition, Expect, Field, Quantifier};
use super::evidence::{Candidate, Evidence, History, Sample, Seen};
use super::spec::{Check, Rule, Time};

/// How long a check that is decided at once waits for a controller that has not looked at a new spec yet. What it sees
/// until then is no evidence for either side: an object was changed a moment ago, and its status is that of before.
pub const CATCH_UP: Duration = Duration::from_secs(10);

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// What is asked holds.
    Pass,
    /// It does not.
    Fail,
    /// Nobody can tell.
    Error,
    /// It was not tried, as a check that it needs did not pass.
    Skip,
}

impl Verdict {
    /// Returns the word that events carry.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Error => "error",
            Self::Skip => "skip",
        }
    }
}

/// A verdict with its reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
}

/// Why a verdict is what it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// What was asked held.
    Held,
    /// Something is not as expected.
    Unmet {
        /// What.
        finding: Finding,
        /// What it means, where an author foresaw it.
        cause: Option<String>,
    },
    /// Waiting was ended by a rule of `abort_if`.
    Aborted {
        /// What is not as expected.
        finding: Finding,
        /// What the rule says.
        cause: String,
    },
    /// Nothing could be seen.
    Blind {
        /// Why.
        why: String,
    },
    /// A needed check did not pass.
    Skipped {
        /// The check, and what it came to.
        because: String,
    },
}

impl Reason {
    /// Returns a stable word for the reason.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Unmet { .. } => "unmet",
            Self::Aborted { .. } => "aborted",
            Self::Blind { .. } => "blind",
            Self::Skipped { .. } => "skipped",
        }
    }
}

/// One thing that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where: a candidate and an address within it.
    pub at: String,
    /// What was expected there.
    pub expected: String,
    /// What is there.
    pub actual: String,
}

/// What one look says.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// What is asked holds.
    Met,
    /// It does not.
    Unmet(Finding),
    /// Nothing can be said.
    Blind(String),
}

/// What to do after a look.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Look again.
    Again,
    /// It is decided.
    Done(Judgement),
}

/// Judges one look.
pub fn look(expect: &Expect, evidence: &Evidence) -> State {
    let seen = match evidence {
        Evidence::Blind { why } => return State::Blind(why.clone()),
        Evidence::Seen(seen) => seen,
    };
    // Freshness and conditions are of whole objects, `each` part is judged by its fields only.
    if expect.each.is_some() {
        for candidate in &seen.candidates {
            if let Some(finding) = stale(expect.fresh, &candidate.value) {
                return State::Unmet(of(candidate, finding));
            }
        }
    }
    let candidates = parts(expect, seen);
    if let Some(count) = &expect.count {
        let n = candidates.len();
        if !count.accepts(Some(&Value::from(n))) {
            return State::Unmet(Finding {
                at: format!("the number of {}", expect.subject),
                expected: count.to_string(),
                actual: none_or(n, seen),
            });
        }
        if expect.fields.is_empty() && expect.condition.is_none() {
            return State::Met;
        }
    }
    if candidates.is_empty() {
        return State::Unmet(Finding {
            at: expect.subject.clone(),
            expected: "at least one".into(),
            actual: none_or(0, seen),
        });
    }
    quantify(expect, &candidates)
}

fn none_or(n: usize, seen: &Seen) -> String {
    let number = if n == 0 { "none".to_owned() } else { n.to_string() };
    match &seen.note {
        Some(note) => format!("{number}: {note}"),
        None => number,
    }
}

fn parts(expect: &Expect, seen: &Seen) -> Vec<Candidate> {
    let Some(each) = &expect.each else {
        return seen.candidates.clone();
    };
    seen.candidates
        .iter()
        .flat_map(|candidate| {
            each.find(&candidate.value).into_iter().map(|(place, value)| Candidate {
                name: match value.get("name").and_then(Value::as_str) {
                    Some(name) => format!("{} {place} (`{name}`)", candidate.name),
                    None => format!("{} {place}", candidate.name),
                },
                value: value.clone(),
            })
        })
        .collect()
}

fn quantify(expect: &Expect, candidates: &[Candidate]) -> State {
    let findings: Vec<_> = candidates
        .iter()
        .map(|candidate| (candidate, judge_one(expect, candidate)))
        .collect();
    let total = findings.len();
    let met = findings.iter().filter(|(_, finding)| finding.is_none()).count();
    let nearest = || {
        let (candidate, finding) = findings.iter().find(|(_, finding)| finding.is_some())?;
        Some(of(candidate, finding.clone()?))
    };
    let counted = |wanted: &str| Finding {
        at: expect.subject.clone(),
        expected: format!("{wanted} of them as asked"),
        actual: format!("{met} of {total}"),
    };
    let holds = match expect.quantifier {
        Quantifier::All => met == total,
        Quantifier::Any => met > 0,
        Quantifier::Exactly(n) => met == n,
        Quantifier::None => met == 0,
    };
    if holds {
        return State::Met;
    }
    State::Unmet(match expect.quantifier {
        Quantifier::All | Quantifier::Any => {
            let mut finding = nearest().unwrap_or_else(|| counted("all"));
            if total > 1 {
                finding.actual = format!("{} ({met} of {total} are as asked)", finding.actual);
            }
            finding
        }
        Quantifier::Exactly(n) => counted(&format!("exactly {n}")),
        Quantifier::None => counted("none"),
    })
}

fn of(candidate: &Candidate, finding: Finding) -> Finding {
    Finding {
        at: if candidate.name.is_empty() {
            finding.at
        } else {
            format!("{} {}", candidate.name, finding.at)
        },
        ..finding
    }
}

fn judge_one(expect: &Expect, candidate: &Candidate) -> Option<Finding> {
    let value = &candidate.value;
    if expect.each.is_none()
        && let Some(finding) = stale(expect.fresh, value)
    {
        return Some(finding);
    }
    if let Some(condition) = &expect.condition
        && let Some(finding) = without_condition(condition, value)
    {
        return Some(finding);
    }
    expect.fields.iter().find_map(|field| mismatch(field, value))
}

/// Finds out whether an object's status is of an older spec, or the object is on its way out.
fn stale(fresh: Option<bool>, object: &Value) -> Option<Finding> {
    if fresh == Some(false) {
        return None;
    }
    if let Some(since) = object.pointer("/metadata/deletionTimestamp") {
        return Some(Finding {
            at: "$.metadata.deletionTimestamp".into(),
            expected: "nothing".into(),
            actual: format!("{since}: it is being deleted"),
        });
    }
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64)?;
    let at = "$.status.observedGeneration".to_owned();
    let expected = format!(">= {generation}, the generation of the spec");
    match object.pointer("/status/observedGeneration").and_then(Value::as_i64) {
        Some(observed) if observed >= generation => None,
        Some(observed) => Some(Finding {
            at,
            expected,
            actual: format!("{observed}: the status is of an older spec"),
        }),
        None if fresh == Some(true) => Some(Finding {
            at,
            expected,
            actual: "nothing: no controller has looked at the spec yet".into(),
        }),
        None => None,
    }
}

/// Finds out whether an object's status is of an older spec, which a controller is about to change.
fn lags(expect: &Expect, evidence: &Evidence) -> bool {
    let Evidence::Seen(seen) = evidence else {
        return false;
    };
    expect.fresh != Some(false)
        && seen.candidates.iter().any(|candidate| {
            let number = |place| candidate.value.pointer(place).and_then(Value::as_i64);
            number("/status/observedGeneration")
                .zip(number("/metadata/generation"))
                .is_some_and(|(observed, generation)| observed < generation)
        })
}

fn without_condition(wanted: &Condition, object: &Value) -> Option<Finding> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == wanted.kind.as_str());
    let finding = |actual: String| {
        Some(Finding {
            at: format!("condition {}", wanted.kind),
            expected: wanted.status.clone(),
            actual,
        })
    };
    let Some(found) = found else {
        let has: Vec<_> = conditions
            .into_iter()
            .flatten()
            .filter_map(|condition| condition["type"].as_str())
            .collect();
        return finding(if has.is_empty() {
            "no conditions at all".into()
        } else {
            format!("no such condition; there are {}", has.join(", "))
        });
    };
    if found["status"] == wanted.status.as_str() {
        return None;
    }
    let mut actual = found["status"].as_str().unwrap_or("no status").to_owned();
    for key in ["reason", "message"] {
        if let Some(text) = found[key].as_str().filter(|text| !text.is_empty()) {
            actual = format!("{actual}, {text}");
        }
    }
    finding(actual)
}

fn mismatch(field: &Field, value: &Value) -> Option<Finding> {
    let finding = |at: String, actual: String| {
        Some(Finding {
            at,
            expected: field.matcher.to_string(),
            actual,
        })
    };
    let base = if field.root.is_empty() {
        Some(value)
    } else {
        value.get(&field.root)
    };
    let found = base.map(|base| field.path.find(base)).unwrap_or_default();
    if found.is_empty() {
        if field.matcher.accepts(None) {
            return None;
        }
        return finding(field.place(), absent(field, value));
    }
    let (place, wrong) = found
        .into_iter()
        .find(|(_, value)| !field.matcher.accepts(Some(value)))?;
    let at = match (field.root.as_str(), field.path.as_str()) {
        (root, "$") if !root.is_empty() => root.to_owned(),
        ("", _) => place,
        (root, _) => format!("{root} {place}"),
    };
    let mut actual = wrong.to_string();
    // A program that failed says why on standard error, most often in its last line.
    if field.root == "exit"
        && let Some(said) = value.get("stderr").and_then(Value::as_str)
        && let Some(last) = said.lines().rev().find(|line| !line.trim().is_empty())
    {
        actual = format!("{actual}: {}", last.trim());
    }
    finding(at, actual)
}

fn absent(field: &Field, value: &Value) -> String {
    if field.root == "json" && value.get("json").is_none() {
        let text = ["body", "stdout"]
            .iter()
            .find_map(|name| value.get(*name).and_then(Value::as_str));
        return format!(
            "no JSON but {}",
            text.map_or_else(|| "nothing".into(), |text| format!("{text:?}"))
        );
    }
    "nothing there".into()
}

/// Judges everything that was seen so far, `now_ms` milliseconds after the check began.
///
/// Called after every look; the last sample is the look that was just made.
pub fn history(check: &Check, expect: &Expect, history: &History, now_ms: u64) -> Next {
    let Some(last) = history.0.last() else {
        return Next::Again;
    };
    let state = look(expect, &last.evidence);
    if let (State::Unmet(finding), Some(cause)) = (&state, cause(&check.abort_if, &last.evidence)) {
        return done(
            Verdict::Fail,
            Reason::Aborted {
                finding: finding.clone(),
                cause,
            },
        );
    }
    let unmet = |finding: Finding, evidence: &Evidence| {
        done(
            Verdict::Fail,
            Reason::Unmet {
                finding,
                cause: cause(&check.because, evidence),
            },
        )
    };
    let held = || done(Verdict::Pass, Reason::Held);
    match &check.time {
        Time::Once => match state {
            State::Met => held(),
            State::Unmet(_) if now_ms < millis(CATCH_UP) && lags(expect, &last.evidence) => Next::Again,
            State::Unmet(finding) => unmet(finding, &last.evidence),
            State::Blind(why) => blind(why),
        },
        Time::Eventually { within, stable_for } => {
            let steady = steady_ms(expect, &history.0);
            if steady.is_some_and(|ms| ms >= millis(*stable_for)) {
                return held();
            }
            if now_ms < millis(*within) {
                return Next::Again;
            }
            match state {
                State::Met => unmet(
                    Finding {
                        at: "time".into(),
                        expected: format!("to hold for {}ms without a break", millis(*stable_for)),
                        actual: format!("held for the last {}ms only", steady.unwrap_or_default()),
                    },
                    &last.evidence,
                ),
                State::Unmet(finding) => unmet(finding, &last.evidence),
                State::Blind(why) => blind(why),
            }
        }
        Time::Always { lasting } => match state {
            State::Met if now_ms >= millis(*lasting) => held(),
            State::Met => Next::Again,
            State::Unmet(finding) => unmet(finding, &last.evidence),
            State::Blind(why) => blind(why),
        },
        Time::Never { lasting, .. } => match state {
            State::Met => unmet(
                Finding {
                    at: expect.subject.clone(),
                    expected: "never as described".into(),
                    actual: format!("seen {now_ms}ms after the start"),
                },
                &last.evidence,
            ),
            State::Unmet(_) if now_ms >= millis(*lasting) => held(),
            State::Unmet(_) => Next::Again,
            State::Blind(why) => blind(why),
        },
    }
}

/// Returns for how long everything seen at the end, without a break, was as asked; nothing if the last look was not.
fn steady_ms(expect: &Expect, samples: &[Sample]) -> Option<u64> {
    let until = samples.last()?.until_ms;
    let since = samples
        .iter()
        .rev()
        .take_while(|sample| look(expect, &sample.evidence) == State::Met)
        .last()?
        .at_ms;
    Some(until - since)
}

/// Returns what the first rule says that fits what was seen.
pub fn cause(rules: &[Rule], evidence: &Evidence) -> Option<String> {
    let Evidence::Seen(seen) = evidence else {
        return None;
    };
    rules
        .iter()
        .find(|rule| {
            let counted = rule
                .when
                .candidates
                .as_ref()
                .is_none_or(|count| count.accepts(Some(&Value::from(seen.candidates.len()))));
            let found = rule.when.fields.as_ref().is_none_or(|fields| {
                seen.candidates.iter().any(|candidate| {
                    fields.0.iter().all(|(path, matcher)| {
                        let values = path.find(&candidate.value);
                        if values.is_empty() {
                            matcher.accepts(None)
                        } else {
                            values.iter().any(|(_, value)| matcher.accepts(Some(value)))
                        }
                    })
                })
            });
            counted && found
        })
        .map(|rule| rule.say.clone())
}

fn done(verdict: Verdict, reason: Reason) -> Next {
    Next::Done(Judgement { verdict, reason })
}

fn blind(why: String) -> Next {
    done(Verdict::Error, Reason::Blind { why })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
