//! The cluster's node is Ready and its DNS answers; until then KIND's "created" means little.

use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};

use super::Site;
use crate::drive::cluster::Cluster as Connection;
use crate::error::{Code, Diagnose, Diagnosis};
use crate::lab::plan::{Progress, State, Step, StepId};
use crate::lab::record::Origin;

/// How long a new cluster may take until it is ready.
const LIMIT: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(250);

/// See the module.
pub struct Ready(pub Site);

impl Ready {
    async fn look(&self, connection: &Connection) -> Result<State> {
        let unanswered = || Diagnosis::new(Code::ClusterUnready, "ask the cluster for its nodes");
        let nodes = Api::<Node>::all(connection.client())
            .list(&ListParams::default())
            .await
            .diagnose(unanswered)?;
        let is_ready = |node: &Node| {
            node.status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten())
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
        if nodes.items.is_empty() {
            return Ok(State::wanting("no node yet"));
        }
        if let Some(node) = nodes.items.iter().find(|node| !is_ready(node)) {
            return Ok(State::wanting(format!("node {} is not Ready", name(node))));
        }
        let dns = Api::<Deployment>::namespaced(connection.client(), "kube-system")
            .get_opt("coredns")
            .await
            .diagnose(unanswered)?;
        let available = dns
            .and_then(|dns| dns.status)
            .and_then(|status| status.available_replicas)
            .unwrap_or(0);
        if available == 0 {
            return Ok(State::wanting("CoreDNS is not available"));
        }
        Ok(State::holds(format!("{} Ready, DNS available", name(&nodes.items[0]))))
    }

    /// Scales CoreDNS up if it wants no pods, as chapter 01 leaves it in the middle; returns whether it did.
    async fn give_dns_a_replica(&self, connection: &Connection) -> Result<bool> {
        let deployments = Api::<Deployment>::namespaced(connection.client(), "kube-system");
        let unanswered = || Diagnosis::new(Code::ClusterUnready, "scale CoreDNS");
        let dns = deployments.get_opt("coredns").await.diagnose(unanswered)?;
        if dns.and_then(|dns| dns.spec.replicas) != Some(0) {
            return Ok(false);
        }
        let patch = Patch::Merge(serde_json::json!({"spec": {"replicas": 1}}));
        deployments
            .patch_scale("coredns", &PatchParams::default(), &patch)
            .await
            .diagnose(unanswered)?;
        Ok(true)
    }
}

/// Says which pods of a namespace do not run and why, a line each; for error messages.
pub async fn unready_pods(connection: &Connection, namespace: &str) -> Vec<String> {
    let Ok(pods) = Api::<Pod>::namespaced(connection.client(), namespace)
        .list(&ListParams::default())
        .await
    else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(status) = pod.status else { continue };
        let ready = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        if ready || status.phase.as_deref() == Some("Succeeded") {
            continue;
        }
        let waiting = status.container_statuses.iter().flatten().find_map(|container| {
            let state = container.state.as_ref()?;
            if let Some(waiting) = &state.waiting {
                return Some(format!(
                    "{}: {}",
                    waiting.reason.clone().unwrap_or_default(),
                    waiting.message.clone().unwrap_or_default()
                ));
            }
            let ended = state.terminated.as_ref()?;
            Some(format!("ended with exit code {}", ended.exit_code))
        });
        let unscheduled = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "PodScheduled" && condition.status != "True")
            .and_then(|condition| condition.message.clone());
        let why = waiting
            .or(unscheduled)
            .unwrap_or_else(|| status.phase.unwrap_or_else(|| "not started".into()));
        out.push(format!("pod {namespace}/{name}: {why}"));
    }
    out
}

#[async_trait]
impl Step for Ready {
    fn id(&self) -> StepId {
        "ready"
    }

    fn title(&self) -> String {
        "cluster readiness".into()
    }

    fn needs(&self) -> Vec<StepId> {
        vec!["cluster"]
    }

    async fn observe(&self) -> Result<State> {
        let connection = Connection::connect(self.0.world().settings()).await?;
        self.look(&connection).await
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        let connection = Connection::connect(self.0.world().settings()).await?;
        if !matches!(self.0.record().cluster, Origin::Existing { .. }) && self.give_dns_a_replica(&connection).await? {
            progress.note("CoreDNS was scaled to 0 and has a replica again");
        }
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.look(&connection).await? {
                State::Holds(_) => return Ok(()),
                State::Wanting(why) if Instant::now() > deadline => {
                    let mut diagnosis = Diagnosis::new(
                        Code::ClusterUnready,
                        format!("the cluster is not ready after {}s: {why}", LIMIT.as_secs()),
                    );
                    for pod in unready_pods(&connection, "kube-system").await {
                        diagnosis = diagnosis.hint(pod);
                    }
                    return Err(diagnosis
                        .hint("labctl kubectl get events -A shows what the cluster tried")
                        .error());
                }
                State::Wanting(why) => progress.doing(format!("waiting: {why}")),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
