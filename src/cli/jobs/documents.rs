//! `labctl jobs templates` and `labctl jobs schedules`.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Subcommand;
use reqwest::Method;
use serde_json::json;

use super::{Client, say, show};
use crate::cli::print;
use crate::dashboard::http::api::{ApiJob, ApiSchedule, ApiSchedules, ApiTemplate, ApiTemplates};
use crate::dashboard::job::template::Template;
use crate::drive::dashboard::Request;

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
    pub(super) async fn run(self, client: &Client<'_>) -> Result<()> {
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
