//! `cargo bench --bench load`: an image of about 350 MB into a running lab, by `kind load docker-image` and by
//! `labctl image load`, in one run: first fill, and reload after a one-line change. Prints seconds and ratios.
//!
//! Both ways load images of the same content; a salt in every layer keeps one way from using what the other brought.
//! "In the node" means unpacked: `kind load` ends there, and for labctl the node's pull is added (with what
//! `docker exec` costs, which a kubelet's pull does not). Run it on a machine that does nothing else.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use labctl::config::{self, Dirs, LabName, Settings};
use labctl::drive::docker::Docker;
use labctl::drive::exec::{Cmd, Exec, System, find_on_path};
use labctl::drive::files::Digest;
use labctl::drive::registry::Registry;
use labctl::lab::image::archive::{Archive, Image};
use labctl::lab::image::layer::Tree;
use labctl::lab::image::store::Store;
use labctl::lab::image::wiring;
use labctl::lab::programs::Programs;
use labctl::lab::record::Record;
use labctl::lab::step::registry;

/// How many bytes the two large layers have.
const LAYERS: [u64; 2] = [160 << 20, 190 << 20];
/// How often a reload is measured; the median counts.
const RELOADS: usize = 5;

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` runs it with this word; it needs a lab, so it is for hands.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let settings = settings()?;
    let docker = Docker::find(&settings).await?;
    let record = Record::read(&settings)?.unwrap_or_default();
    let host = wiring::registry_host(record.ports.registry);
    Registry::at(&host)?.ping().await?;
    let lab = settings.lab.to_string();
    let bench = Bench {
        node: format!("{lab}-control-plane"),
        container: registry::container(&lab),
        kind: find_on_path("kind").map_or_else(|| Programs::new(&settings.dirs).verified("kind"), Ok)?,
        docker,
        lab,
    };
    let result = bench.run().await;
    bench.clean(&host).await;
    result
}

fn settings() -> Result<Settings> {
    let lab = config::text_variable("LABCTL_LAB").unwrap_or_else(|| LabName::DEFAULT.to_owned());
    Ok(Settings {
        lab: LabName::parse(&lab)?,
        dirs: Dirs::from_environment()?,
        yes: true,
        ask: false,
        json: false,
    })
}

struct Bench {
    docker: Docker,
    lab: String,
    node: String,
    container: String,
    kind: PathBuf,
}

impl Bench {
    async fn run(&self) -> Result<()> {
        let folder = tempfile::tempdir().context("make a temporary directory")?;
        let store = Store::at(folder.path());
        let salt = Digest::of(format!("{:?}", std::time::SystemTime::now()).as_bytes()).short();
        for who in ["kind", "labctl"] {
            let base = base_layers(&store, &format!("{salt} {who}"))?;
            let images: Vec<Image> = (0..=RELOADS)
                .map(|i| {
                    let mut line = Tree::new();
                    line.bytes("app/line.txt", 0o644, format!("{salt} {who} {i}\n"));
                    let mut layers = base.clone();
                    layers.push(store.layer(&line)?);
                    Ok(Image::new(format!("labctl-bench-{who}:{i}"), layers))
                })
                .collect::<Result<_>>()?;
            if who == "kind" {
                say(&format!(
                    "image: {} MB in {} layers",
                    images[0].size() / 1_000_000,
                    images[0].layers.len()
                ));
            }
            self.docker.load(Archive::of(&images).stream()).await?;
        }
        // What was just written must not be written back to disk in somebody's measured time.
        System.run(&Cmd::new("sync")).await?;

        let kind_fill = self.kind_load("labctl-bench-kind:0").await?;
        let mut kind = Vec::new();
        for i in 1..=RELOADS {
            kind.push(self.kind_load(&format!("labctl-bench-kind:{i}")).await?);
        }
        System.run(&Cmd::new("sync")).await?;
        let fill = self.labctl_load(0).await?;
        let fill_pull = self.pull(0).await?;
        // The same image again waits until the engine has learned, and does nothing else.
        let settle = self.labctl_load(0).await?;
        let (mut ours, mut ours_in_node) = (Vec::new(), Vec::new());
        for i in 1..=RELOADS {
            let load = self.labctl_load(i).await?;
            ours.push(load);
            ours_in_node.push(load + self.pull(i).await?);
        }
        let reload = median(kind);
        let (ours, in_node) = (median(ours), median(ours_in_node));
        let all = fill + fill_pull;
        let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
        say(&format!(
            "first fill, in the node:   kind load {:.2}s   labctl image load {:.2}s + pull {:.2}s = {:.2}s   ratio {:.2}x",
            kind_fill.as_secs_f64(),
            fill.as_secs_f64(),
            fill_pull.as_secs_f64(),
            all.as_secs_f64(),
            ratio(all, kind_fill),
        ));
        say(&format!(
            "the engine learned in the background until {:.2}s after that",
            settle.as_secs_f64()
        ));
        say(&format!(
            "one-line change, loaded:   kind load {:.2}s   labctl image load {:.3}s   {:.0}x faster",
            reload.as_secs_f64(),
            ours.as_secs_f64(),
            ratio(reload, ours),
        ));
        say(&format!(
            "one-line change, in the node (with `docker exec`):   {:.3}s   {:.0}x faster",
            in_node.as_secs_f64(),
            ratio(reload, in_node),
        ));
        Ok(())
    }

    async fn kind_load(&self, image: &str) -> Result<Duration> {
        let cmd = Cmd::new(&self.kind)
            .args(["load", "docker-image", image, "--name", &self.lab])
            .env("DOCKER_HOST", self.docker.host());
        time(&cmd).await
    }

    async fn labctl_load(&self, i: usize) -> Result<Duration> {
        let cmd = Cmd::new(Path::new(env!("CARGO_BIN_EXE_labctl")))
            .args(["image", "load", &format!("labctl-bench-labctl:{i}")])
            .env("DOCKER_HOST", self.docker.host());
        time(&cmd).await
    }

    async fn pull(&self, i: usize) -> Result<Duration> {
        let name = format!("{}:{}/labctl-bench-labctl:{i}", self.container, wiring::REGISTRY_PORT);
        let start = Instant::now();
        let (code, said) = self
            .docker
            .exec(
                &self.node,
                &["ctr", "-n", "k8s.io", "images", "pull", "--plain-http", &name],
            )
            .await?;
        anyhow::ensure!(code == 0, "the node cannot pull: {said}");
        Ok(start.elapsed())
    }

    async fn clean(&self, host: &str) {
        for who in ["kind", "labctl"] {
            for i in 0..=RELOADS {
                _ = self.docker.untag(&format!("labctl-bench-{who}:{i}")).await;
                let pulled = format!("{}:{}/labctl-bench-labctl:{i}", self.container, wiring::REGISTRY_PORT);
                let loaded = format!("docker.io/library/labctl-bench-kind:{i}");
                let argv = ["ctr", "-n", "k8s.io", "images", "rm", &pulled, &loaded];
                _ = self.docker.exec(&self.node, &argv).await;
            }
        }
        let Ok(registry) = Registry::at(host) else { return };
        for tag in registry.tags("labctl-bench-labctl").await.unwrap_or_default() {
            if let Ok(Some(digest)) = registry.manifest_digest("labctl-bench-labctl", &tag).await {
                _ = registry.delete_manifest("labctl-bench-labctl", digest).await;
            }
        }
        say("the images are removed; `labctl image prune` gives the registry's disk back");
    }
}

/// Makes two layers of real files of this machine, so that they compress as images do.
fn base_layers(store: &Store, salt: &str) -> Result<Vec<labctl::lab::image::store::Layer>> {
    let mut files = Vec::new();
    for folder in ["/usr/lib", "/usr/bin", "/usr/share", "/usr/local"] {
        collect(Path::new(folder), &mut files);
    }
    let mut files = files.into_iter();
    let mut layers = Vec::new();
    for (i, wanted) in LAYERS.into_iter().enumerate() {
        let mut tree = Tree::new();
        tree.bytes(&format!("salt-{i}"), 0o644, salt);
        let mut size = 0;
        for (path, bytes) in files.by_ref() {
            tree.file(&path.to_string_lossy(), 0o644, &path);
            size += bytes;
            if size >= wanted {
                break;
            }
        }
        anyhow::ensure!(size >= wanted, "this machine has too few files to make an image of");
        layers.push(store.layer(&tree)?);
    }
    Ok(layers)
}

fn collect(folder: &Path, out: &mut Vec<(PathBuf, u64)>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            collect(&entry.path(), out);
        } else if meta.is_file() && meta.len() < 40 << 20 && entry.path().to_str().is_some() {
            out.push((entry.path(), meta.len()));
        }
    }
}

async fn time(cmd: &Cmd) -> Result<Duration> {
    let start = Instant::now();
    System.run(cmd).await?;
    Ok(start.elapsed())
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

#[expect(clippy::print_stdout, reason = "what a benchmark is asked for is its figures")]
fn say(text: &str) {
    println!("{text}");
}
