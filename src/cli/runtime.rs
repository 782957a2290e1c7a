//! labctl as an OCI runtime: the real one, asked for no more than this machine can give.
//!
//! Docker 20.10 asks for every capability it knows when a container is privileged. Where the machine's bounding set
//! lacks one (CAP_SYS_RESOURCE on some sandboxes), runc fails with "unable to apply caps: operation not permitted". The
//! engine that labctl manages on such a machine runs a copy of labctl under the name [`RUNTIME`](capability::RUNTIME) instead of runc: it takes
//! what the bounding set lacks out of the container's (or exec's) spec, and then becomes runc.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::lab::capability::{self, RUNTIME as NAME};

/// Becomes the runtime where this process was started under its name; returns nothing otherwise.
pub fn main_if_called() -> Option<ExitCode> {
    let mut args = std::env::args_os();
    let name = args.next()?;
    if Path::new(&name).file_name() != Some(OsStr::new(NAME)) {
        return None;
    }
    let args: Vec<OsString> = args.collect();
    let error = match bound(&args) {
        Ok(()) => become_runc(&args),
        Err(error) => error,
    };
    // containerd shows what a runtime writes here when it fails.
    _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{NAME}: {error:#}\n").as_bytes());
    Some(ExitCode::FAILURE)
}

fn bound(args: &[OsString]) -> Result<()> {
    let Some(spec) = spec_file(args) else {
        return Ok(());
    };
    let bounding = capability::bounding_set()?;
    let text = std::fs::read_to_string(&spec).with_context(|| format!("read `{}`", spec.display()))?;
    if let Some(changed) = capability::without_missing(&text, bounding)? {
        // In place: containerd made the file, and its owner and mode are its own.
        let mut file = std::fs::File::options().write(true).truncate(true).open(&spec)?;
        std::io::Write::write_all(&mut file, changed.as_bytes())?;
    }
    Ok(())
}

/// Returns the file that says which capabilities a call asks for: `config.json` of the bundle for `create` and `run`,
/// the process file for `exec`.
fn spec_file(args: &[OsString]) -> Option<PathBuf> {
    let flag = |names: &[&str]| {
        args.iter().enumerate().find_map(|(i, arg)| {
            let arg = arg.to_str()?;
            names.iter().find_map(|name| {
                if arg == *name {
                    args.get(i + 1).map(PathBuf::from)
                } else {
                    arg.strip_prefix(name)?.strip_prefix('=').map(PathBuf::from)
                }
            })
        })
    };
    let verb = args
        .iter()
        .find(|arg| ["create", "run", "restore", "exec"].iter().any(|verb| *arg == *verb))?;
    if verb == "exec" {
        return flag(&["--process", "-p"]);
    }
    Some(flag(&["--bundle", "-b"]).unwrap_or_default().join("config.json"))
}

/// Replaces this process by runc; returns only if that fails.
fn become_runc(args: &[OsString]) -> anyhow::Error {
    let found = [
        "/usr/bin/runc",
        "/usr/sbin/runc",
        "/usr/local/sbin/runc",
        "/usr/local/bin/runc",
    ]
    .iter()
    .map(Path::new)
    .find(|path| path.exists());
    let Some(runc) = found else {
        return anyhow::anyhow!("no runc in /usr/bin, /usr/sbin or below /usr/local");
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "the process is replaced, so no exit code can be lost"
    )]
    let error = std::process::Command::new(runc).arg0("runc").args(args).exec();
    anyhow::Error::new(error).context(format!("start `{}`", runc.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(line: &str) -> Option<PathBuf> {
        spec_file(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_spec_of_each_call_is_found() {
        // These are the shapes that containerd's shim of Docker 20.10 uses.
        let create = "--root /r --log /b/log.json --log-format json create --bundle /b --pid-file /b/init.pid ID";
        let exec = "--root /r --log /b/log.json --log-format json exec --process /tmp/runc-process1 --detach --pid-file /b/e.pid ID";
        assert_eq!(spec(create), Some("/b/config.json".into()));
        assert_eq!(spec(exec), Some("/tmp/runc-process1".into()));
        assert_eq!(spec("--root /r start ID"), None);
        assert_eq!(spec("--root /r delete --force ID"), None);
        assert_eq!(spec("run --bundle=/b ID"), Some("/b/config.json".into()));
    }
}
