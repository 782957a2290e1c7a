//! A cluster that the user already has: labctl takes a copy of one context of their kubeconfig, brings the dashboard's
//! image in, and never creates or deletes the cluster.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use kube::config::Kubeconfig;

use super::{Site, dashboard_image, job_image};
use crate::drive::cluster::Cluster as Connection;
use crate::drive::exec::Cmd;
use crate::drive::files;
use crate::error::{Code, Diagnose, Diagnosis};
use crate::lab::image::archive::Archive;
use crate::lab::plan::{Progress, State, Step, StepId};
use crate::lab::tools::{self, Tool};

/// How long sending an image to a KIND node may take.
const LOAD_LIMIT: Duration = Duration::from_secs(300);

/// The lab's kubeconfig: one context of the user's.
pub struct Kubeconfigured {
    /// What all steps share.
    pub site: Site,
    /// The user's context.
    pub context: String,
}

/// The dashboard's image and that of its jobs in the nodes of a KIND cluster that is not the lab's.
pub struct Loaded {
    /// What all steps share.
    pub site: Site,
    /// The user's context.
    pub context: String,
}

/// The dashboard's image in a registry that the cluster pulls from: the user's to see to.
pub struct Published(pub Site);

#[async_trait]
impl Step for Published {
    fn id(&self) -> StepId {
        "dashboard-push"
    }

    fn title(&self) -> String {
        "dashboard image".into()
    }

    async fn observe(&self) -> Result<State> {
        let (repository, tag) = dashboard_image::reference(&self.0).await?;
        Ok(State::holds(format!("{repository}:{tag}, as you said")))
    }

    async fn apply(&self, _: &Progress) -> Result<()> {
        Ok(())
    }
}

/// Cuts a kubeconfig down to one context.
fn only(mut config: Kubeconfig, context: &str) -> Result<Kubeconfig> {
    let known: Vec<String> = config.contexts.iter().map(|context| context.name.clone()).collect();
    let found = config.contexts.iter().find(|found| found.name == context).cloned();
    let Some(inner) = found.as_ref().and_then(|found| found.context.clone()) else {
        return Err(
            Diagnosis::new(Code::Setting, format!("your kubeconfig has no context `{context}`"))
                .hint(format!("it has: {}", known.join(", ")))
                .error(),
        );
    };
    config.contexts.retain(|other| other.name == context);
    config.clusters.retain(|cluster| cluster.name == inner.cluster);
    config.auth_infos.retain(|user| Some(&user.name) == inner.user.as_ref());
    config.current_context = Some(context.to_owned());
    Ok(config)
}

#[async_trait]
impl Step for Kubeconfigured {
    fn id(&self) -> StepId {
        "cluster"
    }

    fn title(&self) -> String {
        format!("access to the cluster of the context `{}`", self.context)
    }

    async fn observe(&self) -> Result<State> {
        let settings = self.site.world().settings();
        let path = settings.kubeconfig();
        let of_context = Kubeconfig::read_from(&path)
            .is_ok_and(|config| config.current_context.as_deref() == Some(self.context.as_str()));
        if !of_context {
            return Ok(State::wanting("the lab has no kubeconfig for it"));
        }
        Ok(match Connection::connect(settings).await {
            Ok(connection) => State::holds(format!("UID {}", connection.uid())),
            Err(error) => State::wanting(error.to_string()),
        })
    }

    async fn apply(&self, _: &Progress) -> Result<()> {
        let settings = self.site.world().settings();
        let unreadable = || Diagnosis::new(Code::Setting, "your kubeconfig cannot be read").hint("kubectl config view");
        let whole = Kubeconfig::read().diagnose(unreadable)?;
        let text = serde_json::to_string_pretty(&only(whole, &self.context)?).diagnose(unreadable)?;
        // JSON is YAML, and every client reads it.
        files::write_secret(&settings.kubeconfig(), text)?;
        Connection::connect_any(settings).await?.record(settings)
    }
}

impl Loaded {
    /// Returns the name of the KIND cluster that the context belongs to.
    fn kind_name(&self) -> Result<&str> {
        self.context.strip_prefix("kind-").ok_or_else(|| {
            Diagnosis::new(
                Code::Setting,
                format!("the context `{}` is not KIND's, so labctl cannot bring an image into its cluster", self.context),
            )
            .hint("push the image to a registry that the cluster can pull from (labctl image build makes it), then: labctl up --cluster existing --context NAME --image REPOSITORY:TAG")
            .error()
        })
    }

    async fn nodes(&self) -> Result<Vec<String>> {
        let docker = self.site.world().docker().await?;
        let filters = HashMap::from([(
            "label".to_owned(),
            vec![format!("io.x-k8s.kind.cluster={}", self.kind_name()?)],
        )]);
        let nodes = docker.containers(filters).await?;
        Ok(nodes.into_iter().filter_map(|container| container.id).collect())
    }
}

#[async_trait]
impl Step for Loaded {
    fn id(&self) -> StepId {
        "dashboard-push"
    }

    fn title(&self) -> String {
        "images in the cluster's nodes".into()
    }

    fn needs(&self) -> Vec<StepId> {
        vec!["cluster"]
    }

    async fn observe(&self) -> Result<State> {
        let docker = self.site.world().docker().await?;
        let (repository, tag) = dashboard_image::reference(&self.site).await?;
        let mut names = vec![format!("{repository}:{tag}")];
        names.extend(job_image::name(&self.site).await?);
        let nodes = self.nodes().await?;
        if nodes.is_empty() {
            return Err(Diagnosis::new(
                Code::ClusterMissing,
                format!("the engine has no nodes of the KIND cluster `{}`", self.kind_name()?),
            )
            .hint("kind get clusters lists those of this engine")
            .error());
        }
        for node in nodes {
            let argv = ["ctr", "--namespace=k8s.io", "images", "list", "--quiet"];
            let (code, out) = docker.exec(&node, &argv).await?;
            // Both streams are in the output, and containerd warns on one of them: only a whole line is a name.
            if code != 0 || names.iter().any(|name| out.lines().all(|line| line.trim() != name)) {
                return Ok(State::wanting("a node does not have them"));
            }
        }
        Ok(State::holds(names.join(", ")))
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        let world = self.site.world();
        let mut images = vec![dashboard_image::build(&self.site).await?];
        if job_image::name(&self.site).await?.is_some() {
            images.push(job_image::build(&self.site).await?);
        }
        let path = world.settings().lab_dir().join("job-dashboard.tar");
        progress.doing("writing the archive");
        let target = path.clone();
        tokio::task::spawn_blocking(move || Archive::of(&images).save(&target))
            .await
            .context("write the images' archive")??;
        progress.doing("sending them to the nodes");
        let docker = world.docker().await?;
        let cmd = Cmd::new(tools::find(world, Tool::Kind).await?)
            .args(["load", "image-archive", "--name", self.kind_name()?])
            .arg(&path)
            .env("DOCKER_HOST", docker.host())
            .log(self.site.log("dashboard-push"))
            .limit(LOAD_LIMIT);
        let sent = world.exec().run(&cmd).await;
        _ = std::fs::remove_file(&path);
        sent.diagnose(|| Diagnosis::new(Code::ProgramFailed, "KIND could not load the dashboard's images"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r"
apiVersion: v1
kind: Config
current-context: a
contexts:
- {name: a, context: {cluster: a, user: a}}
- {name: b, context: {cluster: b, user: b}}
clusters:
- {name: a, cluster: {server: 'https://a:1'}}
- {name: b, cluster: {server: 'https://b:1'}}
users:
- {name: a, user: {token: secret-a}}
- {name: b, user: {token: secret-b}}
";

    #[test]
    fn only_the_named_context_is_copied() {
        let whole: Kubeconfig = Kubeconfig::from_yaml(TWO).expect("a kubeconfig");
        let text = serde_json::to_string(&only(whole.clone(), "b").expect("it is there")).expect("JSON");
        assert!(text.contains("https://b:1") && !text.contains("secret-a"), "{text}");
        let error = only(whole, "c").expect_err("there is none");
        assert!(crate::error::render(&error).contains("it has: a, b"));
    }
}
