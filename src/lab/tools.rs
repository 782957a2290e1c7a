//! Temporary until the tools branch lands.
use crate::world::World;
use anyhow::Result;
use std::path::PathBuf;

/// A tool.
#[derive(Clone, Copy)]
pub enum Tool {
    /// kind
    Kind,
    /// kubectl
    Kubectl,
    /// helm
    Helm,
}

/// Finds.
///
/// # Errors
/// never
pub fn find(world: &World, tool: Tool) -> Result<PathBuf> {
    let programs = super::programs::Programs::new(&world.settings().dirs);
    Ok(match tool {
        Tool::Kind => programs.path("kind"),
        Tool::Kubectl => programs.path("kubectl"),
        Tool::Helm => programs.path("helm"),
    })
}
