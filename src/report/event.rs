//! The events of a run. Their JSON form (`labctl up --json`) is a contract: add fields, never rename or remove one.

use serde::Serialize;

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The plan is made: these steps are known, in the order in which they would run one by one.
    Planned {
        /// Every step with what is to be done about it.
        steps: Vec<PlannedStep>,
    },
    /// A step began to run.
    StepStarted {
        /// The step's id.
        step: String,
        /// What the step makes, for people.
        title: String,
        /// Why it must run.
        why: String,
    },
    /// A running step says what it is doing.
    StepProgress {
        /// The step's id.
        step: String,
        /// What it is doing now.
        doing: String,
        /// How much of it is done, in the unit that `doing` implies; absent where it cannot be known.
        #[serde(skip_serializing_if = "Option::is_none")]
        done: Option<u64>,
        /// How much there is to do in all; absent where it cannot be known.
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    /// A step holds: it ran, or there was nothing to do.
    StepDone {
        /// The step's id.
        step: String,
        /// What the step makes, for people.
        title: String,
        /// Whether it ran; false means that the world was already as it should be.
        ran: bool,
        /// How long it took, in milliseconds.
        elapsed_ms: u64,
        /// What is there now, for people.
        is: String,
    },
    /// A step failed; the run stops.
    StepFailed {
        /// The step's id.
        step: String,
        /// What the step makes, for people.
        title: String,
        /// How long it took, in milliseconds.
        elapsed_ms: u64,
        /// What failed, in one line.
        error: String,
        /// Where its whole output is.
        #[serde(skip_serializing_if = "Option::is_none")]
        log: Option<String>,
    },
    /// One check of a chapter was judged.
    CheckJudged {
        /// The chapter's id, such as `02`.
        chapter: String,
        /// The check's id.
        check: String,
        /// The criterion that the check belongs to, in words.
        criterion: String,
        /// The criterion's id.
        criterion_id: String,
        /// The criterion's place in the chapter, counted from 1.
        number: usize,
        /// How many criteria the chapter has.
        criteria: usize,
        /// `pass`, `fail`, `error` or `skip`.
        verdict: String,
        /// Why, as a stable word: `held`, `unmet`, `aborted`, `blind` or `skipped`.
        reason: String,
        /// How long it took, in milliseconds.
        elapsed_ms: u64,
        /// How often it was looked at.
        attempts: u32,
        /// The failure text, a line an entry; empty for a pass.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        explanation: Vec<String>,
    },
    /// A chapter was judged.
    ChapterJudged {
        /// The chapter's id.
        chapter: String,
        /// The chapter's title.
        title: String,
        /// How many checks passed.
        passed: usize,
        /// How many failed.
        failed: usize,
        /// How many could not be judged.
        errored: usize,
        /// How many were skipped because one they need failed.
        skipped: usize,
        /// How long it took, in milliseconds.
        elapsed_ms: u64,
    },
    /// A chapter was judged in one of the worlds of its selftest.
    WorldJudged {
        /// The chapter's id.
        chapter: String,
        /// Which world: `no lab`, `start`, `solution 1`, `alternative x`, `fault x`, `mended`.
        world: String,
        /// What is so in it.
        what: String,
        /// What is not as it must be; empty where all is well.
        wrong: Vec<String>,
        /// How long it took, in milliseconds.
        elapsed_ms: u64,
    },
    /// Something of the lab was removed.
    Removed {
        /// What kind of thing it was: `container`, `network`, `volume`, `image`, `directory`, `process`.
        kind: String,
        /// Its name.
        name: String,
        /// How many bytes of disk it gave back, where known.
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
    /// Something worth knowing.
    Note {
        /// The text, for people.
        text: String,
    },
    /// Something that may become a problem.
    Warning {
        /// The text, for people.
        text: String,
    },
    /// The whole run is over.
    Finished {
        /// `done`, `unmet`, `failed` or `interrupted`.
        outcome: String,
        /// How long the run took, in milliseconds.
        elapsed_ms: u64,
    },
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    /// The step's id.
    pub step: String,
    /// What the step makes, for people.
    pub title: String,
    /// Whether it would run.
    pub run: bool,
    /// Why, or what is there already.
    pub why: String,
    /// The steps it waits for.
    pub needs: Vec<String>,
}
