//! `labctl dashboard`.

use anyhow::Result;
use serde_json::json;

use super::{Outcome, print};
use crate::error::{Code, Diagnosis, Exit};
use crate::lab::access::{self, Access};
use crate::world::World;

/// Show where the lab's dashboard is, and how to come in
///
/// A browser asks for a name and a password: any name, and the token as the password. `labctl jobs` finds both by
/// itself.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the token alone, for a browser or a script
    #[arg(long)]
    token: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// There is no lab, or it has no token.
    pub fn run(self, world: &World) -> Result<Outcome> {
        let settings = world.settings();
        let access = Access::known(settings)?;
        let tokens = access.tokens.ok_or_else(|| {
            Diagnosis::new(Code::ClusterMissing, format!("the lab `{}` has no token", settings.lab))
                .hint("labctl up makes it, and tells the dashboard")
        })?;
        let file = access::path(settings);
        if self.token {
            if settings.json {
                print(&format!("{}\n", json!({"v": 1, "token": tokens.token()})))?;
            } else {
                print(&format!("{}\n", tokens.token()))?;
            }
            return Ok(Exit::Done);
        }
        if settings.json {
            print(&format!("{}\n", json!({"v": 1, "url": access.url, "token_file": file})))?;
            return Ok(Exit::Done);
        }
        let url = access.url.as_deref().unwrap_or(
            "labctl kubectl port-forward -n job-dashboard svc/job-dashboard 8080:80 leads http://127.0.0.1:8080 to it",
        );
        print(&format!(
            "url         {url}\nuser        {}\ntoken       in {}; labctl dashboard --token prints it\njobs        labctl jobs run --follow -- echo hello\n",
            access::USER,
            file.display()
        ))?;
        Ok(Exit::Done)
    }
}
