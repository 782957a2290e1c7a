//! `labctl up`.

use std::fmt::Write as _;

use anyhow::Result;

use super::Outcome;
use crate::config::{Images, Ports};
use crate::error::Exit;
use crate::lab::record::{Origin, Record};
use crate::lab::step::Site;
use crate::lab::up;
use crate::report::Event;
use crate::world::World;

/// Make the lab: an engine, a cluster, the images and the dashboard, whatever is missing of them
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show what would be done and why, and change nothing
    #[arg(long)]
    plan: bool,
    /// Make only this step and those it needs; may be given more than once
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Where images come from
    #[arg(long, value_enum, default_value = "auto", value_name = "HOW")]
    images: Images,
    /// Replace a cluster that was made with other ports or another node image
    #[arg(long)]
    recreate: bool,
    /// The cluster to install into: the lab's own, or one that you have
    #[arg(long, value_enum, value_name = "WHICH")]
    cluster: Option<Which>,
    /// The context of your kubeconfig that leads to your cluster
    #[arg(long, value_name = "NAME", required_if_eq("cluster", "existing"))]
    context: Option<String>,
    /// The dashboard's image, where your cluster pulls it from a registry of its own
    #[arg(long, value_name = "REPOSITORY:TAG", requires = "context")]
    image: Option<String>,
    /// Add the lab's context to your own kubeconfig too
    #[arg(long)]
    merge_kubeconfig: bool,
    /// The dashboard's HTTP port on this machine [default: 8080]
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// The dashboard's gRPC port on this machine [default: 8081]
    #[arg(long, value_name = "PORT")]
    grpc_port: Option<u16>,
    /// The dashboard's mTLS port on this machine [default: 8443]
    #[arg(long, value_name = "PORT")]
    mtls_port: Option<u16>,
    /// The metrics port on this machine [default: 8090]
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
    /// The image registry's port on this machine [default: 5001]
    #[arg(long, value_name = "PORT")]
    registry_port: Option<u16>,
}

/// Which cluster
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// One that labctl makes with KIND, and removes
    Kind,
    /// One that is there already, and that labctl never removes
    Existing,
}

impl Args {
    fn record(&self, world: &World) -> Result<Record> {
        let mut record = Record::read(world.settings())?.unwrap_or_default();
        let Ports {
            http,
            grpc,
            mtls,
            metrics,
            registry,
        } = &mut record.ports;
        for (asked, port) in [
            (self.http_port, http),
            (self.grpc_port, grpc),
            (self.mtls_port, mtls),
            (self.metrics_port, metrics),
            (self.registry_port, registry),
        ] {
            *port = asked.unwrap_or(*port);
        }
        match (self.cluster, &self.context) {
            (Some(Which::Existing), Some(context)) => {
                record.cluster = Origin::Existing {
                    context: context.clone(),
                    image: self.image.clone(),
                };
            }
            (Some(Which::Kind), _) => record.cluster = Origin::Kind,
            _ => {}
        }
        Ok(record)
    }

    /// Runs the verb.
    ///
    /// # Errors
    /// A step failed.
    pub async fn run(self, world: &World) -> Result<Outcome> {
        let record = self.record(world)?;
        let site = Site::new(world.clone(), record.clone(), self.images, self.recreate);
        let plan = up::plan(&site)?.only(&self.only)?;
        if self.plan {
            return preview(&plan, world).await;
        }
        let _lock = up::lock(world, "up").await?;
        if self.only.is_empty() && record.cluster == Origin::Kind && !world.settings().kubeconfig().exists() {
            up::preflight(world, record.ports).await?;
        }
        record.write(world.settings())?;
        let ran = plan.run(world.reporter()).await?;
        if self.merge_kubeconfig {
            crate::lab::step::cluster::merge_kubeconfig(&site).await?;
            world
                .reporter()
                .note(format!("your kubeconfig has the context `kind-{}` now", site.name()));
        }
        if ran == 0 {
            world.reporter().note("nothing to do: the lab is up");
        }
        Ok(Exit::Done)
    }
}

async fn preview(plan: &crate::lab::plan::Plan, world: &World) -> Result<Outcome> {
    let steps = plan.preview().await?;
    let mut text = String::new();
    for step in &steps {
        let mark = if step.run { "run " } else { "keep" };
        _ = writeln!(text, "{mark}  {:<14} {} ({})", step.step, step.title, step.why);
    }
    world.reporter().emit(Event::Planned { steps });
    if !world.settings().json {
        super::print(&text)?;
    }
    Ok(Exit::Done)
}
