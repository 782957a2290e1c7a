//! `labctl jobs templates` and `labctl jobs schedules`.

use std::fmt::Write as _;
use std::num::NonZeroUsize;

use anyhow::Result;
use clap::Subcommand;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::Method;
use serde_json::json;

use super::{Client, say, show};
use crate::cli::Outcome;
use crate::cli::print;
use crate::dashboard::http::api::{
    ApiJob, ApiOccurrence, ApiOccurrences, ApiSchedule, ApiSchedules, ApiTemplate, ApiTemplates, Moment,
};
use crate::dashboard::job::State;
use crate::dashboard::job::template::Template;
use crate::drive::dashboard::Request;
use crate::error::{Code, Diagnosis, Exit};

/// How many jobs are made at once for times that are over.
const MOST: usize = 10_000;

/// What is asked of templates.
#[derive(Debug, Subcommand)]
pub(super) enum Templates {
    /// List templates and their parameters
    List,
    /// Show a template
    #[command(disable_version_flag = true)]
    Get {
        /// The template's name
        name: String,
        /// An older version, such as the one that a job was made from
        #[arg(long, value_name = "N")]
        version: Option<u32>,
    },
}

/// What is asked of schedules.
#[derive(Debug, Subcommand)]
pub(super) enum Schedules {
    /// List schedules and when they are next due
    List,
    /// Show a schedule and its next five times
    Get {
        /// The schedule's name
        name: String,
    },
    /// Hold a schedule back
    Suspend {
        /// The schedule's name
        name: String,
    },
    /// Let a schedule go on
    Resume {
        /// The schedule's name
        name: String,
    },
    /// Make a job of a schedule now, and print its id
    Run {
        /// The schedule's name
        name: String,
    },
    /// Make the jobs of times that are over, one after the other; those that there are already are not made again
    Backfill(Backfill),
}

/// Which jobs of a schedule are to be made.
#[derive(Debug, clap::Args)]
pub(super) struct Backfill {
    /// The schedule's name
    name: String,
    /// From when on: a time such as 2026-01-31T12:00:00Z, or how long ago, such as 7d
    #[arg(long, value_name = "TIME")]
    since: String,
    /// Until when, in the same forms; by default until now
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// How many run at once; more than one only where the schedule allows it
    #[arg(long, value_name = "N", default_value = "1")]
    parallel: NonZeroUsize,
    /// Only say which times they are
    #[arg(long)]
    dry_run: bool,
}

impl Backfill {
    /// Returns the times of the schedule, all of them.
    async fn times(&self, client: &Client<'_>) -> Result<Vec<ApiOccurrence>> {
        let path = format!("/schedules/{}/occurrences?limit=500", escaped(&self.name));
        // What is a time ago is one as long as all pages are asked for.
        let until = self
            .until
            .as_ref()
            .map_or_else(String::new, |until| format!("&until={}", escaped(until)));
        let mut since = self.since.clone();
        let mut all = Vec::new();
        loop {
            let page: ApiOccurrences = client.get(&format!("{path}&since={}{until}", escaped(&since))).await?;
            let last = page.occurrences.last().map(|last| Moment(last.at.0 + 1));
            all.extend(page.occurrences);
            match last {
                Some(next) if page.more && all.len() < MOST => since = next.to_string(),
                _ => return Ok(all),
            }
        }
    }

    async fn run(&self, client: &Client<'_>) -> Result<Outcome> {
        let times = self.times(client).await?;
        let many = match times.len() {
            1 => "1 job".to_owned(),
            MOST.. => {
                return Err(
                    Diagnosis::new(Code::Arguments, format!("these are {MOST} jobs or more"))
                        .hint("a later --since, or an earlier --until")
                        .error(),
                );
            }
            count => format!("{count} jobs"),
        };
        if self.dry_run || times.is_empty() {
            if client.json() {
                print(&format!("{}\n", json!({"v": 1, "occurrences": times})))?;
            } else {
                let lines = times.iter().map(|one| format!("{}\n", one.local));
                print(&format!("{}{many}\n", lines.collect::<String>()))?;
            }
            return Ok(Exit::Done);
        }
        let (first, last) = (&times[0].local, &times[times.len() - 1].local);
        let question = format!("Run {many} of {}, for {first} to {last}?", self.name);
        if !client.world.consent(&question) {
            return Err(Diagnosis::new(
                Code::NeedsYes,
                format!("to run {many} of {} needs a yes; nothing was done", self.name),
            )
            .hint("the same again with --yes, or with --dry-run to see which times they are")
            .error());
        }
        let mut ended = stream::iter(&times)
            .map(|one| self.one(client, one))
            .buffered(self.parallel.get());
        let mut outcome = Exit::Done;
        while let Some(job) = ended.try_next().await? {
            if job.state != State::Succeeded {
                outcome = Exit::Unmet;
            }
        }
        Ok(outcome)
    }

    /// Makes the job of a time, where there is none yet, waits for its end and says how it ended.
    async fn one(&self, client: &Client<'_>, at: &ApiOccurrence) -> Result<ApiJob> {
        let path = format!(
            "/schedules/{}/run?at={}",
            escaped(&self.name),
            escaped(&at.at.to_string())
        );
        let request = Request {
            // The time says which request it is; with a key the client knows that it may be sent again.
            headers: vec![("idempotency-key", super::run::key())],
            body: None,
        };
        let job: ApiJob = client.read(Method::POST, &path, request).await?;
        let job = super::run::end(client, job.id).await?;
        say(client, &job, &format!("{}  {}\n", at.local, show::verdict(&job)))?;
        Ok(job)
    }
}

/// Writes a name into a path.
pub(super) fn escaped(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Writes columns next to each other; the last one as long as it is.
fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| {
            let longest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            longest.max(heads[column].len())
        })
        .collect();
    let mut out = String::new();
    let heads: Vec<String> = heads.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            _ = write!(
                line,
                "{cell}{:pad$}",
                "",
                pad = width.saturating_sub(cell.chars().count()) + 2
            );
        }
        _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// Names a template's parameters: `day count=3`, those that must be given first as they stand.
fn parameters(template: &Template) -> String {
    let names = template.properties().map(|(name, schema)| match schema.get("default") {
        Some(usual) => format!(
            "{name}={}",
            usual.as_str().map_or_else(|| usual.to_string(), str::to_owned)
        ),
        None if template.is_required(name) => name.to_owned(),
        None => format!("[{name}]"),
    });
    names.collect::<Vec<_>>().join(" ")
}

impl Templates {
    pub(super) async fn run(self, client: &Client<'_>) -> Result<()> {
        match self {
            Self::List => {
                let found: ApiTemplates = client.get("/templates").await?;
                if client.json() {
                    return print(&format!("{}\n", json!({"v": 1, "templates": found.templates})));
                }
                let rows: Vec<Vec<String>> = found
                    .templates
                    .iter()
                    .map(|one| {
                        let template = one.clone().template();
                        vec![
                            template.name.clone(),
                            show::plain(&parameters(&template)),
                            show::plain(&template.description),
                        ]
                    })
                    .collect();
                if rows.is_empty() {
                    client.world.reporter().note("no templates; POST /templates makes one");
                    return Ok(());
                }
                print(&table(&["NAME", "PARAMETERS", "WHAT IT IS FOR"], &rows))
            }
            Self::Get { name, version } => {
                let query = version.map(|version| format!("?version={version}")).unwrap_or_default();
                let found: ApiTemplate = client.get(&format!("/templates/{}{query}", escaped(&name))).await?;
                if client.json() {
                    return print(&format!("{}\n", json!({"v": 1, "template": found})));
                }
                let (version, owner) = (found.kept.version, show::plain(&found.kept.owner));
                let template = serde_json::to_string_pretty(&found.template())?;
                print(&format!("version {version} by {owner}\n{template}\n"))
            }
        }
    }
}

impl Schedules {
    pub(super) async fn run(self, client: &Client<'_>) -> Result<Outcome> {
        if let Self::Backfill(backfill) = &self {
            return backfill.run(client).await;
        }
        self.run_one(client).await.map(|()| Exit::Done)
    }

    async fn run_one(self, client: &Client<'_>) -> Result<()> {
        let one = |method: Method, name: &str, deed: &str| {
            let path = format!("/schedules/{}{deed}", escaped(name));
            async move { client.read::<ApiSchedule>(method, &path, Request::default()).await }
        };
        match self {
            Self::List => {
                let found: ApiSchedules = client.get("/schedules").await?;
                if client.json() {
                    return print(&format!("{}\n", json!({"v": 1, "schedules": found.schedules})));
                }
                let rows: Vec<Vec<String>> = found.schedules.iter().map(row).collect();
                if rows.is_empty() {
                    client.world.reporter().note("no schedules; POST /schedules makes one");
                    return Ok(());
                }
                print(&table(&["NAME", "WHEN", "TIME ZONE", "NEXT", "RUNS", "LAST"], &rows))
            }
            Self::Get { name } => shown(client, &one(Method::GET, &name, "").await?),
            Self::Suspend { name } => shown(client, &one(Method::POST, &name, "/suspend").await?),
            Self::Resume { name } => shown(client, &one(Method::POST, &name, "/resume").await?),
            Self::Backfill(_) => Ok(()),
            Self::Run { name } => {
                let request = Request {
                    headers: vec![("idempotency-key", super::run::key())],
                    body: None,
                };
                let path = format!("/schedules/{}/run", escaped(&name));
                let job: ApiJob = client.read(Method::POST, &path, request).await?;
                say(client, &job, &format!("{}\n", job.id))
            }
        }
    }
}

/// What a schedule runs, in a few words.
fn runs(one: &ApiSchedule) -> String {
    match (&one.template, &one.job) {
        (Some(template), _) => format!("template {template}"),
        (None, Some(job)) => show::plain(&show::quoted(&job.command)),
        (None, None) => String::new(),
    }
}

fn last(one: &ApiSchedule) -> String {
    match (&one.last_message, one.last_job) {
        (Some(why), _) => show::plain(why),
        (None, Some(job)) => job.to_string(),
        (None, None) => "-".to_owned(),
    }
}

fn next(one: &ApiSchedule) -> String {
    if one.suspend {
        return "suspended".to_owned();
    }
    one.next
        .first()
        .map_or_else(|| "-".to_owned(), |next| next.local.clone())
}

fn row(one: &ApiSchedule) -> Vec<String> {
    let schedule = one;
    vec![
        schedule.name.clone(),
        schedule.cron.clone(),
        schedule.time_zone.clone(),
        next(one),
        runs(one),
        last(one),
    ]
}

fn shown(client: &Client<'_>, one: &ApiSchedule) -> Result<()> {
    if client.json() {
        return print(&format!("{}\n", json!({"v": 1, "schedule": one})));
    }
    let schedule = one;
    let mut out = String::new();
    let mut line = |name: &str, text: &str| _ = writeln!(out, "{name:<10} {text}");
    line("name", &schedule.name);
    line("when", &format!("{} in {}", schedule.cron, schedule.time_zone));
    line("runs", &runs(one));
    for (name, value) in &schedule.parameters {
        line("parameter", &show::plain(&format!("{name}={value}")));
    }
    line("overlap", schedule.concurrency.name());
    line("catch up", &format!("{} s", schedule.catch_up_seconds));
    line("last", &last(one));
    if schedule.suspend {
        line("next", "suspended");
    }
    for (place, next) in one.next.iter().enumerate() {
        line(if place == 0 { "next" } else { "" }, &next.local);
    }
    print(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let rows = [
            vec!["a".to_owned(), "é".to_owned()],
            vec!["longer".to_owned(), String::new()],
        ];
        assert_eq!(table(&["X", "Y"], &rows), "X       Y\na       é\nlonger\n");
    }
}
