//! Templates: their list, the form that runs one, and the one that writes one.

use axum::body::Bytes;
use axum::extract::{Path, RawQuery};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Map;

use super::inputs::{self, Faults, Inputs};
use super::show::said;
use super::visit::{Form, Visit, Work, secret, see_other};
use crate::dashboard::job::template::Template;
use crate::dashboard::service::ServiceError;
use crate::dashboard::service::documents::Kept;
use crate::dashboard::store::Created;

/// What one begins a new template with.
const SKELETON: &str = r#"{
  "name": "train",
  "description": "Trains the model for a day's data",
  "parameters": {
    "type": "object",
    "properties": {
      "day": {"type": "string", "format": "date", "title": "Day"},
      "epochs": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10}
    },
    "required": ["day"]
  },
  "job": {
    "name": "train-${{ day }}",
    "command": ["python3", "train.py", "--day", "${{ day }}", "--epochs=${{ epochs }}"]
  }
}"#;

/// Shows all templates.
pub(super) async fn list(visit: Visit, Work(service): Work) -> Response {
    let templates = match service.templates().await {
        Ok(templates) => templates,
        Err(error) => return visit.failure(error),
    };
    let content = html! {
        section.wide {
            div.title { h1 { "Templates" } a.button.primary href="/ui/templates/new" { "New template" } }
            p.hint { "Jobs with parameters, for everybody who may use this dashboard." }
            @if templates.is_empty() { p.none { "There are no templates yet." } }
            ul.cards { @for kept in &templates { li {
                a.name href={ "/ui/templates/" (kept.document.name) } { (kept.document.name) }
                p { (kept.document.description) }
                p.hint {
                    @for (place, (name, _)) in kept.document.properties().enumerate() { @if place > 0 { ", " } code { (name) } }
                }
            } } }
        }
    };
    visit.page(StatusCode::OK, "Templates", None, &content)
}

/// Shows the form of a template: with its defaults, or with what another job was made with (`?from=`).
pub(super) async fn page(
    visit: Visit,
    Work(service): Work,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let kept = match service.template(&name, None).await {
        Ok(kept) => kept,
        Err(error) => return visit.failure(error),
    };
    let query = Form::unchecked(&query.unwrap_or_default());
    let given = match query.one("from").parse() {
        Ok(id) => match service.origin(&visit.caller, id).await {
            Ok(origin) => origin.map(|origin| origin.parameters).unwrap_or_default(),
            Err(error) => return visit.failure(error),
        },
        Err(_) => Map::new(),
    };
    let inputs = Inputs::of(&kept.document, &given);
    show(&visit, &kept, &inputs, &Faults::new(), None)
}

/// Makes a job of a template, or shows the form again with what is wrong.
pub(super) async fn run(visit: Visit, Work(service): Work, Path(name): Path<String>, body: Bytes) -> Response {
    let form = match Form::checked(&visit, &body) {
        Ok(form) => form,
        Err(failure) => return visit.failure(failure),
    };
    let kept = match service.template(&name, None).await {
        Ok(kept) => kept,
        Err(error) => return visit.failure(error),
    };
    let inputs = Inputs::from_form(&kept.document, &form);
    let (arguments, mut faults) = inputs.arguments(&kept.document, &Map::new());
    let key = Some(form.one("key")).filter(|key| !key.is_empty());
    if !faults.is_empty() {
        // What else is wrong is said at once.
        if let Err(found) = kept.document.expand(&arguments) {
            let mut more = Faults::new();
            inputs::placed(&found, &mut more);
            more.retain(|name, _| !faults.contains_key(name));
            faults.append(&mut more);
        }
        return show(&visit, &kept, &inputs, &faults, key);
    }
    let sent = key.map(|key| format!("form:{key}"));
    match service
        .create_from_template(&visit.caller, &name, &arguments, sent)
        .await
    {
        Ok(Created::New(job) | Created::Replayed(job)) => see_other(&format!("/ui/jobs/{}", job.id)),
        Err(ServiceError::Arguments(found) | ServiceError::Invalid(found)) => {
            inputs::placed(&found, &mut faults);
            show(&visit, &kept, &inputs, &faults, key)
        }
        Err(ServiceError::KeyReused) => {
            let again = "this form has created a job already; send it again to create another one";
            faults.entry(String::new()).or_default().push(again.to_owned());
            show(&visit, &kept, &inputs, &faults, None)
        }
        Err(error @ (ServiceError::TooFast { .. } | ServiceError::Full(_))) => {
            faults.entry(String::new()).or_default().push(error.to_string());
            show(&visit, &kept, &inputs, &faults, key)
        }
        Err(error) => visit.failure(error),
    }
}

fn may_change<T>(visit: &Visit, kept: &Kept<T>) -> bool {
    visit.caller.admin || visit.caller.name == kept.owner
}

fn show(visit: &Visit, kept: &Kept<Template>, inputs: &Inputs, faults: &Faults, key: Option<&str>) -> Response {
    let key = match key.map_or_else(secret, |key| Ok(key.to_owned())) {
        Ok(key) => key,
        Err(failure) => return visit.failure(failure),
    };
    let status = if faults.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    let template = &kept.document;
    let title = if faults.is_empty() {
        template.name.clone()
    } else {
        format!("{}: something is wrong", template.name)
    };
    let json = serde_json::to_string_pretty(template).unwrap_or_default();
    let content = html! {
        section.narrow {
            nav.crumbs aria-label="Where this is" { a href="/ui/templates" { "Templates" } }
            h1 { (template.name) }
            @if !template.description.is_empty() { p.about { (template.description) } }
            (inputs::summary("No job can be made with this", faults, |name| inputs::title(template, name)))
            form.job method="post" action={ "/ui/templates/" (template.name) } {
                (visit.token_field())
                input type="hidden" name="key" value=(key);
                (inputs.fields(template, faults))
                div.answer {
                    button.primary { "Run" }
                    a.button href={ "/ui/schedules/new?template=" (template.name) } { "Schedule…" }
                }
            }
            p.hint {
                "Version " (kept.version) " by " (kept.owner) ". "
                a href={ "/?template=" (template.name) } { "Jobs made from it" }
                @if may_change(visit, kept) {
                    " · " a href={ "/ui/templates/" (template.name) "/edit" } { "Edit" }
                    " · " a href={ "/ui/templates/" (template.name) "/delete" } { "Delete…" }
                }
            }
            details.document { summary { "As JSON" } pre { (json) } }
        }
    };
    visit.page(status, &title, None, &content)
}

/// A template as it is being written.
struct Draft<'a> {
    /// The name and the version of the one that is changed.
    of: Option<(&'a str, i64)>,
    text: &'a str,
    faults: &'a [String],
}

/// Shows the form of a new template.
pub(super) async fn empty(visit: Visit) -> Response {
    write(
        &visit,
        &Draft {
            of: None,
            text: SKELETON,
            faults: &[],
        },
    )
}

/// Shows a template to be changed.
pub(super) async fn edit(visit: Visit, Work(service): Work, Path(name): Path<String>) -> Response {
    match service.template(&name, None).await {
        Ok(kept) => {
            let text = serde_json::to_string_pretty(&kept.document).unwrap_or_default();
            write(
                &visit,
                &Draft {
                    of: Some((&name, kept.version)),
                    text: &text,
                    faults: &[],
                },
            )
        }
        Err(error) => visit.failure(error),
    }
}

/// Keeps a template that was written: a new one, or `of` another version.
pub(super) async fn save(visit: Visit, Work(service): Work, body: Bytes) -> Response {
    let form = match Form::checked(&visit, &body) {
        Ok(form) => form,
        Err(failure) => return visit.failure(failure),
    };
    let text = form.one("json").replace("\r\n", "\n");
    let of = match (form.one("of"), form.one("version").parse::<i64>()) {
        ("", _) => None,
        (name, version) => Some((name, version.unwrap_or_default())),
    };
    let again = |faults: &[String]| {
        write(
            &visit,
            &Draft {
                of,
                text: &text,
                faults,
            },
        )
    };
    let template: Template = match serde_json::from_str(&text) {
        Ok(template) => template,
        Err(error) => return again(&[error.to_string()]),
    };
    let saved = match of {
        None => service.add_template(&visit.caller, &template).await,
        Some((name, version)) => {
            service
                .change_template(&visit.caller, name, Some(version), &template)
                .await
        }
    };
    match saved {
        Ok(kept) => see_other(&format!("/ui/templates/{}", kept.document.name)),
        Err(ServiceError::Faulty(_, faults)) => {
            let lines: Vec<String> = faults
                .iter()
                .map(|fault| format!("`{}`: {}", fault.pointer, fault.detail))
                .collect();
            again(&lines)
        }
        Err(error @ (ServiceError::Taken(_) | ServiceError::Stale(_) | ServiceError::TooMany(_))) => {
            again(&[error.to_string()])
        }
        Err(error) => visit.failure(error),
    }
}

fn write(visit: &Visit, draft: &Draft<'_>) -> Response {
    let status = if draft.faults.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    let title = draft
        .of
        .map_or("New template".to_owned(), |(name, _)| format!("Edit {name}"));
    let wrong = (!draft.faults.is_empty()).then_some("true");
    let content = html! {
        section.narrow {
            nav.crumbs aria-label="Where this is" { a href="/ui/templates" { "Templates" } }
            h1 { (title) }
            @if !draft.faults.is_empty() {
                div #faults .faults role="alert" tabindex="-1" {
                    h2 { "This template cannot be kept" }
                    ul { @for text in draft.faults { li { (said(text)) } } }
                }
            }
            form.job method="post" action="/ui/templates" {
                (visit.token_field())
                @if let Some((name, version)) = draft.of {
                    input type="hidden" name="of" value=(name);
                    input type="hidden" name="version" value=(version);
                }
                div.field {
                    label for="json" { "The template as JSON" }
                    textarea id="json" name="json" rows="24" autocomplete="off" spellcheck="false" aria-describedby="json-hint" aria-invalid=[wrong] { "\n" (draft.text) }
                    span.hint id="json-hint" {
                        code { "parameters" } " is a JSON Schema; its " code { "properties" } " become the fields of the form, and "
                        code { "${{ name }}" } " in the job's texts stands for what is filled in. "
                        a href="/docs#createTemplate" { "More" }
                    }
                }
                div.answer { button.primary { "Save" } a.button href="/ui/templates" { "Cancel" } }
            }
        }
    };
    visit.page(status, &title, None, &content)
}

/// Asks whether a template is to be deleted.
pub(super) async fn doomed(visit: Visit, Work(service): Work, Path(name): Path<String>) -> Response {
    match service.template(&name, None).await {
        Ok(kept) => {
            let consequence = "Jobs that were made from it stay. Schedules that use it make no jobs any more.";
            let address = format!("/ui/templates/{name}");
            let content = question(&visit, "template", &name, consequence, &address, kept.version);
            visit.page(StatusCode::OK, &format!("Delete {name}?"), None, &content)
        }
        Err(error) => visit.failure(error),
    }
}

/// The page that asks once more before something is deleted.
pub(super) fn question(
    visit: &Visit,
    kind: &str,
    name: &str,
    consequence: &str,
    address: &str,
    version: i64,
) -> Markup {
    html! {
        section.narrow {
            h1 { "Delete the " (kind) " " (name) "?" }
            p { (consequence) }
            form.answer method="post" action={ (address) "/delete" } {
                (visit.token_field())
                input type="hidden" name="version" value=(version);
                button.primary.danger autofocus { "Delete" }
                a.button href=(address) { "Back" }
            }
        }
    }
}

/// Deletes a template.
pub(super) async fn delete(visit: Visit, Work(service): Work, Path(name): Path<String>, body: Bytes) -> Response {
    let form = match Form::checked(&visit, &body) {
        Ok(form) => form,
        Err(failure) => return visit.failure(failure),
    };
    match service
        .remove_template(&visit.caller, &name, form.one("version").parse().ok())
        .await
    {
        Ok(()) => see_other("/ui/templates"),
        Err(error) => visit.failure(error),
    }
}
