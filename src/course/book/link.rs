//! Links of the book: between Markdown files they lead to pages, to other files of the project they lead to copies.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::source::{Source, Sources};

/// What cannot stand in a path of a URL as it is.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`');

/// Returns a path with `/` between its parts, on any system.
pub(super) fn slashed(path: &Path) -> String {
    let parts = path.components().map(|part| part.as_os_str().to_string_lossy());
    parts.collect::<Vec<_>>().join("/")
}

/// Returns whether a file becomes a page.
pub(super) fn is_markdown(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "md")
}

/// Returns the file of the project that a link means, from the project's top, and its fragment; nothing where the link
/// leads out of the book, or stays in its page.
///
/// # Errors
/// What is wrong with the link.
pub(super) fn file(root: &Path, from: &Path, to: &str) -> Result<Option<(PathBuf, Option<String>)>, String> {
    let (path, fragment) = to
        .split_once('#')
        .map_or((to, None), |(path, fragment)| (path, Some(decoded(fragment))));
    if path.is_empty() {
        return Ok(None);
    }
    let head = path.split(['/', '?']).next().unwrap_or_default();
    if let Some((scheme, _)) = head.split_once(':') {
        return match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" | "mailto" => Ok(None),
            _ => Err(format!(
                "`{to}`: the book leads by http, https and mailto only, not by `{scheme}`"
            )),
        };
    }
    if path.starts_with("//") {
        return Err(format!("`{to}` has no scheme: write https:"));
    }
    let named = decoded(path.split('?').next().unwrap_or_default());
    let start = if named.starts_with('/') {
        Path::new("")
    } else {
        from.parent().unwrap_or(Path::new(""))
    };
    let outside = || format!("`{named}` leads out of the project");
    let mut found = PathBuf::new();
    for part in start.join(named.trim_start_matches('/')).components() {
        match part {
            Component::Normal(part) => found.push(part),
            Component::CurDir => {}
            Component::ParentDir => {
                if !found.pop() {
                    return Err(outside());
                }
            }
            Component::RootDir | Component::Prefix(_) => return Err(outside()),
        }
    }
    let mut whole = root.join(&found);
    if whole.is_dir() {
        found.push("README.md");
        whole.push("README.md");
    }
    if !whole.is_file() {
        return Err(format!("there is no file `{named}`"));
    }
    // A symbolic link may lead elsewhere.
    let inside = match (whole.canonicalize(), root.canonicalize()) {
        (Ok(whole), Ok(root)) => whole.starts_with(root),
        _ => false,
    };
    if inside {
        Ok(Some((found, fragment)))
    } else {
        Err(outside())
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Returns how one file of the book names another.
pub(super) fn relative(from: &str, to: &str) -> String {
    let up = "../".repeat(from.matches('/').count());
    format!("{up}{}", utf8_percent_encode(to, ESCAPED))
}

/// Leads from page to page, and remembers which files the book must have copies of.
pub(super) struct Links<'s> {
    root: &'s Path,
    pages: BTreeMap<&'s Path, &'s Source>,
    copies: BTreeMap<String, PathBuf>,
}

impl<'s> Links<'s> {
    pub(super) fn new(root: &'s Path, sources: &'s Sources) -> Self {
        Self {
            root,
            pages: sources.pages.iter().map(|page| (page.path.as_path(), page)).collect(),
            copies: BTreeMap::new(),
        }
    }

    /// Returns the URL of a link in a page.
    ///
    /// # Errors
    /// It leads nowhere, and why.
    pub(super) fn link(&mut self, from: &Source, to: &str) -> Result<String, String> {
        let Some((path, fragment)) = file(self.root, &from.path, to)? else {
            return match to.strip_prefix('#') {
                Some(fragment) => anchor(from, &decoded(fragment)).map(|()| to.to_owned()),
                None => Ok(to.to_owned()),
            };
        };
        let Some(page) = self.pages.get(path.as_path()) else {
            return Ok(self.copy(from, path));
        };
        let url = relative(&from.target, &page.target);
        match fragment {
            Some(fragment) => {
                anchor(page, &fragment)?;
                Ok(format!("{url}#{}", utf8_percent_encode(&fragment, ESCAPED)))
            }
            None => Ok(url),
        }
    }

    /// Returns the URL of a picture in a page.
    ///
    /// # Errors
    /// It is not in the project.
    pub(super) fn picture(&mut self, from: &Source, to: &str) -> Result<String, String> {
        match file(self.root, &from.path, to)? {
            Some((path, _)) => Ok(self.copy(from, path)),
            None => Err(format!(
                "`{to}`: the book shows no pictures of other hosts; put it into the project"
            )),
        }
    }

    fn copy(&mut self, from: &Source, path: PathBuf) -> String {
        let target = format!("files/{}", slashed(&path));
        let url = relative(&from.target, &target);
        self.copies.insert(target, path);
        url
    }

    /// Returns the files to copy: where to, and where from.
    pub(super) fn copied(self) -> BTreeMap<String, PathBuf> {
        self.copies
    }
}

fn anchor(page: &Source, fragment: &str) -> Result<(), String> {
    if page.anchors.iter().any(|anchor| anchor == fragment) {
        return Ok(());
    }
    Err(format!(
        "no heading of `{}` has the anchor `#{fragment}`",
        slashed(&page.path)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_means_a_file_of_the_project_or_is_refused() {
        let root = tempfile::tempdir().expect("a folder");
        for name in ["labs/01-a/README.md", "labs/blog/a b.md", "x.yaml"] {
            crate::drive::files::write(&root.path().join(name), "").expect("written");
        }
        let file = |to: &str| file(root.path(), Path::new("labs/01-a/README.md"), to);
        let path = |to: &str| file(to).map(|found| found.map(|(path, _)| slashed(&path)));
        assert_eq!(path("../blog/a%20b.md#c"), Ok(Some("labs/blog/a b.md".into())));
        assert_eq!(path("/x.yaml"), Ok(Some("x.yaml".into())));
        assert_eq!(path("../01-a/"), Ok(Some("labs/01-a/README.md".into())));
        for away in ["https://a.b/c", "mailto:a@b", "#here"] {
            assert_eq!(path(away), Ok(None), "{away}");
        }
        for (to, why) in [
            ("javascript:alert(1)", "not by `javascript`"),
            ("JAVAscript:alert(1)", "not by"),
            ("data:text/html,x", "not by `data`"),
            ("file:///etc/passwd", "not by `file`"),
            ("//a.b/c", "no scheme"),
            ("../../../etc/passwd", "out of the project"),
            ("no.md", "there is no file `no.md`"),
            ("../blog", "there is no file"),
        ] {
            let said = path(to).expect_err(to);
            assert!(said.contains(why), "{to}: {said}");
        }
        std::os::unix::fs::symlink("/etc/hostname", root.path().join("labs/01-a/out")).expect("a link");
        assert!(file("out").expect_err("outside").contains("out of the project"));
    }

    #[test]
    fn urls_are_relative_and_escaped() {
        assert_eq!(relative("posts/a.html", "chapters/b c.html"), "../chapters/b%20c.html");
        assert_eq!(relative("index.html", "book.css"), "book.css");
        assert_eq!(relative("more/a/b.html", "files/100%.txt"), "../../files/100%25.txt");
    }
}
