//! Spoils the spec instead of the world: each expectation of a check is taken away in turn, and what was seen in the
//! worlds in which the check must fail is judged again. Where it still fails in all of them, no fault proves that this
//! expectation is needed.

use std::collections::BTreeMap;

use super::Spec;
use crate::check::ask::Expect;
use crate::check::evidence::Evidence;
use crate::check::judge::{self, State};
use crate::course::chapter::Chapter;

/// What a check asked and saw in a world in which it must fail.
pub(super) struct Caught<'a> {
    /// What was expected, with placeholders filled.
    pub(super) expect: Expect,
    /// What was seen last.
    pub(super) evidence: &'a Evidence,
}

/// Returns the expectations that no fault proves, without those that have a written reason.
pub(super) fn survivors(chapter: &Chapter, spec: &Spec, caught: &BTreeMap<String, Vec<Caught<'_>>>) -> Vec<String> {
    let mut out = Vec::new();
    for check in &chapter.checks {
        let Some(seen) = caught.get(&check.id) else {
            continue;
        };
        let names: Vec<_> = spoilt(&check.ask.expect()).into_iter().map(|(name, _)| name).collect();
        for (i, name) in names.into_iter().enumerate() {
            let still_caught = seen.iter().all(|caught| {
                let less = spoilt(&caught.expect).into_iter().nth(i);
                less.is_some_and(|(_, less)| !matches!(judge::look(&less, caught.evidence), State::Met))
            });
            let key = format!("{} {name}", check.id);
            if still_caught && !spec.unproven.contains_key(&key) && !spec.unproven.contains_key(&check.id) {
                out.push(format!("check {}: no fault needs its `{name}`", check.id));
            }
        }
    }
    out
}

/// Returns the spec with each of its expectations taken away in turn, and what it is called.
fn spoilt(whole: &Expect) -> Vec<(String, Expect)> {
    let mut out = Vec::new();
    for i in 0..whole.fields.len() {
        let mut less = whole.clone();
        let field = less.fields.remove(i);
        // A check that asks nothing any more would be refused as a spec, so it is no spec that could be written.
        if !less.fields.is_empty() || less.condition.is_some() || less.count.is_some() {
            out.push((field.place(), less));
        }
    }
    if whole.condition.is_some() && !whole.fields.is_empty() {
        let mut less = whole.clone();
        less.condition = None;
        out.push(("condition".to_owned(), less));
    }
    out
}
