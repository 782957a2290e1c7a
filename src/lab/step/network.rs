//! The lab's own network: KIND uses it instead of its `kind` network, and its label says whose the nodes on it are.

use std::collections::HashMap;

use anyhow::Result;
use async_trait::async_trait;
use bollard::models::NetworkCreateRequest;

use super::Site;
use crate::config::LABEL;
use crate::drive::docker::failed;
use crate::error::{Code, Diagnose, Diagnosis};
use crate::lab::plan::{Progress, State, Step, StepId};

/// See the module.
pub struct Network(pub Site);

#[async_trait]
impl Step for Network {
    fn id(&self) -> StepId {
        "network"
    }

    fn title(&self) -> String {
        format!("network `{}`", self.0.name())
    }

    fn needs(&self) -> Vec<StepId> {
        vec!["engine"]
    }

    async fn observe(&self) -> Result<State> {
        let docker = self.0.world().docker().await?;
        let Some(network) = docker.network(self.0.name()).await? else {
            return Ok(State::wanting("not there"));
        };
        let owner = network.labels.unwrap_or_default().remove(LABEL);
        if owner.as_deref() == Some(self.0.name()) {
            return Ok(State::holds("there"));
        }
        Err(Diagnosis::new(
            Code::Foreign,
            format!("the network `{}` exists and is not labctl's", self.0.name()),
        )
        .hint(format!(
            "choose another name for the lab: labctl --lab {}-2 up",
            self.0.name()
        ))
        .error())
    }

    async fn apply(&self, _: &Progress) -> Result<()> {
        let docker = self.0.world().docker().await?;
        let name = self.0.name().to_owned();
        docker
            .api()
            .create_network(NetworkCreateRequest {
                name: name.clone(),
                driver: Some("bridge".into()),
                labels: Some(HashMap::from([(LABEL.to_owned(), name.clone())])),
                options: Some(HashMap::from([(
                    // KIND sets it too: without it pods on the default MTU can stall behind a smaller one.
                    "com.docker.network.driver.mtu".to_owned(),
                    "1500".to_owned(),
                )])),
                ..NetworkCreateRequest::default()
            })
            .await
            .diagnose(|| failed(format!("create the network `{name}`")))?;
        Ok(())
    }
}
