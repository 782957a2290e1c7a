//! The lab's image registry: a container with a volume, on the loopback address for labctl and on the lab's network for
//! the nodes. It outlives the cluster, so a new cluster pulls what is already there.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, Mount, MountType, NetworkConnectRequest, PortBinding,
    RestartPolicy, RestartPolicyNameEnum, VolumeCreateRequest,
};
use bollard::query_parameters as query;

use super::{Site, node_image};
use crate::assets;
use crate::config::{INPUTS_LABEL, LABEL};
use crate::drive::docker::{Docker, failed};
use crate::drive::files::{Digest, Hasher};
use crate::error::{Code, Diagnose, Diagnosis};
use crate::lab::plan::{Progress, State, Step, StepId};
use crate::lab::recipe::{self, Recipe};
use crate::lab::teardown::KEEP_LABEL;
use crate::lab::{programs, up, versions};

const RECIPE: &str = "assets/images/registry";
/// The port inside the container.
const PORT: u16 = 5000;
/// How long the registry may take until it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The registry's image.
pub struct RegistryImage(pub Site);

/// The registry's container.
pub struct Registry(pub Site);

fn digest() -> Digest {
    let mut hasher = Hasher::default();
    hasher
        .field("registry-1")
        .field(programs::digest().hex())
        .field(assets::digest(RECIPE).hex());
    hasher.finish()
}

fn built() -> String {
    format!("labctl.dev/registry:{}", digest().short())
}

fn upstream() -> String {
    node_image::at_mirror(&versions::pinned().registry.upstream)
}

/// Returns the name of the registry's image that this run uses.
pub async fn image(site: &Site) -> String {
    if node_image::pulls(site).await {
        let upstream = Digest::of(upstream().as_bytes());
        format!("labctl.dev/registry:upstream-{}", upstream.short())
    } else {
        built()
    }
}

/// Returns the name of the registry's container, by which the nodes reach it.
pub fn container(lab: &str) -> String {
    format!("{lab}-registry")
}

#[async_trait]
impl Step for RegistryImage {
    fn id(&self) -> StepId {
        "registry-image"
    }

    fn title(&self) -> String {
        "image registry's image".into()
    }

    fn needs(&self) -> Vec<StepId> {
        vec!["engine", "programs"]
    }

    async fn observe(&self) -> Result<State> {
        let docker = self.0.world().docker().await?;
        let name = image(&self.0).await;
        Ok(match docker.image(&name).await? {
            Some(_) => State::holds(name),
            None => State::wanting(format!("the engine has no `{name}`")),
        })
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        let docker = self.0.world().docker().await?;
        if node_image::pulls(&self.0).await {
            return recipe::pull(&docker, &upstream(), &image(&self.0).await, None, progress).await;
        }
        let mut recipe = Recipe::new(RECIPE, &built(), digest());
        recipe.no_cache(self.0.no_cache());
        recipe.file("registry", 0o755, self.0.programs().verified("registry")?);
        recipe.build(&docker, progress).await
    }
}

impl Registry {
    fn name(&self) -> String {
        container(self.0.name())
    }

    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([
            (LABEL.to_owned(), self.0.name().to_owned()),
            (KEEP_LABEL.to_owned(), "true".to_owned()),
        ])
    }

    async fn wanted(&self) -> String {
        let text = format!("{} {}", image(&self.0).await, self.0.record().ports.registry);
        Digest::of(text.as_bytes()).short()
    }

    async fn create(&self, docker: &Docker) -> Result<()> {
        let name = self.name();
        let port = self.0.record().ports.registry;
        up::port_is_free(port, "--registry-port")?;
        docker
            .api()
            .create_volume(VolumeCreateRequest {
                name: Some(name.clone()),
                labels: Some(self.labels()),
                ..VolumeCreateRequest::default()
            })
            .await
            .diagnose(|| failed(format!("create the volume `{name}`")))?;
        let mut labels = self.labels();
        labels.insert(INPUTS_LABEL.to_owned(), self.wanted().await);
        let binding = PortBinding {
            host_ip: Some("127.0.0.1".into()),
            host_port: Some(port.to_string()),
        };
        let inside = format!("{PORT}/tcp");
        let body = ContainerCreateBody {
            image: Some(image(&self.0).await),
            labels: Some(labels),
            // The upstream image's own config does not let images be deleted.
            env: Some(vec!["REGISTRY_STORAGE_DELETE_ENABLED=true".into()]),
            exposed_ports: Some(vec![inside.clone()]),
            host_config: Some(HostConfig {
                port_bindings: Some(HashMap::from([(inside, Some(vec![binding]))])),
                restart_policy: Some(RestartPolicy {
                    name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
                    maximum_retry_count: None,
                }),
                mounts: Some(vec![Mount {
                    typ: Some(MountType::VOLUME),
                    source: Some(name.clone()),
                    target: Some("/var/lib/registry".into()),
                    ..Mount::default()
                }]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = query::CreateContainerOptionsBuilder::default().name(&name).build();
        docker
            .api()
            .create_container(Some(options), body)
            .await
            .diagnose(|| failed(format!("create the container `{name}`")))?;
        Ok(())
    }

    async fn answers(&self) -> bool {
        let url = format!("http://127.0.0.1:{}/v2/", self.0.record().ports.registry);
        let answer = self
            .0
            .world()
            .http()
            .get(url)
            .timeout(Duration::from_secs(2))
            .send()
            .await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }
}

#[async_trait]
impl Step for Registry {
    fn id(&self) -> StepId {
        "registry"
    }

    fn title(&self) -> String {
        format!("image registry at localhost:{}", self.0.record().ports.registry)
    }

    fn needs(&self) -> Vec<StepId> {
        vec!["registry-image", "network"]
    }

    async fn observe(&self) -> Result<State> {
        let docker = self.0.world().docker().await?;
        let name = self.name();
        let Some(container) = docker.container(&name).await? else {
            return Ok(State::wanting("there is none"));
        };
        let labels = container.config.and_then(|config| config.labels).unwrap_or_default();
        if labels.get(LABEL).map(String::as_str) != Some(self.0.name()) {
            return Err(Diagnosis::new(
                Code::Foreign,
                format!("the container `{name}` exists and is not the lab's"),
            )
            .hint(format!(
                "choose another name for the lab: labctl --lab {}-2 up",
                self.0.name()
            ))
            .error());
        }
        if labels.get(INPUTS_LABEL) != Some(&self.wanted().await) {
            return Ok(State::wanting("it was made from another image or for another port"));
        }
        if container.state.and_then(|state| state.running) != Some(true) {
            return Ok(State::wanting("it has stopped"));
        }
        let on_network = container
            .network_settings
            .and_then(|network| network.networks)
            .is_some_and(|networks| networks.contains_key(self.0.name()));
        if !on_network {
            return Ok(State::wanting("it is not on the lab's network"));
        }
        Ok(if self.answers().await {
            State::holds("answers")
        } else {
            State::wanting("it does not answer")
        })
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        let docker = self.0.world().docker().await?;
        let name = self.name();
        let found = docker.container(&name).await?;
        let fits = found.as_ref().is_some_and(|container| {
            container
                .config
                .as_ref()
                .and_then(|config| config.labels.as_ref())
                .is_some()
        });
        let inputs = found
            .and_then(|container| container.config?.labels?.remove(INPUTS_LABEL))
            .unwrap_or_default();
        if fits && inputs != self.wanted().await {
            // What it holds is in its volume, which stays.
            docker.remove_container(&name).await?;
        }
        if docker.container(&name).await?.is_none() {
            progress.doing("creating the container");
            self.create(&docker).await?;
        }
        let request = NetworkConnectRequest {
            container: name.clone(),
            endpoint_config: Some(EndpointSettings::default()),
        };
        match docker.api().connect_network(self.0.name(), request).await {
            // 403: it is on the network already.
            Ok(()) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 403, .. }) => {}
            Err(error) => {
                return Err(error).diagnose(|| failed(format!("put the container `{name}` on the lab's network")));
            }
        }
        docker
            .api()
            .start_container(&name, None::<query::StartContainerOptions>)
            .await
            .diagnose(|| failed(format!("start the container `{name}`")))?;
        progress.doing("waiting for its answer");
        let deadline = Instant::now() + ANSWER_LIMIT;
        while !self.answers().await {
            if Instant::now() > deadline {
                return Err(Diagnosis::new(
                    Code::ImageRegistry,
                    format!(
                        "the lab's image registry does not answer within {}s",
                        ANSWER_LIMIT.as_secs()
                    ),
                )
                .hint(format!("docker logs {name} says why"))
                .error());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}
