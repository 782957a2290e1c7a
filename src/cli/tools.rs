//! `labctl kubectl`, `labctl helm` and `labctl env`: the lab's own cluster for the tools that users know.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;

use super::Outcome;
use crate::config;
use crate::drive::exec::{Cmd, become_program};
use crate::error::{Code, Diagnosis, Exit};
use crate::lab::tools::{Origin, Tool, find, locate};
use crate::world::World;

/// Run kubectl on the lab's cluster
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct Kubectl {
    /// What to give to kubectl, word for word
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Run helm on the lab's cluster
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct Helm {
    /// What to give to helm, word for word
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Print the lab's environment for a shell: eval "$(labctl env)"
#[derive(Debug, clap::Args)]
pub struct Env {
    /// The shell that reads it
    #[arg(long, value_enum, default_value = "bash")]
    shell: Shell,
}

/// A shell, by the way it sets variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash, zsh and other POSIX shells
    Bash,
    /// fish
    Fish,
}

impl Kubectl {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Code::ClusterMissing`] or [`Code::ToolMissing`]; kubectl's own failure is its exit code.
    pub async fn run(self, world: &World) -> Result<Outcome> {
        run(world, Tool::Kubectl, self.arguments).await
    }
}

impl Helm {
    /// Runs the verb.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub async fn run(self, world: &World) -> Result<Outcome> {
        run(world, Tool::Helm, self.arguments).await
    }
}

async fn run(world: &World, tool: Tool, arguments: Vec<OsString>) -> Result<Outcome> {
    let kubeconfig = kubeconfig(world)?;
    let path = find(world, tool).await?;
    world.reporter().finish();
    let cmd = Cmd::new(path).args(arguments).on_cluster(kubeconfig);
    Err(become_program(&cmd).into())
}

fn kubeconfig(world: &World) -> Result<PathBuf> {
    let settings = world.settings();
    let path = settings.kubeconfig();
    if path.exists() {
        return Ok(path);
    }
    let message = format!("the lab `{}` has no cluster", settings.lab);
    Err(Diagnosis::new(Code::ClusterMissing, message)
        .hint("labctl up makes it")
        .error())
}

impl Env {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Code::ClusterMissing`].
    pub async fn run(self, world: &World) -> Result<Outcome> {
        let mut variables = vec![("KUBECONFIG", kubeconfig(world)?.into_os_string())];
        if let Ok(docker) = world.docker().await {
            variables.push(("DOCKER_HOST", docker.host().into()));
        }
        variables.extend(path(world).await?.map(|path| ("PATH", path)));
        let text = if world.settings().json {
            let map: serde_json::Map<_, _> = variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.to_string_lossy().into()))
                .collect();
            format!("{}\n", serde_json::Value::Object(map))
        } else {
            script(&variables, self.shell)
        };
        super::print(&text)?;
        Ok(Exit::Done)
    }
}

/// Returns PATH with the directories of labctl's own tools in front, where there are such.
async fn path(world: &World) -> Result<Option<OsString>> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    for tool in Tool::ALL {
        let Some(found) = locate(world, tool).await? else {
            continue;
        };
        let dir = found.path.parent().map(Path::to_owned);
        dirs.extend(dir.filter(|dir| found.origin != Origin::Path && !dirs.contains(dir)));
    }
    if dirs.is_empty() {
        return Ok(None);
    }
    let now = config::variable("PATH").unwrap_or_default();
    // Evaluated twice, PATH must not grow.
    dirs.extend(
        std::env::split_paths(&now)
            .filter(|dir| !dirs.contains(dir))
            .collect::<Vec<_>>(),
    );
    Ok(std::env::join_paths(dirs).ok())
}

fn script(variables: &[(&str, OsString)], shell: Shell) -> String {
    let mut out = String::new();
    for (name, value) in variables {
        let value = value.to_string_lossy();
        match shell {
            Shell::Bash => _ = writeln!(out, "export {name}='{}'", value.replace('\'', r"'\''")),
            Shell::Fish => {
                let quoted = |word: &str| format!("'{}'", word.replace('\\', r"\\").replace('\'', r"\'"));
                let words: Vec<String> = if *name == "PATH" {
                    value.split(':').map(quoted).collect()
                } else {
                    vec![quoted(&value)]
                };
                _ = writeln!(out, "set -gx {name} {}", words.join(" "));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_meant() {
        let variables = [
            ("KUBECONFIG", OsString::from("/it's here/$HOME")),
            ("PATH", "/a:/b".into()),
        ];
        assert_eq!(
            script(&variables, Shell::Bash),
            "export KUBECONFIG='/it'\\''s here/$HOME'\nexport PATH='/a:/b'\n"
        );
        assert_eq!(
            script(&variables, Shell::Fish),
            "set -gx KUBECONFIG '/it\\'s here/$HOME'\nset -gx PATH '/a' '/b'\n"
        );
    }
}
