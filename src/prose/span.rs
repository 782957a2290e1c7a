//! Text that people read, cut out of a file, with the place of every byte.
//!
//! A [`Document`] is made from Markdown, plain text, or the comments of a program. Its [`Block`]s hold a paragraph each:
//! markup is gone, a line break is one space, what is not prose (inline code, images, URLs) is one [`OPAQUE`]
//! character, and [`Block::source`] leads from a range of that text back to the bytes of the file.

mod comments;
mod markdown;
mod plain;

use std::ops::Range;
use std::path::Path;

pub use markdown::options;

/// Stands in a block's text for something that is not prose.
pub const OPAQUE: char = '\u{fffc}';

/// What a file is written in, as far as its prose is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// CommonMark with GitHub's extensions.
    Markdown,
    /// Markdown with JSX in it.
    Mdx,
    /// Paragraphs between empty lines.
    Plain,
    /// Rust: `//`, `///`, `//!`, `/* */`.
    Rust,
    /// Python: `#`.
    Python,
    /// Go: `//`, `/* */`.
    Go,
    /// POSIX shell and bash: `#`.
    Shell,
    /// YAML: `#`.
    Yaml,
    /// TOML: `#`.
    Toml,
    /// Something else: only its whitespace is looked at.
    Other,
}

impl Language {
    /// Tells the language of a file from its name, and from its first line where the name says nothing.
    pub fn of(path: &Path, text: &str) -> Self {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
        let name = name.as_deref().unwrap_or_default();
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        match extension {
            "md" | "markdown" => Self::Markdown,
            "mdx" => Self::Mdx,
            "txt" | "text" => Self::Plain,
            "rs" => Self::Rust,
            "py" | "pyi" => Self::Python,
            "go" => Self::Go,
            "sh" | "bash" => Self::Shell,
            "yaml" | "yml" => Self::Yaml,
            "toml" => Self::Toml,
            _ if name == "dockerfile" || name == "makefile" => Self::Shell,
            _ => match text.lines().next().unwrap_or_default() {
                line if !line.starts_with("#!") => Self::Other,
                line if line.contains("python") => Self::Python,
                line if line.ends_with("sh") || line.contains("sh ") => Self::Shell,
                _ => Self::Other,
            },
        }
    }

    /// Returns whether the whole file is prose, rather than a program with comments.
    pub fn is_prose(self) -> bool {
        matches!(self, Self::Markdown | Self::Mdx | Self::Plain)
    }

    /// Returns whether the file is Markdown.
    pub fn is_markdown(self) -> bool {
        matches!(self, Self::Markdown | Self::Mdx)
    }
}

/// A file as prose.
#[derive(Debug)]
pub struct Document<'a> {
    /// The file's text.
    pub text: &'a str,
    /// What it is written in.
    pub language: Language,
    /// Its paragraphs, headings, items, cells and comments, in order.
    pub blocks: Vec<Block>,
    /// Its headings.
    pub headings: Vec<Heading>,
    /// Its code blocks.
    pub fences: Vec<Fence>,
    /// Its links and images.
    pub links: Vec<Link>,
    /// References to link definitions that are not there: the label and its place.
    pub missing: Vec<(String, Range<usize>)>,
    /// Targets that HTML in the file defines.
    pub anchors: Vec<String>,
    /// Ordered lists.
    pub lists: Vec<List>,
    /// Comments: of HTML in Markdown, of the program elsewhere.
    pub comments: Vec<Range<usize>>,
    /// The outermost parts of a Markdown file, such as paragraphs, lists and code blocks.
    pub parts: Vec<Range<usize>>,
    /// Ranges in which white space is content: code blocks, multi-line strings.
    pub verbatim: Vec<Range<usize>>,
    /// Line breaks that trailing spaces make.
    pub breaks: Vec<Range<usize>>,
    lines: Vec<usize>,
}

/// What a block of prose is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A paragraph.
    Paragraph,
    /// A heading.
    Heading,
    /// A paragraph in a list.
    Item,
    /// A cell of a table.
    Cell,
    /// A comment of a program.
    Comment,
}

/// A paragraph's worth of text.
#[derive(Debug, Clone)]
pub struct Block {
    /// What it is.
    pub kind: Kind,
    /// Whether it quotes somebody.
    pub quoted: bool,
    /// The text without markup; see [`OPAQUE`].
    pub text: String,
    /// The same with ASCII letters in lower case, byte for byte as long.
    pub lower: String,
    /// The words and marks of the text.
    pub tokens: Vec<Token>,
    /// The sentences, as ranges of [`Block::tokens`].
    pub sentences: Vec<Range<usize>>,
    pieces: Vec<Piece>,
}

/// A word, or a mark between words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Where it begins in the block's text, in bytes.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// Whether it is a word and not a mark.
    pub word: bool,
}

/// A heading.
#[derive(Debug, Clone)]
pub struct Heading {
    /// 1 to 6.
    pub level: u8,
    /// What it says, inline code included.
    pub text: String,
    /// The fragment that leads to it, as GitHub makes it.
    pub anchor: String,
    /// Where it is.
    pub source: Range<usize>,
}

/// A code block.
#[derive(Debug, Clone)]
pub struct Fence {
    /// What stands after the fence, such as `sh`; nothing for an indented block.
    pub info: String,
    /// The whole block.
    pub source: Range<usize>,
    /// Its lines, without the indentation of what it stands in, with the place of each.
    pub lines: Vec<(String, usize)>,
    /// Whether the fence was closed before the file ended.
    pub closed: bool,
}

impl Fence {
    /// Returns the language that the fence names.
    pub fn language(&self) -> &str {
        self.info
            .split(|c: char| c.is_whitespace() || c == ',' || c == '{')
            .next()
            .unwrap_or_default()
    }

    /// Returns whether the block is a session: commands behind `$ `, each with what it prints below.
    pub fn is_session(&self) -> bool {
        matches!(self.language(), "console" | "shell-session")
    }

    /// Returns whether the fence says that no test runs the block.
    pub fn is_untested(&self) -> bool {
        self.info.contains("untested")
    }

    /// Returns whether the block holds commands for a shell.
    pub fn is_shell(&self) -> bool {
        matches!(
            self.language(),
            "sh" | "bash" | "shell" | "zsh" | "console" | "shell-session"
        )
    }
}

/// A link or an image.
#[derive(Debug, Clone)]
pub struct Link {
    /// Where it leads.
    pub to: String,
    /// Where it is.
    pub source: Range<usize>,
}

/// An ordered list.
#[derive(Debug, Clone)]
pub struct List {
    /// The number of each item as it is written, with its place.
    pub items: Vec<(u64, Range<usize>)>,
    /// How deep the list is in others; 0 is outermost.
    pub depth: usize,
}

/// A place in a file, counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl<'a> Document<'a> {
    /// Reads a file's text. Never fails: what cannot be understood has no prose.
    pub fn new(text: &'a str, language: Language) -> Self {
        let mut document = Self {
            text,
            language,
            blocks: Vec::new(),
            headings: Vec::new(),
            fences: Vec::new(),
            links: Vec::new(),
            missing: Vec::new(),
            anchors: Vec::new(),
            lists: Vec::new(),
            comments: Vec::new(),
            parts: Vec::new(),
            verbatim: Vec::new(),
            breaks: Vec::new(),
            lines: std::iter::once(0)
                .chain(
                    text.bytes()
                        .enumerate()
                        .filter(|(_, b)| *b == b'\n')
                        .map(|(i, _)| i + 1),
                )
                .collect(),
        };
        match language {
            Language::Markdown | Language::Mdx => markdown::read(&mut document),
            Language::Plain => plain::read(&mut document),
            Language::Other => {}
            _ => comments::read(&mut document),
        }
        document
    }

    /// Returns the place of a byte.
    pub fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines[line - 1];
        let column = self
            .text
            .get(start..offset)
            .map_or(offset - start, |text| text.chars().count());
        Place {
            line,
            column: column + 1,
        }
    }

    /// Returns the range of a line, counted from 1, with its line end.
    pub fn line(&self, line: usize) -> Range<usize> {
        let start = self
            .lines
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(self.text.len());
        start..self.lines.get(line).copied().unwrap_or(self.text.len())
    }

    /// Returns how many words of prose the document has.
    pub fn words(&self) -> usize {
        let words = |block: &Block| block.tokens.iter().filter(|token| token.word).count();
        self.blocks.iter().map(words).sum()
    }
}

/// A run of a block's text and where it comes from.
#[derive(Debug, Clone)]
struct Piece {
    /// Where the run begins in the block's text.
    at: usize,
    /// The bytes of the file.
    source: Range<usize>,
    /// Whether the run is these bytes, one for one.
    literal: bool,
}

/// Puts a block together.
#[derive(Debug)]
struct Builder {
    kind: Kind,
    quoted: bool,
    text: String,
    pieces: Vec<Piece>,
}

impl Builder {
    fn new(kind: Kind, quoted: bool) -> Self {
        Self {
            kind,
            quoted,
            text: String::new(),
            pieces: Vec::new(),
        }
    }

    fn push(&mut self, text: &str, source: Range<usize>) {
        if text.is_empty() {
            return;
        }
        let literal = text.len() == source.len();
        self.pieces.push(Piece {
            at: self.text.len(),
            source,
            literal,
        });
        self.text.push_str(text);
    }

    fn opaque(&mut self, source: Range<usize>) {
        let mut buffer = [0; 4];
        let text: &str = OPAQUE.encode_utf8(&mut buffer);
        self.pieces.push(Piece {
            at: self.text.len(),
            source,
            literal: false,
        });
        self.text.push_str(text);
    }

    fn space(&mut self, source: Range<usize>) {
        if !self.text.is_empty() && !self.text.ends_with(' ') {
            self.pieces.push(Piece {
                at: self.text.len(),
                source,
                literal: false,
            });
            self.text.push(' ');
        }
    }

    fn finish(self) -> Option<Block> {
        if self.text.trim().is_empty() {
            return None;
        }
        let lower = self.text.to_ascii_lowercase();
        let tokens = tokens(&self.text);
        let sentences = sentences(&self.text, &tokens);
        Some(Block {
            kind: self.kind,
            quoted: self.quoted,
            lower,
            tokens,
            sentences,
            text: self.text,
            pieces: self.pieces,
        })
    }
}

impl Block {
    /// Returns the bytes of the file that a range of the block's text comes from.
    pub fn source(&self, range: Range<usize>) -> Range<usize> {
        let start = self.offset(range.start, false);
        let end = if range.end > range.start {
            self.offset(range.end - 1, true)
        } else {
            start
        };
        start..end.max(start)
    }

    /// Returns where the block begins in the file.
    pub fn start(&self) -> usize {
        self.pieces.first().map_or(0, |piece| piece.source.start)
    }

    /// Returns where the block ends in the file.
    pub fn end(&self) -> usize {
        self.pieces.last().map_or(0, |piece| piece.source.end)
    }

    /// Returns whether a range of the text is the file's bytes one for one, so that it can be replaced.
    pub fn is_literal(&self, range: &Range<usize>) -> bool {
        let first = self.pieces.partition_point(|piece| piece.at <= range.start).max(1) - 1;
        let Some(piece) = self.pieces.get(first) else {
            return false;
        };
        piece.literal && range.end <= piece.at + piece.source.len()
    }

    /// Returns a token's text.
    pub fn token(&self, index: usize) -> &str {
        self.tokens
            .get(index)
            .map_or("", |token| &self.text[token.start..token.end])
    }

    /// Returns a token's text in lower case.
    pub fn token_lower(&self, index: usize) -> &str {
        self.tokens
            .get(index)
            .map_or("", |token| &self.lower[token.start..token.end])
    }

    /// Returns the range of text from one token to another, both included.
    pub fn range(&self, first: usize, last: usize) -> Range<usize> {
        match (self.tokens.get(first), self.tokens.get(last)) {
            (Some(a), Some(b)) if a.start <= b.end => a.start..b.end,
            _ => 0..0,
        }
    }

    /// Returns the file's offset of a byte of the text: the byte itself, or what ends with it.
    fn offset(&self, at: usize, end: bool) -> usize {
        let index = self.pieces.partition_point(|piece| piece.at <= at).max(1) - 1;
        let Some(piece) = self.pieces.get(index) else { return 0 };
        match (piece.literal, end) {
            (true, _) => (piece.source.start + (at - piece.at) + usize::from(end)).min(piece.source.end),
            (false, false) => piece.source.start,
            (false, true) => piece.source.end,
        }
    }
}

/// Returns whether a character belongs to a word.
fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Cuts a text into words and marks. Apostrophes and hyphens within a word belong to it.
fn tokens(text: &str) -> Vec<Token> {
    let mut out = Vec::with_capacity(text.len() / 5);
    let mut chars = text.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        if c.is_whitespace() {
            continue;
        }
        if !in_word(c) {
            out.push(Token {
                start,
                end: start + c.len_utf8(),
                word: false,
            });
            continue;
        }
        let mut end = start + c.len_utf8();
        while let Some(&(at, c)) = chars.peek() {
            let joins =
                matches!(c, '\'' | '\u{2019}' | '-') && text[at + c.len_utf8()..].chars().next().is_some_and(in_word);
            if !in_word(c) && !joins {
                break;
            }
            end = at + c.len_utf8();
            chars.next();
        }
        out.push(Token { start, end, word: true });
    }
    out
}

/// Abbreviations whose full stop does not end a sentence.
const ABBREVIATIONS: [&str; 22] = [
    "e.g", "i.e", "etc", "vs", "cf", "no", "fig", "mr", "mrs", "dr", "st", "ca", "approx", "incl", "resp", "al", "sec",
    "ch", "vol", "g", "e", "p",
];

/// Finds the sentences of a text.
fn sentences(text: &str, tokens: &[Token]) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut start = 0;
    for (index, token) in tokens.iter().enumerate() {
        if token.word || !matches!(&text[token.start..token.end], "." | "!" | "?" | ":" | "\u{2026}") {
            continue;
        }
        let mark = &text[token.start..token.end];
        let Some(next) = tokens.get(index + 1) else { break };
        // A quotation mark or a bracket may stand between the full stop and the space.
        let mut after = index + 1;
        while tokens.get(after).is_some_and(|next| {
            !next.word
                && next.start == tokens[after - 1].end
                && matches!(&text[next.start..next.end], "\"" | ")" | "\u{201d}" | "'" | "]" | "*")
        }) {
            after += 1;
        }
        let Some(following) = tokens.get(after) else { break };
        if following.start == tokens[after - 1].end {
            continue;
        }
        let before = index.checked_sub(1).and_then(|index| tokens.get(index));
        if mark == "."
            && let Some(before) = before
            && before.word
            && ABBREVIATIONS.contains(&text[before.start..before.end].to_lowercase().as_str())
        {
            continue;
        }
        let first = text[following.start..].chars().next().unwrap_or(' ');
        let begins = first.is_uppercase() || !first.is_alphanumeric() || (mark != ":" && first.is_numeric());
        // A colon goes on with the sentence, unless a new one clearly begins.
        if mark == ":" || (!begins && mark == ".") {
            _ = next;
            continue;
        }
        out.push(start..after);
        start = after;
    }
    if start < tokens.len() {
        out.push(start..tokens.len());
    }
    out
}

#[cfg(test)]
pub(crate) mod tests;
