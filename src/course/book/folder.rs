//! The folder with the book: there is the old one or the new one, never a part of either. Only files that an earlier
//! build made are removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::link::slashed;
use crate::drive::files;
use crate::error::{Code, Diagnosis};

/// Lists the files of a build, in the folder.
const LIST: &str = ".labctl-book";

/// Puts files into a folder in the place of those of the last build.
///
/// # Errors
/// The folder holds something that no build made, or it cannot be written; it is then as it was.
pub fn replace(folder: &Path, contents: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    // What a symbolic link leads to is replaced, not the link.
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let old = own(&folder)?;
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    files::make_dir(&parent)?;
    let work = tempfile::Builder::new()
        .prefix(".labctl-book-")
        .tempdir_in(&parent)
        .map_err(|error| files::explain(error, "write into", &parent))?;
    let new = work.path().join("new");
    files::make_dir(&new)?;
    for (name, bytes) in contents {
        files::write(&new.join(name), bytes)?;
    }
    let list: String = contents.keys().flat_map(|name| [name.as_str(), "\n"]).collect();
    files::write(&new.join(LIST), list)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).context("let others read the book")?;
    let Some(old) = old else {
        return fs::rename(&new, &folder).map_err(|error| files::explain(error, "write", &folder));
    };
    swap(&new, &folder, &work.path().join("old"))?;
    let left = if new.exists() { new } else { work.path().join("old") };
    if let Err(error) = remove(&left, &old) {
        let kept = work.keep();
        return Err(error.context(format!("what was in `{}` is in `{}`", folder.display(), kept.display())));
    }
    Ok(())
}

/// Lets two folders change places, in one step where the system can do that. The old one is then at `new` or at `aside`.
fn swap(new: &Path, folder: &Path, aside: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if renameat_with(CWD, new, CWD, folder, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    let explain = |error| files::explain(error, "write", folder);
    fs::rename(folder, aside).map_err(explain)?;
    fs::rename(new, folder).map_err(|error| {
        // It must not be gone where the new one cannot take its place.
        _ = fs::rename(aside, folder);
        explain(error)
    })
}

/// Returns the files of the last build; nothing where there is no folder.
fn own(folder: &Path) -> Result<Option<BTreeSet<String>>> {
    if !folder.exists() {
        return Ok(None);
    }
    let refuse = |text: String| {
        Diagnosis::new(Code::Arguments, text)
            .hint("--out names another folder; labctl removes only what it made itself")
            .error()
    };
    if !folder.is_dir() {
        return Err(refuse(format!("`{}` is a file", folder.display())));
    }
    let list = fs::read_to_string(folder.join(LIST)).unwrap_or_default();
    let own: BTreeSet<String> = list.lines().map(str::to_owned).chain([LIST.to_owned()]).collect();
    let found = files::walk(folder)?;
    let mut foreign = found
        .iter()
        .map(|path| slashed(path.strip_prefix(folder).unwrap_or(path)))
        .filter(|name| !own.contains(name));
    if let Some(first) = foreign.next() {
        let text = match foreign.count() {
            0 => format!(
                "`{}` holds `{first}`, which no build of the book made",
                folder.display()
            ),
            more => format!(
                "`{}` holds `{first}` and {more} more that no build of the book made",
                folder.display()
            ),
        };
        return Err(refuse(text));
    }
    Ok(Some(own))
}

/// Removes the files of a build, and folders that are empty then.
fn remove(folder: &Path, own: &BTreeSet<String>) -> Result<()> {
    for name in own {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(anyhow::Error::new(error).context(format!("remove `{name}`")));
            }
            _ => {}
        }
    }
    remove_empty(folder).context("a file came into the folder while it was replaced")
}

/// Removes folders that hold nothing but folders.
fn remove_empty(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(names: &[&str]) -> BTreeMap<String, Vec<u8>> {
        names
            .iter()
            .map(|name| ((*name).to_owned(), name.as_bytes().to_vec()))
            .collect()
    }

    fn names(folder: &Path) -> Vec<String> {
        let found = files::walk(folder).expect("readable");
        found
            .iter()
            .map(|path| slashed(path.strip_prefix(folder).expect("below")))
            .collect()
    }

    #[test]
    fn a_build_takes_the_place_of_the_last_one_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let site = dir.path().join("a/site");
        replace(&site, &contents(&["index.html", "posts/a.html"])).expect("written");
        assert_eq!(names(&site), [LIST, "index.html", "posts/a.html"]);
        replace(&site, &contents(&["index.html", "chapters/b.html"])).expect("written");
        assert_eq!(names(&site), [LIST, "chapters/b.html", "index.html"]);
        assert!(!site.join("posts").exists());
        // Nothing is left beside it.
        assert_eq!(fs::read_dir(dir.path().join("a")).expect("readable").count(), 1);
        let mode = fs::metadata(&site).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn what_no_build_made_is_never_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let site = dir.path().join("site");
        files::write(&site.join("thesis.txt"), "years").expect("written");
        let error = replace(&site, &contents(&["index.html"])).expect_err("refused");
        assert!(
            format!("{error:#}").contains("`thesis.txt`, which no build"),
            "{error:#}"
        );
        assert_eq!(names(&site), ["thesis.txt"]);
        fs::remove_file(site.join("thesis.txt")).expect("removed");
        replace(&site, &contents(&["index.html"])).expect("an empty folder is taken");
        files::write(&site.join("notes/mine.txt"), "").expect("written");
        replace(&site, &contents(&["other.html"])).expect_err("refused");
        assert_eq!(names(&site), [LIST, "index.html", "notes/mine.txt"]);
        let file = dir.path().join("file");
        files::write(&file, "x").expect("written");
        replace(&file, &contents(&["index.html"])).expect_err("refused");
        assert_eq!(fs::read(&file).expect("there"), b"x");
    }
}
