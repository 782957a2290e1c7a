//! `labctl serve`.

mod parts;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use self::parts::{Parts, RunnerKind};
use super::Outcome;
use crate::config;
use crate::dashboard::auth::tokens::Tokens;
use crate::dashboard::auth::{self, Auth};
use crate::dashboard::health::Health;
use crate::dashboard::http::{self, App, Limits};
use crate::dashboard::server::{self, Ended, Times};
use crate::dashboard::trace;
use crate::error::{Code, Diagnosis, Exit};

/// Run the job-dashboard's server
///
/// Runs jobs, follows their output and keeps their history until it is told to stop, and logs to standard output. Its
/// API is described at /docs. On SIGTERM it says that it is not ready, serves on for the time of --drain, takes no new
/// connections, and lets requests finish. Ctrl-C skips the drain; a second signal ends it at once. Jobs that are
/// processes end with the server; those in Kubernetes go on, and the next server finds them.
///
/// On a loopback address, whoever reaches it is its user. On any other address it wants tokens (--token-file); without
/// them, and without --runner, it runs no jobs there and serves /healthz, /livez, /readyz and /version alone.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The address and port to listen on; port 0 takes any free one, and the log says which
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// What runs jobs; without it `process`, or `none` on an address beyond loopback without tokens
    #[arg(long, value_enum)]
    runner: Option<RunnerKind>,
    /// Where jobs are kept: sqlite:PATH, or postgres://USER:PASSWORD@HOST/NAME; by default a file in --data-dir
    #[arg(long, value_name = "URL")]
    store: Option<parts::StoreUrl>,
    /// How large the database of --store sqlite:PATH may become, in MiB; then new jobs are refused
    #[arg(long, value_name = "MIB")]
    quota: Option<u64>,
    /// Where jobs have their files; by default $XDG_DATA_HOME/labctl or ~/.local/share/labctl
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How many processes run at once; by default as many as there are processors
    #[arg(long, value_name = "N")]
    slots: Option<NonZeroUsize>,
    /// The kubeconfig of --runner kubernetes; without it the server must run in the cluster, and no other file is looked for
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of --runner kubernetes; by default that of the kubeconfig's context, or of the server's own pod
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// The image of jobs that name none, for --runner kubernetes
    #[arg(long, value_name = "IMAGE")]
    job_image: Option<String>,
    /// Who may come in: a file with `name:token` or `name:token:admin` a line, which others cannot read
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Another name under which browsers reach a server without tokens; may be given several times
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// How many logs and event streams may be open at once
    #[arg(long, value_name = "N", default_value = "2048")]
    max_streams: NonZeroUsize,
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

/// What runs jobs, and for whom. Nothing where no jobs are run.
type Access = Option<(RunnerKind, Auth)>;

impl Args {
    /// Decides who may come in, and with it whether jobs are run.
    ///
    /// Whoever may create a job may do what the server may, so an address that others reach needs tokens.
    fn access(&self) -> Result<Access> {
        let file = self
            .token_file
            .clone()
            .or_else(|| config::variable("LABCTL_TOKEN_FILE").map(PathBuf::from));
        let tokens = file.as_deref().map(Tokens::read).transpose()?;
        let local = self.listen.ip().to_canonical().is_loopback();
        let auth = match tokens {
            Some(tokens) => Auth::Tokens(tokens),
            None if local => Auth::Local(auth::local()),
            None => {
                return match self.runner {
                    None | Some(RunnerKind::None) => Ok(None),
                    Some(_) => Err(Diagnosis::new(
                        Code::Setting,
                        format!(
                            "on {}, whoever reaches the server could run programs as its user",
                            self.listen
                        ),
                    )
                    .hint("labctl serve --listen 127.0.0.1:8080 is for this machine alone")
                    .hint("labctl serve --token-file FILE wants a token of everyone; one `name:token` a line")
                    .error()),
                };
            }
        };
        Ok(Some((self.runner.unwrap_or(RunnerKind::Process), auth)))
    }

    /// Serves until SIGTERM or SIGINT.
    ///
    /// Needs no [`World`](crate::world::World), and must not: in its own image there is neither a home directory nor a
    /// CA bundle, and an HTTP client cannot be built without one.
    ///
    /// # Errors
    /// The address cannot be listened on, or is not to be without tokens; a setting, the database or the directory of
    /// jobs cannot be used.
    pub async fn run(self) -> Result<Outcome> {
        // First of all, so that a signal during the start is not lost.
        let stop = server::signals()?;
        let access = self.access()?;
        trace::init(self.log_format, self.log_level)?;
        parts::allow_many_files();
        let listener = server::listen(self.listen).await?;
        let health = Health::default();
        let closing = CancellationToken::new();
        let parts = match access {
            Some((kind, auth)) => Parts::begin(&self, kind, auth, &health, &closing).await?,
            None => None,
        };
        if parts.is_none() {
            health.set(
                "runner",
                Ok("none: health and version are all that is served".to_owned()),
            );
        }
        let times = Times {
            drain: self.drain,
            finish: self.finish,
            ..Times::default()
        };
        let router = http::router(App {
            health: health.clone(),
            limits: Limits::default(),
            api: parts.as_ref().map(Parts::api),
        });
        let ended = server::serve(listener, router, health, times, closing, stop).await?;
        if let Some(parts) = parts {
            parts.end().await;
        }
        Ok(match ended {
            Ended::Stopped => Exit::Done,
            Ended::Cut => Exit::Interrupted,
        })
    }
}
