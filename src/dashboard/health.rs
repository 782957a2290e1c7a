//! Whether the server is alive and ready, as its parts say.
//!
//! Parts push what they know ([`Health::set`], [`Heard::now`]); a probe only reads it. So a probe costs nothing and cannot
//! be slowed down by the part it asks about.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// In which part of its life the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It listens, and its parts are not all there yet.
    Starting,
    /// It serves.
    Serving,
    /// It was told to stop; it still serves, and wants no new requests.
    Draining,
}

/// What one part of the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Check {
    /// The part, such as `server` or `store`.
    pub name: String,
    /// Whether it can do its work.
    pub ok: bool,
    /// What is there, or what is wrong; for people, and without secrets: anyone may read it.
    pub detail: String,
}

/// The answer of a readiness probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Readiness {
    /// `ready`, or `unready`.
    pub status: &'static str,
    /// In which part of its life the server is.
    pub phase: Phase,
    /// What the parts say, sorted by name.
    pub checks: Vec<Check>,
}

impl Readiness {
    /// Returns whether requests may be sent here.
    pub fn is_ready(&self) -> bool {
        self.status == "ready"
    }
}

/// When a part last heard of what it depends on; cheap to clone, all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    /// Takes note that it hears of it now.
    pub fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns how long ago that was; nothing where it never was.
    pub fn ago(&self) -> Option<Duration> {
        let heard = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.map(|heard| heard.elapsed())
    }
}

struct Inner {
    phase: Phase,
    parts: BTreeMap<&'static str, Result<String, String>>,
    heard: BTreeMap<&'static str, Heard>,
}

/// What is known of the server's health; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Health(Arc<RwLock<Inner>>);

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(Inner {
            phase: Phase::Starting,
            parts: BTreeMap::new(),
            heard: BTreeMap::new(),
        })))
    }
}

impl Health {
    /// Says in which part of its life the server is. Draining is final: nothing brings a stopping server back.
    pub fn enter(&self, phase: Phase) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if inner.phase != Phase::Draining {
            inner.phase = phase;
        }
    }

    /// Says how a part is: `Ok` with what is there, `Err` with what is wrong. Both are shown to whoever asks.
    pub fn set(&self, part: &'static str, state: Result<String, String>) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        inner.parts.insert(part, state);
    }

    /// Adds to what a part says of itself how long ago it was heard of.
    pub fn hear(&self, part: &'static str, heard: Heard) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        inner.heard.insert(part, heard);
    }

    /// Forgets a part: this server does not need it any more.
    pub fn forget(&self, part: &str) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        inner.parts.remove(part);
        inner.heard.remove(part);
    }

    /// Returns whether requests may be sent here, and why not.
    pub fn readiness(&self) -> Readiness {
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (ok, detail) = match inner.phase {
            Phase::Starting => (false, "the server is starting"),
            Phase::Serving => (true, "the server answers requests"),
            Phase::Draining => (false, "the server is stopping"),
        };
        let mut checks = vec![Check {
            name: "server".to_owned(),
            ok,
            detail: detail.to_owned(),
        }];
        for (name, state) in &inner.parts {
            let (Ok(detail) | Err(detail)) = state;
            let detail = match inner.heard.get(name).and_then(Heard::ago) {
                Some(ago) => format!("{detail}; last heard of {} s ago", ago.as_secs()),
                None => detail.clone(),
            };
            checks.push(Check {
                name: (*name).to_owned(),
                ok: state.is_ok(),
                detail,
            });
        }
        checks.sort_by(|a, b| a.name.cmp(&b.name));
        Readiness {
            status: if checks.iter().all(|check| check.ok) {
                "ready"
            } else {
                "unready"
            },
            phase: inner.phase,
            checks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_serving_server_is_ready() {
        let health = Health::default();
        assert!(!health.readiness().is_ready());
        health.enter(Phase::Serving);
        assert!(health.readiness().is_ready());
        health.enter(Phase::Draining);
        assert!(!health.readiness().is_ready());
        health.enter(Phase::Serving);
        assert_eq!(health.readiness().phase, Phase::Draining, "draining is final");
    }

    #[test]
    fn one_part_that_fails_makes_the_server_unready_until_it_recovers() {
        let health = Health::default();
        health.enter(Phase::Serving);
        health.set("store", Err("the database does not answer".into()));
        let readiness = health.readiness();
        assert!(!readiness.is_ready());
        let names: Vec<_> = readiness.checks.iter().map(|c| (c.name.as_str(), c.ok)).collect();
        assert_eq!(names, [("server", true), ("store", false)]);
        health.set("store", Ok("SQLite".into()));
        assert!(health.readiness().is_ready());
    }

    #[test]
    fn how_long_ago_a_part_was_heard_of_is_told_whenever_it_is_asked() {
        let health = Health::default();
        let said = || {
            let checks = health.readiness().checks.into_iter();
            checks
                .filter(|check| check.name == "runner")
                .map(|check| (check.ok, check.detail))
                .next()
        };
        let heard = Heard::default();
        health.hear("runner", heard.clone());
        assert_eq!(said(), None, "it has said nothing of itself");
        health.set("runner", Ok("Kubernetes".into()));
        assert_eq!(said(), Some((true, "Kubernetes".to_owned())), "it was never heard of");
        *heard.0.lock().expect("no panic") = Instant::now().checked_sub(Duration::from_secs(70));
        assert_eq!(said(), Some((true, "Kubernetes; last heard of 70 s ago".to_owned())));
        health.set("runner", Err("away".into()));
        assert_eq!(said(), Some((false, "away; last heard of 70 s ago".to_owned())));
        heard.now();
        assert_eq!(said(), Some((false, "away; last heard of 0 s ago".to_owned())));
        health.forget("runner");
        assert_eq!(said(), None);
        health.set("runner", Ok("Kubernetes".into()));
        assert_eq!(said(), Some((true, "Kubernetes".to_owned())));
    }
}
