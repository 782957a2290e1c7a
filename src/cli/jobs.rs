//! `labctl jobs`: a client of the job-dashboard.

mod audit;
mod bulk;
mod documents;
mod follow;
mod run;
mod show;

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Outcome, print};
use crate::config;
use crate::dashboard::http::api::{ApiDetail, ApiJob, ApiPage};
use crate::dashboard::job::{JobId, State};
use crate::dashboard::service::bulk::Deed;
use crate::drive::dashboard::{Dashboard, Request};
use crate::error::{Code, Diagnosis, Exit};
use crate::lab::access::Access;
use crate::world::World;

/// Where a dashboard is where nobody says.
const URL: &str = "http://127.0.0.1:8080";
/// How many jobs are asked for at once.
const PAGE: u32 = 500;

/// Run jobs on a dashboard, follow their output, look at their history
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Where `labctl up` made a lab, its dashboard is asked, with its token. Without one, begin with `labctl serve` in one terminal and `labctl jobs run -f -- echo hello` in another."
)]
pub struct Args {
    /// The dashboard; by default LABCTL_DASHBOARD_URL, then that of the lab, then http://127.0.0.1:8080
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// A file with the token that the dashboard wants; LABCTL_TOKEN may have the token itself, and the lab's is known
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a program as a job and print the job's id
    Run(run::Args),
    /// List jobs, newest first
    List(List),
    /// Show all there is to know of a job
    Get {
        /// The job's id
        id: JobId,
    },
    /// Print a job's output
    Logs(follow::Args),
    /// End jobs; who asks again asks for nothing new
    Cancel(bulk::Chosen),
    /// Hold jobs back until they are resumed; one that runs begins anew then
    Suspend(bulk::Chosen),
    /// Let jobs go on that are held back
    Resume(bulk::Chosen),
    /// Run again what jobs ran, as new jobs, and print their ids
    Rerun(bulk::Chosen),
    /// Delete jobs that have ended, with their logs
    Delete(bulk::Chosen),
    /// Show who did what, also to jobs that are deleted
    Audit(audit::Args),
    /// Templates: jobs with parameters, which `run --template` runs
    #[command(subcommand)]
    Templates(documents::Templates),
    /// Schedules: jobs that are made by themselves
    #[command(subcommand)]
    Schedules(documents::Schedules),
}

/// Which jobs are meant.
#[derive(Debug, clap::Args)]
struct Which {
    /// Only jobs in one of these states, such as failed or pending,running
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = state)]
    state: Vec<State>,
    /// Only jobs of this owner
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Only jobs with this label; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Only jobs made from a template with this parameter as it was given; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    param: Vec<String>,
    /// Only jobs made from this template
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// Only jobs that ran at least so long, or run for so long already, such as 90s, 10m or 2h
    #[arg(long, value_name = "TIME")]
    min_duration: Option<String>,
    /// Only jobs whose name or id contains this
    #[arg(long, short = 's', value_name = "TEXT")]
    search: Option<String>,
    /// Only jobs created since: a time such as 2026-01-31T12:00:00Z, or how long ago, such as 1h or 7d
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only jobs created before: in the same forms
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// Which jobs a list shows.
#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    which: Which,
    /// How many jobs at most
    #[arg(long, short = 'n', value_name = "N", default_value = "50", conflicts_with = "all")]
    limit: u32,
    /// All jobs, however many there are
    #[arg(long)]
    all: bool,
}

fn state(text: &str) -> Result<State, String> {
    State::ALL
        .into_iter()
        .find(|state| state.name() == text)
        .ok_or_else(|| {
            let names = State::ALL.map(State::name).join(", ");
            format!("it must be of: {names}")
        })
}

/// A dashboard, and how what it says is shown.
struct Client<'a> {
    dashboard: Dashboard,
    world: &'a World,
}

impl Client<'_> {
    fn json(&self) -> bool {
        self.world.settings().json
    }

    async fn read<T: DeserializeOwned>(&self, method: Method, path: &str, request: Request) -> Result<T> {
        let value = self.dashboard.send(method, path, request).await?;
        serde_json::from_value(value).with_context(|| {
            let url = self.dashboard.url("");
            Diagnosis::new(
                Code::DashboardFailed,
                format!("the dashboard at {url} is of another version"),
            )
            .hint("labctl --version, and the server's /version, say which")
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.read(Method::GET, path, Request::default()).await
    }
}

impl Args {
    /// Runs the verb. A job that failed gives [`Exit::Unmet`] where its end was waited for.
    ///
    /// # Errors
    /// The dashboard does not answer, refuses what it is asked, or cannot do it.
    pub async fn run(self, world: &World) -> Result<Outcome> {
        let file = self
            .token_file
            .or_else(|| config::variable("LABCTL_TOKEN_FILE").map(PathBuf::from));
        let url = self.url.or_else(|| config::text_variable("LABCTL_DASHBOARD_URL"));
        let lab = Access::of(world.settings())?;
        let (url, token) = choose(url, token(file.as_deref())?, lab);
        let client = Client {
            dashboard: Dashboard::new(&url, token)?,
            world,
        };
        match self.verb {
            Verb::Run(args) => return args.run(&client).await,
            Verb::Logs(args) => return args.run(&client).await,
            Verb::Audit(args) => return args.run(&client).await,
            Verb::Templates(verb) => verb.run(&client).await?,
            Verb::Schedules(verb) => return verb.run(&client).await,
            Verb::List(list) => list.run(&client).await?,
            Verb::Get { id } => {
                let detail: ApiDetail = client.get(&format!("/jobs/{id}")).await?;
                if client.json() {
                    one(&serde_json::to_value(&detail)?)?;
                } else {
                    print(&show::detail(&detail, &show::Screen::of_stdout()))?;
                }
            }
            Verb::Cancel(chosen) => chosen.run(&client, Deed::Cancel).await?,
            Verb::Suspend(chosen) => chosen.run(&client, Deed::Suspend).await?,
            Verb::Resume(chosen) => chosen.run(&client, Deed::Resume).await?,
            Verb::Rerun(chosen) => chosen.run(&client, Deed::Rerun).await?,
            Verb::Delete(chosen) => chosen.run(&client, Deed::Delete).await?,
        }
        Ok(Exit::Done)
    }
}

/// Prints a document as one line of JSON.
fn one(value: &Value) -> Result<()> {
    print(&format!("{}\n", json!({"v": 1, "job": value})))
}

fn say(client: &Client<'_>, job: &ApiJob, text: &str) -> Result<()> {
    if client.json() {
        one(&serde_json::to_value(job)?)
    } else {
        print(text)
    }
}

/// Chooses the dashboard and the token: what was said, then the lab's. The lab's token is for the lab's dashboard alone, and
/// whatever else answers at another address does not get it.
fn choose(url: Option<String>, token: Option<String>, lab: Option<Access>) -> (String, Option<String>) {
    let Some(lab) = lab else {
        return (url.unwrap_or_else(|| URL.to_owned()), token);
    };
    // In a cluster that publishes no port of ours, a port-forward leads to it.
    let known = lab.url.unwrap_or_else(|| URL.to_owned());
    let same = url.as_ref().is_none_or(|url| url.trim_end_matches('/') == known);
    let token = token.or_else(|| lab.tokens.filter(|_| same).map(|tokens| tokens.token().to_owned()));
    (url.unwrap_or(known), token)
}

/// Finds the token: the variable, then the file.
fn token(file: Option<&std::path::Path>) -> Result<Option<String>> {
    if let Some(token) = config::text_variable("LABCTL_TOKEN") {
        return Ok(Some(token));
    }
    let Some(file) = file else { return Ok(None) };
    let wrong = |what: &str| {
        Diagnosis::new(Code::Setting, format!("the token file `{}` {what}", file.display()))
            .hint("a file with the token alone, or a line of the server's own: name:token")
    };
    let text = std::fs::read_to_string(file).with_context(|| wrong("cannot be read"))?;
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'));
    let line = line.ok_or_else(|| wrong("has no token in it"))?;
    let mut fields = line.split(':');
    let first = fields.next().unwrap_or_default();
    Ok(Some(fields.next().unwrap_or(first).to_owned()))
}

impl Which {
    fn query(&self) -> String {
        let mut out = String::new();
        let mut add = |name: &str, value: &str| {
            out.push('&');
            out.push_str(name);
            out.push('=');
            out.extend(percent_encoding::utf8_percent_encode(
                value,
                percent_encoding::NON_ALPHANUMERIC,
            ));
        };
        for state in &self.state {
            add("state", state.name());
        }
        for label in &self.label {
            add("label", label);
        }
        for param in &self.param {
            add("param", param);
        }
        for (name, value) in [
            ("owner", &self.owner),
            ("template", &self.template),
            ("min_duration", &self.min_duration),
            ("q", &self.search),
            ("since", &self.since),
            ("until", &self.until),
        ] {
            if let Some(value) = value {
                add(name, value);
            }
        }
        out
    }
}

impl List {
    async fn run(&self, client: &Client<'_>) -> Result<()> {
        let query = self.which.query();
        let mut left = if self.all { u32::MAX } else { self.limit };
        let mut jobs = Vec::new();
        let mut cursor: Option<String> = None;
        while left > 0 {
            let mut path = format!("/jobs?limit={}{query}", left.min(PAGE));
            if let Some(cursor) = &cursor {
                _ = write!(path, "&cursor={cursor}");
            }
            let page: ApiPage = client.get(&path).await?;
            left = left.saturating_sub(u32::try_from(page.jobs.len()).unwrap_or(u32::MAX));
            jobs.extend(page.jobs);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        if client.json() {
            return print(&format!(
                "{}\n",
                json!({"v": 1, "jobs": jobs, "more": cursor.is_some()})
            ));
        }
        if jobs.is_empty() {
            client.world.reporter().note(if query.is_empty() {
                "no jobs; labctl jobs run -- echo hello runs one"
            } else {
                "no job matches"
            });
            return Ok(());
        }
        print(&show::table(
            &jobs,
            crate::dashboard::control::now_ms(),
            &show::Screen::of_stdout(),
        ))?;
        if cursor.is_some() {
            client
                .world
                .reporter()
                .note("there are more; --limit N or --all shows them");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::access::Tokens;

    #[test]
    fn the_labs_token_goes_to_the_labs_dashboard_alone() {
        let tokens = Tokens::make().expect("random bytes");
        let lab = |url: Option<&str>| {
            Some(Access {
                url: url.map(str::to_owned),
                tokens: Some(tokens.clone()),
            })
        };
        let own = || Some(tokens.token().to_owned());
        let text = |text: &str| Some(text.to_owned());
        let here = "http://127.0.0.1:9000";
        for (url, token, lab, expected) in [
            (None, None, None, (URL, None)),
            (None, None, lab(Some(here)), (here, own())),
            (None, None, lab(None), (URL, own())),
            (None, text("mine"), lab(Some(here)), (here, text("mine"))),
            (
                text("http://127.0.0.1:9000/"),
                None,
                lab(Some(here)),
                ("http://127.0.0.1:9000/", own()),
            ),
            (
                text("http://other:9000"),
                None,
                lab(Some(here)),
                ("http://other:9000", None),
            ),
            (
                text("http://127.0.0.1:9001"),
                None,
                lab(Some(here)),
                ("http://127.0.0.1:9001", None),
            ),
            (
                text("http://other"),
                text("mine"),
                lab(Some(here)),
                ("http://other", text("mine")),
            ),
        ] {
            assert_eq!(choose(url, token, lab), (expected.0.to_owned(), expected.1));
        }
    }
}
