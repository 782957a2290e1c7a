//! A job as the dashboard knows it: its id, its states, and which change an observation makes. Pure: no clock, no store.
//!
//! The same states describe a child process and a Kubernetes Job, so everything above the runner treats both alike.

pub mod schedule;
pub mod spec;
pub mod template;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// When ids begin to count: 2025-01-01T00:00:00Z, in milliseconds since 1970.
const EPOCH_MS: i64 = 1_735_689_600_000;
/// The low bits of an id, which tell ids of one millisecond apart.
const LOW_BITS: u32 = 22;
/// Crockford's base 32 in lower case: no `i`, `l`, `o`, `u`, so an id can be read aloud.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// How long an id is as text: 13 characters of 5 bits hold its 63 bits.
const TEXT_LEN: usize = 13;

/// A job's id: 41 bits of time and 22 bits that tell ids of one millisecond apart, so ids sort by age and one column is
/// key and order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(i64);

impl JobId {
    /// Makes the id that follows `last`, at the time `now_ms` (milliseconds since 1970), with `noise` in the low bits.
    ///
    /// Ids never go back: where the clock did, the id follows `last` by one.
    pub fn after(last: Option<Self>, now_ms: i64, noise: u32) -> Self {
        let time = (now_ms - EPOCH_MS).clamp(0, (1 << 41) - 1);
        let fresh = (time << LOW_BITS) | i64::from(noise & ((1 << LOW_BITS) - 1));
        Self(last.map_or(fresh, |last| fresh.max(last.next().0)))
    }

    /// Returns the id that follows it: where a list goes on after that one, it goes on with this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the smallest id of a time, for ranges over `since` and `until`.
    pub fn at(ms: i64) -> Self {
        Self((ms - EPOCH_MS).clamp(0, (1 << 41) - 1) << LOW_BITS)
    }

    /// Returns the number under which stores keep it; never negative.
    pub fn number(self) -> i64 {
        self.0
    }

    /// Takes back a number of [`JobId::number`]; nothing for one that is no id.
    pub fn from_number(number: i64) -> Option<Self> {
        (number >= 0).then_some(Self(number))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; TEXT_LEN];
        for (place, byte) in text.iter_mut().enumerate() {
            let shift = 5 * (TEXT_LEN - 1 - place);
            *byte = ALPHABET[usize::try_from((self.0 >> shift) & 31).unwrap_or(0)];
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// The text is not the id of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a job: an id is 13 of the characters 0-9 and a-z without i, l, o, u")]
pub struct NotAnId;

impl FromStr for JobId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if text.len() != TEXT_LEN {
            return Err(NotAnId);
        }
        let mut number: i128 = 0;
        for byte in text.bytes() {
            let digit = ALPHABET.iter().position(|known| *known == byte).ok_or(NotAnId)?;
            number = number << 5 | i128::try_from(digit).unwrap_or_default();
        }
        i64::try_from(number).map(Self).map_err(|_| NotAnId)
    }
}

impl Serialize for JobId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Accepted; nothing of it runs yet. `reason` and `message` say why where that is known.
    Pending,
    /// Held back until it is resumed.
    Suspended,
    /// At least one process or pod of it runs.
    Running,
    /// It is to end (cancelled, or it failed) and something of it still runs.
    Stopping,
    /// Ended well.
    Succeeded,
    /// Ended badly; `reason` says how.
    Failed,
    /// Ended because someone asked for it.
    Cancelled,
}

impl State {
    /// Every state, in the order of a job's life.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Suspended,
        Self::Running,
        Self::Stopping,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Returns whether a job in this state never changes its state again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Returns the number under which stores keep it. It never changes.
    pub fn number(self) -> i16 {
        match self {
            Self::Pending => 0,
            Self::Suspended => 1,
            Self::Running => 2,
            Self::Stopping => 3,
            Self::Succeeded => 4,
            Self::Failed => 5,
            Self::Cancelled => 6,
        }
    }

    /// Takes back a number of [`State::number`].
    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == number)
    }

    /// Returns the state's name in the API, in filters and on pages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Suspended => "suspended",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a job is in its state, as stable words. Kubernetes' own reasons are passed on as they are.
pub mod reason {
    /// The program ended with a code other than 0.
    pub const EXIT_CODE: &str = "ExitCode";
    /// A signal ended the program.
    pub const SIGNAL: &str = "Signal";
    /// The program took longer than its deadline; Kubernetes' word too.
    pub const DEADLINE: &str = "DeadlineExceeded";
    /// All attempts failed; Kubernetes' word too.
    pub const RETRIES: &str = "BackoffLimitExceeded";
    /// The program used more memory than it may; Kubernetes' word too.
    pub const MEMORY: &str = "OOMKilled";
    /// The program used more processor time than it may.
    pub const CPU: &str = "CpuLimitExceeded";
    /// The program started more processes than a job may have.
    pub const PROCESSES: &str = "ProcessLimitExceeded";
    /// The program wrote more than it may.
    pub const OUTPUT: &str = "OutputLimitExceeded";
    /// The program's output could not be kept: the disk is full, for example.
    pub const OUTPUT_LOST: &str = "OutputLost";
    /// The program could not be started.
    pub const START: &str = "StartError";
    /// The server that ran it went away.
    pub const SERVER_LOST: &str = "ServerLost";
    /// The server that ran it was stopped, and told to end its jobs.
    pub const SERVER_STOPPED: &str = "ServerStopped";
    /// Someone asked the dashboard to hold it back; what others hold back (a queue in Kubernetes) has another reason or none.
    pub const HELD: &str = "Held";
    /// It was removed behind the dashboard's back.
    pub const GONE: &str = "Gone";
    /// Someone asked for it.
    pub const CANCELLED: &str = "Cancelled";
    /// As many jobs run as may.
    pub const SLOTS: &str = "WaitingForSlot";
}

/// A job's row: all that lists show. Its spec is a document of its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Job {
    /// The id.
    pub id: JobId,
    /// The name that its creator gave it; not unique.
    pub name: String,
    /// Who created it.
    pub owner: String,
    /// The state.
    pub state: State,
    /// Why it is in that state, as a stable word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people; at most [`MESSAGE_BYTES`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The template it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Labels to find it by.
    pub labels: BTreeMap<String, String>,
    /// The job that it is a rerun of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it first ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<i64>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_ms: Option<i64>,
    /// The exit code of its last attempt; 128 and the signal's number where a signal ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// How many attempts were begun.
    pub attempts: u32,
    /// Someone asked for its end.
    pub cancelling: bool,
    /// Its log is stored whole; nothing more comes.
    pub log_complete: bool,
    /// How often the row changed; the base of its ETag.
    pub version: i64,
}

impl Job {
    /// Returns whether the dashboard was asked to hold it back. What a runner says of it then does not let it go on.
    pub fn is_held(&self) -> bool {
        self.state == State::Suspended && self.reason.as_deref() == Some(reason::HELD) && !self.cancelling
    }
}

/// How long [`Job::message`] may be.
pub const MESSAGE_BYTES: usize = 1024;

/// What a runner sees of a job at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// How it is.
    pub phase: Phase,
    /// Why, as a stable word.
    pub reason: Option<String>,
    /// Why, for people.
    pub message: Option<String>,
    /// The exit code of the newest attempt that ended.
    pub exit_code: Option<i32>,
    /// How many attempts were begun.
    pub attempts: u32,
    /// When the first attempt began, in milliseconds since 1970.
    pub started_ms: Option<i64>,
    /// When the job ended; of a phase that is no end, nothing.
    pub finished_ms: Option<i64>,
}

/// How a job is, as its runner sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is known and nothing of it runs.
    Waiting,
    /// It is held back.
    Suspended,
    /// Something of it runs.
    Running,
    /// Its end is decided and something of it still runs.
    Ending,
    /// It ended well.
    Succeeded,
    /// It ended badly.
    Failed,
    /// The runner does not know it (any more).
    Gone,
}

/// What changes in a job's row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// The new state.
    pub state: Option<State>,
    /// The new reason; `Some(None)` removes it.
    pub reason: Option<Option<String>>,
    /// The new message; `Some(None)` removes it.
    pub message: Option<Option<String>>,
    /// When it first ran.
    pub started_ms: Option<i64>,
    /// When it ended.
    pub finished_ms: Option<i64>,
    /// The exit code of its last attempt.
    pub exit_code: Option<i32>,
    /// How many attempts were begun.
    pub attempts: Option<u32>,
    /// Someone asked for its end.
    pub cancelling: Option<bool>,
    /// Its log is stored whole.
    pub log_complete: Option<bool>,
}

impl Change {
    /// Returns whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Returns what an observation changes in a job. `now_ms` dates an end that the runner does not date.
///
/// An end is for good: whatever is seen of a job that has ended changes nothing. So observations may come late, twice
/// and from two replicas.
pub fn observe(job: &Job, seen: &Seen, now_ms: i64) -> Change {
    let mut change = Change::default();
    if job.state.is_final() {
        return change;
    }
    let (state, reason, message) = match seen.phase {
        Phase::Waiting | Phase::Running | Phase::Ending if job.cancelling => {
            // Its message says who asked for it.
            (State::Stopping, Some(reason::CANCELLED.to_owned()), job.message.clone())
        }
        Phase::Waiting | Phase::Running | Phase::Suspended if job.is_held() => (
            State::Suspended,
            Some(reason::HELD.to_owned()),
            job.message.clone().or_else(|| seen.message.clone()),
        ),
        Phase::Waiting if job.state == State::Running => {
            // Between two attempts nothing runs, and the job is not back at its beginning.
            (State::Running, seen.reason.clone(), seen.message.clone())
        }
        Phase::Waiting => (State::Pending, seen.reason.clone(), seen.message.clone()),
        Phase::Suspended => (State::Suspended, seen.reason.clone(), seen.message.clone()),
        Phase::Running => (State::Running, seen.reason.clone(), seen.message.clone()),
        Phase::Ending => (State::Stopping, seen.reason.clone(), seen.message.clone()),
        // What ended well before the request to end it reached it ended well.
        Phase::Succeeded => (State::Succeeded, seen.reason.clone(), seen.message.clone()),
        Phase::Failed if job.cancelling => (
            State::Cancelled,
            Some(reason::CANCELLED.to_owned()),
            job.message.clone().or_else(|| seen.message.clone()),
        ),
        // That nothing is left of it is what was asked for, and needs no other word.
        Phase::Gone if job.cancelling => (
            State::Cancelled,
            Some(reason::CANCELLED.to_owned()),
            job.message.clone(),
        ),
        Phase::Failed => (State::Failed, seen.reason.clone(), seen.message.clone()),
        Phase::Gone => (
            State::Failed,
            seen.reason.clone().or_else(|| Some(reason::GONE.to_owned())),
            seen.message.clone(),
        ),
    };
    let message = message.map(|text| clipped(&text));
    if state != job.state {
        change.state = Some(state);
    }
    if reason != job.reason {
        change.reason = Some(reason);
    }
    if message != job.message {
        change.message = Some(message);
    }
    // Kubernetes counts in whole seconds, and other machines have other clocks.
    let started = seen.started_ms.map(|started| started.max(job.created_ms));
    if job.started_ms.is_none() {
        change.started_ms = started;
    }
    if state.is_final() {
        let began = job.started_ms.or(started).unwrap_or(job.created_ms);
        // A clock that went back must not make a job that ended before it began.
        change.finished_ms = Some(seen.finished_ms.unwrap_or(now_ms).max(began));
    }
    if seen.exit_code.is_some() && seen.exit_code != job.exit_code {
        change.exit_code = seen.exit_code;
    }
    if seen.attempts > job.attempts {
        change.attempts = Some(seen.attempts);
    }
    change
}

/// Returns what changes in a job that has not ended when someone asks for its end.
pub fn asked_to_end(job: &Job, by: Option<String>) -> Change {
    Change {
        cancelling: Some(true),
        state: (job.state == State::Running).then_some(State::Stopping),
        reason: Some(Some(reason::CANCELLED.to_owned())),
        message: Some(by.map(|text| clipped(&text))),
        ..Change::default()
    }
}

/// Cuts a message to [`MESSAGE_BYTES`] between characters.
pub fn clipped(text: &str) -> String {
    let mut end = text.len().min(MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests;
