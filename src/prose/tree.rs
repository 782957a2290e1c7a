//! The files of a project, without those that git ignores.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ignore::WalkBuilder;
use rayon::prelude::*;

use super::Checker;
use super::config::Config;
use super::finding::Report;

/// Returns the files below a place, sorted; what cannot be read is left out.
pub fn below(place: &Path) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = WalkBuilder::new(place)
        .hidden(false)
        .require_git(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .build()
        .flatten()
        .filter(|entry| entry.file_type().is_some_and(|kind| kind.is_file()))
        .map(ignore::DirEntry::into_path)
        .collect();
    out.sort();
    out
}

/// Returns the files that a command line names: each file itself, and what is below each directory and not excluded.
///
/// A file that is named is looked at although git ignores it; the project's `exclude` holds for both.
///
/// # Errors
/// A path does not exist.
pub fn files(paths: &[PathBuf], config: &Config) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for path in paths {
        let meta = std::fs::metadata(path).with_context(|| format!("look at `{}`", path.display()))?;
        if meta.is_dir() {
            out.extend(below(path));
        } else {
            out.push(path.clone());
        }
    }
    if !config.exclude.is_empty() {
        out.retain(|path| !config.exclude.has(&config.relative(path)));
    }
    for path in &mut out {
        if let Ok(shorter) = path.strip_prefix(".") {
            *path = shorter.to_owned();
        }
    }
    out.sort();
    out.dedup();
    Ok(out)
}

/// Looks at files, several at once, and returns what came of each in their order.
///
/// # Errors
/// A file cannot be read.
pub fn check(checker: &Checker, files: &[PathBuf]) -> Result<Vec<Report>> {
    files
        .par_iter()
        .map(|path| {
            let bytes = std::fs::read(path).with_context(|| format!("read `{}`", path.display()))?;
            Ok(checker.check(path, &bytes))
        })
        .collect()
}

/// A file that would change.
#[derive(Debug)]
pub struct Change {
    /// The file.
    pub path: PathBuf,
    /// Its text after the change.
    pub text: String,
    /// How many places change.
    pub places: usize,
}

/// Returns the changes that would end all findings which can be ended without a person.
///
/// # Errors
/// A file cannot be read.
pub fn fixes(checker: &Checker, files: &[PathBuf]) -> Result<Vec<Change>> {
    let changes: Result<Vec<Option<Change>>> = files
        .par_iter()
        .map(|path| {
            let bytes = std::fs::read(path).with_context(|| format!("read `{}`", path.display()))?;
            Ok(checker.fix(path, &bytes).map(|(text, places)| Change {
                path: path.clone(),
                text,
                places,
            }))
        })
        .collect();
    Ok(changes?.into_iter().flatten().collect())
}

/// Writes a change: whole or not at all, through symbolic links, with the file's mode kept.
///
/// # Errors
/// The file cannot be written; it is as it was.
pub fn write(change: &Change) -> Result<()> {
    crate::drive::files::replace(&change.path, change.text.as_bytes())
}
