//! The git hook: what is committed is looked at before it is committed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::drive::exec::{Cmd, Exec, ExecError};
use crate::drive::files;
use crate::error::{Code, Diagnosis};

/// By this line a hook of ours is known.
const MARK: &str = "# The pre-commit hook of `labctl prose`; `labctl prose hook remove` takes it away.";

/// Returns the hook. It does nothing where labctl is not on PATH, so that a clone without it can commit.
fn script() -> String {
    format!(
        "#!/bin/sh\n{MARK}\n# It looks at what is staged. `git commit --no-verify` goes past it.\n\
         command -v labctl >/dev/null 2>&1 || {{\n    echo 'labctl is not on PATH: the prose is not checked' >&2\n    exit 0\n}}\n\
         exec labctl prose check --staged\n"
    )
}

/// Asks git where a repository's hooks are.
async fn place(exec: &dyn Exec, dir: &Path) -> Result<PathBuf> {
    let cmd = Cmd::new("git").args(["rev-parse", "--git-path", "hooks"]).dir(dir);
    let output = exec
        .run(&cmd)
        .await
        .map_err(|error| no_repository(error, dir, "run it in a repository, or make one with `git init`"))?;
    Ok(dir
        .join(output.stdout.trim_end_matches(['\n', '\r']))
        .join("pre-commit"))
}

/// Says why git did not answer: it is not there, or the directory is in no repository.
fn no_repository(error: ExecError, dir: &Path, hint: &str) -> anyhow::Error {
    let diagnosis = if error.not_found() {
        Diagnosis::new(Code::ToolMissing, "git is not on PATH").hint("install git; Debian's package is `git`")
    } else {
        let text = format!("`{}` is not in a git repository", dir.display());
        Diagnosis::new(Code::Arguments, text).hint(hint)
    };
    anyhow::Error::new(error).context(diagnosis)
}

/// What there was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The hook was written, or removed.
    Changed,
    /// It was already so.
    Nothing,
}

/// Installs the hook in the repository of a directory; a hook of somebody else is never touched.
///
/// # Errors
/// There is no repository, another hook is there, or the file cannot be written.
pub async fn install(exec: &dyn Exec, dir: &Path) -> Result<(PathBuf, Done)> {
    let path = place(exec, dir).await?;
    match std::fs::read_to_string(&path) {
        Ok(text) if text == script() => return Ok((path, Done::Nothing)),
        Ok(text) if !text.contains(MARK) => {
            return Err(foreign(&path)
                .hint("add the line `labctl prose check --staged` to it by hand")
                .error());
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(foreign(&path).error()),
        _ => {}
    }
    files::write_executable(&path, script())?;
    Ok((path, Done::Changed))
}

/// Removes the hook from the repository of a directory.
///
/// # Errors
/// As [`install`].
pub async fn remove(exec: &dyn Exec, dir: &Path) -> Result<(PathBuf, Done)> {
    let path = place(exec, dir).await?;
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((path, Done::Nothing)),
        Ok(text) if text.contains(MARK) => {
            std::fs::remove_file(&path).with_context(|| format!("remove `{}`", path.display()))?;
            Ok((path, Done::Changed))
        }
        _ => Err(foreign(&path).hint("remove it by hand if it is not wanted").error()),
    }
}

fn foreign(path: &Path) -> Diagnosis {
    Diagnosis::new(
        Code::Foreign,
        format!("`{}` is a hook that labctl did not write", path.display()),
    )
}

/// Lays out what is staged below a directory, byte for byte as a checkout would, and returns the files' names as the
/// repository has them.
///
/// # Errors
/// There is no repository, or git cannot write the files.
pub async fn staged(exec: &dyn Exec, dir: &Path, to: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    let git = |args: &[&str]| Cmd::new("git").args(args).dir(dir);
    let top = exec
        .run(&git(&["rev-parse", "--show-toplevel"]))
        .await
        .map_err(|error| {
            no_repository(
                error,
                dir,
                "--staged needs one; without it the files on disk are looked at",
            )
        })?;
    let top = PathBuf::from(top.stdout.trim_end_matches(['\n', '\r']));
    let list = [
        "diff",
        "--cached",
        "--name-only",
        "-z",
        "--no-renames",
        "--diff-filter=ACM",
    ];
    let names = exec.run(&Cmd::new("git").args(list).dir(&top)).await?.stdout;
    let names: Vec<&str> = names
        .split('\0')
        .map(|name| name.trim_matches('\n'))
        .filter(|name| !name.is_empty())
        .collect();
    if names.is_empty() {
        return Ok((top, Vec::new()));
    }
    let prefix = format!("--prefix={}/", to.display());
    let cmd = Cmd::new("git")
        .args(["checkout-index", "-q", "-z", "--stdin", &prefix])
        .dir(&top);
    exec.run(&cmd.stdin(names.join("\0") + "\0")).await?;
    Ok((top, names.into_iter().map(PathBuf::from).collect()))
}
