//! Says what a chapter or one of its checks asks, as a person would ask it, before anything is judged.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;

use super::chapter::Chapter;
use super::last::Last;
use crate::check::ask::Quantifier;
use crate::check::spec::{Check, Time, names};

/// Returns what a chapter is judged by: its criteria, and the checks of each.
pub fn chapter(chapter: &Chapter) -> String {
    let mut out = format!("{} {}\n{}\n", chapter.id, chapter.title, chapter.works_after);
    for (i, criterion) in chapter.criteria.iter().enumerate() {
        _ = writeln!(out, "\n{}. {}", i + 1, criterion.text);
        for id in &criterion.checks {
            if let Some(check) = chapter.checks.iter().find(|check| check.id == *id) {
                _ = writeln!(out, "   {id}: {}", check.ask.asked());
            }
        }
    }
    out
}

/// Returns what one check asks, when it must hold, what it needs, and what was seen last.
///
/// # Errors
/// There is no such check.
pub fn check(chapter: &Chapter, id: &str, last: &[Last]) -> Result<String> {
    let check = chapter.check(id)?;
    let mut out = format!("{}/{id}\n", chapter.id);
    let mut line = |name: &str, text: &str| _ = writeln!(out, "  {name:<9} {text}");
    if let Some((i, criterion)) = chapter.criterion_of(id) {
        line("for", &format!("criterion {}: {}", i + 1, criterion.text));
    }
    let seen = last.iter().find(|last| last.check == id);
    line(
        "asks",
        &seen.map_or_else(|| check.ask.asked(), |seen| seen.asked.clone()),
    );
    for text in expected(check) {
        line("expects", &text);
    }
    line("when", &when(&check.time));
    if !check.needs.is_empty() {
        line("needs", &names(check.needs.iter().map(String::as_str)));
    }
    if let Some(seen) = seen {
        let actual = seen
            .actual
            .as_ref()
            .map(|actual| format!(": {actual}"))
            .unwrap_or_default();
        line("last", &format!("{}{actual}", seen.verdict));
    }
    if let Some(read) = &check.read {
        line("read", read);
    }
    line("run", &format!("labctl chapter {} verify --only {id}", chapter.id));
    Ok(out)
}

fn expected(check: &Check) -> Vec<String> {
    let expect = check.ask.expect();
    let mut out = Vec::new();
    if let Some(count) = &expect.count {
        out.push(format!("the number of {} is {count}", expect.subject));
    }
    let who = match (expect.quantifier, &expect.each) {
        (Quantifier::All, None) if expect.subject.starts_with('a') => String::new(),
        (Quantifier::All, _) => format!(" of every {}", expect.subject),
        (Quantifier::Any, _) => format!(" of at least one {}", expect.subject),
        (Quantifier::Exactly(n), _) => format!(" of exactly {n} {}", expect.subject),
        (Quantifier::None, _) => format!(" of no {}", expect.subject),
    };
    if let Some(condition) = &expect.condition {
        out.push(format!("condition {}={}{who}", condition.kind, condition.status));
    }
    out.extend(
        expect
            .fields
            .iter()
            .map(|field| format!("{} {}{who}", field.place(), field.matcher)),
    );
    out
}

fn when(time: &Time) -> String {
    let text = |time: &Duration| format!("{}s", time.as_secs_f32());
    match time {
        Time::Once => "now".to_owned(),
        Time::Eventually { within, stable_for } if stable_for.is_zero() => {
            format!("at some time within {}", text(within))
        }
        Time::Eventually { within, stable_for } => {
            format!(
                "at some time within {}, and then for {}",
                text(within),
                text(stable_for)
            )
        }
        Time::Always { lasting } => format!("all the time, for {}", text(lasting)),
        Time::Never { lasting, after } => format!("at no time for {}, after `{after}` passed", text(lasting)),
    }
}
