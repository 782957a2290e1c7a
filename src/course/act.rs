//! Working on a chapter: start, solve, reset. Each brings files and cluster to a state, from whatever state they are in.

use anyhow::Result;

use super::catalogue::Entry;
use super::chapter::Chapter;
use super::progress::{Happened, Progress};
use super::python;
use super::setup::Step;
use super::stage::{Stage, Wants};
use super::workspace::{Files, LaidOut, Workspace};
use crate::assets;
use crate::lab::step::chart;
use crate::world::World;

/// Returns the files that a chapter lays out: those of `start` or `solution`, over the course's chart where the chapter
/// works on it.
///
/// # Errors
/// [`crate::error::Code::SpecUnreadable`].
pub fn files(entry: &Entry, chapter: &Chapter, part: &str) -> Result<Files> {
    let own = entry.files(part)?;
    let mut out = Files::new();
    if let Some(folder) = &chapter.chart {
        for (name, contents) in assets::files(chart::CHART) {
            let name = folder.join(name);
            if !own.iter().any(|(own, _)| *own == name) {
                out.push((name, contents.to_vec()));
            }
        }
    }
    out.extend(own);
    Ok(out)
}

/// Lays the chapter's files out and brings the cluster to where the chapter begins. Files of the learner stay.
///
/// # Errors
/// The lab is not up, a file cannot be written, or a program of the chapter failed.
pub async fn start(world: &World, entry: &Entry, chapter: &Chapter, workspace: &Workspace) -> Result<LaidOut> {
    need_lab(world, chapter).await?;
    let laid = workspace.lay_out(&files(entry, chapter, "start")?, false)?;
    give_python(world, entry, chapter, workspace).await?;
    let mut progress = Progress::read(workspace.root())?;
    run(world, entry, chapter, workspace, &chapter.setup.start, "start").await?;
    progress.add(&chapter.id, Happened::Started)?;
    Ok(laid)
}

/// Puts the reference solution in place of the learner's files, which are saved, and applies it.
///
/// # Errors
/// As [`start`]; and the chapter was never started.
pub async fn solve(world: &World, entry: &Entry, chapter: &Chapter, workspace: &Workspace) -> Result<LaidOut> {
    if !workspace.exists() {
        return Err(workspace.not_started(&chapter.id).error());
    }
    need_lab(world, chapter).await?;
    let laid = workspace.lay_out(&files(entry, chapter, "solution")?, true)?;
    give_python(world, entry, chapter, workspace).await?;
    let mut progress = Progress::read(workspace.root())?;
    run(world, entry, chapter, workspace, &chapter.setup.solve, "solve").await?;
    progress.add(&chapter.id, Happened::Solved)?;
    Ok(laid)
}

/// Removes what the chapter made in the cluster and puts its first files back; the learner's are saved.
///
/// # Errors
/// As [`solve`].
pub async fn reset(world: &World, entry: &Entry, chapter: &Chapter, workspace: &Workspace) -> Result<LaidOut> {
    if !workspace.exists() {
        return Err(workspace.not_started(&chapter.id).error());
    }
    need_lab(world, chapter).await?;
    run(world, entry, chapter, workspace, &chapter.setup.reset, "reset").await?;
    workspace.lay_out(&files(entry, chapter, "start")?, true)
}

async fn give_python(world: &World, entry: &Entry, chapter: &Chapter, workspace: &Workspace) -> Result<()> {
    if let Some(name) = &chapter.python {
        let list = entry.text(&format!("start/{name}"))?.unwrap_or_default();
        let python = python::prepare(world, &list).await?;
        python::link(&workspace.dir(), &python)?;
    }
    Ok(())
}

async fn run(
    world: &World,
    entry: &Entry,
    chapter: &Chapter,
    workspace: &Workspace,
    steps: &[Step],
    what: &str,
) -> Result<()> {
    let wants = Wants::default().steps(steps);
    let stage = Stage::new(world, Some(workspace), entry, chapter, &wants).await?;
    stage.run(steps, &format!("chapter-{}-{what}.log", chapter.id)).await
}

async fn need_lab(world: &World, chapter: &Chapter) -> Result<()> {
    if !chapter.lab {
        return Ok(());
    }
    // The error of the cluster says what to do.
    world.cluster().await.map(drop)
}
