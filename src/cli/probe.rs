//! `labctl probe`, hidden: a client for images that have neither shell nor curl, such as the dashboard's own.

use std::time::{Duration, Instant};

use anyhow::Result;
use hyper::{StatusCode, Uri};

use super::{Outcome, print};
use crate::drive::plain;
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
        #[arg(value_parser = plain::url)]
        url: Uri,
        /// The status that the answer must have
        #[arg(long, default_value = "200", value_parser = status)]
        expect: StatusCode,
        /// How long to ask again until it has
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = super::duration)]
        within: Duration,
    },
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
            let answer = tokio::time::timeout(ATTEMPT, plain::get(&url))
                .await
                .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer after {}s", ATTEMPT.as_secs())));
            let over = start.elapsed() >= within;
            match answer {
                Ok((got, _)) if got == expect || over => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_status_is_taken() {
        assert!(status("200").is_ok());
        assert!(status("20").is_err() && status("ok").is_err());
    }
}
