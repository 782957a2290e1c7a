//! What the API sends: jobs, pages of them and lines of their logs, as JSON. The client reads the same types.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::dashboard::job::schedule::{Concurrency, Schedule};
use crate::dashboard::job::spec::Spec;
use crate::dashboard::job::template::{Origin, Template};
use crate::dashboard::job::{Job, JobId, State};
use crate::dashboard::log::level::Level;
use crate::dashboard::log::{Line, Stream};
use crate::dashboard::service::bulk::Deed;
use crate::dashboard::service::documents::Kept;
use crate::dashboard::store::Counts;
use crate::dashboard::store::documents::Mark;

/// A moment in milliseconds since 1970; in JSON an RFC 3339 string with milliseconds, such as
/// `2026-03-04T05:06:07.089Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = Timestamp::from_millisecond(self.0).map_err(|_| std::fmt::Error)?;
        write!(f, "{at:.3}")
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let at = Timestamp::from_millisecond(self.0).map_err(serde::ser::Error::custom)?;
        serializer.collect_str(&format_args!("{at:.3}"))
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Timestamp::deserialize(deserializer).map(|at| Self(at.as_millisecond()))
    }
}

/// A job as lists show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Job)]
pub struct ApiJob {
    /// Its id: 13 characters. Ids of later jobs are greater, also as text.
    #[schema(value_type = String, min_length = 13, max_length = 13, pattern = "^[0-7][0-9a-hjkmnp-tv-z]{12}$")]
    pub id: JobId,
    /// The name that its creator gave it; not unique.
    pub name: String,
    /// Who created it.
    pub owner: String,
    /// The state.
    pub state: State,
    /// Why it is in that state, as a stable word such as `ExitCode` or `Unschedulable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub message: Option<String>,
    /// The template it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub template: Option<String>,
    /// Labels to find it by.
    pub labels: BTreeMap<String, String>,
    /// The job that it is a rerun of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub parent: Option<JobId>,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Moment,
    /// When it first ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub started_at: Option<Moment>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub finished_at: Option<Moment>,
    /// The exit code of its last attempt; 128 and the signal's number where a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub exit_code: Option<i32>,
    /// How many attempts were begun.
    pub attempts: u32,
    /// Whether someone asked for its end.
    pub cancelling: bool,
    /// Whether its log is stored whole; nothing more comes.
    pub log_complete: bool,
    /// How often it has changed; its `ETag`.
    pub version: i64,
}

impl From<Job> for ApiJob {
    fn from(job: Job) -> Self {
        Self {
            id: job.id,
            name: job.name,
            owner: job.owner,
            state: job.state,
            reason: job.reason,
            message: job.message,
            template: job.template,
            labels: job.labels,
            parent: job.parent,
            created_at: Moment(job.created_ms),
            started_at: job.started_ms.map(Moment),
            finished_at: job.finished_ms.map(Moment),
            exit_code: job.exit_code,
            attempts: job.attempts,
            cancelling: job.cancelling,
            log_complete: job.log_complete,
            version: job.version,
        }
    }
}

/// What makes a job of a template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobOfTemplate)]
pub struct ApiJobOfTemplate {
    /// The template's name.
    #[schema(max_length = 63)]
    pub template: String,
    /// Its arguments, as the template's schema has them; those that are not given have their defaults.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub parameters: Map<String, Value>,
}

/// What makes a job: a document of its own, or a template.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = NewJob)]
#[expect(dead_code, reason = "it describes the body, which is read as one or the other")]
pub(super) enum ApiNewJob {
    /// The job.
    Spec(Box<Spec>),
    /// The template.
    Template(ApiJobOfTemplate),
}

/// A document that is kept, with what is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApiKept {
    /// Whose it is.
    pub owner: String,
    /// How often it changed, from 1; its `ETag`.
    pub version: i64,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Moment,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub changed_at: Moment,
}

/// A template that is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = KeptTemplate)]
pub struct ApiTemplate {
    /// The name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The parameters: a JSON Schema.
    #[schema(value_type = Object)]
    pub parameters: Value,
    /// Whether a job of it may be run again as it was.
    pub allow_rerun: bool,
    /// The job's document, with placeholders.
    #[schema(value_type = Object)]
    pub job: Value,
    /// What is known of it.
    #[serde(flatten)]
    pub kept: ApiKept,
}

impl From<Kept<Template>> for ApiTemplate {
    fn from(kept: Kept<Template>) -> Self {
        Self {
            kept: ApiKept::of(&kept),
            name: kept.document.name,
            description: kept.document.description,
            parameters: kept.document.parameters,
            allow_rerun: kept.document.allow_rerun,
            job: kept.document.job,
        }
    }
}

impl ApiTemplate {
    /// Returns the template alone.
    pub fn template(self) -> Template {
        Template {
            name: self.name,
            description: self.description,
            parameters: self.parameters,
            allow_rerun: self.allow_rerun,
            job: self.job,
        }
    }
}

impl ApiKept {
    fn of<T>(kept: &Kept<T>) -> Self {
        Self {
            owner: kept.owner.clone(),
            version: kept.version,
            created_at: Moment(kept.created_ms),
            changed_at: Moment(kept.changed_ms),
        }
    }
}

/// All templates, by their names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Templates)]
pub struct ApiTemplates {
    /// The templates.
    pub templates: Vec<ApiTemplate>,
}

/// An occurrence of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Occurrence)]
pub struct ApiOccurrence {
    /// When it is.
    #[schema(value_type = String, format = DateTime)]
    pub at: Moment,
    /// The same on a clock of the schedule's time zone, with its offset from UTC: `Sun 2026-10-25 02:30 +02:00`.
    pub local: String,
}

/// A schedule that is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = KeptSchedule)]
pub struct ApiSchedule {
    /// The name, which its jobs have as the value of their label `schedule`.
    pub name: String,
    /// When: minute, hour, day of the month, month, day of the week.
    pub cron: String,
    /// The time zone in which `cron` is meant.
    pub time_zone: String,
    /// What happens where the job before has not ended.
    pub concurrency: Concurrency,
    /// How late a job that was missed is made up for, in seconds.
    pub catch_up_seconds: u32,
    /// Whether it makes no jobs until it is resumed.
    pub suspend: bool,
    /// The job that it makes, where it is not of a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub job: Option<Spec>,
    /// The template that it makes jobs from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub template: Option<String>,
    /// The arguments of the template.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub parameters: Map<String, Value>,
    /// What is known of it.
    #[serde(flatten)]
    pub kept: ApiKept,
    /// Its next five occurrences; none while it is suspended.
    pub next: Vec<ApiOccurrence>,
    /// The last job that it made by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub last_job: Option<JobId>,
    /// The last occurrence that was worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub last_at: Option<Moment>,
    /// Why that occurrence came to no job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last_message: Option<String>,
}

/// Occurrences of a schedule, in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Occurrences)]
pub struct ApiOccurrences {
    /// The occurrences.
    pub occurrences: Vec<ApiOccurrence>,
    /// Whether there are more.
    pub more: bool,
}

/// How many occurrences of a schedule are shown.
pub const OCCURRENCES: usize = 5;

impl ApiSchedule {
    /// Puts together what is known of a schedule at a time, in milliseconds since 1970.
    pub fn new(kept: Kept<Schedule>, mark: Option<Mark>, now_ms: i64) -> Self {
        let timing = kept.document.timing().ok().filter(|_| !kept.document.suspend);
        let next = timing.map_or_else(Vec::new, |timing| {
            let times = timing.upcoming(now_ms, OCCURRENCES).into_iter();
            times
                .map(|at| ApiOccurrence {
                    at: Moment(at),
                    local: timing.local(at),
                })
                .collect()
        });
        Self {
            kept: ApiKept::of(&kept),
            name: kept.document.name,
            cron: kept.document.cron,
            time_zone: kept.document.time_zone,
            concurrency: kept.document.concurrency,
            catch_up_seconds: kept.document.catch_up_seconds,
            suspend: kept.document.suspend,
            job: kept.document.job,
            template: kept.document.template,
            parameters: kept.document.parameters,
            next,
            last_job: mark.as_ref().and_then(|mark| mark.job),
            last_at: mark.as_ref().map(|mark| Moment(mark.done_ms)),
            last_message: mark.and_then(|mark| mark.said),
        }
    }
}

/// The caller's schedules, by their names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Schedules)]
pub struct ApiSchedules {
    /// The schedules.
    pub schedules: Vec<ApiSchedule>,
}

/// A job, and what it was to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = JobDetail)]
pub struct ApiDetail {
    /// The job.
    #[serde(flatten)]
    pub job: ApiJob,
    /// What it was to run.
    pub spec: Spec,
    /// How it was made from a template, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub origin: Option<Origin>,
    /// What it came to, as it said itself: the JSON object that is the last line of its output, of 4 KiB at most. There
    /// once its log is stored whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    pub result: Option<Map<String, Value>>,
}

/// A page of a list, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = JobPage)]
pub struct ApiPage {
    /// The jobs.
    pub jobs: Vec<ApiJob>,
    /// The cursor of the next page; null on the last one.
    pub next: Option<String>,
}

/// What is to be done to all jobs of a filter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Bulk)]
pub struct ApiBulk {
    /// What.
    pub action: Deed,
    /// Only count to how many jobs it would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Without any filter, all jobs are meant.
    #[serde(default)]
    pub all: bool,
    /// This job and older ones: the `newest` of a count, so that none is meant that was created after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false, min_length = 13, max_length = 13, pattern = "^[0-7][0-9a-hjkmnp-tv-z]{12}$")]
    pub newest: Option<JobId>,
}

/// What was done to jobs of a filter, or would be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = BulkDone)]
pub struct ApiBulkDone {
    /// What.
    pub action: Deed,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// How many jobs were looked at: those that the filter finds.
    pub matched: u64,
    /// To how many of them it can be done as they are; the others are left.
    pub fit: u64,
    /// To how many it was done.
    pub done: u64,
    /// How many refused although it fits.
    pub refused: u64,
    /// The first of those.
    pub refusals: Vec<ApiRefused>,
    /// The newest job that the filter finds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub newest: Option<JobId>,
    /// The cursor from which to go on; null where all have been looked at.
    pub next: Option<String>,
}

/// Why something was not done to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Refused)]
pub struct ApiRefused {
    /// The job.
    #[schema(value_type = String)]
    pub id: JobId,
    /// The code of the problem.
    pub code: String,
    /// The same for people.
    pub detail: String,
}

/// How many jobs there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = JobCounts)]
pub struct ApiCounts {
    /// How many in each state.
    #[schema(value_type = BTreeMap<String, i64>)]
    pub counts: BTreeMap<State, i64>,
    /// How many in all.
    pub total: i64,
}

impl From<Counts> for ApiCounts {
    fn from(counts: Counts) -> Self {
        // A state without jobs has 0, so that whoever scales by a number finds one.
        let counts: BTreeMap<_, _> = State::ALL
            .into_iter()
            .map(|state| (state, counts.get(&state).copied().unwrap_or(0)))
            .collect();
        Self {
            total: counts.values().sum(),
            counts,
        }
    }
}

/// A line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = LogLine)]
pub struct ApiLine<'a> {
    /// Its number in the job, from 1.
    pub number: u64,
    /// When it was written, with microseconds.
    #[schema(format = DateTime)]
    pub at: Cow<'a, str>,
    /// The attempt that wrote it, from 1.
    pub attempt: u32,
    /// Where it was written to; `note` is the dashboard's own word.
    pub stream: Stream,
    /// What was written. What is not UTF-8 in it is replaced.
    pub text: Cow<'a, str>,
    /// What was written, in base 64: where `text` is not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub base64: Option<Cow<'a, str>>,
    /// Whether the line goes on in the next one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// How bad the line says that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub level: Option<Level>,
}

impl<'a> From<&'a Line> for ApiLine<'a> {
    fn from(line: &'a Line) -> Self {
        use base64::Engine as _;
        let text = String::from_utf8_lossy(&line.bytes);
        let lossy = matches!(text, Cow::Owned(_));
        Self {
            number: line.number,
            at: time(line.at_us).into(),
            attempt: line.attempt,
            stream: line.stream,
            base64: lossy.then(|| base64::engine::general_purpose::STANDARD.encode(&line.bytes).into()),
            text,
            partial: line.partial,
            level: Level::of(&line.bytes),
        }
    }
}

impl ApiLine<'_> {
    /// Returns what was written, as it was.
    pub fn bytes(&self) -> Vec<u8> {
        use base64::Engine as _;
        let exact = self
            .base64
            .as_deref()
            .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        exact.unwrap_or_else(|| self.text.as_bytes().to_owned())
    }
}

/// Writes a time in microseconds since 1970 as RFC 3339.
pub(super) fn time(us: i64) -> String {
    Timestamp::from_microsecond(us).map_or_else(|_| "-".to_owned(), |at| format!("{at:.6}"))
}

/// Lines that were there once and are not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = LogGap)]
pub struct ApiGap {
    /// The first of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
}

/// The end of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = LogEnd)]
pub struct ApiEnd {
    /// The newest line that was read; 0 where there is none.
    pub last: u64,
    /// Whether the log is whole. Without `follow` it may be read again later, with more in it.
    pub complete: bool,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn times_are_text_with_milliseconds() {
        let json = serde_json::to_string(&Moment(1_767_222_000_045)).expect("JSON");
        assert_eq!(json, "\"2025-12-31T23:00:00.045Z\"");
        assert_eq!(
            serde_json::from_str::<Moment>(&json).expect("read"),
            Moment(1_767_222_000_045)
        );
        assert!(
            serde_json::to_string(&Moment(i64::MAX)).is_err(),
            "an error and no panic"
        );
        assert_eq!(time(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(time(i64::MAX), "-");
    }

    #[test]
    fn a_line_that_is_not_utf8_is_sent_whole() {
        let mut line = Line {
            number: 1,
            at_us: 0,
            attempt: 1,
            stream: Stream::Stdout,
            partial: false,
            bytes: Bytes::from_static(b"a\xffb"),
        };
        let sent = ApiLine::from(&line);
        assert_eq!(
            (sent.text.as_ref(), sent.base64.as_deref()),
            ("a\u{fffd}b", Some("Yf9i"))
        );
        assert_eq!(sent.bytes(), b"a\xffb");
        let json = serde_json::to_string(&sent).expect("JSON");
        assert_eq!(
            serde_json::from_str::<ApiLine<'_>>(&json).expect("read").bytes(),
            b"a\xffb"
        );
        line.bytes = Bytes::from_static("ä<b>".as_bytes());
        let sent = ApiLine::from(&line);
        assert_eq!(
            (sent.base64.as_deref(), sent.bytes().as_slice()),
            (None, "ä<b>".as_bytes())
        );
    }

    #[test]
    fn every_state_has_a_count() {
        let counts = ApiCounts::from(Counts::from([(State::Failed, 2)]));
        assert_eq!(
            (counts.total, counts.counts.len(), counts.counts[&State::Running]),
            (2, 7, 0)
        );
        let json = serde_json::to_value(&counts).expect("JSON");
        assert_eq!(json["counts"]["failed"], 2);
    }
}
