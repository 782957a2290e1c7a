//! `labctl serve`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::Outcome;
use crate::dashboard::health::Health;
use crate::dashboard::http::{self, App, Limits};
use crate::dashboard::server::{self, Ended, Times};
use crate::dashboard::trace;
use crate::error::Exit;

/// Run the job-dashboard's server
///
/// Serves /healthz, /livez, /readyz and /version until it is told to stop, and logs to standard output. On SIGTERM it
/// says that it is not ready, serves on for the time of --drain, takes no new connections, and lets requests finish.
/// Ctrl-C skips the drain; a second signal ends it at once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The address and port to listen on; port 0 takes any free one, and the log says which
    ///
    /// Whoever reaches the address may read what is served. That is health and version only, so any address may be
    /// given.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// How long to serve on after SIGTERM, while /readyz says no
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = super::duration)]
    drain: Duration,
    /// How long requests then have to finish
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = super::duration)]
    finish: Duration,
    /// The form of the log
    #[arg(long, value_enum, default_value = "json")]
    log_format: trace::Format,
    /// The least important messages that are logged
    #[arg(long, value_enum, default_value = "info")]
    log_level: trace::Level,
}

impl Args {
    /// Serves until SIGTERM or SIGINT.
    ///
    /// Needs no [`World`](crate::world::World), and must not: in its own image there is neither a home directory nor a
    /// CA bundle, and an HTTP client cannot be built without one.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn run(self) -> Result<Outcome> {
        // First of all, so that a signal during the start is not lost.
        let stop = server::signals()?;
        trace::init(self.log_format, self.log_level)?;
        let listener = server::listen(self.listen).await?;
        let health = Health::default();
        let times = Times {
            drain: self.drain,
            finish: self.finish,
            ..Times::default()
        };
        let router = http::router(App {
            health: health.clone(),
            limits: Limits::default(),
        });
        Ok(match server::serve(listener, router, health, times, stop).await? {
            Ended::Stopped => Exit::Done,
            Ended::Cut => Exit::Interrupted,
        })
    }
}
