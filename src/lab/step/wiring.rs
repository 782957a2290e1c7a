//! How the nodes find the lab's registry: a `hosts.toml` in each node's containerd, and the ConfigMap of KEP-1755 for
//! other tools.

use std::collections::HashMap;

use anyhow::Result;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::{Site, cluster, registry};
use crate::drive::cluster::Cluster as Connection;
use crate::error::{Code, Diagnose, Diagnosis};
use crate::lab::image::wiring;
use crate::lab::plan::{Progress, State, Step, StepId};

/// See the module.
pub struct Wiring(pub Site);

impl Wiring {
    fn port(&self) -> u16 {
        self.0.record().ports.registry
    }

    async fn nodes(&self) -> Result<Vec<String>> {
        let docker = self.0.world().docker().await?;
        let filters = HashMap::from([(
            "label".to_owned(),
            vec![format!("io.x-k8s.kind.cluster={}", self.0.name())],
        )]);
        Ok(docker
            .containers(filters)
            .await?
            .into_iter()
            .filter_map(|container| container.id)
            .collect())
    }

    /// Returns the files of a node that lead to the registry, with their texts.
    fn hosts(&self) -> [(String, String); 2] {
        let text = wiring::hosts_toml(&registry::container(self.0.name()));
        let own = wiring::registry_host(self.port());
        [own.as_str(), wiring::COURSE_HOST].map(|host| (wiring::hosts_path(host), text.clone()))
    }
}

#[async_trait]
impl Step for Wiring {
    fn id(&self) -> StepId {
        "wiring"
    }

    fn title(&self) -> String {
        "registry in the nodes".into()
    }

    fn needs(&self) -> Vec<StepId> {
        vec![cluster::API, "registry"]
    }

    async fn observe(&self) -> Result<State> {
        let docker = self.0.world().docker().await?;
        for node in self.nodes().await? {
            for (path, text) in self.hosts() {
                if docker.get_file(&node, &path).await?.as_deref() != Some(text.as_bytes()) {
                    return Ok(State::wanting("a node does not know the registry"));
                }
            }
        }
        let connection = Connection::connect(self.0.world().settings()).await?;
        let wanted = wiring::config_map(self.port(), &registry::container(self.0.name()));
        let namespace = wanted.metadata.namespace.clone().unwrap_or_default();
        let name = wanted.metadata.name.clone().unwrap_or_default();
        let map = Api::<ConfigMap>::namespaced(connection.client(), &namespace)
            .get_opt(&name)
            .await
            .diagnose(|| Diagnosis::new(Code::ClusterUnready, format!("read the ConfigMap `{name}`")))?;
        Ok(match map {
            Some(map) if map.data == wanted.data => State::holds("every node knows it"),
            _ => State::wanting(format!("there is no ConfigMap `{name}`")),
        })
    }

    async fn apply(&self, _: &Progress) -> Result<()> {
        let docker = self.0.world().docker().await?;
        let hosts = self.hosts().map(|(path, text)| (path, text.into_bytes()));
        for node in self.nodes().await? {
            docker.put_files(&node, &hosts).await?;
        }
        let connection = Connection::connect(self.0.world().settings()).await?;
        let wanted = wiring::config_map(self.port(), &registry::container(self.0.name()));
        let namespace = wanted.metadata.namespace.clone().unwrap_or_default();
        let name = wanted.metadata.name.clone().unwrap_or_default();
        Api::<ConfigMap>::namespaced(connection.client(), &namespace)
            .patch(&name, &PatchParams::apply("labctl").force(), &Patch::Apply(&wanted))
            .await
            .diagnose(|| Diagnosis::new(Code::ClusterUnready, format!("write the ConfigMap `{name}`")))?;
        Ok(())
    }
}
