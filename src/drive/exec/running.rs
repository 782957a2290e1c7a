//! A program that runs beside labctl, for as long as it is needed.

use std::path::Path;
use std::time::Duration;

use super::{Cmd, ExecError, Group, alone, not_started};

/// A program that runs beside labctl. It and its children end when this is dropped.
pub struct Running {
    child: tokio::process::Child,
    group: Group,
}

impl Running {
    /// Starts a program whose output goes to a file, of which an older one is removed.
    ///
    /// # Errors
    /// The file cannot be made or the program cannot be started.
    pub fn start(cmd: &Cmd, output: &Path) -> Result<Self, ExecError> {
        match std::fs::remove_file(output) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                let line = cmd.line();
                return Err(ExecError::Io { line, source });
            }
            _ => {}
        }
        let child = alone(cmd, output)?.spawn();
        let child = child.map_err(|source| not_started(cmd, source))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Self {
            group: Group(pid.and_then(rustix::process::Pid::from_raw)),
            child,
        })
    }

    /// Returns how it ended, in words, if it did.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(match status.code() {
            Some(code) => format!("exit {code}"),
            None => status.to_string(),
        })
    }

    /// Asks it to end (SIGTERM), and makes it (SIGKILL) after a time.
    pub async fn stop(mut self, patience: Duration) {
        if let Some(pid) = self.group.0 {
            _ = rustix::process::kill_process_group(pid, rustix::process::Signal::TERM);
        }
        _ = tokio::time::timeout(patience, self.child.wait()).await;
    }
}
