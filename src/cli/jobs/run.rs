//! `labctl jobs run`.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use anyhow::Result;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{Client, documents, follow, say, show};
use crate::cli::Outcome;
use crate::dashboard::http::api::{ApiDetail, ApiJob, ApiTemplate};
use crate::dashboard::job::spec::{Limits, Priority, Spec};
use crate::dashboard::job::{JobId, State};
use crate::drive::dashboard::Request;
use crate::error::{Code, Diagnosis, Exit};

/// How often it is looked whether a job has ended, at first and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What to run.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The program and its arguments
    #[arg(
        required_unless_present = "template",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
    /// Run this template instead of a command
    #[arg(long, short, value_name = "NAME", conflicts_with_all = ["command", "name", "env", "label", "image", "retries", "deadline", "memory", "suspend", "priority"])]
    template: Option<String>,
    /// A parameter of the template; may be given several times. What is no text is written as JSON: -p count=3
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair, requires = "template")]
    parameter: Vec<(String, String)>,
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
    /// Which of the jobs that wait begins first
    #[arg(long, value_enum, default_value = "normal")]
    priority: Priority,
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

/// Reads a parameter's value: a text where the schema wants one, and else JSON, where it is some.
fn typed(schema: Option<&Value>, text: &str) -> Value {
    let is_text = |kind: &Value| kind == "string";
    let wants_text = match schema.and_then(|schema| schema.get("type")) {
        Some(Value::Array(kinds)) => kinds.iter().any(is_text),
        Some(kind) => is_text(kind),
        None => schema
            .and_then(|schema| schema.get("enum")?.as_array())
            .is_some_and(|values| values.iter().any(|value| value == text)),
    };
    let read = (!wants_text).then(|| serde_json::from_str(text).ok()).flatten();
    read.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Makes a key that nobody else has: the request may be sent again where the connection broke.
pub(super) fn key() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("labctl-{:016x}{:016x}", half(), half())
}

/// Waits for a job's end.
pub(super) async fn end(client: &Client<'_>, id: JobId) -> Result<ApiJob> {
    let mut pause = LOOK.0;
    loop {
        let detail: ApiDetail = client.get(&format!("/jobs/{id}")).await?;
        if detail.job.state.is_final() {
            return Ok(detail.job);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK.1);
    }
}

/// Makes a name that a job may have out of a program's path.
fn name_of(program: &str) -> String {
    let last = program.rsplit('/').next().unwrap_or_default();
    let name: String = last
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '-'
            }
        })
        .take(63)
        .collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() {
        "job".to_owned()
    } else {
        name.to_owned()
    }
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
            priority: self.priority,
            limits,
        };
        let faults = spec.faults();
        if faults.is_empty() {
            return Ok(spec);
        }
        let what: Vec<String> = faults
            .iter()
            .map(|fault| format!("{}: {}", fault.pointer, fault.detail))
            .collect();
        Err(Diagnosis::new(
            Code::Arguments,
            format!("no job can be run so\n  {}", what.join("\n  ")),
        )
        .hint("labctl jobs run --help")
        .error())
    }

    /// Returns the request of a template's job. Whether a value is a text or JSON is for the template's schema to say.
    async fn of_template(&self, client: &Client<'_>, name: &str) -> Result<Value> {
        let template = if self.parameter.is_empty() {
            None
        } else {
            let path = format!("/templates/{}", documents::escaped(name));
            Some(client.get::<ApiTemplate>(&path).await?.template())
        };
        let mut parameters = Map::new();
        for (name, text) in &self.parameter {
            let schema = template.as_ref().and_then(|template| template.property(name));
            let value = typed(schema, text);
            if parameters.insert(name.clone(), value).is_some() {
                let what = format!("the parameter `{name}` is given twice");
                return Err(Diagnosis::new(Code::Arguments, what)
                    .hint("labctl jobs run --help")
                    .error());
            }
        }
        Ok(json!({"template": name, "parameters": parameters}))
    }

    pub(super) async fn run(&self, client: &Client<'_>) -> Result<Outcome> {
        let body = match &self.template {
            Some(name) => self.of_template(client, name).await?,
            None => serde_json::to_value(self.spec()?)?,
        };
        let request = Request {
            headers: vec![("idempotency-key", self.key.clone().unwrap_or_else(key))],
            body: Some(body),
        };
        let job: ApiJob = client.read(Method::POST, "/jobs", request).await?;
        let id = job.id;
        if self.follow {
            client.world.reporter().note(format!("{id} is {}", job.state));
            follow::whole(client, id).await?;
        } else {
            say(client, &job, &format!("{id}\n"))?;
            if !self.wait {
                let next = format!("labctl jobs logs -f {id} follows its output");
                client.world.reporter().note(next);
                return Ok(Exit::Done);
            }
        }
        self.ended(client, &job).await
    }

    /// Waits for a job's end and says how it ended.
    async fn ended(&self, client: &Client<'_>, job: &ApiJob) -> Result<Outcome> {
        let job = end(client, job.id).await?;
        client.world.reporter().note(show::verdict(&job));
        Ok(if job.state == State::Succeeded {
            Exit::Done
        } else {
            Exit::Unmet
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::job::spec::is_name;

    #[test]
    fn a_value_is_what_the_schema_wants() {
        let value = |schema: Value, text: &str| typed(Some(&schema), text);
        assert_eq!(value(json!({"type": "string"}), "3"), "3");
        assert_eq!(value(json!({"type": "integer"}), "3"), 3);
        assert_eq!(value(json!({"type": "boolean"}), "true"), true);
        assert_eq!(value(json!({"type": "integer"}), "three"), "three");
        assert_eq!(value(json!({"enum": ["3", "x"]}), "3"), "3");
        assert_eq!(value(json!({"type": "array"}), r#"["a"]"#), json!(["a"]));
        assert_eq!(typed(None, "3"), 3);
    }

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
