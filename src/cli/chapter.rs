//! `labctl chapter`.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::Outcome;
use crate::course::catalogue::Catalogue;
use crate::course::verify;
use crate::drive::files;
use crate::error::{Code, Diagnosis, Exit};
use crate::report::junit;
use crate::world::World;

/// Options of `labctl chapter`
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
    /// Take the chapters of this folder instead of those compiled in
    #[arg(long, global = true, hide = true, value_name = "DIR")]
    labs: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the chapters, and what works after each
    List,
    /// Judge a chapter: does what it teaches work in this lab?
    #[command(
        after_help = "Exits with 0 where every check passes, with 1 where one fails, with 3 where one cannot be judged."
    )]
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// The chapter's number or name, such as 02 or manifests
    #[arg(value_name = "CHAPTER")]
    chapter: Option<String>,
    /// Judge only this check, and those that it needs; may be given more than once
    #[arg(long, value_name = "CHECK")]
    only: Vec<String>,
    /// Write the verdicts to this file as JUnit XML too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
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
        match self.verb {
            Verb::List => {
                if let Some(name) = self.chapter {
                    return Err(Diagnosis::new(Code::Arguments, "`list` takes no chapter")
                        .hint(format!("labctl chapter {name} verify"))
                        .error());
                }
                list(world, &catalogue)
            }
            Verb::Verify(args) => {
                let name = one_name("verify", self.chapter, args.chapter)?;
                let chapter = catalogue.find(&name)?.read()?;
                let judged = verify::run(world, &chapter, &args.only).await?;
                if let Some(file) = &args.junit {
                    files::write(file, junit::document(&verify::suites(&chapter, &judged)))?;
                }
                Ok(verify::exit(&judged))
            }
        }
    }
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

fn list(world: &World, catalogue: &Catalogue) -> Result<Outcome> {
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
                })
            })
            .collect();
        _ = writeln!(text, "{}", json!({ "chapters": all }));
    } else {
        for (_, chapter) in &chapters {
            _ = writeln!(text, "{}  {}", chapter.id, chapter.title);
            _ = writeln!(text, "    {}", chapter.works_after);
        }
        _ = writeln!(text, "\nJudge one with `labctl chapter 01 verify`.");
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
