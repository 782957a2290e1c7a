//! How bad a line of output says that it is. Pure.
//!
//! Programs say it in a few ways, and each of them is looked for where it stands: a field of a JSON object, a field of
//! logfmt, the head of klog, a word in capitals near the beginning, or how compilers begin a message. A line that says
//! nothing has no level; nothing is guessed from what it talks about.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How bad a line says that it is, the least first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// More than one wants to know.
    Trace,
    /// For who looks for a mistake.
    Debug,
    /// That something happens.
    Info,
    /// That something is not as it should be.
    Warn,
    /// That something failed.
    Error,
}

/// How many bytes of a line are looked at for what is no JSON.
const HEAD: usize = 256;
/// How many bytes a line of JSON may have for its level to be looked for.
const JSON_BYTES: usize = 64 << 10;
/// How many words may stand before the level: a time, a thread, a module.
const WORDS: usize = 6;
/// What a line has in it that has one of the fields below.
const WORDS_OF_FIELDS: [&str; 3] = ["level", "severity", "lvl"];
/// The fields of a JSON object that say it.
const FIELDS: [&str; 6] = ["level", "severity", "lvl", "levelname", "log.level", "loglevel"];

impl Level {
    /// Every one, the least first.
    pub const ALL: [Self; 5] = [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error];

    /// Returns its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    /// Returns the level that a program means by a word.
    fn of_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "trace" | "trc" | "finest" | "finer" => Self::Trace,
            "debug" | "dbg" | "dbug" | "fine" | "verbose" => Self::Debug,
            "info" | "inf" | "information" | "informational" | "notice" => Self::Info,
            "warn" | "wrn" | "warning" => Self::Warn,
            "error" | "err" | "severe" | "critical" | "crit" | "fatal" | "panic" | "dpanic" | "alert" | "emerg"
            | "emergency" => Self::Error,
            _ => return None,
        })
    }

    /// Returns the level of the numbers that pino and bunyan write.
    fn of_number(number: f64) -> Option<Self> {
        Some(match number {
            10.0..20.0 => Self::Trace,
            20.0..30.0 => Self::Debug,
            30.0..40.0 => Self::Info,
            40.0..50.0 => Self::Warn,
            50.0..=60.0 => Self::Error,
            _ => return None,
        })
    }

    /// Returns the level that a line says it has.
    pub fn of(line: &[u8]) -> Option<Self> {
        let start = line.iter().position(|byte| !byte.is_ascii_whitespace())?;
        let line = &line[start..];
        if line[0] == b'{' {
            return of_json(line);
        }
        let head = &line[..line.len().min(HEAD)];
        let head = without_colours(&String::from_utf8_lossy(head));
        of_klog(&head).or_else(|| of_logfmt(&head)).or_else(|| of_words(&head))
    }
}

fn of_json(line: &[u8]) -> Option<Level> {
    // Most lines of JSON that have no level need not be read for that.
    let has = |word: &str| line.windows(word.len()).any(|part| part == word.as_bytes());
    if line.len() > JSON_BYTES || !WORDS_OF_FIELDS.into_iter().any(has) {
        return None;
    }
    let fields: serde_json::Map<String, Value> = serde_json::from_slice(line).ok()?;
    // `"level": {}` is no level, and another field may be one.
    FIELDS.iter().find_map(|name| match fields.get(*name)? {
        Value::String(word) => Level::of_word(word),
        Value::Number(number) => Level::of_number(number.as_f64()?),
        _ => None,
    })
}

/// `W1126 14:03:07.123456       1 main.go:12] ...`
fn of_klog(head: &str) -> Option<Level> {
    let bytes = head.as_bytes();
    let is_head = bytes.len() > 5 && bytes[1..5].iter().all(u8::is_ascii_digit) && bytes[5] == b' ';
    match bytes.first() {
        Some(b'I') if is_head => Some(Level::Info),
        Some(b'W') if is_head => Some(Level::Warn),
        Some(b'E' | b'F') if is_head => Some(Level::Error),
        _ => None,
    }
}

/// `time=... level=warn msg="..."`
fn of_logfmt(head: &str) -> Option<Level> {
    head.split_ascii_whitespace().find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let known = FIELDS.contains(&name);
        known.then(|| Level::of_word(value.trim_matches('"'))).flatten()
    })
}

/// `2026-11-26 14:03:07 [main] ERROR a.b.C - ...`, or how compilers and tools begin: `error: ...`, `warning[W1]: ...`.
fn of_words(head: &str) -> Option<Level> {
    let mut words = head.split_ascii_whitespace();
    if let Some((word, _)) = words.clone().next().and_then(|first| first.split_once(':'))
        && let Some(level) = Level::of_word(word.split('[').next().unwrap_or_default())
    {
        return Some(level);
    }
    if head.starts_with("Traceback (most recent call last)") || head.starts_with("panic: ") {
        return Some(Level::Error);
    }
    words.by_ref().take(WORDS).find_map(|word| {
        // `[ERROR]`, `ERROR:`, `|WARN|`, `<INFO>`
        let word = word.trim_matches(|c: char| c.is_ascii_punctuation());
        let is_shouted = word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase());
        is_shouted.then(|| Level::of_word(word)).flatten()
    })
}

/// Leaves out what colours a terminal (ECMA-48's control sequences).
fn without_colours(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            out.push(c);
            continue;
        }
        if chars.next() == Some('[') {
            // Parameters, and then one letter.
            _ = chars.by_ref().find(|c| ('@'..='~').contains(c));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_where_programs_write_them() {
        for (line, level) in [
            (r#"{"time":"x","level":"warning","msg":"no"}"#, Some(Level::Warn)),
            (r#"  {"severity":"CRITICAL"}"#, Some(Level::Error)),
            (r#"{"level":30,"msg":"pino"}"#, Some(Level::Info)),
            (r#"{"level":60}"#, Some(Level::Error)),
            (r#"{"level":{"a":1},"severity":"DEBUG"}"#, Some(Level::Debug)),
            (r#"{"log.level":"info"}"#, Some(Level::Info)),
            (r#"{"message":"level=error"}"#, None),
            (r#"{"level":"error""#, None),
            ("ts=1 level=error caller=x", Some(Level::Error)),
            ("level=\"warn\" msg=x", Some(Level::Warn)),
            ("time=12 lvl=dbug", Some(Level::Debug)),
            ("E1126 14:03:07.123 1 main.go:12] no", Some(Level::Error)),
            ("I1126 14:03:07.123 1 main.go:12] yes", Some(Level::Info)),
            ("E11 is a room", None),
            ("2026-11-26 14:03:07,123 WARNING app: low", Some(Level::Warn)),
            ("2026-11-26T14:03:07Z  INFO labctl::serve: up", Some(Level::Info)),
            ("[2026-11-26 14:03:07] [ERROR] no", Some(Level::Error)),
            ("14:03 |DEBUG| main x", Some(Level::Debug)),
            ("\u{1b}[1;31mERROR\u{1b}[0m no", Some(Level::Error)),
            ("\u{1b}[31merror\u{1b}[0m: no", Some(Level::Error)),
            ("error[E0425]: cannot find value", Some(Level::Error)),
            ("warning: unused", Some(Level::Warn)),
            ("Error: cannot find module", Some(Level::Error)),
            ("Traceback (most recent call last):", Some(Level::Error)),
            ("panic: runtime error", Some(Level::Error)),
            // What a line talks about is not what it is.
            ("0 errors, 3 warnings", None),
            ("no ERR here", Some(Level::Error)),
            ("a b c d e f ERROR", None),
            ("I am fine", None),
            ("", None),
            ("   ", None),
        ] {
            assert_eq!(Level::of(line.as_bytes()), level, "{line}");
        }
        assert_eq!(Level::of(b"\xff\xfe ERROR \xff"), Some(Level::Error));
        assert_eq!(Level::of(&vec![b'{'; 1 << 20]), None);
        assert_eq!(Level::of(&[0x1b; 300]), None);
    }
}
