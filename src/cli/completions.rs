//! `labctl completions`.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Outcome, print};
use crate::error::Exit;

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
For bash: labctl completions bash > ~/.local/share/bash-completion/completions/labctl
For zsh: labctl completions zsh > \"${fpath[1]}/_labctl\"
For fish: labctl completions fish > ~/.config/fish/completions/labctl.fish")]
pub struct Args {
    /// The shell
    shell: Shell,
}

impl Args {
    /// Prints the script.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn run(&self) -> Result<Outcome> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "labctl", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_the_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "labctl", &mut script);
            let script = String::from_utf8(script).expect("text");
            for verb in ["up", "teardown", "serve", "completions"] {
                assert!(script.contains(verb), "{shell}: {verb}");
            }
        }
    }
}
