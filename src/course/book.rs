//! The book: chapters and posts as a folder of pages that need no server, no script and no other host.
//!
//! `source` reads what there is to show, `text` turns Markdown into HTML, `link` leads from page to page,
//! `page` puts the parts of a page around its text, [`folder`] writes all of it at once. The same sources give the same
//! bytes: nothing in a page says when or where it was made.

pub mod folder;
mod link;
mod page;
mod source;
mod text;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::assets;
use crate::error::{Code, Diagnosis};
use link::Links;
use source::Sources;

/// The style sheet, in the binary and in the book.
const STYLE: &str = "assets/book/book.css";

/// Something in a source that cannot be shown as it is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mistake {
    /// The file, from the project's top.
    file: PathBuf,
    line: usize,
    text: String,
}

/// A book, before it is written.
#[derive(Debug)]
pub struct Book {
    /// Its files by their path in the folder, with `/` between the parts.
    pub files: BTreeMap<String, Vec<u8>>,
    /// How many chapters it has.
    pub chapters: usize,
    /// How many posts.
    pub posts: usize,
    /// How many pages that a chapter or a post leads to.
    pub others: usize,
}

/// Makes the book of a project: the chapters in `labs/NN-name/`, the posts in `labs/blog/`, and what they lead to.
///
/// `address` is where the book will be read, for its feed; the pages themselves work anywhere.
///
/// # Errors
/// There is nothing to show, a file cannot be read, or [`Code::SpecInvalid`] with the place of everything in the sources
/// that cannot be shown: links that lead nowhere, HTML, pictures of other hosts.
pub fn make(root: &Path, address: Option<&str>) -> Result<Book> {
    let mut mistakes = Vec::new();
    let sources = Sources::read(root, &mut mistakes)?;
    let mut links = Links::new(root, &sources);
    let mut files = BTreeMap::new();
    let style = assets::text(STYLE).unwrap_or_default();
    files.insert("book.css".to_owned(), style.as_bytes().to_vec());
    for source in &sources.pages {
        let body = text::html(source, &mut links, &mut mistakes);
        let html = page::of(source, &sources, &body);
        files.insert(source.target.clone(), html.into_bytes());
    }
    if !mistakes.is_empty() {
        return Err(refused(mistakes));
    }
    files.insert("index.html".to_owned(), page::index(&sources).into_bytes());
    if let Some(feed) = page::feed(&sources, address) {
        files.insert("feed.xml".to_owned(), feed.into_bytes());
    }
    for (target, path) in links.copied() {
        let bytes = std::fs::read(root.join(&path))
            .map_err(|error| anyhow::Error::new(error).context(format!("read `{}`", path.display())))?;
        files.insert(target, bytes);
    }
    let count = |kind| sources.pages.iter().filter(|page| page.kind == kind).count();
    Ok(Book {
        chapters: count(source::Kind::Chapter),
        posts: count(source::Kind::Post),
        others: count(source::Kind::Other),
        files,
    })
}

fn refused(mut mistakes: Vec<Mistake>) -> anyhow::Error {
    mistakes.sort();
    mistakes.dedup();
    let count = match mistakes.len() {
        1 => "one thing".to_owned(),
        n => format!("{n} things"),
    };
    let mut text = format!("the book cannot be made: {count} in its sources cannot be shown");
    for Mistake { file, line, text: what } in &mistakes {
        _ = write!(text, "\n  {}:{line}: {what}", file.display());
    }
    Diagnosis::new(Code::SpecInvalid, text)
        .hint("mend these places; nothing was written")
        .error()
}
