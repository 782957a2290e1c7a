//! Other ways to a lab: images pulled from a registry that stands in for the public ones, and a cluster that is there
//! already.

use anyhow::{Context, Result, ensure};
use labctl::config::Images;
use labctl::drive::docker::Docker;
use labctl::lab::record::Record;
use labctl::lab::step::{Site, node_image};
use labctl::lab::tools::{self, Tool};
use labctl::report::{Recorded, Reporter};
use labctl::world::World;

use crate::Test;
use crate::support::{Lab, PORTS, both, program};

/// The tests of this file, in order.
pub(crate) const TESTS: &[Test] = &[
    ("elsewhere::images_are_pulled", images_are_pulled),
    (
        "elsewhere::an_existing_cluster_is_used_and_left",
        an_existing_cluster_is_used_and_left,
    ),
];

const PULLED: &str = "labctl-test-pull";
const GUEST: &str = "labctl-test-guest";
const THEIRS: &str = "labctl-test-theirs";

struct Here {
    docker: Docker,
    node_image: String,
    kind: std::path::PathBuf,
}

fn here(lab: &Lab) -> Result<Here> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let world = World::real(lab.settings()?, Reporter::new(Recorded::default()))?;
        let record = Record::read(world.settings())?.unwrap_or_default();
        let site = Site::new(world.clone(), record, Images::Build, false);
        Ok(Here {
            docker: world.docker().await?,
            node_image: node_image::name(&site).await,
            kind: tools::find(&world, Tool::Kind).await?,
        })
    })
}

impl Here {
    fn docker(&self, args: &[&str]) -> Result<String> {
        program("docker", args, &[("DOCKER_HOST", self.docker.host())])
    }

    /// Pushes an image of the engine to the stand-in and returns its name there by digest.
    fn publish(&self, image: &str, name: &str) -> Result<String> {
        let target = format!("localhost:{}/{name}", PORTS.registry);
        self.docker(&["tag", image, &format!("{target}:stand-in")])?;
        self.docker(&["push", "--quiet", &format!("{target}:stand-in")])?;
        let digests = self.docker(&["inspect", "--format", "{{join .RepoDigests \"\\n\"}}", image])?;
        let digest = digests
            .lines()
            .find(|line| line.starts_with(&target))
            .and_then(|line| line.rsplit_once('@'))
            .map(|(_, digest)| digest.to_owned())
            .with_context(|| format!("no digest of {target} in {digests}"))?;
        // The name by digest goes with the last tag.
        self.docker(&["rmi", &format!("{target}:stand-in")])?;
        Ok(format!("{name}:stand-in@{digest}"))
    }
}

fn images_are_pulled(lab: &Lab) -> Result<()> {
    let here = here(lab)?;
    let registry = here
        .docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", "labctl.dev/registry"])?
        .lines()
        .next()
        .context("an image of the registry")?
        .to_owned();
    let node = here.publish(&here.node_image, "kindest/node")?;
    let registry = here.publish(&registry, "library/registry")?;
    let mut pins: toml::Table = labctl::assets::text("assets/versions.toml")
        .context("the pins")?
        .parse()?;
    pins.insert("node".into(), toml::toml! { upstream = "" }.into());
    pins["node"]["upstream"] = node.into();
    pins["registry"]["upstream"] = registry.into();
    let path = lab.state().join("versions.toml");
    labctl::drive::files::write(&path, toml::to_string(&pins)?)?;
    let mirror = format!("localhost:{}", PORTS.registry);
    let variables = [
        ("LABCTL_VERSIONS", path.to_str().context("a path")?),
        ("LABCTL_IMAGE_MIRROR", &mirror),
    ];
    let ports = [
        "--http-port",
        "19080",
        "--grpc-port",
        "19081",
        "--mtls-port",
        "19443",
        "--metrics-port",
        "19090",
        "--registry-port",
        "16001",
    ];
    let mut args = vec!["up", "--yes", "--images", "pull"];
    args.extend(ports);
    let output = lab.labctl_with(PULLED, &args, &variables)?;
    let made = (|| {
        ensure!(output.status.success(), "{}", both(&output));
        let image = here.docker(&[
            "inspect",
            "--format",
            "{{.Config.Image}}",
            &format!("{PULLED}-control-plane"),
        ])?;
        ensure!(image.contains("labctl.dev/node:upstream-"), "{image}");
        // What was pulled has labctl's name alone, so that teardown finds it.
        let names = here.docker(&["images", "--format", "{{.Repository}}"])?;
        ensure!(!names.contains("kindest/node"), "{names}");
        let judged = lab.labctl_with(PULLED, &["chapter", "03", "verify"], &variables)?;
        ensure!(judged.status.success(), "{}", both(&judged));
        let again = lab.labctl_with(PULLED, &["up", "--plan", "--images", "pull"], &variables)?;
        let plan = String::from_utf8_lossy(&again.stdout).into_owned();
        ensure!(!plan.lines().any(|line| line.starts_with("run ")), "{plan}");
        // A registry that is not there is told as such, and nothing is half made.
        let gone = lab.labctl_with(
            "labctl-test-dead",
            &[
                "up",
                "--yes",
                "--images",
                "pull",
                "--http-port",
                "20080",
                "--grpc-port",
                "20081",
                "--mtls-port",
                "20443",
                "--metrics-port",
                "20090",
                "--registry-port",
                "20001",
            ],
            &[("LABCTL_IMAGE_MIRROR", "localhost:1")],
        )?;
        ensure!(gone.status.code() == Some(3), "{}", both(&gone));
        ensure!(
            String::from_utf8_lossy(&gone.stderr).contains("LAB-ENV-016"),
            "{}",
            both(&gone)
        );
        let gone = lab.labctl_of("labctl-test-dead", &["teardown"])?;
        ensure!(gone.status.success(), "{}", both(&gone));
        Ok(())
    })();
    let removed = lab.labctl_with(PULLED, &["teardown", "--images"], &variables)?;
    made?;
    ensure!(removed.status.success(), "{}", both(&removed));
    // The other lab's images are still its own.
    ensure!(
        here.docker(&["images", "--quiet", &here.node_image])?.trim() != "",
        "the node image is gone"
    );
    Ok(())
}

fn an_existing_cluster_is_used_and_left(lab: &Lab) -> Result<()> {
    let here = here(lab)?;
    let dir = tempfile::tempdir()?;
    let kubeconfig = dir.path().join("config");
    let kubeconfig = kubeconfig.to_str().context("a path")?;
    let config = dir.path().join("kind.yaml");
    labctl::drive::files::write(
        &config,
        "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nkubeadmConfigPatches:\n- |\n  kind: KubeletConfiguration\n  failCgroupV1: false\n",
    )?;
    let kind = |args: &[&str]| {
        let variables = [("DOCKER_HOST", here.docker.host()), ("KUBECONFIG", kubeconfig)];
        program(here.kind.to_str().context("a path")?, args, &variables)
    };
    let config = config.to_str().context("a path")?;
    kind(&[
        "create",
        "cluster",
        "--name",
        THEIRS,
        "--image",
        &here.node_image,
        "--config",
        config,
        "--wait",
        "60s",
    ])?;
    let used = (|| {
        let context = format!("kind-{THEIRS}");
        let variables = [("KUBECONFIG", kubeconfig)];
        let wrong = lab.labctl_with(
            GUEST,
            &["up", "--yes", "--cluster", "existing", "--context", "nope"],
            &variables,
        )?;
        ensure!(wrong.status.code() == Some(2), "{}", both(&wrong));
        ensure!(
            String::from_utf8_lossy(&wrong.stderr).contains(&context),
            "{}",
            both(&wrong)
        );
        let before = std::fs::read(kubeconfig)?;
        let up = lab.labctl_with(
            GUEST,
            &["up", "--yes", "--cluster", "existing", "--context", &context],
            &variables,
        )?;
        ensure!(up.status.success(), "{}", both(&up));
        ensure!(
            std::fs::read(kubeconfig)? == before,
            "the user's kubeconfig was changed"
        );
        let judged = lab.labctl_of(GUEST, &["chapter", "02", "verify"])?;
        ensure!(judged.status.success(), "{}", both(&judged));
        let down = lab.labctl_of(GUEST, &["teardown"])?;
        ensure!(down.status.success(), "{}", both(&down));
        let left = kind(&["get", "clusters"])?;
        ensure!(
            left.contains(THEIRS),
            "labctl removed a cluster that is not its own: {left}"
        );
        Ok(())
    })();
    kind(&["delete", "cluster", "--name", THEIRS])?;
    // KIND's own network, made for it.
    _ = here.docker(&["network", "rm", "kind"]);
    used
}
