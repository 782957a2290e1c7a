//! Runs a program and brings back its exit code and output. No shell.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Context, Probe, one_line};
use crate::check::ask::Exec;
use crate::check::evidence::Evidence;
use crate::drive::exec::{Cmd, ExecError};

/// The programs that are the lab's own, never those of PATH.
const TOOLS: [&str; 3] = ["kubectl", "helm", "kind"];
/// How much of an output is kept, in characters.
const KEEP: usize = 64 << 10;

#[async_trait]
impl Probe for Exec {
    async fn observe(&self, context: &Context<'_>) -> Evidence {
        let Some((program, args)) = self.run.split_first() else {
            return Evidence::blind("no program is named");
        };
        let mut cmd = if TOOLS.contains(&program.as_str()) {
            match (context.tools)(program) {
                Ok(path) => Cmd::new(path),
                Err(error) => return Evidence::blind(format!("could not run `{program}`: {error}")),
            }
        } else {
            Cmd::new(program)
        };
        cmd = cmd
            .args(args)
            .on_cluster(context.kubeconfig)
            .without_env("HELM_NAMESPACE")
            .limit(self.within());
        for (name, value) in &self.env {
            cmd = cmd.env(name, value);
        }
        if let Some(dir) = &self.dir {
            cmd = cmd.dir(dir);
        }
        if let Some(stdin) = &self.stdin {
            cmd = cmd.stdin(stdin.clone());
        }
        match context.exec.run(&cmd).await {
            Ok(output) => Evidence::one("", value(0, &output.stdout, &output.stderr)),
            Err(ExecError::Failed {
                code: Some(code),
                output,
                ..
            }) => Evidence::one("", value(code, &output.stdout, &output.stderr)),
            Err(error) => Evidence::blind(format!("could not run `{program}`: {}", one_line(&error))),
        }
    }
}

fn value(exit: i32, stdout: &str, stderr: &str) -> Value {
    let cut = |text: &str| text.chars().take(KEEP).collect::<String>();
    let mut value = json!({
        "exit": exit,
        "stdout": cut(stdout),
        "stderr": cut(stderr),
        "output": cut(&format!("{stdout}{stderr}")),
    });
    if let Ok(json) = serde_json::from_str::<Value>(stdout) {
        value["json"] = json;
    }
    value
}
