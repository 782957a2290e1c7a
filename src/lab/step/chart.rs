//! The job-dashboard, installed by its own Helm chart, and answering.
//!
//! Helm is not asked to wait: it polls, and it cannot say why a pod does not start. The step looks for itself.

use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use super::{Site, cluster, dashboard_image, job_image, ready, token};
use crate::assets;
use crate::config::{CHAPTER_ANNOTATION, INPUTS_LABEL, LABEL};
use crate::drive::cluster::Cluster as Connection;
use crate::drive::exec::Cmd;
use crate::drive::files::{self, Digest, Hasher};
use crate::error::{Code, Diagnose, Diagnosis};
use crate::lab::access::Tokens;
use crate::lab::plan::{Progress, State, Step, StepId};
use crate::lab::record::Origin;
use crate::lab::tools::{self, Tool};

/// The name of the release, of its objects and of their namespace.
pub const NAME: &str = "job-dashboard";
/// The folder of its chart in this program.
pub const CHART: &str = "charts/job-dashboard";
/// How long Helm may take to send the objects.
const HELM_LIMIT: Duration = Duration::from_secs(120);
/// How long the dashboard may take until it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(180);
/// The annotation of the pods that says which tokens they know.
const TOKENS: &str = "labctl.dev/tokens";
/// The annotation of the StorageClass of claims that name none.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const PAUSE: Duration = Duration::from_millis(100);

/// See the module.
pub struct Chart(pub Site);

/// What the cluster says of the release.
enum Release {
    /// It was never installed.
    Absent,
    /// An install or upgrade of it was cut off; these are the Secrets that say so.
    CutOff(Vec<String>),
    /// It is deployed from inputs of this digest.
    Deployed(String),
}

impl Chart {
    fn in_own_cluster(&self) -> bool {
        self.0.record().cluster == Origin::Kind
    }

    async fn values(&self, connection: &Connection) -> Result<serde_json::Value> {
        let (repository, tag) = dashboard_image::reference(&self.0).await?;
        let tokens = Tokens::read(self.0.world().settings());
        // The cluster that labctl makes has a default StorageClass, if not yet at this moment: a claim that is there first
        // gets it afterwards.
        let volumes = self.in_own_cluster() || has_volumes(connection).await?;
        let mut values = json!({
            "image": {"repository": repository, "tag": tag},
            "auth": {"tokenSecret": token::SECRET},
            "runner": {"kubernetes": {"enabled": true, "image": job_image::name(&self.0).await?.unwrap_or_default()}},
            "store": {"persistence": {"enabled": volumes}},
            // One server at a time has the volume, so while the old one drains there is none: it would be no more than a wait.
            "server": {"drainSeconds": 0},
            // A server reads its tokens when it starts; another token is another pod.
            "podAnnotations": {TOKENS: tokens.map(|tokens| tokens.mark()).unwrap_or_default()},
        });
        if self.in_own_cluster() {
            // Nodes of other clusters publish no port of ours.
            values["service"] = json!({"type": "NodePort", "nodePort": 30080});
            // They are the whole cluster's, where others may make the rules.
            values["runner"]["kubernetes"]["priorityClasses"] = json!({"create": true});
        }
        Ok(values)
    }

    async fn wanted(&self, connection: &Connection) -> Result<Digest> {
        let mut hasher = Hasher::default();
        hasher
            .field("chart-2")
            .field(assets::digest(CHART).hex())
            .field(self.values(connection).await?.to_string());
        Ok(hasher.finish())
    }

    async fn release(&self, connection: &Connection) -> Result<Release> {
        let secrets = Api::<Secret>::namespaced(connection.client(), NAME)
            .list_metadata(&ListParams::default().labels(&format!("owner=helm,name={NAME}")))
            .await
            .diagnose(|| Diagnosis::new(Code::ClusterUnready, "ask the cluster for Helm's releases"))?;
        let mut cut_off = Vec::new();
        let mut newest: Option<(u64, String)> = None;
        for secret in secrets {
            let labels = secret.metadata.labels.unwrap_or_default();
            let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
            let status = label("status");
            if status.starts_with("pending-") {
                cut_off.push(secret.metadata.name.unwrap_or_default());
            } else if status == "deployed" {
                let revision = label("version").parse().unwrap_or(0);
                if newest.as_ref().is_none_or(|(known, _)| *known < revision) {
                    newest = Some((revision, label(INPUTS_LABEL)));
                }
            }
        }
        if !cut_off.is_empty() {
            return Ok(Release::CutOff(cut_off));
        }
        Ok(newest.map_or(Release::Absent, |(_, inputs)| Release::Deployed(inputs)))
    }

    /// Says what is wanting of the running dashboard, if anything.
    async fn wanting(&self, connection: &Connection) -> Result<Option<String>> {
        let deployment = Api::<Deployment>::namespaced(connection.client(), NAME)
            .get_opt(NAME)
            .await
            .diagnose(|| Diagnosis::new(Code::ClusterUnready, "ask the cluster for the dashboard"))?;
        let Some(deployment) = deployment else {
            return Ok(Some(format!("there is no Deployment `{NAME}`")));
        };
        let status = deployment.status.unwrap_or_default();
        let wanted = deployment.spec.replicas.unwrap_or(1);
        if wanted == 0 {
            return Ok(Some("it is scaled to 0".into()));
        }
        if status.observed_generation < deployment.metadata.generation
            || status.updated_replicas.unwrap_or(0) < wanted
            || status.available_replicas.unwrap_or(0) < wanted
        {
            let available = status.available_replicas.unwrap_or(0);
            return Ok(Some(format!("{available} of {wanted} replicas are available")));
        }
        if !self.in_own_cluster() {
            return Ok(None);
        }
        let url = self.url("/healthz");
        let answer = self
            .0
            .world()
            .http()
            .get(&url)
            // A connection that is kept goes on to where it led when it was opened, be that a pod that has ended since.
            .header(reqwest::header::CONNECTION, "close")
            .timeout(Duration::from_secs(2))
            .send()
            .await;
        Ok(match answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("{url} answers {}", answer.status())),
            Err(_) => Some(format!("{url} does not answer")),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.0.record().ports.http)
    }

    async fn install(&self, connection: &Connection) -> Result<()> {
        let settings = self.0.world().settings();
        if let Release::CutOff(secrets) = self.release(connection).await? {
            // Helm refuses to go on after an operation that was killed; without its record it starts afresh.
            let api = Api::<Secret>::namespaced(connection.client(), NAME);
            for name in secrets {
                api.delete(&name, &DeleteParams::default())
                    .await
                    .diagnose(|| Diagnosis::new(Code::ClusterUnready, format!("remove Helm's record `{name}`")))?;
            }
        }
        let chart = settings.lab_dir().join("charts").join(NAME);
        assets::unpack(CHART, &chart)?;
        let values = settings.lab_dir().join("charts").join(format!("{NAME}.values.json"));
        files::write(&values, format!("{:#}\n", self.values(connection).await?))?;
        let cmd = Cmd::new(tools::find(self.0.world(), Tool::Helm).await?)
            .args(["upgrade", "--install", NAME])
            .arg(&chart)
            .args(["--namespace", NAME, "--values"])
            .arg(&values)
            .arg("--labels")
            .arg(format!("{INPUTS_LABEL}={}", self.wanted(connection).await?.short()))
            .on_cluster(settings.kubeconfig())
            .without_env("HELM_NAMESPACE")
            .log(self.0.log("chart"))
            .limit(HELM_LIMIT);
        self.0.world().exec().run(&cmd).await.diagnose(|| {
            Diagnosis::new(Code::ProgramFailed, "Helm could not install the dashboard")
                .hint("labctl helm history job-dashboard -n job-dashboard shows what it tried")
        })?;
        Ok(())
    }
}

/// Returns whether a claim without a StorageClass gets a volume: the cluster has a default class.
async fn has_volumes(connection: &Connection) -> Result<bool> {
    let classes = Api::<StorageClass>::all(connection.client())
        .list(&ListParams::default())
        .await
        .diagnose(|| Diagnosis::new(Code::ClusterUnready, "ask the cluster for its StorageClasses"))?;
    Ok(classes.iter().any(|class| {
        let annotations = class.metadata.annotations.as_ref();
        annotations
            .and_then(|all| all.get(DEFAULT_CLASS))
            .is_some_and(|value| value == "true")
    }))
}

/// Makes the dashboard's namespace, where it is not there.
///
/// # Errors
/// The cluster does not take it.
pub(super) async fn make_namespace(site: &Site, connection: &Connection) -> Result<()> {
    let namespace: Namespace = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAME,
            "labels": {
                LABEL: site.name(),
                // Pods here must be as the chart says they are; see charts/job-dashboard.
                "pod-security.kubernetes.io/enforce": "restricted",
            },
        },
    }))?;
    // A new cluster refuses for a moment while its roles are still being made.
    let mut tries = 20;
    loop {
        let made = Api::<Namespace>::all(connection.client())
            .patch(NAME, &PatchParams::apply("labctl").force(), &Patch::Apply(&namespace))
            .await;
        match made {
            Ok(_) => return Ok(()),
            Err(error) if tries == 0 => {
                return Err(error)
                    .diagnose(|| Diagnosis::new(Code::ClusterUnready, format!("create the namespace `{NAME}`")));
            }
            Err(_) => tries -= 1,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Returns the chapter in which the learner works on the dashboard's objects: its start wrote it on the namespace, and
/// what the learner makes there must not be undone by the next `up`.
async fn worked_on(connection: &Connection) -> Result<Option<String>> {
    let namespace = Api::<Namespace>::all(connection.client())
        .get_opt(NAME)
        .await
        .diagnose(|| Diagnosis::new(Code::ClusterUnready, format!("read the namespace `{NAME}`")))?;
    Ok(namespace
        .and_then(|found| found.metadata.annotations)
        .and_then(|mut annotations| annotations.remove(CHAPTER_ANNOTATION)))
}

#[async_trait]
impl Step for Chart {
    fn id(&self) -> StepId {
        "chart"
    }

    fn title(&self) -> String {
        "job-dashboard".into()
    }

    fn needs(&self) -> Vec<StepId> {
        if self.in_own_cluster() {
            // Its pods wait for the node to be ready; its objects need not.
            vec![cluster::API, "dashboard-push", "job-image-push", "token", "wiring"]
        } else {
            vec!["cluster", "dashboard-push", "token"]
        }
    }

    async fn observe(&self) -> Result<State> {
        let connection = Connection::connect(self.0.world().settings()).await?;
        if let Some(chapter) = worked_on(&connection).await? {
            let how = format!("left to you: you work on it in chapter {chapter} (labctl chapter {chapter} reset)");
            return Ok(State::holds(how));
        }
        let wanted = self.wanted(&connection).await?.short();
        Ok(match self.release(&connection).await? {
            Release::Absent => State::wanting("it is not installed"),
            Release::CutOff(_) => State::wanting("its last install was cut off"),
            Release::Deployed(inputs) if inputs != wanted => {
                State::wanting("it was installed from another chart, image or values")
            }
            Release::Deployed(_) => match self.wanting(&connection).await? {
                Some(why) => State::wanting(why),
                None if self.in_own_cluster() => State::holds(self.url("")),
                None => {
                    State::holds("labctl kubectl port-forward -n job-dashboard svc/job-dashboard 8080:80 leads to it")
                }
            },
        })
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        let connection = Connection::connect(self.0.world().settings()).await?;
        progress.doing("installing the chart");
        make_namespace(&self.0, &connection).await?;
        self.install(&connection).await?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            match self.wanting(&connection).await? {
                None => return Ok(()),
                Some(why) if Instant::now() > deadline => {
                    let mut diagnosis = Diagnosis::new(
                        Code::DashboardDown,
                        format!("the dashboard is not there after {}s: {why}", ANSWER_LIMIT.as_secs()),
                    );
                    for pod in ready::unready_pods(&connection, NAME).await {
                        diagnosis = diagnosis.hint(pod);
                    }
                    return Err(diagnosis
                        .hint("labctl kubectl logs -n job-dashboard deploy/job-dashboard shows its own words")
                        .error());
                }
                Some(why) => progress.doing(format!("waiting: {why}")),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
