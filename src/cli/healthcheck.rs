//! `labctl healthcheck`: the health of a server, for images that have neither shell nor curl.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use hyper::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;

use super::{Global, Outcome, print};
use crate::dashboard::health::Check;
use crate::drive::plain;
use crate::error::{Code, Diagnosis, Exit};
use crate::report::human::plain;

/// Ask a server of the job-dashboard whether it is ready, or alive
///
/// For HEALTHCHECK of an image, or an exec probe of Kubernetes, where there is neither shell nor curl. Where a server is
/// not ready it says which part is not. It asks nothing but the server: it needs no lab, no home directory and no token,
/// and uses no proxy.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It ends with 0 where the server says that it is, with 1 where it says that it is not, and with 3 where no server answers in time. In a Dockerfile: HEALTHCHECK CMD [\"/usr/local/bin/labctl\", \"healthcheck\"]. Who restarts what is unhealthy wants --live: a restart does not bring a database back."
)]
pub struct Args {
    /// The server, with http://
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = plain::url)]
    url: Uri,
    /// Ask only whether its process works (/livez), not whether requests may be sent there (/readyz)
    #[arg(long)]
    live: bool,
    /// How long the whole answer may take
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = some_time)]
    timeout: Duration,
}

/// Reads a time that is longer than none.
fn some_time(text: &str) -> Result<Duration, String> {
    match super::duration(text)? {
        Duration::ZERO => Err("it must be longer than 0".to_owned()),
        time => Ok(time),
    }
}

/// What of the answer of a readiness probe matters here.
#[derive(Debug, Deserialize)]
struct Said {
    checks: Vec<Check>,
}

impl Args {
    /// Runs the verb. A server that says that it is not ready gives [`Exit::Unmet`].
    ///
    /// Needs no [`World`](crate::world::World), and must not, for what `labctl serve` says of it.
    ///
    /// # Errors
    /// [`Code::DashboardDown`]: no answer in time. [`Code::DashboardFailed`]: something else answers.
    pub async fn run(self, global: &Global) -> Result<Outcome> {
        let path = if self.live { "/livez" } else { "/readyz" };
        let base = format!(
            "http://{}{}",
            self.url.authority().map_or("", |at| at.as_str()),
            self.url.path()
        );
        let url = format!("{}{path}", base.trim_end_matches('/'));
        let asked = Instant::now();
        let answer = match tokio::time::timeout(self.timeout, plain::get(&url.parse()?)).await {
            Ok(answer) => answer,
            Err(_) => Err(anyhow::anyhow!("no answer after {:?}", self.timeout)),
        };
        let (status, body) = answer.map_err(|error| {
            error.context(
                Diagnosis::new(Code::DashboardDown, format!("{url} does not answer"))
                    .hint("labctl serve runs a server on this machine; its log says where it listens")
                    .hint("labctl healthcheck --url URL asks another one"),
            )
        })?;
        let healthy = match status {
            StatusCode::OK => true,
            StatusCode::SERVICE_UNAVAILABLE => false,
            other => {
                return Err(anyhow::anyhow!("it answers with {other}").context(
                    Diagnosis::new(
                        Code::DashboardFailed,
                        format!("what answers at {url} is no job-dashboard"),
                    )
                    .hint("labctl healthcheck --url URL asks another server"),
                ));
            }
        };
        let checks = serde_json::from_slice::<Said>(&body).map_or_else(|_| Vec::new(), |said| said.checks);
        if global.json {
            let status = status.as_u16();
            let said = json!({"v": 1, "url": url, "healthy": healthy, "status": status, "checks": checks});
            print(&format!("{said}\n"))?;
        } else if healthy {
            print(&format!("{url}: ok in {} ms\n", asked.elapsed().as_millis()))?;
        } else {
            print(&format!("{url}: not ready ({})\n{}", status.as_u16(), wrong(&checks)))?;
        }
        Ok(if healthy { Exit::Done } else { Exit::Unmet })
    }
}

/// Returns a line for each part that cannot do its work.
fn wrong(checks: &[Check]) -> String {
    let mut out = String::new();
    for Check { name, detail, .. } in checks.iter().filter(|check| !check.ok) {
        _ = writeln!(out, "{}", plain(&format!("  {name}: {detail}")));
    }
    out
}
