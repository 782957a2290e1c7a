//! `labctl schema`.

use anyhow::Result;

use super::Outcome;
use crate::assets;
use crate::error::{Code, Diagnosis, Exit};

/// Print the JSON Schema of a kind of file
#[derive(Debug, clap::Args)]
#[command(
    after_help = "In an editor with the YAML language server, put this on top of a chapter.yaml:\n  \
                        # yaml-language-server: $schema=chapter.json"
)]
pub struct Args {
    /// What it describes
    #[arg(value_enum, default_value = "chapter")]
    of: Of,
}

/// A kind of file or interface
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Of {
    /// chapter.yaml
    Chapter,
    /// selftest.yaml
    Selftest,
    /// The HTTP API of the dashboard (OpenAPI 3.1)
    Openapi,
}

impl Args {
    /// Prints the schema.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn run(self) -> Result<Outcome> {
        let name = match self.of {
            Of::Chapter => "chapter",
            Of::Selftest => "selftest",
            Of::Openapi => "openapi",
        };
        let text = assets::text(&format!("assets/schema/{name}.json")).ok_or_else(|| {
            let text = format!("the schema `{name}` is not part of this binary");
            Diagnosis::new(Code::Bug, text).error()
        })?;
        super::print(text)?;
        Ok(Exit::Done)
    }
}
