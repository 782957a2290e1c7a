//! `labctl status`.

use std::fmt::Write as _;

use anyhow::Result;

use super::Outcome;
use crate::error::Exit;
use crate::lab::status::{self, Part, Status};
use crate::report::human::size;
use crate::world::World;

/// Show what there is of the lab: engine, cluster, dashboard, releases, images
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    /// Runs the verb; a lab that is not wholly up gives [`Exit::Environment`].
    ///
    /// # Errors
    /// The lab's record cannot be read.
    pub async fn run(self, world: &World) -> Result<Outcome> {
        let status = status::look(world).await?;
        if world.settings().json {
            super::print(&(serde_json::to_string(&status)? + "\n"))?;
        } else {
            super::print(&text(&status))?;
        }
        Ok(if status.up { Exit::Done } else { Exit::Environment })
    }
}

fn text(status: &Status) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: &str| _ = writeln!(out, "{name:<11} {text}");
    line(
        "lab",
        &format!("{} ({})", status.lab, if status.up { "up" } else { "not up" }),
    );
    line(
        "engine",
        &part(&status.engine, |engine| {
            let managed = if engine.managed { ", managed by labctl" } else { "" };
            format!("Docker {} at {}{managed}", engine.version, engine.host)
        }),
    );
    line(
        "cluster",
        &part(&status.cluster, |cluster| {
            let nodes: Vec<String> = cluster
                .nodes
                .iter()
                .map(|node| format!("{} {}", node.name, if node.ready { "Ready" } else { "not Ready" }))
                .collect();
            format!("Kubernetes {}: {}", cluster.version, nodes.join(", "))
        }),
    );
    line("dashboard", &part(&status.dashboard, |dashboard| dashboard.url.clone()));
    line("registry", &part(&status.registry, |registry| registry.address.clone()));
    for release in &status.releases {
        line(
            "release",
            &format!(
                "{}/{} revision {} {}",
                release.namespace, release.name, release.revision, release.status
            ),
        );
    }
    for image in &status.images {
        let left = if image.name.starts_with("sha256:") {
            ", which a newer one replaced (labctl image prune)"
        } else {
            ""
        };
        line("image", &format!("{} {}{left}", image.name, size(image.bytes)));
    }
    line("kubeconfig", &status.kubeconfig);
    if !status.up {
        line("next", "labctl up makes what is missing");
    }
    out
}

fn part<T>(part: &Part<T>, there: impl FnOnce(&T) -> String) -> String {
    match part {
        Part::There(thing) => there(thing),
        Part::Missing(why) => format!("none: {why}"),
    }
}
