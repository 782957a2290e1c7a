//! What a lab remembers of how it was asked for: `lab.json` in its state directory.
//!
//! Only wishes are kept here. What exists is never read from a file: steps look at the world.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::config::{Ports, Settings};
use crate::drive::files;
use crate::error::{Code, Diagnosis};

const FORMAT: u32 = 1;

/// How the lab was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// The ports on the loopback address.
    pub ports: Ports,
    /// Where the lab's cluster comes from.
    pub cluster: Origin,
}

/// Where the lab's cluster comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// labctl makes it with KIND, and removes it.
    Kind,
    /// It was there before, is used by this context of the user's kubeconfig, and is never removed.
    Existing {
        /// The context.
        context: String,
        /// The dashboard's image, where labctl does not bring it in itself.
        image: Option<String>,
    },
}

impl Default for Record {
    fn default() -> Self {
        Self {
            format: FORMAT,
            ports: Ports::default(),
            cluster: Origin::Kind,
        }
    }
}

impl Record {
    /// Reads the lab's record; nothing where the lab was never made.
    ///
    /// # Errors
    /// The file is there and cannot be used.
    pub fn read(settings: &Settings) -> Result<Option<Self>> {
        let path = path(settings);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(files::explain(error, "read", &path)),
        };
        let unusable = |why: String| {
            anyhow::anyhow!(why).context(
                Diagnosis::new(Code::Setting, format!("`{}` cannot be used", path.display()))
                    .hint("labctl teardown removes the lab; labctl up makes it again"),
            )
        };
        let record: Self = serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
        if record.format > FORMAT {
            return Err(unusable(format!(
                "it was written by a newer labctl (format {}, this one knows {FORMAT})",
                record.format
            )));
        }
        Ok(Some(record))
    }

    /// Writes the lab's record.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub fn write(&self, settings: &Settings) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("a record has only strings and numbers");
        files::write(&path(settings), text + "\n")
    }
}

fn path(settings: &Settings) -> std::path::PathBuf {
    settings.lab_dir().join("lab.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Dirs, LabName};

    fn settings(dir: &std::path::Path) -> Settings {
        Settings {
            lab: LabName::parse("demo").expect("a name"),
            dirs: Dirs::new(dir.join("state"), dir.join("cache")),
            yes: false,
            ask: false,
            json: false,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let settings = settings(dir.path());
        assert_eq!(Record::read(&settings).expect("readable"), None);
        let mut record = Record::default();
        record.ports.http = 9000;
        record.cluster = Origin::Existing {
            context: "prod".into(),
            image: None,
        };
        record.write(&settings).expect("writable");
        assert_eq!(Record::read(&settings).expect("readable"), Some(record));
    }

    #[test]
    fn a_broken_record_says_how_to_go_on() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let settings = settings(dir.path());
        files::write(&path(&settings), "{\"format\":1,").expect("writable");
        let error = Record::read(&settings).expect_err("it is cut off");
        assert!(crate::error::render(&error).contains("labctl teardown"), "{error:#}");
    }
}
