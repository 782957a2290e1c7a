//! `labctl teardown`.

use anyhow::Result;

use super::Outcome;
use crate::error::{Code, Diagnosis, Exit};
use crate::lab::teardown::{self, Depth};
use crate::lab::up;
use crate::report::human::size;
use crate::world::World;

/// Remove the lab and prove that nothing of it is left
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove the lab's images and its image registry too
    #[arg(long)]
    images: bool,
    /// Remove everything that labctl ever made here: all labs, images, registries, caches and the engine it manages
    #[arg(long)]
    all: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// Something could not be removed, or is left.
    pub async fn run(self, world: &World) -> Result<Outcome> {
        let depth = match (self.all, self.images) {
            (true, _) => Depth::All,
            (false, true) => Depth::Images,
            (false, false) => Depth::Lab,
        };
        if depth == Depth::All
            && !world.consent("Remove all labs, their images and caches, and the engine that labctl manages?")
        {
            return Err(
                Diagnosis::new(Code::NeedsYes, "removing everything of labctl needs a yes")
                    .hint("labctl teardown --all --yes")
                    .error(),
            );
        }
        let _lock = up::lock(world, "teardown").await?;
        let removed = teardown::run(world, depth).await?;
        world.reporter().note(if removed.things == 0 {
            "nothing of labctl was here".to_owned()
        } else {
            format!(
                "removed {} things, {} freed; looked again: nothing labelled is left",
                removed.things,
                size(removed.bytes)
            )
        });
        Ok(Exit::Done)
    }
}
