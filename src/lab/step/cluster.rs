//! The KIND cluster: one node, made by the `kind` CLI from a config that labctl writes.
//!
//! KIND's `--wait` is not used: it polls without a pause and returns success when it times out. Whether the cluster is
//! there is seen by asking its API; whether it is ready is [`super::ready`]'s to see.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams};

use super::{Site, node_image, registry};
use crate::config::{self, LABEL, Ports};
use crate::drive::cluster::Cluster as Connection;
use crate::drive::docker::failed;
use crate::drive::exec::{self, Cmd, ExecError};
use crate::drive::files::{self, Digest};
use crate::error::{Code, Diagnose, Diagnosis};
use crate::lab::capability;
use crate::lab::plan::{Progress, State, Step, StepId};

/// How long KIND may take; it has limits of its own for what it waits for.
const CREATE_LIMIT: Duration = Duration::from_secs(300);
/// How long a node that was started again may take until its API answers.
const RESUME_LIMIT: Duration = Duration::from_secs(120);
/// How often it is looked whether a new node's API answers; a look costs the engine a read of one file.
const API_PAUSE: Duration = Duration::from_millis(200);
/// Where kubeadm writes the administrator's kubeconfig in a node.
const ADMIN_CONF: &str = "/etc/kubernetes/admin.conf";
/// The milestone: the cluster's API answers, though the rest of the cluster is still being made.
pub const API: StepId = "api";
/// The ConfigMap in `kube-system` that says what the cluster was made from.
const MARK: &str = "labctl-lab";
/// The ports of the node that are published: see `charts/job-dashboard` for who answers there.
const NODE_PORTS: [u16; 4] = [30080, 30081, 30443, 30090];

/// See the module.
pub struct Cluster(pub Site);

/// What KIND's config depends on beside the lab's name and ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Containers get cgroup v1.
    pub cgroup_v1: bool,
    /// The node image is KIND's own and this machine withholds capabilities.
    pub bounded_upstream: bool,
}

/// Writes KIND's config.
///
/// The patches make a cluster of one node ready in half the time: EC keys cost 50 ms instead of 700; one control plane
/// needs no leader election, and after a restart it would wait for its own old lease; the controller manager asks for a
/// token per controller, 5 s of throttling at its default rate. The folder of kubeadm patches is in the node image.
pub fn kind_config(name: &str, ports: &Ports, conditions: Conditions) -> String {
    let mut text = format!(
        "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nname: {name}\nnetworking:\n  ipFamily: ipv4\n  \
         apiServerAddress: 127.0.0.1\nnodes:\n- role: control-plane\n  extraPortMappings:\n"
    );
    let host_ports = [ports.http, ports.grpc, ports.mtls, ports.metrics];
    for (container, host) in NODE_PORTS.iter().zip(host_ports) {
        _ = writeln!(
            text,
            "  - {{containerPort: {container}, hostPort: {host}, listenAddress: 127.0.0.1, protocol: TCP}}"
        );
    }
    if conditions.bounded_upstream {
        // Without CAP_SYS_RESOURCE runc may not set an OOM score below the daemon's own.
        text.push_str(
            "containerdConfigPatches:\n- |\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    restrict_oom_score_adj = true\n",
        );
    }
    text.push_str(
        "kubeadmConfigPatches:\n\
         - |\n  kind: InitConfiguration\n  patches:\n    directory: /kind/patches\n\
         - |\n  kind: ClusterConfiguration\n  encryptionAlgorithm: ECDSA-P256\n  controllerManager:\n    extraArgs:\n    \
         # The list replaces KIND's own, whose only entry is the first.\n    \
         - {name: enable-hostpath-provisioner, value: \"true\"}\n    \
         - {name: leader-elect, value: \"false\"}\n    \
         - {name: kube-api-qps, value: \"100\"}\n    \
         - {name: kube-api-burst, value: \"200\"}\n  scheduler:\n    extraArgs:\n    \
         - {name: leader-elect, value: \"false\"}\n",
    );
    if conditions.cgroup_v1 {
        // Kubernetes refuses cgroup v1 by default since 1.35; 1.37 still accepts it when asked.
        text.push_str("- |\n  kind: KubeletConfiguration\n  failCgroupV1: false\n");
    }
    text
}

/// Returns whether this machine's containers get cgroup v1.
fn cgroup_v1(info: &bollard::models::SystemInfo) -> bool {
    matches!(
        info.cgroup_version,
        Some(bollard::models::SystemInfoCgroupVersionEnum::_1)
    )
}

impl Cluster {
    fn node(&self) -> String {
        format!("{}-control-plane", self.0.name())
    }

    async fn kind(&self, args: &[&str]) -> Result<Cmd> {
        let kind = crate::lab::tools::find(self.0.world(), crate::lab::tools::Tool::Kind).await?;
        Ok(Cmd::new(kind)
            .args(args.iter().copied())
            .args(["--name", self.0.name()])
            .env("KIND_EXPERIMENTAL_DOCKER_NETWORK", self.0.name())
            .env("KIND_EXPERIMENTAL_PROVIDER", "docker")
            .without_env("KUBECONFIG"))
    }

    async fn config(&self, info: &bollard::models::SystemInfo) -> String {
        let conditions = Conditions {
            cgroup_v1: cgroup_v1(info),
            bounded_upstream: node_image::pulls(&self.0).await && !capability::withheld().is_empty(),
        };
        kind_config(self.0.name(), &self.0.record().ports, conditions)
    }

    async fn wanted_digest(&self, info: &bollard::models::SystemInfo) -> String {
        let text = self.config(info).await;
        Digest::of(format!("{text}{}", node_image::name(&self.0).await).as_bytes()).short()
    }

    /// Returns the node's container, after seeing that it is the lab's.
    async fn container(&self) -> Result<Option<bollard::models::ContainerInspectResponse>> {
        let docker = self.0.world().docker().await?;
        let Some(container) = docker.container(&self.node()).await? else {
            return Ok(None);
        };
        let on_ours = container
            .network_settings
            .as_ref()
            .and_then(|network| network.networks.as_ref())
            .is_some_and(|networks| networks.contains_key(self.0.name()));
        if on_ours {
            return Ok(Some(container));
        }
        Err(Diagnosis::new(
            Code::Foreign,
            format!(
                "a KIND cluster `{}` exists and is not on the lab's network",
                self.0.name()
            ),
        )
        .hint(format!(
            "choose another name for the lab: labctl --lab {}-2 up",
            self.0.name()
        ))
        .hint(format!(
            "or install into it: labctl up --cluster existing --context kind-{}",
            self.0.name()
        ))
        .error())
    }

    /// Removes the node, as `kind delete cluster` does, but also where it cannot be killed at once.
    async fn delete(&self) -> Result<()> {
        self.0.world().docker().await?.remove_container(&self.node()).await?;
        self.forget();
        Ok(())
    }

    /// Removes what is written down of the cluster outside of it.
    fn forget(&self) {
        let settings = self.0.world().settings();
        for name in ["kubeconfig", "kind-kubeconfig", "cluster-uid"] {
            _ = std::fs::remove_file(settings.lab_dir().join(name));
        }
    }

    async fn create(&self, progress: &Progress, info: &bollard::models::SystemInfo) -> Result<()> {
        let world = self.0.world();
        let docker = world.docker().await?;
        self.ports_are_free()?;
        let settings = world.settings();
        let config_path = settings.lab_dir().join("kind.yaml");
        files::write(&config_path, self.config(info).await)?;
        let image = node_image::name(&self.0).await;
        let mut again = true;
        loop {
            let said = progress.clone();
            progress.doing("creating the node");
            let cmd = self
                .kind(&["create", "cluster", "--retain", "--verbosity", "1"])
                .await?
                .env("DOCKER_HOST", docker.host())
                .args(["--image", &image])
                .arg("--config")
                .arg(&config_path)
                .arg("--kubeconfig")
                // Not the lab's own: that is written before KIND is done, and KIND would write over it in place.
                .arg(settings.lab_dir().join("kind-kubeconfig"))
                .limit(CREATE_LIMIT)
                // Only this call of KIND has a log: `get kubeconfig` prints a private key.
                .log(self.0.log("cluster"))
                .on_line(move |line| {
                    let line = line
                        .trim_start_matches([' ', '\u{2022}', '\u{2713}', '\u{2717}'])
                        .trim();
                    if !line.is_empty() {
                        said.doing(line.trim_end_matches("..."));
                    }
                });
            let cmd = match no_proxy(self.0.name(), config::text_variable) {
                Some(except) => cmd.env("NO_PROXY", except),
                None => cmd,
            };
            let outcome = tokio::select! {
                outcome = world.exec().run(&cmd) => outcome,
                never = self.open_early(progress) => match never {},
            };
            match outcome {
                Ok(_) => return Ok(()),
                // KIND gives a node 30 s to boot, whatever the machine is doing; a second try often fits.
                Err(error) if again && boot_limit(&error) => {
                    progress.warn("the node did not boot within KIND's 30 s; trying once more");
                    again = false;
                    self.delete().await?;
                }
                Err(error) => {
                    return Err(anyhow::Error::new(error).context(
                        Diagnosis::new(Code::ClusterUnready, "KIND could not create the cluster")
                            .hint(format!("the node is kept to look at: docker logs {}", self.node()))
                            .hint("labctl doctor looks at the machine; labctl up tries again with a new node"),
                    ));
                }
            }
        }
    }

    /// Watches a node that KIND is making until its API answers, and lets those begin who need no more. KIND goes on for
    /// seconds after that: CoreDNS, kube-proxy, its own manifests.
    ///
    /// Never returns: whether the cluster comes up is KIND's to say.
    async fn open_early(&self, progress: &Progress) -> std::convert::Infallible {
        while !self.api_answers().await {
            tokio::time::sleep(API_PAUSE).await;
        }
        progress.reached(API);
        std::future::pending().await
    }

    async fn api_answers(&self) -> bool {
        let looked = async {
            let docker = self.0.world().docker().await?;
            if !self.0.world().settings().kubeconfig().exists() {
                if docker.get_file(&self.node(), ADMIN_CONF).await?.is_none() {
                    return Ok(false);
                }
                self.write_kubeconfig().await?;
            }
            let settings = self.0.world().settings();
            let connection = Connection::connect_any(settings).await?;
            connection.record(settings)?;
            Ok::<_, anyhow::Error>(true)
        };
        // Most of these looks fail: there is no node yet, no file in it, nobody at the port, no right to read.
        looked.await.unwrap_or(false)
    }

    fn ports_are_free(&self) -> Result<()> {
        let ports = &self.0.record().ports;
        for (port, flag) in [
            (ports.http, "--http-port"),
            (ports.grpc, "--grpc-port"),
            (ports.mtls, "--mtls-port"),
            (ports.metrics, "--metrics-port"),
        ] {
            crate::lab::up::port_is_free(port, flag)?;
        }
        Ok(())
    }

    async fn mark(&self, cluster: &Connection, digest: &str) -> Result<()> {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(MARK.to_owned()),
                labels: Some([(LABEL.to_owned(), self.0.name().to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: Some([("inputs".to_owned(), digest.to_owned())].into()),
            ..ConfigMap::default()
        };
        Api::<ConfigMap>::namespaced(cluster.client(), "kube-system")
            .patch(MARK, &PatchParams::apply("labctl").force(), &Patch::Apply(&map))
            .await
            .diagnose(|| Diagnosis::new(Code::ClusterUnready, "write down in the cluster what it was made from"))?;
        Ok(())
    }

    /// Returns the digest that the cluster was marked with; nothing where it was not finished.
    async fn marked(&self, cluster: &Connection) -> Result<Option<String>> {
        let map = Api::<ConfigMap>::namespaced(cluster.client(), "kube-system")
            .get_opt(MARK)
            .await
            .diagnose(|| Diagnosis::new(Code::ClusterUnready, "read what the cluster was made from"))?;
        Ok(map.and_then(|map| map.data).and_then(|mut data| data.remove("inputs")))
    }

    /// Starts a node that has stopped and waits for its API.
    async fn resume(&self, progress: &Progress, running: bool) -> Result<Connection> {
        let docker = self.0.world().docker().await?;
        if !running {
            progress.doing("starting the node again");
            docker
                .api()
                .start_container(&self.node(), None::<bollard::query_parameters::StartContainerOptions>)
                .await
                .diagnose(|| failed(format!("start the container `{}`", self.node())))?;
        }
        self.write_kubeconfig().await?;
        progress.doing("waiting for the API server");
        let deadline = Instant::now() + RESUME_LIMIT;
        loop {
            match Connection::connect_any(self.0.world().settings()).await {
                Ok(connection) => return Ok(connection),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    /// Writes the lab's kubeconfig from the node's.
    async fn write_kubeconfig(&self) -> Result<()> {
        let docker = self.0.world().docker().await?;
        let cmd = self
            .kind(&["get", "kubeconfig"])
            .await?
            .env("DOCKER_HOST", docker.host());
        let output = self
            .0
            .world()
            .exec()
            .run(&cmd.limit(Duration::from_secs(30)))
            .await
            .diagnose(|| Diagnosis::new(Code::ClusterUnready, "read the cluster's kubeconfig from its node"))?;
        files::write_secret(&self.0.world().settings().kubeconfig(), output.stdout)
    }

    async fn info(&self) -> Result<bollard::models::SystemInfo> {
        let docker = self.0.world().docker().await?;
        docker
            .api()
            .info()
            .await
            .diagnose(|| failed("ask the engine how it is set up"))
    }
}

/// Returns what a node must not ask the user's proxy for, where there is one. KIND hands the proxy to its nodes and
/// excepts the cluster's own subnets; they know the lab's registry by its name.
fn no_proxy(lab: &str, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let any_case = |name: &str| variable(name).or_else(|| variable(&name.to_lowercase()));
    any_case("HTTP_PROXY").or_else(|| any_case("HTTPS_PROXY"))?;
    let registry = registry::container(lab);
    Some(match any_case("NO_PROXY") {
        Some(user) => format!("{user},{registry}"),
        None => registry,
    })
}

/// Adds the cluster to the user's own kubeconfig.
///
/// # Errors
/// KIND cannot write it.
pub async fn merge_kubeconfig(site: &Site) -> Result<()> {
    let docker = site.world().docker().await?;
    let cmd = Cluster(site.clone())
        .kind(&["export", "kubeconfig"])
        .await?
        .env("DOCKER_HOST", docker.host());
    // `kind()` keeps the user's KUBECONFIG from KIND; here it is what the user asked for.
    let cmd = match config::variable("KUBECONFIG") {
        Some(path) => cmd.env("KUBECONFIG", path),
        None => cmd,
    };
    site.world()
        .exec()
        .run(&cmd.limit(Duration::from_secs(30)))
        .await
        .diagnose(|| Diagnosis::new(Code::ProgramFailed, "KIND could not add the cluster to your kubeconfig"))?;
    Ok(())
}

/// Returns whether KIND gave up on a node that was still booting.
fn boot_limit(error: &ExecError) -> bool {
    error
        .tail()
        .iter()
        .any(|line| line.contains("could not find a log line that matches"))
}

#[async_trait]
impl Step for Cluster {
    fn id(&self) -> StepId {
        "cluster"
    }

    fn title(&self) -> String {
        format!("KIND cluster `{}`", self.0.name())
    }

    fn needs(&self) -> Vec<StepId> {
        vec!["node-image", "network", "programs"]
    }

    fn milestones(&self) -> Vec<StepId> {
        vec![API]
    }

    async fn observe(&self) -> Result<State> {
        let Some(container) = self.container().await? else {
            return Ok(State::wanting("there is none"));
        };
        let state = container.state.unwrap_or_default();
        if state.running != Some(true) {
            let code = state.exit_code.unwrap_or_default();
            return Ok(State::wanting(format!("its node has stopped (exit code {code})")));
        }
        let settings = self.0.world().settings();
        let connection = match Connection::connect(settings).await {
            Ok(connection) => connection,
            Err(error) => return Ok(State::wanting(error.to_string())),
        };
        let info = self.info().await?;
        let wanted = self.wanted_digest(&info).await;
        match self.marked(&connection).await? {
            Some(marked) if marked == wanted => {
                Ok(State::holds(format!("Kubernetes {}", settings.kubeconfig().display())))
            }
            Some(_) if !self.0.recreate() => Err(Diagnosis::new(
                Code::Setting,
                "the cluster was made with another node image or other ports, which KIND cannot change",
            )
            .hint("labctl up --recreate replaces the cluster; what is in it is lost")
            .error()),
            Some(_) => Ok(State::wanting("it was made from something else")),
            None => Ok(State::wanting("it was not finished")),
        }
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        let settings = self.0.world().settings();
        files::make_dir(&settings.lab_dir())?;
        if exec::end_orphans("kind", &settings.lab_dir()).await > 0 {
            progress.note("ended a `kind` that a killed labctl left behind");
        }
        let info = self.info().await?;
        let wanted = self.wanted_digest(&info).await;
        if let Some(container) = self.container().await? {
            let running = container.state.unwrap_or_default().running == Some(true);
            // A node without a kubeconfig inside was never finished; anything else is worth waiting for.
            match self.resume(progress, running).await {
                Ok(connection) => match self.marked(&connection).await? {
                    Some(marked) if marked == wanted => return connection.record(settings),
                    Some(_) => progress.note("the cluster was made with other ports or another image; it is replaced"),
                    None => progress.note("the cluster was not finished; it is replaced"),
                },
                Err(error) => progress.warn(format!("the cluster does not come back ({error}); it is replaced")),
            }
            progress.doing("removing the old node");
            self.delete().await?;
        } else {
            // What an earlier cluster left must not be taken for the new one's.
            self.forget();
        }
        self.create(progress, &info).await?;
        let connection = self.resume(progress, true).await?;
        connection.record(settings)?;
        self.mark(&connection, &wanted).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Conditions = Conditions {
        cgroup_v1: true,
        bounded_upstream: true,
    };

    #[test]
    fn the_config_publishes_on_loopback_alone() {
        let text = kind_config("demo", &Ports::default(), OLD);
        assert_eq!(text.matches("listenAddress: 127.0.0.1").count(), 4);
        assert!(text.contains("{containerPort: 30080, hostPort: 8080,"));
        assert!(text.contains("failCgroupV1: false"));
        let text = kind_config("demo", &Ports::default(), Conditions::default());
        assert!(!text.contains("failCgroupV1") && !text.contains("restrict_oom"));
    }

    #[test]
    fn behind_a_proxy_the_registry_is_asked_directly() {
        let with = |pairs: &'static [(&str, &str)]| {
            no_proxy("demo", |name| {
                pairs
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(with(&[]), None);
        assert_eq!(
            with(&[("NO_PROXY", "localhost")]),
            None,
            "without a proxy the node is left alone"
        );
        assert_eq!(with(&[("https_proxy", "http://p:1")]).as_deref(), Some("demo-registry"));
        let both = with(&[("HTTP_PROXY", "http://p:1"), ("no_proxy", "localhost,10.0.0.0/8")]);
        assert_eq!(both.as_deref(), Some("localhost,10.0.0.0/8,demo-registry"));
    }

    #[test]
    fn the_config_and_its_patches_are_yaml() {
        let text = kind_config("demo", &Ports::default(), OLD);
        let value: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
        assert_eq!(value["nodes"][0]["extraPortMappings"][3]["hostPort"], 8090);
        let patches = value["kubeadmConfigPatches"].as_array().expect("a list");
        let kinds: Vec<String> = patches
            .iter()
            .map(|patch| {
                let patch: serde_json::Value =
                    serde_saphyr::from_str(patch.as_str().expect("text")).expect("a patch is YAML");
                patch["kind"].as_str().expect("a kind").to_owned()
            })
            .collect();
        assert_eq!(
            kinds,
            ["InitConfiguration", "ClusterConfiguration", "KubeletConfiguration"]
        );
    }
}
