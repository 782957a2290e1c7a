//! A container engine that answers and can run privileged containers.

use anyhow::Result;
use async_trait::async_trait;

use super::Site;
use crate::drive::debian::Release;
use crate::drive::docker::Source;
use crate::drive::exec::find_on_path;
use crate::error::{Code, Diagnosis, diagnosis};
use crate::lab::engine;
use crate::lab::plan::{Progress, State, Step, StepId};

/// See the module.
pub struct Engine(pub Site);

#[async_trait]
impl Step for Engine {
    fn id(&self) -> StepId {
        "engine"
    }

    fn title(&self) -> String {
        "container engine".into()
    }

    fn needs(&self) -> Vec<StepId> {
        vec!["packages"]
    }

    async fn observe(&self) -> Result<State> {
        let docker = match self.0.world().docker().await {
            Ok(docker) => docker,
            Err(error) if diagnosis(&error).is_some_and(|d| d.code == Code::EngineMissing) => {
                return Ok(State::wanting(error.to_string()));
            }
            Err(error) => return Err(error),
        };
        Ok(match engine::unfit(&docker).await? {
            Some(why) => State::wanting(why),
            None => State::holds(format!("Docker {} at {}", docker.version(), docker.host())),
        })
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        let world = self.0.world();
        if crate::config::variable("DOCKER_HOST").is_some() {
            // The user named an engine; starting another would be of no use to them.
            return Err(world.docker().await.err().unwrap_or_else(|| {
                Diagnosis::new(
                    Code::CapabilitiesBounded,
                    "the engine that DOCKER_HOST names cannot run a cluster here",
                )
                .hint("unset DOCKER_HOST and run `labctl up --yes`: labctl then starts an engine that can")
                .error()
            }));
        }
        let release = Release::of_this_machine();
        let here = find_on_path("dockerd").is_some() || std::path::Path::new("/usr/sbin/dockerd").exists();
        if !here || !crate::drive::debian::is_root() {
            return Err(engine::advice(&release).error());
        }
        if !engine::exists(world.settings()) && !world.consent("Start a container engine that labctl manages?") {
            return Err(Diagnosis::new(Code::NeedsYes, "a container engine must be started")
                .hint("labctl up --yes starts one that labctl manages; labctl teardown --all stops it")
                .error());
        }
        let docker = engine::start(world, |what| progress.doing(what)).await?;
        debug_assert_eq!(*docker.source(), Source::Managed);
        Ok(())
    }
}
