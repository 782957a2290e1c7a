//! The Python of a chapter: a virtual environment with the packages that its `requirements.txt` pins.
//!
//! It is kept in labctl's cache under the digest of the list, so that every workspace and every selftest shares it; the
//! learner's folder has a link `.venv` to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::drive::exec::{Cmd, find_on_path};
use crate::drive::files::{self, Digest};
use crate::error::{Code, Diagnose, Diagnosis};
use crate::world::World;

/// How long the packages may take to arrive.
const LIMIT: Duration = Duration::from_secs(300);
/// The file that says that an environment is whole.
const WHOLE: &str = "labctl-whole";

/// Makes the environment where it is missing, and returns its `python`.
///
/// # Errors
/// [`Code::ToolMissing`] without a Python 3; [`Code::ProgramFailed`] where the packages cannot be had.
pub async fn prepare(world: &World, requirements: &str) -> Result<PathBuf> {
    let missing = || {
        Diagnosis::new(Code::ToolMissing, "this chapter needs Python 3 with its `venv` module")
            .hint("Debian and Ubuntu: sudo apt-get install python3 python3-venv")
            .hint("macOS: brew install python")
    };
    let python3 = find_on_path("python3").ok_or_else(|| missing().error())?;
    let version = world.exec().run(&Cmd::new(&python3).arg("--version")).await;
    let version = version.diagnose(missing)?.stdout;
    let digest = Digest::of(format!("{}\n{version}\n{requirements}", python3.display()).as_bytes());
    let dir = world.settings().dirs.cache().join("python").join(digest.short());
    let python = dir.join("bin/python");
    if dir.join(WHOLE).exists() && python.exists() {
        return Ok(python);
    }
    world
        .reporter()
        .note("getting the Python packages of this chapter (once; it takes some seconds)");
    let log = world.settings().log_dir().join("python.log");
    let make = Cmd::new(&python3)
        .args(["-m", "venv", "--clear"])
        .arg(&dir)
        .log(&log)
        .limit(LIMIT);
    world.exec().run(&make).await.diagnose(missing)?;
    let list = dir.join("requirements.txt");
    files::write(&list, requirements)?;
    let install = Cmd::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
        .arg(&list)
        .log(&log)
        .limit(LIMIT);
    world.exec().run(&install).await.diagnose(|| {
        Diagnosis::new(
            Code::ProgramFailed,
            "pip could not install the packages of this chapter",
        )
        .hint(format!("the whole output is in {}", log.display()))
    })?;
    files::write(&dir.join(WHOLE), "")?;
    Ok(python)
}

/// Puts the link `.venv` into a learner's folder. What is there and is no link is left alone.
///
/// # Errors
/// The link cannot be made.
pub fn link(workspace: &Path, python: &Path) -> Result<()> {
    let Some(venv) = python.parent().and_then(Path::parent) else {
        return Ok(());
    };
    let link = workspace.join(".venv");
    match std::fs::read_link(&link) {
        Ok(now) if now == venv => return Ok(()),
        Ok(_) => std::fs::remove_file(&link).map_err(|error| files::explain(error, "replace", &link))?,
        Err(_) if link.exists() => return Ok(()),
        Err(_) => {}
    }
    std::os::unix::fs::symlink(venv, &link).map_err(|error| files::explain(error, "make the link", &link))
}
