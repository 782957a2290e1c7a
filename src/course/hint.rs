//! Help for one who is stuck: three rungs for each check, a nudge, a pointer and the answer, with what the last
//! judgement saw.

use std::collections::BTreeMap;

use anyhow::Result;

use super::chapter::Chapter;
use super::last::Last;
use super::progress::{Happened, Progress};
use crate::check::ask;
use crate::check::spec::Check;
use crate::error::{Code, Diagnosis};

/// A hint, ready to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The check that it is about.
    pub check: String,
    /// Its rung, counted from 1.
    pub rung: usize,
    /// How many rungs there are.
    pub of: usize,
    /// What it says, a line an entry.
    pub lines: Vec<String>,
}

/// Chooses the next hint: on a check that is named, or on the first that failed last time.
///
/// # Errors
/// There is no such check, nothing failed, or the check has no hint.
pub fn next(chapter: &Chapter, last: &[Last], check: Option<&str>, progress: Option<&mut Progress>) -> Result<Hint> {
    let check = choose(chapter, last, check)?;
    let seen = last.iter().find(|last| last.check == check.id);
    let mut lines = Vec::new();
    if let Some(so) = seen.and_then(|seen| seen.so.as_ref()) {
        lines.push(so.clone());
    }
    let mut rung = 1;
    if check.hints.is_empty() {
        let read = check
            .read
            .as_ref()
            .map_or_else(|| "the chapter's text".to_owned(), Clone::clone);
        lines.push(format!("read {read}"));
    } else {
        if let Some(progress) = progress {
            rung = (progress.hints(&chapter.id, &check.id) + 1).min(check.hints.len());
            progress.add(&chapter.id, Happened::Hint(check.id.clone(), rung))?;
        }
        lines.extend(fill(&check.hints[rung - 1], seen).lines().map(str::to_owned));
    }
    Ok(Hint {
        check: check.id.clone(),
        rung,
        of: check.hints.len().max(1),
        lines,
    })
}

fn choose<'c>(chapter: &'c Chapter, last: &[Last], check: Option<&str>) -> Result<&'c Check> {
    if let Some(id) = check {
        return chapter.check(id);
    }
    let failed = |check: &&Check| {
        last.iter()
            .any(|last| last.check == check.id && (last.verdict == "fail" || last.verdict == "error"))
    };
    chapter.checks.iter().find(failed).ok_or_else(|| {
        let text = if last.is_empty() {
            format!(
                "chapter {} was not judged yet, so nobody knows where you are stuck",
                chapter.id
            )
        } else {
            format!("nothing failed when chapter {} was last judged", chapter.id)
        };
        Diagnosis::new(Code::Arguments, text)
            .hint(format!("labctl chapter {} verify", chapter.id))
            .hint(format!(
                "labctl chapter {} hint CHECK gives a hint on one check",
                chapter.id
            ))
            .error()
    })
}

/// Fills in what was seen; a hint on something that was never judged speaks in general.
fn fill(text: &str, seen: Option<&Last>) -> String {
    let mut values = BTreeMap::new();
    for (name, value) in [
        ("at", seen.and_then(|seen| seen.at.clone())),
        ("expected", seen.and_then(|seen| seen.expected.clone())),
        ("actual", seen.and_then(|seen| seen.actual.clone())),
    ] {
        let value = value.unwrap_or_else(|| format!("(run verify to see what is {name})"));
        values.insert(name.to_owned(), value);
    }
    ask::fill(text, &values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn chapter() -> Chapter {
        let text = r#"
id: "00"
title: t
works_after: w
budget: 1s
criteria: [{id: c, text: t, checks: [a, b]}]
checks:
  - id: a
    exec: {run: [true], expect: {exit: 0}}
  - id: b
    exec: {run: [true], expect: {exit: 0}}
    hints: [look at {{at}}, "it is {{actual}}, not {{expected}}", do this]
"#;
        let text = text
            .replace("[look at {{at}}", "[\"look at {{at}}\"")
            .replace("run: [true]", "run: [\"true\"]");
        Chapter::parse(&text, Path::new("x")).unwrap_or_else(|error| panic!("{}", crate::error::render(&error.error())))
    }

    fn last(check: &str, verdict: &str) -> Last {
        Last {
            check: check.into(),
            verdict: verdict.into(),
            asked: String::new(),
            at: Some("status".into()),
            expected: Some("200".into()),
            actual: Some("404".into()),
            so: Some("the cause".into()),
            history: crate::check::evidence::History::default(),
        }
    }

    #[test]
    fn rungs_are_climbed_and_the_last_stays() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut progress = Progress::read(dir.path()).expect("new");
        let seen = [last("a", "pass"), last("b", "fail")];
        let mut texts = Vec::new();
        for _ in 0..4 {
            let hint = next(&chapter(), &seen, None, Some(&mut progress)).expect("a hint");
            assert_eq!((hint.check.as_str(), hint.of), ("b", 3));
            assert_eq!(hint.lines[0], "the cause");
            texts.push(hint.lines[1].clone());
        }
        assert_eq!(texts, ["look at status", "it is 404, not 200", "do this", "do this"]);
    }

    #[test]
    fn without_a_failure_there_is_nothing_to_hint_at() {
        for seen in [vec![], vec![last("b", "pass")]] {
            let error = next(&chapter(), &seen, None, None).expect_err("nothing failed");
            assert_eq!(crate::error::exit_of(&error).code(), 2);
        }
        let error = next(&chapter(), &[], Some("bb"), None).expect_err("unknown");
        assert!(crate::error::render(&error).contains("it has `a`, `b`"));
        let hint = next(&chapter(), &[], Some("b"), None).expect("in general");
        assert_eq!(hint.lines, ["look at (run verify to see what is at)"]);
    }
}
