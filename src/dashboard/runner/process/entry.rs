//! What the runner knows of one job, and how it tells it.

use std::cmp::Reverse;

use tokio::sync::{mpsc, watch};

use super::place::{Life, Order, Record};
use crate::dashboard::job::spec::{Priority, Spec};
use crate::dashboard::job::{JobId, Phase, Seen, reason};

/// A job that the runner knows.
pub(super) struct Entry {
    /// What to run; not known yet where the job was held back before it was begun.
    pub(super) spec: Option<Spec>,
    pub(super) held: bool,
    /// What its keeper wrote down last.
    pub(super) record: Option<Record>,
    pub(super) keeper: Keeper,
    /// Counts what there is new in the output; whoever follows it waits here.
    pub(super) rings: watch::Sender<u64>,
}

/// Whether a keeper of the job lives.
pub(super) enum Keeper {
    None,
    /// One of this server, which takes orders.
    Ours(mpsc::UnboundedSender<Order>),
    /// One of a server that was killed; it is about to end.
    Orphan,
}

impl Entry {
    pub(super) fn new(spec: Option<Spec>, held: bool, record: Option<Record>) -> Self {
        Self {
            spec,
            held,
            record,
            keeper: Keeper::None,
            rings: watch::Sender::new(0),
        }
    }

    /// Returns its place among those that wait; nothing where it is not known what it runs.
    pub(super) fn turn(&self, id: JobId) -> Option<(Reverse<Priority>, JobId)> {
        self.spec.as_ref().map(|spec| (Reverse(spec.priority), id))
    }

    pub(super) fn lives(&self) -> bool {
        !matches!(self.keeper, Keeper::None)
    }

    pub(super) fn is_final(&self) -> bool {
        !self.lives() && self.record.as_ref().is_some_and(Record::is_final)
    }

    /// Returns whether nothing is written to its output before somebody resumes it.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_final() || !self.lives() && self.held
    }

    pub(super) fn ring(&self) {
        self.rings.send_modify(|count| *count += 1);
    }

    pub(super) fn order(&self, order: Order) {
        if let Keeper::Ours(orders) = &self.keeper {
            // Where it has ended meanwhile, its end is what is told.
            _ = orders.send(order);
        }
    }

    pub(super) fn seen(&self, slots: usize) -> Seen {
        let Some(record) = &self.record else {
            let waits = !self.lives() && !self.held;
            return Seen {
                phase: if self.held { Phase::Suspended } else { Phase::Waiting },
                reason: waits.then(|| reason::SLOTS.to_owned()),
                message: waits.then(|| slots_message(slots)),
                ..nothing()
            };
        };
        let (phase, reason, message) = match record.life {
            Life::Succeeded => (Phase::Succeeded, record.reason.clone(), record.message.clone()),
            Life::Failed => (Phase::Failed, record.reason.clone(), record.message.clone()),
            _ if self.held => (Phase::Suspended, None, None),
            Life::Running => (Phase::Running, record.reason.clone(), record.message.clone()),
            Life::Between => (Phase::Waiting, record.reason.clone(), record.message.clone()),
            Life::Ending => (Phase::Ending, record.reason.clone(), record.message.clone()),
            // It was resumed, and has to wait.
            Life::Held if self.lives() => (Phase::Waiting, None, None),
            Life::Held => (
                Phase::Waiting,
                Some(reason::SLOTS.to_owned()),
                Some(slots_message(slots)),
            ),
        };
        Seen {
            phase,
            reason,
            message,
            exit_code: record.exit_code,
            attempts: record.attempts,
            started_ms: record.started_ms,
            finished_ms: record.finished_ms,
        }
    }
}

fn slots_message(slots: usize) -> String {
    match slots {
        1 => "it waits for the job that runs; this server runs one at once".to_owned(),
        _ => format!("it waits for one of the {slots} jobs that run; this server runs no more at once"),
    }
}

/// An observation of a job that is not there.
pub(super) fn nothing() -> Seen {
    Seen {
        phase: Phase::Gone,
        reason: None,
        message: None,
        exit_code: None,
        attempts: 0,
        started_ms: None,
        finished_ms: None,
    }
}
