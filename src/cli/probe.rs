//! `labctl probe`, hidden: a client for images that have neither shell nor curl, such as the dashboard's own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Outcome, print};
use crate::error::{Code, Diagnosis, Exit};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long to wait between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// Ask something once, as the tests of the chart do
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Get a URL and compare the status of the answer
    Http {
        /// The URL, with http://
        #[arg(value_parser = plain_http)]
        url: Uri,
        /// The status that the answer must have
        #[arg(long, default_value = "200", value_parser = status)]
        expect: StatusCode,
        /// How long to ask again until it has
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = super::duration)]
        within: Duration,
    },
}

fn plain_http(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
        return Err("it must begin with http:// and a host".to_owned());
    }
    Ok(uri)
}

fn status(text: &str) -> Result<StatusCode, String> {
    text.parse()
        .map_err(|_| "it must be a number from 100 to 999".to_owned())
}

impl Args {
    /// Asks, and prints what was answered.
    ///
    /// # Errors
    /// [`Code::DashboardDown`] where nothing answers. Another status is [`Exit::Unmet`].
    pub async fn run(self) -> Result<Outcome> {
        let What::Http { url, expect, within } = self.what;
        let start = Instant::now();
        loop {
            let asked = Instant::now();
            let answer = tokio::time::timeout(ATTEMPT, get(&url))
                .await
                .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer after {}s", ATTEMPT.as_secs())));
            let over = start.elapsed() >= within;
            match answer {
                Ok(got) if got == expect || over => {
                    let took = asked.elapsed().as_millis();
                    let met = got == expect;
                    let word = if met { "as expected" } else { "not what was expected" };
                    print(&format!("GET {url}: {} in {took} ms, {word}\n", got.as_u16()))?;
                    return Ok(if met { Exit::Done } else { Exit::Unmet });
                }
                Err(error) if over => {
                    return Err(error.context(Diagnosis::new(Code::DashboardDown, format!("{url} does not answer"))));
                }
                Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

async fn get(url: &Uri) -> Result<StatusCode> {
    // `Uri` keeps the brackets of an IPv6 address, which the resolver does not want.
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, url.port_u16().unwrap_or(80)))
        .await
        .with_context(|| format!("connect to {host}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(url.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", url.authority().map_or("", |authority| authority.as_str()))
        .header("user-agent", concat!("labctl/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())?;
    let asking = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        // The whole answer, so that one that breaks off is not taken for a good one.
        answer.into_body().collect().await?;
        anyhow::Ok(status)
    };
    tokio::pin!(asking);
    tokio::select! {
        status = &mut asking => status.context("talk HTTP"),
        // The connection ends by itself once it was answered; what was read of it is with the request.
        ended = connection => {
            ended.context("talk HTTP")?;
            asking.await.context("talk HTTP")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_asked_is_taken() {
        assert!(plain_http("http://job-dashboard:80/readyz").is_ok());
        for bad in ["https://x/", "x/readyz", "http://", "", "http:// /", "/readyz"] {
            assert!(plain_http(bad).is_err(), "{bad}");
        }
        assert!(status("200").is_ok());
        assert!(status("20").is_err() && status("ok").is_err());
    }
}
