//! Probes: they look at the world and bring back evidence. One file for each kind.
//!
//! A probe has no opinion. What it cannot see is evidence too, never an error.

pub mod exec;
pub mod file;
pub mod http;
pub mod k8s;
pub mod stream;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::ask::{self, Ask};
use super::evidence::Evidence;
use crate::drive::exec::Exec;

/// Finds a tool of the lab by its name.
pub type Tools<'a> = dyn Fn(&str) -> anyhow::Result<PathBuf> + Send + Sync + 'a;

/// What probes may use of the outside.
pub struct Context<'a> {
    /// Values of the placeholders; see [`super::spec::PLACEHOLDERS`].
    pub facts: BTreeMap<String, String>,
    /// What checks of this run saved for others.
    pub saved: Mutex<BTreeMap<String, String>>,
    /// The lab's kubeconfig, which programs get as `KUBECONFIG`.
    pub kubeconfig: &'a Path,
    /// Finds `kubectl`, `helm` and `kind`.
    pub tools: &'a Tools<'a>,
    /// Runs programs.
    pub exec: &'a dyn Exec,
    /// Makes requests; see [`http::client`].
    pub http: reqwest::Client,
    /// The lab's cluster, or why there is none.
    pub cluster: Result<kube::Client, NoCluster>,
}

/// Why there is no cluster to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoCluster {
    /// What is wrong, in one line.
    pub why: String,
    /// What to do next.
    pub next: Option<String>,
}

impl NoCluster {
    /// Takes what is wrong, and the first hint, from an error.
    pub fn from_error(error: &anyhow::Error) -> Self {
        Self {
            why: error.to_string(),
            next: crate::error::diagnosis(error).and_then(|found| found.hints.first().cloned()),
        }
    }
}

/// Looks at the world.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Looks once.
    async fn observe(&self, context: &Context<'_>) -> Evidence;
}

#[async_trait]
impl Probe for Ask {
    async fn observe(&self, context: &Context<'_>) -> Evidence {
        match self {
            Self::K8s(k8s) => k8s.observe(context).await,
            Self::Http(http) => http.observe(context).await,
            Self::Exec(exec) => exec.observe(context).await,
            Self::File(file) => file.observe(context).await,
            Self::LogStream(stream) => stream.observe(context).await,
        }
    }
}

impl Context<'_> {
    /// Fills the placeholders of a check.
    ///
    /// # Errors
    /// The text says which placeholder has no value in this lab.
    pub fn fill(&self, ask: &Ask) -> Result<Ask, String> {
        let values = self.values();
        if let Some(name) = ask.placeholders().iter().find(|name| !values.contains_key(*name)) {
            return Err(format!("this lab has no value for `{{{{{name}}}}}`"));
        }
        Ok(ask.map_text(&|text| ask::fill(text, &values)))
    }

    /// Fills the placeholders that have a value, for what is shown.
    pub fn fill_known(&self, ask: &Ask) -> Ask {
        let values = self.values();
        ask.map_text(&|text| ask::fill(text, &values))
    }

    /// Returns the values of the placeholders that a check holds.
    pub fn values_of(&self, ask: &Ask) -> BTreeMap<String, String> {
        let mut values = self.values();
        let used = ask.placeholders();
        values.retain(|name, _| used.contains(name));
        values
    }

    /// Keeps a value for the checks that need the one that saw it.
    pub fn save(&self, name: &str, value: String) {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        saved.insert(name.to_owned(), value);
    }

    fn values(&self) -> BTreeMap<String, String> {
        let mut all = self.facts.clone();
        all.extend(self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone());
        all
    }
}

/// Returns an error with its causes in one line.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
