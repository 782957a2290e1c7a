//! The server's log: on standard output, because that is what `labctl serve` is asked for.

use anyhow::{Context, Result};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// In which form the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line
    Json,
    /// One line of text a message
    Text,
}

/// The least important messages that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// What failed
    Error,
    /// What may become a problem
    Warn,
    /// One line a request, and what the server does with itself
    Info,
    /// What helps to find a fault
    Debug,
    /// Everything
    Trace,
}

impl Level {
    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// Sends what is traced from now on to standard output.
///
/// The level is that of labctl's own messages; libraries are kept to warnings unless everything is asked for.
///
/// # Errors
/// Something else receives what is traced already.
pub fn init(format: Format, level: Level) -> Result<()> {
    let others = match level {
        Level::Trace => LevelFilter::TRACE,
        Level::Error => LevelFilter::ERROR,
        _ => LevelFilter::WARN,
    };
    let filter = EnvFilter::builder()
        .parse(format!("{others},labctl={}", level.filter()))
        .context("set up the log")?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stdout)
        // Where nobody reads the log any more, the server goes on without it.
        .log_internal_errors(false);
    let set = match format {
        Format::Json => subscriber
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
        Format::Text => subscriber.with_ansi(false).try_init(),
    };
    set.map_err(anyhow::Error::from_boxed).context("set up the log")
}
