//! Schedules: their list, the page of one, and its form, which shows when it will be due before it is kept.

use axum::body::Bytes;
use axum::extract::{Path, RawQuery};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Map;

use super::inputs::{self, Faults, Inputs, described, fault};
use super::show;
use super::templates::question;
use super::visit::{Failure, Form, Visit, Work, see_other};
use crate::dashboard::control::now_ms;
use crate::dashboard::http::api::OCCURRENCES;
use crate::dashboard::job::JobId;
use crate::dashboard::job::schedule::{Concurrency, LABEL, Schedule};
use crate::dashboard::job::template::Template;
use crate::dashboard::service::documents::Kept;
use crate::dashboard::service::{self, Service, ServiceError};
use crate::dashboard::store::Created;
use crate::dashboard::store::documents::Mark;

/// Returns the address of a schedule's jobs.
fn history(name: &str) -> String {
    let mut query = form_urlencoded::Serializer::for_suffix("/?".to_owned(), 2);
    query.append_pair("label", &format!("{LABEL}={name}")).finish()
}

/// Shows the next occurrences, in the time zone of the schedule and in UTC: a clock that is set is seen in the offset.
fn occurrences(schedule: &Schedule, count: usize, now_ms: i64) -> Markup {
    let timing = match schedule.timing() {
        Ok(timing) => timing,
        Err(why) => return html! { span.fault { (why) } },
    };
    html! {
        ol.times { @for at in timing.upcoming(now_ms, count) {
            li { time datetime=(show::machine(at)) title=(show::clock(at)) { (timing.local(at)) } }
        } }
    }
}

/// Says what a schedule runs, in a few words.
fn runs(schedule: &Schedule) -> Markup {
    html! {
        @if let Some(template) = &schedule.template {
            a href={ "/ui/templates/" (template) } { (template) }
        } @else if let Some(job) = &schedule.job {
            code { (super::words::join(&job.command)) }
        }
    }
}

/// Shows the caller's schedules.
pub(super) async fn list(visit: Visit, Work(service): Work) -> Response {
    let schedules = match service.schedules(&visit.caller).await {
        Ok(schedules) => schedules,
        Err(error) => return visit.failure(error),
    };
    let now = now_ms();
    let content = html! {
        section.wide {
            div.title { h1 { "Schedules" } a.button.primary href="/ui/schedules/new" { "New schedule" } }
            p.hint { "Jobs that are made by themselves." }
            @if schedules.is_empty() {
                p.none { "There are no schedules yet. " a href="/ui/templates" { "A template" } " or a job's page has a button for one as well." }
            } @else {
                table.plain {
                    caption.unseen { "Schedules by their names" }
                    thead { tr { th scope="col" { "Name" } th scope="col" { "When" } th scope="col" { "Next" } th scope="col" { "Runs" } th scope="col" { "Last" } } }
                    tbody { @for (kept, mark) in &schedules {
                        @let schedule = &kept.document;
                        tr {
                            td { a.name href={ "/ui/schedules/" (schedule.name) } { (schedule.name) } }
                            td { code { (schedule.cron) } " " (schedule.time_zone) }
                            td { @if schedule.suspend { span.off { "suspended" } } @else { (occurrences(schedule, 1, now)) } }
                            td { (runs(schedule)) }
                            td { (last(mark.as_ref(), now)) }
                        }
                    } }
                }
            }
        }
    };
    visit.page(StatusCode::OK, "Schedules", None, &content)
}

/// Says what became of the last occurrence.
fn last(mark: Option<&Mark>, now_ms: i64) -> Markup {
    html! {
        @match mark {
            None => { span.none { "not yet" } }
            Some(mark) => {
                @if let Some(said) = &mark.said { span.fault { (said) } }
                @else if let Some(job) = mark.job { a href={ "/ui/jobs/" (job) } { "job " code { (job) } } " " }
                (show::ago(mark.done_ms, now_ms))
            }
        }
    }
}

/// Shows a schedule.
pub(super) async fn page(visit: Visit, Work(service): Work, Path(name): Path<String>) -> Response {
    match service.schedule(&visit.caller, &name).await {
        Ok((kept, mark)) => {
            let content = content(&visit, &kept, mark.as_ref(), now_ms());
            visit.page(StatusCode::OK, &name, None, &content)
        }
        Err(error) => visit.failure(error),
    }
}

fn content(visit: &Visit, kept: &Kept<Schedule>, mark: Option<&Mark>, now: i64) -> Markup {
    let schedule = &kept.document;
    let address = format!("/ui/schedules/{}", schedule.name);
    let overlap = match schedule.concurrency {
        Concurrency::Allow => "both run",
        Concurrency::Forbid => "the next one is left out",
        Concurrency::Replace => "the one before is cancelled",
    };
    html! {
        section.narrow {
            nav.crumbs aria-label="Where this is" { a href="/ui/schedules" { "Schedules" } }
            div.title { h1 { (schedule.name) } @if schedule.suspend { span.off { "suspended" } } }
            form.actions method="post" action=(address) {
                (visit.token_field())
                input type="hidden" name="key" value={ (kept.version) "-" (now) };
                @if schedule.suspend { button name="do" value="resume" { "Resume" } }
                @else { button name="do" value="suspend" { "Suspend" } }
                button name="do" value="run" { "Run now" }
                a.button href={ (address) "/edit" } { "Edit" }
                a.button.danger href={ (address) "/delete" } { "Delete…" }
            }
            dl.spec {
                dt { "When" } dd { code { (schedule.cron) } " in " (schedule.time_zone) }
                dt { "Next" } dd { @if schedule.suspend { "none before it is resumed" } @else { (occurrences(schedule, OCCURRENCES, now)) } }
                dt { "Runs" } dd { (runs(schedule)) }
                dt { "Last" } dd { (last(mark, now)) }
                dt { "Where one still runs" } dd { (overlap) }
                dt { "Missed ones" } dd {
                    @if schedule.catch_up_seconds == 0 { "are left out" }
                    @else { "the last one is made up for, at most " (show::length(i64::from(schedule.catch_up_seconds) * 1000)) " late" }
                }
            }
            p { a href=(history(&schedule.name)) { "All its jobs" } }
        }
    }
}

/// Does something to a schedule.
pub(super) async fn act(visit: Visit, Work(service): Work, Path(name): Path<String>, body: Bytes) -> Response {
    let form = match Form::checked(&visit, &body) {
        Ok(form) => form,
        Err(failure) => return visit.failure(failure),
    };
    let done = match form.one("do") {
        "suspend" => service
            .suspend_schedule(&visit.caller, &name, true, None)
            .await
            .map(|_| None),
        "resume" => service
            .suspend_schedule(&visit.caller, &name, false, None)
            .await
            .map(|_| None),
        "run" => {
            // A form that is sent twice makes one job.
            let key = Some(form.one("key")).filter(|key| !key.is_empty());
            let key = key.map(|key| format!("page:{key}:{name}"));
            let created = service.run_schedule(&visit.caller, &name, key).await;
            created.map(|(Created::New(job) | Created::Replayed(job))| Some(job.id))
        }
        _ => {
            let text = "It is not said what is to be done.";
            return visit.failure(Failure::new(StatusCode::BAD_REQUEST, "Nothing can be done", text));
        }
    };
    match done {
        Ok(Some(job)) => see_other(&format!("/ui/jobs/{job}")),
        Ok(None) => see_other(&format!("/ui/schedules/{name}")),
        Err(error) => visit.failure(error),
    }
}

/// Asks whether a schedule is to be deleted.
pub(super) async fn doomed(visit: Visit, Work(service): Work, Path(name): Path<String>) -> Response {
    match service.schedule(&visit.caller, &name).await {
        Ok((kept, _)) => {
            let consequence = "It makes no jobs any more. Those that it made stay.";
            let address = format!("/ui/schedules/{name}");
            let content = question(&visit, "schedule", &name, consequence, &address, kept.version);
            visit.page(StatusCode::OK, &format!("Delete {name}?"), None, &content)
        }
        Err(error) => visit.failure(error),
    }
}

/// Deletes a schedule.
pub(super) async fn delete(visit: Visit, Work(service): Work, Path(name): Path<String>, body: Bytes) -> Response {
    let form = match Form::checked(&visit, &body) {
        Ok(form) => form,
        Err(failure) => return visit.failure(failure),
    };
    match service
        .remove_schedule(&visit.caller, &name, form.one("version").parse().ok())
        .await
    {
        Ok(()) => see_other("/ui/schedules"),
        Err(error) => visit.failure(error),
    }
}

/// A schedule as it is being written.
#[derive(Default)]
struct Draft {
    /// The name and the version of the one that is changed.
    of: Option<(String, i64)>,
    name: String,
    cron: String,
    time_zone: String,
    concurrency: String,
    catch_up: String,
    suspend: bool,
    template: Option<Template>,
    inputs: Inputs,
    job: String,
}

/// What a new schedule runs where nothing else is said.
const JOB: &str = "{\n  \"name\": \"nightly\",\n  \"command\": [\"echo\", \"good night\"]\n}";

impl Draft {
    /// A new one, with what is usual.
    fn new() -> Self {
        Self {
            cron: "0 3 * * *".to_owned(),
            time_zone: "UTC".to_owned(),
            concurrency: Concurrency::default().name().to_owned(),
            catch_up: "3600".to_owned(),
            job: JOB.to_owned(),
            ..Self::default()
        }
    }

    async fn of(service: &Service, kept: Kept<Schedule>) -> service::Result<Self> {
        let schedule = kept.document;
        let template = match &schedule.template {
            Some(name) => Some(service.template(name, None).await?.document),
            None => None,
        };
        let inputs = template
            .as_ref()
            .map_or_else(Inputs::default, |template| Inputs::of(template, &schedule.parameters));
        let job = schedule.job.as_ref();
        Ok(Self {
            of: Some((schedule.name.clone(), kept.version)),
            name: schedule.name,
            cron: schedule.cron,
            time_zone: schedule.time_zone,
            concurrency: schedule.concurrency.name().to_owned(),
            catch_up: schedule.catch_up_seconds.to_string(),
            suspend: schedule.suspend,
            template,
            inputs,
            job: job.map_or_else(String::new, |job| serde_json::to_string_pretty(job).unwrap_or_default()),
        })
    }

    async fn from_form(service: &Service, form: &Form) -> service::Result<Self> {
        let template = match form.one("template") {
            "" => None,
            name => Some(service.template(name, None).await?.document),
        };
        let inputs = template
            .as_ref()
            .map_or_else(Inputs::default, |template| Inputs::from_form(template, form));
        let word = |name: &str| form.one(name).trim().to_owned();
        Ok(Self {
            of: Some(word("of"))
                .filter(|of| !of.is_empty())
                .map(|of| (of, form.one("version").parse().unwrap_or_default())),
            name: word("name"),
            cron: word("cron"),
            time_zone: word("time_zone"),
            concurrency: word("concurrency"),
            catch_up: word("catch_up_seconds"),
            suspend: form.one("suspend") == "on",
            template,
            inputs,
            job: form.one("job").replace("\r\n", "\n"),
        })
    }

    /// Returns the schedule that is written, and what of it cannot be read.
    fn schedule(&self, before: &Map<String, serde_json::Value>) -> (Schedule, Faults) {
        let mut faults = Faults::new();
        let mut parameters = Map::new();
        let mut job = None;
        if let Some(template) = &self.template {
            (parameters, faults) = self.inputs.arguments(template, before);
        } else {
            match serde_json::from_str(&self.job) {
                Ok(read) => job = Some(read),
                Err(error) => faults.entry("job".to_owned()).or_default().push(error.to_string()),
            }
        }
        let catch_up_seconds = self.catch_up.parse().unwrap_or_else(|_| {
            let text = format!("`{}` is not a whole number", self.catch_up);
            faults.entry("catch_up_seconds".to_owned()).or_default().push(text);
            0
        });
        let named = Concurrency::ALL.into_iter().find(|one| one.name() == self.concurrency);
        let schedule = Schedule {
            name: self.name.clone(),
            cron: self.cron.clone(),
            time_zone: self.time_zone.clone(),
            concurrency: named.unwrap_or_default(),
            catch_up_seconds,
            suspend: self.suspend,
            job,
            template: self.template.as_ref().map(|template| template.name.clone()),
            parameters,
        };
        (schedule, faults)
    }
}

/// Shows the form of a new schedule: of a template (`?template=`), or of what a job ran (`?from=`).
pub(super) async fn empty(visit: Visit, Work(service): Work, RawQuery(query): RawQuery) -> Response {
    let query = Form::unchecked(&query.unwrap_or_default());
    let filled = async {
        let mut draft = Draft::new();
        let mut name = query.one("template").to_owned();
        let mut given = Map::new();
        if let Ok(id) = query.one("from").parse::<JobId>() {
            draft.job = serde_json::to_string_pretty(&service.spec(&visit.caller, id).await?).unwrap_or_default();
            if let Some(origin) = service.origin(&visit.caller, id).await? {
                (name, given) = (origin.template, origin.parameters);
            }
        }
        if !name.is_empty() {
            let template = service.template(&name, None).await?.document;
            draft.name.clone_from(&name);
            draft.inputs = Inputs::of(&template, &given);
            draft.template = Some(template);
        }
        Ok::<_, ServiceError>(draft)
    };
    match filled.await {
        Ok(draft) => show(&visit, &draft, &Faults::new(), false),
        Err(error) => visit.failure(error),
    }
}

/// Shows a schedule to be changed.
pub(super) async fn edit(visit: Visit, Work(service): Work, Path(name): Path<String>) -> Response {
    let draft = async {
        let (kept, _) = service.schedule(&visit.caller, &name).await?;
        Draft::of(&service, kept).await
    };
    match draft.await {
        Ok(draft) => show(&visit, &draft, &Faults::new(), true),
        Err(error) => visit.failure(error),
    }
}

/// Keeps a schedule that was written, or shows when it would be due.
pub(super) async fn save(visit: Visit, Work(service): Work, body: Bytes) -> Response {
    let form = match Form::checked(&visit, &body) {
        Ok(form) => form,
        Err(failure) => return visit.failure(failure),
    };
    let draft = match Draft::from_form(&service, &form).await {
        Ok(draft) => draft,
        Err(error) => return visit.failure(error),
    };
    let before = match &draft.of {
        Some((name, _)) => match service.schedule(&visit.caller, name).await {
            Ok((kept, _)) => kept.document.parameters,
            Err(error) => return visit.failure(error),
        },
        None => Map::new(),
    };
    let (schedule, mut faults) = draft.schedule(&before);
    if form.one("do") == "preview" {
        faults = Faults::new();
        if let Err(why) = schedule.timing() {
            faults.entry("cron".to_owned()).or_default().push(why);
        }
        return show(&visit, &draft, &faults, true);
    }
    if !faults.is_empty() {
        return show(&visit, &draft, &faults, true);
    }
    let saved = match &draft.of {
        None => service.add_schedule(&visit.caller, &schedule).await,
        Some((name, version)) => {
            service
                .change_schedule(&visit.caller, name, Some(*version), &schedule)
                .await
        }
    };
    match saved {
        Ok(kept) => see_other(&format!("/ui/schedules/{}", kept.document.name)),
        Err(ServiceError::Faulty(_, found)) => {
            for one in found {
                let pointer = one.pointer.trim_start_matches('/');
                let (field, within) = pointer.split_once('/').unwrap_or((pointer, ""));
                match field {
                    "parameters" => inputs::placed(std::slice::from_ref(&one), &mut faults),
                    "name" | "cron" | "time_zone" | "catch_up_seconds" => {
                        faults.entry(field.to_owned()).or_default().push(one.detail);
                    }
                    "job" => {
                        let text = if within.is_empty() {
                            one.detail
                        } else {
                            format!("`/{within}`: {}", one.detail)
                        };
                        faults.entry("job".to_owned()).or_default().push(text);
                    }
                    _ => {
                        let text = format!("`{}`: {}", one.pointer, one.detail);
                        faults.entry(String::new()).or_default().push(text);
                    }
                }
            }
            show(&visit, &draft, &faults, true)
        }
        Err(error @ ServiceError::Taken(_)) => {
            faults.entry("name".to_owned()).or_default().push(error.to_string());
            show(&visit, &draft, &faults, true)
        }
        Err(error @ (ServiceError::Stale(_) | ServiceError::TooMany(_))) => {
            faults.entry(String::new()).or_default().push(error.to_string());
            show(&visit, &draft, &faults, true)
        }
        Err(error) => visit.failure(error),
    }
}

fn show(visit: &Visit, draft: &Draft, faults: &Faults, preview: bool) -> Response {
    let status = if faults.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    let title = match &draft.of {
        Some((name, _)) => format!("Edit {name}"),
        None => "New schedule".to_owned(),
    };
    let named = |field: &str| match field {
        "name" => "Name".to_owned(),
        "cron" => "When".to_owned(),
        "time_zone" => "Time zone".to_owned(),
        "catch_up_seconds" => "Catch up".to_owned(),
        "job" => "Job".to_owned(),
        field => draft
            .template
            .as_ref()
            .map_or_else(|| field.to_owned(), |template| inputs::title(template, field)),
    };
    let text = |name: &str, title: &str, value: &str, hint: &Markup, fixed: bool| {
        let (by, wrong) = described(name, faults);
        html! {
            div.field {
                label for=(name) { (title) }
                input id=(name) name=(name) type="text" value=(value) readonly[fixed] required autocomplete="off" spellcheck="false" aria-describedby=(by) aria-invalid=[wrong];
                (fault(name, faults))
                span.hint id={ (name) "-hint" } { (hint) }
            }
        }
    };
    let schedule = draft.schedule(&Map::new()).0;
    let content = html! {
        section.narrow {
            nav.crumbs aria-label="Where this is" { a href="/ui/schedules" { "Schedules" } }
            h1 { (title) }
            (inputs::summary("This schedule cannot be kept", faults, named))
            form.job method="post" action="/ui/schedules" novalidate {
                (visit.token_field())
                @if let Some((name, version)) = &draft.of {
                    input type="hidden" name="of" value=(name);
                    input type="hidden" name="version" value=(version);
                }
                (text("name", "Name", &draft.name, &html! { "Its jobs have it as their label " code { (LABEL) } "." }, draft.of.is_some()))
                (text("cron", "When", &draft.cron, &html! { "Minute, hour, day of the month, month, day of the week: " code { "30 2 * * MON-FRI" } ", " code { "*/15 * * * *" } }, false))
                (text("time_zone", "Time zone", &draft.time_zone, &html! { "Such as " code { "Europe/Berlin" } " or " code { "UTC" } }, false))
                @if preview && schedule.timing().is_ok() {
                    div.field { strong { "The next times" } (occurrences(&schedule, OCCURRENCES, now_ms())) }
                }
                @if let Some(template) = &draft.template {
                    input type="hidden" name="template" value=(template.name);
                    fieldset { legend { "Parameters of " a href={ "/ui/templates/" (template.name) } { (template.name) } } (draft.inputs.fields(template, faults)) }
                } @else {
                    @let (by, wrong) = described("job", faults);
                    div.field {
                        label for="job" { "Job" }
                        textarea id="job" name="job" rows="8" autocomplete="off" spellcheck="false" aria-describedby=(by) aria-invalid=[wrong] { "\n" (draft.job) }
                        (fault("job", faults))
                        span.hint id="job-hint" { "As " code { "POST /jobs" } " takes it. A " a href="/ui/templates" { "template" } " can be scheduled as well, from its page." }
                    }
                }
                div.field {
                    label for="concurrency" { "Where the one before still runs" }
                    select id="concurrency" name="concurrency" {
                        @for (one, title) in [(Concurrency::Forbid, "leave the next one out"), (Concurrency::Allow, "run both"), (Concurrency::Replace, "cancel the one before")] {
                            option value=(one.name()) selected[one.name() == draft.concurrency] { (title) }
                        }
                    }
                }
                (text("catch_up_seconds", "Catch up", &draft.catch_up, &html! { "How many seconds late a job is made that was missed because no server ran; 0 for never" }, false))
                label.check { input type="checkbox" name="suspend" checked[draft.suspend]; span { "Hold it back until it is resumed" } }
                div.answer {
                    button.primary name="do" value="save" { "Save" }
                    button name="do" value="preview" { "Show the next times" }
                    a.button href="/ui/schedules" { "Cancel" }
                }
            }
        }
    };
    visit.page(status, &title, None, &content)
}
