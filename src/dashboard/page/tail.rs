//! The end of a job's log as plain text on its page: for browsers without scripts, and until the script is there.

use std::fmt::Write as _;

use super::show;
use crate::dashboard::job::JobId;
use crate::dashboard::log::{Line, Stream};
use crate::dashboard::service::tail::{Item, Select};
use crate::dashboard::service::{Caller, Result, Service};

/// How many lines are shown.
pub(super) const LINES: u64 = 200;
/// How much of one line is shown, in bytes.
const LINE_BYTES: usize = 4000;

/// The end of a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// The lines, each with its number.
    pub(super) text: String,
    /// The number of the first line that is shown; 0 where there is none.
    pub(super) first: u64,
    /// The number of the last line.
    pub(super) last: u64,
}

/// Reads the end of a job's log as it is now.
pub(super) async fn read(service: &Service, caller: &Caller, id: JobId) -> Result<Tail> {
    let select = Select {
        tail: Some(LINES),
        ..Select::default()
    };
    let mut reading = service.tail(caller, id, select).await?;
    let mut tail = Tail::default();
    while let Some(item) = reading.next().await? {
        match item {
            Item::Lines { lines, seen } => {
                tail.last = seen;
                for line in &lines {
                    tail.add(line);
                }
            }
            Item::Gap { from, to } => _ = writeln!(tail.text, "        lines {from} to {to} are missing"),
        }
    }
    Ok(tail)
}

impl Tail {
    fn add(&mut self, line: &Line) {
        if self.first == 0 {
            self.first = line.number;
        }
        let mark = match line.stream {
            Stream::Stderr => "err",
            Stream::Note => "---",
            Stream::Stdout | Stream::Merged => "",
        };
        let text = plain(&String::from_utf8_lossy(&line.bytes));
        let mut end = text.len().min(LINE_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        _ = write!(self.text, "{:>6} {mark:3} {}", line.number, &text[..end]);
        if end < text.len() {
            _ = write!(self.text, " … {} more bytes", text.len() - end);
        }
        self.text.push('\n');
    }

    /// Says which lines are shown.
    pub(super) fn said(&self) -> String {
        if self.first == 0 {
            return "No output yet.".to_owned();
        }
        let (first, last) = (self.first, self.last);
        format!(
            "Lines {first} to {last}, as of {}.",
            show::clock(crate::dashboard::control::now_ms())
        )
    }
}

/// Takes out what would move a terminal's cursor or colour its text, and what was overwritten on its line.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.trim_end_matches('\r').chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => match rest.next() {
                // A control sequence ends with a character from `@` to `~`.
                Some('[') => while rest.next_if(|c| !('@'..='~').contains(c)).is_some() {},
                // A string (a title, a link) ends with BEL or with ESC and a backslash.
                Some(']' | 'P' | '_' | '^') => {
                    while rest.next_if(|c| !matches!(c, '\u{7}' | '\u{1b}')).is_some() {}
                    if rest.next_if_eq(&'\u{1b}').is_some() {
                        rest.next_if_eq(&'\\');
                    } else {
                        rest.next_if_eq(&'\u{7}');
                    }
                    continue;
                }
                _ => continue,
            },
            '\r' => {
                out.clear();
                continue;
            }
            '\t' => {
                out.push('\t');
                continue;
            }
            c if c.is_control() => continue,
            c => {
                out.push(c);
                continue;
            }
        }
        // The character that ends a control sequence.
        rest.next();
    }
    out
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_a_terminal_would_do_is_taken_out() {
        for (text, shown) in [
            ("plain ä\tx", "plain ä\tx"),
            ("\u{1b}[1;31mred\u{1b}[0m end", "red end"),
            ("\u{1b}]0;title\u{7}a\u{1b}]8;;http://x\u{1b}\\b", "ab"),
            ("10 %\r50 %\r100 %\r", "100 %"),
            ("bell\u{7} null\0 back\u{8}", "bell null back"),
            ("cut \u{1b}[", "cut "),
            ("cut \u{1b}", "cut "),
            ("\u{1b}]never ends", ""),
            ("<b>&amp;", "<b>&amp;"),
        ] {
            assert_eq!(plain(text), shown, "{text:?}");
        }
    }

    #[test]
    fn lines_have_their_number_and_say_whether_they_are_errors() {
        let mut tail = Tail::default();
        for (number, stream, text) in [
            (9, Stream::Stdout, "out"),
            (10, Stream::Stderr, "bad"),
            (11, Stream::Note, "gone"),
        ] {
            tail.add(&Line {
                number,
                at_us: 0,
                attempt: 1,
                stream,
                partial: false,
                bytes: Bytes::from_static(text.as_bytes()),
            });
        }
        assert_eq!(tail.text, "     9     out\n    10 err bad\n    11 --- gone\n");
        assert_eq!(tail.first, 9);
    }
}
