//! Removing containers, those too that cannot be killed.
//!
//! On cgroup v1, runc inside a node freezes a pod's cgroup for an instant while it sets devices. A node that is killed in
//! that instant leaves a frozen process behind, which no signal ends, and the engine waits for it for ever. Whoever
//! removes a container here keeps thawing what is below it until it is gone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use bollard::query_parameters as query;

use super::{Docker, absent_as_none, failed};
use crate::error::Diagnose;

/// Where the freezer of cgroup v1 has the engine's containers.
const FREEZER: &str = "/sys/fs/cgroup/freezer/docker";
const THAW_EVERY: Duration = Duration::from_millis(300);
/// How often the engine is asked again where it says that a container did not end.
const TRIES: u32 = 3;

impl Docker {
    /// Removes a container, running or not, with its anonymous volumes. One that is gone already is as good.
    ///
    /// # Errors
    /// [`crate::error::Code::EngineFailed`].
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let full = self
            .container(id)
            .await?
            .and_then(|container| container.id)
            .unwrap_or_else(|| id.to_owned());
        let options = query::RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        for _ in 1..TRIES {
            if self.remove_thawing(&full, options.clone()).await.is_ok() {
                return Ok(());
            }
        }
        self.remove_thawing(&full, options)
            .await
            .diagnose(|| failed(format!("remove the container `{id}`")))
    }

    async fn remove_thawing(
        &self,
        id: &str,
        options: query::RemoveContainerOptions,
    ) -> Result<(), bollard::errors::Error> {
        let removal = self.api().remove_container(id, Some(options));
        let thaw = async {
            let mut tick = tokio::time::interval(THAW_EVERY);
            // The first tick comes at once, before the engine has done anything.
            tick.tick().await;
            loop {
                tick.tick().await;
                thaw_below(&Path::new(FREEZER).join(id));
            }
        };
        tokio::select! {
            removed = removal => absent_as_none(removed).map(|_| ()),
            () = thaw => unreachable!("it has no end"),
        }
    }
}

/// Thaws every frozen cgroup below a folder of the freezer; what cannot be read or written is somebody else's machine.
fn thaw_below(dir: &Path) {
    for path in frozen(dir) {
        let file = std::fs::File::options().write(true).open(path);
        _ = file.and_then(|mut file| std::io::Write::write_all(&mut file, b"THAWED"));
    }
}

fn frozen(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        let state = dir.join("freezer.state");
        if std::fs::read_to_string(&state).is_ok_and(|state| state.trim() != "THAWED") {
            out.push(state);
        }
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        waiting.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::files;

    #[test]
    fn only_what_is_not_thawed_is_thawed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for (place, state) in [("a", "THAWED\n"), ("a/b", "FROZEN\n"), ("a/b/c", "FREEZING\n")] {
            files::write(&dir.path().join(place).join("freezer.state"), state).expect("written");
        }
        assert_eq!(frozen(dir.path()).len(), 2);
        thaw_below(dir.path());
        let text = std::fs::read_to_string(dir.path().join("a/b/freezer.state")).expect("there");
        assert!(text.starts_with("THAWED"), "{text}");
    }
}
