//! What others, or a labctl that was killed, have left: programs of the same name, stale files.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{OtherLabctl, Stale, text};
use crate::config::{self, Settings};
use crate::drive::{exec, files};

pub(super) fn others() -> Vec<OtherLabctl> {
    let own = std::env::current_exe().and_then(std::fs::canonicalize).ok();
    let mut out: Vec<OtherLabctl> = Vec::new();
    let mut own_seen = false;
    for path in exec::all_on_path("labctl") {
        let real = std::fs::canonicalize(&path).ok();
        if real.is_some() && real == own {
            own_seen = true;
        } else if !out.iter().any(|known| known.path == path) {
            let which = which_labctl(&path);
            out.push(OtherLabctl {
                path,
                which,
                first: !own_seen,
            });
        }
    }
    if let Some(home) = config::variable("HOME") {
        let usual = Path::new(&home).join(".iximiuz/labctl/bin/labctl");
        if usual.exists() && !out.iter().any(|known| known.path == usual) {
            out.push(OtherLabctl {
                which: which_labctl(&usual),
                path: usual,
                first: false,
            });
        }
    }
    out
}

/// Tells which program a file named labctl is, by what is written in it; it is not run.
fn which_labctl(path: &Path) -> Option<&'static str> {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if real.to_string_lossy().contains("/.iximiuz/") {
        return Some("the CLI of iximiuz Labs");
    }
    let bytes = std::fs::read(&real).ok()?;
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    if has(b"iximiuz/labctl") {
        return Some("the CLI of iximiuz Labs");
    }
    let first = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if first.starts_with(b"#!") && first.windows(6).any(|window| window == b"python") {
        return Some("a Python package's script");
    }
    has(b"LAB-ENV-001").then_some("another copy of this program")
}

pub(super) fn stale(settings: &Settings) -> Vec<Stale> {
    let mut out = Vec::new();
    let hour_ago = SystemTime::now().checked_sub(Duration::from_secs(3600));
    for path in files::walk(settings.dirs.state()).unwrap_or_default() {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let pid_file = path.extension().is_some_and(|extension| extension == "pid");
        let old = path
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| hour_ago.is_some_and(|limit| time < limit));
        if pid_file {
            let pid = text(&path)
                .trim()
                .parse::<i32>()
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            // A process of another user cannot be signalled and is alive all the same.
            let alive = pid.is_some_and(|pid| {
                !matches!(rustix::process::test_kill_process(pid), Err(error) if error == rustix::io::Errno::SRCH)
            });
            if !alive {
                out.push(Stale {
                    why: format!("no process has the number {}", text(&path).trim()),
                    path,
                });
            }
        } else if name.starts_with(".labctl-") && old {
            out.push(Stale {
                path,
                why: "a file that was being written when labctl was killed".into(),
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_labctl_is_known_by_what_is_in_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("labctl");
        files::write(&file, b"\x7fELF..github.com/iximiuz/labctl/cmd..").expect("written");
        assert_eq!(which_labctl(&file), Some("the CLI of iximiuz Labs"));
        files::write(&file, b"#!/usr/bin/python3\nimport labctl\n").expect("written");
        assert_eq!(which_labctl(&file), Some("a Python package's script"));
        files::write(&file, b"#!/bin/sh\n").expect("written");
        assert_eq!(which_labctl(&file), None);
    }

    #[test]
    fn a_pid_file_without_its_process_is_stale() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let settings = Settings {
            lab: config::LabName::parse("labctl").expect("a name"),
            dirs: config::Dirs::new(dir.path().join("state"), dir.path().join("cache")),
            yes: false,
            json: false,
            ask: false,
        };
        let alive = settings.dirs.engine().join("alive.pid");
        let dead = settings.dirs.engine().join("dead.pid");
        files::write(&alive, std::process::id().to_string()).expect("written");
        // The highest number that Linux gives is 4194304.
        files::write(&dead, "4999999").expect("written");
        let found = stale(&settings);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].path, dead);
    }
}
