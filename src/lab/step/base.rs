//! The root file system of Debian packages that the node image is built on, as a tar file in the cache.

use std::path::PathBuf;

use anyhow::Result;
use async_trait::async_trait;

use super::{Site, node_image};
use crate::drive::debian;
use crate::drive::files::{self, Digest, Hasher};
use crate::lab::plan::{Progress, State, Step, StepId};
use crate::lab::versions;

/// See the module.
pub struct Base(pub Site);

/// Returns the digest of what the base is made from.
pub fn digest() -> Digest {
    let base = &versions::pinned().base;
    let mut hasher = Hasher::default();
    hasher.field("base-1").field(&base.suite).field(std::env::consts::ARCH);
    for package in &base.packages {
        hasher.field(package);
    }
    hasher.finish()
}

/// Returns the name of the base as an image.
pub fn image() -> String {
    format!("labctl.dev/base:{}", digest().short())
}

impl Base {
    /// Returns the tar file.
    pub fn tar(&self) -> PathBuf {
        let name = format!("base-{}.tar", digest().short());
        self.0.world().settings().dirs.cache().join("images").join(name)
    }

    /// Returns whether the file must be made: it is not there, and nothing that was made from it is.
    ///
    /// # Errors
    /// The engine answers and cannot be asked.
    pub async fn wanted(&self) -> Result<bool> {
        if self.tar().exists() || node_image::pulls(&self.0).await {
            return Ok(false);
        }
        let Ok(docker) = self.0.world().docker().await else {
            return Ok(true);
        };
        Ok(docker.image(&image()).await?.is_none() && docker.image(&node_image::built()).await?.is_none())
    }
}

#[async_trait]
impl Step for Base {
    fn id(&self) -> StepId {
        "base"
    }

    fn title(&self) -> String {
        format!("Debian {} root file system", versions::pinned().base.suite)
    }

    fn needs(&self) -> Vec<StepId> {
        vec!["packages"]
    }

    async fn observe(&self) -> Result<State> {
        Ok(if self.wanted().await? {
            State::wanting("not made yet")
        } else {
            State::holds("there, or not needed")
        })
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        let base = &versions::pinned().base;
        let tar = self.tar();
        // A name of its own until it is whole: a run that was killed may still be writing to another one.
        let partial = tar.with_extension(format!("partial-{}", std::process::id()));
        files::make_dir(tar.parent().unwrap_or(&tar))?;
        let said = progress.clone();
        progress.doing("fetching and unpacking packages");
        debian::bootstrap(
            self.0.world().exec(),
            &base.suite,
            &base.packages,
            &partial,
            &self.0.log("base"),
            move |line| said.doing(line.trim_start_matches("I: ")),
        )
        .await?;
        std::fs::rename(&partial, &tar).map_err(|error| files::explain(error, "write", &tar))
    }
}
