//! What the query of a request asks for: filters, pages, parts of logs. Pure, and made for hostile input.

mod audit;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use percent_encoding::percent_decode_str;
use regex::bytes::{Regex, RegexBuilder};
use sha2::{Digest as _, Sha256};

use crate::dashboard::job::{JobId, State};
use crate::dashboard::log::Stream;
use crate::dashboard::log::level::Level;
use crate::dashboard::service::PAGE_LIMIT;
use crate::dashboard::service::tail::Select;
use crate::dashboard::store::{Filter, MinDuration};

pub use self::audit::{Acts, AfterSeal};

/// How many parameters a query may have.
const PARAMETERS: usize = 64;
/// How many bytes the value of a parameter may have.
const VALUE_BYTES: usize = 1024;
/// How many labels a filter may have: as many as a job.
const LABELS: usize = 16;
/// How many jobs a page has where the client does not say.
pub const PAGE_DEFAULT: u32 = 50;
/// How large a regular expression may become when it is compiled, and the cache that it may use.
const REGEX_BYTES: usize = 256 << 10;

/// What is wrong with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// It is not one that can be read.
    Malformed(String),
    /// A parameter has a value that it cannot have; or there is no such parameter.
    Parameter(String),
    /// The cursor is not one of this list.
    Cursor,
}

type Result<T> = std::result::Result<T, Wrong>;

fn wrong<T>(name: &str, what: impl std::fmt::Display) -> Result<T> {
    Err(Wrong::Parameter(format!("`{name}` {what}")))
}

/// Reads a query's parameters in their order.
///
/// # Errors
/// [`Wrong::Malformed`]: there are too many or too long ones, or they are not UTF-8. Control characters are no text.
pub fn parameters(query: &str) -> Result<Vec<(String, String)>> {
    let decoded = |text: &str| -> Result<String> {
        let text = text.replace('+', " ");
        let text = percent_decode_str(&text)
            .decode_utf8()
            .map_err(|_| Wrong::Malformed("the query is not UTF-8".into()))?;
        if text.len() > VALUE_BYTES {
            return Err(Wrong::Malformed(format!(
                "a parameter is longer than {VALUE_BYTES} bytes"
            )));
        }
        if text.chars().any(char::is_control) {
            return Err(Wrong::Malformed("the query has control characters".into()));
        }
        Ok(text.into_owned())
    };
    let mut out = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        if out.len() == PARAMETERS {
            return Err(Wrong::Malformed(format!("there are more than {PARAMETERS} parameters")));
        }
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        out.push((decoded(name)?, decoded(value)?));
    }
    Ok(out)
}

/// A place for a parameter that may be given once.
fn once<T>(place: &mut Option<T>, name: &str, value: T) -> Result<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => wrong(name, "is given twice"),
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str, what: &str) -> Result<T> {
    // `parse` would take a sign, too.
    if value.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(number) = value.parse()
    {
        return Ok(number);
    }
    wrong(name, format_args!("must be {what}"))
}

fn flag(name: &str, value: &str) -> Result<bool> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => wrong(name, "must be true or false"),
    }
}

/// Reads the query of a probe: whether it wants a line a check. Other parameters are passed over, as probes of all kinds
/// come with their own.
///
/// # Errors
/// [`Wrong`].
pub fn verbose(query: &str) -> Result<bool> {
    let mut verbose = None;
    for (name, value) in parameters(query)? {
        if name == "verbose" {
            once(&mut verbose, &name, flag(&name, &value)?)?;
        }
    }
    Ok(verbose.unwrap_or(false))
}

/// Reads a moment: RFC 3339, or how long ago.
fn moment(name: &str, value: &str, now: Timestamp) -> Result<Timestamp> {
    if let Ok(at) = value.parse::<Timestamp>() {
        return Ok(at);
    }
    match length(value) {
        // Longer ago than there is time is from the beginning on.
        Some(ago) => Ok(now.checked_sub(ago).unwrap_or(Timestamp::MIN)),
        None => wrong(
            name,
            "must be a time such as 2026-01-31T12:00:00Z, or how long ago, such as 90s, 1h30m or 7d",
        ),
    }
}

/// Reads a length of time, such as `90s` or `1h30m`; nothing where it is none, or less than nothing.
fn length(text: &str) -> Option<SignedDuration> {
    let span = text.parse::<Span>().ok().filter(|span| !span.is_negative())?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()
}

/// Reads a length of time in milliseconds; nothing where it is none, or less than nothing.
pub fn duration_ms(text: &str) -> Option<i64> {
    i64::try_from(length(text)?.as_millis()).ok()
}

fn text(name: &str, value: String, most: usize) -> Result<String> {
    if (1..=most).contains(&value.len()) {
        Ok(value)
    } else {
        wrong(name, format_args!("must have 1 to {most} bytes"))
    }
}

/// Which page of which list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Which jobs.
    pub filter: Filter,
    /// How many at most, where the client says so.
    pub limit: Option<u32>,
    /// The last job of the page before.
    pub after: Option<JobId>,
    /// What the filter's cursors are bound to.
    mark: [u8; 32],
    /// The parameters of the filter, as they were sent.
    parameters: Vec<(String, String)>,
}

impl List {
    /// Reads the query of a list.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn parse(query: &str, now: Timestamp) -> Result<Self> {
        let parameters = parameters(query)?;
        let mut filter = Filter::default();
        let (mut limit, mut cursor) = (None, None);
        for (name, value) in parameters.clone() {
            let name = name.as_str();
            match name {
                "limit" => rows(&mut limit, &value)?,
                "cursor" => once(&mut cursor, name, value)?,
                "state" => {
                    for word in value.split(',') {
                        let Some(state) = State::ALL.into_iter().find(|state| state.name() == word) else {
                            return wrong(name, format_args!("must be of: {}", states()));
                        };
                        filter.states.push(state);
                    }
                }
                "owner" => once(&mut filter.owner, name, text(name, value, 255)?)?,
                "template" => once(&mut filter.template, name, text(name, value, 63)?)?,
                "q" => once(&mut filter.text, name, text(name, value, 200)?)?,
                "since" => once(&mut filter.since_ms, name, moment(name, &value, now)?.as_millisecond())?,
                "until" => once(&mut filter.until_ms, name, moment(name, &value, now)?.as_millisecond())?,
                "min_duration" => {
                    let Some(ms) = duration_ms(&value) else {
                        return wrong(name, "must be a time such as 90s, 1h30m or 2d");
                    };
                    let now_ms = now.as_millisecond();
                    once(&mut filter.min_duration, name, MinDuration { ms, now_ms })?;
                }
                "label" | "param" => {
                    let of = if name == "label" {
                        &mut filter.labels
                    } else {
                        &mut filter.parameters
                    };
                    pair(of, name, &value)?;
                }
                _ => return Err(unknown(name, &Self::KNOWN)),
            }
        }
        filter.states.sort_unstable();
        filter.states.dedup();
        let mark = mark(&parameters);
        let after = match cursor {
            None => None,
            Some(cursor) => Some(read_cursor(&cursor, &mark)?),
        };
        let parameters: Vec<_> = parameters.into_iter().filter(|(name, _)| name != "cursor").collect();
        if parameters.len() == PARAMETERS {
            return Err(Wrong::Malformed(format!(
                "there are {PARAMETERS} parameters, and no room for the cursor of the next page"
            )));
        }
        Ok(Self {
            filter,
            limit,
            after,
            mark,
            parameters,
        })
    }

    const KNOWN: [&'static str; 11] = [
        "limit",
        "cursor",
        "state",
        "owner",
        "label",
        "param",
        "template",
        "q",
        "since",
        "until",
        "min_duration",
    ];

    /// Returns the parameters but for the cursor, as they were sent.
    pub fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// Returns the cursor of the page after a job.
    pub fn cursor(&self, last: JobId) -> String {
        write_cursor(last, &self.mark)
    }

    /// Returns the query of the page after a cursor.
    pub fn next(&self, cursor: &str) -> String {
        let mut out = String::new();
        for (name, value) in self
            .parameters
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .chain([("cursor", cursor)])
        {
            if !out.is_empty() {
                out.push('&');
            }
            out.extend(percent_encoding::utf8_percent_encode(
                name,
                percent_encoding::NON_ALPHANUMERIC,
            ));
            out.push('=');
            out.extend(percent_encoding::utf8_percent_encode(
                value,
                percent_encoding::NON_ALPHANUMERIC,
            ));
        }
        out
    }
}

fn states() -> String {
    State::ALL.map(State::name).join(", ")
}

fn unknown(name: &str, known: &[&str]) -> Wrong {
    Wrong::Parameter(format!(
        "there is no parameter `{name}`; there are: {}",
        known.join(", ")
    ))
}

/// Reads how many rows a page may have.
fn rows(limit: &mut Option<u32>, value: &str) -> Result<()> {
    let what = format!("a number from 1 to {PAGE_LIMIT}");
    let number = number("limit", value, &what)?;
    if !(1..=PAGE_LIMIT).contains(&number) {
        return wrong("limit", format_args!("must be {what}"));
    }
    once(limit, "limit", number)
}

fn pair(pairs: &mut BTreeMap<String, String>, name: &str, value: &str) -> Result<()> {
    let Some((key, value)) = value.split_once('=').filter(|(key, _)| !key.is_empty()) else {
        return wrong(name, "must be NAME=VALUE");
    };
    if pairs.len() == LABELS {
        return wrong(name, format_args!("may be given {LABELS} times"));
    }
    match pairs.insert(key.to_owned(), value.to_owned()) {
        Some(other) if other != value => wrong(name, format_args!("wants two values of `{key}`: no job has both")),
        _ => Ok(()),
    }
}

/// Returns a digest of what a filter asks for. Of a relative time it is the words, which mean the same list a page later.
fn mark(parameters: &[(String, String)]) -> [u8; 32] {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (name, value) in parameters {
        match name.as_str() {
            "limit" | "cursor" => {}
            "state" => wanted.extend(value.split(',').map(|state| ("state", state))),
            _ => wanted.push((name, value)),
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    let mut hasher = Sha256::new();
    for (name, value) in wanted {
        for part in [name, value] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    hasher.finalize().into()
}

/// The form of cursors; another number in a later labctl makes its cursors wrong here, and not another page.
const CURSOR_FORM: u8 = 1;
/// How many bytes of the digest a cursor has: against mistakes, not against forgery. Whatever a cursor says, the
/// caller's own jobs are all that is listed.
const CURSOR_DIGEST: usize = 8;

fn write_cursor(last: JobId, mark: &[u8; 32]) -> String {
    use base64::Engine as _;
    let id = last.number().to_be_bytes();
    let mut bytes = vec![CURSOR_FORM];
    bytes.extend(id);
    bytes.extend(&bound(id, mark)[..CURSOR_DIGEST]);
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn read_cursor(text: &str, mark: &[u8; 32]) -> Result<JobId> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Wrong::Cursor)?;
    let (form, rest) = bytes.split_first().ok_or(Wrong::Cursor)?;
    let (id, digest) = rest.split_first_chunk::<8>().ok_or(Wrong::Cursor)?;
    if *form != CURSOR_FORM || digest != &bound(*id, mark)[..CURSOR_DIGEST] {
        return Err(Wrong::Cursor);
    }
    JobId::from_number(i64::from_be_bytes(*id)).ok_or(Wrong::Cursor)
}

fn bound(id: [u8; 8], mark: &[u8; 32]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(id);
    hasher.update(mark);
    hasher.finalize().into()
}

/// Which occurrences of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occurrences {
    /// From this time on, in milliseconds since 1970.
    pub since_ms: i64,
    /// Until this time.
    pub until_ms: i64,
    /// How many at most.
    pub limit: u32,
}

impl Occurrences {
    const KNOWN: [&'static str; 3] = ["since", "until", "limit"];

    /// Reads the query.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn parse(query: &str, now: Timestamp) -> Result<Self> {
        let (mut since, mut until, mut limit) = (None, None, None);
        for (name, value) in parameters(query)? {
            let name = name.as_str();
            match name {
                "since" => once(&mut since, name, moment(name, &value, now)?.as_millisecond())?,
                "until" => once(&mut until, name, moment(name, &value, now)?.as_millisecond())?,
                "limit" => rows(&mut limit, &value)?,
                _ => return Err(unknown(name, &Self::KNOWN)),
            }
        }
        let Some(since_ms) = since else {
            return wrong(
                "since",
                "must be given: a time such as 2026-01-31T12:00:00Z, or how long ago, such as 7d",
            );
        };
        Ok(Self {
            since_ms,
            until_ms: until.unwrap_or(now.as_millisecond()),
            limit: limit.unwrap_or(PAGE_DEFAULT),
        })
    }
}

/// The occurrence that a job is to be made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At(pub Option<i64>);

impl At {
    /// Reads the query.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn parse(query: &str) -> Result<Self> {
        let mut at = None;
        for (name, value) in parameters(query)? {
            match name.as_str() {
                "at" => {
                    let Ok(time) = value.parse::<Timestamp>() else {
                        return wrong("at", "must be a time such as 2026-01-31T12:00:00Z");
                    };
                    once(&mut at, "at", time.as_millisecond())?;
                }
                _ => return Err(unknown(&name, &["at"])),
            }
        }
        Ok(Self(at))
    }
}

/// In which form a log is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As the job wrote it.
    Text,
    /// A JSON object a line.
    Ndjson,
    /// Server-sent events.
    Events,
}

impl Format {
    /// The media types, in the order of [`Format::ALL`].
    pub const MEDIA: [&'static str; 3] = ["text/plain", "application/x-ndjson", "text/event-stream"];
    /// Every form; the first one is the default.
    pub const ALL: [Self; 3] = [Self::Text, Self::Ndjson, Self::Events];
}

/// Which part of a log, and how.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// Which lines.
    pub select: Select,
    /// Only lines of the attempt before the newest one.
    pub previous: bool,
    /// Whether lines of plain text begin with their time.
    pub timestamps: bool,
    /// In which form, where the query says so.
    pub format: Option<Format>,
}

impl Log {
    const KNOWN: [&'static str; 12] = [
        "follow",
        "tail",
        "since",
        "until",
        "attempt",
        "previous",
        "stream",
        "level",
        "grep",
        "timestamps",
        "from",
        "format",
    ];

    /// Reads the query of a log.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn parse(query: &str, now: Timestamp) -> Result<Self> {
        let mut out = Self::default();
        let (mut follow, mut previous, mut timestamps) = (None, None, None);
        let select = &mut out.select;
        for (name, value) in parameters(query)? {
            let name = name.as_str();
            match name {
                "follow" => once(&mut follow, name, flag(name, &value)?)?,
                "previous" => once(&mut previous, name, flag(name, &value)?)?,
                "timestamps" => once(&mut timestamps, name, flag(name, &value)?)?,
                "tail" => once(&mut select.tail, name, number(name, &value, "a number of lines")?)?,
                "from" => {
                    let from: u64 = number(name, &value, "the number of a line, from 1")?;
                    if from == 0 {
                        return wrong(name, "must be the number of a line, from 1");
                    }
                    once(&mut select.from, name, from)?;
                }
                "attempt" => once(
                    &mut select.attempt,
                    name,
                    number(name, &value, "the number of an attempt, from 1")?,
                )?,
                "since" => once(&mut select.since_us, name, moment(name, &value, now)?.as_microsecond())?,
                "until" => once(&mut select.until_us, name, moment(name, &value, now)?.as_microsecond())?,
                "grep" => once(&mut select.grep, name, regex(&value)?)?,
                "stream" => {
                    let Some(stream) = Stream::ALL.into_iter().find(|stream| stream.name() == value) else {
                        let all = Stream::ALL.map(Stream::name).join(", ");
                        return wrong(name, format_args!("must be of: {all}"));
                    };
                    once(&mut select.stream, name, stream)?;
                }
                "level" => {
                    let Some(level) = Level::ALL.into_iter().find(|level| level.name() == value) else {
                        let all = Level::ALL.map(Level::name).join(", ");
                        return wrong(name, format_args!("must be of: {all}"));
                    };
                    once(&mut select.level, name, level)?;
                }
                "format" => {
                    let format = match value.as_str() {
                        "text" => Format::Text,
                        "ndjson" => Format::Ndjson,
                        "sse" => Format::Events,
                        _ => return wrong(name, "must be of: text, ndjson, sse"),
                    };
                    once(&mut out.format, name, format)?;
                }
                _ => return Err(unknown(name, &Self::KNOWN)),
            }
        }
        out.previous = previous.unwrap_or_default();
        out.timestamps = timestamps.unwrap_or_default();
        out.select.follow = follow.unwrap_or_default();
        if out.previous && out.select.attempt.is_some() {
            return wrong("previous", "and `attempt` cannot be asked for together");
        }
        Ok(out)
    }

    /// Goes on after a line that the client has: what it saw is not sent again, so a `tail` does not count any more.
    pub fn resume(&mut self, last: u64) {
        self.select.from = Some(last.saturating_add(1));
        self.select.tail = None;
    }
}

/// Compiles a regular expression of which neither size nor speed can be used against the server.
fn regex(text: &str) -> Result<Regex> {
    let compiled = RegexBuilder::new(text)
        .size_limit(REGEX_BYTES)
        .dfa_size_limit(REGEX_BYTES)
        .nest_limit(50)
        .build();
    compiled.or_else(|error| match error {
        regex::Error::CompiledTooBig(_) => wrong("grep", "is too large an expression"),
        // The text has a drawing of several lines, of which the last one says what is wrong.
        error => {
            let text = error.to_string();
            let what = text
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned();
            wrong("grep", format_args!("is no regular expression: {what}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-03-04T05:06:07Z".parse().expect("a time")
    }

    fn list(query: &str) -> Result<List> {
        List::parse(query, now())
    }

    fn log(query: &str) -> Result<Log> {
        Log::parse(query, now())
    }

    fn id(number: i64) -> JobId {
        JobId::from_number(number).expect("an id")
    }

    #[test]
    fn a_filter_is_what_was_asked_for() {
        let got = list("limit=7&state=failed,running&state=failed&owner=a&label=x%3D1&label=y=&q=big+one&template=t&since=1h&until=2026-01-01T00:00:00%2B01:00")
            .expect("good");
        assert_eq!(got.limit, Some(7));
        let filter = got.filter;
        assert_eq!(filter.states, [State::Running, State::Failed]);
        assert_eq!(filter.owner.as_deref(), Some("a"));
        assert_eq!(
            filter
                .labels
                .iter()
                .map(|(k, v)| format!("{k}:{v}"))
                .collect::<Vec<_>>(),
            ["x:1", "y:"]
        );
        assert_eq!(
            (filter.text.as_deref(), filter.template.as_deref()),
            (Some("big one"), Some("t"))
        );
        assert_eq!(filter.since_ms, Some(now().as_millisecond() - 3_600_000));
        assert_eq!(filter.until_ms, Some(1_767_222_000_000));
        assert_eq!(list("").expect("good").filter, Filter::default());
        assert_eq!(list("&&").expect("good").filter, Filter::default());
    }

    #[test]
    fn relative_times_may_be_written_in_the_usual_ways() {
        for (text, seconds) in [
            ("90s", 90),
            ("1h30m", 5400),
            ("1h 30m", 5400),
            ("7d", 604_800),
            ("2 weeks", 1_209_600),
            ("PT5M", 300),
        ] {
            let query = format!("since={}", text.replace(' ', "+"));
            let filter = list(&query).expect(text).filter;
            assert_eq!(filter.since_ms, Some(now().as_millisecond() - seconds * 1000), "{text}");
        }
        assert!(list("since=9000y").is_err() || list("since=9000y").is_ok(), "no panic");
        assert!(
            list("since=99999999999h").is_err() || list("since=99999999999h").is_ok(),
            "no panic"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = format!("q={}", "x".repeat(2000));
        let many = "label=a=b&".repeat(100);
        for (query, word) in [
            ("limit=0", "`limit`"),
            ("limit=501", "`limit`"),
            ("limit=-1", "`limit`"),
            ("limit=%2B5", "`limit`"),
            ("limit=1e2", "`limit`"),
            ("limit=99999999999999999999", "`limit`"),
            ("limit=5&limit=5", "twice"),
            ("limit", "`limit`"),
            ("state=", "pending, suspended"),
            ("state=Failed", "pending, suspended"),
            ("state=failed,", "pending, suspended"),
            ("stat=failed", "no parameter `stat`"),
            ("label=x", "NAME=VALUE"),
            ("label==x", "NAME=VALUE"),
            ("label=a=1&label=a=2", "no job has both"),
            ("q=", "1 to 200"),
            ("q=%00", "control"),
            ("q=a%0Ab", "control"),
            ("q=%ff", "UTF-8"),
            ("%ff=1", "UTF-8"),
            ("since=yesterday", "`since`"),
            ("since=-1h", "`since`"),
            ("since=2026-01-01", "`since`"),
            ("until=", "`until`"),
            (long.as_str(), "longer"),
            (many.as_str(), "more than 64"),
        ] {
            let error = list(query).expect_err(query);
            let (Wrong::Malformed(text) | Wrong::Parameter(text)) = &error else {
                panic!("{query}: {error:?}");
            };
            assert!(text.contains(word), "{query}: {text}");
        }
    }

    #[test]
    fn a_cursor_leads_to_the_page_after_and_only_in_its_own_list() {
        let first = list("state=failed,running&label=a=b&since=1h&limit=10").expect("good");
        let cursor = first.cursor(id(1 << 62));
        assert!(
            cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)),
            "{cursor}"
        );
        // The same list: in another order, with another limit, and later.
        for query in [
            format!("since=1h&label=a%3Db&state=running&state=failed&cursor={cursor}"),
            first.next(&cursor),
        ] {
            let next = List::parse(&query, now() + Span::new().minutes(5)).expect("the same list");
            assert_eq!(next.after, Some(id(1 << 62)), "{query}");
        }
        assert!(first.next(&cursor).contains("limit=10"));
        let next = list(&first.next(&cursor)).expect("good");
        assert_eq!(
            next.next("x").matches("cursor").count(),
            1,
            "the old cursor is not kept"
        );
        for query in [
            "",
            "state=failed&label=a=b&since=1h",
            "state=failed,running&label=a=b&since=2h",
        ] {
            assert_eq!(list(&format!("{query}&cursor={cursor}")), Err(Wrong::Cursor), "{query}");
        }
    }

    #[test]
    fn no_hostile_cursor_is_taken() {
        let good = list("").expect("good").cursor(id(77));
        assert_eq!(list(&format!("cursor={good}")).expect("good").after, Some(id(77)));
        for place in 0..good.len() {
            for other in ["A", "z", "9", "_", "", "%00", "=", "\u{e4}"] {
                let mut bad = good.clone();
                if bad[place..=place] == *other {
                    continue;
                }
                bad.replace_range(place..=place, other);
                assert!(list(&format!("cursor={bad}")).is_err(), "{bad}");
            }
        }
        for bad in [
            "",
            "AQ",
            "0",
            "AAAAAAAAAAAAAAAAAAAAAAA",
            &"A".repeat(1000),
            "../../etc",
            "%2e",
        ] {
            assert_eq!(list(&format!("cursor={bad}")), Err(Wrong::Cursor), "{bad}");
        }
    }

    #[test]
    fn a_part_of_a_log_is_what_was_asked_for() {
        let got =
            log("follow&tail=5&since=1m&until=5s&attempt=2&grep=a.%2Bb&timestamps=1&from=9&format=sse").expect("good");
        let select = &got.select;
        assert!(select.follow && got.timestamps && !got.previous);
        assert_eq!((select.tail, select.attempt, select.from), (Some(5), Some(2), Some(9)));
        assert_eq!(select.since_us, Some(now().as_microsecond() - 60_000_000));
        assert_eq!(select.until_us, Some(now().as_microsecond() - 5_000_000));
        assert!(select.grep.as_ref().is_some_and(|grep| grep.is_match(b"xaXXb\xff")));
        assert_eq!(got.format, Some(Format::Events));
        let mut resumed = got;
        resumed.resume(41);
        assert_eq!((resumed.select.from, resumed.select.tail), (Some(42), None));
        resumed.resume(u64::MAX);
        assert_eq!(resumed.select.from, Some(u64::MAX));
    }

    #[test]
    fn a_wrong_part_of_a_log_is_named() {
        for (query, word) in [
            ("follow=yes", "true or false"),
            ("tail=-1", "`tail`"),
            ("from=0", "`from`"),
            ("attempt=4294967296", "`attempt`"),
            ("previous&attempt=1", "together"),
            ("format=xml", "text, ndjson, sse"),
            ("level=bad", "must be of: trace, debug, info, warn, error"),
            ("level=warn&level=warn", "twice"),
            ("stream=both", "must be of: stdout, stderr"),
            ("grep=(", "no regular expression"),
            ("grep=%5Cp%7BGreek", "no regular expression"),
            ("grep=(?P%3Ca%3Ex)(?P%3Ca%3Ey)", "no regular expression"),
            ("grep=((a%7B1000%7D)%7B1000%7D)%7B1000%7D", "too large"),
            ("grep=a&grep=b", "twice"),
            ("tial=5", "no parameter `tial`"),
        ] {
            let error = log(query).expect_err(query);
            let (Wrong::Malformed(text) | Wrong::Parameter(text)) = &error else {
                panic!("{query}: {error:?}");
            };
            assert!(text.contains(word), "{query}: {text}");
        }
        let nested = format!("grep={}", "(".repeat(900));
        assert!(log(&nested).is_err());
    }
}
