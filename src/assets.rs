//! The files compiled into the binary: `assets/`, `charts/` and `labs/`.
//!
//! A released `labctl` is one file that needs no checkout beside it. Helm and the Go toolchain want real files; for
//! them [`unpack`] lays a folder out on disk.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use include_dir::{Dir, DirEntry, include_dir};

use crate::drive::files;

static ASSETS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/assets");
static CHARTS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/charts");
static LABS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/labs");

/// Returns the folder at a path such as `assets/go` or `charts/job-dashboard`.
pub fn folder(path: &str) -> Option<&'static Dir<'static>> {
    let (top, rest) = path.split_once('/').unwrap_or((path, ""));
    let dir = match top {
        "assets" => &ASSETS,
        "charts" => &CHARTS,
        "labs" => &LABS,
        _ => return None,
    };
    if rest.is_empty() { Some(dir) } else { dir.get_dir(rest) }
}

/// Returns the text of an embedded file, such as `assets/versions.toml`.
pub fn text(path: &str) -> Option<&'static str> {
    let (top, within) = path.split_once('/')?;
    folder(top)?.get_file(within)?.contents_utf8()
}

/// Returns every file below a folder with its path relative to the folder, sorted by path.
pub fn files(path: &str) -> Vec<(PathBuf, &'static [u8])> {
    fn walk(dir: &'static Dir<'static>, base: &Path, out: &mut Vec<(PathBuf, &'static [u8])>) {
        for entry in dir.entries() {
            match entry {
                DirEntry::Dir(inner) => walk(inner, base, out),
                DirEntry::File(file) => {
                    let relative = file.path().strip_prefix(base).unwrap_or(file.path());
                    out.push((relative.to_owned(), file.contents()));
                }
            }
        }
    }
    let mut out = Vec::new();
    if let Some(dir) = folder(path) {
        walk(dir, dir.path(), &mut out);
    }
    out.sort();
    out
}

/// Returns a digest over the names and contents of every file below a folder.
pub fn digest(path: &str) -> files::Digest {
    let mut hasher = files::Hasher::default();
    for (name, contents) in files(path) {
        hasher.field(name.to_string_lossy().as_bytes());
        hasher.field(contents);
    }
    hasher.finish()
}

/// Lays a folder out below `to`, which gets exactly these files: others that are there are removed.
///
/// Files that are as they should be are left alone, so that tools which look at times see no change.
///
/// # Errors
/// The folder is not embedded, or a file cannot be written.
pub fn unpack(path: &str, to: &Path) -> Result<()> {
    let wanted = files(path);
    anyhow::ensure!(!wanted.is_empty(), "`{path}` is not part of this binary");
    for (name, contents) in &wanted {
        let target = to.join(name);
        if std::fs::read(&target).is_ok_and(|now| now == *contents) {
            continue;
        }
        files::write(&target, contents).with_context(|| format!("lay out `{}`", target.display()))?;
    }
    for stray in files::walk(to)? {
        let relative = stray.strip_prefix(to).unwrap_or(&stray);
        if !wanted.iter().any(|(name, _)| name == relative) {
            std::fs::remove_file(&stray).with_context(|| format!("remove `{}`", stray.display()))?;
        }
    }
    Ok(())
}
