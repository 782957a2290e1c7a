//! Markdown: blocks, headings, code blocks, links and lists, through pulldown-cmark.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

use pulldown_cmark::{BrokenLink, CodeBlockKind, CowStr, Event, LinkType, Options, Parser, Tag, TagEnd};

use super::{Block, Builder, Document, Fence, Heading, Kind, Language, Link, List};

/// Returns what Markdown is here: CommonMark with tables, footnotes, strikethrough, task lists, front matter and GitHub's alerts.
pub fn options() -> Options {
    Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS
        | Options::ENABLE_PLUSES_DELIMITED_METADATA_BLOCKS
        | Options::ENABLE_GFM
}

/// Reads a Markdown file.
pub(super) fn read(document: &mut Document) {
    let text = document.text;
    let mdx = document.language == Language::Mdx;
    Reader::new(text, document, mdx).run();
}

/// Returns the blocks of Markdown that stands in something else, such as a comment; places are of `text`.
pub(super) fn blocks(text: &str, kind: Kind) -> Vec<Block> {
    let mut document = Document::new(text, Language::Other);
    Reader::new(text, &mut document, false).run();
    let mut blocks = document.blocks;
    for block in &mut blocks {
        block.kind = kind;
    }
    blocks
}

struct Reader<'a, 'd, 't> {
    text: &'a str,
    out: &'d mut Document<'t>,
    mdx: bool,
    open: Option<Builder>,
    /// The heading that is open: its level, its text with inline code, its place.
    heading: Option<(u8, String, Range<usize>)>,
    fence: Option<Fence>,
    quotes: usize,
    items: usize,
    depth: usize,
    /// Within an image or an autolink, whose text is not prose.
    skip: usize,
    lists: Vec<Option<List>>,
    anchors: HashMap<String, usize>,
    /// Within a comment of several lines.
    comment: bool,
}

impl<'a, 'd, 't> Reader<'a, 'd, 't> {
    fn new(text: &'a str, out: &'d mut Document<'t>, mdx: bool) -> Self {
        Self {
            text,
            out,
            mdx,
            open: None,
            heading: None,
            fence: None,
            quotes: 0,
            items: 0,
            depth: 0,
            skip: 0,
            lists: Vec::new(),
            anchors: HashMap::new(),
            comment: false,
        }
    }

    fn run(mut self) {
        let missing: RefCell<Vec<(String, Range<usize>)>> = RefCell::default();
        let callback = |link: BrokenLink<'_>| -> Option<(CowStr<'_>, CowStr<'_>)> {
            // `[sic]` is prose; `[text][label]` and `[label][]` can only be meant as links.
            if matches!(link.link_type, LinkType::Reference | LinkType::Collapsed) {
                missing.borrow_mut().push((link.reference.to_string(), link.span));
            }
            None
        };
        let parser = Parser::new_with_broken_link_callback(self.text, options(), Some(callback));
        for (event, range) in parser.into_offset_iter() {
            self.event(event, range);
        }
        self.close();
        self.out.missing = missing.into_inner();
        self.out.missing.sort_by_key(|(_, range)| range.start);
        self.out.missing.dedup();
        self.out.blocks.sort_by_key(Block::start);
    }

    fn close(&mut self) {
        let Some(block) = self.open.take().and_then(Builder::finish) else {
            return;
        };
        let script = self.mdx
            && block.kind == Kind::Paragraph
            && ["import ", "export ", "{"]
                .iter()
                .any(|start| block.text.starts_with(start));
        if !script {
            self.out.blocks.push(block);
        }
    }

    fn builder(&mut self) -> &mut Builder {
        let kind = if self.items > 0 { Kind::Item } else { Kind::Paragraph };
        let quoted = self.quotes > 0;
        self.open.get_or_insert_with(|| Builder::new(kind, quoted))
    }

    fn event(&mut self, event: Event<'_>, range: Range<usize>) {
        match event {
            Event::Start(tag) => {
                if self.depth == 0 {
                    self.out.parts.push(range.clone());
                }
                self.depth += 1;
                self.start(tag, range);
            }
            Event::End(tag) => {
                self.depth = self.depth.saturating_sub(1);
                self.end(tag, range);
            }
            Event::Text(text) => {
                if let Some(fence) = &mut self.fence {
                    let mut at = range.start;
                    for line in text.split_inclusive('\n') {
                        // Text that was joined from two places cannot be counted through; its first place is near.
                        let place = if text.len() == range.len() { at } else { range.start };
                        match fence.lines.last_mut() {
                            Some((last, _)) if !last.ends_with('\n') => last.push_str(line),
                            _ => fence.lines.push((line.to_owned(), place)),
                        }
                        at += line.len();
                    }
                    self.out.verbatim.push(range);
                    return;
                }
                if let Some((_, said, _)) = &mut self.heading {
                    said.push_str(&text);
                }
                if self.skip == 0 {
                    self.prose(&text, range);
                }
            }
            Event::Code(code) => {
                if let Some((_, said, _)) = &mut self.heading {
                    said.push_str(&code);
                }
                if self.text[range.clone()].contains('\n') {
                    self.out.verbatim.push(range.clone());
                }
                if self.skip == 0 {
                    self.builder().opaque(range);
                }
            }
            Event::InlineMath(_) | Event::DisplayMath(_) | Event::FootnoteReference(_) => {
                self.builder().opaque(range);
            }
            Event::Html(html) | Event::InlineHtml(html) => self.html(&html, range),
            Event::SoftBreak => self.builder().space(range),
            Event::HardBreak => {
                if self.text[range.clone()].starts_with([' ', '\t']) {
                    self.out.breaks.push(range.clone());
                }
                self.builder().space(range);
            }
            Event::Rule => {
                if self.depth == 0 {
                    self.out.parts.push(range);
                }
            }
            Event::TaskListMarker(_) => {}
        }
    }

    /// Adds text, with URLs made opaque: they are read by programs.
    fn prose(&mut self, text: &str, range: Range<usize>) {
        if text.len() != range.len() || !text.contains("://") {
            self.builder().push(text, range);
            return;
        }
        let mut done = 0;
        while let Some(found) = text[done..].find("://") {
            let mark = done + found;
            let word = text[done..mark]
                .char_indices()
                .rev()
                .take_while(|(_, c)| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
                .last()
                .map_or(mark, |(at, _)| done + at);
            let end = text[mark..]
                .find(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"' | ')'))
                .map_or(text.len(), |at| mark + at);
            // A full stop after a URL ends the sentence, not the URL.
            let end = mark + text[mark..end].trim_end_matches(['.', ',', ';', ':', '!', '?']).len();
            let end = end.max(mark + 3);
            let from = range.start;
            self.builder().push(&text[done..word], from + done..from + word);
            self.builder().opaque(from + word..from + end);
            done = end;
        }
        let from = range.start;
        self.builder().push(&text[done..], from + done..from + text.len());
    }

    fn html(&mut self, html: &str, range: Range<usize>) {
        let begins = html.trim_start().starts_with("<!--");
        if begins || self.comment {
            match self.out.comments.last_mut() {
                Some(last) if self.comment && last.end == range.start => last.end = range.end,
                _ => self.out.comments.push(range.clone()),
            }
            self.comment = !html.contains("-->");
        }
        if html.contains("<pre") || html.contains("<textarea") {
            self.out.verbatim.push(range);
        }
        for name in ["id=", "name="] {
            for (at, _) in html.match_indices(name) {
                let value = &html[at + name.len()..];
                let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
                    continue;
                };
                if let Some(value) = value[1..].split(quote).next() {
                    self.out.anchors.push(value.to_owned());
                }
            }
        }
    }

    fn start(&mut self, tag: Tag<'_>, range: Range<usize>) {
        match tag {
            Tag::Emphasis | Tag::Strong | Tag::Strikethrough | Tag::Superscript | Tag::Subscript => return,
            Tag::Link {
                link_type, dest_url, ..
            } => {
                self.out.links.push(Link {
                    to: dest_url.into_string(),
                    source: range.clone(),
                });
                if matches!(link_type, LinkType::Autolink | LinkType::Email) {
                    self.builder().opaque(range);
                    self.skip += 1;
                }
                return;
            }
            Tag::Image { dest_url, .. } => {
                self.out.links.push(Link {
                    to: dest_url.into_string(),
                    source: range.clone(),
                });
                self.builder().opaque(range);
                self.skip += 1;
                return;
            }
            _ => self.close(),
        }
        let quoted = self.quotes > 0;
        match tag {
            Tag::Paragraph => _ = self.builder(),
            Tag::Heading { level, .. } => {
                self.heading = Some((level as u8, String::new(), range));
                self.open = Some(Builder::new(Kind::Heading, quoted));
            }
            Tag::TableCell => self.open = Some(Builder::new(Kind::Cell, quoted)),
            Tag::BlockQuote(_) => self.quotes += 1,
            Tag::Item => {
                self.items += 1;
                let digits: String = self.text[range.start..]
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .take(10)
                    .collect();
                if let (Some(Some(list)), Ok(number)) = (self.lists.last_mut(), digits.parse()) {
                    list.items.push((number, range.start..range.start + digits.len() + 1));
                }
            }
            Tag::List(first) => {
                let depth = self.lists.len();
                self.lists.push(first.map(|_| List {
                    items: Vec::new(),
                    depth,
                }));
            }
            Tag::CodeBlock(kind) => {
                let (info, closed) = match kind {
                    CodeBlockKind::Indented => (String::new(), true),
                    CodeBlockKind::Fenced(info) => (info.into_string(), is_closed(&self.text[range.clone()])),
                };
                self.fence = Some(Fence {
                    info,
                    source: range,
                    lines: Vec::new(),
                    closed,
                });
            }
            Tag::MetadataBlock(_) => {
                self.out.verbatim.push(range);
                self.skip += 1;
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd, range: Range<usize>) {
        match tag {
            TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough | TagEnd::Superscript | TagEnd::Subscript => {
                return;
            }
            TagEnd::Link => {
                let autolink = self.text[range].starts_with('<');
                self.skip = self.skip.saturating_sub(usize::from(autolink));
                return;
            }
            TagEnd::Image | TagEnd::MetadataBlock(_) => {
                self.skip = self.skip.saturating_sub(1);
                return;
            }
            _ => self.close(),
        }
        match tag {
            TagEnd::Heading(_) => {
                if let Some((level, text, source)) = self.heading.take() {
                    let anchor = self.anchor(&text);
                    self.out.headings.push(Heading {
                        level,
                        text,
                        anchor,
                        source,
                    });
                }
            }
            TagEnd::BlockQuote(_) => self.quotes = self.quotes.saturating_sub(1),
            TagEnd::Item => self.items = self.items.saturating_sub(1),
            TagEnd::List(_) => self.out.lists.extend(self.lists.pop().flatten()),
            TagEnd::HtmlBlock => self.comment = false,
            TagEnd::CodeBlock => {
                if let Some(mut fence) = self.fence.take() {
                    for (line, _) in &mut fence.lines {
                        line.truncate(line.trim_end_matches(['\n', '\r']).len());
                    }
                    self.out.fences.push(fence);
                }
            }
            _ => {}
        }
    }

    /// Returns the fragment of a heading: lower case, spaces to hyphens, marks dropped, a number where it is taken.
    fn anchor(&mut self, text: &str) -> String {
        let mut anchor = String::new();
        for c in text.trim().chars() {
            match c {
                ' ' | '-' => anchor.push('-'),
                c if c.is_alphanumeric() || c == '_' => anchor.extend(c.to_lowercase()),
                _ => {}
            }
        }
        let count = self.anchors.entry(anchor.clone()).or_insert(0);
        *count += 1;
        match *count {
            1 => anchor,
            n => format!("{anchor}-{}", n - 1),
        }
    }
}

/// Returns whether a fenced block ends with its fence.
fn is_closed(block: &str) -> bool {
    let mut lines = block.lines();
    let first = lines.next().unwrap_or_default().trim_start();
    let Some(mark) = first.chars().next() else { return true };
    let length = first.chars().take_while(|c| *c == mark).count();
    let last = lines.last().unwrap_or_default();
    // Behind the marks of a quotation or a list.
    let last = last.trim_start_matches(['>', ' ', '\t']).trim_end();
    last.chars().all(|c| c == mark) && last.chars().count() >= length
}
