//! What a job is to run: the document that its creator sends, and its limits. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_path_to_error::Segment;

/// What a job is to run.
///
/// The same document describes a child process and a Kubernetes Job; a field that a runner has no use for (a process
/// has no image) is kept and not used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// A name for people; not unique. Letters, digits, `-`, `_` and `.`, at most 63.
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
    )]
    pub name: String,
    /// The program and its arguments. No shell takes part: `["sh", "-c", "..."]` asks for one.
    #[schema(min_items = 1, max_items = 256)]
    pub command: Vec<String>,
    /// The image in which the program is, for runners that use images; without it the runner's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 512)]
    pub image: Option<String>,
    /// Environment variables. The program gets these and a few of the runner's own, and none of the server's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Labels to find the job by; at most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How often the program is started again after it failed.
    #[serde(default)]
    #[schema(maximum = 100)]
    pub retries: u32,
    /// Whether it is held back until it is resumed.
    #[serde(default)]
    pub suspend: bool,
    /// Which of the jobs that wait begins first.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    /// What it may use.
    #[serde(default)]
    pub limits: Limits,
}

/// Which of the jobs that wait begins first; of those with the same priority it is the oldest. None is ended for another.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// When nothing else waits.
    Low,
    /// As most do.
    #[default]
    Normal,
    /// Before all others.
    High,
}

impl Priority {
    /// Every one, the least first.
    pub const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    /// Returns its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
    fn is_normal(&self) -> bool {
        *self == Self::Normal
    }
}

/// What a job may use; a job that wants more is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// How long all attempts together may take, in seconds.
    #[schema(minimum = 1, maximum = 604_800)]
    pub seconds: u32,
    /// Memory, in MiB.
    #[schema(minimum = 4, maximum = 1_048_576)]
    pub memory_mib: u32,
    /// Processor time of a process, in thousandths of a core: a Kubernetes limit, and a share of `seconds` for a child
    /// process.
    #[schema(minimum = 10, maximum = 1_024_000)]
    pub cpu_milli: u32,
    /// How much the job may write to its output, in MiB.
    #[schema(minimum = 1, maximum = 10_240)]
    pub output_mib: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            seconds: 3600,
            memory_mib: 512,
            cpu_milli: 1000,
            output_mib: 64,
        }
    }
}

/// One thing that is wrong in a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Fault {
    /// Where, as a JSON Pointer (RFC 6901), such as `/limits/seconds`.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

fn fault(pointer: impl Into<String>, detail: impl Into<String>) -> Fault {
    Fault {
        pointer: pointer.into(),
        detail: detail.into(),
    }
}

/// How many bytes a command with all its arguments, or all environment variables, may have.
const TEXT_BYTES: usize = 64 << 10;
/// How many labels a job may have.
const LABELS: usize = 16;
/// How many environment variables a job may have.
const VARIABLES: usize = 256;

impl Spec {
    /// Returns everything that is wrong with the document; empty for a good one.
    pub fn faults(&self) -> Vec<Fault> {
        let mut out = Vec::new();
        if !is_name(&self.name) {
            out.push(fault(
                "/name",
                "a name has 1 to 63 letters, digits, `-`, `_` and `.`, and begins and ends with a letter or digit",
            ));
        }
        if self.command.first().is_none_or(String::is_empty) {
            out.push(fault("/command", "the first part names the program and is not empty"));
        }
        if self.command.len() > 256 || self.command.iter().map(String::len).sum::<usize>() > TEXT_BYTES {
            out.push(fault("/command", "a command has at most 256 parts and 65536 bytes"));
        }
        if let Some(place) = self.command.iter().position(|part| part.contains('\0')) {
            out.push(fault(
                format!("/command/{place}"),
                "a NUL byte cannot be passed to a program",
            ));
        }
        if let Some(image) = &self.image
            && !is_image(image)
        {
            out.push(fault(
                "/image",
                "not the name of an image, such as `registry.example/team/app:1.2`",
            ));
        }
        self.environment(&mut out);
        self.label_faults(&mut out);
        if self.retries > 100 {
            out.push(fault("/retries", "at most 100"));
        }
        let limits = &self.limits;
        let ranges = [
            ("seconds", limits.seconds, 1, 604_800),
            ("memory_mib", limits.memory_mib, 4, 1 << 20),
            ("cpu_milli", limits.cpu_milli, 10, 1_024_000),
            ("output_mib", limits.output_mib, 1, 10_240),
        ];
        for (name, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                out.push(fault(
                    format!("/limits/{name}"),
                    format!("{value} is not within {least} to {most}"),
                ));
            }
        }
        out
    }

    fn environment(&self, out: &mut Vec<Fault>) {
        if self.env.len() > VARIABLES || self.env.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > TEXT_BYTES {
            out.push(fault("/env", "at most 256 variables with 65536 bytes"));
        }
        for (name, value) in &self.env {
            let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !good {
                out.push(fault(
                    format!("/env/{}", escaped(name)),
                    "a variable's name has letters, digits and `_`, and begins with no digit",
                ));
            }
            if value.contains('\0') {
                out.push(fault(
                    format!("/env/{}", escaped(name)),
                    "a NUL byte cannot be passed to a program",
                ));
            }
        }
    }

    fn label_faults(&self, out: &mut Vec<Fault>) {
        if self.labels.len() > LABELS {
            out.push(fault("/labels", format!("at most {LABELS}")));
        }
        for (name, value) in &self.labels {
            if !is_name(name) {
                out.push(fault(
                    format!("/labels/{}", escaped(name)),
                    "a label's name has 1 to 63 letters, digits, `-`, `_` and `.`",
                ));
            }
            if !(value.is_empty() || is_name(value)) {
                out.push(fault(
                    format!("/labels/{}", escaped(name)),
                    "a label's value is empty or has 1 to 63 letters, digits, `-`, `_` and `.`",
                ));
            }
        }
    }
}

/// Returns whether a text can be a job's name, and a Kubernetes label's value as well.
pub fn is_name(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    (1..=63).contains(&text.len())
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn is_image(text: &str) -> bool {
    (1..=512).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@".contains(c))
}

/// Returns the JSON Pointer of a path.
pub fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut out = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => _ = write!(out, "/{index}"),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                out.push('/');
                out.push_str(&escaped(key));
            }
            Segment::Unknown => {}
        }
    }
    out
}

/// Escapes a key for a JSON Pointer.
pub fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Result<Spec, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    fn pointers(json: &str) -> Vec<String> {
        let spec = spec(json).expect("it parses");
        spec.faults().into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn the_least_document_is_whole() {
        let spec = spec(r#"{"name": "hello", "command": ["true"]}"#).expect("it parses");
        assert!(spec.faults().is_empty());
        assert_eq!(spec.limits, Limits::default());
        assert_eq!(spec.priority, Priority::Normal);
        // A server that knows no priorities takes it as it is written again.
        let written = serde_json::to_string(&spec).expect("JSON");
        assert!(!written.contains("priority"), "{written}");
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = spec(r#"{"name": "a", "command": ["x"], "comand": 1}"#).expect_err("refused");
        assert!(error.contains("comand"), "{error}");
        assert!(spec(r#"{"name": "a", "command": ["x"], "limits": {"second": 1}}"#).is_err());
    }

    #[test]
    fn every_fault_is_told_and_where_it_is() {
        let json = r#"{"name": "-a", "command": ["", "a\u0000"], "image": "$(x)", "env": {"1A": "", "B": "\u0000"},
            "labels": {"a/b": "x", "c": "no spaces"}, "retries": 101,
            "limits": {"seconds": 0, "memory_mib": 1, "cpu_milli": 1, "output_mib": 0}}"#;
        assert_eq!(
            pointers(json),
            [
                "/name",
                "/command",
                "/command/1",
                "/image",
                "/env/1A",
                "/env/B",
                "/labels/a~1b",
                "/labels/c",
                "/retries",
                "/limits/seconds",
                "/limits/memory_mib",
                "/limits/cpu_milli",
                "/limits/output_mib"
            ]
        );
    }

    #[test]
    fn names_are_those_that_a_label_may_have_as_value() {
        for good in ["a", "A.b_c-9", &"x".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-", "a-", ".a", "a b", "ä", &"x".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
