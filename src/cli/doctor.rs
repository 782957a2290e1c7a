//! `labctl doctor`.

use std::fmt::Write as _;
use std::io::IsTerminal;

use anyhow::Result;
use serde_json::json;

use super::Outcome;
use crate::config;
use crate::drive::machine::{Facts, Os};
use crate::error::{Exit, render};
use crate::lab::doctor::{look, repair};
use crate::lab::machine::{Finding, Fix, Severity, Wants, check, worst};
use crate::report::human::Styles;
use crate::world::World;

/// Where the text of a finding begins: after its severity and its topic.
const INDENT: usize = 26;
/// How wide the report is where the terminal does not say.
const WIDTH: usize = 80;

/// Look for what would stop the lab or slow it down, and say how to set it right
#[derive(Debug, clap::Args)]
#[command(after_help = "Exits with 0 where nothing stops the lab, with 3 where a problem does.")]
pub struct Args {
    /// Set right what labctl can set right, then look again
    #[arg(long)]
    fix: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// The lab's own files cannot be read. What is wrong with the machine is a finding, not an error.
    pub async fn run(self, world: &World) -> Result<Outcome> {
        let wants = Wants::new(world.settings().lab.as_str());
        let mut facts = look(world).await?;
        let mut findings = check(&facts, &wants);
        if self.fix && mend(world, &findings).await {
            facts = look(world).await?;
            findings = check(&facts, &wants);
        }
        if world.settings().json {
            super::print(&format!("{}\n", document(&facts.os, &findings)))?;
        } else {
            let colour = std::io::stdout().is_terminal() && config::variable("NO_COLOR").is_none();
            let styles = if colour { Styles::colour() } else { Styles::default() };
            let width = config::text_variable("COLUMNS").and_then(|columns| columns.parse().ok());
            super::print(&table(&facts, &findings, styles, width.unwrap_or(WIDTH).clamp(60, 120)))?;
        }
        Ok(if worst(&findings) == Severity::Problem {
            Exit::Environment
        } else {
            Exit::Done
        })
    }
}

/// Does what can be done, and returns whether anything was.
async fn mend(world: &World, findings: &[Finding]) -> bool {
    let mut done = false;
    for finding in findings {
        let Some(fix) = &finding.repair else { continue };
        if *fix == Fix::StartEngine && !world.consent("Install docker.io with apt and start it?") {
            world
                .reporter()
                .warn("the engine is not installed without --yes, or a yes at a terminal");
            continue;
        }
        match repair(world, fix).await {
            Ok(what) => {
                world.reporter().note(format!("fixed {}: {what}", finding.topic));
                done = true;
            }
            Err(error) => world
                .reporter()
                .warn(format!("{}: {}", finding.topic, render(&error).trim_end())),
        }
    }
    done
}

fn document(os: &Os, findings: &[Finding]) -> serde_json::Value {
    json!({
        "v": crate::report::json::FORMAT,
        "system": { "name": os.release.name, "kernel": os.kernel, "root": os.root },
        "worst": worst(findings),
        "findings": findings,
    })
}

fn table(facts: &Facts, findings: &[Finding], s: Styles, width: usize) -> String {
    let mut out = String::new();
    let user = if facts.os.root { "root" } else { "not root" };
    _ = writeln!(out, "{}, kernel {}, {user}", facts.os.release.name, facts.os.kernel);
    for finding in findings {
        let (style, mark) = match finding.severity {
            Severity::Ok => (s.good, "ok"),
            Severity::Note => (s.dim, "note"),
            Severity::Warning => (s.warn, "warning"),
            Severity::Problem => (s.bad, "PROBLEM"),
        };
        let mut lines = wrap(&finding.seen, width - INDENT);
        if finding.severity > Severity::Ok {
            lines.extend(wrap(&finding.why, width - INDENT));
        }
        for fix in &finding.fix {
            let mut wrapped = wrap(fix, width - INDENT - 3).into_iter();
            lines.extend(wrapped.next().map(|line| format!("-> {line}")));
            lines.extend(wrapped.map(|line| format!("   {line}")));
        }
        // The id stands below the topic: in its own column it would cost every line 12 characters.
        let coded = finding.severity > Severity::Note;
        if coded && lines.len() == 1 {
            lines.push(String::new());
        }
        for (number, line) in lines.iter().enumerate() {
            let row = match number {
                0 => format!("{style}{mark:<8}{} {:<17}{line}", s.reset, finding.topic),
                1 if coded => format!("{:9}{}{:<17}{}{line}", "", s.dim, finding.code.id(), s.reset),
                _ => format!("{:INDENT$}{line}", ""),
            };
            _ = writeln!(out, "{}", row.trim_end());
        }
    }
    for line in wrap(&summary(findings), width) {
        _ = writeln!(out, "{line}");
    }
    out
}

fn summary(findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let problems = count(Severity::Problem);
    let warnings = plural(count(Severity::Warning), "warning");
    let fixable = findings
        .iter()
        .filter(|finding| finding.severity > Severity::Note && finding.repair.is_some())
        .count();
    let mut text = match problems {
        0 => format!("Nothing stops the lab; {warnings}."),
        n => format!(
            "{} to be set right before `labctl up`; {warnings}.",
            plural(n, "problem")
        ),
    };
    if fixable > 0 {
        _ = write!(text, " `labctl doctor --fix` sets {fixable} of them right.");
    }
    text
}

/// Breaks a text into lines of at most `width` characters; a longer word, such as a path, stays whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn finding(topic: &'static str, code: Code, severity: Severity, seen: &str) -> Finding {
        Finding {
            topic,
            code,
            severity,
            seen: seen.into(),
            why: "because it matters for what comes next".into(),
            fix: vec!["sudo do-something --with-an-option --and-another-one another-word".into()],
            repair: None,
        }
    }

    #[test]
    fn the_table_reads_at_80_columns() {
        let findings = [
            Finding {
                fix: Vec::new(),
                ..finding("engine", Code::EngineMissing, Severity::Ok, "Docker 28.2.2")
            },
            finding(
                "memory",
                Code::Memory,
                Severity::Problem,
                "the engine has 1.0 GB; the lab requests 322 MiB and takes about 1.1 GB in all of its parts",
            ),
        ];
        let text = table(&Facts::default(), &findings, Styles::default(), 80);
        insta::assert_snapshot!(text, @"
        , kernel , not root
        ok       engine           Docker 28.2.2
        PROBLEM  memory           the engine has 1.0 GB; the lab requests 322 MiB and
                 LAB-ENV-007      takes about 1.1 GB in all of its parts
                                  because it matters for what comes next
                                  -> sudo do-something --with-an-option
                                     --and-another-one another-word
        1 problem to be set right before `labctl up`; 0 warnings.
        ");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn the_document_has_what_the_table_has() {
        let findings = [finding(
            "port",
            Code::PortTaken,
            Severity::Problem,
            "127.0.0.1:8080 is held",
        )];
        let document = document(&Os::default(), &findings);
        assert_eq!(document["worst"], "problem");
        assert_eq!(document["findings"][0]["code"], "LAB-ENV-010");
        assert_eq!(document["findings"][0]["seen"], "127.0.0.1:8080 is held");
        assert_eq!(document["findings"][0]["fix"].as_array().map(Vec::len), Some(1));
    }
}
