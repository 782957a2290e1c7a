//! `labctl jobs cancel`, `suspend`, `resume`, `rerun` and `delete`: of jobs that are named, or of all that a filter finds.

use std::fmt::Write as _;

use anyhow::Result;
use reqwest::Method;
use serde_json::json;

use super::{Client, Which, print, run, say as say_job, show};
use crate::dashboard::http::api::{ApiBulk, ApiBulkDone, ApiJob};
use crate::dashboard::job::JobId;
use crate::dashboard::service::bulk::Deed;
use crate::drive::dashboard::Request;
use crate::error::{Code, Diagnosis};

/// Jobs by their ids, or all that a filter finds.
#[derive(Debug, clap::Args)]
pub(super) struct Chosen {
    /// The jobs' ids; or use the filters below, for all jobs that they find
    #[arg(required_unless_present = "Which", conflicts_with = "Which")]
    ids: Vec<JobId>,
    #[command(flatten)]
    which: Which,
    /// Only say how many jobs it would be
    #[arg(long, requires = "Which")]
    dry_run: bool,
}

impl Chosen {
    /// Does it to the jobs that are named, or to all that the filters find.
    pub(super) async fn run(&self, client: &Client<'_>, deed: Deed) -> Result<()> {
        if self.ids.is_empty() {
            return self.run_all(client, deed).await;
        }
        for id in &self.ids {
            one(client, deed, *id).await?;
        }
        Ok(())
    }

    /// Does it to all jobs that the filters find, once somebody has agreed to their number.
    async fn run_all(&self, client: &Client<'_>, deed: Deed) -> Result<()> {
        let query = self.which.query();
        // Sent again after a connection broke, a part makes no second job of what it ran again.
        let key = (deed == Deed::Rerun).then(run::key);
        let mut asked = ApiBulk {
            action: deed,
            dry_run: true,
            all: false,
            newest: None,
        };
        let counted = send(client, &query, &asked, key.as_deref()).await?;
        let many = many(&counted);
        if self.dry_run || counted.fit == 0 {
            return say(client, &counted, &would(deed, &counted));
        }
        let question = format!("{} {many}?", capital(deed));
        if !client.world.consent(&question) {
            return Err(Diagnosis::new(
                Code::NeedsYes,
                format!("to {deed} {many} needs a yes; nothing was done"),
            )
            .hint("the same again with --yes, or with --dry-run to see how many it would be")
            .error());
        }
        asked.dry_run = false;
        asked.newest = counted.newest;
        let mut sum = send(client, &query, &asked, key.as_deref()).await?;
        while let Some(cursor) = sum.next.take() {
            let part = send(client, &format!("{query}&cursor={cursor}"), &asked, key.as_deref()).await?;
            sum.matched += part.matched;
            sum.fit += part.fit;
            sum.done += part.done;
            sum.refused += part.refused;
            sum.refusals.extend(part.refusals);
            sum.next = part.next;
        }
        let mut text = format!("{} {}\n{}", jobs(sum.done), done(deed), left(deed, &sum, "is", "are"));
        for refusal in &sum.refusals {
            _ = writeln!(text, "{}: {}", refusal.id, show::plain(&refusal.detail));
        }
        say(client, &sum, &text)?;
        if sum.refused == 0 {
            return Ok(());
        }
        Err(Diagnosis::new(
            Code::DashboardRefused,
            format!("{} of {} could not be done", sum.refused, jobs(sum.fit)),
        )
        .hint("what each said is above; the same again tries those that are left")
        .error())
    }
}

/// Does it to one job.
async fn one(client: &Client<'_>, deed: Deed, id: JobId) -> Result<()> {
    let path = format!("/jobs/{id}");
    let mut request = Request::default();
    match deed {
        Deed::Delete => {
            client.dashboard.send(Method::DELETE, &path, request).await?;
            if client.json() {
                print(&format!("{}\n", json!({"v": 1, "deleted": id})))
            } else {
                print(&format!("{id} is deleted\n"))
            }
        }
        Deed::Rerun => {
            request.headers.push(("idempotency-key", run::key()));
            let job: ApiJob = client.read(Method::POST, &format!("{path}/rerun"), request).await?;
            say_job(client, &job, &format!("{}\n", job.id))
        }
        Deed::Cancel | Deed::Suspend | Deed::Resume => {
            let job: ApiJob = client.read(Method::POST, &format!("{path}/{deed}"), request).await?;
            let now = match deed {
                Deed::Cancel => show::ending(&job),
                _ => job.state.name(),
            };
            say_job(client, &job, &format!("{id} is {now}\n"))
        }
    }
}

async fn send(client: &Client<'_>, query: &str, asked: &ApiBulk, key: Option<&str>) -> Result<ApiBulkDone> {
    let request = Request {
        headers: key.map(|key| ("idempotency-key", key.to_owned())).into_iter().collect(),
        body: Some(serde_json::to_value(asked)?),
    };
    let query = query.trim_start_matches('&');
    client.read(Method::POST, &format!("/jobs/bulk?{query}"), request).await
}

fn say(client: &Client<'_>, done: &ApiBulkDone, text: &str) -> Result<()> {
    if client.json() {
        print(&format!("{}\n", json!({"v": 1, "bulk": done})))
    } else {
        print(text)
    }
}

fn jobs(count: u64) -> String {
    match count {
        1 => "1 job".to_owned(),
        count => format!("{count} jobs"),
    }
}

/// Says how many jobs are meant: a count that ended early is a lower bound.
fn many(counted: &ApiBulkDone) -> String {
    let more = if counted.next.is_some() { "at least " } else { "" };
    format!("{more}{}", jobs(counted.fit))
}

fn would(deed: Deed, counted: &ApiBulkDone) -> String {
    match (counted.fit, counted.matched) {
        (_, 0) => "no job matches\n".to_owned(),
        (0, _) => left(deed, counted, "is", "are"),
        _ => format!(
            "{} would be {}\n{}",
            many(counted),
            done(deed),
            left(deed, counted, "would be", "would be")
        ),
    }
}

/// Says how many jobs match and are none that it can be done to; nothing where there are none.
fn left(deed: Deed, counted: &ApiBulkDone, one: &str, several: &str) -> String {
    let deed = match deed {
        Deed::Cancel => "cancelled",
        Deed::Rerun => "run again",
        Deed::Suspend => "suspended",
        Deed::Resume => "resumed",
        Deed::Delete => "deleted",
    };
    match counted.matched.saturating_sub(counted.fit) {
        0 => String::new(),
        1 => format!("1 job that matches {one} left: it cannot be {deed} as it is\n"),
        count => format!("{count} jobs that match {several} left: they cannot be {deed} as they are\n"),
    }
}

fn done(deed: Deed) -> &'static str {
    match deed {
        Deed::Cancel => "asked to end",
        Deed::Rerun => "run again",
        Deed::Suspend => "held back",
        Deed::Resume => "let go on",
        Deed::Delete => "deleted",
    }
}

fn capital(deed: Deed) -> String {
    let name = deed.name();
    let mut letters = name.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}
