//! Other tools on the same files: run as their users run them, their output read line by line.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use labctl::drive::exec::{Cmd, Exec, System, find_on_path};
use labctl::drive::files;

/// What a tool said of a place: the line, its rule, and the words that it spoke of.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) line: usize,
    pub(crate) rule: String,
    pub(crate) words: String,
}

/// A tool's findings by file, and how long it took.
pub(crate) struct Run {
    pub(crate) found: HashMap<PathBuf, Vec<Said>>,
    pub(crate) took: Duration,
}

/// The tools that are known here; each is run where it is on PATH.
pub(crate) const TOOLS: [&str; 5] = ["codespell", "typos", "vale", "proselint", "sg"];

/// Runs a tool on all files of a folder; nothing where it is not there.
pub(crate) async fn run(tool: &str, folder: &Path, work: &Path) -> Result<Option<Run>> {
    if find_on_path(tool).is_none() {
        return Ok(None);
    }
    let out = work.join(format!("{tool}.out"));
    let style = work.join("vale");
    files::make_dir(&style.join("styles"))?;
    let settings = "StylesPath = styles\nMinAlertLevel = suggestion\n[*.md]\nBasedOnStyles = Vale\n";
    files::write(&style.join(".vale.ini"), settings)?;
    let line = match tool {
        "codespell" => "codespell --disable-colors .".to_owned(),
        "typos" => "typos --isolated --format brief .".to_owned(),
        "vale" => format!("vale --config '{}' --output line .", style.join(".vale.ini").display()),
        // Both take files, not folders.
        "proselint" => "find . -name '*.md' -print0 | xargs -0 proselint check -o compact".to_owned(),
        _ => "find . -name '*.md' -print0 | xargs -0 sg".to_owned(),
    };
    // A finding is no failure here.
    let line = format!(
        "cd '{}' && {{ {line} > '{}' 2>/dev/null || true; }}",
        folder.display(),
        out.display()
    );
    let start = Instant::now();
    System
        .run(
            &Cmd::new("sh")
                .args(["-c", line.as_str()])
                .limit(Duration::from_secs(1800)),
        )
        .await
        .with_context(|| format!("run {tool}"))?;
    let took = start.elapsed();
    let text = String::from_utf8_lossy(&std::fs::read(&out)?).into_owned();
    let mut found: HashMap<PathBuf, Vec<Said>> = HashMap::new();
    for line in text.lines() {
        if let Some((path, said)) = parse(tool, line) {
            let path = path
                .trim_start_matches("./")
                .trim_start_matches(&format!("{}/", folder.display()))
                .to_owned();
            found.entry(folder.join(path)).or_default().push(said);
        }
    }
    Ok(Some(Run { found, took }))
}

/// Reads a line of a tool's output.
fn parse<'l>(tool: &str, line: &'l str) -> Option<(&'l str, Said)> {
    let (path, rest) = line.split_once(".md:")?;
    let path = &line[..path.len() + 3];
    let said = |line: usize, rule: &str, words: &str| Said {
        line,
        rule: rule.to_owned(),
        words: words.to_owned(),
    };
    if tool == "sg" {
        // `path: 87/100 [clean] (312 words)`
        let score = rest.trim().split('/').next()?;
        return Some((path, said(0, "score", score)));
    }
    let (number, rest) = rest.split_once(':')?;
    let number = number.parse().ok()?;
    Some((
        path,
        match tool {
            "codespell" => said(number, "spelling", rest.split(" ==> ").next()?.trim()),
            "typos" => said(number, "spelling", rest.split('`').nth(1)?),
            "vale" => {
                let mut parts = rest.splitn(3, ':').skip(1);
                let (rule, text) = (parts.next()?, parts.next()?);
                said(number, rule, text.split('\'').nth(1).unwrap_or_default())
            }
            _ => {
                let rule = rest.split(':').nth(1)?.trim();
                // `There's a lexical illusion in 'the the' - a phrase is repeated.`
                let words = rest.split(" in '").nth(1).unwrap_or_default();
                said(number, rule, words.split('\'').next().unwrap_or_default())
            }
        },
    ))
}
