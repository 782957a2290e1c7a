//! The list of jobs.

use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};

use super::query::{Faults, Query};
use super::show;
use super::visit::{Visit, Work};
use crate::dashboard::control::now_ms;
use crate::dashboard::job::{Job, State};
use crate::dashboard::service::{Result, Service};
use crate::dashboard::store::{Counts, Listed, Page};

/// What the page shows.
pub(super) struct Shown {
    pub(super) query: Query,
    pub(super) faults: Faults,
    pub(super) counts: Counts,
    pub(super) jobs: Vec<Listed>,
    /// There are older jobs than these.
    pub(super) more: bool,
    /// What was done before this page was asked for.
    pub(super) notice: Option<String>,
    pub(super) now_ms: i64,
}

/// Shows the list that an address asks for.
pub(super) async fn page(visit: Visit, Work(service): Work, RawQuery(text): RawQuery) -> Response {
    let text = text.unwrap_or_default();
    let (query, faults) = Query::read(&text);
    let notice = super::act::notice(&text);
    match look(&visit, &service, query, faults, notice).await {
        Ok(shown) => {
            let status = if shown.faults.is_empty() {
                StatusCode::OK
            } else {
                StatusCode::BAD_REQUEST
            };
            visit.page(status, "Jobs", Some("list.js"), &content(&visit, &shown))
        }
        Err(error) => visit.failure(error),
    }
}

async fn look(visit: &Visit, service: &Service, query: Query, faults: Faults, notice: Option<String>) -> Result<Shown> {
    let rows = query.rows();
    let page = Page {
        after: query.after,
        // One more than is shown tells whether there are more.
        limit: rows + 1,
    };
    let filter = query.filter();
    let (jobs, counts) = tokio::join!(
        service.list(&visit.caller, &filter, page),
        service.counts(&visit.caller)
    );
    let mut jobs = jobs?;
    let most = usize::try_from(rows).unwrap_or(usize::MAX);
    // The service cuts pages too: the longest one is full where it has as many as asked for.
    let more = jobs.len() > most || jobs.len() == most && rows == crate::dashboard::service::PAGE_LIMIT;
    jobs.truncate(most);
    Ok(Shown {
        query,
        faults,
        counts: counts?,
        jobs,
        more,
        notice,
        now_ms: now_ms(),
    })
}

/// Returns the content of the page.
pub(super) fn content(visit: &Visit, shown: &Shown) -> Markup {
    let query = &shown.query;
    let nothing_yet = shown.jobs.is_empty() && shown.counts.values().all(|count| *count == 0) && query.after.is_none();
    html! {
        h1.unseen { "Jobs" }
        @if let Some(notice) = &shown.notice {
            p.notice role="status" { (notice) }
        }
        @if nothing_yet && !query.is_filtered() {
            (empty(visit))
        }
        div #listing hidden[nothing_yet && !query.is_filtered()] data-filter=(filter_json(query)) data-limit=(query.rows()) data-first[query.after.is_none()] {
            (chips(query, &shown.counts))
            (filters(visit, query, &shown.faults))
            (table(query, shown))
        }
        template #row { (row(None, shown.now_ms)) }
    }
}

/// The states with how many jobs are in each; each turns its state on or off in the address.
fn chips(query: &Query, counts: &Counts) -> Markup {
    let all: i64 = counts.values().sum();
    html! {
        nav.chips aria-label="Filter by state" {
            a href=(query.any_state().address()) aria-current=[query.states.is_empty().then_some("true")] {
                "All " span.count data-count="all" { (all) }
            }
            @for state in State::ALL {
                @let on = query.states.contains(&state);
                a class={ "state " (state) } href=(query.toggled(state).address()) aria-current=[on.then_some("true")] {
                    (show::icon(state.name())) (state) " "
                    span.count data-count=(state) { (counts.get(&state).copied().unwrap_or_default()) }
                }
            }
        }
    }
}

fn filters(visit: &Visit, query: &Query, faults: &Faults) -> Markup {
    let fault = |name: &str| {
        html! { @if let Some(text) = faults.get(name) { span.fault id={ "fault-" (name) } { (show::said(text)) } } }
    };
    let field = |name: &'static str, title: &str, value: &str, kind: &str, hint: &str| {
        let described = faults.contains_key(name).then(|| format!("fault-{name}"));
        html! {
            label { span { (title) }
                input type=(kind) name=(name) value=(value) placeholder=(hint) autocomplete="off" spellcheck="false"
                    aria-describedby=[described.as_deref()] aria-invalid=[described.is_some().then_some("true")];
                (fault(name))
            }
        }
    };
    // A field for days can hold neither a time nor what is no day.
    let kind = |name: &str, value: &str| {
        if value.len() > 10 || faults.contains_key(name) {
            "text"
        } else {
            "date"
        }
    };
    html! {
        search {
            form.filters #filters method="get" action="/" {
                @for state in &query.states { input type="hidden" name="state" value=(state); }
                @if let Some(limit) = query.limit { input type="hidden" name="limit" value=(limit); }
                div.find {
                    (show::icon("search"))
                    input #search type="search" name="q" value=(query.text) placeholder="Name or id" aria-label="Search by name or id"
                        autocomplete="off" spellcheck="false" aria-keyshortcuts="/";
                    button { "Search" }
                    @if query.is_filtered() { a.button.quiet href="/" { "Clear filters" } }
                }
                @for name in ["state", "limit", "after"] { (fault(name)) }
                details open[query.has_more() || !faults.is_empty()] {
                    summary { "More filters" }
                    div.fields {
                        @if visit.caller.admin {
                            (field("owner", "Owner", &query.owner, "text", "anna"))
                        }
                        (field("label", "Labels", &query.labels, "text", "team=red, tier=web"))
                        (field("param", "Parameters", &query.params, "text", "env=prod"))
                        (field("template", "Template", &query.template, "text", ""))
                        (field("since", "Created since (UTC)", &query.since, kind("since", &query.since), ""))
                        (field("until", "Created until (UTC)", &query.until, kind("until", &query.until), ""))
                        (field("min_duration", "Ran at least", &query.min_duration, "text", "10m"))
                        button { "Apply" }
                    }
                }
            }
        }
    }
}

fn table(query: &Query, shown: &Shown) -> Markup {
    let last = shown.jobs.last().map(|job| job.id);
    html! {
        form #bulk method="get" action="/ui/act" {
            input type="hidden" name="back" value=(query.address());
            div.bar {
                span #picked .picked { "With the selected jobs:" }
                @for (action, title) in super::act::BULK {
                    button name="do" value=(action) { (title) }
                }
                // Where one page is all that there is, ticking its first box does the same.
                label.every hidden[!shown.more && query.after.is_none()] {
                    input type="checkbox" name="of" value="filter";
                    @if query.is_filtered() { " all that match the filters, on every page" } @else { " all jobs, on every page" }
                }
            }
            button #fresh .fresh type="button" hidden {}
            table.jobs {
                caption.unseen { "Jobs, newest first" }
                thead { tr {
                    th.pick { input #all type="checkbox" aria-label="Select all jobs of this page" hidden; }
                    th scope="col" { "State" }
                    th scope="col" { "Job" }
                    th scope="col" { "Owner" }
                    th scope="col" { "Created" }
                    th scope="col" { "Ran" }
                } }
                tbody #rows { @for job in &shown.jobs { (row(Some(job), shown.now_ms)) } }
            }
        }
        p #none .none hidden[!shown.jobs.is_empty()] {
            @if query.after.is_some() { "No older jobs. " } @else { "No jobs match these filters. " }
            a href=(query.first().any_state().address()) { "Jobs in any state" } " · " a href="/" { "All jobs" }
        }
        nav.pages aria-label="Pages" {
            @if let Some(previous) = query.previous() {
                a.button href=(query.first().address()) { "Newest" }
                a.button rel="prev" href=(previous.address()) { "Newer" }
            }
            @if let Some(last) = last.filter(|_| shown.more) {
                a #next .button rel="next" href=(query.next(last).address()) { "Older" }
            }
        }
    }
}

/// A job's row; without a job, the one that the script fills. Either has the same parts at the same places.
fn row(job: Option<&Job>, now_ms: i64) -> Markup {
    let id = job.map(|job| job.id.to_string());
    let name = job.map_or("", |job| job.name.as_str());
    html! {
        tr id=[id.as_ref().map(|id| format!("j-{id}"))] data-id=[id.as_ref()] data-version=[job.map(|job| job.version)] {
            td.pick { input type="checkbox" name="id" value=[id.as_ref()] aria-label={ "Select " (name) }; }
            td.how { (job.map_or_else(|| show::state(State::Pending), |job| show::state(job.state))) }
            td.what {
                a.name href=[id.as_ref().map(|id| format!("/ui/jobs/{id}"))] { (name) }
                " " code.id { @if let Some(id) = &id { (id) } }
                span.labels { @if let Some(job) = job { (labels(job)) } }
                p.why hidden[job.and_then(why).is_none()] { @if let Some(why) = job.and_then(why) { (why) } }
            }
            td.whose { @if let Some(job) = job { (job.owner) } }
            td.when { @if let Some(job) = job { (show::ago(job.created_ms, now_ms)) } @else { time data-ago {} } }
            td.long { @if let Some(job) = job { (show::duration(job, now_ms)) } }
        }
    }
}

fn labels(job: &Job) -> Markup {
    html! {
        @for (name, value) in &job.labels {
            " " span.label { (name) @if !value.is_empty() { "=" (value) } }
        }
    }
}

/// Returns why a job is as it is, where there is something to say beyond its state.
pub(super) fn why(job: &Job) -> Option<String> {
    let reason = job
        .reason
        .as_deref()
        .filter(|reason| !(job.state == State::Cancelled && *reason == "Cancelled"));
    match (reason, job.message.as_deref()) {
        (None, None) => None,
        (Some(text), None) | (None, Some(text)) => Some(text.to_owned()),
        (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
    }
}

/// Returns what the script needs to know which changed jobs belong into this list.
fn filter_json(query: &Query) -> String {
    let filter = query.filter();
    serde_json::json!({
        "states": filter.states,
        "owner": filter.owner,
        "labels": filter.labels,
        // What is told of a job has no parameters: only rows that are there can go on being there.
        "shown": !filter.parameters.is_empty(),
        "text": filter.text.map(|text| text.to_lowercase()),
        "template": filter.template,
        "since": filter.since_ms,
        "until": filter.until_ms,
        "least": filter.min_duration.map(|least| least.ms),
    })
    .to_string()
}

/// What one sees before there is a job: how to make one, to be copied as it stands.
fn empty(visit: &Visit) -> Markup {
    let base = &visit.base;
    let run = format!("labctl jobs run --url {base} --name hello -- echo 'hello, world'");
    let curl = format!(
        "curl -X POST {base}/jobs -H 'content-type: application/json' \\\n  -d '{{\"name\": \"hello\", \"command\": [\"echo\", \"hello, world\"]}}'"
    );
    html! {
        section #empty .narrow.empty {
            h2 { "No jobs yet" }
            p { "A job is a program that runs once and ends. Its output is kept here, also after it has ended." }
            p { a.button.primary href="/ui/jobs/new" { "Create a job" } }
            h3 { "From a terminal" }
            pre { code { (run) } }
            h3 { "Over HTTP" }
            pre { code { (curl) } }
            p.hint { "This page shows a job as soon as it is there." }
        }
    }
}

/// Keys, and where the API is.
pub(super) async fn help(visit: Visit) -> Response {
    let keys = [
        ("/", "search"),
        ("j  k", "next and previous row"),
        ("Enter", "open the row's job"),
        ("x", "select the row"),
        ("n", "new job"),
        ("f", "follow the log, on a job's page"),
        ("w", "wrap long lines of the log"),
        ("t", "times of the log's lines"),
        ("g", "jump to a line of the log"),
        ("?", "this page"),
    ];
    let base = &visit.base;
    let content = html! {
        section.narrow {
            h1 { "Help" }
            h2 { "Keys" }
            table.keys { tbody { @for (key, what) in keys { tr { th scope="row" { kbd { (key) } } td { (what) } } } } }
            h2 { "The API" }
            p { "All that these pages show and do can be had over HTTP: " a href="/openapi.json" { "openapi.json" } " and " a href="/docs" { "its pages" } " describe it." }
            pre { code { "curl " (base) "/jobs?state=failed&limit=10\ncurl -N " (base) "/events\nlabctl jobs list --url " (base) } }
            h2 { "Addresses" }
            p { "Filters stand in the address of a list, and a line of a log in that of a job (" code { "#L123" } "): both can be kept and sent to others." }
        }
    };
    visit.page(StatusCode::OK, "Help", None, &content)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::dashboard::job::JobId;

    const NOW: i64 = 1_764_100_800_000;

    /// A job that was created five minutes ago.
    pub(in super::super) fn job(number: i64, state: State) -> Job {
        Job {
            id: JobId::from_number(number).expect("an id"),
            name: format!("job-{number}"),
            owner: "anna".to_owned(),
            state,
            reason: None,
            message: None,
            template: None,
            labels: BTreeMap::new(),
            parent: None,
            created_ms: NOW - 300_000,
            started_ms: None,
            finished_ms: None,
            exit_code: None,
            attempts: 0,
            cancelling: false,
            log_complete: false,
            version: 3,
        }
    }

    fn shown(query: &str, jobs: Vec<Job>) -> Shown {
        let (query, faults) = Query::read(query);
        let mut counts = Counts::new();
        for job in &jobs {
            *counts.entry(job.state).or_default() += 1;
        }
        Shown {
            query,
            faults,
            counts,
            jobs: jobs.into_iter().map(Listed::new).collect(),
            more: false,
            notice: None,
            now_ms: NOW,
        }
    }

    fn html(shown: &Shown) -> String {
        content(&super::super::visit::tests::visit(), shown).into_string()
    }

    #[test]
    fn every_state_is_a_word_and_a_shape_and_has_its_filter() {
        let jobs = State::ALL
            .into_iter()
            .enumerate()
            .map(|(number, state)| job(i64::try_from(number).expect("small"), state));
        let page = html(&shown("state=failed", jobs.collect()));
        for state in State::ALL {
            assert!(
                page.contains(&format!("#{state}\"></use></svg><span>{state}</span>")),
                "{state}"
            );
            assert!(
                page.contains(&format!("<span class=\"count\" data-count=\"{state}\">1</span>")),
                "{state}"
            );
        }
        assert!(
            page.contains("href=\"/?state=running&amp;state=failed\""),
            "another state is added"
        );
        assert!(
            page.contains("class=\"state failed\" href=\"/\" aria-current=\"true\""),
            "the state is taken away"
        );
    }

    #[test]
    fn why_a_job_waits_is_on_its_row() {
        let mut waits = job(1, State::Pending);
        waits.reason = Some("Unschedulable".to_owned());
        waits.message = Some("0/3 nodes are available: 3 Insufficient memory.".to_owned());
        let page = html(&shown("", vec![waits.clone()]));
        assert!(
            page.contains("<p class=\"why\">Unschedulable: 0/3 nodes are available"),
            "{page}"
        );
        waits.state = State::Cancelled;
        waits.reason = Some("Cancelled".to_owned());
        waits.message = None;
        assert_eq!(why(&waits), None, "the state says so already");
    }

    #[test]
    fn no_text_is_html() {
        let evil = "</textarea><script>alert(1)</script>\"onclick='x'<b>";
        let mut bad = job(1, State::Failed);
        bad.name = evil.to_owned();
        bad.owner = evil.to_owned();
        bad.reason = Some(evil.to_owned());
        bad.message = Some(evil.to_owned());
        bad.labels.insert(evil.to_owned(), evil.to_owned());
        let query: String = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(
                [
                    "q",
                    "owner",
                    "label",
                    "template",
                    "since",
                    "until",
                    "min_duration",
                    "state",
                    "limit",
                    "after",
                ]
                .map(|name| (name, evil)),
            )
            .finish();
        let page = html(&shown(&query, vec![bad]));
        for tag in ["<script", "<b>", "\"onclick", "</textarea>"] {
            assert!(!page.contains(tag), "{tag} in {page}");
        }
        assert_eq!(
            page.matches("class=\"fault\"").count(),
            6,
            "since, until, min_duration, state, limit, after"
        );
    }

    #[test]
    fn an_empty_list_teaches_and_a_filtered_one_does_not() {
        let page = html(&shown("", Vec::new()));
        assert!(page.contains("labctl jobs run --url http://127.0.0.1:8080"), "{page}");
        assert!(page.contains("id=\"listing\" hidden"));
        let page = html(&shown("q=x", Vec::new()));
        assert!(!page.contains("No jobs yet") && page.contains("No jobs match these filters."));
    }
}
