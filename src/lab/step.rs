//! The steps of `labctl up`, one file each. Each says what it wants, looks, and makes it so.

pub mod base;
pub mod certificates;
pub mod chart;
pub mod cluster;
pub mod dashboard_image;
pub mod engine;
pub mod existing;
pub mod job_image;
pub mod network;
pub mod node_image;
pub mod packages;
pub mod programs;
pub mod ready;
pub mod registry;
pub mod token;
pub mod wiring;

use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::config::Images;
use crate::lab::image::job_base;
use crate::lab::programs::Programs;
use crate::lab::record::Record;
use crate::world::World;

/// What all steps of one run share; cheap to clone.
#[derive(Clone)]
pub struct Site(Arc<Inner>);

struct Inner {
    world: World,
    record: Record,
    images: Images,
    programs: Programs,
    recreate: bool,
    no_cache: bool,
    auto_pulls: OnceCell<bool>,
    job_image: OnceCell<job_base::Recipe>,
}

impl Site {
    /// Gathers what the steps share.
    pub fn new(world: World, record: Record, images: Images, recreate: bool) -> Self {
        let programs = Programs::new(&world.settings().dirs);
        Self(Arc::new(Inner {
            world,
            record,
            images,
            programs,
            recreate,
            no_cache: false,
            auto_pulls: OnceCell::new(),
            job_image: OnceCell::new(),
        }))
    }

    /// Makes images without what the engine remembers of earlier builds. Only before the steps have it.
    #[must_use]
    pub fn without_cache(mut self) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.no_cache = true;
        }
        self
    }

    /// Returns whether images are made without what the engine remembers of earlier builds.
    pub fn no_cache(&self) -> bool {
        self.0.no_cache
    }

    /// Returns the outside.
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// Returns how the lab was asked for.
    pub fn record(&self) -> &Record {
        &self.0.record
    }

    /// Returns where upstream images come from.
    pub fn images(&self) -> Images {
        self.0.images
    }

    /// Returns the programs that labctl builds.
    pub fn programs(&self) -> &Programs {
        &self.0.programs
    }

    /// Returns whether a cluster that was made in another way is replaced.
    pub fn recreate(&self) -> bool {
        self.0.recreate
    }

    /// Returns where it is kept what `--images auto` came to, so that all steps of a run agree.
    pub fn auto_pulls(&self) -> &OnceCell<bool> {
        &self.0.auto_pulls
    }

    /// Returns where it is kept what the image of jobs is made of: several steps of a run ask, and to look takes a moment.
    pub fn job_image(&self) -> &OnceCell<job_base::Recipe> {
        &self.0.job_image
    }

    /// Returns the lab's name, which is also that of its cluster and its network.
    pub fn name(&self) -> &str {
        self.0.world.settings().lab.as_str()
    }

    /// Returns the file for the output of one step.
    pub fn log(&self, step: &str) -> std::path::PathBuf {
        self.0.world.settings().log_dir().join(format!("{step}.log"))
    }
}
