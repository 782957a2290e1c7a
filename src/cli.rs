//! The command line: clap types and dispatch. One file a verb.

use std::io::IsTerminal;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::config::{self, Dirs, LabName, Settings};
use crate::error::Exit;
use crate::report::Reporter;
use crate::report::human::{Human, Styles};
use crate::report::json::Json;
use crate::report::progress::Progress;
use crate::world::World;

/// What a verb came to when it did not fail.
pub type Outcome = Exit;

/// Drive the lab of a hands-on Kubernetes course: a real KIND cluster, its images, charts and checks
#[derive(Debug, Parser)]
#[command(name = "labctl", version, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Begin with `labctl up`; `labctl chapter list` shows what there is to learn.")]
pub struct Cli {
    /// Options that every verb takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options that every verb takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The lab to work on; each has its own cluster, network and state
    #[arg(long, global = true, env = "LABCTL_LAB", default_value = LabName::DEFAULT, value_name = "NAME")]
    pub lab: String,
    /// Print what was asked for, and events, as JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only results, warnings and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Answer every question with yes
    #[arg(long, short, global = true, env = "LABCTL_YES", value_parser = clap::builder::FalseyValueParser::new())]
    pub yes: bool,
}

/// What labctl can do.
#[derive(Debug, Subcommand)]
pub enum Verb {}

impl Global {
    /// Resolves flags and environment into settings.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn settings(&self) -> Result<Settings> {
        Ok(Settings {
            lab: LabName::parse(&self.lab)?,
            dirs: Dirs::from_environment()?,
            yes: self.yes,
            ask: std::io::stdin().is_terminal() && std::io::stderr().is_terminal() && config::variable("CI").is_none(),
        })
    }

    /// Chooses how events are shown.
    pub fn reporter(&self) -> Reporter {
        if self.json {
            return Reporter::new(Json::new(std::io::stdout()));
        }
        let terminal = std::io::stderr().is_terminal();
        let styles = if terminal && config::variable("NO_COLOR").is_none() {
            Styles::colour()
        } else {
            Styles::default()
        };
        if terminal && !self.quiet && config::variable("CI").is_none() {
            return Reporter::new(Progress::new(indicatif::ProgressDrawTarget::stderr_with_hz(8), styles));
        }
        Reporter::new(Human::new(std::io::stderr(), styles, self.quiet))
    }
}

impl Cli {
    /// Runs the verb.
    ///
    /// # Errors
    /// labctl could not do its job; a criterion that is not met is [`Exit::Unmet`], not an error.
    pub async fn run(self, world: &World) -> Result<Outcome> {
        _ = world;
        match self.verb {}
    }
}

/// Parses the command line, runs the verb, prints what is to be said at the end, and returns the exit code.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
