//! The learner's folder: `work/` with a folder for each chapter. What the learner wrote is never lost: before anything
//! is put over it, it is copied to `work/.saved/`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::progress;
use crate::drive::files;
use crate::error::{Code, Diagnosis};

/// A file with its path from the chapter's folder.
pub type Files = Vec<(PathBuf, Vec<u8>)>;

/// The learner's folder for one chapter.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
    slug: String,
}

/// Returns the root of all work for one who stands in a folder: there or, for one who stands within it, above.
pub fn root(work: &Path, here: &Path) -> PathBuf {
    if work.is_absolute() || here.join(work).exists() {
        return work.to_owned();
    }
    here.ancestors()
        .find(|above| above.ends_with(work) && above.join(progress::FILE).is_file())
        .map_or_else(|| work.to_owned(), Path::to_owned)
}

/// What laying files out came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LaidOut {
    /// How many files are new.
    pub new: usize,
    /// How many files were the learner's own and are replaced.
    pub replaced: usize,
    /// How many files were left as they are.
    pub kept: usize,
    /// Where the learner's files are that were replaced.
    pub saved: Option<PathBuf>,
}

impl Workspace {
    /// Names the folder of a chapter below the root of all work. Nothing is made yet.
    pub fn new(root: &Path, slug: &str) -> Self {
        Self {
            root: std::path::absolute(root).unwrap_or_else(|_| root.to_owned()),
            slug: slug.to_owned(),
        }
    }

    /// Returns the root of all work.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder of the chapter.
    pub fn dir(&self) -> PathBuf {
        self.root.join(&self.slug)
    }

    /// Returns whether the chapter was started here.
    pub fn exists(&self) -> bool {
        self.dir().is_dir()
    }

    /// Puts files into the folder. With `over`, a file that is there and differs is saved and replaced; without, it is
    /// left alone.
    ///
    /// # Errors
    /// Something cannot be written; then what was there is still there.
    pub fn lay_out(&self, wanted: &[(PathBuf, Vec<u8>)], over: bool) -> Result<LaidOut> {
        let dir = self.dir();
        files::make_dir(&dir)?;
        let mut laid = LaidOut::default();
        for (name, contents) in wanted {
            let path = dir.join(name);
            match std::fs::read(&path) {
                Ok(now) if now == *contents => laid.kept += 1,
                Ok(_) if !over => laid.kept += 1,
                Ok(now) => {
                    let saved = match &laid.saved {
                        Some(saved) => saved.clone(),
                        None => laid.saved.insert(self.place_to_save()?).clone(),
                    };
                    files::write(&saved.join(name), now)?;
                    files::write(&path, contents)?;
                    laid.replaced += 1;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    files::write(&path, contents)?;
                    laid.new += 1;
                }
                Err(error) => return Err(files::explain(error, "read", &path)),
            }
        }
        Ok(laid)
    }

    /// Returns a folder of `.saved` that does not exist yet.
    fn place_to_save(&self) -> Result<PathBuf> {
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        (0..1000)
            .map(|n| {
                let name = format!("{}-{now}", self.slug);
                let name = if n == 0 { name } else { format!("{name}-{n}") };
                self.root.join(".saved").join(name)
            })
            .find(|path| !path.exists())
            .context("find a name for the saved files")
    }

    /// Returns the difference between the learner's files and others of the same names, as a unified diff; empty where
    /// there is none.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub fn diff(&self, other: &[(PathBuf, Vec<u8>)]) -> Result<String> {
        let mut out = String::new();
        for (name, contents) in other {
            let path = self.dir().join(name);
            let mine = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(files::explain(error, "read", &path)),
            };
            if mine == *contents {
                continue;
            }
            let (mine, reference) = (String::from_utf8_lossy(&mine), String::from_utf8_lossy(contents));
            let diff = similar::TextDiff::from_lines(&mine, &reference);
            let shown = name.display();
            let text = diff
                .unified_diff()
                .context_radius(3)
                .header(&format!("yours/{shown}"), &format!("reference/{shown}"))
                .to_string();
            out.push_str(&text);
        }
        Ok(out)
    }

    /// Returns the error for a chapter that was never started.
    pub fn not_started(&self, chapter: &str) -> Diagnosis {
        let text = format!(
            "chapter {chapter} was never started: there is no folder `{}`",
            self.dir().display()
        );
        Diagnosis::new(Code::NotStarted, text)
            .hint(format!("labctl chapter {chapter} start"))
            .hint("in another folder? --work DIR says where your work is")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> Files {
        vec![("a.txt".into(), text.into()), ("b/c.txt".into(), "c\n".into())]
    }

    #[test]
    fn what_the_learner_wrote_is_kept_or_saved() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let workspace = Workspace::new(dir.path(), "02-manifests");
        assert!(!workspace.exists());
        let laid = workspace.lay_out(&files("todo\n"), false).expect("laid out");
        assert_eq!((laid.new, laid.replaced, laid.kept), (2, 0, 0));
        let mine = workspace.dir().join("a.txt");
        files::write(&mine, "mine\n").expect("written");
        let laid = workspace.lay_out(&files("todo\n"), false).expect("laid out");
        assert_eq!((laid.new, laid.replaced, laid.kept), (0, 0, 2));
        assert_eq!(std::fs::read_to_string(&mine).expect("there"), "mine\n");
        let laid = workspace.lay_out(&files("solved\n"), true).expect("laid out");
        assert_eq!((laid.new, laid.replaced, laid.kept), (0, 1, 1));
        assert_eq!(std::fs::read_to_string(&mine).expect("there"), "solved\n");
        let saved = laid.saved.expect("saved").join("a.txt");
        assert_eq!(std::fs::read_to_string(saved).expect("there"), "mine\n");
    }

    #[test]
    fn the_root_is_found_from_within() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let here = dir.path().join("work/03-helm-chart/charts");
        files::make_dir(&here).expect("writable");
        let work = Path::new("work");
        // A folder of that name is not the learner's because of its name.
        assert_eq!(root(work, &here), work);
        files::write(&dir.path().join("work").join(progress::FILE), "# x\n").expect("writable");
        assert_eq!(root(work, &here), dir.path().join("work"));
        assert_eq!(root(work, dir.path()), work);
        assert_eq!(root(Path::new("other"), &here), Path::new("other"));
    }

    #[test]
    fn two_saves_in_one_second_do_not_meet() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let workspace = Workspace::new(dir.path(), "x");
        let mut places = Vec::new();
        for text in ["1", "2", "3"] {
            let laid = workspace.lay_out(&files(text), true).expect("laid out");
            places.extend(laid.saved);
        }
        assert_eq!(places.len(), 2);
        assert_ne!(places[0], places[1]);
    }

    #[test]
    fn a_diff_names_both_sides_and_nothing_else_is_empty() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let workspace = Workspace::new(dir.path(), "x");
        workspace.lay_out(&files("one\n"), false).expect("laid out");
        assert_eq!(workspace.diff(&files("one\n")).expect("readable"), "");
        let text = workspace.diff(&files("two\n")).expect("readable");
        assert!(text.starts_with("--- yours/a.txt\n+++ reference/a.txt\n"), "{text}");
        assert!(text.contains("-one\n+two\n"), "{text}");
    }
}
