//! What stands around a page's text, the index, and the feed.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::link::relative;
use super::source::{Kind, Source, Sources};
use crate::drive::files::Digest;

/// The name of the book.
const NAME: &str = "labctl";
/// What it is, in one sentence.
const ABOUT: &str = "A hands-on Kubernetes course, and notes on how it is made.";
/// A page with fewer sections needs no list of them.
const LISTED: usize = 4;

struct Frame<'a> {
    target: &'a str,
    title: &'a str,
    about: &'a str,
    before: Option<&'a Source>,
    after: Option<&'a Source>,
    feed: bool,
}

fn frame(frame: &Frame<'_>, main: &Markup) -> String {
    let to = |target: &str| relative(frame.target, target);
    let title = if frame.title == NAME {
        NAME.to_owned()
    } else {
        format!("{} · {NAME}", frame.title)
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="description" content=(frame.about);
                title { (title) }
                link rel="stylesheet" href=(to("book.css"));
                // Without it a browser asks the server for one.
                link rel="icon" href="data:,";
                @if frame.feed { link rel="alternate" type="application/atom+xml" title=(NAME) href=(to("feed.xml")); }
                @if let Some(page) = frame.before { link rel="prev" href=(to(&page.target)); }
                @if let Some(page) = frame.after { link rel="next" href=(to(&page.target)); }
            }
            body {
                a.skip href="#text" { "Skip to the text" }
                header.top {
                    a.brand href=(to("index.html")) { (NAME) }
                    nav aria-label="Book" {
                        a href={ (to("index.html")) "#chapters" } { "Chapters" }
                        a href={ (to("index.html")) "#posts" } { "Posts" }
                    }
                }
                main #text { (main) }
            }
        }
    }
    .into_string()
        + "\n"
}

/// Returns a page.
pub(super) fn of(source: &Source, sources: &Sources, body: &str) -> String {
    let (before, after) = neighbours(source, sources);
    let sections: Vec<_> = source.headings.iter().filter(|(level, _, _)| *level == 2).collect();
    let main = html! {
        article {
            header {
                @if let Some(number) = &source.number { p.above { "Chapter " (number) } }
                @if let Some(date) = source.date { p.above { time datetime=(date) { (date.strftime("%-d %B %Y")) } } }
                h1 { (source.title) }
                @if source.kind == Kind::Post && let Some(summary) = &source.summary { p.summary { (summary) } }
            }
            @if sections.len() >= LISTED {
                details.contents {
                    summary { "On this page" }
                    ol { @for (_, title, anchor) in &sections { li { a href={ "#" (anchor) } { (title) } } } }
                }
            }
            (PreEscaped(body))
        }
        @if before.is_some() || after.is_some() {
            nav.pages aria-label="Next and previous" {
                @if let Some(page) = before {
                    a.before rel="prev" href=(relative(&source.target, &page.target)) { span { "Previous" } (name(page)) }
                }
                @if let Some(page) = after {
                    a.after rel="next" href=(relative(&source.target, &page.target)) { span { "Next" } (name(page)) }
                }
            }
        }
    };
    let about = source.summary.as_deref().unwrap_or(&source.title);
    frame(
        &Frame {
            target: &source.target,
            title: &source.title,
            about,
            before,
            after,
            feed: sources.of(Kind::Post).next().is_some(),
        },
        &main,
    )
}

fn name(page: &Source) -> Markup {
    html! { @if let Some(number) = &page.number { (number) " " } (page.title) }
}

/// Returns the pages before and after one: chapters by number, posts by day.
fn neighbours<'s>(source: &Source, sources: &'s Sources) -> (Option<&'s Source>, Option<&'s Source>) {
    let mut row: Vec<&Source> = sources.of(source.kind).collect();
    match source.kind {
        Kind::Chapter => {}
        // The newest stands first in the index; to read on is to go forward in time.
        Kind::Post => row.reverse(),
        Kind::Other => return (None, None),
    }
    let at = row.iter().position(|page| page.path == source.path).unwrap_or_default();
    (at.checked_sub(1).map(|at| row[at]), row.get(at + 1).copied())
}

/// Returns the first page.
pub(super) fn index(sources: &Sources) -> String {
    let target = "index.html";
    let to = |page: &Source| relative(target, &page.target);
    let posts = sources.of(Kind::Post).next().is_some();
    let main = html! {
        header { h1 { "labctl" } p.summary { (ABOUT) } }
        section {
            h2 #chapters { "Chapters" }
            @if sources.of(Kind::Chapter).next().is_none() { p { "There are none yet." } }
            ol.list {
                @for page in sources.of(Kind::Chapter) {
                    li {
                        span.above { (page.number.as_deref().unwrap_or_default()) }
                        div {
                            a href=(to(page)) { (page.title) }
                            @if let Some(summary) = &page.summary { p { (summary) } }
                        }
                    }
                }
            }
        }
        section {
            h2 #posts { "Posts" @if posts { " " a.feed href="feed.xml" { "Atom feed" } } }
            @if !posts { p { "There are none yet." } }
            ul.list.posts {
                @for page in sources.of(Kind::Post) {
                    li {
                        div {
                            a href=(to(page)) { (page.title) }
                            @if let Some(summary) = &page.summary { p { (summary) } }
                            @if let Some(date) = page.date { p.above { time datetime=(date) { (date.strftime("%-d %B %Y")) } } }
                        }
                    }
                }
            }
        }
        @if sources.of(Kind::Other).next().is_some() {
            section {
                h2 #more { "Also" }
                ul { @for page in sources.of(Kind::Other) { li { a href=(to(page)) { (page.title) } } } }
            }
        }
    };
    frame(
        &Frame {
            target,
            title: NAME,
            about: ABOUT,
            before: None,
            after: None,
            feed: posts,
        },
        &main,
    )
}

/// Returns the feed of the posts; nothing where there is none.
///
/// Ids come from the posts' names, so that a reader knows a post again wherever the book is.
pub(super) fn feed(sources: &Sources, address: Option<&str>) -> Option<String> {
    let newest = sources.of(Kind::Post).filter_map(|page| page.date).max()?;
    let base = address.map(|address| format!("{}/", address.trim_end_matches('/')));
    let base = base.as_deref();
    let url = |target: &str| format!("{}{}", base.unwrap_or_default(), relative("", target));
    let markup = html! {
        (PreEscaped("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n"))
        feed xmlns="http://www.w3.org/2005/Atom" {
            title { (NAME) }
            subtitle { (ABOUT) }
            id { (id("")) }
            updated { (newest) "T00:00:00Z" }
            author { name { "The authors of labctl" } }
            @if base.is_some() { (PreEscaped(format!("<link rel=\"self\" href=\"{}\"/>", escaped(&url("feed.xml"))))) }
            (PreEscaped(format!("<link href=\"{}\"/>", escaped(&url("index.html")))))
            @for page in sources.of(Kind::Post) {
                (PreEscaped("\n"))
                entry {
                    title { (page.title) }
                    id { (id(&page.target)) }
                    @if let Some(date) = page.date { updated { (date) "T00:00:00Z" } }
                    (PreEscaped(format!("<link href=\"{}\"/>", escaped(&url(&page.target)))))
                    @if let Some(text) = &page.summary { summary { (text) } }
                }
            }
        }
    };
    Some(markup.into_string() + "\n")
}

fn escaped(text: &str) -> String {
    html! { (text) }.into_string()
}

/// Returns a UUID made from a name (version 8 of RFC 9562: its bits are ours).
fn id(name: &str) -> String {
    let mut hex: Vec<char> = Digest::of(format!("labctl book {name}").as_bytes())
        .hex()
        .chars()
        .take(32)
        .collect();
    hex[12] = '8';
    hex[16] = 'a';
    let hex: String = hex.into_iter().collect();
    format!(
        "urn:uuid:{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
