//! Which chapters there are: those compiled into the binary, or those of a folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::chapter::Chapter;
use crate::assets;
use crate::check::spec::closest;
use crate::drive::files;
use crate::error::{Code, Diagnose, Diagnosis};

const FILE: &str = "chapter.yaml";

/// Where a chapter is, before it is read.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its number, the first two letters of its folder's name.
    pub id: String,
    /// Its folder's name, such as `02-manifests`.
    pub slug: String,
    file: PathBuf,
    text: String,
    /// The folder on disk; none for a chapter of the binary.
    dir: Option<PathBuf>,
}

impl Entry {
    /// Reads the chapter.
    ///
    /// # Errors
    /// [`Code::SpecInvalid`].
    pub fn read(&self) -> Result<Chapter> {
        let chapter = Chapter::parse(&self.text, &self.file).map_err(Diagnosis::error)?;
        if chapter.id != self.id {
            let text = format!(
                "{}: the id is `{}`, and the folder's name begins with `{}`",
                self.file.display(),
                chapter.id,
                self.id
            );
            return Err(Diagnosis::new(Code::SpecInvalid, text).error());
        }
        Ok(chapter)
    }

    /// Returns the catalogue that it is from.
    ///
    /// # Errors
    /// [`Code::SpecUnreadable`].
    pub fn catalogue(&self) -> Result<Catalogue> {
        match self.dir.as_deref().and_then(Path::parent) {
            Some(dir) => Catalogue::of_dir(dir),
            None => Ok(Catalogue::embedded()),
        }
    }

    /// Returns the files below a part of the chapter's folder, such as `start` or `faults/no-probe`, with their paths
    /// from there; nothing where there is no such part.
    ///
    /// # Errors
    /// [`Code::SpecUnreadable`].
    pub fn files(&self, part: &str) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let Some(dir) = &self.dir else {
            let found = assets::files(&format!("labs/{}/{part}", self.slug));
            return Ok(found.into_iter().map(|(path, bytes)| (path, bytes.to_vec())).collect());
        };
        let top = dir.join(part);
        let unreadable = || {
            let text = format!("the files in `{}` cannot be read", top.display());
            Diagnosis::new(Code::SpecUnreadable, text)
        };
        if !top.exists() {
            return Ok(Vec::new());
        }
        let mut out = Vec::new();
        for path in files::walk(&top)? {
            let bytes = std::fs::read(&path).diagnose(unreadable)?;
            out.push((path.strip_prefix(&top).unwrap_or(&path).to_owned(), bytes));
        }
        out.sort();
        Ok(out)
    }

    /// Returns the text of one file of the chapter's folder; nothing where it is not there.
    ///
    /// # Errors
    /// [`Code::SpecUnreadable`]: it is there and cannot be read.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(dir) = &self.dir else {
            return Ok(assets::text(&format!("labs/{}/{name}", self.slug)).map(str::to_owned));
        };
        let path = dir.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(files::explain(error, "read", &path)),
        }
    }
}

/// The chapters there are, in order.
#[derive(Debug, Clone)]
pub struct Catalogue(Vec<Entry>);

impl Catalogue {
    /// Lists the chapters of this binary.
    pub fn embedded() -> Self {
        let files = assets::files("labs").into_iter().filter_map(|(path, bytes)| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            Some((slug(&path)?, Path::new("labs").join(&path), text, None))
        });
        Self::new(files)
    }

    /// Lists the chapters of a folder.
    ///
    /// # Errors
    /// [`Code::SpecUnreadable`].
    pub fn of_dir(dir: &Path) -> Result<Self> {
        let unreadable = || {
            Diagnosis::new(
                Code::SpecUnreadable,
                format!("the chapters in `{}` cannot be read", dir.display()),
            )
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).diagnose(unreadable)? {
            let file = entry.diagnose(unreadable)?.path().join(FILE);
            let Some(slug) = file.strip_prefix(dir).ok().and_then(slug) else {
                continue;
            };
            if file.exists() {
                let text = std::fs::read_to_string(&file)
                    .with_context(|| format!("read `{}`", file.display()))
                    .diagnose(unreadable)?;
                let dir = file.parent().map(Path::to_owned);
                files.push((slug, file, text, dir));
            }
        }
        Ok(Self::new(files))
    }

    fn new(files: impl IntoIterator<Item = (String, PathBuf, String, Option<PathBuf>)>) -> Self {
        let mut entries: Vec<_> = files
            .into_iter()
            .map(|(slug, file, text, dir)| Entry {
                id: slug[..2].to_owned(),
                slug,
                file,
                text,
                dir,
            })
            .collect();
        entries.sort_by(|a, b| a.slug.cmp(&b.slug));
        Self(entries)
    }

    /// Returns the chapters, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Finds a chapter by its number (`2`, `02`) or its folder's name (`02-manifests`, `manifests`).
    ///
    /// # Errors
    /// [`Code::UnknownChapter`] with the chapters there are.
    pub fn find(&self, name: &str) -> Result<&Entry> {
        let padded = format!("{name:0>2}");
        let found = self
            .0
            .iter()
            .find(|entry| entry.id == padded || entry.slug == name || entry.slug[3..] == *name);
        if let Some(entry) = found {
            return Ok(entry);
        }
        let mut diagnosis = Diagnosis::new(Code::UnknownChapter, format!("there is no chapter `{name}`"));
        let slugs = || self.0.iter().map(|entry| entry.slug.as_str());
        if let Some(meant) = closest(name, slugs().chain(slugs().map(|slug| &slug[3..]))) {
            diagnosis = diagnosis.hint(format!("did you mean `{meant}`?"));
        }
        let all: Vec<_> = slugs().collect();
        Err(diagnosis
            .hint(format!(
                "there are {}; labctl chapter list says what each is about",
                all.join(", ")
            ))
            .error())
    }
}

/// Returns the folder's name of a path `NN-slug/chapter.yaml`.
fn slug(path: &Path) -> Option<String> {
    let folder = path.parent()?.to_str()?;
    let well_formed = path.file_name()? == FILE
        && folder.len() > 3
        && folder.is_ascii()
        && folder[..2].bytes().all(|b| b.is_ascii_digit())
        && folder.as_bytes()[2] == b'-'
        && !folder.contains('/');
    well_formed.then(|| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{exit_of, render};

    #[test]
    fn every_chapter_of_the_binary_can_be_read() {
        let catalogue = Catalogue::embedded();
        assert!(catalogue.entries().len() >= 3);
        for entry in catalogue.entries() {
            let chapter = entry.read().unwrap_or_else(|error| panic!("{}", render(&error)));
            assert_eq!(chapter.id, entry.id);
            let readme = format!("labs/{}/README.md", entry.slug);
            assert!(assets::text(&readme).is_some(), "{readme} is missing");
        }
    }

    #[test]
    fn chapters_are_found_by_number_and_by_name() {
        let catalogue = Catalogue::embedded();
        for name in ["2", "02", "02-manifests", "manifests"] {
            assert_eq!(catalogue.find(name).expect(name).id, "02");
        }
    }

    #[test]
    fn an_unknown_chapter_is_a_usage_error_that_lists_what_there_is() {
        let catalogue = Catalogue::embedded();
        let error = catalogue.find("99").expect_err("no such chapter");
        assert_eq!(exit_of(&error).code(), 2);
        let text = render(&error);
        assert!(
            text.starts_with("error[LAB-USE-002]: there is no chapter `99`\n"),
            "{text}"
        );
        assert!(text.contains("01-kind-cluster, 02-manifests, 03-helm-chart"), "{text}");
        let text = render(&catalogue.find("manifest").expect_err("misspelt"));
        assert!(text.contains("hint: did you mean `manifests`?"), "{text}");
    }

    #[test]
    fn a_folder_of_chapters_is_listed_and_its_faults_are_placed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("07-mine/chapter.yaml");
        files::write(&file, "id: \"07\"\ntitel: x\n").expect("writable");
        let catalogue = Catalogue::of_dir(dir.path()).expect("readable");
        let error = catalogue.find("07").expect("listed").read().expect_err("misspelt key");
        let place = format!("{}:2:1: unknown key `titel`; did you mean `title`?", file.display());
        assert!(render(&error).contains(&place), "{}", render(&error));
        let error = Catalogue::of_dir(&dir.path().join("none")).expect_err("no such folder");
        assert_eq!(exit_of(&error).code(), 2);
    }
}
