//! What a list shows, as it stands in the address of its page. Pure but for the clock, by which it is known how long a
//! job runs.
//!
//! The names are those of `GET /jobs`, so that an address can be taken from one to the other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::dashboard::control::now_ms;
use crate::dashboard::http::query::duration_ms;
use crate::dashboard::job::{JobId, State};
use crate::dashboard::store::{Filter, MinDuration};

/// How many jobs a page has where its address does not say so.
pub(super) const ROWS: u32 = 50;
/// How many jobs a page has at most.
const MOST_ROWS: u32 = 500;
/// How many pages back an address remembers.
const PAGES_BACK: usize = 40;

/// The query of a list's page: what was typed, and what it means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// These states; empty means any.
    pub(super) states: Vec<State>,
    /// Text in the name or the id.
    pub(super) text: String,
    /// The owner.
    pub(super) owner: String,
    /// Labels as `name=value`, with commas between them.
    pub(super) labels: String,
    /// Parameters of the template as `name=value`, with commas between them.
    pub(super) params: String,
    /// The template.
    pub(super) template: String,
    /// From this day or time on.
    pub(super) since: String,
    /// Until this day (with it) or time.
    pub(super) until: String,
    /// How long it ran at least.
    pub(super) min_duration: String,
    /// The last job of the page before.
    pub(super) after: Option<JobId>,
    /// Where the pages before began.
    pub(super) back: Vec<JobId>,
    /// How many jobs, where it is said.
    pub(super) limit: Option<u32>,
}

/// Fields that cannot be understood, by name, and what would be right.
pub(super) type Faults = BTreeMap<&'static str, String>;

/// Takes a query string, or the body of a form, apart.
pub(super) fn pairs(text: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

impl Query {
    /// Reads the query of an address. What cannot be understood is a fault, and is left as it was typed.
    pub(super) fn read(text: &str) -> (Self, Faults) {
        let mut query = Self::default();
        let mut faults = Faults::new();
        for (name, value) in pairs(text) {
            let value = value.trim().to_owned();
            match name.as_str() {
                _ if value.is_empty() => {}
                "state" => {
                    for word in value.split(',') {
                        match State::ALL.into_iter().find(|state| state.name() == word.trim()) {
                            Some(state) if query.states.contains(&state) => {}
                            Some(state) => query.states.push(state),
                            None => {
                                let all = State::ALL.map(State::name).join(", ");
                                faults.insert("state", format!("`{word}` is not one of {all}"));
                            }
                        }
                    }
                }
                "q" => query.text = value,
                "owner" => query.owner = value,
                "label" => add(&mut query.labels, &value),
                "param" => add(&mut query.params, &value),
                "template" => query.template = value,
                "since" => query.since = value,
                "until" => query.until = value,
                "min_duration" => query.min_duration = value,
                "after" => match value.parse() {
                    Ok(id) => query.after = Some(id),
                    Err(_) => _ = faults.insert("after", "the page cannot be found: begin at the first one".to_owned()),
                },
                "back" => query.back = value.split('.').filter_map(|id| id.parse().ok()).collect(),
                "limit" => match value.parse() {
                    Ok(limit @ 1..=MOST_ROWS) => query.limit = Some(limit),
                    _ => _ = faults.insert("limit", format!("a page has 1 to {MOST_ROWS} jobs")),
                },
                _ => {}
            }
        }
        query.states.sort_unstable();
        for (name, value) in [("label", &query.labels), ("param", &query.params)] {
            if let Err(fault) = named(value) {
                faults.insert(name, fault);
            }
        }
        for (name, value, end) in [("since", &query.since, false), ("until", &query.until, true)] {
            if let Err(fault) = time(value, end) {
                faults.insert(name, fault);
            }
        }
        if !query.min_duration.is_empty() && duration_ms(&query.min_duration).is_none() {
            let right = "a length of time is such as 90s, 10m, 1h30m or 2d".to_owned();
            faults.insert("min_duration", right);
        }
        (query, faults)
    }

    /// Returns what the store is asked for; what cannot be understood does not restrict it.
    pub(super) fn filter(&self) -> Filter {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        Filter {
            states: self.states.clone(),
            owner: given(&self.owner),
            labels: named(&self.labels).unwrap_or_default(),
            parameters: named(&self.params).unwrap_or_default(),
            text: given(&self.text),
            template: given(&self.template),
            since_ms: time(&self.since, false).unwrap_or_default(),
            until_ms: time(&self.until, true).unwrap_or_default(),
            min_duration: duration_ms(&self.min_duration).map(|ms| MinDuration { ms, now_ms: now_ms() }),
        }
    }

    /// Returns how many jobs the page has.
    pub(super) fn rows(&self) -> u32 {
        self.limit.unwrap_or(ROWS)
    }

    /// Returns whether anything is filtered by.
    pub(super) fn is_filtered(&self) -> bool {
        self.filter() != Filter::default()
    }

    /// Returns whether a filter is used that is not seen without opening the others.
    pub(super) fn has_more(&self) -> bool {
        let Self {
            owner,
            labels,
            params,
            template,
            since,
            until,
            min_duration,
            ..
        } = self;
        [owner, labels, params, template, since, until, min_duration]
            .iter()
            .any(|text| !text.is_empty())
    }

    /// Returns the address of this list's first page.
    pub(super) fn first(&self) -> Self {
        Self {
            after: None,
            back: Vec::new(),
            ..self.clone()
        }
    }

    /// Returns the page that follows one that ends with `last`.
    pub(super) fn next(&self, last: JobId) -> Self {
        let mut next = self.clone();
        next.back.extend(self.after);
        let too_many = next.back.len().saturating_sub(PAGES_BACK);
        next.back.drain(..too_many);
        next.after = Some(last);
        next
    }

    /// Returns the page before this one; nothing of the first.
    pub(super) fn previous(&self) -> Option<Self> {
        self.after?;
        let mut previous = self.clone();
        previous.after = previous.back.pop();
        Some(previous)
    }

    /// Returns this list with one state more, or less.
    pub(super) fn toggled(&self, state: State) -> Self {
        let mut other = self.first();
        if self.states.contains(&state) {
            other.states.retain(|known| *known != state);
        } else {
            other.states.push(state);
            other.states.sort_unstable();
        }
        other
    }

    /// Returns this list with jobs in any state.
    pub(super) fn any_state(&self) -> Self {
        Self {
            states: Vec::new(),
            ..self.first()
        }
    }

    /// Returns the address of the page.
    pub(super) fn address(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for state in &self.states {
            query.append_pair("state", state.name());
        }
        let texts = [
            ("q", &self.text),
            ("owner", &self.owner),
            ("label", &self.labels),
            ("param", &self.params),
            ("template", &self.template),
            ("since", &self.since),
            ("until", &self.until),
            ("min_duration", &self.min_duration),
        ];
        for (name, value) in texts {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        if let Some(limit) = self.limit {
            query.append_pair("limit", &limit.to_string());
        }
        if let Some(after) = self.after {
            query.append_pair("after", &after.to_string());
        }
        if !self.back.is_empty() {
            let back: Vec<String> = self.back.iter().map(JobId::to_string).collect();
            query.append_pair("back", &back.join("."));
        }
        let query = query.finish();
        if query.is_empty() {
            "/".to_owned()
        } else {
            format!("/?{query}")
        }
    }
}

/// Adds to what has commas between its parts.
fn add(all: &mut String, part: &str) {
    if !all.is_empty() {
        all.push_str(", ");
    }
    all.push_str(part);
}

fn named(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut out = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is not `name=value`"))?;
        out.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    Ok(out)
}

/// Reads a time, or a day in UTC: its beginning, or with `end` the beginning of the next.
fn time(text: &str, end: bool) -> Result<Option<i64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Some(time.as_millisecond()));
    }
    let fault = || format!("`{text}` is neither a day such as 2026-01-31 nor a time such as 2026-01-31T18:00:00Z");
    let mut day = text.parse::<Date>().map_err(|_| fault())?;
    if end {
        day = day.tomorrow().map_err(|_| fault())?;
    }
    let start = TimeZone::UTC.to_timestamp(day.at(0, 0, 0, 0)).map_err(|_| fault())?;
    Ok(Some(start.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: i64) -> JobId {
        JobId::from_number(number).expect("an id")
    }

    #[test]
    fn an_address_is_read_as_it_was_written() {
        for text in [
            "/",
            "/?state=pending&state=failed&q=a+%26+b%3Cc%3E&limit=10",
            "/?owner=anna&label=team%3Dred%2C+tier%3D&param=env%3Dprod&since=2026-01-31&until=2026-02-01T00%3A00%3A00Z",
            "/?after=0000000000009&back=0000000000001.0000000000002",
        ] {
            let (query, faults) = Query::read(text.trim_start_matches('/').trim_start_matches('?'));
            assert!(faults.is_empty(), "{faults:?}");
            assert_eq!(query.address(), text);
        }
    }

    #[test]
    fn the_filter_is_what_the_address_says() {
        let (query, _) = Query::read("state=failed,running&label=a%3D1&label=b=&since=1970-01-02&until=1970-01-02&q=x");
        let filter = query.filter();
        assert_eq!(filter.states, [State::Running, State::Failed]);
        assert_eq!(
            filter.labels,
            BTreeMap::from([("a".into(), "1".into()), ("b".into(), String::new())])
        );
        assert_eq!(
            (filter.since_ms, filter.until_ms),
            (Some(86_400_000), Some(2 * 86_400_000))
        );
        assert!(query.is_filtered() && query.has_more());
        assert!(!Query::read("limit=5").0.is_filtered());
    }

    #[test]
    fn what_cannot_be_understood_is_said_and_restricts_nothing() {
        let (query, faults) =
            Query::read("state=broken&label=x&since=soon&until=9999-12-31&limit=0&after=zz&junk=1&%ff=%");
        let names: Vec<_> = faults.keys().copied().collect();
        assert_eq!(names, ["after", "label", "limit", "since", "state", "until"]);
        assert_eq!(query.filter(), Filter::default());
        assert_eq!((query.rows(), query.since.as_str()), (ROWS, "soon"));
    }

    #[test]
    fn one_walks_forth_and_back() {
        let first = Query::read("q=x").0;
        let second = first.next(id(30));
        let third = second.next(id(20));
        assert_eq!(
            (third.after, third.back.as_slice()),
            (Some(id(20)), [id(30)].as_slice())
        );
        assert_eq!(third.previous(), Some(second.clone()));
        assert_eq!(second.previous(), Some(first.clone()));
        assert_eq!(first.previous(), None);
        let far = (0..100).fold(first, |page, number| page.next(id(1000 - number)));
        assert_eq!(far.back.len(), PAGES_BACK, "an address has an end");
        assert_eq!(third.toggled(State::Failed).address(), "/?state=failed&q=x");
        assert_eq!(
            third.toggled(State::Failed).toggled(State::Failed),
            Query::read("q=x").0
        );
    }
}
