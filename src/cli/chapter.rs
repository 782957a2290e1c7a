//! `labctl chapter`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::json;

use super::Outcome;
use crate::course::catalogue::{Catalogue, Entry};
use crate::course::chapter::Chapter;
use crate::course::progress::Progress;
use crate::course::selftest::{self, Effort, Matrix, Recording, Row};
use crate::course::snippet;
use crate::course::verify::{self, Options};
use crate::course::workspace::{self, LaidOut, Workspace};
use crate::course::{act, explain, hint, last, watch};
use crate::drive::files;
use crate::error::{Code, Diagnosis, Exit, exit_of};
use crate::report::{Event, junit, tap};
use crate::world::World;

/// List the chapters, and judge one: labctl chapter 02 verify
#[derive(Debug, clap::Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    override_usage = "labctl chapter <VERB> [CHAPTER]\n       labctl chapter <CHAPTER> <VERB>",
    after_help = "The chapter's number may come first: `labctl chapter 02 verify` is `labctl chapter verify 02`."
)]
pub struct Args {
    /// The chapter's number or name, such as 02 or manifests
    #[arg(value_name = "CHAPTER")]
    chapter: Option<String>,
    /// The folder of your work on the chapters
    #[arg(long, global = true, env = "LABCTL_WORK", default_value = "work", value_name = "DIR")]
    work: PathBuf,
    /// Take the chapters of this folder instead of those compiled in
    #[arg(long, global = true, hide = true, value_name = "DIR")]
    labs: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the chapters, what works after each, and how far you are
    List,
    /// Show a chapter: its text, or what it is judged by
    Show(Show),
    /// Begin a chapter: lay its files out and bring the lab to where it begins
    Start(Named),
    /// Judge a chapter: does what it teaches work in this lab?
    #[command(
        after_help = "Exits with 0 where every check passes, with 1 where one fails, with 3 where one cannot be judged."
    )]
    Verify(Verify),
    /// Get a hint on the check that failed; each further one says more
    Hint(Hint),
    /// Compare your files with the reference, once the chapter passes
    Diff(Diff),
    /// Put the reference solution in place of your files, which are saved, and apply it
    Solve(Named),
    /// Remove what the chapter made and put its first files back; yours are saved
    Reset(Named),
    /// Prove that the checks of chapters can fail, on this lab
    #[command(
        after_help = "Uses a folder of its own; your work is not touched. The lab's dashboard is changed meanwhile."
    )]
    Selftest(Selftest),
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The chapter's number or name, such as 02 or manifests
    #[arg(value_name = "CHAPTER")]
    chapter: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The chapter's number or name, such as 02 or manifests
    #[arg(value_name = "CHAPTER")]
    chapter: Option<String>,
    /// Show the criteria and checks instead of the text
    #[arg(long)]
    checks: bool,
}

#[derive(Debug, clap::Args)]
struct Diff {
    /// The chapter's number or name, such as 02 or manifests
    #[arg(value_name = "CHAPTER")]
    chapter: Option<String>,
    /// Compare although the chapter does not pass
    #[arg(long)]
    anyway: bool,
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// The chapter's number or name, such as 02 or manifests
    #[arg(value_name = "CHAPTER")]
    chapter: Option<String>,
    /// Judge only this check, and those that it needs; may be given more than once
    #[arg(long, value_name = "CHECK")]
    only: Vec<String>,
    /// Judge again whenever your files or the cluster change, until everything passes
    #[arg(long)]
    watch: bool,
    /// Say what this check asks and what was seen last, and judge nothing
    #[arg(long, value_name = "CHECK", conflicts_with_all = ["only", "watch", "junit", "tap"])]
    explain: Option<String>,
    /// The URL of your own server, where labctl is not to start it
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Write the verdicts to this file as JUnit XML too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the verdicts to this file as TAP 13 too
    #[arg(long, value_name = "FILE")]
    tap: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Hint {
    /// The chapter, and the check if it is not the one that failed first
    #[arg(value_name = "CHAPTER [CHECK]", num_args = 0..=2)]
    names: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Selftest {
    /// The chapters; all of them without one
    #[arg(value_name = "CHAPTER")]
    chapters: Vec<String>,
    /// Judge the solution this many times
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Wait the whole time of a check that must fail
    #[arg(long)]
    full: bool,
    /// Try only this fault or alternative; may be given more than once
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// Write what the checks saw to `NN.json` in this folder; with --only, what is there of other worlds stays
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Judge what was recorded in this folder instead; needs no cluster
    #[arg(long, value_name = "DIR", conflicts_with_all = ["only", "record"])]
    replay: Option<PathBuf>,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// There is no such chapter, or its spec is not valid. An unmet criterion is [`Exit::Unmet`], no error.
    pub async fn run(self, world: &World) -> Result<Outcome> {
        let catalogue = match &self.labs {
            Some(dir) => Catalogue::of_dir(dir)?,
            None => Catalogue::embedded(),
        };
        let before = self.chapter;
        let work = workspace::root(&self.work, &std::env::current_dir().context("find the current folder")?);
        let open = |verb: &str, behind: Option<String>| -> Result<Open> {
            let name = one_name(verb, before.clone(), behind)?;
            let entry = catalogue.find(&name)?.clone();
            let chapter = entry.read()?;
            let workspace = Workspace::new(&work, &entry.slug);
            Ok(Open {
                entry,
                chapter,
                workspace,
            })
        };
        match self.verb {
            Verb::List => {
                if let Some(name) = before {
                    return Err(Diagnosis::new(Code::Arguments, "`list` takes no chapter")
                        .hint(format!("labctl chapter {name} verify"))
                        .error());
                }
                list(world, &catalogue, &work)
            }
            Verb::Show(args) => open("show", args.chapter)?.show(args.checks),
            Verb::Start(args) => open("start", args.chapter)?.start(world).await,
            Verb::Verify(args) => {
                let open = open("verify", args.chapter.clone())?;
                open.verify(world, &args).await
            }
            Verb::Hint(args) => {
                let mut names = args.names.into_iter();
                let chapter = if before.is_some() { None } else { names.next() };
                let open = open("hint", chapter)?;
                let check = names.next();
                if let Some(more) = names.next() {
                    let text = format!("`{more}` is one name too many");
                    return Err(Diagnosis::new(Code::Arguments, text)
                        .hint("labctl chapter 02 hint CHECK")
                        .error());
                }
                open.hint(world, check.as_deref())
            }
            Verb::Diff(args) => open("diff", args.chapter)?.diff(world, args.anyway),
            Verb::Solve(args) => open("solve", args.chapter)?.solve(world).await,
            Verb::Reset(args) => open("reset", args.chapter)?.reset(world).await,
            Verb::Selftest(args) => {
                let names: Vec<String> = before.into_iter().chain(args.chapters.iter().cloned()).collect();
                selftests(world, &catalogue, &names, &args).await
            }
        }
    }
}

/// A chapter that a verb works on.
struct Open {
    entry: Entry,
    chapter: Chapter,
    workspace: Workspace,
}

impl Open {
    fn show(&self, checks: bool) -> Result<Outcome> {
        let text = if checks {
            explain::chapter(&self.chapter)
        } else {
            snippet::for_readers(&self.entry.text("README.md")?.unwrap_or_default())
        };
        super::print(&text)?;
        Ok(Exit::Done)
    }

    async fn start(&self, world: &World) -> Result<Outcome> {
        let (id, dir) = (&self.chapter.id, self.workspace.dir());
        let laid = act::start(world, &self.entry, &self.chapter, &self.workspace).await?;
        let reporter = world.reporter();
        reporter.note(format!("chapter {id}: {}", self.chapter.title));
        if laid.new > 0 || laid.kept > 0 {
            let kept = match laid.kept {
                0 => String::new(),
                n => format!(", {n} were there already and are as you left them"),
            };
            reporter.note(format!("{} files in {}{kept}", laid.new, dir.display()));
        }
        reporter.note(format!("read it: labctl chapter {id} show"));
        reporter.note(format!("judge it: labctl chapter {id} verify"));
        Ok(Exit::Done)
    }

    async fn verify(&self, world: &World, args: &Verify) -> Result<Outcome> {
        let seen = last::read(world.settings(), &self.chapter.id);
        if let Some(id) = &args.explain {
            super::print(&explain::check(&self.chapter, id, &seen)?)?;
            return Ok(Exit::Done);
        }
        let options = Options {
            only: &args.only,
            url: args.url.as_deref(),
            workspace: Some(&self.workspace),
            ..Options::default()
        };
        if args.watch {
            self.begin_if_asked(world, options).await?;
            return watch::run(world, &self.entry, &self.chapter, options).await;
        }
        let judged = match verify::run(world, &self.entry, &self.chapter, options).await {
            Err(error) if never_started(&error) && self.offer(world) => {
                self.start(world).await?;
                verify::run(world, &self.entry, &self.chapter, options).await?
            }
            other => other?,
        };
        let suites = verify::suites(&self.chapter, &judged);
        if let Some(file) = &args.junit {
            files::write(file, junit::document(&suites))?;
        }
        if let Some(file) = &args.tap {
            files::write(file, tap::document(&suites))?;
        }
        Ok(verify::exit(&judged))
    }

    /// Starts a chapter that is to be watched and was never started, if the user wants it.
    async fn begin_if_asked(&self, world: &World, options: Options<'_>) -> Result<()> {
        let needs_files = verify::needs_workspace(&self.chapter, options);
        if needs_files && !self.workspace.exists() {
            if !self.offer(world) {
                return Err(self.workspace.not_started(&self.chapter.id).error());
            }
            self.start(world).await?;
        }
        Ok(())
    }

    fn offer(&self, world: &World) -> bool {
        world.consent(&format!("Chapter {} was never started. Start it now?", self.chapter.id))
    }

    fn hint(&self, world: &World, check: Option<&str>) -> Result<Outcome> {
        let seen = last::read(world.settings(), &self.chapter.id);
        let mut progress = if self.workspace.root().is_dir() {
            Some(Progress::read(self.workspace.root())?)
        } else {
            None
        };
        let hint = hint::next(&self.chapter, &seen, check, progress.as_mut())?;
        let text = if world.settings().json {
            format!(
                "{}\n",
                json!({"check": hint.check, "rung": hint.rung, "of": hint.of, "lines": hint.lines})
            )
        } else {
            let mut text = format!("{} (hint {} of {})\n", hint.check, hint.rung, hint.of);
            for line in &hint.lines {
                _ = writeln!(text, "  {line}");
            }
            text
        };
        super::print(&text)?;
        Ok(Exit::Done)
    }

    fn diff(&self, world: &World, anyway: bool) -> Result<Outcome> {
        if !self.workspace.exists() {
            return Err(self.workspace.not_started(&self.chapter.id).error());
        }
        let seen = last::read(world.settings(), &self.chapter.id);
        let passed = |id: &str| seen.iter().any(|last| last.check == id && last.verdict == "pass");
        let all = self.chapter.checks.iter().all(|check| passed(&check.id));
        if !all && !anyway {
            let id = &self.chapter.id;
            let text = format!("chapter {id} did not pass when it was last judged, and the reference is the answer");
            return Err(Diagnosis::new(Code::Arguments, text)
                .hint(format!("labctl chapter {id} verify"))
                .hint(format!("labctl chapter {id} diff --anyway"))
                .error());
        }
        let text = self.workspace.diff(&self.entry.files("solution")?)?;
        if text.is_empty() {
            world.reporter().note("your files are those of the reference");
        }
        super::print(&text)?;
        Ok(Exit::Done)
    }

    async fn solve(&self, world: &World) -> Result<Outcome> {
        let laid = act::solve(world, &self.entry, &self.chapter, &self.workspace).await?;
        self.say(world, &laid, "the reference solution is in place");
        Ok(Exit::Done)
    }

    async fn reset(&self, world: &World) -> Result<Outcome> {
        let laid = act::reset(world, &self.entry, &self.chapter, &self.workspace).await?;
        self.say(world, &laid, "the chapter is as it was before you began");
        Ok(Exit::Done)
    }

    fn say(&self, world: &World, laid: &LaidOut, what: &str) {
        world.reporter().note(format!("chapter {}: {what}", self.chapter.id));
        if let Some(saved) = &laid.saved {
            world.reporter().note(format!(
                "{} of your files are kept in {}",
                laid.replaced,
                saved.display()
            ));
        }
    }
}

fn never_started(error: &anyhow::Error) -> bool {
    exit_of(error) == Exit::Usage
        && crate::error::diagnosis(error).is_some_and(|diagnosis| diagnosis.code == Code::NotStarted)
}

async fn selftests(world: &World, catalogue: &Catalogue, names: &[String], args: &Selftest) -> Result<Outcome> {
    let entries: Vec<Entry> = if names.is_empty() {
        catalogue.entries().to_vec()
    } else {
        let found: Result<Vec<_>> = names.iter().map(|name| Ok(catalogue.find(name)?.clone())).collect();
        found?
    };
    let effort = Effort {
        runs: args.runs.into(),
        patient: args.full,
        only: args.only.clone(),
    };
    let mut well = true;
    let mut all: Vec<Matrix> = Vec::new();
    for entry in &entries {
        let chapter = entry.read()?;
        if let Some(dir) = &args.replay {
            well &= replay(world, entry, &chapter, dir)?;
            continue;
        }
        let dir = tempfile::tempdir()?;
        let workspace = Workspace::new(dir.path(), &entry.slug);
        let mut on_row = |row: &Row| {
            world.reporter().emit(Event::WorldJudged {
                chapter: chapter.id.clone(),
                world: row.world.clone(),
                what: row.what.clone(),
                wrong: row.wrong.clone(),
                elapsed_ms: row.took_ms,
            });
        };
        let (matrix, seen) = selftest::run(world, entry, &chapter, &workspace, &effort, &mut on_row).await?;
        if let Some(to) = &args.record {
            let dirs = &world.settings().dirs;
            let home = crate::config::variable("HOME").map(PathBuf::from);
            let mut folders = vec![("WORK", dir.path()), ("CACHE", dirs.cache()), ("STATE", dirs.state())];
            folders.extend(home.as_deref().map(|home| ("HOME", home)));
            let file = to.join(format!("{}.json", chapter.id));
            let whole = if args.only.is_empty() || !file.exists() {
                seen
            } else {
                Recording::read(&file)?.with(seen)
            };
            whole.write(&file, &folders)?;
        }
        well &= matrix.is_well();
        all.push(matrix);
    }
    if args.replay.is_some() {
        return Ok(if well { Exit::Done } else { Exit::Unmet });
    }
    let text = if world.settings().json {
        format!("{}\n", json!({ "matrices": all }))
    } else {
        let texts: Vec<_> = all
            .iter()
            .map(|matrix| format!("chapter {}\n{}", matrix.chapter, matrix.text()))
            .collect();
        texts.join("\n")
    };
    super::print(&text)?;
    Ok(if well { Exit::Done } else { Exit::Unmet })
}

/// Judges what was recorded by the spec of now.
fn replay(world: &World, entry: &Entry, chapter: &Chapter, dir: &Path) -> Result<bool> {
    let start = std::time::Instant::now();
    let seen = Recording::read(&dir.join(format!("{}.json", chapter.id)))?;
    let wrong = seen.replay(chapter, &selftest::Spec::of(entry, chapter)?);
    let well = wrong.is_empty();
    world.reporter().emit(Event::WorldJudged {
        chapter: chapter.id.clone(),
        world: "recorded".into(),
        what: format!("{} looks", seen.looks.len()),
        wrong,
        elapsed_ms: crate::report::json::millis(start.elapsed()),
    });
    Ok(well)
}

/// Takes the chapter from before the verb or from behind it.
fn one_name(verb: &str, before: Option<String>, behind: Option<String>) -> Result<String> {
    match (before, behind) {
        (Some(name), None) | (None, Some(name)) => Ok(name),
        (Some(a), Some(b)) if a == b => Ok(a),
        (Some(a), Some(b)) => Err(
            Diagnosis::new(Code::Arguments, format!("two chapters are named, {a} and {b}"))
                .hint(format!("labctl chapter {a} {verb}"))
                .error(),
        ),
        (None, None) => Err(Diagnosis::new(Code::Arguments, format!("`{verb}` needs a chapter"))
            .hint(format!(
                "labctl chapter 01 {verb}; labctl chapter list shows which there are"
            ))
            .error()),
    }
}

fn list(world: &World, catalogue: &Catalogue, work: &Path) -> Result<Outcome> {
    let progress = Progress::read(work)?;
    let mut chapters = Vec::new();
    for entry in catalogue.entries() {
        chapters.push((entry, entry.read()?));
    }
    let mut text = String::new();
    if world.settings().json {
        let all: Vec<_> = chapters
            .iter()
            .map(|(entry, chapter)| {
                let criteria: Vec<_> = chapter
                    .criteria
                    .iter()
                    .map(|criterion| json!({"id": criterion.id, "text": criterion.text, "checks": criterion.checks}))
                    .collect();
                json!({
                    "id": chapter.id,
                    "name": entry.slug,
                    "title": chapter.title,
                    "works_after": chapter.works_after,
                    "needs": chapter.needs,
                    "criteria": criteria,
                    "met": progress.met(&chapter.id),
                    "started": progress.begun(&chapter.id).0,
                    "solved": progress.begun(&chapter.id).1,
                })
            })
            .collect();
        _ = writeln!(text, "{}", json!({ "chapters": all }));
    } else {
        for (_, chapter) in &chapters {
            let known = progress.met(&chapter.id);
            let met = chapter
                .criteria
                .iter()
                .filter(|criterion| known.contains(criterion.id.as_str()))
                .count();
            let done = match (progress.begun(&chapter.id), met) {
                ((false, _), 0) => String::new(),
                ((_, solved), met) => {
                    let solved = if solved { ", solution shown" } else { "" };
                    format!("  [{met} of {}{solved}]", chapter.criteria.len())
                }
            };
            _ = writeln!(text, "{}  {}{done}", chapter.id, chapter.title);
            _ = writeln!(text, "    {}", chapter.works_after);
        }
        _ = writeln!(
            text,
            "\nBegin with `labctl chapter 00 start`; judge one with `labctl chapter 00 verify`."
        );
    }
    super::print(&text)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parse(words: &str) -> Result<Args, clap::Error> {
        let cli = super::super::Cli::try_parse_from(words.split(' '))?;
        match cli.verb {
            super::super::Verb::Chapter(args) => Ok(args),
            other => panic!("{words} is {other:?}"),
        }
    }

    #[test]
    fn the_number_may_come_first_or_last() {
        for words in [
            "labctl chapter 02 verify --only a --only b",
            "labctl chapter verify 02 --only a --only b",
            "labctl chapter verify --only a 02 --only b",
        ] {
            let args = parse(words).expect(words);
            let Verb::Verify(verify) = args.verb else {
                panic!("{words}")
            };
            assert_eq!(one_name("verify", args.chapter, verify.chapter).expect(words), "02");
            assert_eq!(verify.only, ["a", "b"]);
        }
        assert!(matches!(parse("labctl chapter list").expect("a verb").verb, Verb::List));
    }

    #[test]
    fn no_chapter_two_chapters_and_no_verb_are_usage_errors() {
        let name = |a: Option<&str>, b: Option<&str>| one_name("verify", a.map(Into::into), b.map(Into::into));
        assert!(name(None, None).is_err());
        assert!(name(Some("01"), Some("02")).is_err());
        assert_eq!(name(Some("01"), Some("01")).expect("the same"), "01");
        assert!(parse("labctl chapter").is_err());
        assert!(parse("labctl chapter 02").is_err());
    }
}
