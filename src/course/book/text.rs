//! Markdown to HTML. What the Markdown holds of HTML is refused, its comments are dropped.

use std::ops::Range;

use maud::{Markup, html};
use pulldown_cmark::{CodeBlockKind, CowStr, Event, Parser, Tag, TagEnd, html as writer};

use super::Mistake;
use super::link::Links;
use super::source::Source;
use crate::prose::span::options;

/// Turns a page's text into HTML, without its title.
pub(super) fn html(source: &Source, links: &mut Links<'_>, mistakes: &mut Vec<Mistake>) -> String {
    let mut reader = Reader {
        source,
        links,
        mistakes,
        headings: 0,
        code: None,
        raw: None,
        skip: None,
        out: Vec::new(),
    };
    for (event, range) in Parser::new_ext(&source.text, options()).into_offset_iter() {
        reader.event(event, &range);
    }
    let mut text = String::new();
    writer::push_html(&mut text, reader.out.into_iter());
    text
}

struct Reader<'a, 'l, 's> {
    source: &'a Source,
    links: &'l mut Links<'s>,
    mistakes: &'l mut Vec<Mistake>,
    /// How many headings have begun.
    headings: usize,
    /// The code block that is open: what stands behind its fence, and its text.
    code: Option<(String, String)>,
    /// The HTML block that is open, and where it begins.
    raw: Option<(String, Range<usize>)>,
    /// The end of something that is not shown here.
    skip: Option<TagEnd>,
    out: Vec<Event<'a>>,
}

impl<'a> Reader<'a, '_, '_> {
    fn wrong(&mut self, at: &Range<usize>, text: String) {
        let before = self.source.text.get(..at.start).unwrap_or_default();
        self.mistakes.push(Mistake {
            file: self.source.path.clone(),
            line: before.matches('\n').count() + 1,
            text,
        });
    }

    fn push(&mut self, markup: Markup) {
        self.out.push(Event::Html(markup.into_string().into()));
    }

    fn event(&mut self, event: Event<'a>, at: &Range<usize>) {
        if let Some(end) = self.skip {
            if event == Event::End(end) {
                self.skip = None;
            }
            return;
        }
        match event {
            Event::Start(Tag::MetadataBlock(kind)) => self.skip = Some(TagEnd::MetadataBlock(kind)),
            Event::Start(Tag::Heading {
                level, classes, attrs, ..
            }) => {
                let index = self.headings;
                self.headings += 1;
                if index == 0 && level as u8 == 1 {
                    // The title stands above the text.
                    self.skip = Some(TagEnd::Heading(level));
                    return;
                }
                let id = self
                    .source
                    .headings
                    .get(index)
                    .map(|(_, _, anchor)| CowStr::from(anchor.clone()));
                self.out.push(Event::Start(Tag::Heading {
                    level,
                    id,
                    classes,
                    attrs,
                }));
            }
            Event::End(TagEnd::Heading(level)) => {
                if let Some((_, title, anchor)) =
                    self.headings.checked_sub(1).and_then(|at| self.source.headings.get(at))
                {
                    let label = format!("Link to: {title}");
                    let link = html! { " " a.anchor href={ "#" (anchor) } aria-label=(label) { "#" } };
                    self.push(link);
                }
                self.out.push(Event::End(TagEnd::Heading(level)));
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                let info = match kind {
                    CodeBlockKind::Fenced(info) => info.into_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                self.code = Some((info, String::new()));
            }
            Event::End(TagEnd::CodeBlock) => {
                if let Some((info, text)) = self.code.take() {
                    self.push(code(&info, &text));
                }
            }
            Event::Text(text) if self.code.is_some() => {
                if let Some((_, code)) = &mut self.code {
                    code.push_str(&text);
                }
            }
            Event::Start(Tag::HtmlBlock) => self.raw = Some((String::new(), at.clone())),
            Event::End(TagEnd::HtmlBlock) => {
                if let Some((raw, at)) = self.raw.take() {
                    self.raw_html(&raw, &at);
                }
            }
            Event::Html(text) => match &mut self.raw {
                Some((raw, _)) => raw.push_str(&text),
                None => self.raw_html(&text, at),
            },
            Event::InlineHtml(text) => self.raw_html(&text, at),
            Event::Start(Tag::Table(alignments)) => {
                self.push(html! { (maud::PreEscaped("<div class=\"wide\" role=\"region\" aria-label=\"Table\" tabindex=\"0\">")) });
                self.out.push(Event::Start(Tag::Table(alignments)));
            }
            Event::End(TagEnd::Table) => {
                self.out.push(Event::End(TagEnd::Table));
                self.push(html! { (maud::PreEscaped("</div>")) });
            }
            Event::Start(Tag::Link {
                link_type,
                dest_url,
                title,
                id,
            }) => {
                let dest_url = self.led(at, dest_url, false);
                self.out.push(Event::Start(Tag::Link {
                    link_type,
                    dest_url,
                    title,
                    id,
                }));
            }
            Event::Start(Tag::Image {
                link_type,
                dest_url,
                title,
                id,
            }) => {
                let dest_url = self.led(at, dest_url, true);
                self.out.push(Event::Start(Tag::Image {
                    link_type,
                    dest_url,
                    title,
                    id,
                }));
            }
            other => self.out.push(other),
        }
    }

    fn led(&mut self, at: &Range<usize>, to: CowStr<'a>, picture: bool) -> CowStr<'a> {
        // An address of mail in angle brackets has no scheme in the source.
        if to.contains('@') && !to.contains([':', '/', '#']) {
            return to;
        }
        let found = if picture {
            self.links.picture(self.source, &to)
        } else {
            self.links.link(self.source, &to)
        };
        match found {
            Ok(url) => url.into(),
            Err(text) => {
                self.wrong(at, text);
                to
            }
        }
    }

    /// Takes comments away and refuses the rest.
    fn raw_html(&mut self, raw: &str, at: &Range<usize>) {
        let mut rest = raw;
        let mut left = String::new();
        while let Some((before, comment)) = rest.split_once("<!--") {
            left.push_str(before);
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
        }
        left.push_str(rest);
        let left = left.trim();
        if !left.is_empty() {
            let first = left.lines().next().unwrap_or_default();
            self.wrong(
                at,
                format!("HTML is not taken: `{first}`; write Markdown, or put it into backquotes"),
            );
        }
    }
}

/// Shows a code block.
fn code(info: &str, text: &str) -> Markup {
    let mut words = info.split_whitespace();
    let language = words.next().unwrap_or_default();
    let file = words.clone().find_map(|word| word.strip_prefix("file="));
    let untested = words.find(|word| word.starts_with("untested"));
    let reason = words.collect::<Vec<_>>().join(" ");
    // A block that is wider than the screen scrolls, also by keys.
    let block = match language {
        "console" | "shell-session" => html! { pre.session tabindex="0" { code { (session(text)) } } },
        "diff" => html! { pre tabindex="0" { code { (diff(text)) } } },
        _ => html! { pre tabindex="0" { code { (text) } } },
    };
    match (file, untested) {
        (Some(name), _) => html! { figure { figcaption { code { (name) } } (block) } },
        (None, Some(_)) => html! { figure { (block) figcaption { "Not run by the tests: " (reason) } } },
        (None, None) => block,
    }
}

/// Shows what is typed apart from what is printed: a click takes one whole command, without its prompt.
fn session(text: &str) -> Markup {
    let mut parts: Vec<(bool, String)> = Vec::new();
    let (mut more, mut joined) = (false, false);
    for line in text.lines() {
        let second = line.strip_prefix("> ").or((line == ">").then_some(""));
        let go_on = if joined { Some(line) } else { second.filter(|_| more) };
        if let Some(typed) = line.strip_prefix("$ ").filter(|_| !joined) {
            parts.push((true, typed.to_owned()));
            (more, joined) = (true, typed.ends_with('\\'));
        } else if let (Some(typed), Some((true, command))) = (go_on, parts.last_mut()) {
            command.push('\n');
            command.push_str(typed);
            joined = typed.ends_with('\\');
        } else {
            (more, joined) = (false, false);
            match parts.last_mut() {
                Some((false, printed)) => {
                    printed.push('\n');
                    printed.push_str(line);
                }
                _ => parts.push((false, line.to_owned())),
            }
        }
    }
    html! {
        @for (typed, text) in &parts {
            @if *typed { kbd { (text) } } @else { samp { (text) } }
            "\n"
        }
    }
}

fn diff(text: &str) -> Markup {
    html! {
        @for line in text.lines() {
            @match line.chars().next() {
                Some('+') => { ins { (line) } }
                Some('-') => { del { (line) } }
                _ => { (line) }
            }
            "\n"
        }
    }
}
