//! Trailing white space: taken away as `sed 's/[[:space:]]*$//'` would, but never where it means something.
//!
//! What stays: the two spaces of a Markdown line break, code blocks, strings and here-documents of several lines, the
//! carriage return of CRLF, what stands behind a backslash, a form feed alone on its line, the end of the file as it is, and whole files that are
//! binary, not UTF-8, or of a kind in which trailing white space is data (patches, tables, snapshots).

use std::ops::Range;
use std::path::Path;

use super::finding::Fix;
use super::span::{Document, Language};

/// Endings of files in which trailing white space is data.
const DATA: [&str; 8] = ["diff", "patch", "tsv", "csv", "snap", "svg", "lock", "sum"];

/// Returns whether white space at the ends of a file's lines is data, judged by the file's name.
pub fn is_data(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| DATA.contains(&ending.as_str()))
}

/// Returns the changes that take the trailing white space of a document away, in order.
pub fn fixes(document: &Document<'_>) -> Vec<Fix> {
    let text = document.text;
    let mut out = Vec::new();
    let mut kept = Cursor::new(&document.verbatim);
    let mut breaks = Cursor::new(&document.breaks);
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let body = line
            .strip_suffix('\n')
            .map_or(line, |body| body.strip_suffix('\r').unwrap_or(body));
        let content = body.trim_end_matches(blank);
        let range = start + content.len()..start + body.len();
        start += line.len();
        // Without the blank behind it, a backslash would join two lines, and a lone carriage return would end one.
        if range.is_empty() || content.ends_with(['\r', '\\']) || kept.touches(&range) {
            continue;
        }
        // A page break of old sources.
        if content.is_empty() && body.trim_matches([' ', '\t']) == "\u{c}" {
            continue;
        }
        let with = if breaks.touches(&range) && document.language.is_markdown() {
            "  "
        } else {
            ""
        };
        if text[range.clone()] != *with {
            out.push(Fix {
                span: range,
                with: with.to_owned(),
            });
        }
    }
    out
}

/// Returns whether a character is white space that is seen by nobody at the end of a line.
fn blank(c: char) -> bool {
    c.is_whitespace() && !matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Walks through sorted or unsorted ranges in step with a text.
struct Cursor {
    ranges: Vec<Range<usize>>,
    at: usize,
}

impl Cursor {
    fn new(ranges: &[Range<usize>]) -> Self {
        let mut ranges = ranges.to_vec();
        ranges.sort_by_key(|range| range.start);
        // Nested ranges are one, so that a cursor that only goes forward sees all of them.
        let mut merged: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self { ranges: merged, at: 0 }
    }

    /// Returns whether a range that comes after all that were asked for lies in, or overlaps, one of the ranges.
    fn touches(&mut self, range: &Range<usize>) -> bool {
        while self.ranges.get(self.at).is_some_and(|known| known.end <= range.start) {
            self.at += 1;
        }
        self.ranges.get(self.at).is_some_and(|known| known.start < range.end)
    }
}

/// Applies changes to a text; of two that overlap, the first wins.
pub fn apply(text: &str, mut fixes: Vec<Fix>) -> String {
    fixes.sort_by_key(|fix| (fix.span.start, fix.span.end));
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for fix in fixes {
        if fix.span.start < done || fix.span.end > text.len() {
            continue;
        }
        out.push_str(&text[done..fix.span.start]);
        out.push_str(&fix.with);
        done = fix.span.end;
    }
    out.push_str(&text[done..]);
    out
}

/// Returns a text without its trailing white space.
pub fn strip(text: &str, language: Language) -> String {
    apply(text, fixes(&Document::new(text, language)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prose::span::tests::{BITS, Numbers};

    fn md(text: &str) -> String {
        strip(text, Language::Markdown)
    }

    #[test]
    fn what_sed_would_do() {
        assert_eq!(strip("a \nb\t\n\n \u{a0}\nc ", Language::Other), "a\nb\n\n\nc");
    }

    #[test]
    fn what_sed_would_destroy() {
        assert_eq!(md("break  \nhere\n"), "break  \nhere\n");
        assert_eq!(md("break    \nhere\n"), "break  \nhere\n");
        assert_eq!(md("end  \n\n# title  \n- item  \n"), "end\n\n# title\n- item\n");
        assert_eq!(md("```  \ncode  \n   \n```  \n"), "```\ncode  \n   \n```\n");
        assert_eq!(md("text\n\n    code  \n"), "text\n\n    code  \n");
        assert_eq!(md("`a  \nb`\n"), "`a  \nb`\n");
        assert_eq!(strip("a \r\nb\r\n", Language::Plain), "a\r\nb\r\n");
        assert_eq!(md("break  \r\nhere\r\n"), "break  \r\nhere\r\n");
        assert_eq!(strip("a\n\u{c}\nb", Language::Other), "a\n\u{c}\nb");
        assert_eq!(strip("echo a \\ \nb \n", Language::Shell), "echo a \\ \nb\n");
        assert_eq!(strip("x = '''\n a \n'''  \n", Language::Python), "x = '''\n a \n'''\n");
        assert_eq!(
            strip("cat <<EOF  \n a \nEOF\nx \n", Language::Shell),
            "cat <<EOF\n a \nEOF\nx\n"
        );
        assert_eq!(strip("a: |\n  b \nc: d \n", Language::Yaml), "a: |\n  b \nc: d\n");
        assert_eq!(strip("let a = \"x \n y\"; \n", Language::Rust), "let a = \"x \n y\";\n");
    }

    #[test]
    fn files_whose_white_space_is_data_are_known() {
        for data in ["a.patch", "b/c.DIFF", "t.tsv", "x.snap"] {
            assert!(is_data(Path::new(data)), "{data}");
        }
        assert!(!is_data(Path::new("a.md")));
    }

    #[test]
    fn twice_is_once_and_only_blanks_go() {
        let languages = [
            Language::Markdown,
            Language::Mdx,
            Language::Plain,
            Language::Rust,
            Language::Python,
            Language::Shell,
            Language::Yaml,
            Language::Toml,
            Language::Other,
        ];
        let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
        for round in 0..4000 {
            let length = numbers.next(30);
            let text: String = (0..length)
                .map(|_| {
                    if numbers.next(3) == 0 {
                        " "
                    } else {
                        BITS[numbers.next(BITS.len())]
                    }
                })
                .collect();
            let language = languages[round % languages.len()];
            let once = strip(&text, language);
            let ink = |text: &str| {
                text.chars()
                    .filter(|c| !c.is_whitespace() || *c == '\n')
                    .collect::<String>()
            };
            assert_eq!(ink(&once), ink(&text), "{language:?} {text:?}");
            assert!(once.len() <= text.len());
            let again = strip(&once, language);
            assert_eq!(again, once, "{language:?} {text:?}");
        }
    }
}
