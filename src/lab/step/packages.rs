//! The Debian packages that the rest needs: the engine where none answers, and mmdebstrap where the node image is built.

use anyhow::Result;
use async_trait::async_trait;

use super::Site;
use crate::drive::debian::{self, Release};
use crate::drive::exec::find_on_path;
use crate::error::{Code, Diagnosis};
use crate::lab::engine;
use crate::lab::plan::{Progress, State, Step, StepId};

/// See the module.
pub struct Packages(pub Site);

impl Packages {
    /// Returns the packages that are wanted and not there.
    async fn missing(&self) -> Result<Vec<&'static str>> {
        let world = self.0.world();
        let mut wanted = Vec::new();
        let usable = match world.docker().await {
            Ok(docker) => engine::unfit(&docker).await?.is_none(),
            Err(_) => false,
        };
        let ours = !usable || engine::exists(world.settings());
        // An engine that runs on may have lost its package meanwhile; without iptables it makes no network.
        if ours && (find_on_path("dockerd").is_none() || find_on_path("iptables").is_none()) {
            wanted.extend(engine::PACKAGES);
        }
        if find_on_path("mmdebstrap").is_none() && super::base::Base(self.0.clone()).wanted().await? {
            wanted.push("mmdebstrap");
        }
        if wanted.is_empty() {
            return Ok(wanted);
        }
        Ok(debian::missing(world.exec(), &wanted).await)
    }
}

#[async_trait]
impl Step for Packages {
    fn id(&self) -> StepId {
        "packages"
    }

    fn title(&self) -> String {
        "system packages".into()
    }

    async fn observe(&self) -> Result<State> {
        let missing = self.missing().await?;
        Ok(if missing.is_empty() {
            State::holds("nothing to install")
        } else {
            State::wanting(format!("not installed: {}", missing.join(", ")))
        })
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        let world = self.0.world();
        let missing = self.missing().await?;
        let release = Release::of_this_machine();
        if !engine::can_install(&release) {
            if missing.contains(&engine::PACKAGES[0]) {
                return Err(engine::advice(&release).error());
            }
            return Err(Diagnosis::new(
                Code::ToolMissing,
                format!(
                    "building the node image needs {} and root on Debian or Ubuntu",
                    missing.join(", ")
                ),
            )
            .hint("use --images pull where an image registry can be reached")
            .hint(format!("or: sudo apt-get install -y {}", missing.join(" ")))
            .error());
        }
        let consent = world.consent(&format!("Install the Debian packages {}?", missing.join(", ")));
        if !consent {
            return Err(Diagnosis::new(
                Code::NeedsYes,
                format!("the Debian packages {} must be installed", missing.join(", ")),
            )
            .hint("labctl up --yes installs them")
            .hint(format!(
                "or: apt-get install -y --no-install-recommends {}",
                missing.join(" ")
            ))
            .error());
        }
        let said = progress.clone();
        debian::install(world.exec(), &missing, &self.0.log("packages"), move |line| {
            said.doing(line);
        })
        .await
    }
}
