//! `cargo bench --bench up`: `labctl up` with its images at hand, against the same by hand, in one run:
//! `kind create cluster --wait`, `kind load docker-image`, `helm install --wait`. Prints seconds and the ratio.
//!
//! Both use the same node image, the same executable as dashboard image and the same chart, and both end with an answer
//! from `/healthz`. By hand KIND gets the least config with which it comes up on this machine. The lab `bench-up` is made
//! and removed; run it on a machine that does nothing else.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use labctl::config::{Dirs, Images, LabName, Settings};
use labctl::drive::docker::Docker;
use labctl::drive::exec::{Cmd, Exec, System};
use labctl::lab::record::Record;
use labctl::lab::step::{Site, node_image};
use labctl::lab::tools::{self, Tool};
use labctl::report::{Recorded, Reporter};
use labctl::world::World;

/// How often each is measured, in turns; the median counts.
const RUNS: usize = 3;
const LAB: &str = "bench-up";
const BY_HAND: &str = "bench-by-hand";
const PORTS: [(&str, u16); 5] = [
    ("--http-port", 28_080),
    ("--grpc-port", 28_081),
    ("--mtls-port", 28_443),
    ("--metrics-port", 28_090),
    ("--registry-port", 25_001),
];
const LABCTL: &str = env!("CARGO_BIN_EXE_labctl");

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` runs it with this word; it needs a cluster, so it is for hands.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let settings = Settings {
        lab: LabName::parse(LAB)?,
        dirs: Dirs::from_environment()?,
        yes: true,
        ask: false,
        json: false,
    };
    let world = World::real(settings, Reporter::new(Recorded::default()))?;
    labctl()
        .await
        .context("make the lab once, so that everything is built")?;
    let bench = Bench::new(world).await?;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for run in 1..=RUNS {
        teardown().await?;
        ours.push(timed(labctl()).await?);
        teardown().await?;
        bench.clean().await;
        theirs.push(timed(bench.by_hand()).await?);
        bench.clean().await;
        say(&format!(
            "run {run}: labctl up {:.1} s, by hand {:.1} s",
            ours[run - 1].as_secs_f64(),
            theirs[run - 1].as_secs_f64()
        ));
    }
    let (ours, theirs) = (median(ours), median(theirs));
    say(&format!(
        "median: labctl up {ours:.1} s, kind create --wait + kind load + helm install --wait {theirs:.1} s, ratio {:.2}",
        ours / theirs
    ));
    labctl().await?;
    let nothing = timed(labctl()).await?;
    say(&format!("labctl up with nothing to do: {:.2} s", nothing.as_secs_f64()));
    teardown().await
}

fn say(text: &str) {
    _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes());
}

fn median(mut runs: Vec<Duration>) -> f64 {
    runs.sort();
    runs[runs.len() / 2].as_secs_f64()
}

async fn timed(work: impl Future<Output = Result<()>>) -> Result<Duration> {
    let start = Instant::now();
    work.await?;
    Ok(start.elapsed())
}

async fn labctl() -> Result<()> {
    let ports = PORTS
        .iter()
        .flat_map(|(flag, port)| [(*flag).to_owned(), port.to_string()]);
    let cmd = Cmd::new(LABCTL).args(["--lab", LAB, "up", "--yes"]).args(ports);
    System.run(&cmd).await?;
    Ok(())
}

async fn teardown() -> Result<()> {
    System.run(&Cmd::new(LABCTL).args(["--lab", LAB, "teardown"])).await?;
    Ok(())
}

struct Bench {
    docker: Docker,
    node_image: String,
    dashboard: String,
    kind: PathBuf,
    helm: PathBuf,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn new(world: World) -> Result<Self> {
        let docker = world.docker().await?;
        let record = Record::read(world.settings())?.unwrap_or_default();
        let site = Site::new(world.clone(), record, Images::Auto, false);
        // By hand the image is in the engine, as `docker build` leaves it. It is the one that the lab runs, for the
        // executable here is the bench.
        let jsonpath = "-ojsonpath={.spec.template.spec.containers[0].image}";
        let get = [
            "--lab",
            LAB,
            "kubectl",
            "get",
            "deployment",
            "job-dashboard",
            "-njob-dashboard",
            jsonpath,
        ];
        let dashboard = System.run(&Cmd::new(LABCTL).args(get)).await?.stdout;
        docker.pull(&dashboard, |_| ()).await?;
        let dir = tempfile::tempdir().context("make a temporary directory")?;
        labctl::assets::unpack("charts/job-dashboard", &dir.path().join("chart"))?;
        labctl::drive::files::write(
            &dir.path().join("kind.yaml"),
            "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- role: control-plane\n  extraPortMappings:\n  \
             - {containerPort: 30080, hostPort: 28080, listenAddress: 127.0.0.1}\nkubeadmConfigPatches:\n\
             - |\n  kind: KubeletConfiguration\n  failCgroupV1: false\n",
        )?;
        Ok(Self {
            node_image: node_image::name(&site).await,
            kind: tools::find(&world, Tool::Kind).await?,
            helm: tools::find(&world, Tool::Helm).await?,
            docker,
            dashboard,
            dir,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn kind(&self, args: &[&str]) -> Cmd {
        Cmd::new(&self.kind)
            .args(args.iter().copied())
            .args(["--name", BY_HAND])
            .env("DOCKER_HOST", self.docker.host())
            .env("KUBECONFIG", self.path("kubeconfig"))
    }

    async fn by_hand(&self) -> Result<()> {
        let create = self
            .kind(&["create", "cluster", "--wait", "120s", "--image", &self.node_image])
            .arg("--config")
            .arg(self.path("kind.yaml"));
        System.run(&create).await?;
        System
            .run(&self.kind(&["load", "docker-image", &self.dashboard]))
            .await?;
        let (repository, tag) = self.dashboard.rsplit_once(':').context("a tag")?;
        let helm = Cmd::new(&self.helm)
            .args(["install", "job-dashboard"])
            .arg(self.path("chart"))
            .args(["--namespace", "job-dashboard", "--create-namespace", "--wait"])
            .args(["--set", &format!("image.repository={repository},image.tag={tag}")])
            .args(["--set", "service.type=NodePort,service.nodePort=30080"])
            .env("KUBECONFIG", self.path("kubeconfig"));
        System.run(&helm).await?;
        answers().await
    }

    async fn clean(&self) {
        _ = self.docker.remove_container(&format!("{BY_HAND}-control-plane")).await;
        _ = std::fs::remove_file(self.path("kubeconfig"));
        // KIND made its own network for it, and leaves it.
        _ = self.docker.api().remove_network("kind").await;
    }
}

async fn answers() -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let client = reqwest::Client::new();
    loop {
        let answer = client.get("http://127.0.0.1:28080/healthz").send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the dashboard does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
