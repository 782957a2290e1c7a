//! Findings as text: for people, as JSON, as SARIF 2.1.0, and as GitHub's workflow commands.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::finding::{Finding, Report};
use super::rule::{Class, Rule, Rules, Strength};
use crate::report::human::Styles;

/// From how many weighted hits per 1,000 words on a document is called padded: no human document of the tune half of
/// benches/prose has so many.
pub const PADDED: f64 = 15.0;

/// Writes findings for people. The reason of a rule is told once.
pub fn human(reports: &[Report], s: Styles) -> String {
    let mut out = String::new();
    let mut told = HashSet::new();
    for report in reports {
        for finding in &report.findings {
            one(&mut out, report, finding, told.insert(finding.rule.id.clone()), s);
        }
        let score = &report.score;
        if score.per_1000 >= PADDED && score.cut.iter().map(|(_, count, _)| count).sum::<usize>() > 1 {
            let cut: Vec<String> = score.cut.iter().map(|(id, count, _)| format!("{count} {id}")).collect();
            _ = writeln!(
                out,
                "{}{}{}: padding weighs {:.0} per 1,000 words; to cut first: {}",
                s.bold,
                report.path.display(),
                s.reset,
                score.per_1000,
                cut.join(", ")
            );
        }
    }
    out
}

fn one(out: &mut String, report: &Report, finding: &Finding, reason: bool, s: Styles) {
    let style = match finding.rule.strength {
        Strength::Strong => s.bad,
        Strength::Medium => s.warn,
        Strength::Weak => s.dim,
    };
    _ = writeln!(
        out,
        "{}{}:{}:{}{}: {style}{}{}: {}",
        s.bold,
        report.path.display(),
        finding.start.line,
        finding.start.column,
        s.reset,
        finding.rule.id,
        s.reset,
        finding.message
    );
    if !finding.words.trim().is_empty() {
        _ = writeln!(out, "    {}|{} {}", s.dim, s.reset, finding.words);
    }
    if reason {
        _ = writeln!(out, "    {}why:{} {}", s.dim, s.reset, finding.rule.why);
    }
    let fixable = if finding.fix.is_some() {
        " (`labctl prose fix` does)"
    } else {
        ""
    };
    let fixable = if finding.instead.contains("labctl prose fix") {
        ""
    } else {
        fixable
    };
    _ = writeln!(out, "    {}do:{}  {}{fixable}", s.dim, s.reset, finding.instead);
}

/// Says in one line what came of a run.
pub fn summary(reports: &[Report], took: std::time::Duration) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let findings: usize = reports.iter().map(|report| report.findings.len()).sum();
    let fixes = reports
        .iter()
        .flat_map(|report| &report.findings)
        .filter(|finding| finding.fix.is_some())
        .count();
    let files = reports.iter().filter(|report| !report.findings.is_empty()).count();
    let words: usize = reports.iter().map(|report| report.words).sum();
    let allowed: usize = reports.iter().map(|report| report.allowed).sum();
    let mut text = if findings == 0 {
        "no findings".to_owned()
    } else {
        format!("{} in {}", count(findings, "finding"), count(files, "file"))
    };
    if fixes > 0 {
        _ = write!(text, ", of which `labctl prose fix` mends {fixes}");
    }
    if allowed > 0 {
        _ = write!(text, "; {} allowed with a reason", count(allowed, "finding"));
    }
    let read = reports.iter().filter(|report| report.skipped.is_none()).count();
    _ = write!(
        text,
        "; read {}, {} of prose, in {} ms",
        count(read, "file"),
        count(words, "word"),
        took.as_millis()
    );
    text
}

/// Writes findings as one JSON document.
pub fn json(reports: &[Report]) -> Value {
    let files: Vec<Value> = reports
        .iter()
        .filter(|report| !report.findings.is_empty() || report.skipped.is_some())
        .map(|report| {
            json!({
                "path": report.path,
                "words": report.words,
                "allowed": report.allowed,
                "skipped": report.skipped,
                "padding_per_1000_words": (report.score.per_1000 * 10.0).round() / 10.0,
                "cut": report.score.cut.iter().map(|(id, count, weight)| json!({"rule": id, "count": count, "weight": weight})).collect::<Vec<_>>(),
                "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "v": crate::report::json::FORMAT,
        "read": reports.iter().filter(|report| report.skipped.is_none()).count(),
        "words": reports.iter().map(|report| report.words).sum::<usize>(),
        "findings": reports.iter().map(|report| report.findings.len()).sum::<usize>(),
        "files": files,
    })
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "rule": finding.rule.id,
        "class": finding.rule.class,
        "strength": finding.rule.strength,
        "line": finding.start.line,
        "column": finding.start.column,
        "end_line": finding.end.line,
        "end_column": finding.end.column,
        "bytes": [finding.span.start, finding.span.end],
        "words": finding.words,
        "message": finding.message,
        "why": finding.rule.why,
        "instead": finding.instead,
        "fix": finding.fix.as_ref().map(|fix| json!({"bytes": [fix.span.start, fix.span.end], "with": fix.with})),
    })
}

/// Writes findings as SARIF 2.1.0, which code hosts and editors read.
pub fn sarif(reports: &[Report], rules: &Rules) -> Value {
    let level = |strength| match strength {
        Strength::Strong => "error",
        Strength::Medium => "warning",
        Strength::Weak => "note",
    };
    let known: Vec<Value> = rules
        .all()
        .iter()
        .map(|rule| {
            json!({
                "id": rule.id,
                "shortDescription": {"text": rule.message},
                "fullDescription": {"text": rule.why},
                "help": {"text": rule.instead},
                "defaultConfiguration": {"level": level(rule.strength)},
                "properties": {"tags": [rule.class.name()]},
            })
        })
        .collect();
    let index = |rule: &Rule| rules.all().iter().position(|known| known.id == rule.id);
    let mut results = Vec::new();
    for report in reports {
        let uri = uri(&report.path.to_string_lossy());
        for finding in &report.findings {
            let region = json!({
                "startLine": finding.start.line,
                "startColumn": finding.start.column,
                "endLine": finding.end.line,
                "endColumn": finding.end.column,
            });
            let mut result = json!({
                "ruleId": finding.rule.id,
                "ruleIndex": index(&finding.rule),
                "level": level(finding.rule.strength),
                "message": {"text": format!("{}. Instead: {}.", finding.message, finding.instead)},
                "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}}],
            });
            if let Some(fix) = &finding.fix {
                result["fixes"] = json!([{
                    "description": {"text": finding.instead},
                    "artifactChanges": [{
                        "artifactLocation": {"uri": uri},
                        "replacements": [{
                            "deletedRegion": {"byteOffset": fix.span.start, "byteLength": fix.span.len()},
                            "insertedContent": {"text": fix.with},
                        }],
                    }],
                }]);
            }
            results.push(result);
        }
    }
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "labctl prose",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": known,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

/// Writes a path as a URI.
pub(super) fn uri(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Writes findings as workflow commands, which GitHub shows beside the lines of a pull request.
pub fn github(reports: &[Report]) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let mut out = String::new();
    for report in reports {
        for finding in &report.findings {
            let command = match finding.rule.strength {
                Strength::Strong => "error",
                Strength::Medium => "warning",
                Strength::Weak => "notice",
            };
            _ = writeln!(
                out,
                "::{command} file={},line={},endLine={},col={},title={}::{}",
                property(&report.path.to_string_lossy()),
                finding.start.line,
                finding.end.line,
                finding.start.column,
                property(&format!("prose: {}", finding.rule.id)),
                data(&format!("{}. Instead: {}", finding.message, finding.instead)),
            );
        }
    }
    out
}

/// Writes a table of rules.
pub fn rules(rules: &Rules, off: &[String], s: Styles) -> String {
    let mut out = String::new();
    let widest = rules.all().iter().map(|rule| rule.id.len()).max().unwrap_or(0);
    for class in Class::ALL {
        _ = writeln!(out, "{}{}{}", s.bold, class.name(), s.reset);
        for rule in rules.all().iter().filter(|rule| rule.class == class) {
            let state = if off.contains(&rule.id) { " (off)" } else { "" };
            _ = writeln!(
                out,
                "  {:<widest$}  {}{:<6}{}  {}{state}",
                rule.id,
                s.dim,
                rule.strength.name(),
                s.reset,
                rule.message
            );
        }
    }
    out
}

/// Writes all that there is to say about a rule.
pub fn explain(rule: &Rule, s: Styles) -> String {
    let mut out = String::new();
    _ = writeln!(
        out,
        "{}{}{} ({}, {})",
        s.bold,
        rule.id,
        s.reset,
        rule.class.name(),
        rule.strength.name()
    );
    _ = writeln!(out, "  {}", rule.message);
    _ = writeln!(out, "  why: {}", rule.why);
    _ = writeln!(out, "  do:  {}", rule.instead);
    let mut examples = |title: &str, texts: &[String]| {
        if texts.is_empty() {
            return;
        }
        _ = writeln!(out, "\n  {title}:");
        for text in texts {
            for (number, line) in text.trim_end_matches('\n').lines().enumerate() {
                let mark = if number == 0 { "-" } else { " " };
                _ = writeln!(out, "    {mark} {line}");
            }
        }
    };
    examples("found in", &rule.bad);
    examples("not found in", &rule.good);
    if !rule.patterns.is_empty() {
        _ = writeln!(out, "\n  looks for:");
        for pattern in &rule.patterns {
            _ = writeln!(out, "    {pattern}");
        }
    }
    _ = writeln!(
        out,
        "\n  An exception, with its reason:\n    <!-- labctl-prose: allow {} because ... -->",
        rule.id
    );
    out
}
