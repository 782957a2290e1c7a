//! `labctl prose`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;

use super::{Cli, Global, Outcome, print};
use crate::config;
use crate::drive::exec::System;
use crate::error::{Code, Diagnosis, Exit};
use crate::prose::config::Config;
use crate::prose::finding::Report;
use crate::prose::hook::{self, Done};
use crate::prose::rule::{Class, Rule, Strength};
use crate::prose::{Checker, Selection, lsp, show, tree};
use crate::report::human::Styles;

/// Hold prose to rules: spelling, links, padding, chapters, white space
#[derive(Debug, clap::Args)]
#[command(after_help = "Exits with 0 where nothing was found, with 1 where something was.")]
#[command(after_long_help = PROSE_TOML)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

const PROSE_TOML: &str = "\
Exits with 0 where nothing was found, with 1 where something was.

Keys of prose.toml, all optional; files are named in the form of .gitignore:
  exclude = [\"*.snap\"]              files that are not looked at
  chapters = [\"labs/[0-9]*/README.md\"]  chapters of a course, for the narrative rules
  off = [\"triad\"]                   rules that are off
  [words] accept = [\"kubelab\"]      words that are spelt as meant
  [names] PostgreSQL = [\"Postgres\"] a name, and how it is not written
  [terms] known = [\"CNI\"]           abbreviations that readers know
  [fences] tests = [\"tests/**\"]     tests that run the chapters' commands
  [fences] sessions = [\"blog/*.md\"] files whose `console` blocks a test runs and compares
  [fences] on_lab = [\"labs/*.md\"]   the same, by a test that has a lab
  [whitespace] keep = [\"*.golden\"]  files whose trailing white space is data
  [registers] reference = [\"docs/\"] how-to (the default), reference or general
  [[rule]]                          a rule of your own: see `labctl prose explain RULE`

An exception, with its reason, before the paragraph that it is for:
  <!-- labctl-prose: allow RULE because REASON -->";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Look for what breaks a rule, and say what to do instead
    Check(Check),
    /// Mend what can be mended without asking: white space, misspellings, doubled words, names
    Fix(Fix),
    /// Tell all about a rule, with examples
    Explain {
        /// The rule's id, such as `spelling`
        rule: String,
        #[command(flatten)]
        project: Project,
    },
    /// List the rules
    Rules {
        #[command(flatten)]
        project: Project,
    },
    /// Install or remove the git hook that looks at what is committed
    Hook {
        #[command(subcommand)]
        verb: HookVerb,
    },
    /// Serve an editor: the Language Server Protocol over standard input and output
    Lsp {
        #[command(flatten)]
        project: Project,
        /// Accepted because editors give it; there is no other way
        #[arg(long, hide = true)]
        stdio: bool,
    },
}

#[derive(Debug, Subcommand)]
enum HookVerb {
    /// Write .git/hooks/pre-commit; a hook of somebody else is left alone
    Install {
        /// A directory of the repository
        #[arg(default_value = ".", value_name = "DIR")]
        dir: PathBuf,
    },
    /// Remove the hook that install wrote
    Remove {
        /// A directory of the repository
        #[arg(default_value = ".", value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Project {
    /// The settings; else the prose.toml of this directory or one above
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Wanted {
    /// Only this rule; can be given more than once, or as a list with commas
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    only: Vec<String>,
    /// Only rules of this class
    #[arg(long, value_name = "CLASS", value_delimiter = ',')]
    class: Vec<Class>,
    /// Only rules that are at least this sure
    #[arg(long, value_name = "STRENGTH")]
    min: Option<Strength>,
    #[command(flatten)]
    project: Project,
}

#[derive(Debug, clap::Args)]
struct Check {
    /// Files, and directories without what git ignores
    #[arg(default_value = ".", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Look at what is staged in git, not at the files on disk
    #[arg(long)]
    staged: bool,
    /// How findings are written
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    #[command(flatten)]
    wanted: Wanted,
}

#[derive(Debug, clap::Args)]
struct Fix {
    /// Files, and directories without what git ignores
    #[arg(default_value = ".", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Write nothing; exit with 1 where something would change
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    wanted: Wanted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Human,
    /// One JSON document, as with --json
    Json,
    /// SARIF 2.1.0
    Sarif,
    /// Workflow commands of GitHub
    Github,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// A file or `prose.toml` cannot be read, or a rule is unknown. What was found is [`Exit::Unmet`], not an error.
    pub async fn run(self, global: &Global) -> Result<Outcome> {
        match self.verb {
            Verb::Check(args) => args.run(global).await,
            Verb::Fix(args) => args.run(global),
            Verb::Explain { rule, project } => explain(global, &rule, &project),
            Verb::Rules { project } => rules(global, &project),
            Verb::Hook { verb } => run_hook(global, verb).await,
            Verb::Lsp { project, .. } => serve(&project),
        }
    }
}

impl Project {
    /// Reads the settings that hold for a place.
    fn read(&self, place: &Path) -> Result<Config> {
        match &self.config {
            Some(file) => Config::read(file),
            None => Config::find(place),
        }
    }
}

impl Wanted {
    fn checker(&self, place: &Path) -> Result<Checker> {
        let config = self.project.read(place)?;
        for id in &self.only {
            known(&config, id)?;
        }
        let selection = Selection {
            rules: self.only.clone(),
            classes: self.class.clone(),
            least: self.min,
        };
        Ok(Checker::new(config, &selection).with_commands(refuses))
    }
}

/// Returns a rule by its id.
fn known<'c>(config: &'c Config, id: &str) -> Result<&'c Rule> {
    config.rules.find(id).map(AsRef::as_ref).ok_or_else(|| {
        let known: Vec<&str> = config.rules.all().iter().map(|rule| rule.id.as_str()).collect();
        Diagnosis::new(Code::Arguments, crate::prose::toml_file::unknown("rule", id, &known))
            .hint("labctl prose rules lists them")
            .error()
    })
}

/// Says why labctl would refuse a command; nothing for one that it takes, and for those of other programs.
fn refuses(words: &[String]) -> Option<String> {
    use clap::error::ErrorKind;
    if words.first().map(String::as_str) != Some("labctl") {
        return None;
    }
    let error = Cli::try_parse_from(words).err()?;
    let help = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion];
    (!help.contains(&error.kind())).then(|| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        first.trim_start_matches("error: ").to_owned()
    })
}

fn styles() -> Styles {
    let colour = std::io::stdout().is_terminal() && config::variable("NO_COLOR").is_none();
    if colour { Styles::colour() } else { Styles::default() }
}

impl Check {
    async fn run(self, global: &Global) -> Result<Outcome> {
        let start = Instant::now();
        let place = self.paths.first().map_or(Path::new("."), PathBuf::as_path);
        let checker = self.wanted.checker(place)?;
        let reports = if self.staged {
            staged(&checker).await?
        } else {
            let files = tree::files(&self.paths, checker.config())?;
            tree::check(&checker, &files)?
        };
        let format = if global.json && self.format == Format::Human {
            Format::Json
        } else {
            self.format
        };
        match format {
            Format::Human => print(&show::human(&reports, styles()))?,
            Format::Json => print(&format!("{}\n", show::json(&reports)))?,
            Format::Sarif => print(&format!("{:#}\n", show::sarif(&reports, &checker.config().rules)))?,
            Format::Github => print(&show::github(&reports))?,
        }
        if !global.json {
            global.reporter().note(show::summary(&reports, start.elapsed()));
        }
        let clean = reports.iter().all(|report| report.findings.is_empty());
        Ok(if clean { Exit::Done } else { Exit::Unmet })
    }
}

/// Looks at what is staged.
async fn staged(checker: &Checker) -> Result<Vec<Report>> {
    let dir = tempfile::tempdir().context("make a temporary directory")?;
    let here = std::env::current_dir().context("find the current directory")?;
    let (top, names) = hook::staged(&System, &here, dir.path()).await?;
    let mut reports = Vec::new();
    for name in names {
        let path = top.join(&name);
        if checker.config().exclude.has(&checker.config().relative(&path)) {
            continue;
        }
        // A submodule is staged too, and is no file.
        let Ok(bytes) = std::fs::read(dir.path().join(&name)) else {
            continue;
        };
        let mut report = checker.check(&path, &bytes);
        report.path = name;
        reports.push(report);
    }
    Ok(reports)
}

impl Fix {
    fn run(self, global: &Global) -> Result<Outcome> {
        let place = self.paths.first().map_or(Path::new("."), PathBuf::as_path);
        let checker = self.wanted.checker(place)?;
        let files = tree::files(&self.paths, checker.config())?;
        let changes = tree::fixes(&checker, &files)?;
        if !self.check {
            for change in &changes {
                tree::write(change)?;
            }
        }
        if global.json {
            let files: Vec<_> = changes
                .iter()
                .map(|change| json!({"path": change.path, "places": change.places}))
                .collect();
            print(&format!(
                "{}\n",
                json!({"v": crate::report::json::FORMAT, "written": !self.check, "files": files})
            ))?;
        } else {
            for change in &changes {
                let word = if self.check { "would mend" } else { "mended" };
                let places = if change.places == 1 { "place" } else { "places" };
                print(&format!(
                    "{word} {}: {} {places}\n",
                    change.path.display(),
                    change.places
                ))?;
            }
            let text = if changes.is_empty() { "nothing to mend" } else { "" };
            if !text.is_empty() {
                global.reporter().note(text);
            }
        }
        Ok(if self.check && !changes.is_empty() {
            Exit::Unmet
        } else {
            Exit::Done
        })
    }
}

fn explain(global: &Global, id: &str, project: &Project) -> Result<Outcome> {
    let config = project.read(Path::new("."))?;
    let rule = known(&config, id)?;
    if global.json {
        print(&format!("{}\n", serde_json::to_string(rule)?))?;
    } else {
        print(&show::explain(rule, styles()))?;
    }
    Ok(Exit::Done)
}

fn rules(global: &Global, project: &Project) -> Result<Outcome> {
    let config = project.read(Path::new("."))?;
    if global.json {
        let all: Vec<&Rule> = config.rules.all().iter().map(AsRef::as_ref).collect();
        print(&format!(
            "{}\n",
            json!({"v": crate::report::json::FORMAT, "off": config.off, "rules": all})
        ))?;
    } else {
        print(&show::rules(&config.rules, &config.off, styles()))?;
    }
    Ok(Exit::Done)
}

async fn run_hook(global: &Global, verb: HookVerb) -> Result<Outcome> {
    let (path, done, word) = match verb {
        HookVerb::Install { dir } => {
            let (path, done) = hook::install(&System, &dir).await?;
            (path, done, "installed")
        }
        HookVerb::Remove { dir } => {
            let (path, done) = hook::remove(&System, &dir).await?;
            (path, done, "removed")
        }
    };
    if global.json {
        let document = json!({"v": crate::report::json::FORMAT, "hook": path, "changed": done == Done::Changed});
        print(&format!("{document}\n"))?;
    } else if done == Done::Changed {
        print(&format!("{word} {}\n", path.display()))?;
    } else {
        print(&format!("nothing to do: {}\n", path.display()))?;
    }
    Ok(Exit::Done)
}

fn serve(project: &Project) -> Result<Outcome> {
    let make = |folder: Option<PathBuf>| {
        let config = project.read(folder.as_deref().unwrap_or(Path::new(".")))?;
        Ok(Checker::new(config, &Selection::default()).with_commands(refuses))
    };
    let well = lsp::serve(&mut std::io::stdin().lock(), &mut std::io::stdout().lock(), &make)?;
    Ok(if well { Exit::Done } else { Exit::Unmet })
}
