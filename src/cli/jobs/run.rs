//! `labctl jobs run`.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use anyhow::Result;
use reqwest::Method;

use super::{Client, follow, say, show};
use crate::cli::Outcome;
use crate::dashboard::http::api::{ApiDetail, ApiJob};
use crate::dashboard::job::State;
use crate::dashboard::job::spec::{Limits, Spec};
use crate::drive::dashboard::Request;
use crate::error::{Code, Diagnosis, Exit};

/// How often it is looked whether a job has ended, at first and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What to run.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// The job's name; by default the program's
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// An environment variable of the job; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// A label to find the job by; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// The image in which the program is, on a dashboard that runs jobs in Kubernetes
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// How often the program is started again after it failed
    #[arg(long, value_name = "N", default_value = "0")]
    retries: u32,
    /// How long the job may take
    #[arg(long, value_name = "TIME", value_parser = crate::cli::duration)]
    deadline: Option<Duration>,
    /// How much memory the job may use, in MiB
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// Hold the job back until it is resumed
    #[arg(long)]
    suspend: bool,
    /// Wait for the job's end; exit with 1 where it did not succeed
    #[arg(long, short)]
    wait: bool,
    /// Print the job's output as it comes, and wait for its end as --wait does
    #[arg(long, short)]
    follow: bool,
    /// A key under which asking again gives the same job
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it must be NAME=VALUE".to_owned()),
    }
}

/// Makes a key that nobody else has: the request may be sent again where the connection broke.
pub(super) fn key() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("labctl-{:016x}{:016x}", half(), half())
}

/// Makes a name that a job may have out of a program's path.
fn name_of(program: &str) -> String {
    let last = program.rsplit('/').next().unwrap_or_default();
    let name: String = last
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .take(63)
        .collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() { "job".to_owned() } else { name.to_owned() }
}

impl Args {
    fn spec(&self) -> Result<Spec> {
        let mut limits = Limits::default();
        if let Some(deadline) = self.deadline {
            // A job's deadline has whole seconds.
            let seconds = deadline.as_secs() + u64::from(deadline.subsec_nanos() > 0);
            limits.seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        }
        if let Some(memory) = self.memory {
            limits.memory_mib = memory;
        }
        let spec = Spec {
            name: self
                .name
                .clone()
                .unwrap_or_else(|| name_of(self.command.first().map_or("", String::as_str))),
            command: self.command.clone(),
            image: self.image.clone(),
            env: self.env.iter().cloned().collect::<BTreeMap<_, _>>(),
            labels: self.label.iter().cloned().collect(),
            retries: self.retries,
            suspend: self.suspend,
            limits,
        };
        let faults = spec.faults();
        if faults.is_empty() {
            return Ok(spec);
        }
        let what: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.detail)).collect();
        Err(Diagnosis::new(Code::Arguments, format!("no job can be run so\n  {}", what.join("\n  ")))
            .hint("labctl jobs run --help")
            .error())
    }

    pub(super) async fn run(&self, client: &Client<'_>) -> Result<Outcome> {
        let spec = self.spec()?;
        let request = Request {
            headers: vec![("idempotency-key", self.key.clone().unwrap_or_else(key))],
            body: Some(serde_json::to_value(&spec)?),
        };
        let job: ApiJob = client.read(Method::POST, "/jobs", request).await?;
        let id = job.id;
        if !self.follow {
            say(client, &job, &format!("{id}\n"))?;
            if !self.wait {
                client.world.reporter().note(format!("labctl jobs logs -f {id} follows its output"));
                return Ok(Exit::Done);
            }
        } else {
            client.world.reporter().note(format!("{id} is {}", job.state));
            follow::whole(client, id).await?;
        }
        self.ended(client, &job).await
    }

    /// Waits for a job's end and says how it ended.
    async fn ended(&self, client: &Client<'_>, job: &ApiJob) -> Result<Outcome> {
        let id = job.id;
        let mut pause = LOOK.0;
        let job = loop {
            let detail: ApiDetail = client.get(&format!("/jobs/{id}")).await?;
            if detail.job.state.is_final() {
                break detail.job;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        };
        client.world.reporter().note(show::verdict(&job));
        Ok(if job.state == State::Succeeded { Exit::Done } else { Exit::Unmet })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::job::spec::is_name;

    #[test]
    fn every_program_gives_a_name() {
        for (program, name) in [
            ("sh", "sh"),
            ("/usr/bin/python3.13", "python3.13"),
            ("./my tool!", "my-tool"),
            ("-", "job"),
            ("", "job"),
            ("ä", "job"),
            (&"x".repeat(200), &"x".repeat(63)),
        ] {
            assert_eq!(name_of(program), name);
            assert!(is_name(&name_of(program)));
        }
        assert_ne!(key(), key());
    }
}
