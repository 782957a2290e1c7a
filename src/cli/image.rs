//! `labctl image`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::Outcome;
use crate::config::Images;
use crate::drive::docker::Docker;
use crate::drive::exec::{Cmd, start_daemon};
use crate::drive::files::{Digest, Lock};
use crate::drive::registry::Registry;
use crate::error::{Code, Diagnosis, Exit};
use crate::lab::image::archive::Image;
use crate::lab::image::store::Store;
use crate::lab::image::{dashboard, load, shelf, wiring};
use crate::lab::record::Record;
use crate::lab::step::{Site, base, job_image, node_image, registry};
use crate::lab::up;
use crate::report::human::size;
use crate::world::World;

/// How long a load waits for the engine to have learned the layers of the load before it.
const LEARN_LIMIT: Duration = Duration::from_secs(60);

/// List, build, load and remove images
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the images in the lab's registry, labctl's images in the engine, and who uses them
    List,
    /// Make labctl's own images: in the engine those that the lab is made of, in the lab's registry those that run in it
    Build {
        /// The image to make; all of them where none is given
        #[arg(value_enum)]
        image: Option<Own>,
        /// Make those in the engine anew, also where it has them or remembers how it made them
        #[arg(long)]
        no_cache: bool,
        /// A checkout of labctl, needed where the running labctl is not a Linux program
        #[arg(long, value_name = "DIR")]
        source: Option<PathBuf>,
    },
    /// Put images of the engine, or of archive files, into the lab's registry
    ///
    /// Only layers that the registry lacks are sent. Pods use an image by the name that is printed,
    /// such as localhost:5001/my-app:1.
    Load {
        /// Names of images that the engine has (my-app:1), or files that `docker save` wrote
        #[arg(required = true, value_name = "IMAGE|FILE")]
        images: Vec<String>,
        /// Return only when the next load of this image will be quick, not before
        #[arg(long)]
        wait: bool,
    },
    /// Remove the images that nothing in the lab uses
    Prune,
    /// Let the engine learn the digests of an image's layers in the registry
    #[command(hide = true)]
    Learn {
        /// The image as the engine has it
        image: String,
    },
}

/// The images that labctl makes
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Own {
    /// The cluster's node: Kubernetes and what it needs
    Node,
    /// The lab's image registry
    Registry,
    /// The dashboard, which is this program
    JobDashboard,
    /// The image of jobs that name none: this machine's shell and what goes with it
    JobBase,
}

impl Own {
    /// Returns the step of `labctl up` that makes the image in the engine, where one does.
    fn step(self) -> Option<&'static str> {
        match self {
            Self::Node => Some("node-image"),
            Self::Registry => Some("registry-image"),
            Self::JobDashboard | Self::JobBase => None,
        }
    }
}

struct Places {
    registry: Registry,
    container: String,
    store: Store,
    site: Site,
}

impl Places {
    fn of(world: &World) -> Result<Self> {
        let settings = world.settings();
        let record = Record::read(settings)?.unwrap_or_default();
        Ok(Self {
            registry: Registry::at(wiring::registry_host(record.ports.registry))?,
            container: registry::container(settings.lab.as_str()),
            store: Store::of(settings, world.reporter()),
            site: Site::new(world.clone(), record, Images::Auto, false),
        })
    }

    async fn answering(world: &World) -> Result<Self> {
        let places = Self::of(world)?;
        places.registry.ping().await?;
        Ok(places)
    }

    fn learn_lock(&self, name: &str) -> Result<PathBuf> {
        let (repository, _) = load::target(name, self.registry.host())?;
        let mark = Digest::of(format!("{} {repository}", self.registry.host()).as_bytes());
        Ok(self.store.root().join("learned").join(format!("{}.lock", mark.short())))
    }
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// The engine, the registry or the cluster does not do its part, or there is no such image.
    pub async fn run(self, world: &World) -> Result<Outcome> {
        match self.verb {
            Verb::List => list(world).await?,
            Verb::Build {
                image,
                no_cache,
                source,
            } => {
                let wanted = image.map_or_else(|| Own::value_variants().to_vec(), |image| vec![image]);
                if wanted.iter().any(|own| own.step().is_some()) {
                    build_in_engine(world, &wanted, no_cache).await?;
                }
                if wanted.contains(&Own::JobDashboard) {
                    build(world, source).await?;
                }
                if wanted.contains(&Own::JobBase) {
                    build_job_base(world, image.is_some()).await?;
                }
            }
            Verb::Load { images, wait } => load_all(world, &images, wait).await?,
            Verb::Prune => prune(world).await?,
            Verb::Learn { image } => {
                let places = Places::answering(world).await?;
                let path = places.learn_lock(&image)?;
                // The load that started this looks at the lock meanwhile, for a moment each time.
                for _ in 0..100 {
                    if let Ok(_lock) = Lock::try_take(&path, &image)? {
                        load::learn(&world.docker().await?, &places.registry, &places.store, &image).await?;
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        Ok(Exit::Done)
    }
}

async fn list(world: &World) -> Result<()> {
    let places = Places::of(world)?;
    let pods = shelf::pods(world).await.unwrap_or_else(|error| {
        world.reporter().warn(format!("who uses what is not known: {error}"));
        std::collections::BTreeMap::new()
    });
    let mut images = match shelf::in_registry(&places.registry, &pods).await {
        Ok(images) => images,
        Err(error) => {
            world.reporter().warn(error.to_string());
            Vec::new()
        }
    };
    images.extend(shelf::in_engine(&world.docker().await?).await?);
    if world.settings().json {
        return super::print(&format!("{}\n", json!({"v": 1, "images": images})));
    }
    let mut text = String::new();
    let width = images.iter().map(|image| image.name.len()).max().unwrap_or(4).max(4);
    _ = writeln!(
        text,
        "{:<width$}  {:<12}  {:>9}  {:<8}  USED BY",
        "NAME", "DIGEST", "SIZE", "HELD BY"
    );
    for image in &images {
        let short: String = image.digest.trim_start_matches("sha256:").chars().take(12).collect();
        let users = if image.used_by.is_empty() {
            "-".to_owned()
        } else {
            image.used_by.join(", ")
        };
        _ = writeln!(
            text,
            "{:<width$}  {short:<12}  {:>9}  {:<8}  {users}",
            image.name,
            size(image.size),
            image.held_by
        );
    }
    super::print(&text)
}

/// Makes images as `labctl up` does, with what they need and nothing that needs them.
async fn build_in_engine(world: &World, wanted: &[Own], no_cache: bool) -> Result<()> {
    let record = Record::read(world.settings())?.unwrap_or_default();
    let mut site = Site::new(world.clone(), record, Images::Auto, false);
    if no_cache {
        site = site.without_cache();
    }
    let steps: Vec<String> = wanted.iter().filter_map(|own| own.step().map(str::to_owned)).collect();
    let plan = up::plan(&site)?.only(&steps)?;
    let _lock = up::lock(world, "image build").await?;
    if no_cache {
        // A step is believed by what it sees; without its name it sees no image. What runs from it goes on.
        let docker = world.docker().await?;
        for own in wanted {
            let name = match own {
                Own::Node => node_image::name(&site).await,
                Own::Registry => registry::image(&site).await,
                Own::JobDashboard | Own::JobBase => continue,
            };
            if docker.image(&name).await?.is_some() {
                docker.untag(&name).await?;
            }
        }
    }
    if plan.run(world.reporter()).await? == 0 {
        world.reporter().note("nothing to do: the engine has them");
    }
    Ok(())
}

async fn build(world: &World, source: Option<PathBuf>) -> Result<()> {
    let places = Places::of(world)?;
    if !dashboard::from_executable() {
        let source = source.ok_or_else(|| {
            Diagnosis::new(
                Code::Arguments,
                "the running labctl is not a Linux program, so the dashboard's image is built from sources",
            )
            .hint("labctl image build --source DIR, where DIR is a checkout of labctl")
            .error()
        })?;
        return engine_build(world, &places, &source).await;
    }
    let start = Instant::now();
    let (store, host) = (places.store.clone(), places.registry.host().to_owned());
    let image = tokio::task::spawn_blocking(move || {
        dashboard::Recipe::of(&dashboard::executable()?, &store)?.build(&host, &store)
    })
    .await
    .context("make the dashboard's image")??;
    send(world, &places, &image, start).await
}

/// Makes the image of jobs. Where it was not asked for by name, a machine whose programs cannot be in it goes without.
async fn build_job_base(world: &World, asked: bool) -> Result<()> {
    let places = Places::of(world)?;
    if !dashboard::from_executable() {
        if !asked {
            return Ok(());
        }
        return Err(Diagnosis::new(
            Code::Arguments,
            "the image of jobs is made of this machine's programs, and they are not for Linux",
        )
        .hint("labctl image load NAME brings one of your own; runner.kubernetes.image of the chart names it")
        .error());
    }
    let start = Instant::now();
    let image = job_image::build(&places.site).await?;
    send(world, &places, &image, start).await
}

/// Sends an image to the lab's registry, where that answers, and says so.
async fn send(world: &World, places: &Places, image: &Image, start: Instant) -> Result<()> {
    let place = match places.registry.ping().await {
        Ok(()) => {
            let loaded = load::push(&places.registry, image, None).await?;
            match loaded.way {
                load::Way::Nothing => "the lab's registry has it already".to_owned(),
                _ => format!("{} sent to the lab's registry", size(loaded.sent)),
            }
        }
        Err(_) => "in the cache; the lab's registry does not answer, labctl up starts it".to_owned(),
    };
    say(
        world,
        &format!(
            "{} ({}, {:.1}s): {place}",
            image.name,
            size(image.size()),
            start.elapsed().as_secs_f32()
        ),
        &json!({"image": image.name, "digest": image.digest().oci(), "size": image.size()}),
    )
}

async fn engine_build(world: &World, places: &Places, source: &std::path::Path) -> Result<()> {
    let docker = world.docker().await?;
    let tag = dashboard::engine_build_tag(source, &places.store)?;
    let name = format!("{}/{}:{tag}", places.registry.host(), dashboard::REPOSITORY);
    if docker.image(&name).await?.is_none() {
        let context = bytes::Bytes::from(dashboard::engine_build_context(source)?);
        let options = bollard::query_parameters::BuildImageOptionsBuilder::default()
            .t(&name)
            .rm(true)
            .build();
        let reporter = world.reporter().clone();
        let context = futures_util::stream::once(async { Ok(context) });
        docker.build(options, context, |line| reporter.note(line)).await?;
    }
    load_one(world, places, &docker, &name, true).await
}

fn say(world: &World, text: &str, value: &serde_json::Value) -> Result<()> {
    if world.settings().json {
        super::print(&format!("{value}\n"))
    } else {
        super::print(&format!("{text}\n"))
    }
}

async fn load_all(world: &World, images: &[String], wait: bool) -> Result<()> {
    let places = Places::answering(world).await?;
    for name in images {
        let path = PathBuf::from(name);
        if path.is_file() {
            let start = Instant::now();
            for loaded in load::from_archive(&places.registry, &path).await? {
                report(world, name, &loaded, start)?;
            }
        } else {
            load_one(world, &places, &world.docker().await?, name, wait).await?;
        }
    }
    Ok(())
}

async fn load_one(world: &World, places: &Places, docker: &Docker, name: &str, wait: bool) -> Result<()> {
    let start = Instant::now();
    let lock = places.learn_lock(name)?;
    let mut told = false;
    // Until the engine has learned, a push would compress everything.
    while let Err(_busy) = Lock::try_take(&lock, name)? {
        if !std::mem::replace(&mut told, true) {
            world
                .reporter()
                .note("waiting for the load before this one to be digested");
        }
        if start.elapsed() > LEARN_LIMIT {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let loaded = load::from_engine(docker, &places.registry, &places.store, name, &|_| {}).await?;
    report(world, name, &loaded, start)?;
    if !loaded.to_learn {
        return Ok(());
    }
    if wait {
        return load::learn(docker, &places.registry, &places.store, name).await;
    }
    let settings = world.settings();
    let cmd = Cmd::new(dashboard::executable()?)
        .args(["--lab", settings.lab.as_str(), "--quiet", "image", "learn"])
        .arg(name)
        .env("DOCKER_HOST", docker.host());
    // It only makes the next load quicker; that it cannot start is no failure of this one.
    if let Err(error) = start_daemon(&cmd, &settings.log_dir().join("image-learn.log")) {
        world.reporter().warn(format!("the next load will be slower: {error}"));
        return Ok(());
    }
    // A load that comes right after this one must find the lock taken.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if Lock::try_take(&lock, name)?.is_err() {
            break;
        }
    }
    Ok(())
}

fn report(world: &World, name: &str, loaded: &load::Loaded, start: Instant) -> Result<()> {
    let how = match loaded.way {
        load::Way::Nothing => "the registry has it already".to_owned(),
        load::Way::Push => "pushed what changed".to_owned(),
        load::Way::Direct | load::Way::Save => format!("{} sent", size(loaded.sent)),
    };
    let seconds = start.elapsed().as_secs_f64();
    say(
        world,
        &format!("{name} is {} ({how}, {seconds:.2}s)", loaded.name),
        &json!({
            "image": loaded.name,
            "digest": loaded.digest.oci(),
            "way": loaded.way,
            "sent": loaded.sent,
            "elapsed_ms": crate::report::json::millis(start.elapsed()),
        }),
    )
}

async fn prune(world: &World) -> Result<()> {
    let places = Places::of(world)?;
    let docker = world.docker().await?;
    // Images must not be called unused because the cluster cannot be asked.
    let pods = shelf::pods(world).await?;
    if !world.consent("Remove the images that no pod and no container of the lab uses?") {
        return Err(Diagnosis::new(Code::NeedsYes, "removing images needs a yes")
            .hint("labctl image prune --yes; labctl image list shows what is used")
            .error());
    }
    // The next `up` would have to make these again.
    let wanted = [node_image::name(&places.site).await, base::image()];
    let mut removed = Vec::new();
    let mut bytes = 0;
    let mut held = Vec::new();
    if places.registry.ping().await.is_ok() {
        // A job that comes needs it, whether or not one runs now.
        let jobs = job_image::name(&places.site).await?;
        let keep = |name: &str| Some(name) == jobs.as_deref();
        let pruned = shelf::prune_registry(&docker, &places.registry, &places.container, &pods, keep).await?;
        removed.extend(pruned.images);
        bytes += pruned.bytes;
        let begin = Instant::now();
        while places.registry.ping().await.is_err() && begin.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        held = shelf::in_registry(&places.registry, &pods).await?;
    }
    let registry_image = docker
        .container(&places.container)
        .await?
        .and_then(|container| container.config?.image);
    let pruned = shelf::prune_engine(&docker, |name| {
        wanted.iter().any(|wanted| wanted == name) || Some(name) == registry_image.as_deref()
    })
    .await?;
    removed.extend(pruned.images);
    bytes += pruned.bytes;
    let pruned = shelf::prune_cache(&places.store, &held)?;
    removed.extend(pruned.images);
    bytes += pruned.bytes;
    removed.sort();
    removed.dedup();
    let mut text = String::new();
    for name in &removed {
        _ = writeln!(text, "removed {name}");
    }
    _ = write!(text, "{} images removed, {} freed", removed.len(), size(bytes));
    say(world, &text, &json!({"removed": removed, "bytes": bytes}))
}
