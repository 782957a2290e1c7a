//! `labctl jobs audit`: who did what.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::json;

use super::{Client, Outcome, show};
use crate::cli::print;
use crate::dashboard::http::audit::{ApiAct, ApiActs, ApiChecked};
use crate::dashboard::job::JobId;
use crate::error::Exit;

/// How many entries are asked for at once.
const PAGE: u32 = 500;

/// Which entries, or whether they are as they were written.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What was done to this job, also where it is deleted; without it, what was done to anything of yours
    id: Option<JobId>,
    /// What was done to the template of this name
    #[arg(long, value_name = "NAME", conflicts_with_all = ["id", "schedule"])]
    template: Option<String>,
    /// What was done to the schedule of this name
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    schedule: Option<String>,
    /// How many entries at most, the newest ones
    #[arg(long, short = 'n', value_name = "N", default_value = "50")]
    limit: u32,
    /// Check instead that nobody changed what was written; wants an admin's token. Where somebody did, the exit code is 1
    #[arg(long, conflicts_with_all = ["id", "template", "schedule", "limit"])]
    check: bool,
}

impl Args {
    pub(super) async fn run(self, client: &Client<'_>) -> Result<Outcome> {
        if self.check {
            return check(client).await;
        }
        let acts = self.acts(client).await?;
        if client.json() {
            print(&format!("{}\n", json!({"v": 1, "acts": acts})))?;
        } else {
            print(&table(&acts))?;
        }
        Ok(Exit::Done)
    }

    async fn acts(&self, client: &Client<'_>) -> Result<Vec<ApiAct>> {
        let objects = [
            ("job", self.id.map(|id| id.to_string())),
            ("template", self.template.clone()),
            ("schedule", self.schedule.clone()),
        ];
        let (mut all, mut cursor): (Vec<ApiAct>, _) = (Vec::new(), None::<String>);
        loop {
            let left = u64::from(self.limit).saturating_sub(all.len() as u64);
            if left == 0 {
                return Ok(all);
            }
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("limit", &left.min(PAGE.into()).to_string());
            for (name, value) in &objects {
                if let Some(value) = value {
                    query.append_pair(name, value);
                }
            }
            if let Some(cursor) = &cursor {
                query.append_pair("cursor", cursor);
            }
            let page: ApiActs = client.get(&format!("/audit?{}", query.finish())).await?;
            all.extend(page.acts);
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(all),
            }
        }
    }
}

/// Looks at all seals, from the first one on.
async fn check(client: &Client<'_>) -> Result<Outcome> {
    let (mut seals, mut entries, mut after) = (0, 0, 0);
    let last = loop {
        let part: ApiChecked = client.get(&format!("/audit/check?after={after}")).await?;
        seals += part.seals;
        entries += part.entries;
        match &part.last {
            Some(last) if part.more && part.wrong.is_none() => after = last.place,
            _ => break part,
        }
    };
    let good = last.wrong.is_none();
    let several = |count: u64, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
    let sealed = format!(
        "{} in {}",
        several(entries, "entry", "entries"),
        several(seals, "seal", "seals")
    );
    if client.json() {
        print(&format!(
            "{}\n",
            json!({"v": 1, "intact": good, "seals": seals, "entries": entries, "wrong": last.wrong, "last": last.last})
        ))?;
    } else {
        let mut text = match &last.wrong {
            Some(wrong) => format!("{}\nas it was written, before that: {sealed}\n", show::plain(wrong)),
            None => format!("as it was written: {sealed}\n"),
        };
        if let Some(seal) = &last.last {
            _ = writeln!(
                text,
                "compare with the server's log: seal {} of {}, digest {}",
                seal.place, seal.at, seal.digest
            );
        }
        print(&text)?;
    }
    Ok(if good { Exit::Done } else { Exit::Unmet })
}

fn table(acts: &[ApiAct]) -> String {
    let heads = ["WHEN", "WHO", "WHAT", "OBJECT", "CHANGE", "FROM"].map(str::to_owned);
    let rows = acts.iter().map(|act| {
        let change = match (&act.before, &act.after) {
            (Some(before), Some(after)) => format!("{before} -> {after}"),
            (Some(before), None) => format!("{before} ->"),
            (None, Some(after)) => format!("-> {after}"),
            (None, None) => String::new(),
        };
        [
            act.at.to_string(),
            show::plain(&act.actor),
            show::plain(&act.verb),
            show::plain(&act.object),
            show::plain(&change),
            show::plain(act.ip.as_deref().unwrap_or_default()),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(heads).chain(rows).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (place, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[place].chars().count()).max().unwrap_or(0);
            _ = write!(line, "{cell:width$}  ");
        }
        _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::http::api::Moment;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let act = |actor: &str, after: Option<&str>| ApiAct {
            number: 1,
            at: Moment(1_800_000_000_000),
            actor: actor.to_owned(),
            verb: "cancel".to_owned(),
            object: "job/0abc".to_owned(),
            owner: "ada".to_owned(),
            before: Some("running".to_owned()),
            after: after.map(str::to_owned),
            request_id: None,
            ip: Some("127.0.0.1".to_owned()),
        };
        let text = table(&[act("a\u{1b}[2J", Some("stopping")), act("(retention)", None)]);
        let wanted = "\
WHEN                      WHO          WHAT    OBJECT    CHANGE               FROM
2027-01-15T08:00:00.000Z  a [2J        cancel  job/0abc  running -> stopping  127.0.0.1
2027-01-15T08:00:00.000Z  (retention)  cancel  job/0abc  running ->           127.0.0.1
";
        assert_eq!(text, wanted);
    }
}
