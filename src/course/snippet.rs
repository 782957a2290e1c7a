//! What a chapter or a post asks its reader to type, and what it says comes out: read here, run by [`session`].
//!
//! A block whose language is `console` is a session. A line behind `$ ` is a command, with more lines of it behind `> `
//! or after a backslash; what follows is what it prints, on standard output and standard error as they come:
//!
//! ````text
//! ```console vary=time
//! $ make check
//! 12 tests in 0.42 s
//! ...
//! [exit 2]
//! ```
//! ````
//!
//! The output shown is one that came out. `vary` names what may be different in the next run ([`Vary`]). A line `...`
//! stands for any number of lines, and `...` at a line's end for the rest of it. `[exit 2]` is how the command ended,
//! where that was not 0. `untested`, with a reason behind it, keeps a block from being run. A block of another language
//! with `file=NAME` is a file that the reader writes; it is there from then on.
//!
//! The commands of one document are one shell session in one folder: what the first makes, the last finds. `beside`
//! lets the last command of a block run on, as in a terminal of its own; `ctrl_c` ends the one that was begun last.
//!
//! What a reader does with an editor or with the keyboard no block can show. A comment that begins with the word
//! `labctl-session` is a session too, which a test runs and no reader sees:
//!
//! ```text
//! <!-- labctl-session
//! $ ctrl_c
//! $ cp "$COURSE/labs/04-jobs/solution/jobs.py" .
//! -->
//! ```

pub mod session;

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::prose::span::{Document, Fence, Language};

/// How many lines of an output a difference looks at.
const LOOKED_AT: usize = 400;

/// What may be different from run to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vary {
    /// How long something took, or its age: `0.42 s`, `17ms`, `1m2.5s`, `3d4h`.
    Time,
    /// Sizes with a unit: `9.7 MB`, `512 bytes`.
    Size,
    /// Days and times of day.
    Date,
    /// Seven hexadecimal digits or more.
    Hash,
    /// The five letters that Kubernetes puts behind a name to make it unique: `web-x7k2p`.
    Suffix,
    /// Any number.
    Number,
    /// How many blanks stand between words.
    Blanks,
}

impl Vary {
    /// All of them, in the order in which they are made equal.
    pub const ALL: [Self; 7] = [
        Self::Date,
        Self::Time,
        Self::Size,
        Self::Hash,
        Self::Suffix,
        Self::Number,
        Self::Blanks,
    ];

    /// Returns the word behind `vary=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Size => "size",
            Self::Date => "date",
            Self::Hash => "hash",
            Self::Suffix => "suffix",
            Self::Number => "number",
            Self::Blanks => "blanks",
        }
    }

    fn pattern(self) -> &'static Regex {
        static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
            let patterns = [
                r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}\b|\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(Z|[+-]\d\d:?\d\d))?)?|\b\d\d:\d\d:\d\d\b",
                r"\b(\d+m ?)?\d+(\.\d+)? ?(ns|µs|us|ms|s|min)\b|\b\d+[mhd](\d+[smh])?\b",
                r"\b\d+([.,]\d+)* ?(B|[kKMG]i?B|[kMG]|bytes)\b",
                r"\b[0-9a-f]{7,64}\b",
                // The alphabet is that of k8s.io/apimachinery/pkg/util/rand.
                r"-[bcdfghjklmnpqrstvwxz2456789]{5}\b",
                r"\d+([.,]\d+)*",
                r"[ \t]+",
            ];
            patterns.iter().filter_map(|pattern| Regex::new(pattern).ok()).collect()
        });
        let index = Self::ALL.iter().position(|vary| *vary == self).unwrap_or_default();
        &PATTERNS[index]
    }
}

/// One thing that the reader does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Writes a file.
    File {
        /// The line of its block.
        line: usize,
        /// Its name, from the folder in which the session begins.
        name: String,
        /// What is in it.
        text: String,
    },
    /// Types a command.
    Command(Command),
}

impl Step {
    /// Returns the command, if this is one.
    pub fn command_mut(&mut self) -> Option<&mut Command> {
        match self {
            Self::Command(command) => Some(command),
            Self::File { .. } => None,
        }
    }
}

/// A command, and what it is said to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The line on which it stands.
    pub line: usize,
    /// What is typed, without prompts.
    pub text: String,
    /// The lines that it is said to print.
    pub expected: Vec<String>,
    /// The bytes of the document in which they stand, `[exit N]` included.
    pub at: Range<usize>,
    /// The exit code that it is said to have.
    pub exit: i32,
    /// What may be different.
    pub vary: Vec<Vary>,
    /// Whether it runs on, once it has printed what it is said to print.
    pub beside: bool,
}

/// Something in a document that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The line.
    pub line: usize,
    /// What is wrong.
    pub text: String,
}

/// Reads what a document asks its reader to do, in its order.
///
/// # Errors
/// The first block that cannot be understood.
pub fn read(text: &str) -> Result<Vec<Step>, Wrong> {
    let document = Document::new(text, Language::Markdown);
    let mut blocks = document.fences.clone();
    blocks.extend(document.comments.iter().filter_map(|at| unseen(text, at.clone())));
    blocks.sort_by_key(|block| block.source.start);
    let mut out = Vec::new();
    for fence in &blocks {
        let line = document.place(fence.source.start).line;
        let wrong = |text: String| Wrong { line, text };
        let words = Words::of(fence).map_err(wrong)?;
        if words.untested {
            continue;
        }
        if fence.is_session() {
            commands(fence, &document, &words, &mut out)?;
        } else if let Some(name) = words.file {
            let text = fence.lines.iter().flat_map(|(line, _)| [line.as_str(), "\n"]).collect();
            out.push(Step::File { line, name, text });
        }
    }
    Ok(out)
}

/// Returns a document without what is there for tests alone: comments, and the words behind a block's language.
pub fn for_readers(text: &str) -> String {
    let document = Document::new(text, Language::Markdown);
    let mut gone: Vec<Range<usize>> = document.comments.clone();
    for fence in &document.fences {
        let first = text[fence.source.clone()].lines().next().unwrap_or_default();
        if let Some(at) = first.find(char::is_whitespace).filter(|_| first.starts_with("```")) {
            gone.push(fence.source.start + at..fence.source.start + first.len());
        }
    }
    gone.sort_by_key(|range| range.start);
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for range in gone.into_iter().filter(|range| range.end <= text.len()) {
        if range.start < done {
            continue;
        }
        out.push_str(&text[done..range.start]);
        done = range.end;
        // A comment between paragraphs leaves one empty line there, not two.
        if out.is_empty() || out.ends_with("\n\n") {
            done += text[done..].len() - text[done..].trim_start_matches('\n').len();
        }
    }
    out.push_str(&text[done..]);
    out
}

/// Returns the session that a comment holds, as the block that it would be if readers saw it.
fn unseen(text: &str, at: Range<usize>) -> Option<Fence> {
    let whole = text.get(at.clone())?.trim_end();
    let inside = whole.strip_prefix("<!--")?.strip_suffix("-->")?;
    let (words, commands) = inside.trim_start().strip_prefix("labctl-session")?.split_once('\n')?;
    let mut start = at.start + whole.len() - "-->".len() - commands.len();
    let mut lines = Vec::new();
    for line in commands.split_inclusive('\n') {
        lines.push((line.trim_end_matches('\n').to_owned(), start));
        start += line.len();
    }
    Some(Fence {
        info: format!("console{words}"),
        source: at,
        lines,
        closed: true,
    })
}

/// What stands behind the language of a block.
#[derive(Debug, Default)]
struct Words {
    vary: Vec<Vary>,
    file: Option<String>,
    untested: bool,
    beside: bool,
}

impl Words {
    fn of(fence: &Fence) -> Result<Self, String> {
        let mut out = Self::default();
        let mut words = fence.info.split_whitespace().skip(1);
        while let Some(word) = words.next() {
            if word.starts_with("untested") {
                if words.next().is_none() && fence.is_session() {
                    return Err("`untested` needs a reason behind it".into());
                }
                out.untested = true;
                break;
            } else if word == "beside" && fence.is_session() {
                out.beside = true;
            } else if let Some(names) = word.strip_prefix("vary=").filter(|_| fence.is_session()) {
                for name in names.split(',') {
                    let known = Vary::ALL.into_iter().find(|vary| vary.name() == name);
                    out.vary.push(known.ok_or_else(|| {
                        let all = Vary::ALL.map(Vary::name).join(", ");
                        format!("`{name}` is nothing that can vary; there are {all}")
                    })?);
                }
            } else if let Some(name) = word.strip_prefix("file=").filter(|_| !fence.is_session()) {
                let outside = name.starts_with('/') || name.split('/').any(|part| part == "..");
                if name.is_empty() || outside {
                    return Err(format!("`{name}` is no name of a file in the folder of the session"));
                }
                out.file = Some(name.to_owned());
            } else if fence.is_session() {
                return Err(format!(
                    "`{word}` means nothing behind `console`; there are vary=, beside, and untested with a reason"
                ));
            }
        }
        Ok(out)
    }
}

/// Reads the commands of one session.
fn commands(fence: &Fence, document: &Document<'_>, words: &Words, out: &mut Vec<Step>) -> Result<(), Wrong> {
    let mut open: Option<Command> = None;
    // Whether the command may go on behind `> `, and whether a backslash says that it does.
    let (mut more, mut joined) = (false, false);
    for (line, at) in &fence.lines {
        let number = document.place(*at).line;
        let end = (at + line.len() + 1).min(document.text.len());
        if let Some(text) = line.strip_prefix("$ ").filter(|_| !joined) {
            out.extend(open.take().map(Step::Command));
            open = Some(Command {
                line: number,
                text: text.to_owned(),
                expected: Vec::new(),
                at: end..end,
                exit: 0,
                vary: words.vary.clone(),
                beside: false,
            });
            more = true;
            joined = text.ends_with('\\');
            continue;
        }
        let Some(command) = &mut open else {
            let text = format!("`{line}` stands before the first `$ ` of its session");
            return Err(Wrong { line: number, text });
        };
        let second = line.strip_prefix("> ").or((line == ">").then_some(""));
        if let Some(text) = second.filter(|_| more).or(joined.then_some(line.as_str())) {
            command.text.push('\n');
            command.text.push_str(text);
            command.at = end..end;
            joined = text.ends_with('\\');
            continue;
        }
        more = false;
        command.at.end = end;
        match exit(line) {
            Some(code) => command.exit = code,
            None => command.expected.push(line.clone()),
        }
    }
    if let Some(last) = &mut open {
        last.beside = words.beside;
    }
    out.extend(open.map(Step::Command));
    Ok(())
}

/// Returns the code of a line `[exit N]`.
fn exit(line: &str) -> Option<i32> {
    line.strip_prefix("[exit ")?.strip_suffix(']')?.parse().ok()
}

/// Returns what a command printed, in the form in which a document shows it.
pub fn shown(output: &str, exit: i32) -> String {
    let mut text = output.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    if exit != 0 {
        _ = writeln!(text, "[exit {exit}]");
    }
    text
}

impl Command {
    /// Puts another text in the place of one, in what is typed and in what is expected.
    pub fn exchange(&mut self, old: &str, new: &str) {
        for text in std::iter::once(&mut self.text).chain(&mut self.expected) {
            *text = text.replace(old, new);
        }
    }

    /// Returns how an output differs from what the document says, line by line; nothing where it does not.
    ///
    /// Lines that are missing begin with `-`, lines that were not expected with `+`.
    pub fn difference(&self, output: &str, exit: i32) -> Option<String> {
        let mut actual: Vec<&str> = output.split('\n').collect();
        if actual.last() == Some(&"") {
            actual.pop();
        }
        let expected: Vec<String> = self.expected.iter().map(|line| self.equalled(line)).collect();
        // A terminal shows no carriage return at the end of a line, as HTTP has it.
        let equalled: Vec<String> = actual
            .iter()
            .map(|line| self.equalled(line.trim_end_matches('\r')))
            .collect();
        if exit == self.exit && matches(&expected, &equalled) {
            return None;
        }
        let mut text = String::new();
        for (mark, line) in lines(&expected, &equalled, &self.expected, &actual) {
            // Blanks at the end of a line would not be seen.
            let ink = line.trim_end();
            _ = writeln!(
                text,
                "{mark} {ink}{}",
                "·".repeat(line.chars().count() - ink.chars().count())
            );
        }
        if exit != self.exit {
            _ = writeln!(text, "- [exit {}]\n+ [exit {exit}]", self.exit);
        }
        Some(text)
    }

    /// Replaces what may vary by its name.
    fn equalled(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for vary in Vary::ALL.into_iter().filter(|vary| self.vary.contains(vary)) {
            let with = if vary == Vary::Blanks {
                " ".into()
            } else {
                format!("<{}>", vary.name())
            };
            line = vary.pattern().replace_all(&line, with).into_owned();
        }
        if self.vary.contains(&Vary::Blanks) {
            line = line.trim().to_owned();
        }
        line
    }
}

/// Returns whether a line is one that is expected.
fn same(expected: &str, actual: &str) -> bool {
    expected == actual
        || expected
            .strip_suffix("...")
            .is_some_and(|start| !start.is_empty() && actual.starts_with(start))
}

/// Returns whether an output is the expected one, in which a line `...` stands for any number of lines.
fn matches(expected: &[String], actual: &[String]) -> bool {
    let (mut e, mut a) = (0, 0);
    // Where the last `...` stands, and how far it reaches so far.
    let mut any = None;
    while a < actual.len() {
        match expected.get(e) {
            Some(line) if line == "..." => {
                any = Some((e, a));
                e += 1;
            }
            Some(line) if same(line, &actual[a]) => {
                e += 1;
                a += 1;
            }
            _ => match &mut any {
                Some((mark, reach)) => {
                    *reach += 1;
                    (e, a) = (*mark + 1, *reach);
                }
                None => return false,
            },
        }
    }
    expected[e..].iter().all(|line| line == "...")
}

/// Walks through two outputs along their longest common part.
fn lines<'t>(
    expected: &[String],
    actual: &[String],
    expected_as: &'t [String],
    actual_as: &[&'t str],
) -> Vec<(char, &'t str)> {
    let (rows, columns) = (expected.len().min(LOOKED_AT), actual.len().min(LOOKED_AT));
    let mut longest = vec![vec![0_usize; columns + 1]; rows + 1];
    for row in (0..rows).rev() {
        for column in (0..columns).rev() {
            longest[row][column] = if same(&expected[row], &actual[column]) {
                longest[row + 1][column + 1] + 1
            } else {
                longest[row + 1][column].max(longest[row][column + 1])
            };
        }
    }
    let (mut row, mut column) = (0, 0);
    let mut out = Vec::new();
    while row < rows || column < columns {
        if row < rows && column < columns && same(&expected[row], &actual[column]) {
            out.push((' ', expected_as[row].as_str()));
            row += 1;
            column += 1;
        } else if row < rows && (column == columns || longest[row + 1][column] >= longest[row][column + 1]) {
            out.push((
                if expected[row] == "..." { ' ' } else { '-' },
                expected_as[row].as_str(),
            ));
            row += 1;
        } else {
            out.push(('+', actual_as[column]));
            column += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> Vec<Step> {
        read(text).unwrap_or_else(|wrong| panic!("{wrong:?}"))
    }

    fn command(text: &str) -> Command {
        match steps(text).pop() {
            Some(Step::Command(command)) => command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_session_is_commands_and_what_they_print() {
        let text =
            "# A\n\n```console vary=time,size\n$ a \\\n  b\nout\n\n$ for x; do\n> c\n>\n> done\n> no\n[exit 3]\n```\n";
        let steps = steps(text);
        let [Step::Command(first), Step::Command(second)] = steps.as_slice() else {
            panic!("{steps:?}")
        };
        assert_eq!((first.line, first.text.as_str(), first.exit), (4, "a \\\n  b", 0));
        assert_eq!(first.expected, ["out", ""]);
        assert_eq!(first.vary, [Vary::Time, Vary::Size]);
        assert_eq!(&text[first.at.clone()], "out\n\n");
        assert_eq!((second.text.as_str(), second.exit), ("for x; do\nc\n\ndone\nno", 3));
        assert_eq!(second.expected, [] as [&str; 0]);
        assert_eq!(&text[second.at.clone()], "[exit 3]\n");
    }

    #[test]
    fn readers_see_nothing_of_tests() {
        let text = "<!-- labctl-session\n$ a\n-->\n\n# T\n\none\n\n<!-- x -->\n\n```console vary=time\n$ b <!-- no -->\n```\n\ntwo <!-- y --> three\n";
        let seen = "# T\n\none\n\n```console\n$ b <!-- no -->\n```\n\ntwo  three\n";
        assert_eq!(for_readers(text), seen);
        assert_eq!(for_readers(seen), seen);
    }

    #[test]
    fn other_blocks_are_files_or_nothing() {
        let steps =
            steps("```yaml file=a/b.yaml\na: 1\n```\n\n```sh\nno\n```\n\n```console untested needs a moon\nno\n```\n");
        let file = Step::File {
            line: 1,
            name: "a/b.yaml".into(),
            text: "a: 1\n".into(),
        };
        assert_eq!(steps, [file]);
    }

    #[test]
    fn what_cannot_be_understood_is_refused_with_its_line() {
        let wrong = |text: &str| read(text).expect_err(text);
        assert_eq!(wrong("x\n\n```console\nout\n$ a\n```").line, 4);
        assert!(
            wrong("```console vary=tim\n$ a\n```")
                .text
                .contains("`tim` is nothing that can vary")
        );
        assert!(wrong("```console untested\n$ a\n```").text.contains("reason"));
        assert!(wrong("```console varies=time\n$ a\n```").text.contains("vary="));
        for name in ["/etc/x", "../x", "a/../../x", ""] {
            assert!(
                wrong(&format!("```text file={name}\n```")).text.contains("no name"),
                "{name}"
            );
        }
    }

    #[test]
    fn only_what_is_named_may_vary() {
        let text =
            |vary: &str| format!("```console{vary}\n$ a\ntook 0.42 s for 9.7 MB at 2026-11-25, b2c3d4e5f6\n```\n");
        let other = "took 17ms for 12 bytes at 2027-01-01, aaaaaaa0\n";
        let some = command(&text(" vary=time,size,date"));
        assert_eq!(
            some.difference(other, 0).as_deref(),
            Some(
                "- took 0.42 s for 9.7 MB at 2026-11-25, b2c3d4e5f6\n\
                 + took 17ms for 12 bytes at 2027-01-01, aaaaaaa0\n"
            )
        );
        assert_eq!(command(&text(" vary=time,size,date,hash")).difference(other, 0), None);
        assert!(command(&text("")).difference(other, 0).is_some());
        let rows = command("```console vary=number,blanks\n$ a\n  12   files\n```");
        assert_eq!(rows.difference("1,024 files\n", 0), None);
        assert!(rows.difference("1,024 folders\n", 0).is_some());
    }

    #[test]
    fn dots_stand_for_lines_and_for_ends_of_lines() {
        let dots = command("```console\n$ a\n...\nb\n...\nc: ...\n```");
        for good in ["b\nc: 1\n", "a\nb\nx\ny\nc: \n", "b\nb\nc: 1\nc: 2\n"] {
            assert_eq!(dots.difference(good, 0), None, "{good}");
        }
        for bad in ["", "b\n", "c: 1\n", "b\nc: 1\nd\n", "b\nc\n"] {
            assert!(dots.difference(bad, 0).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_difference_shows_what_differs() {
        let three = command("```console\n$ a\none\ntwo\nthree\n```");
        assert_eq!(three.difference("one\ntwo\nthree", 0), None);
        assert_eq!(
            three.difference("one\n2  \nthree\nfour\n", 1).as_deref(),
            Some("  one\n- two\n+ 2··\n  three\n+ four\n- [exit 0]\n+ [exit 1]\n")
        );
    }
}
