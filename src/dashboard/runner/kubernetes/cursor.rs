//! Reading the log of a pod from where it was left. Pure.
//!
//! The log API has no offset: `sinceTime` is in whole seconds, and several lines can have the same time. So a place is
//! the newest time that was seen and how many lines of its second were. Opened again from that second, the log repeats
//! exactly those lines, in their order, and they are left out. Where none of them comes back, the log was rotated
//! meanwhile, and lines can be missing.
//!
//! A long line is kept by containerd in pieces, each with a time of its own, and the kubelet writes a time only where a
//! line begins. So an answer can begin with the pieces of a line that began a second earlier, without a time before
//! them. They were read: what has a place in that second was written after them.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::dashboard::log::Cutter;

/// The longest time that is looked for at the beginning of a line.
const STAMP_BYTES: usize = 64;
/// How much of a line without a time is kept; the kubelet says so what is wrong.
const SAID_BYTES: usize = 1024;
const SECOND_NS: i64 = 1_000_000_000;

/// A place in the output of a job: between two lines, or between two pieces of one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The attempt, from 1; 0 at the very beginning.
    pub attempt: u32,
    /// When the attempt's pod was created, in milliseconds since 1970, and its UID: the order of attempts.
    pub pod: (i64, String),
    /// How many bytes were read, of all attempts.
    pub bytes: u64,
    /// The newest time of a line, in nanoseconds since 1970.
    newest_ns: i64,
    /// How many lines were read that were written in the second of the newest time.
    seen: u64,
    /// How many pieces of the line that follows were read.
    pieces: u32,
}

/// The text is not a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a place in the log of a pod")]
pub struct NotAPlace;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            attempt,
            pod: (created_ms, uid),
            bytes,
            newest_ns,
            seen,
            pieces,
        } = self;
        write!(f, "k1/{attempt}/{created_ms}/{uid}/{newest_ns}/{seen}/{pieces}/{bytes}")
    }
}

impl FromStr for Place {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let parts: Vec<&str> = text.split('/').collect();
        let ["k1", attempt, created_ms, uid, newest_ns, seen, pieces, bytes] = parts[..] else {
            return Err(NotAPlace);
        };
        Ok(Self {
            attempt: attempt.parse().map_err(|_| NotAPlace)?,
            pod: (created_ms.parse().map_err(|_| NotAPlace)?, uid.to_owned()),
            bytes: bytes.parse().map_err(|_| NotAPlace)?,
            newest_ns: newest_ns.parse().map_err(|_| NotAPlace)?,
            seen: seen.parse().map_err(|_| NotAPlace)?,
            pieces: pieces.parse().map_err(|_| NotAPlace)?,
        })
    }
}

impl Place {
    /// Returns the beginning of the next attempt, which this pod is.
    #[must_use]
    pub fn next(&self, pod: (i64, String)) -> Self {
        Self {
            attempt: self.attempt + 1,
            pod,
            bytes: self.bytes,
            ..Self::default()
        }
    }

    /// Returns the second from which the log is to be opened, since 1970; nothing for all of it.
    pub fn since(&self) -> Option<i64> {
        (self.newest_ns > 0).then(|| self.newest_ns.div_euclid(SECOND_NS))
    }

    fn took(&mut self, at_ns: i64) {
        let second = self.newest_ns.div_euclid(SECOND_NS);
        match at_ns.div_euclid(SECOND_NS).cmp(&second) {
            std::cmp::Ordering::Greater => self.seen = 1,
            std::cmp::Ordering::Equal => self.seen += 1,
            // Two streams are written by two threads, so a line can be older than the one before it. Opened from the
            // newest second, the log does not repeat it.
            std::cmp::Ordering::Less => {}
        }
        self.newest_ns = self.newest_ns.max(at_ns);
        self.pieces = 0;
    }
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// A line of the program, or a piece of a long one.
    Line {
        /// When it was written, in microseconds since 1970.
        at_us: i64,
        /// Whether it goes on in the next one.
        partial: bool,
        /// What was written.
        bytes: Bytes,
    },
    /// Lines can be missing here: the log was rotated while nobody read it.
    Rotated,
    /// Something that the program did not write: the kubelet says that it cannot read the log.
    Said(String),
}

/// Reads one answer of the log API, which has a time before each line.
#[derive(Debug)]
pub struct Decoder {
    place: Place,
    /// How many lines are still to come that were read before.
    repeats: u64,
    /// Whether one of them came.
    repeated: bool,
    /// What an answer that goes on begins with and has no time: the end of a line that was read, or all that the
    /// kubelet says. What comes next tells which.
    untimed: Option<String>,
    /// A time came.
    timed: bool,
    at: At,
    stamp: Vec<u8>,
    cutter: Cutter,
}

#[derive(Debug, Clone, Copy)]
enum At {
    /// In the time before a line.
    Stamp,
    /// In a line that was written at this time; so many pieces of it are left out.
    Line { at_ns: i64, skip: u32 },
    /// In a line that was read before.
    Repeat,
    /// In a line that has no time.
    Foreign,
}

impl Decoder {
    /// Begins to read an answer that was asked for with [`Place::since`].
    pub fn new(place: Place) -> Self {
        Self {
            repeats: place.seen,
            repeated: false,
            untimed: None,
            // An answer that does not go on has all of a line.
            timed: place.since().is_none(),
            place,
            at: At::Stamp,
            stamp: Vec::new(),
            cutter: Cutter::default(),
        }
    }

    /// Returns the place after everything that was given out.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Takes the next bytes of the answer and gives out what they complete.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<Read>) {
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let line = end.map_or(bytes, |end| &bytes[..=end]);
            let used = match self.at {
                At::Stamp => self.stamp(line, out),
                At::Line { at_ns, skip } => {
                    self.line(at_ns, skip, line, end.is_some(), out);
                    line.len()
                }
                At::Repeat => {
                    if end.is_some() {
                        self.at = At::Stamp;
                    }
                    line.len()
                }
                At::Foreign => self.foreign(line, out),
            };
            bytes = &bytes[used..];
        }
    }

    /// Gives out what has no line end, after the whole log was read: the program did not write one. What is broken off
    /// otherwise comes again, so there is nothing to be called then.
    pub fn finish(mut self, out: &mut Vec<Read>) -> Place {
        match self.at {
            At::Line { at_ns, skip } => {
                if let Some(rest) = self.cutter.finish() {
                    self.line(at_ns, skip, &[&rest, &b"\n"[..]].concat(), true, out);
                }
            }
            At::Stamp | At::Foreign if !self.stamp.is_empty() => {
                _ = self.foreign(b"\n", out);
            }
            _ => {}
        }
        self.end(out);
        self.place
    }

    /// Gives out what only the end of the answer tells: a text that no line follows is the kubelet's.
    pub fn end(&mut self, out: &mut Vec<Read>) {
        out.extend(self.untimed.take().map(Read::Said));
    }

    fn stamp(&mut self, line: &[u8], out: &mut Vec<Read>) -> usize {
        let room = STAMP_BYTES.saturating_sub(self.stamp.len());
        let end = line.iter().take(room).position(|byte| *byte == b' ');
        let Some(end) = end else {
            if line.ends_with(b"\n") || line.len() >= room {
                return self.foreign(line, out);
            }
            self.stamp.extend_from_slice(line);
            return line.len();
        };
        self.stamp.extend_from_slice(&line[..end]);
        let Some(at_ns) = nanoseconds(&self.stamp) else {
            self.at = At::Foreign;
            return end;
        };
        self.stamp.clear();
        self.timed = true;
        self.untimed = None;
        self.at = self.begin(at_ns, out);
        end + 1
    }

    fn begin(&mut self, at_ns: i64, out: &mut Vec<Read>) -> At {
        if self.repeats > 0 {
            if at_ns <= self.place.newest_ns {
                self.repeats -= 1;
                self.repeated = true;
                return At::Repeat;
            }
            // Newer than everything that was read: what else was read is in a file that was rotated away.
            self.repeats = 0;
            if !self.repeated {
                self.place.pieces = 0;
                out.push(Read::Rotated);
            }
        }
        At::Line {
            at_ns,
            skip: self.place.pieces,
        }
    }

    fn line(&mut self, at_ns: i64, mut skip: u32, bytes: &[u8], ends: bool, out: &mut Vec<Read>) {
        let mut pieces = 0;
        let mut length = 0;
        self.cutter.push(bytes, |bytes, partial| {
            if skip > 0 {
                skip -= 1;
                return;
            }
            pieces += u32::from(partial);
            length += bytes.len() as u64 + u64::from(!partial);
            out.push(Read::Line {
                at_us: at_ns.div_euclid(1000),
                partial,
                bytes,
            });
        });
        self.place.pieces += pieces;
        self.place.bytes += length;
        if ends {
            self.place.took(at_ns);
            self.at = At::Stamp;
        } else {
            self.at = At::Line { at_ns, skip };
        }
    }

    fn foreign(&mut self, line: &[u8], out: &mut Vec<Read>) -> usize {
        self.at = At::Foreign;
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let room = SAID_BYTES.saturating_sub(self.stamp.len());
        self.stamp.extend_from_slice(&text[..text.len().min(room)]);
        if text.len() < line.len() {
            let said = String::from_utf8_lossy(&self.stamp).trim().to_owned();
            self.stamp.clear();
            self.at = At::Stamp;
            if said.is_empty() {
                return line.len();
            }
            if self.timed || self.untimed.is_some() {
                out.push(Read::Said(said));
            } else {
                self.untimed = Some(said);
            }
        }
        line.len()
    }
}

fn nanoseconds(stamp: &[u8]) -> Option<i64> {
    let stamp: jiff::Timestamp = std::str::from_utf8(stamp).ok()?.parse().ok()?;
    i64::try_from(stamp.as_nanosecond()).ok()
}

#[cfg(test)]
#[path = "cursor_tests.rs"]
mod tests;
