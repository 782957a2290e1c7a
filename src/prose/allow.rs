//! Inline exceptions: `<!-- labctl-prose: allow RULE because REASON -->`, in the comments of any language.
//!
//! It holds for what comes next: the paragraph, list, table, code block or heading behind the comment, or the one in
//! which the comment stands; in a program, for the comment it stands in and the line below. `allow-file` holds for the
//! whole file. An exception without a reason, for an unknown rule, or that takes nothing away is a finding itself.

use std::ops::Range;

use super::finding::{Finding, Said, Sink};
use super::rule::Rules;
use super::span::Document;
use super::toml_file::unknown;

const MARK: &str = "labctl-prose:";

/// One exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Allow {
    rules: Vec<String>,
    reason: String,
    /// Where it is written.
    at: Range<usize>,
    /// Where findings are allowed.
    scope: Range<usize>,
    /// What is wrong with the form, if something is.
    malformed: Option<String>,
}

/// Reads the exceptions of a document.
pub(super) fn read(document: &Document<'_>) -> Vec<Allow> {
    let mut out = Vec::new();
    let mut parts = 0;
    for comment in &document.comments {
        let body = &document.text[comment.clone()];
        let mut from = 0;
        while let Some(found) = body[from..].find(MARK) {
            let start = from + found;
            let rest = &body[start + MARK.len()..];
            let end = if document.language.is_markdown() {
                rest.find("-->").unwrap_or(rest.len())
            } else {
                rest.find('\n').unwrap_or(rest.len())
            };
            from = start + MARK.len() + end;
            let at = comment.start + start..comment.start + from;
            let at = at.start..at.start + document.text[at.clone()].trim_end().len();
            // A document that explains the form quotes it; a comment that uses it begins with it.
            let leads = body[..start]
                .trim_start_matches(['<', '!', '-', '/', '#', '*', ' ', '\t', '\r', '\n'])
                .is_empty()
                || !document.language.is_markdown() && starts_line(body, start);
            if leads {
                while document.parts.get(parts).is_some_and(|part| part.end <= comment.start) {
                    parts += 1;
                }
                out.push(parse(&rest[..end], at, comment, document, parts));
            }
        }
    }
    out
}

fn starts_line(body: &str, at: usize) -> bool {
    let line = body[..at].rsplit('\n').next().unwrap_or_default();
    line.trim_matches([' ', '\t', '/', '#', '!', '*']).is_empty()
}

fn parse(text: &str, at: Range<usize>, comment: &Range<usize>, document: &Document<'_>, part: usize) -> Allow {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
    let (names, reason) = match rest.split_once(" because") {
        Some((names, reason)) => (names, reason.trim_start_matches(':').trim()),
        None => (rest, ""),
    };
    let rules: Vec<String> = names
        .split([',', ' '])
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    let whole = verb == "allow-file";
    let malformed = if !whole && verb != "allow" {
        Some(unknown("word", verb, &["allow", "allow-file"]))
    } else if rules.is_empty() {
        Some("it names no rule".to_owned())
    } else {
        None
    };
    let scope = if whole {
        0..document.text.len()
    } else {
        scope(comment, document, part)
    };
    Allow {
        rules,
        reason: reason.to_owned(),
        at,
        scope,
        malformed,
    }
}

fn scope(comment: &Range<usize>, document: &Document<'_>, part: usize) -> Range<usize> {
    if !document.language.is_markdown() {
        let below = document.place(comment.end).line + 1;
        return comment.start..document.line(below).end.max(comment.end);
    }
    // `part` is the first one that does not end before the comment: it holds the comment, or is the comment.
    let mut next = document.parts[part.min(document.parts.len())..].iter();
    let own = next.find(|part| part.end > comment.start);
    match own {
        Some(own) if !document.text[own.clone()].trim_start().starts_with("<!--") => own.clone(),
        _ => {
            let is_comment = |part: &&Range<usize>| document.text[(*part).clone()].trim_start().starts_with("<!--");
            let behind = next.find(|part| !is_comment(part));
            comment.start..behind.map_or(comment.end, |part| part.end)
        }
    }
}

/// Takes the allowed findings away and adds those about the exceptions themselves; returns how many were taken.
pub(super) fn apply(
    allows: &[Allow],
    findings: Vec<Finding>,
    rules: &Rules,
    ran: &dyn Fn(&str) -> bool,
    document: &Document<'_>,
) -> (Vec<Finding>, usize) {
    if allows.is_empty() {
        return (findings, 0);
    }
    let mut used = vec![Vec::new(); allows.len()];
    let before = findings.len();
    let mut kept: Vec<Finding> = Vec::with_capacity(before);
    for finding in findings {
        let mut taken = false;
        for (allow, used) in allows.iter().zip(&mut used) {
            let names = allow.rules.contains(&finding.rule.id);
            let covers = allow.scope.start <= finding.span.start
                && finding.span.start < allow.scope.end.max(allow.scope.start + 1);
            if names && covers && allow.malformed.is_none() && !allow.reason.is_empty() {
                used.push(finding.rule.id.clone());
                taken = true;
            }
        }
        if !taken {
            kept.push(finding);
        }
    }
    let taken = before - kept.len();
    let mut sink = Sink::new(document);
    for (allow, used) in allows.iter().zip(&used) {
        let mut say = |id: &str, text: String| {
            if ran(id)
                && let Some(rule) = rules.find(id)
            {
                sink.add(rule, allow.at.clone(), Said::message(text));
            }
        };
        if let Some(wrong) = &allow.malformed {
            say("allow-form", format!("this exception cannot be read: {wrong}"));
            continue;
        }
        if allow.reason.is_empty() {
            say(
                "allow-form",
                "this exception gives no reason, so it has no effect".to_owned(),
            );
        }
        for name in &allow.rules {
            if rules.find(name).is_none() {
                let known: Vec<&str> = rules.all().iter().map(|rule| rule.id.as_str()).collect();
                say("allow-form", unknown("rule", name, &known));
            } else if !allow.reason.is_empty() && ran(name) && !used.contains(name) {
                say("allow-unused", format!("nothing here breaks `{name}` any more"));
            }
        }
    }
    kept.extend(sink.finish());
    kept.sort_by_key(|finding| finding.span.start);
    (kept, taken)
}
