//! `labctl serve`.

mod parts;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use self::parts::{Parts, RunnerKind};
use super::Outcome;
use crate::config;
use crate::dashboard::auth::tokens::Tokens;
use crate::dashboard::auth::{self, Auth};
use crate::dashboard::control::retain::Keep;
use crate::dashboard::health::Health;
use crate::dashboard::http::{self, App, Limits};
use crate::dashboard::job::spec::Priority;
use crate::dashboard::server::{self, Ended, Times};
use crate::dashboard::trace;
use crate::error::{Code, Diagnosis, Exit};

/// Run the job-dashboard's server
///
/// Runs jobs, follows their output and keeps their history until it is told to stop, and logs to standard output. Its
/// API is described at /docs. On SIGTERM it says that it is not ready, serves on for the time of --drain, takes no new
/// connections, and lets requests finish. Ctrl-C skips the drain; a second signal ends it at once. Jobs go on without
/// it, and the next server takes them up; --stop-jobs ends those that are processes. A server that is killed takes its
/// processes with it.
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
    /// Where jobs are kept: sqlite:PATH, or postgres://USER:PASSWORD@HOST/NAME, with ?sslmode=verify-full&sslrootcert=FILE
    /// for one that must prove who it is; by default a file in --data-dir
    #[arg(long, value_name = "URL")]
    store: Option<parts::StoreUrl>,
    /// A Redis that carries lines of running jobs between servers on one store: redis://HOST:6379, or rediss:// for TLS
    #[arg(long, value_name = "URL")]
    redis: Option<parts::RedisUrl>,
    /// How large the database of --store sqlite:PATH may become, in MiB; then new jobs are refused
    #[arg(long, value_name = "MIB")]
    quota: Option<u64>,
    /// Where jobs have their files; by default $XDG_DATA_HOME/labctl or ~/.local/share/labctl
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How many jobs one user may create in a minute; more are refused with 429 and the time after which to ask again. Of
    /// several servers each counts for itself, and jobs of schedules do not count
    #[arg(long, value_name = "N")]
    job_rate: Option<NonZeroU32>,
    /// How many processes run at once; by default as many as there are processors
    #[arg(long, value_name = "N")]
    slots: Option<NonZeroUsize>,
    /// End jobs that are processes when the server is stopped, instead of leaving them to the next one
    #[arg(long)]
    stop_jobs: bool,
    /// How long jobs are kept after their end; those with the label `keep=true` stay. Without it they are kept for ever
    #[arg(long, value_name = "TIME", value_parser = age)]
    keep_for: Option<Duration>,
    /// How many jobs that have ended are kept, the newest ones; those with the label `keep=true` stay and do not count
    #[arg(long, value_name = "N")]
    keep_jobs: Option<u64>,
    /// How long it is kept who did what; without it for ever
    #[arg(long, value_name = "TIME", value_parser = age)]
    keep_audit: Option<Duration>,
    /// How many bytes the logs of all jobs may have in the store, compressed, such as 10GiB; then new jobs are refused
    #[arg(long, value_name = "SIZE", value_parser = size)]
    logs_max_bytes: Option<u64>,
    /// How many bytes of one job's output are kept; then its log says that it is cut, and the job goes on
    #[arg(long, value_name = "SIZE", value_parser = size)]
    job_log_max_bytes: Option<u64>,
    /// The kubeconfig of --runner kubernetes; without it the server must run in the cluster, and no other file is looked for
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of --runner kubernetes; by default that of the kubeconfig's context, or of the server's own pod
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// The image of jobs that name none, for --runner kubernetes
    #[arg(long, value_name = "IMAGE")]
    job_image: Option<String>,
    /// The PriorityClass of jobs of a priority, for --runner kubernetes, such as high=first; may be given for each of low,
    /// normal and high
    #[arg(long, value_name = "PRIORITY=NAME", value_parser = priority_class)]
    priority_class: Vec<(Priority, String)>,
    /// Who may come in: a file with `name:token` or `name:token:admin` a line, which others cannot read
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Another name under which browsers reach a server without tokens; may be given several times
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// How many logs and event streams may be open at once
    #[arg(long, value_name = "N", default_value = "2048")]
    max_streams: NonZeroUsize,
    /// How many of them one user may have; by default half of them where there are tokens
    #[arg(long, value_name = "N")]
    max_streams_per_user: Option<NonZeroUsize>,
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

/// Reads a time that may have days and weeks, such as `30d`.
fn age(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let span = text.parse::<jiff::Span>().ok();
    span.and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok())
        .and_then(|time| time.try_into().ok())
        .ok_or_else(|| "it must be a time such as 12h, 30d or 8w".to_owned())
}

/// Reads a priority and the name of its `PriorityClass`.
fn priority_class(text: &str) -> Result<(Priority, String), String> {
    let pair = text.split_once('=').and_then(|(priority, name)| {
        let priority = Priority::ALL.into_iter().find(|known| known.name() == priority)?;
        let is_name = !name.is_empty()
            && name.len() <= 253
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte));
        is_name.then(|| (priority, name.to_owned()))
    });
    pair.ok_or_else(|| {
        "it must be low, normal or high, `=` and the name of a PriorityClass, such as high=first".to_owned()
    })
}

/// Reads a number of bytes, such as `500000`, `64KiB`, `10MiB` or `2GiB`.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "" | "B" => Some(0),
        "KiB" => Some(10),
        "MiB" => Some(20),
        "GiB" => Some(30),
        "TiB" => Some(40),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(unit);
    bytes
        .and_then(|(number, shift)| number.checked_mul(1 << shift))
        .ok_or_else(|| "it must be a number of bytes such as 500000, 64KiB, 10MiB or 2GiB".to_owned())
}

/// Takes a setting from its flag, else from its variable.
fn setting<T>(flag: Option<T>, variable: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>> {
    if flag.is_some() {
        return Ok(flag);
    }
    let Some(text) = config::text_variable(variable) else {
        return Ok(None);
    };
    match parse(&text) {
        Ok(value) => Ok(Some(value)),
        Err(wrong) => Err(Diagnosis::new(Code::Setting, format!("{variable}: {wrong}")).error()),
    }
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

    /// Reads what is kept, and how long.
    fn keep(&self) -> Result<Keep> {
        let number = |text: &str| text.parse().map_err(|_| "it must be a number".to_owned());
        Ok(Keep {
            age: setting(self.keep_for, "LABCTL_KEEP_FOR", age)?,
            jobs: setting(self.keep_jobs, "LABCTL_KEEP_JOBS", number)?,
            logs_bytes: setting(self.logs_max_bytes, "LABCTL_LOGS_MAX_BYTES", size)?,
            log_bytes: setting(self.job_log_max_bytes, "LABCTL_JOB_LOG_MAX_BYTES", size)?,
            acts: setting(self.keep_audit, "LABCTL_KEEP_AUDIT", age)?,
            ..Keep::default()
        })
    }

    /// Reads how many jobs one user may create in a minute.
    fn job_rate(&self) -> Result<Option<NonZeroU32>> {
        setting(self.job_rate, "LABCTL_JOB_RATE", |text| {
            text.parse().map_err(|_| "it must be a number from 1 on".to_owned())
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_may_have_days_and_not_months() {
        let day = Duration::from_secs(86_400);
        for (text, time) in [
            ("30d", 30 * day),
            ("2w", 14 * day),
            ("1d 12h", day * 3 / 2),
            ("90m", day / 16),
            ("0", Duration::ZERO),
        ] {
            assert_eq!(age(text), Ok(time), "{text}");
        }
        for text in ["", "30", "1mo", "1y", "-1d", "d"] {
            assert!(age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_and_what_is_none_is_refused() {
        for (text, bytes) in [
            ("0", 0),
            ("500000", 500_000),
            ("64KiB", 65_536),
            ("2 GiB", 2 << 30),
            ("7B", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "GiB",
            "-1",
            "1.5GiB",
            "10GB",
            "18446744073709551615KiB",
            "1e9",
            "10 ünits",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
