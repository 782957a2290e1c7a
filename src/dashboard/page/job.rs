//! One job: how it is, how it came to that, what it runs, and what it writes.

use axum::extract::{Path, RawQuery};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::{Map, Value};

use super::act::Deed;
use super::tail::{self, Tail};
use super::visit::{Failure, Form, Visit, Work};
use super::{acts, list, show, words};
use crate::dashboard::control::now_ms;
use crate::dashboard::job::spec::{Priority, Spec};
use crate::dashboard::job::template::Origin;
use crate::dashboard::job::{Job, State};
use crate::dashboard::store::audit::Entry;

/// Shows a job.
pub(super) async fn page(visit: Visit, Work(service): Work, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse() else {
        return visit.failure(Failure::no_job());
    };
    let shown = async {
        let job = service.job(&visit.caller, id).await?;
        let spec = service.spec(&visit.caller, id).await?;
        let tail = tail::read(&service, &visit.caller, id).await?;
        let result = service.result(&job).await?;
        let may_rerun = service.rerun_refused(&job).await?.is_none();
        let origin = match job.template {
            Some(_) => service.origin(&visit.caller, id).await?,
            None => None,
        };
        let object = format!("job/{id}");
        let acts = service.acts(&visit.caller, Some(&object), None, acts::SHOWN).await?;
        Ok::<_, Failure>(Whole {
            job,
            may_rerun,
            spec,
            origin,
            tail,
            result,
            acts,
        })
    };
    match shown.await {
        Ok(whole) => {
            let title = format!("{} · {}", whole.job.name, whole.job.state);
            let content = content(&visit, &whole, now_ms());
            visit.page(StatusCode::OK, &title, Some("job.js"), &content)
        }
        Err(failure) => visit.failure(failure),
    }
}

/// Shows how a job is, as a part of its page that a script puts in the place of an older one.
///
/// Whoever has this version of the job already (`?version=`) gets nothing.
pub(super) async fn head(
    visit: Visit,
    Work(service): Work,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let Ok(id) = id.parse() else {
        return visit.failure(Failure::no_job());
    };
    let known = Form::unchecked(&query.unwrap_or_default());
    let job = match service.job(&visit.caller, id).await {
        Ok(job) if known.one("version") == job.version.to_string() => {
            return visit.send(StatusCode::NO_CONTENT, html! {});
        }
        Ok(job) => job,
        Err(error) => return visit.failure(error),
    };
    match service.rerun_refused(&job).await {
        Ok(refused) => visit.send(StatusCode::OK, summary(&visit, &job, refused.is_none(), now_ms())),
        Err(error) => visit.failure(error),
    }
}

/// All there is on the page.
struct Whole {
    job: Job,
    may_rerun: bool,
    spec: Spec,
    origin: Option<Origin>,
    tail: Tail,
    result: Option<Map<String, Value>>,
    acts: Vec<Entry>,
}

/// Returns the content of the page.
fn content(visit: &Visit, whole: &Whole, now_ms: i64) -> Markup {
    html! {
        (summary(visit, &whole.job, whole.may_rerun, now_ms))
        @if let Some(result) = &whole.result { (came_to(result)) }
        (log(&whole.job, &whole.tail))
        (specification(&whole.spec, whole.origin.as_ref()))
        // Jobs of an older labctl have none.
        @if !whole.acts.is_empty() { (acts::section(&whole.acts, now_ms)) }
    }
}

fn summary(visit: &Visit, job: &Job, may_rerun: bool, now_ms: i64) -> Markup {
    html! {
        section #head aria-labelledby="title" data-state=(job.state) data-version=(job.version) data-final[job.state.is_final()] data-whole[job.log_complete] {
            nav.crumbs aria-label="Where this is" { a href="/" { "Jobs" } }
            div.title {
                h1 #title { (job.name) }
                (show::state(job.state))
                code.id { (job.id) }
            }
            @if let Some(why) = list::why(job) {
                p class={ "why " (job.state) } { (why) }
            }
            p.labels {
                @if let Some(template) = &job.template {
                    "from " a href={ "/ui/templates/" (template) } title="The template that it was made from" { (template) } " "
                }
                @for (name, value) in &job.labels {
                a.label href=(by_label(name, value)) title="Jobs with this label" { (name) @if !value.is_empty() { "=" (value) } } " "
            } }
            (actions(visit, job, may_rerun))
            (timeline(job, now_ms))
        }
    }
}

fn by_label(name: &str, value: &str) -> String {
    let mut query = form_urlencoded::Serializer::for_suffix("/?".to_owned(), 2);
    query.append_pair("label", &format!("{name}={value}")).finish()
}

fn by_parameter(template: &str, name: &str, value: &str) -> String {
    let mut query = form_urlencoded::Serializer::for_suffix("/?".to_owned(), 2);
    query.append_pair("template", template);
    query.append_pair("param", &format!("{name}={value}")).finish()
}

fn actions(visit: &Visit, job: &Job, may_rerun: bool) -> Markup {
    let here = format!("/ui/jobs/{}", job.id);
    // What cannot be undone is asked once more, on a page of its own.
    let deed = |deed: Deed, title: &str| {
        let asked = deed.is_asked();
        // A job that is deleted has no page to come back to.
        let back = if deed == Deed::Delete { "/" } else { &here };
        html! {
            form method=(if asked { "get" } else { "post" }) action="/ui/act" {
                @if !asked {
                    (visit.token_field())
                    // The same page sends the same key, so a double click runs a job again once.
                    input type="hidden" name="key" value={ (job.version) "-" (now_ms()) };
                }
                input type="hidden" name="id" value=(job.id);
                input type="hidden" name="back" value=(back);
                button name="do" value=(deed) .danger[asked] { (title) }
            }
        }
    };
    html! {
        div.actions role="group" aria-label="What can be done" {
            @if Deed::Cancel.fits(job) { (deed(Deed::Cancel, "Cancel…")) }
            @if Deed::Resume.fits(job) { (deed(Deed::Resume, "Resume")) }
            @if Deed::Suspend.fits(job) { (deed(Deed::Suspend, "Suspend")) }
            @if may_rerun { (deed(Deed::Rerun, "Run again")) } @else { span.never { "Not run again: its template wants it so" } }
            @if let Some(template) = &job.template {
                a.button href={ "/ui/templates/" (template) "?from=" (job.id) } { "Change and run…" }
            } @else {
                a.button href={ "/ui/jobs/new?from=" (job.id) } { "Edit and run…" }
            }
            a.button href={ "/ui/schedules/new?from=" (job.id) } { "Schedule…" }
            @if Deed::Delete.fits(job) { (deed(Deed::Delete, "Delete…")) }
        }
    }
}

/// How the job came to be as it is, with how long each part took.
fn timeline(job: &Job, now_ms: i64) -> Markup {
    let created = job.created_ms;
    let waited = job.started_ms.or(job.finished_ms).unwrap_or(now_ms) - created;
    let ticking = |since: i64, length: i64, over: bool| {
        html! { @if over { (show::length(length)) } @else { span data-since=(since) { (show::length(length)) } } }
    };
    html! {
        ol.timeline aria-label="What happened when" {
            li {
                strong { "Created" } " " (show::ago(created, now_ms))
                span { "by " (job.owner) @if let Some(parent) = job.parent { ", a rerun of " a href={ "/ui/jobs/" (parent) } { code { (parent) } } } }
            }
            @if let Some(started) = job.started_ms {
                li {
                    strong { "Started" } " " (show::ago(started, now_ms))
                    span { "after it waited " (show::length(waited)) }
                }
            } @else if job.finished_ms.is_none() {
                li.now {
                    strong { @if job.state == State::Suspended { "Held back" } @else { "Waiting" } }
                    span { "for " (ticking(created, waited, false)) }
                }
            }
            @if job.attempts > 1 {
                li { strong { "Attempts" } span { (job.attempts) " were begun" } }
            }
            @if let Some(finished) = job.finished_ms {
                li class=(job.state) {
                    strong { (match job.state { State::Succeeded => "Succeeded", State::Cancelled => "Cancelled", _ => "Failed" }) }
                    " " (show::ago(finished, now_ms))
                    span {
                        @if let Some(started) = job.started_ms { "after it ran " (show::length(finished - started)) } @else { "before it began" }
                        @if let Some(code) = job.exit_code { ", with exit code " (code) }
                    }
                }
            } @else if let Some(started) = job.started_ms {
                li.now {
                    strong { @if job.state == State::Stopping { "Stopping" } @else { "Running" } }
                    span { "for " (ticking(started, now_ms - started, false)) @if let Some(code) = job.exit_code { ", after an attempt with exit code " (code) } }
                }
            }
        }
    }
}

fn log(job: &Job, tail: &Tail) -> Markup {
    let raw = format!("/jobs/{}/logs?format=text", job.id);
    html! {
        section #log aria-labelledby="log-title" data-job=(job.id) data-last=(tail.last) {
            div.head {
                h2 #log-title { "Log" }
                // The script shows these: without it they would do nothing.
                div #tools .tools hidden {
                    form #find .find role="search" {
                        (show::icon("search"))
                        input #needle type="search" placeholder="Search the log" aria-label="Search the log" autocomplete="off" spellcheck="false" aria-keyshortcuts="/";
                        output #hits for="needle" {}
                        button #before type="button" aria-label="Previous match" { "↑" }
                        button #after aria-label="Next match" { "↓" }
                    }
                    select #level aria-label="Find lines that say they are so bad, or worse" {
                        option value="" { "Any level" }
                        option value="warn" { "Warnings" }
                        option value="error" { "Errors" }
                    }
                    label.check { input #follow type="checkbox" aria-keyshortcuts="f"; "Follow" }
                    label.check { input #wrap type="checkbox" aria-keyshortcuts="w"; "Wrap" }
                    label.check { input #times type="checkbox" aria-keyshortcuts="t"; "Times" }
                    label.check title="Lines of JSON as a message and its fields" { input #fields type="checkbox"; "Fields" }
                    form #jump { input #line type="text" inputmode="numeric" pattern="[0-9]+" size="7" placeholder="Line" aria-label="Jump to line" aria-keyshortcuts="g"; }
                }
                a.button href=(raw) download={ (job.name) "-" (job.id) ".log" } { "Download" }
                a.button.quiet href=(raw) { "Raw" }
            }
            p #link .link role="status" hidden {}
            div #plain {
                p.hint { (tail.said()) " " @if !job.log_complete { a href={ "/ui/jobs/" (job.id) } { "Load again" } } }
                @if !tail.text.is_empty() { pre.log tabindex="0" aria-label="The end of the log" { (tail.text) } }
            }
        }
    }
}

/// Shows what a job says it came to, a row for each name.
fn came_to(result: &Map<String, Value>) -> Markup {
    html! {
        section aria-labelledby="result-title" {
            h2 #result-title { "Result" }
            dl.spec {
                @for (name, value) in result {
                    dt { (name) }
                    dd { @match value { Value::String(text) => { (text) }, other => { code { (other) } } } }
                }
            }
        }
    }
}

fn specification(spec: &Spec, origin: Option<&Origin>) -> Markup {
    let limits = &spec.limits;
    let json = serde_json::to_string_pretty(spec).unwrap_or_default();
    html! {
        section aria-labelledby="spec-title" {
            h2 #spec-title { "What it runs" }
            dl.spec {
                @if let Some(origin) = origin.filter(|origin| !origin.parameters.is_empty()) {
                    dt { "Parameters" }
                    dd.labels {
                        @for (name, value) in &origin.parameters {
                            @let value = match value { Value::String(text) => text.clone(), other => other.to_string() };
                            a.label href=(by_parameter(&origin.template, name, &value)) title="Jobs of this template with this parameter" { (name) "=" (value) } " "
                        }
                    }
                }
                dt { "Command" } dd { code.command { (words::join(&spec.command)) } }
                @if let Some(image) = &spec.image { dt { "Image" } dd { code { (image) } } }
                @if !spec.env.is_empty() {
                    dt { "Environment" }
                    // Values are often secrets; whoever looks over a shoulder does not see them.
                    dd { details { summary { @for (place, name) in spec.env.keys().enumerate() { @if place > 0 { ", " } code { (name) } } }
                        pre { @for (name, value) in &spec.env { (name) "=" (value) "\n" } } } }
                }
                dt { "Retries" } dd { (spec.retries) }
                @if spec.priority != Priority::Normal { dt { "Priority" } dd { (spec.priority.name()) } }
                dt { "Limits" }
                dd {
                    (show::length(i64::from(limits.seconds) * 1000)) ", " (limits.memory_mib) " MiB of memory, "
                    (f64::from(limits.cpu_milli) / 1000.0) " of a core, " (limits.output_mib) " MiB of output"
                }
            }
            details.document { summary { "As JSON" } pre { (json) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::job::JobId;

    fn html(job: &Job, spec: &str, log: &str) -> String {
        let whole = Whole {
            job: job.clone(),
            may_rerun: true,
            spec: serde_json::from_str(spec).expect("a spec"),
            origin: None,
            tail: Tail {
                text: log.to_owned(),
                first: 1,
                last: 2,
            },
            result: serde_json::from_str(RESULT).ok(),
            acts: Vec::new(),
        };
        let visit = super::super::visit::tests::visit();
        content(&visit, &whole, job.created_ms + 300_000).into_string()
    }

    fn words(html: &str) -> String {
        let mut out = String::new();
        let mut within = false;
        for c in html.chars() {
            match c {
                '<' => within = true,
                '>' => within = false,
                c if !within => out.push(c),
                _ => {}
            }
        }
        out.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    const RESULT: &str = r#"{"rows": 12, "table": "<b>orders</b>", "parts": [1, 2]}"#;

    #[test]
    fn what_a_job_came_to_is_shown_name_by_name() {
        let page = html(&list::tests::job(1, State::Succeeded), SPEC, "");
        let rows = [
            "<dt>rows</dt><dd><code>12</code></dd>",
            "<dt>table</dt><dd>&lt;b&gt;orders&lt;/b&gt;</dd>",
            "<dt>parts</dt><dd><code>[1,2]</code></dd>",
        ];
        assert!(page.contains(&rows.concat()), "{page}");
    }

    const SPEC: &str = r#"{"name": "a", "command": ["echo", "a b"]}"#;

    #[test]
    fn the_timeline_says_what_happened_and_how_long_it_took() {
        let mut job = list::tests::job(1, State::Pending);
        let page = words(&html(&job, SPEC, ""));
        assert!(
            page.contains("Created 5 min ago") && page.contains("Waiting") && page.contains("for 5 min 00 s"),
            "{page}"
        );
        job.state = State::Failed;
        job.started_ms = Some(job.created_ms + 2_500);
        job.finished_ms = Some(job.created_ms + 64_500);
        job.exit_code = Some(3);
        job.attempts = 2;
        job.parent = JobId::from_number(7);
        let page = words(&html(&job, SPEC, ""));
        for part in [
            "after it waited 2.5 s",
            "2 were begun",
            "after it ran 1 min 02 s",
            "with exit code 3",
            "a rerun of 0000000000007",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
    }

    #[test]
    fn only_what_can_be_done_is_offered() {
        for (state, deeds) in [
            (State::Pending, "cancel suspend rerun"),
            (State::Suspended, "cancel resume rerun"),
            (State::Running, "cancel suspend rerun"),
            (State::Stopping, "rerun"),
            (State::Succeeded, "rerun delete"),
            (State::Cancelled, "rerun delete"),
        ] {
            let mut job = list::tests::job(1, state);
            job.cancelling = state == State::Stopping;
            let page = html(&job, SPEC, "");
            let offered: Vec<&str> = page
                .split("name=\"do\" value=\"")
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
                .collect();
            assert_eq!(offered.join(" "), deeds, "{state}");
            // What is done at once carries the token, what asks first does not need it.
            let posts = offered
                .iter()
                .filter(|deed| !["cancel", "delete"].contains(deed))
                .count();
            assert_eq!(page.matches("name=\"token\"").count(), posts, "{state}");
        }
    }

    #[test]
    fn no_text_is_html() {
        let evil = "</pre></code><script>alert(1)</script><b>\"";
        let mut job = list::tests::job(1, State::Failed);
        job.name = evil.to_owned();
        job.message = Some(evil.to_owned());
        job.labels.insert(evil.to_owned(), evil.to_owned());
        let spec = serde_json::json!({"name": evil, "command": [evil], "image": evil, "env": {evil: evil}}).to_string();
        let page = html(&job, &spec, evil);
        for tag in ["<script", "<b>", "</pre></code>"] {
            assert!(!page.contains(tag), "{tag} in {page}");
        }
    }
}
