//! The form of a check in `chapter.yaml`, read strictly.
//!
//! A key that is misspelt, given twice or left empty is an error with its place, never a check that asks less than its
//! author meant. The kind of a check is its key (`k8s:`, `http:`, `exec:`), and so is its time operator.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path as FilePath;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_saphyr::Spanned;

use super::ask::{Ask, Exec, File, Http, K8s, LogStream};
use super::matcher::{Fields, Matcher, Path};
use crate::error::{Code, Diagnosis};

/// The placeholders that a spec may use, with what they stand for.
pub const PLACEHOLDERS: &[(&str, &str)] = &[
    (
        "chart",
        "the folder of the chart job-dashboard: the learner's copy, or else the course's",
    ),
    ("http_url", "the dashboard's HTTP URL without a slash at its end"),
    ("kubeconfig", "the path of the lab's kubeconfig"),
    ("kubernetes", "the pinned version of Kubernetes, such as 1.37.2"),
    ("kubernetes_minor", "its first two numbers, such as 1.37"),
    ("labctl", "the path of this program"),
    ("namespace", "the dashboard's namespace"),
    (
        "python",
        "the Python of the learner's workspace, with the packages of the chapter",
    ),
    ("run_id", "a name that no other run uses"),
    ("solutions", "the folder with the reference solutions of all chapters"),
    ("url", "the URL of the learner's own server without a slash at its end"),
    ("workspace", "the folder of the learner's files of this chapter"),
];

/// How many hints a check has, if it has any: a nudge, a pointer, the answer.
const HINTS: usize = 3;

/// One check, as the rest of the engine sees it.
#[derive(Debug, Clone)]
pub struct Check {
    /// Its name within the chapter.
    pub id: String,
    /// The checks that must pass before this one is tried.
    pub needs: Vec<String>,
    /// Whether it changes something, so that it must run alone.
    pub locked: bool,
    /// Whether it can say anything only where the lab's cluster answers.
    pub cluster: bool,
    /// Whether it is about what a learner did, so that it is left out where the chapter was never started.
    pub started: bool,
    /// When what is asked must hold.
    pub time: Time,
    /// What is asked.
    pub ask: Ask,
    /// What ends the waiting at once, as a failure.
    pub abort_if: Vec<Rule>,
    /// Causes that can be told from what was seen; the first that fits is said.
    pub because: Vec<Rule>,
    /// What to read after a failure.
    pub read: Option<String>,
    /// Help for one who is stuck, from a nudge to the answer.
    pub hints: Vec<String>,
    /// Values of what was seen that later checks may use as placeholders, by name.
    pub save: Vec<(String, Path)>,
    /// Where the check is.
    pub place: Place,
}

/// When what is asked must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Time {
    /// Now; but where a controller has not looked at a new spec yet, as soon as it has.
    Once,
    /// At some time within a limit, and then for a while.
    Eventually {
        /// The limit.
        within: Duration,
        /// How long it must go on to hold.
        stable_for: Duration,
    },
    /// All the time, for this long.
    Always {
        /// How long.
        lasting: Duration,
    },
    /// At no time, for this long.
    Never {
        /// How long.
        lasting: Duration,
        /// The check that proves that it would be seen if it were there.
        after: String,
    },
}

/// A cause that an author foresaw.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What must have been seen.
    pub when: When,
    /// What it means, for people. It names the cause, not the solution.
    pub say: String,
}

/// What must have been seen for a [`Rule`] to fit; all that is given must hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// Values within one of the candidates.
    pub fields: Option<Fields>,
    /// How many candidates there are.
    pub candidates: Option<Matcher>,
}

/// A place in a spec file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

impl Place {
    /// Returns the place of a value.
    pub fn of<T>(value: &Spanned<T>) -> Self {
        Self::at(value.referenced)
    }

    fn at(location: serde_saphyr::Location) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
        }
    }
}

/// What is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// Where.
    pub place: Place,
    /// What, in one line.
    pub message: String,
}

impl SpecError {
    /// Makes an error.
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self {
            place,
            message: message.into(),
        }
    }

    /// Turns the error into what the user sees, with the file's name.
    pub fn in_file(self, file: &FilePath) -> Diagnosis {
        Diagnosis::new(Code::SpecInvalid, format!("{}:{self}", file.display()))
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place.line, self.place.column, self.message)
    }
}

impl std::error::Error for SpecError {}

/// Reads a spec file strictly.
///
/// # Errors
/// It is not YAML, or not of the form of `T`; the error says where and what was perhaps meant.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, SpecError> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        with_snippet: false,
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map(Place::at).unwrap_or_default();
        SpecError::new(place, message(error.without_snippet()))
    })
}

fn message(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    let unknown = |what: &str, name: &str, expected: &[&'static str]| {
        let mut text = format!("unknown {what} `{name}`");
        match closest(name, expected.iter().copied()) {
            Some(meant) => text = format!("{text}; did you mean `{meant}`?"),
            None if !expected.is_empty() => text = format!("{text}; known are {}", names(expected.iter().copied())),
            None => {}
        }
        text
    };
    match error {
        Error::SerdeUnknownField { field, expected, .. } => unknown("key", field, expected),
        Error::SerdeUnknownVariant { variant, expected, .. } => unknown("word", variant, expected),
        Error::SerdeMissingField { field, .. } => format!("the key `{field}` is missing"),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("the key `{key}` is given twice"),
        other => {
            let text = other.to_string();
            let text = text.lines().next().unwrap_or_default();
            // The place is said before the message; the library repeats it behind.
            let text = text.split(" at line ").next().unwrap_or(text);
            text.trim_start_matches("error: ").to_owned()
        }
    }
}

/// Returns the known name that is close enough to have been meant.
pub fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .filter(|(score, _)| *score >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Lists names: `` `a`, `b` ``.
pub fn names<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = all.into_iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// A check as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCheck {
    id: Spanned<String>,
    #[serde(default)]
    needs: Vec<Spanned<String>>,
    lock: Option<Lock>,
    cluster: Option<bool>,
    #[serde(default)]
    started: bool,
    k8s: Option<K8s>,
    http: Option<Http>,
    exec: Option<Exec>,
    file: Option<File>,
    logstream: Option<LogStream>,
    #[serde(default)]
    save: BTreeMap<String, Path>,
    once: Option<Once>,
    eventually: Option<Eventually>,
    always: Option<Always>,
    never: Option<Never>,
    #[serde(default)]
    abort_if: Vec<Rule>,
    #[serde(default)]
    because: Vec<Rule>,
    read: Option<String>,
    #[serde(default)]
    hints: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Lock {
    Cluster,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Once {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Eventually {
    within: Span,
    #[serde(default)]
    stable_for: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Always {
    #[serde(rename = "for")]
    lasting: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Never {
    #[serde(rename = "for")]
    lasting: Span,
    after: Spanned<String>,
}

/// A length of time, written `500ms`, `90s`, `2m`, `1m30s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|length| Duration::try_from(length).ok())
            .filter(|length| !length.is_zero())
            .map(Self)
            .ok_or_else(|| {
                serde::de::Error::custom(format!(
                    "`{text}` is not a length of time such as `500ms`, `90s` or `2m`"
                ))
            })
    }
}

/// Turns checks as they are written into checks that can be run.
///
/// # Errors
/// The first thing that is wrong: an id used twice, no kind or two of them, nothing expected, a need that is unknown or
/// goes in a circle, an unknown placeholder.
pub fn checks(raw: Vec<RawCheck>) -> Result<Vec<Check>, SpecError> {
    let mut known: Vec<String> = Vec::new();
    for check in &raw {
        let id = &check.id;
        let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if id.value.is_empty() || !id.value.chars().all(named) {
            let text = format!("`{}` is not an id: lower-case letters, digits and hyphens", id.value);
            return Err(SpecError::new(Place::of(id), text));
        }
        if known.contains(&id.value) {
            return Err(SpecError::new(
                Place::of(id),
                format!("a second check has the id `{}`", id.value),
            ));
        }
        known.push(id.value.clone());
    }
    let mut out = Vec::with_capacity(raw.len());
    for check in raw {
        out.push(one(check, &known)?);
    }
    for check in &out {
        if let Some(need) = out
            .iter()
            .find(|other| other.started && !check.started && check.needs.contains(&other.id))
        {
            let text = format!(
                "`{}` needs `{}`, which is asked only where the chapter was started; give it `started: true` too",
                check.id, need.id
            );
            return Err(SpecError::new(check.place, text));
        }
        if let Some(circle) = circle(check, &out) {
            let text = format!("`{}` needs itself: {circle}", check.id);
            return Err(SpecError::new(check.place, text));
        }
        if let Err(text) = placeholders_are_known(check, &out) {
            return Err(SpecError::new(check.place, format!("check `{}`: {text}", check.id)));
        }
    }
    Ok(out)
}

/// Checks that a name is known, and says which was perhaps meant.
///
/// # Errors
/// It is not known.
pub fn known(what: &str, name: &Spanned<String>, all: &[String]) -> Result<(), SpecError> {
    known_at(Place::of(name), what, &name.value, all)
}

/// As [`known`], for a name whose own place is not kept.
///
/// # Errors
/// It is not known.
pub fn known_at(place: Place, what: &str, name: &str, all: &[String]) -> Result<(), SpecError> {
    if all.iter().any(|known| known == name) {
        return Ok(());
    }
    let mut text = format!("there is no {what} `{name}`");
    if let Some(meant) = closest(name, all.iter().map(String::as_str)) {
        text = format!("{text}; did you mean `{meant}`?");
    }
    Err(SpecError::new(place, text))
}

fn one(raw: RawCheck, ids: &[String]) -> Result<Check, SpecError> {
    let place = Place::of(&raw.id);
    let id = raw.id.value.clone();
    let wrong = |text: String| Err(SpecError::new(place, format!("check `{id}`: {text}")));

    let mut asks = Vec::new();
    asks.extend(raw.k8s.map(Ask::K8s));
    asks.extend(raw.http.map(Ask::Http));
    asks.extend(raw.exec.map(Ask::Exec));
    asks.extend(raw.file.map(Ask::File));
    asks.extend(raw.logstream.map(Ask::LogStream));
    if asks.len() != 1 {
        return wrong(format!(
            "give exactly one of `k8s`, `http`, `exec`, `file`, `logstream`; there are {}",
            asks.len()
        ));
    }
    let ask = asks.remove(0);

    let mut times = Vec::new();
    times.extend(raw.once.map(|Once {}| Time::Once));
    times.extend(raw.eventually.map(|time| Time::Eventually {
        within: time.within.0,
        stable_for: time.stable_for.0,
    }));
    times.extend(raw.always.map(|time| Time::Always {
        lasting: time.lasting.0,
    }));
    if let Some(never) = &raw.never {
        known("check", &never.after, ids)?;
        times.push(Time::Never {
            lasting: never.lasting.0,
            after: never.after.value.clone(),
        });
    }
    if times.len() > 1 {
        return wrong("give one of `once`, `eventually`, `always`, `never`, not several".into());
    }
    let time = times.pop().unwrap_or(Time::Once);
    if let Time::Eventually { within, stable_for } = &time
        && stable_for >= within
    {
        return wrong("`stable_for` must be shorter than `within`, or it can never be reached".into());
    }

    for need in &raw.needs {
        known("check", need, ids)?;
    }
    let mut needs: Vec<String> = raw.needs.into_iter().map(|need| need.value).collect();
    if let Time::Never { after, .. } = &time
        && !needs.contains(after)
    {
        needs.push(after.clone());
    }

    if let Err(text) = asks_something(&ask, &needs) {
        return wrong(text);
    }
    for rule in raw.abort_if.iter().chain(&raw.because) {
        if rule.when.fields.is_none() && rule.when.candidates.is_none() {
            return wrong("`when: {}` fits everything; give it `fields` or `candidates`".into());
        }
    }
    if !raw.hints.is_empty() && raw.hints.len() != HINTS {
        return wrong(format!(
            "give {HINTS} hints, from a nudge to the answer; there are {}",
            raw.hints.len()
        ));
    }
    let known: Vec<_> = PLACEHOLDERS.iter().map(|(name, _)| *name).collect();
    if let Some(name) = raw.save.keys().find(|name| known.contains(&name.as_str())) {
        return wrong(format!("`save` cannot give `{name}` another value"));
    }
    Ok(Check {
        id,
        needs,
        locked: matches!(raw.lock, Some(Lock::Cluster)),
        cluster: raw.cluster.unwrap_or(true),
        started: raw.started,
        time,
        ask,
        abort_if: raw.abort_if,
        because: raw.because,
        read: raw.read,
        hints: raw.hints,
        save: raw.save.into_iter().collect(),
        place,
    })
}

/// Checks that every placeholder has a value: labctl's own, or one that a needed check saves.
fn placeholders_are_known(check: &Check, all: &[Check]) -> Result<(), String> {
    let needed = super::schedule::with_needs(all, &check.needs);
    let saved = needed
        .iter()
        .flat_map(|check| &check.save)
        .map(|(name, _)| name.as_str());
    let known: Vec<&str> = PLACEHOLDERS.iter().map(|(name, _)| *name).chain(saved).collect();
    for name in check.ask.placeholders() {
        if known.contains(&name.as_str()) {
            continue;
        }
        if let Some(saver) = all
            .iter()
            .find(|other| other.save.iter().any(|(saved, _)| *saved == name))
        {
            return Err(format!(
                "`{{{{{name}}}}}` is saved by `{}`, which is not in `needs`",
                saver.id
            ));
        }
        return Err(unknown_placeholder(&name, &known));
    }
    Ok(())
}

/// Says that a placeholder is unknown, and which was perhaps meant.
pub fn unknown_placeholder(name: &str, known: &[&str]) -> String {
    let meant = match closest(name, known.iter().copied()) {
        Some(meant) => format!("did you mean `{{{{{meant}}}}}`?"),
        None => format!("known are {}", names(known.iter().copied())),
    };
    format!("unknown placeholder `{{{{{name}}}}}`; {meant}")
}

fn asks_something(ask: &Ask, needs: &[String]) -> Result<(), String> {
    match ask {
        Ask::K8s(k8s) => {
            let expect = &k8s.expect;
            if expect.condition.is_none() && expect.fields.is_none() && expect.count.is_none() {
                return Err("`expect` asks nothing; give it `condition`, `fields` or `count`".into());
            }
            if k8s.name.is_some() && k8s.selector.is_some() {
                return Err("give `name` or `selector`, not both".into());
            }
            if k8s.each.is_some() && expect.condition.is_some() {
                return Err("a `condition` is of the whole object; it cannot be asked of `each` part".into());
            }
            if expect
                .count
                .as_ref()
                .is_some_and(|count| count.accepts(Some(&0.into())))
            {
                if needs.is_empty() {
                    return Err(
                        "`count` may be 0 here, so nothing at all would pass; name in `needs` a check that shows that there was something to see".into(),
                    );
                }
                if expect.condition.is_some() || expect.fields.is_some() {
                    return Err(
                        "`count` may be 0 here, so `condition` and `fields` might ask nothing; use two checks".into(),
                    );
                }
            }
        }
        Ask::Http(http) => {
            let requests = http.requests();
            if requests.len() != 1 {
                let text = "give exactly one of `get`, `post`, `put`, `patch`, `delete`";
                return Err(format!("{text}; there are {}", requests.len()));
            }
            let target = requests[0].1;
            let is_path = target.starts_with('/');
            if http.via.is_some() != is_path {
                return Err(format!(
                    "`{target}` must be {}",
                    if is_path {
                        "a whole URL, or have a `via` that says which Service to ask"
                    } else {
                        "a path that begins with `/`, as `via` says which Service to ask"
                    }
                ));
            }
            if let Some(name) = http
                .expect
                .headers
                .keys()
                .find(|name| name.chars().any(char::is_uppercase))
            {
                return Err(format!("write the header `{name}` in lower case"));
            }
        }
        Ask::Exec(exec) => {
            if exec.run.first().is_none_or(String::is_empty) {
                return Err("`run` names no program".into());
            }
            let expect = &exec.expect;
            let anything = [&expect.exit, &expect.stdout, &expect.stderr, &expect.output];
            if anything.iter().all(|matcher| matcher.is_none()) && expect.json.is_none() {
                return Err("`expect` asks nothing; give it `exit`, `stdout`, `stderr`, `output` or `json`".into());
            }
        }
        Ask::File(file) => {
            if let Some(text) = file.asks_nothing() {
                return Err(text);
            }
        }
        // Its status is always asked.
        Ask::LogStream(_) => {}
    }
    Ok(())
}

fn circle(check: &Check, all: &[Check]) -> Option<String> {
    fn walk<'c>(id: &'c str, goal: &str, all: &'c [Check], seen: &mut BTreeSet<&'c str>) -> Option<String> {
        let check = all.iter().find(|check| check.id == id)?;
        for need in &check.needs {
            if need == goal {
                return Some(format!("{id} -> {need}"));
            }
            if seen.insert(need)
                && let Some(rest) = walk(need, goal, all, seen)
            {
                return Some(format!("{id} -> {rest}"));
            }
        }
        None
    }
    walk(&check.id, &check.id, all, &mut BTreeSet::new())
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
