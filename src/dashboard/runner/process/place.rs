//! A job's directory: what lies in it, and the record from which a server that comes later learns what became of the job.
//!
//! | name | what it is | who writes it |
//! |---|---|---|
//! | `job.json` | what to run | the server |
//! | `state.json` | how the job is | its keeper; the server where the keeper was killed |
//! | `output.log` | the output so far, see [`super::output`] | its keeper |
//! | `door` | a socket at which the next server takes the job up, see [`super::lifeline`] | its keeper |
//! | `lock` | locked as long as a keeper lives | its keeper |
//! | `work/`, `tmp/` | the program's working directory, and its temporary one | the program |

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::dashboard::job::spec::{Limits, Spec};

/// What a keeper is told: the first line of its standard input, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Instructions {
    /// The job's id.
    pub(super) id: String,
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// The program's whole environment but for what depends on the directory.
    pub(super) env: BTreeMap<String, String>,
    /// How often it is started again after it failed.
    pub(super) retries: u32,
    /// What it may use.
    pub(super) limits: Limits,
}

/// What a keeper is told later: a line of its standard input. That the input ends means that the server is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// End the job.
    End,
    /// End the attempt; the job begins anew when it is resumed.
    Hold,
    /// End the job, because the server is stopped.
    Stop,
    /// Go on without a server: the next one takes the job up.
    Leave,
}

impl Order {
    const ALL: [Self; 4] = [Self::End, Self::Hold, Self::Stop, Self::Leave];

    pub(super) fn line(self) -> &'static str {
        match self {
            Self::End => "end\n",
            Self::Hold => "hold\n",
            Self::Stop => "stop\n",
            Self::Leave => "leave\n",
        }
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|order| order.line().trim_end() == line.trim_end())
    }
}

/// How a job is, as its record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Life {
    /// An attempt runs.
    #[default]
    Running,
    /// The next attempt is waited for.
    Between,
    /// It is to end, and something of it still runs.
    Ending,
    /// It is held back; nothing of it runs.
    Held,
    /// It ended well.
    Succeeded,
    /// It ended badly.
    Failed,
}

/// A job's record, `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// How it is.
    pub(super) life: Life,
    /// How many attempts were begun.
    pub(super) attempts: u32,
    /// How many of them failed; an attempt that was ended to hold the job back did not.
    pub(super) failures: u32,
    /// How many bytes the attempts wrote.
    pub(super) output: u64,
    /// Why it is so, as a stable word.
    pub(super) reason: Option<String>,
    /// Why it is so, for people.
    pub(super) message: Option<String>,
    /// The exit code of the newest attempt that ended.
    pub(super) exit_code: Option<i32>,
    /// When the first attempt began, in milliseconds since 1970.
    pub(super) started_ms: Option<i64>,
    /// When it ended.
    pub(super) finished_ms: Option<i64>,
    /// The keeper's process.
    pub(super) keeper: Option<i32>,
}

impl Record {
    /// Returns whether the job has ended.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.life, Life::Succeeded | Life::Failed)
    }
}

/// A job's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    pub(super) fn dir(&self) -> &Path {
        &self.0
    }

    pub(super) fn output(&self) -> PathBuf {
        self.0.join("output.log")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// Makes the directory and writes down what to run.
    pub(super) fn make(&self, spec: &Spec) -> Result<()> {
        for dir in [&self.0, &self.work(), &self.tmp()] {
            private_dir(dir)?;
        }
        write(
            &self.0.join("job.json"),
            &serde_json::to_vec(spec).context("write a job down")?,
        )
    }

    /// Returns what to run; nothing where it was not written down whole.
    pub(super) fn spec(&self) -> Option<Spec> {
        let text = fs::read(self.0.join("job.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Returns the record; nothing where no keeper has begun.
    pub(super) fn record(&self) -> Option<Record> {
        let text = fs::read(self.0.join("state.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes the record: who reads it finds the old one or this one.
    pub(super) fn write_record(&self, record: &Record) -> Result<()> {
        write(
            &self.0.join("state.json"),
            &serde_json::to_vec(record).context("write a record")?,
        )
    }
}

/// Makes a directory that only this user may enter, with its parents.
pub(super) fn private_dir(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("make the directory `{}`", dir.display()))
}

/// Writes a file whole, and does not wait for the disk: a job does not outlive the machine, so its record need not.
fn write(path: &Path, contents: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let attempt = || {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(contents)?;
        fs::rename(&new, path)
    };
    attempt().with_context(|| format!("write `{}`", path.display()))
}

/// Removes a directory, however long it takes; what stays is removed when the next server starts.
pub(super) fn remove(dir: PathBuf) {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = remove_tree(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "what a job left could not be removed");
        }
    });
}

/// Removes a directory with all that is in it, also where a program took the right to do so away.
fn remove_tree(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let Err(_) = fs::remove_dir_all(dir) else {
        return Ok(());
    };
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            }
        }
    }
    fs::remove_dir_all(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_are_written() {
        for order in Order::ALL {
            assert_eq!(Order::parse(order.line()), Some(order));
        }
        assert_eq!(Order::parse("endless\n"), None);
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_half_of_one_is_none() {
        use std::os::unix::fs::PermissionsExt as _;
        let top = tempfile::tempdir().expect("a directory");
        let place = Place::new(top.path().join("jobs/one"));
        let spec: Spec = serde_json::from_str(r#"{"name": "a", "command": ["true"]}"#).expect("a spec");
        place.make(&spec).expect("made");
        place.make(&spec).expect("made again");
        assert_eq!((place.record(), place.spec()), (None, Some(spec)));
        let record = Record {
            life: Life::Between,
            attempts: 2,
            exit_code: Some(3),
            ..Record::default()
        };
        place.write_record(&record).expect("written");
        assert_eq!(place.record(), Some(record));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(place.dir()), 0o700);
        assert_eq!(mode(&place.work()), 0o700);
        assert_eq!(mode(&place.dir().join("state.json")), 0o600);
        let file = File::options()
            .write(true)
            .open(place.dir().join("state.json"))
            .expect("open");
        file.set_len(10).expect("cut");
        assert_eq!(place.record(), None);
    }
}
