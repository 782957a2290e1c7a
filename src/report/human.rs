//! Events as plain lines on standard error: what a log file, CI or `--quiet` shows. A terminal gets [`super::progress`].

use std::fmt::Write as _;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use super::{Event, Sink};

/// Colours of the report; every field is empty where colour is off.
#[derive(Clone, Copy, Default)]
pub struct Styles {
    /// Starts what went well.
    pub good: &'static str,
    /// Starts what went wrong.
    pub bad: &'static str,
    /// Starts what may go wrong.
    pub warn: &'static str,
    /// Starts what matters less.
    pub dim: &'static str,
    /// Starts what matters more.
    pub bold: &'static str,
    /// Ends any of them.
    pub reset: &'static str,
}

impl Styles {
    /// Returns ANSI colours.
    pub fn colour() -> Self {
        Self {
            good: "\u{1b}[32m",
            bad: "\u{1b}[31m",
            warn: "\u{1b}[33m",
            dim: "\u{1b}[2m",
            bold: "\u{1b}[1m",
            reset: "\u{1b}[0m",
        }
    }
}

/// Returns the text of an event, or nothing where people do not need to see it.
pub fn text(event: &Event, s: Styles, quiet: bool) -> Option<String> {
    let mut out = String::new();
    match event {
        Event::StepStarted { title, why, .. } if !quiet => {
            _ = write!(out, "{}     ...{} {title} {}({why}){}", s.dim, s.reset, s.dim, s.reset);
        }
        Event::StepDone {
            title,
            ran: true,
            elapsed_ms,
            is,
            ..
        } if !quiet => {
            _ = write!(
                out,
                "{}{:>8}{} {title}{}",
                s.good,
                seconds(*elapsed_ms),
                s.reset,
                paren(is, s)
            );
        }
        Event::StepFailed {
            title,
            elapsed_ms,
            error,
            ..
        } => {
            _ = write!(out, "{}{:>8}{} {title}: {error}", s.bad, seconds(*elapsed_ms), s.reset);
        }
        Event::CheckJudged { .. } | Event::ChapterJudged { .. } => return judged(event, s, quiet),
        Event::WorldJudged {
            chapter,
            world,
            what,
            wrong,
            elapsed_ms,
        } => {
            let (word, style) = if wrong.is_empty() {
                ("ok", s.good)
            } else {
                ("WRONG", s.bad)
            };
            let took = seconds(*elapsed_ms);
            _ = write!(
                out,
                "{style}{word:<5}{} {chapter} {world} {}({what}; {took}){}",
                s.reset, s.dim, s.reset
            );
            for line in wrong {
                _ = write!(out, "\n        {line}");
            }
        }
        Event::Removed { kind, name, bytes } if !quiet => {
            _ = write!(out, " removed {kind} {name}");
            if let Some(bytes) = bytes {
                _ = write!(out, " {}({}){}", s.dim, size(*bytes), s.reset);
            }
        }
        Event::Note { text } if !quiet => _ = write!(out, "{text}"),
        Event::Warning { text } => _ = write!(out, "{}warning:{} {text}", s.warn, s.reset),
        _ => return None,
    }
    Some(out)
}

/// Returns the text of a judged check or chapter.
fn judged(event: &Event, s: Styles, quiet: bool) -> Option<String> {
    let style = |verdict: &str| match verdict {
        "pass" => s.good,
        "skip" => s.dim,
        _ => s.bad,
    };
    match event {
        Event::CheckJudged {
            chapter,
            check,
            criterion,
            number,
            criteria,
            verdict,
            elapsed_ms,
            attempts,
            explanation,
            ..
        } => {
            if verdict == "pass" && quiet {
                return None;
            }
            let word = verdict.to_uppercase();
            let took = seconds(*elapsed_ms);
            let mut out = if verdict == "fail" || verdict == "error" {
                let looks = if *attempts > 1 {
                    format!(", {attempts} looks")
                } else {
                    String::new()
                };
                format!(
                    "{}{word:<5}{} {chapter}/{check} {}(criterion {number} of {criteria}: {criterion}; {took}{looks}){}",
                    style(verdict),
                    s.reset,
                    s.dim,
                    s.reset
                )
            } else {
                format!(
                    "{}{word:<5}{} {chapter}/{check} {criterion} {}{took}{}",
                    style(verdict),
                    s.reset,
                    s.dim,
                    s.reset
                )
            };
            for line in explanation {
                _ = write!(out, "\n  {line}");
            }
            Some(out)
        }
        Event::ChapterJudged {
            chapter,
            title,
            passed,
            failed,
            errored,
            skipped,
            elapsed_ms,
        } => {
            let all = passed + failed + errored + skipped;
            let mut out = format!("{}{chapter} {title}{}: {passed} of {all} checks pass", s.bold, s.reset);
            for (n, what) in [
                (failed, if *failed == 1 { "fails" } else { "fail" }),
                (errored, "cannot be judged"),
                (skipped, "skipped"),
            ] {
                if *n > 0 {
                    _ = write!(out, ", {n} {what}");
                }
            }
            _ = write!(out, " {}({}){}", s.dim, seconds(*elapsed_ms), s.reset);
            Some(out)
        }
        _ => None,
    }
}

fn paren(text: &str, s: Styles) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(" {}({text}){}", s.dim, s.reset)
    }
}

/// Shows no control characters: what somebody else wrote must not move the cursor, nor look like a line of ours.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Returns milliseconds as people read them: `0.42s`, `12.3s`, `4m07s`.
pub fn seconds(millis: u64) -> String {
    let tenths = millis / 100;
    match millis {
        0..10_000 => format!("{}.{:02}s", millis / 1000, millis % 1000 / 10),
        10_000..60_000 => format!("{}.{}s", tenths / 10, tenths % 10),
        _ => format!("{}m{:02}s", millis / 60_000, millis % 60_000 / 1000),
    }
}

/// Returns a number of bytes as people read it, in powers of 1000: `12 B`, `3.4 kB`, `1.2 GB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut scale = 1000_u64;
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes / scale >= 1000 {
        scale *= 1000;
        unit += 1;
    }
    format!("{}.{} {}", bytes / scale, bytes % scale * 10 / scale, UNITS[unit])
}

/// Writes events as plain lines.
pub struct Human {
    styles: Styles,
    quiet: bool,
    out: Mutex<Box<dyn Write + Send>>,
}

impl Human {
    /// Makes a sink that writes to `out`; `quiet` keeps only warnings and failures.
    pub fn new(out: impl Write + Send + 'static, styles: Styles, quiet: bool) -> Self {
        Self {
            styles,
            quiet,
            out: Mutex::new(Box::new(out)),
        }
    }
}

impl Sink for Human {
    fn emit(&self, event: &Event) {
        if let Some(text) = text(event, self.styles, self.quiet) {
            let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
            _ = writeln!(out, "{text}");
            _ = out.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_well() {
        assert_eq!(seconds(0), "0.00s");
        assert_eq!(seconds(420), "0.42s");
        assert_eq!(seconds(12_345), "12.3s");
        assert_eq!(seconds(247_000), "4m07s");
        assert_eq!(size(12), "12 B");
        assert_eq!(size(3_449), "3.4 kB");
        assert_eq!(size(1_170_000_000), "1.1 GB");
    }

    #[test]
    fn quiet_keeps_failures_and_warnings() {
        let s = Styles::default();
        let note = Event::Note { text: "x".into() };
        let warning = Event::Warning { text: "y".into() };
        assert_eq!(text(&note, s, true), None);
        assert_eq!(text(&warning, s, true).as_deref(), Some("warning: y"));
    }
}
