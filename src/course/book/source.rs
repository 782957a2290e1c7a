//! What the book is made of: chapters, posts, and other Markdown files that these lead to.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::civil::Date;
use pulldown_cmark::{Event, Parser, Tag};
use serde::Deserialize;

use super::Mistake;
use super::link;
use crate::course::catalogue::Catalogue;
use crate::error::{Code, Diagnosis};
use crate::prose::span::{Document, Language, options};

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Chapter,
    Post,
    Other,
}

/// A page, before it is HTML.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) kind: Kind,
    /// The file, from the project's top.
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// The page's path in the book.
    pub(super) target: String,
    /// `01` of a chapter.
    pub(super) number: Option<String>,
    pub(super) title: String,
    /// The day of a post.
    pub(super) date: Option<Date>,
    /// What a chapter makes work, or what a post says in one sentence.
    pub(super) summary: Option<String>,
    /// Headings: level, words, anchor.
    pub(super) headings: Vec<(u8, String, String)>,
    /// All that a fragment can name, footnotes apart.
    pub(super) anchors: Vec<String>,
}

/// What a post says before its text.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Front {
    title: Option<String>,
    date: Option<String>,
    summary: Option<String>,
}

/// All pages: the chapters in their order, the posts from the newest on, then the others.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) pages: Vec<Source>,
}

impl Sources {
    /// Reads the pages of a project.
    pub(super) fn read(root: &Path, mistakes: &mut Vec<Mistake>) -> Result<Self> {
        let labs = root.join("labs");
        if !labs.is_dir() {
            let text = format!(
                "there is no folder `{}`, so there are no chapters and no posts",
                labs.display()
            );
            return Err(Diagnosis::new(Code::SpecUnreadable, text)
                .hint("run it in a checkout of the course, or name one with --root")
                .error());
        }
        let mut pages = chapters(root, mistakes)?;
        pages.extend(posts(root, mistakes)?);
        if pages.is_empty() {
            let text = format!("there is neither a chapter nor a post in `{}`", labs.display());
            return Err(Diagnosis::new(Code::SpecUnreadable, text)
                .hint("a chapter is NN-name/README.md, a post is blog/NAME.md")
                .error());
        }
        follow(root, &mut pages, mistakes)?;
        Ok(Self { pages })
    }

    /// Returns the pages of one kind, in order.
    pub(super) fn of(&self, kind: Kind) -> impl DoubleEndedIterator<Item = &Source> {
        self.pages.iter().filter(move |page| page.kind == kind)
    }
}

fn load(root: &Path, path: &Path) -> Result<String> {
    let whole = root.join(path);
    std::fs::read_to_string(&whole).with_context(|| format!("read `{}`", whole.display()))
}

fn source(kind: Kind, path: PathBuf, text: String, target: String, mistakes: &mut Vec<Mistake>) -> Source {
    let document = Document::new(&text, Language::Markdown);
    for (label, at) in &document.missing {
        mistakes.push(Mistake {
            file: path.clone(),
            line: document.place(at.start).line,
            text: format!("no link definition `[{label}]: ...` is in this file"),
        });
    }
    let headings: Vec<(u8, String, String)> = document
        .headings
        .iter()
        .map(|heading| (heading.level, heading.text.trim().to_owned(), heading.anchor.clone()))
        .collect();
    let title = match headings.first() {
        Some((1, title, _)) => title.clone(),
        _ => path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default(),
    };
    Source {
        kind,
        target,
        number: None,
        title,
        date: None,
        summary: None,
        anchors: headings.iter().map(|(_, _, anchor)| anchor.clone()).collect(),
        headings,
        path,
        text,
    }
}

fn chapters(root: &Path, mistakes: &mut Vec<Mistake>) -> Result<Vec<Source>> {
    let mut out = Vec::new();
    for entry in Catalogue::of_dir(&root.join("labs"))?.entries() {
        let chapter = entry.read()?;
        let path = Path::new("labs").join(&entry.slug).join("README.md");
        if !root.join(&path).is_file() {
            continue;
        }
        let target = format!("chapters/{}.html", entry.slug);
        let text = load(root, &path)?;
        let mut page = source(Kind::Chapter, path, text, target, mistakes);
        page.title = chapter.title;
        page.number = Some(entry.id.clone());
        page.summary = Some(chapter.works_after);
        out.push(page);
    }
    Ok(out)
}

fn posts(root: &Path, mistakes: &mut Vec<Mistake>) -> Result<Vec<Source>> {
    let dir = root.join("labs/blog");
    let mut names = Vec::new();
    if dir.is_dir() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("read the directory `{}`", dir.display()))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if link::is_markdown(Path::new(&name)) && name != "README.md" {
                names.push(name);
            }
        }
    }
    names.sort();
    let mut out = Vec::new();
    for name in names {
        let path = Path::new("labs/blog").join(&name);
        let text = load(root, &path)?;
        let front = front(&text);
        let target = format!("posts/{}.html", name.trim_end_matches(".md"));
        let mut page = source(Kind::Post, path.clone(), text, target, mistakes);
        let mut wrong = |text: String| {
            mistakes.push(Mistake {
                file: path.clone(),
                line: 1,
                text,
            });
        };
        match front {
            Ok(front) => {
                page.title = front.title.unwrap_or(page.title);
                page.date = front.date.as_deref().and_then(|date| date.parse().ok());
                if page.date.is_none() {
                    wrong("a post begins with its day: `---`, `date: 2026-01-31`, `summary: ...`, `---`".into());
                }
                if front.summary.is_none() {
                    wrong("a post has a `summary:` of one sentence beside its `date:`".into());
                }
                page.summary = front.summary;
            }
            Err(text) => wrong(text),
        }
        out.push(page);
    }
    // The newest first; of one day, by name.
    out.sort_by(|a, b| b.date.cmp(&a.date).then_with(|| a.path.cmp(&b.path)));
    Ok(out)
}

/// Reads what stands between `---` and `---` at the beginning of a post.
fn front(text: &str) -> Result<Front, String> {
    let mut inside = false;
    for event in Parser::new_ext(text, options()) {
        match event {
            Event::Start(Tag::MetadataBlock(_)) => inside = true,
            Event::Text(text) if inside => {
                return serde_saphyr::from_str(&text).map_err(|error| {
                    let first = error.to_string();
                    format!(
                        "what stands before the post: {}",
                        first.lines().next().unwrap_or_default()
                    )
                });
            }
            _ => break,
        }
    }
    Ok(Front::default())
}

/// Adds the Markdown files that pages lead to, and those that these lead to.
fn follow(root: &Path, pages: &mut Vec<Source>, mistakes: &mut Vec<Mistake>) -> Result<()> {
    let mut others = BTreeMap::new();
    let known: Vec<PathBuf> = pages.iter().map(|page| page.path.clone()).collect();
    let mut waiting: VecDeque<PathBuf> = pages.iter().flat_map(|page| led_to(root, page)).collect();
    while let Some(path) = waiting.pop_front() {
        if known.contains(&path) || others.contains_key(&path) {
            continue;
        }
        let target = format!("more/{}.html", link::slashed(&path.with_extension("")));
        let page = source(Kind::Other, path.clone(), load(root, &path)?, target, mistakes);
        waiting.extend(led_to(root, &page));
        others.insert(path, page);
    }
    pages.extend(others.into_values());
    Ok(())
}

/// Returns the Markdown files that a page links to and that are there.
fn led_to(root: &Path, page: &Source) -> Vec<PathBuf> {
    let document = Document::new(&page.text, Language::Markdown);
    let links = document.links.iter();
    links
        .filter_map(|to| link::file(root, &page.path, &to.to).ok().flatten())
        .map(|(path, _)| path)
        .filter(|path| link::is_markdown(path))
        .collect()
}
