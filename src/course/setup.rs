//! What a chapter does to the world: the programs that bring it to the chapter's beginning, to its solution, and back,
//! and the learner's server that its checks talk to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::check::ask;
use crate::check::spec::{PLACEHOLDERS, Span, unknown_placeholder};

/// How long one program may take without a limit of its own.
const LIMIT: Duration = Duration::from_secs(120);

/// The programs of a chapter.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// They bring the cluster to where the chapter begins, from wherever it is.
    #[serde(default)]
    pub start: Vec<Step>,
    /// They do what the text asks of the learner, with the files of `solution/` in the workspace.
    #[serde(default)]
    pub solve: Vec<Step>,
    /// They remove what the chapter made, and nothing else.
    #[serde(default)]
    pub reset: Vec<Step>,
}

/// One program to run in the workspace. No shell is involved.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The program and its arguments; `kubectl`, `helm`, `labctl` and `python` are the lab's own.
    pub run: Vec<String>,
    /// What it reads.
    pub stdin: Option<String>,
    /// The exit codes that are well; 0 without it.
    #[serde(default = "zero")]
    pub ok: Vec<i32>,
    /// How long it may take.
    within: Option<Span>,
}

fn zero() -> Vec<i32> {
    vec![0]
}

impl Step {
    /// Returns how long it may take.
    pub fn within(&self) -> Duration {
        self.within.map_or(LIMIT, |span| span.0)
    }

    /// Returns the names of the placeholders that it holds.
    pub fn placeholders(&self) -> Vec<String> {
        self.run
            .iter()
            .chain(&self.stdin)
            .flat_map(|text| ask::placeholders(text))
            .collect()
    }
}

/// The learner's server, which labctl starts for the time of a judgement.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    /// The program and its arguments, run in the workspace; it must listen on 127.0.0.1 at the port `PORT` says.
    pub run: Vec<String>,
    /// Environment variables besides `PORT` and `KUBECONFIG`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// A path that is asked until it answers 200; without it a server is begun once it listens.
    pub ready: Option<String>,
    /// How long it may take until then; 10 s without it.
    within: Option<Span>,
}

impl Serve {
    /// Returns how long it may take until it has begun.
    pub fn within(&self) -> Duration {
        self.within.map_or(Duration::from_secs(10), |span| span.0)
    }
}

impl Setup {
    /// Returns what is wrong with its programs, if anything.
    pub fn fault(&self) -> Option<String> {
        let all = [("start", &self.start), ("solve", &self.solve), ("reset", &self.reset)];
        all.into_iter()
            .flat_map(|(name, steps)| steps.iter().map(move |step| (name, step)))
            .find_map(|(name, step)| Some(format!("`setup.{name}`: {}", fault(step)?)))
    }
}

/// Returns what is wrong with one program, if anything.
pub fn fault(step: &Step) -> Option<String> {
    if step.run.first().is_none_or(String::is_empty) {
        return Some("`run` names no program".into());
    }
    let known: Vec<&str> = PLACEHOLDERS.iter().map(|(name, _)| *name).collect();
    let unknown = step
        .placeholders()
        .into_iter()
        .find(|name| !known.contains(&name.as_str()))?;
    Some(unknown_placeholder(&unknown, &known))
}
