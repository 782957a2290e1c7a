//! What the learner has done: `progress.txt` in the root of the work, one line for each thing that happened.
//!
//! It is plain text that a person may read, edit and commit, and it is never read to judge anything: a criterion that
//! was met once is remembered as met, and `verify` looks at the world again all the same.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::drive::files;

/// Its name.
pub const FILE: &str = "progress.txt";
const HEAD: &str = "# What you did in the course, oldest first. labctl adds lines; you may remove some.\n";

/// What happened in a chapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// Its files were laid out.
    Started,
    /// A criterion was met for the first time.
    Met(String),
    /// A hint was shown: the check and the rung, counted from 1.
    Hint(String, usize),
    /// The reference solution was put in place.
    Solved,
}

/// What is known of the learner's progress.
#[derive(Debug, Clone)]
pub struct Progress {
    path: PathBuf,
    text: String,
    known: Vec<(String, Happened)>,
}

impl Progress {
    /// Reads the progress below the root of the work; nothing has happened where there is no file. Lines that are not
    /// understood are kept and mean nothing.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => HEAD.to_owned(),
            Err(error) => return Err(files::explain(error, "read", &path)),
        };
        let known = text.lines().filter_map(line).collect();
        Ok(Self { path, text, known })
    }

    /// Returns the criteria of a chapter that were met at some time.
    pub fn met<'a>(&'a self, chapter: &'a str) -> BTreeSet<&'a str> {
        self.of(chapter)
            .filter_map(|happened| match happened {
                Happened::Met(criterion) => Some(criterion.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Returns how many hints on a check were shown.
    pub fn hints(&self, chapter: &str, check: &str) -> usize {
        self.of(chapter)
            .filter_map(|happened| match happened {
                Happened::Hint(of, rung) if of == check => Some(*rung),
                _ => None,
            })
            .max()
            .unwrap_or(0)
    }

    /// Returns whether a chapter was started, and whether its solution was put in place.
    pub fn begun(&self, chapter: &str) -> (bool, bool) {
        let has = |wanted: &Happened| self.of(chapter).any(|happened| happened == wanted);
        (has(&Happened::Started), has(&Happened::Solved))
    }

    fn of<'a>(&'a self, chapter: &'a str) -> impl Iterator<Item = &'a Happened> {
        self.known
            .iter()
            .filter(move |(of, _)| of == chapter)
            .map(|(_, happened)| happened)
    }

    /// Adds what happened, unless it is known already.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, chapter: &str, happened: Happened) -> Result<()> {
        if self.of(chapter).any(|known| *known == happened) {
            return Ok(());
        }
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        _ = match &happened {
            Happened::Started => writeln!(self.text, "{now} {chapter} started"),
            Happened::Met(criterion) => writeln!(self.text, "{now} {chapter} met {criterion}"),
            Happened::Hint(check, rung) => writeln!(self.text, "{now} {chapter} hint {check} {rung}"),
            Happened::Solved => writeln!(self.text, "{now} {chapter} solved"),
        };
        files::write(&self.path, &self.text)?;
        self.known.push((chapter.to_owned(), happened));
        Ok(())
    }
}

fn line(text: &str) -> Option<(String, Happened)> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (chapter, happened) = match words.as_slice() {
        [_, chapter, "started"] => (chapter, Happened::Started),
        [_, chapter, "solved"] => (chapter, Happened::Solved),
        [_, chapter, "met", criterion] => (chapter, Happened::Met((*criterion).to_owned())),
        [_, chapter, "hint", check, rung] => (chapter, Happened::Hint((*check).to_owned(), rung.parse().ok()?)),
        _ => return None,
    };
    Some(((*chapter).to_owned(), happened))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_read_again_and_said_once() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut progress = Progress::read(dir.path()).expect("nothing yet");
        for _ in 0..2 {
            progress.add("00", Happened::Started).expect("written");
            progress.add("00", Happened::Met("healthz".into())).expect("written");
            progress.add("00", Happened::Hint("port".into(), 2)).expect("written");
        }
        let again = Progress::read(dir.path()).expect("there");
        assert_eq!(again.met("00").into_iter().collect::<Vec<_>>(), ["healthz"]);
        assert_eq!(again.hints("00", "port"), 2);
        assert_eq!(again.begun("00"), (true, false));
        assert_eq!(again.begun("01"), (false, false));
        assert_eq!(again.text.lines().count(), 4, "{}", again.text);
    }

    #[test]
    fn a_line_of_the_learners_own_is_kept() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("progress.txt");
        files::write(&path, "my notes\n2026-01-01T00:00:00Z 00 met healthz").expect("written");
        let mut progress = Progress::read(dir.path()).expect("there");
        progress.add("00", Happened::Solved).expect("written");
        let text = std::fs::read_to_string(&path).expect("there");
        assert!(
            text.starts_with("my notes\n2026-01-01T00:00:00Z 00 met healthz\n"),
            "{text}"
        );
        assert!(text.ends_with(" 00 solved\n"), "{text}");
    }
}
