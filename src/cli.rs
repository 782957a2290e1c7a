//! The command line: clap types and dispatch. One file a verb.

pub mod blog;
pub mod chapter;
pub mod completions;
pub mod dashboard;
pub mod doctor;
pub mod healthcheck;
pub mod image;
pub mod jobs;
pub mod keeper;
pub mod probe;
pub mod prose;
pub mod runtime;
pub mod schema;
pub mod serve;
pub mod status;
pub mod teardown;
pub mod tools;
pub mod up;

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::config::{self, Dirs, LabName, Settings};
use crate::error::{Code, Diagnosis, Exit, exit_of, render};
use crate::lab::versions;
use crate::report::Reporter;
use crate::report::event::Event;
use crate::report::human::{Human, Styles};
use crate::report::json::Json;
use crate::report::json::millis;
use crate::report::progress::Progress;
use crate::world::World;

const BEGIN: &str = "Begin with `labctl up`; `labctl chapter list` shows what there is to learn.";

/// What a verb came to when it did not fail.
pub type Outcome = Exit;

/// Drive the lab of a hands-on Kubernetes course: a real KIND cluster, its images, charts and checks
#[derive(Debug, Parser)]
#[command(name = "labctl", version, propagate_version = true, disable_help_subcommand = true)]
#[command(after_long_help = environment())]
#[command(after_help = BEGIN)]
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
#[expect(
    missing_docs,
    reason = "clap would show it in place of what the `Args` of a verb say: their first paragraph alone, or all of them"
)]
pub enum Verb {
    Up(up::Args),
    Chapter(chapter::Args),
    Status(status::Args),
    Image(image::Args),
    Teardown(teardown::Args),
    Doctor(doctor::Args),
    Kubectl(tools::Kubectl),
    Helm(tools::Helm),
    Env(tools::Env),
    Serve(serve::Args),
    Healthcheck(healthcheck::Args),
    Dashboard(dashboard::Args),
    Jobs(jobs::Args),
    Prose(prose::Args),
    Schema(schema::Args),
    Blog(blog::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Probe(probe::Args),
}

/// Returns the end of `labctl --help`: where to begin, and the environment variables.
fn environment() -> String {
    let mut text = format!("{BEGIN}\n\nEnvironment variables:\n");
    for variable in config::VARIABLES {
        _ = writeln!(text, "  {}\n          {}", variable.name, variable.about);
    }
    text
}

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
            json: self.json,
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
        match self.verb {
            Verb::Up(args) => args.run(world).await,
            Verb::Chapter(args) => args.run(world).await,
            Verb::Status(args) => args.run(world).await,
            Verb::Image(args) => args.run(world).await,
            Verb::Teardown(args) => args.run(world).await,
            Verb::Doctor(args) => args.run(world).await,
            Verb::Kubectl(args) => args.run(world).await,
            Verb::Helm(args) => args.run(world).await,
            Verb::Env(args) => args.run(world).await,
            Verb::Serve(args) => args.run().await,
            Verb::Healthcheck(args) => args.run(&self.global).await,
            Verb::Dashboard(args) => args.run(world),
            Verb::Jobs(args) => args.run(world).await,
            Verb::Prose(args) => args.run(&self.global).await,
            Verb::Schema(args) => args.run(),
            Verb::Blog(args) => args.run(&self.global).await,
            Verb::Completions(args) => args.run(),
            Verb::Probe(args) => args.run().await,
        }
    }
}

/// Parses the command line, runs the verb, prints what is to be said at the end, and returns the exit code.
pub fn main() -> ExitCode {
    // The engine calls the copy of labctl that is its OCI runtime by another name; nothing else may happen first.
    if let Some(code) = runtime::main_if_called() {
        return code;
    }
    if let Some(code) = keeper::main_if_called() {
        return code;
    }
    guarded(parse_and_run)
}

/// Runs labctl and gives a panic the exit code of a bug.
fn guarded(work: impl FnOnce() -> ExitCode + std::panic::UnwindSafe) -> ExitCode {
    // The panic's own message, with its place, is on standard error already.
    std::panic::catch_unwind(work).unwrap_or_else(|_| {
        let error = Diagnosis::new(Code::Bug, "labctl has a bug; the lines above say where")
            .hint("run the same command again; please report it with those lines")
            .error();
        say_and_exit(&error)
    })
}

fn parse_and_run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap says where help goes (stdout) and where errors go (stderr); a closed pipe is nobody's problem.
            _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return say_and_exit(&anyhow::Error::new(error).context("start the runtime")),
    };
    let code = runtime.block_on(async {
        // These need no world, and run where none can be built: in the dashboard's image there is neither a home
        // directory nor a CA bundle. The server also has its own idea of what a signal means.
        match cli.verb {
            Verb::Serve(args) => exit_alone(args.run().await),
            Verb::Healthcheck(args) => exit_alone(args.run(&cli.global).await),
            Verb::Prose(args) => exit_alone(args.run(&cli.global).await),
            Verb::Schema(args) => exit_alone(args.run()),
            Verb::Blog(args) => exit_alone(args.run(&cli.global).await),
            Verb::Completions(args) => exit_alone(args.run()),
            Verb::Probe(args) => exit_alone(args.run().await),
            _ => run_to_exit(cli).await,
        }
    });
    // A blocking task that still runs (a file being hashed) must not hold the process after the last word.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

async fn run_to_exit(cli: Cli) -> ExitCode {
    let start = Instant::now();
    let reporter = cli.global.reporter();
    let built = versions::choose()
        .and_then(|()| cli.global.settings())
        .and_then(|settings| World::real(settings, reporter.clone()));
    let world = match built {
        Ok(world) => world,
        Err(error) => return say_and_exit(&error),
    };
    let again = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let outcome = tokio::select! {
        outcome = cli.run(&world) => outcome,
        () = interrupted() => Err(Diagnosis::new(Code::Interrupted, "stopped before it was done")
            .hint(format!("labctl {again} goes on from here"))
            .error()),
    };
    reporter.finish();
    let (code, word) = match &outcome {
        Ok(exit) if exit.code() == 0 => (*exit, "done"),
        Ok(Exit::Unmet) => (Exit::Unmet, "unmet"),
        Ok(exit) => (*exit, "failed"),
        Err(error) if exit_of(error) == Exit::Interrupted => (Exit::Interrupted, "interrupted"),
        Err(error) => (exit_of(error), "failed"),
    };
    reporter.emit(Event::Finished {
        outcome: word.to_owned(),
        elapsed_ms: millis(start.elapsed()),
    });
    if let Err(error) = outcome {
        if is_closed_pipe(&error) {
            return Exit::Done.into();
        }
        return say_and_exit(&error);
    }
    code.into()
}

fn exit_alone(outcome: Result<Outcome>) -> ExitCode {
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) if is_closed_pipe(&error) => Exit::Done.into(),
        Err(error) => say_and_exit(&error),
    }
}

fn say_and_exit(error: &anyhow::Error) -> ExitCode {
    _ = std::io::stderr().write_all(render(error).as_bytes());
    exit_of(error).into()
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}

/// Prints what was asked for on standard output.
///
/// # Errors
/// Standard output cannot be written; `main` ends quietly where the reader went away.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Reads a time on the command line, such as `5s`, `1m 30s` or `0`.
///
/// # Errors
/// It is not one, or it is negative.
fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|time| time.try_into().ok())
        .ok_or_else(|| "it must be a time such as 500ms, 5s or 1m 30s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_gives_the_exit_code_of_a_bug() {
        let code = guarded(|| panic!("for the test"));
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(Exit::Bug)));
    }
}
