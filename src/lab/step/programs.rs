//! Kubernetes, containerd, KIND, Helm and the registry, built from Go modules where they cannot be had ready-made.

use anyhow::Result;
use async_trait::async_trait;

use super::Site;
use crate::drive::go::Stage;
use crate::lab::plan::{Progress, State, Step, StepId};

/// See the module.
pub struct Programs(pub Site);

#[async_trait]
impl Step for Programs {
    fn id(&self) -> StepId {
        "programs"
    }

    fn title(&self) -> String {
        format!(
            "Kubernetes v{} and its tools from source",
            crate::lab::versions::pinned().kubernetes
        )
    }

    async fn observe(&self) -> Result<State> {
        Ok(match self.0.programs().wanting() {
            None => State::holds("built"),
            Some(_) if super::node_image::pulls(&self.0).await => State::holds("not needed: images are pulled"),
            Some(why) => State::wanting(why),
        })
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        let said = progress.clone();
        self.0
            .programs()
            .build(self.0.world(), &self.0.log("programs"), move |stage| match stage {
                Stage::Fetch => said.doing("fetching Go modules"),
                Stage::Compile(done, total) => said.count("compiling packages", Some(done), Some(total)),
            })
            .await
    }
}
