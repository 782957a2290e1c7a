//! Schedules: when jobs are made by themselves. Pure: whoever asks says what time it is.
//!
//! An occurrence is a moment that a cron expression names in a time zone. Where a clock is set forward, an expression
//! with a fixed hour and minute that names a time which is left out (`30 2 * * *`) means the first moment after the gap,
//! and one with `*` or a step in its hour or minute leaves the gap out. Where a clock is set back, the first kind means the
//! earlier of the two moments alone, and the second kind both. So a daily job runs every day once, and an hourly one
//! every hour once.

use std::cmp::Ordering;

use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::time::{CivilDateTime, CronDateTime, Resolution, Weekday};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::spec::{Fault, Spec, is_name};

/// The label with a schedule's name that its jobs have.
pub const LABEL: &str = "schedule";
/// The variable that says to a schedule's job for which time it was made, in RFC 3339: that of its occurrence, however
/// late it runs.
pub const AT: &str = "LABCTL_SCHEDULED_AT";
/// How late a job is made without being one that was missed: another server may have to take over first.
pub const ON_TIME_MS: i64 = 60_000;
/// How far ahead of the clock what is done may be: further means that the clock was wrong then.
pub const AHEAD_MS: i64 = 24 * 3_600_000;
/// How many bytes an expression may have.
const CRON_BYTES: usize = 255;
/// How late a missed job may be made at most, in seconds: 31 days.
const CATCH_UP_SECONDS: u32 = 2_678_400;
/// The latest moment that is looked at, in milliseconds since 1970: the year 9000.
const LATEST_MS: i64 = 221_845_392_000_000;

/// What happens where a job of the schedule has not ended when the next one is due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Concurrency {
    /// Both run.
    Allow,
    /// The next one is left out.
    #[default]
    Forbid,
    /// The one before is cancelled.
    Replace,
}

impl Concurrency {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Forbid, Self::Replace];

    /// Returns its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Forbid => "forbid",
            Self::Replace => "replace",
        }
    }
}

/// When jobs are made by themselves, and which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The name, which its jobs have as the value of their label `schedule`. Letters, digits, `-`, `_` and `.`, at most
    /// 63.
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
    )]
    pub name: String,
    /// When: minute, hour, day of the month, month, day of the week, such as `30 2 * * MON-FRI`.
    #[schema(min_length = 9, max_length = 255)]
    pub cron: String,
    /// The time zone in which `cron` is meant, by its IANA name.
    #[serde(default = "utc")]
    #[schema(max_length = 64, example = "Europe/Berlin")]
    pub time_zone: String,
    /// What happens where the job before has not ended.
    #[serde(default)]
    pub concurrency: Concurrency,
    /// How late a job that was missed, because no server ran, is made up for, in seconds; of several the last one alone.
    /// With 0 none is.
    #[serde(default = "catch_up")]
    #[schema(maximum = 2_678_400)]
    pub catch_up_seconds: u32,
    /// Whether it makes no jobs until it is resumed. What it leaves out is not made up for.
    #[serde(default)]
    pub suspend: bool,
    /// The job to make; either this or `template` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub job: Option<Spec>,
    /// The template to make jobs from: its newest version at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 63)]
    pub template: Option<String>,
    /// The arguments of the template.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub parameters: Map<String, Value>,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn catch_up() -> u32 {
    3600
}

impl Schedule {
    /// Returns everything that is wrong with it but for what its template says; empty for a good one.
    pub fn faults(&self, now_ms: i64) -> Vec<Fault> {
        let mut out = Vec::new();
        let mut wrong = |pointer: &str, detail: String| {
            out.push(Fault {
                pointer: pointer.to_owned(),
                detail,
            });
        };
        if !is_name(&self.name) {
            wrong(
                "/name",
                "a name has 1 to 63 letters, digits, `-`, `_` and `.`, and begins and ends with a letter or digit"
                    .to_owned(),
            );
        }
        match (read_cron(&self.cron), read_zone(&self.time_zone)) {
            (Ok(cron), Ok(zone)) => {
                if (Timing { cron, zone }).next(now_ms).is_none() {
                    wrong("/cron", format!("`{}` is at no time", self.cron));
                }
            }
            (cron, zone) => {
                if let Err(why) = cron {
                    wrong("/cron", why);
                }
                if let Err(why) = zone {
                    wrong("/time_zone", why);
                }
            }
        }
        if self.catch_up_seconds > CATCH_UP_SECONDS {
            wrong("/catch_up_seconds", format!("at most {CATCH_UP_SECONDS}"));
        }
        match (&self.job, &self.template) {
            (Some(_), Some(_)) => wrong("/template", "either `job` or `template` is given, not both".to_owned()),
            (None, None) => wrong("/job", "either `job` or `template` must be given".to_owned()),
            (Some(job), None) => {
                if !self.parameters.is_empty() {
                    wrong("/parameters", "only a template has parameters".to_owned());
                }
                for fault in self.labelled(job.clone(), Some(now_ms)).faults() {
                    wrong(&format!("/job{}", fault.pointer), fault.detail);
                }
            }
            (None, Some(_)) => {}
        }
        out
    }

    /// Returns a job's document with the label of this schedule, and with the time of its occurrence where it has one.
    pub fn labelled(&self, mut job: Spec, at_ms: Option<i64>) -> Spec {
        job.labels.insert(LABEL.to_owned(), self.name.clone());
        if let Some(at) = at_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()) {
            job.env.insert(AT.to_owned(), at.to_string());
        }
        job
    }

    /// Returns when it is due.
    ///
    /// # Errors
    /// The expression or the time zone is none, for people.
    pub fn timing(&self) -> Result<Timing, String> {
        Ok(Timing {
            cron: read_cron(&self.cron)?,
            zone: read_zone(&self.time_zone)?,
        })
    }

    /// Returns what is to be done now, where all occurrences until the latest of some times are done.
    pub fn due(&self, timing: &Timing, done_ms: &[i64], now_ms: i64) -> Due {
        // What was done in a future that never came was done by a clock that was wrong; it is not waited for.
        let sane = done_ms.iter().copied().filter(|done| *done <= now_ms + AHEAD_MS);
        let done_ms = sane.max().unwrap_or(now_ms - ON_TIME_MS);
        let Some(at_ms) = timing.latest(now_ms).filter(|at| *at > done_ms) else {
            return Due::Nothing;
        };
        let allowed = (i64::from(self.catch_up_seconds) * 1000).max(ON_TIME_MS);
        if now_ms - at_ms <= allowed {
            Due::Run(at_ms)
        } else {
            Due::Missed(at_ms)
        }
    }
}

/// What a schedule wants at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing is due.
    Nothing,
    /// A job for the occurrence at this time, in milliseconds since 1970. Earlier ones that were missed are left out.
    Run(i64),
    /// The newest occurrence is older than it may be made up for.
    Missed(i64),
}

/// When a schedule is due.
#[derive(Debug, Clone)]
pub struct Timing {
    cron: Cron,
    zone: TimeZone,
}

fn read_cron(text: &str) -> Result<Cron, String> {
    const FORM: &str =
        "five fields: minute, hour, day of the month, month, day of the week, such as `30 2 * * MON-FRI`";
    if text.len() > CRON_BYTES || text.split_ascii_whitespace().count() != 5 || text.contains('@') {
        return Err(format!("a cron expression has {FORM}"));
    }
    let parser = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build();
    parser
        .parse(text)
        .map_err(|error| format!("{error}; a cron expression has {FORM}"))
}

fn read_zone(name: &str) -> Result<TimeZone, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
    if (1..=64).contains(&name.len())
        && name.chars().all(plain)
        && let Ok(zone) = TimeZone::get(name)
    {
        return Ok(zone);
    }
    Err("not the name of a time zone, such as `Europe/Berlin` or `UTC`".to_owned())
}

/// A moment in a time zone, as the search for occurrences takes it.
#[derive(Debug, Clone)]
struct At(ZonedDateTime);

impl CronDateTime for At {
    fn to_civil(&self) -> CivilDateTime {
        let time = self.0.datetime();
        let part = |part: i8| u32::try_from(part).unwrap_or_default();
        let found = CivilDateTime::from_ymd_hms_opt(
            i32::from(time.year()),
            part(time.month()),
            part(time.day()),
            part(time.hour()),
            part(time.minute()),
            part(time.second()),
        );
        found.expect("both know the same calendar")
    }

    fn civil_weekday(&self) -> Weekday {
        match self.0.weekday() {
            jiff::civil::Weekday::Sunday => Weekday::Sunday,
            jiff::civil::Weekday::Monday => Weekday::Monday,
            jiff::civil::Weekday::Tuesday => Weekday::Tuesday,
            jiff::civil::Weekday::Wednesday => Weekday::Wednesday,
            jiff::civil::Weekday::Thursday => Weekday::Thursday,
            jiff::civil::Weekday::Friday => Weekday::Friday,
            jiff::civil::Weekday::Saturday => Weekday::Saturday,
        }
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let part = |part: u32| i8::try_from(part).map_err(|_| CronError::InvalidDate);
        let time = DateTime::new(
            i16::try_from(civil.year()).map_err(|_| CronError::InvalidDate)?,
            part(civil.month())?,
            part(civil.day())?,
            part(civil.hour())?,
            part(civil.minute())?,
            part(civil.second())?,
            0,
        )
        .map_err(|_| CronError::InvalidDate)?;
        let found = self.0.time_zone().to_ambiguous_zoned_datetime(time);
        let late = |_| CronError::InvalidTime;
        Ok(match found.offset() {
            AmbiguousOffset::Unambiguous { .. } => Resolution::Single(Self(found.unambiguous().map_err(late)?)),
            AmbiguousOffset::Fold { .. } => Resolution::Ambiguous(
                Self(found.clone().earlier().map_err(late)?),
                Self(found.later().map_err(late)?),
            ),
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(SignedDuration::from_secs(seconds)).ok().map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.timestamp().cmp(&other.0.timestamp())
    }
}

impl Timing {
    fn at(&self, ms: i64) -> Option<At> {
        let at = Timestamp::from_millisecond(ms.clamp(0, LATEST_MS)).ok()?;
        Some(At(at.to_zoned_datetime(self.zone.clone())))
    }

    /// Returns the first occurrence after a time; nothing where there is none.
    pub fn next(&self, after_ms: i64) -> Option<i64> {
        let found = self.cron.find_next_occurrence(&self.at(after_ms)?, false).ok()?;
        let ms = found.0.timestamp().as_millisecond();
        (ms > after_ms && ms <= LATEST_MS).then_some(ms)
    }

    /// Returns the next occurrences after a time.
    pub fn upcoming(&self, after_ms: i64, count: usize) -> Vec<i64> {
        std::iter::successors(self.next(after_ms), |at| self.next(*at))
            .take(count)
            .collect()
    }

    /// Returns the occurrences from a time on until another one, both with what is at them; so many at most.
    pub fn between(&self, since_ms: i64, until_ms: i64, count: usize) -> Vec<i64> {
        std::iter::successors(self.next(since_ms.saturating_sub(1)), |at| self.next(*at))
            .take_while(|at| *at <= until_ms)
            .take(count)
            .collect()
    }

    /// Returns the last occurrence until a time, and at it.
    pub fn latest(&self, until_ms: i64) -> Option<i64> {
        let found = self.cron.find_previous_occurrence(&self.at(until_ms)?, true).ok()?;
        let ms = found.0.timestamp().as_millisecond();
        (ms <= until_ms).then_some(ms)
    }

    /// Writes a time as clocks in the time zone show it, with the zone's offset: `2026-10-25 02:30 +02:00`.
    pub fn local(&self, ms: i64) -> String {
        self.at(ms)
            .map(|at| at.0.strftime("%a %Y-%m-%d %H:%M %:z").to_string())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
