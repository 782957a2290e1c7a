//! `labctl blog`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Subcommand;
use futures_util::future::try_join_all;
use serde_json::json;

use super::{Global, Outcome, duration, print};
use crate::config;
use crate::course::book;
use crate::course::snippet::session::{self, Failure, Ground, Why};
use crate::course::snippet::{self, Step};
use crate::drive::exec::System;
use crate::drive::files;
use crate::error::{Code, Diagnosis, Exit};
use crate::prose::config::Config;
use crate::prose::tree;

/// Make pages of the chapters and posts, and run the commands in them
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write the chapters and posts as pages that need no server and no script
    Build(Build),
    /// Run the commands of `console` blocks and compare what they print
    #[command(after_help = "Exits with 0 where all print what the documents say, with 1 where one does not.")]
    #[command(after_long_help = SESSIONS)]
    Test(Test),
}

const SESSIONS: &str = "\
Exits with 0 where all print what the documents say, with 1 where one does not.

The commands of a document are one bash session in an empty folder, which is HOME; COURSE is the folder of prose.toml.
Behind the language of a block:
  ```console                what stands behind `$ ` is run, what follows is compared
  ```console vary=time,size what may differ in the next run: date, time, size, hash, suffix, number, blanks
  ```console beside         its last command runs on, as in a second terminal; the command `ctrl_c` ends it
  ```console untested WHY   is not run
  ```yaml file=a.yaml       is a file that is there from then on
A comment `<!-- labctl-session`, with commands on the lines below as in such a block, is run and not shown: what a reader
does with an editor.
In an output a line `...` stands for any number of lines, `...` at a line's end for its rest, and a last line
`[exit 1]` for how the command ended, where that was not 0.";

#[derive(Debug, clap::Args)]
struct Build {
    /// The folder to write; what an earlier build made there is replaced, and nothing else
    #[arg(long, default_value = "site", value_name = "DIR")]
    out: PathBuf,
    /// The checkout with the chapters and posts in labs/
    #[arg(long, default_value = ".", value_name = "DIR")]
    root: PathBuf,
    /// Where the book will be read, for the feed, such as `https://example.org/course`
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Test {
    /// Documents; else those that prose.toml names in fences.sessions
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write what the commands print into the documents
    #[arg(long)]
    update: bool,
    /// Set a variable for the commands; can be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    env: Vec<(String, String)>,
    /// Read another text in the place of one of the document, such as the name of a lab; can be given more than once
    #[arg(long, value_name = "TEXT=OTHER", value_parser = exchange, conflicts_with = "update")]
    with: Vec<(String, String)>,
    /// How long the commands of one document may take together
    #[arg(long, default_value = "1m", value_name = "TIME", value_parser = duration)]
    limit: Duration,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    let good = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    good.then(|| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("`{name}` is no name of a variable"))
}

fn exchange(text: &str) -> Result<(String, String), String> {
    let (old, new) = text.split_once('=').ok_or("it must be TEXT=OTHER")?;
    if old.is_empty() {
        return Err("there is no text to look for".into());
    }
    Ok((old.to_owned(), new.to_owned()))
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// The sources cannot be shown, the folder cannot be written, or a session cannot be begun. A command that prints
    /// something else than its document says is [`Exit::Unmet`], no error.
    pub async fn run(self, global: &Global) -> Result<Outcome> {
        match self.verb {
            Verb::Build(args) => args.run(global),
            Verb::Test(args) => args.run(global).await,
        }
    }
}

impl Build {
    fn run(self, global: &Global) -> Result<Outcome> {
        let book = book::make(&self.root, self.url.as_deref())?;
        book::folder::replace(&self.out, &book.files)?;
        let text = if global.json {
            let document = json!({
                "v": crate::report::json::FORMAT,
                "folder": self.out,
                "chapters": book.chapters,
                "posts": book.posts,
                "others": book.others,
                "files": book.files.keys().collect::<Vec<_>>(),
            });
            document.to_string()
        } else {
            format!(
                "{}: {}, {} and {} that they lead to",
                self.out.join("index.html").display(),
                counted(book.chapters, "chapter"),
                counted(book.posts, "post"),
                counted(book.others, "page"),
            )
        };
        print(&format!("{text}\n"))?;
        Ok(Exit::Done)
    }
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// A document and what came of it.
struct Tested {
    path: PathBuf,
    text: String,
    steps: Vec<Step>,
    failures: Vec<Failure>,
}

impl Test {
    async fn run(self, global: &Global) -> Result<Outcome> {
        let paths = if self.files.is_empty() {
            named()?
        } else {
            self.files.clone()
        };
        let tested = try_join_all(paths.into_iter().map(|path| self.one(path))).await?;
        let mut text = String::new();
        for document in &tested {
            for failure in &document.failures {
                text.push_str(&failure.to_string());
            }
            if self.update
                && document
                    .failures
                    .iter()
                    .any(|failure| matches!(failure.why, Why::Differs(..)))
            {
                let (new, _) = session::updated(&document.text, &document.steps, &document.failures);
                files::replace(&document.path, new.as_bytes())?;
            }
        }
        let steps: usize = tested.iter().map(|document| document.steps.len()).sum();
        let failed: usize = tested.iter().map(|document| document.failures.len()).sum();
        if global.json {
            let documents: Vec<_> = tested.iter().map(shown).collect();
            text = json!({"v": crate::report::json::FORMAT, "steps": steps, "failed": failed, "documents": documents})
                .to_string()
                + "\n";
        }
        print(&text)?;
        if !global.json {
            let documents = counted(tested.len(), "document");
            global
                .reporter()
                .note(format!("{failed} of {} in {documents} differ", counted(steps, "step")));
        }
        Ok(if failed == 0 { Exit::Done } else { Exit::Unmet })
    }

    async fn one(&self, path: PathBuf) -> Result<Tested> {
        let text = std::fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))?;
        let mut steps = snippet::read(&text).map_err(|wrong| {
            Diagnosis::new(
                Code::SpecInvalid,
                format!("{}:{}: {}", path.display(), wrong.line, wrong.text),
            )
            .hint("labctl blog test --help tells the form of a session")
            .error()
        })?;
        for command in steps.iter_mut().filter_map(Step::command_mut) {
            for (old, new) in &self.with {
                command.exchange(old, new);
            }
        }
        let dir = tempfile::tempdir().context("make a folder for the session")?;
        let root = std::path::absolute(Config::find(&path)?.root).context("find the project")?;
        let ground = Ground::new(dir.path(), &search_path()?)
            .env("COURSE", root.display().to_string())
            .limit(self.limit);
        let ground = self
            .env
            .iter()
            .fold(ground, |ground, (name, value)| ground.env(name, value));
        let failures = session::run(&System, &path, &steps, &ground).await?;
        Ok(Tested {
            path,
            text,
            steps,
            failures,
        })
    }
}

fn shown(document: &Tested) -> serde_json::Value {
    let failures: Vec<_> = document
        .failures
        .iter()
        .map(|failure| json!({"line": failure.line, "typed": failure.typed, "text": failure.to_string()}))
        .collect();
    json!({"path": document.path, "steps": document.steps.len(), "failures": failures})
}

/// Returns the documents whose sessions are run by the tests of this project.
fn named() -> Result<Vec<PathBuf>> {
    let config = Config::find(Path::new("."))?;
    let mut found = tree::files(std::slice::from_ref(&config.root), &config)?;
    found.retain(|path| config.sessions.has(&config.relative(path)));
    if found.is_empty() {
        return Err(Diagnosis::new(Code::Arguments, "there is no document to test")
            .hint("name one, or let prose.toml name them: [fences] sessions = [\"blog/*.md\"]")
            .error());
    }
    let here = std::env::current_dir().context("find the current directory")?;
    let named = found.into_iter().map(|path| match path.strip_prefix(&here) {
        Ok(shorter) => shorter.to_owned(),
        Err(_) => path,
    });
    Ok(named.collect())
}

/// Returns the PATH of sessions, with this program first, so that a document speaks of the labctl that tests it.
fn search_path() -> Result<String> {
    let own = std::env::current_exe().context("find this program")?;
    let own = own.parent().unwrap_or(Path::new("/"));
    let path = config::variable("PATH").unwrap_or_default();
    let all = std::iter::once(own.to_owned()).chain(std::env::split_paths(&path));
    let joined = std::env::join_paths(all).context("put PATH together")?;
    Ok(joined.to_string_lossy().into_owned())
}
