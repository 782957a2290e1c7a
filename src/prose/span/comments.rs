//! Comments of programs, and the multi-line strings in which white space is content.
//!
//! These scanners know just enough of each language to tell comments from strings; they never fail, and a file that is
//! cut off in the middle of a string ends there.

use std::ops::Range;

use super::{Document, Kind, Language, markdown};

/// Reads the comments of a program.
pub(super) fn read(document: &mut Document) {
    let text = document.text;
    let mut scan = Scan::new(text);
    match document.language {
        Language::Rust => scan.c_like(true),
        Language::Go => scan.c_like(false),
        Language::Python | Language::Toml => scan.hash(document.language),
        Language::Shell => scan.shell(),
        Language::Yaml => scan.yaml(),
        _ => {}
    }
    document.verbatim = scan.verbatim;
    for group in groups(text, &scan.comments) {
        document
            .comments
            .push(group[0].whole.start..group[group.len() - 1].whole.end);
        let (stripped, map) = strip(text, group, document.language);
        let mut blocks = markdown::blocks(&stripped, Kind::Comment);
        for block in &mut blocks {
            for piece in &mut block.pieces {
                let start = at(&map, piece.source.start);
                let end = if piece.source.is_empty() {
                    start
                } else {
                    at(&map, piece.source.end - 1) + 1
                };
                piece.source = start..end.max(start);
            }
        }
        document.blocks.append(&mut blocks);
    }
}

/// A comment.
#[derive(Debug)]
struct Comment {
    /// With its marks.
    whole: Range<usize>,
    /// Without them.
    body: Range<usize>,
    /// Whether it has an end mark, so that it may have several lines.
    block: bool,
}

/// Returns the comments that belong together: line comments one below the other.
fn groups<'c>(text: &str, comments: &'c [Comment]) -> Vec<&'c [Comment]> {
    let column = |comment: &Comment| {
        let before = &text[..comment.whole.start];
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let own = before[start..].trim().is_empty();
        own.then(|| comment.whole.start - start)
    };
    let mut out = Vec::new();
    let mut first = 0;
    let mut columns = comments.iter().map(column);
    let mut last = columns.next().flatten();
    for index in 1..=comments.len() {
        let Some(comment) = comments.get(index) else {
            out.push(&comments[first..index]);
            break;
        };
        let own = columns.next().flatten();
        let previous = &comments[index - 1];
        let between = &text[previous.whole.end..comment.whole.start];
        let marks = |comment: &Comment| comment.body.start - comment.whole.start;
        let together = own.is_some()
            && own == last
            && !previous.block
            && !comment.block
            && marks(previous) == marks(comment)
            && between.bytes().filter(|b| *b == b'\n').count() == 1
            && between.trim().is_empty();
        if !together {
            out.push(&comments[first..index]);
            first = index;
        }
        last = own;
    }
    out
}

/// Takes the marks off comments; the map leads from the stripped text back, by ranges that begin at its entries.
fn strip(text: &str, group: &[Comment], language: Language) -> (String, Vec<(usize, usize)>) {
    let mut out = String::new();
    let mut map = Vec::new();
    for comment in group {
        let body = &text[comment.body.clone()];
        let mut start = comment.body.start;
        for line in body.split_inclusive('\n') {
            let at = start;
            start += line.len();
            let mut content = line;
            if comment.block {
                // The star that leads each line of a block comment.
                let inner = content.trim_start();
                if let Some(rest) = inner
                    .strip_prefix("* ")
                    .or_else(|| inner.strip_prefix('*').filter(|_| inner.len() < 3))
                {
                    content = rest;
                }
            }
            content = content.strip_prefix(' ').unwrap_or(content);
            // What tools read is not prose: `//go:build`, `#!/bin/sh`, `# shellcheck disable=..`.
            let directive = match language {
                Language::Go => !comment.block && line.starts_with(|c: char| c.is_ascii_lowercase()),
                Language::Shell => content.starts_with("shellcheck ") || line.starts_with('!'),
                Language::Python => {
                    content.starts_with("noqa") || content.starts_with("type:") || line.starts_with('!')
                }
                _ => false,
            };
            if !directive {
                map.push((out.len(), at + (line.len() - content.len())));
                out.push_str(content);
            }
            if !out.ends_with('\n') {
                out.push('\n');
            }
        }
    }
    (out, map)
}

fn at(map: &[(usize, usize)], offset: usize) -> usize {
    let index = map.partition_point(|(from, _)| *from <= offset).max(1) - 1;
    map.get(index).map_or(0, |(from, to)| to + (offset - from))
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    comments: Vec<Comment>,
    verbatim: Vec<Range<usize>>,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            bytes: text.as_bytes(),
            at: 0,
            comments: Vec::new(),
            verbatim: Vec::new(),
        }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn starts(&self, with: &str) -> bool {
        self.bytes[self.at.min(self.bytes.len())..].starts_with(with.as_bytes())
    }

    /// Returns where a mark comes next, or the end of the text.
    fn find(&self, mark: &str, from: usize) -> usize {
        let from = from.min(self.bytes.len());
        self.text
            .get(from..)
            .and_then(|rest| rest.find(mark))
            .map_or(self.bytes.len(), |at| from + at)
    }

    /// Takes a comment that goes to the end of the line; `marks` of its bytes are its mark.
    fn line_comment(&mut self, marks: usize) {
        let start = self.at;
        let end = self.find("\n", start);
        let end = if end > start && self.bytes[end - 1] == b'\r' {
            end - 1
        } else {
            end
        };
        self.comments.push(Comment {
            whole: start..end,
            body: (start + marks).min(end)..end,
            block: false,
        });
        self.at = end;
    }

    /// Remembers a string that goes over several lines.
    fn string(&mut self, start: usize, end: usize) {
        let end = end.min(self.bytes.len());
        if self.bytes[start..end].contains(&b'\n') {
            self.verbatim.push(start..end);
        }
        self.at = end;
    }

    /// Returns the end of a string with escapes that began at `from` - 1.
    fn escaped(&self, quote: u8, from: usize) -> usize {
        let mut at = from;
        while let Some(byte) = self.bytes.get(at) {
            match *byte {
                b'\\' => at += 1,
                byte if byte == quote => return at + 1,
                _ => {}
            }
            at += 1;
        }
        self.bytes.len()
    }

    fn c_like(&mut self, rust: bool) {
        while self.at < self.bytes.len() {
            match self.peek(0) {
                b'/' if self.peek(1) == b'/' => {
                    let doc = rust && (self.peek(2) == b'!' || (self.peek(2) == b'/' && self.peek(3) != b'/'));
                    self.line_comment(if doc { 3 } else { 2 });
                }
                b'/' if self.peek(1) == b'*' => self.block_comment(rust),
                b'"' => {
                    let end = self.escaped(b'"', self.at + 1);
                    self.string(self.at, end);
                }
                b'`' if !rust => {
                    let end = self.find("`", self.at + 1) + 1;
                    self.string(self.at, end);
                }
                b'r' if rust && matches!(self.peek(1), b'"' | b'#') && !self.within_word() => self.raw_string(),
                b'b' | b'c'
                    if rust && self.peek(1) == b'r' && matches!(self.peek(2), b'"' | b'#') && !self.within_word() =>
                {
                    self.at += 1;
                    self.raw_string();
                }
                b'\'' if rust => self.rust_quote(),
                b'\'' => self.at = self.on_line(b'\'', true),
                _ => self.at += 1,
            }
        }
    }

    fn within_word(&self) -> bool {
        self.at > 0 && (self.bytes[self.at - 1].is_ascii_alphanumeric() || self.bytes[self.at - 1] == b'_')
    }

    fn block_comment(&mut self, nests: bool) {
        let start = self.at;
        let mut depth = 1;
        self.at += 2;
        while self.at < self.bytes.len() && depth > 0 {
            if self.starts("*/") {
                depth -= 1;
                self.at += 2;
            } else if nests && self.starts("/*") {
                depth += 1;
                self.at += 2;
            } else {
                self.at += 1;
            }
        }
        let end = self.at.min(self.bytes.len());
        self.at = end;
        let body = if depth == 0 { end - 2 } else { end };
        let mut from = (start + 2).min(body);
        while from < body && matches!(self.bytes[from], b'*' | b'!') {
            from += 1;
        }
        self.comments.push(Comment {
            whole: start..end,
            body: from..body.max(from),
            block: true,
        });
    }

    /// `r"..."`, `r#"..."#`, or `r#name`.
    fn raw_string(&mut self) {
        let start = self.at;
        let hashes = self.bytes[start + 1..].iter().take_while(|b| **b == b'#').count();
        if self.bytes.get(start + 1 + hashes) != Some(&b'"') {
            self.at += 1;
            return;
        }
        let close = format!("\"{}", "#".repeat(hashes));
        let end = self.find(&close, start + 2 + hashes);
        self.string(start, end + close.len());
    }

    /// A character or a lifetime.
    fn rust_quote(&mut self) {
        let rest = self.text.get(self.at + 1..).unwrap_or_default();
        let mut chars = rest.char_indices();
        match chars.next() {
            Some((_, '\\')) => {
                self.at = self.on_line(b'\'', true);
            }
            Some(_) => match chars.next() {
                Some((at, '\'')) => self.at += at + 2,
                _ => self.at += 1,
            },
            None => self.at += 1,
        }
    }

    fn hash(&mut self, language: Language) {
        while self.at < self.bytes.len() {
            match self.peek(0) {
                b'#' => self.line_comment(1),
                quote @ (b'"' | b'\'') => {
                    let triple = if quote == b'"' { "\"\"\"" } else { "'''" };
                    let literal = language == Language::Toml && quote == b'\'';
                    if self.starts(triple) {
                        let end = self.triple_end(triple, literal);
                        self.string(self.at, end);
                    } else {
                        self.at = self.on_line(quote, !literal);
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    fn triple_end(&self, triple: &str, literal: bool) -> usize {
        let mut at = self.at + 3;
        while at < self.bytes.len() {
            if !literal && self.bytes[at] == b'\\' {
                at += 2;
                continue;
            }
            if self.bytes[at..].starts_with(triple.as_bytes()) {
                return at + 3;
            }
            at += 1;
        }
        self.bytes.len()
    }

    /// Returns the end of a string that begins here and ends, at the latest, with its line; a backslash continues it.
    fn on_line(&self, quote: u8, escapes: bool) -> usize {
        let mut at = self.at + 1;
        while let Some(byte) = self.bytes.get(at) {
            match *byte {
                b'\\' if escapes => at += 1,
                b'\n' => return at,
                byte if byte == quote => return at + 1,
                _ => {}
            }
            at += 1;
        }
        self.bytes.len()
    }

    fn shell(&mut self) {
        // Here-documents that begin after the end of this line.
        let mut waiting: Vec<(String, bool)> = Vec::new();
        while self.at < self.bytes.len() {
            let before = self.at.checked_sub(1).map_or(b'\n', |at| self.bytes[at]);
            match self.peek(0) {
                b'\\' => self.at += 2,
                b'#' if before.is_ascii_whitespace() || matches!(before, b';' | b'(' | b'&' | b'|') => {
                    self.line_comment(1);
                }
                b'\'' => {
                    let end = self.find("'", self.at + 1) + 1;
                    self.string(self.at, end);
                }
                b'"' => {
                    let end = self.escaped(b'"', self.at + 1);
                    self.string(self.at, end);
                }
                b'<' if self.starts("<<<") => self.at += 3,
                b'<' if self.starts("<<") => {
                    self.at += 2;
                    let tabs = self.peek(0) == b'-';
                    self.at += usize::from(tabs);
                    while matches!(self.peek(0), b' ' | b'\t') {
                        self.at += 1;
                    }
                    let rest = &self.text[self.at..];
                    let end = rest
                        .find([' ', '\t', '\n', ';', '|', '&', '>', ')'])
                        .unwrap_or(rest.len());
                    let word: String = rest[..end]
                        .chars()
                        .filter(|c| !matches!(c, '\'' | '"' | '\\'))
                        .collect();
                    self.at += end;
                    // `1 << 2` in arithmetic is no here-document.
                    if word.starts_with(|c: char| c.is_alphabetic() || c == '_') {
                        waiting.push((word, tabs));
                    }
                }
                b'\n' => {
                    self.at += 1;
                    for (word, tabs) in waiting.drain(..) {
                        let start = self.at;
                        while self.at < self.bytes.len() {
                            let end = self.find("\n", self.at);
                            let line = &self.text[self.at..end];
                            self.at = (end + 1).min(self.bytes.len());
                            let line = if tabs { line.trim_start_matches('\t') } else { line };
                            if line.trim_end_matches('\r') == word {
                                break;
                            }
                        }
                        self.verbatim.push(start..self.at);
                    }
                }
                _ => self.at += 1,
            }
        }
        self.at = self.bytes.len();
    }

    fn yaml(&mut self) {
        // The indentation of the key that a block scalar belongs to.
        let mut scalar: Option<usize> = None;
        while self.at < self.bytes.len() {
            let start = self.at;
            let end = self.find("\n", start);
            let line = &self.text[start..end];
            let indent = line.len() - line.trim_start_matches(' ').len();
            if let Some(parent) = scalar {
                if line.trim().is_empty() || indent > parent {
                    self.verbatim.push(start..(end + 1).min(self.bytes.len()));
                    self.at = end + 1;
                    continue;
                }
                scalar = None;
            }
            let comment = self.yaml_line(start, end);
            let content = self.text[start..comment.unwrap_or(end)].trim_end();
            let last = content.rsplit([' ', '\t']).next().unwrap_or_default();
            let header = last.strip_prefix(['|', '>']);
            let header =
                header.is_some_and(|rest| rest.len() <= 2 && rest.bytes().all(|b| b"+-123456789".contains(&b)));
            if header
                && (content.trim_end_matches(last).trim_end().ends_with([':', '-']) || content.trim_start() == last)
            {
                // A scalar in a list item may be indented less than the item's text, but more than its hyphen.
                scalar = Some(indent);
            }
            if self.at <= end {
                self.at = end + 1;
            }
        }
        self.at = self.bytes.len();
    }

    /// Goes through a line of YAML, and over the lines that a quoted string in it takes; returns its comment's place.
    fn yaml_line(&mut self, start: usize, end: usize) -> Option<usize> {
        let mut at = start;
        while at < end {
            let before = if at == start { b' ' } else { self.bytes[at - 1] };
            let opens = before.is_ascii_whitespace() || matches!(before, b'[' | b'{' | b',');
            match self.bytes[at] {
                b'#' if before.is_ascii_whitespace() => {
                    self.at = at;
                    self.line_comment(1);
                    return Some(at);
                }
                quote @ (b'"' | b'\'') if opens => {
                    let close = if quote == b'"' {
                        self.escaped(b'"', at + 1)
                    } else {
                        (self.find("'", at + 1) + 1).min(self.bytes.len())
                    };
                    if close > end {
                        self.string(at, close);
                        return None;
                    }
                    at = close;
                }
                _ => at += 1,
            }
        }
        None
    }
}
