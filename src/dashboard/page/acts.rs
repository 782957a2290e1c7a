//! Who did what to a job, on its page.

use maud::{Markup, html};

use super::show;
use crate::dashboard::store::audit::{Entry, Verb};

/// How many entries the page of a job shows.
pub(super) const SHOWN: u32 = 50;

/// Shows what was done, newest first.
pub(super) fn section(acts: &[Entry], now_ms: i64) -> Markup {
    html! {
        section aria-labelledby="acts-title" {
            h2 #acts-title { "Who did what" }
            dl.spec {
                @for act in acts {
                    dt { (show::ago(act.at_ms, now_ms)) }
                    dd {
                        strong { (act.actor) } " " (done(&act.verb)) (change(act))
                        @if let Some(ip) = &act.ip { " · from " code { (ip) } }
                        @if let Some(id) = &act.request_id { " · request " code { (id) } }
                    }
                }
            }
            @if acts.len() == usize::try_from(SHOWN).unwrap_or(usize::MAX) {
                p.hint { "These are the newest " (SHOWN) "; " code { "labctl jobs audit" } " has all of them." }
            }
        }
    }
}

fn done(verb: &str) -> &str {
    match Verb::from_name(verb) {
        Some(Verb::Create) => "created it",
        Some(Verb::Rerun) => "created it to run another one again",
        Some(Verb::Cancel) => "asked it to end",
        Some(Verb::Suspend) => "held it back",
        Some(Verb::Resume) => "let it go on",
        Some(Verb::Change) => "changed it",
        Some(Verb::Delete) => "deleted it",
        // A later labctl wrote it.
        None => verb,
    }
}

fn change(act: &Entry) -> Markup {
    html! {
        @match (act.before.as_deref(), act.after.as_deref()) {
            (Some(before), Some(after)) if before.contains('/') => { " (" (before) "), " (after) }
            (Some(before), Some(after)) => { ": " (before) " → " (after) }
            (Some(text), None) | (None, Some(text)) => { ": " (text) }
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_who_did_what_and_no_text_is_html() {
        let entry = |actor: &str, verb: &str, before: Option<&str>, after: Option<&str>| Entry {
            number: 1,
            at_ms: 0,
            actor: actor.into(),
            verb: verb.into(),
            object: "job/1".into(),
            owner: "ada".into(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
            request_id: Some("r<b>".into()),
            ip: Some("::1".into()),
        };
        let acts = [
            entry("<b>ada", "cancel", Some("running"), Some("stopping")),
            entry("ada", "rerun", Some("job/0abc"), Some("pending")),
            entry("ada", "<b>", None, None),
        ];
        let page = section(&acts, 1000).into_string();
        assert!(!page.contains("<b>"), "{page}");
        for part in [
            "asked it to end: running → stopping · from <code>::1</code>",
            "run another one again (job/0abc), pending",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
    }
}
