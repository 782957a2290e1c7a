//! How a job is, from its Job and its pods. Pure.
//!
//! Objects are reduced to facts as they come in, so that ten thousand of them are a few megabytes. Pods are believed
//! before the Job is: the Job controller notices the end of a pod seconds later, and minutes later where it has many.

use k8s_openapi::api::batch::v1::{Job as KubeJob, JobCondition};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::desired;
use crate::dashboard::job::{JobId, Phase, Seen, reason};

/// The reason of a job whose pod the Job controller may not create; its own word.
pub const FAILED_CREATE: &str = "FailedCreate";
/// The reason of a pod that failed and does not say why.
const POD_FAILED: &str = "PodFailed";

/// What is known of a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFacts {
    /// The job of the dashboard.
    pub id: JobId,
    /// The Job's name.
    pub name: String,
    /// Whether it is not there any more; what is known is what it was.
    pub deleted: bool,
    /// Whether it waits for the end of its pods before it is removed.
    pub deleting: bool,
    /// Whether it is held back.
    pub suspended: bool,
    /// Whether it is removed a while after its end.
    pub forgotten: bool,
    /// How many bytes its program may write to its output.
    pub output_bytes: Option<u64>,
    /// Why the dashboard ended it.
    pub ended: Option<String>,
    /// How many attempts were ended to hold it back.
    held: u32,
    retries: u32,
    failed: u32,
    succeeded: u32,
    completed_ms: Option<i64>,
    complete: Option<Condition>,
    failure: Option<Condition>,
    failing: Option<Condition>,
    completing: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    reason: Option<String>,
    message: Option<String>,
    at_ms: Option<i64>,
}

/// What is known of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// The job of the dashboard.
    pub id: JobId,
    /// The pod's UID: a pod of the same name later is another one.
    pub uid: String,
    /// The pod's name.
    pub name: String,
    /// When it was created; attempts are in this order.
    pub created_ms: i64,
    deleting: bool,
    disrupted: bool,
    phase: PodPhase,
    program: Program,
    /// The pod's own reason and message, such as `Evicted`.
    why: Why,
    /// Why no node takes it.
    unscheduled: Option<Why>,
    /// The limit on its program's memory as Kubernetes writes it, such as `64Mi`.
    memory: Option<String>,
}

type Why = (Option<String>, Option<String>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PodPhase {
    Live,
    Succeeded,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Program {
    Unknown,
    Waiting(Why),
    Running {
        started_ms: Option<i64>,
    },
    Ended {
        code: i32,
        why: Why,
        started_ms: Option<i64>,
        ended_ms: Option<i64>,
    },
}

/// A time of Kubernetes; the one of 1970 means that there is none.
fn ms(time: Option<&Time>) -> Option<i64> {
    time.map(|time| time.0.as_millisecond()).filter(|ms| *ms > 0)
}

fn text(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

fn count(number: Option<i32>) -> u32 {
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}

/// Returns the job of the dashboard that an object belongs to; nothing for an object of somebody else.
pub fn owner_of(metadata: &ObjectMeta) -> Option<JobId> {
    let labels = metadata.labels.as_ref()?;
    if labels
        .get(desired::MANAGED_BY.0)
        .is_none_or(|value| value != desired::MANAGED_BY.1)
    {
        return None;
    }
    labels.get(desired::JOB_ID)?.parse().ok()
}

fn memory_limit(pod: &Pod) -> Option<String> {
    let containers = &pod.spec.as_ref()?.containers;
    let program = containers.iter().find(|it| it.name == desired::CONTAINER)?;
    Some(program.resources.as_ref()?.limits.as_ref()?.get("memory")?.0.clone())
}

impl JobFacts {
    /// Reads a Job; nothing for one that is not the dashboard's.
    pub fn of(job: &KubeJob) -> Option<Self> {
        let id = owner_of(&job.metadata)?;
        let name = job.metadata.name.clone()?;
        let spec = job.spec.as_ref();
        let status = job.status.as_ref();
        let conditions = status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        let holds = |wanted: &str| {
            let found = conditions.iter().find(|it| it.type_ == wanted && it.status == "True");
            found.map(|it: &JobCondition| Condition {
                reason: text(it.reason.as_ref()),
                message: text(it.message.as_ref()),
                at_ms: ms(it.last_transition_time.as_ref()),
            })
        };
        let annotation = |name: &str| job.metadata.annotations.as_ref()?.get(name).cloned();
        Some(Self {
            id,
            // A Job with the labels and another name is a copy that somebody made.
            name: Some(name).filter(|name| *name == desired::name(id))?,
            deleted: false,
            deleting: job.metadata.deletion_timestamp.is_some(),
            suspended: spec.and_then(|spec| spec.suspend).unwrap_or(false),
            forgotten: spec.is_some_and(|spec| spec.ttl_seconds_after_finished.is_some()),
            output_bytes: annotation(desired::OUTPUT_MIB).and_then(|mib| mib.parse::<u64>().ok()?.checked_mul(1 << 20)),
            ended: annotation(desired::ENDED),
            held: annotation(desired::HELD)
                .and_then(|held| held.parse().ok())
                .unwrap_or(0),
            retries: spec
                .and_then(|spec| spec.backoff_limit)
                .map_or(6, |limit| count(Some(limit))),
            failed: count(status.and_then(|status| status.failed)),
            succeeded: count(status.and_then(|status| status.succeeded)),
            completed_ms: ms(status.and_then(|status| status.completion_time.as_ref())),
            complete: holds("Complete"),
            failure: holds("Failed"),
            failing: holds("FailureTarget"),
            completing: holds("SuccessCriteriaMet").is_some(),
        })
    }

    /// Returns how many attempts Kubernetes has counted: those that have ended, and not those that were held back.
    pub fn counted(&self) -> u32 {
        self.failed.saturating_add(self.succeeded)
    }

    /// Returns whether Kubernetes says that it has ended.
    pub fn is_finished(&self) -> bool {
        self.complete.is_some() || self.failure.is_some()
    }
}

impl PodFacts {
    /// Reads a pod; nothing for one that is not of a job of the dashboard.
    pub fn of(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref();
        let conditions = status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        let condition = |wanted: &str| conditions.iter().find(|condition| condition.type_ == wanted);
        let containers = status
            .and_then(|status| status.container_statuses.as_deref())
            .unwrap_or_default();
        Some(Self {
            id: owner_of(&pod.metadata)?,
            uid: pod.metadata.uid.clone()?,
            name: pod.metadata.name.clone()?,
            created_ms: ms(pod.metadata.creation_timestamp.as_ref()).unwrap_or(0),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            disrupted: condition("DisruptionTarget").is_some_and(|condition| condition.status == "True"),
            phase: match status.and_then(|status| status.phase.as_deref()) {
                Some("Succeeded") => PodPhase::Succeeded,
                Some("Failed") => PodPhase::Failed,
                _ => PodPhase::Live,
            },
            program: containers
                .iter()
                .find(|container| container.name == desired::CONTAINER)
                .map_or(Program::Unknown, Program::of),
            why: (
                text(status.and_then(|status| status.reason.as_ref())),
                text(status.and_then(|status| status.message.as_ref())),
            ),
            unscheduled: condition("PodScheduled")
                .filter(|condition| condition.status == "False")
                .map(|condition| (text(condition.reason.as_ref()), text(condition.message.as_ref()))),
            memory: memory_limit(pod),
        })
    }

    /// Returns what orders attempts: Kubernetes dates pods by the second, so of two in one the UID decides.
    pub fn order(&self) -> (i64, String) {
        (self.created_ms, self.uid.clone())
    }

    /// Returns whether its program runs or ran, so that there is a log to read.
    pub fn has_log(&self) -> bool {
        matches!(self.program, Program::Running { .. } | Program::Ended { .. })
    }

    /// Returns whether its program has ended, so that its log does not grow any more.
    pub fn is_finished(&self) -> bool {
        self.phase != PodPhase::Live || matches!(self.program, Program::Ended { .. })
    }

    /// Ended well, and nobody asked it to end: what ends after that may still be a failed job.
    fn succeeded(&self) -> bool {
        let ended_well = matches!(self.program, Program::Ended { code: 0, .. }) && self.phase != PodPhase::Failed;
        !self.deleting && (ended_well || self.phase == PodPhase::Succeeded)
    }

    /// Ended badly, and it counts as an attempt.
    fn failed(&self) -> bool {
        let ended_badly = matches!(self.program, Program::Ended { code, .. } if code != 0);
        !self.deleting && !self.disrupted && (ended_badly || self.phase == PodPhase::Failed)
    }

    fn started_ms(&self) -> Option<i64> {
        match self.program {
            Program::Running { started_ms } | Program::Ended { started_ms, .. } => started_ms,
            _ => None,
        }
    }

    fn ended_ms(&self) -> Option<i64> {
        match self.program {
            Program::Ended { ended_ms, .. } => ended_ms,
            _ => None,
        }
    }

    fn code(&self) -> Option<i32> {
        match self.program {
            Program::Ended { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Why it failed: a stable word, and what a sentence says that begins with what failed.
    fn cause(&self) -> (String, String) {
        let failed = |reason: &str, message: Option<&String>, otherwise: String| {
            let how = message.map_or(otherwise, |message| format!("failed: {message}"));
            (reason.to_owned(), how)
        };
        if let (Some(reason), message) = &self.why {
            return failed(reason, message.as_ref(), format!("was ended by Kubernetes: {reason}"));
        }
        let Program::Ended {
            code,
            why: (why, message),
            ..
        } = &self.program
        else {
            return failed(POD_FAILED, None, "failed before it ran".to_owned());
        };
        match why.as_deref() {
            Some(reason::MEMORY) => (reason::MEMORY.to_owned(), "used more memory than its limit".to_owned()),
            Some("StartError" | "ContainerCannotRun") => {
                failed(reason::START, message.as_ref(), "could not be started".to_owned())
            }
            Some(other) if !["Error", "Completed"].contains(&other) => {
                failed(other, message.as_ref(), format!("ended with exit code {code}"))
            }
            // containerd can hear of the end before it hears why, and then Kubernetes never tells of the memory
            // (https://github.com/containerd/containerd/issues/12260).
            _ if let (137, Some(limit)) = (code, &self.memory) => (
                reason::SIGNAL.to_owned(),
                format!(
                    "was ended by signal {}, as the kernel ends what uses more memory than its limit ({limit})",
                    signal(9)
                ),
            ),
            // Kubernetes tells a signal as a shell does.
            _ if (129..=192).contains(code) => (
                reason::SIGNAL.to_owned(),
                format!("was ended by signal {}", signal(code - 128)),
            ),
            _ => (reason::EXIT_CODE.to_owned(), format!("ended with exit code {code}")),
        }
    }
}

fn signal(number: i32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        31 => "SIGSYS",
        _ => return number.to_string(),
    };
    format!("{number} ({name})")
}

impl Program {
    fn of(status: &ContainerStatus) -> Self {
        let Some(state) = &status.state else {
            return Self::Unknown;
        };
        if let Some(ended) = &state.terminated {
            return Self::Ended {
                code: ended.exit_code,
                why: (text(ended.reason.as_ref()), text(ended.message.as_ref())),
                started_ms: ms(ended.started_at.as_ref()),
                ended_ms: ms(ended.finished_at.as_ref()),
            };
        }
        if let Some(running) = &state.running {
            return Self::Running {
                started_ms: ms(running.started_at.as_ref()),
            };
        }
        match &state.waiting {
            Some(waiting) => Self::Waiting((text(waiting.reason.as_ref()), text(waiting.message.as_ref()))),
            None => Self::Unknown,
        }
    }
}

/// Reads an event of the Job controller that says why it cannot create a pod: the Job's name, and the reason. Events are
/// the only place where that is told.
pub fn failed_create(event: &Event) -> Option<(String, String)> {
    if event.reason.as_deref() != Some(FAILED_CREATE) || event.involved_object.kind.as_deref() != Some("Job") {
        return None;
    }
    let name = event.involved_object.name.clone()?;
    let message = text(event.message.as_ref())?;
    let why = message.strip_prefix("Error creating: ").unwrap_or(&message);
    Some((name, why.to_owned()))
}

/// Puts pods into the order of attempts.
pub fn sort(pods: &mut [PodFacts]) {
    pods.sort_by(|a, b| (a.created_ms, &a.uid).cmp(&(b.created_ms, &b.uid)));
}

/// Returns how a job is. `pods` are in the order of attempts; `uncreated` says why the last pod could not be created.
pub fn seen(job: Option<&JobFacts>, pods: &[PodFacts], uncreated: Option<&str>) -> Seen {
    // A pod that goes because the job is held back is among those that were held.
    let held = job.map_or(0, |job| job.held);
    let holds = |pod: &PodFacts| pod.deleting || job.is_some_and(|job| job.suspended) && !pod.is_finished();
    let begun = pods
        .iter()
        .filter(|pod| (pod.has_log() || pod.is_finished()) && !(held > 0 && holds(pod)));
    let (ended, running): (Vec<_>, Vec<_>) = begun.partition(|pod| pod.is_finished());
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    // Pods of attempts that ended can be gone, and are still counted; one that is asked to end can be counted already.
    let counted = job.map_or(0, JobFacts::counted);
    let alive = number(running.iter().filter(|pod| !pod.deleting).count());
    let there = number(ended.len() + running.len());
    let mut out = Seen {
        phase: Phase::Waiting,
        reason: None,
        message: None,
        exit_code: pods.iter().rev().find_map(PodFacts::code),
        attempts: there.max(counted.saturating_add(alive)).saturating_add(held),
        started_ms: pods.iter().filter_map(PodFacts::started_ms).min(),
        finished_ms: None,
    };
    let live = pods.iter().any(|pod| !pod.is_finished());
    let (phase, reason, message) = state(job, pods, live, uncreated);
    out.phase = phase;
    out.reason = reason;
    out.message = message;
    if matches!(phase, Phase::Succeeded | Phase::Failed | Phase::Gone) {
        let told = job.and_then(|job| {
            let condition = job.complete.as_ref().or(job.failure.as_ref());
            job.completed_ms
                .or_else(|| condition.and_then(|condition| condition.at_ms))
        });
        out.finished_ms = pods.iter().filter_map(PodFacts::ended_ms).max().or(told);
    }
    if phase == Phase::Succeeded {
        out.exit_code = Some(0);
    }
    out
}

fn state(
    job: Option<&JobFacts>,
    pods: &[PodFacts],
    live: bool,
    uncreated: Option<&str>,
) -> (Phase, Option<String>, Option<String>) {
    let Some(job) = job else {
        return lost(None, live);
    };
    // While a pod is seen to run, the Job is ahead of the pod, and the pod's exit code is still to come.
    if job.complete.is_some() {
        let phase = if live { Phase::Ending } else { Phase::Succeeded };
        return (phase, None, None);
    }
    if let Some(condition) = job.failure.as_ref().or(job.failing.as_ref()) {
        let settled = job.failure.is_some() || !pods.is_empty();
        let phase = if live || !settled { Phase::Ending } else { Phase::Failed };
        let (reason, message) = failure(job, condition, pods);
        return (phase, reason, message);
    }
    if let Some(reason) = &job.ended {
        let phase = if job.deleted && !live {
            Phase::Gone
        } else {
            Phase::Ending
        };
        return (phase, Some(reason.clone()), ended_message(reason, job));
    }
    if !job.suspended {
        if pods.iter().any(PodFacts::succeeded) {
            return (Phase::Succeeded, None, None);
        }
        let failures = pods.iter().filter(|pod| pod.failed()).count();
        if !live && u32::try_from(failures).unwrap_or(u32::MAX) > job.retries {
            let (reason, message) = all_failed(job, pods);
            return (Phase::Failed, Some(reason), Some(message));
        }
    }
    if job.deleted || job.deleting {
        return lost(Some(job), live || !job.deleted);
    }
    if job.completing {
        return (Phase::Ending, None, None);
    }
    if job.suspended {
        return (Phase::Suspended, None, None);
    }
    if let Some(pod) = pods.iter().rev().find(|pod| !pod.is_finished()) {
        return match &pod.program {
            Program::Running { .. } => (Phase::Running, None, None),
            Program::Waiting(why) => (Phase::Waiting, why.0.clone(), why.1.clone()),
            _ => {
                let (reason, message) = pod.unscheduled.clone().unwrap_or_default();
                (Phase::Waiting, reason, message)
            }
        };
    }
    if let Some(why) = uncreated {
        return (Phase::Waiting, Some(FAILED_CREATE.to_owned()), Some(why.to_owned()));
    }
    match pods.last() {
        Some(last) if last.failed() => {
            let (reason, how) = last.cause();
            let failed = pods.iter().filter(|pod| pod.failed()).count();
            let message = format!("attempt {failed} {how}; Kubernetes waits before the next one");
            (Phase::Waiting, Some(reason), Some(message))
        }
        _ => (Phase::Waiting, None, None),
    }
}

/// A Job that was removed: its pods may still be on their way out.
fn lost(job: Option<&JobFacts>, live: bool) -> (Phase, Option<String>, Option<String>) {
    let phase = if live { Phase::Ending } else { Phase::Gone };
    let message = job.map(|job| format!("the Job `{}` was deleted in the cluster", job.name));
    (phase, Some(reason::GONE.to_owned()), message)
}

fn ended_message(reason: &str, job: &JobFacts) -> Option<String> {
    let bytes = job.output_bytes?;
    (reason == reason::OUTPUT).then(|| format!("it wrote more than the {} MiB of output of its limit", bytes >> 20))
}

/// Says why a Job failed. Where all attempts are used up, the last one says more than Kubernetes does.
fn failure(job: &JobFacts, condition: &Condition, pods: &[PodFacts]) -> Why {
    let used_up = condition.reason.as_deref() == Some(reason::RETRIES);
    if used_up && pods.iter().any(PodFacts::failed) {
        let (reason, message) = all_failed(job, pods);
        return (Some(reason), Some(message));
    }
    (condition.reason.clone(), condition.message.clone())
}

fn all_failed(job: &JobFacts, pods: &[PodFacts]) -> (String, String) {
    let last = pods.iter().rev().find(|pod| pod.failed());
    let (reason, how) = last.map_or_else(|| (reason::RETRIES.to_owned(), "failed".to_owned()), PodFacts::cause);
    if job.retries == 0 {
        return (reason, format!("the program {how}"));
    }
    let message = format!("{} attempts failed; the last one {how}", job.retries + 1);
    // Memory is what one can act upon, whatever the number of attempts.
    if reason == reason::MEMORY {
        return (reason, message);
    }
    (reason::RETRIES.to_owned(), message)
}

#[cfg(test)]
#[path = "observed_tests.rs"]
mod tests;
