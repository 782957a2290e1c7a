//! The description of the API: OpenAPI 3.1, made from the routes themselves, and a page to read it.

mod page;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, License, OpenApi, OpenApiBuilder, RefOr, tag::TagBuilder};
use utoipa::{IntoResponses, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::api::{ApiEnd, ApiGap, ApiLine};
use super::problem::{self, Kind};
use super::{Api, audit, bulk, events, health, jobs, logs, schedules, templates};
use crate::dashboard::job::spec::Fault;

/// What every guarded route may refuse a request with.
const ALWAYS: [Kind; 9] = [
    Kind::Malformed,
    Kind::Unauthenticated,
    Kind::Host,
    Kind::CrossSite,
    Kind::BodyTooLarge,
    Kind::Internal,
    Kind::Timeout,
    Kind::StoreDown,
    Kind::StoreSlow,
];

/// Names what a route may refuse a request with, beside [`ALWAYS`].
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident: $($kind:ident),*;)*) => {
        $(
            $(#[$doc])*
            pub(super) struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
                    let more: &[Kind] = &[$(Kind::$kind),*];
                    let kinds = [&ALWAYS[..], more].concat();
                    problem::described(&kinds)
                }
            }
        )*
    };
}

/// Refusals of a probe with a query; nothing else of [`ALWAYS`] is asked of it.
pub(super) struct ProbeRefused;

impl IntoResponses for ProbeRefused {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problem::described(&[Kind::Malformed, Kind::Parameter])
    }
}

refusals! {
    /// Refusals of a list.
    ListRefused: Parameter, Cursor, Streams;
    /// Refusals of counters.
    CountRefused: ;
    /// Refusals of a new job.
    CreateRefused: Json, Parameter, NoSuchTemplate, KeyInFlight, MediaType, Invalid, InvalidParameters, KeyReused, TooFast, Full;
    /// Refusals of what is done to many jobs.
    BulkRefused: Json, Parameter, Cursor, MediaType, InvalidRequest, Full;
    /// Refusals of one job.
    GetRefused: NoSuchJob;
    /// Refusals of an action.
    ActRefused: NoSuchJob, State, Unsupported, Changed, Refused, RunnerDown, RunnerBusy, Full;
    /// Refusals of a rerun.
    RerunRefused: Parameter, NoSuchJob, State, KeyInFlight, Invalid, KeyReused, TooFast, Full;
    /// Refusals of a deletion.
    DeleteRefused: NoSuchJob, State, Changed, Full;
    /// Refusals of a log.
    LogsRefused: Parameter, NoSuchJob, Streams;
    /// Refusals of events.
    EventsRefused: Streams;
    /// Refusals of what was done.
    ActsRefused: Parameter, Cursor;
    /// Refusals of a check of what was done.
    CheckRefused: Parameter, NotAdmin;
    /// Refusals of a list of documents.
    DocumentsRefused: ;
    /// Refusals of a template.
    TemplateRefused: Parameter, NoSuchTemplate;
    /// Refusals of a new template.
    AddTemplateRefused: Json, MediaType, NameTaken, TooMany, InvalidTemplate, Full;
    /// Refusals of a changed template.
    ChangeTemplateRefused: Json, MediaType, NotYours, NoSuchTemplate, Stale, Unconditional, InvalidTemplate, Full;
    /// Refusals of the deletion of a template.
    DeleteTemplateRefused: NotYours, NoSuchTemplate, Stale, Full;
    /// Refusals of a schedule.
    ScheduleRefused: NoSuchSchedule;
    /// Refusals of a new schedule.
    AddScheduleRefused: Json, MediaType, NameTaken, TooMany, InvalidSchedule, Full;
    /// Refusals of a changed schedule.
    ChangeScheduleRefused: Json, MediaType, NoSuchSchedule, Stale, Unconditional, InvalidSchedule, Full;
    /// Refusals of what is done to a schedule.
    ActScheduleRefused: NoSuchSchedule, Stale, Full;
    /// Refusals of a schedule's occurrences.
    OccurrencesRefused: Parameter, NoSuchSchedule, State;
    /// Refusals of a schedule's job.
    RunScheduleRefused: Parameter, NoSuchSchedule, State, KeyInFlight, InvalidSchedule, Invalid, KeyReused, TooFast, Full;
}

/// Returns the routes of jobs, which are guarded, and their description.
pub(super) fn guarded() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(jobs::list, jobs::create))
        .routes(routes!(jobs::counts))
        .routes(routes!(bulk::perform))
        .routes(routes!(jobs::get, jobs::delete))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::rerun))
        .routes(routes!(jobs::suspend))
        .routes(routes!(jobs::resume))
        .routes(routes!(templates::list, templates::create))
        .routes(routes!(templates::get, templates::replace, templates::delete))
        .routes(routes!(schedules::list, schedules::create))
        .routes(routes!(schedules::get, schedules::replace, schedules::delete))
        .routes(routes!(schedules::suspend))
        .routes(routes!(schedules::resume))
        .routes(routes!(schedules::run))
        .routes(routes!(schedules::occurrences))
        .routes(routes!(logs::read))
        .routes(routes!(events::watch))
        .routes(routes!(audit::list))
        .routes(routes!(audit::check))
}

/// Returns the routes that everyone may ask, with or without jobs, and their description.
pub(super) fn open() -> OpenApiRouter<super::App> {
    OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::version))
}

/// Puts the description of everything that is served together.
fn described() -> OpenApi {
    let mut components = Components::new();
    let (name, schema) = problem::schema();
    components.schemas.insert(name, schema);
    // Parts of streams, which no route names as its body.
    let mut more = vec![
        ("Fault".to_owned(), Fault::schema()),
        ("LogLine".to_owned(), ApiLine::schema()),
        ("LogGap".to_owned(), ApiGap::schema()),
        ("LogEnd".to_owned(), ApiEnd::schema()),
    ];
    Fault::schemas(&mut more);
    ApiLine::schemas(&mut more);
    components.schemas.extend(more);
    let scheme = |scheme, description: &str| {
        let mut http = Http::new(scheme);
        http.description = Some(description.to_owned());
        SecurityScheme::Http(http)
    };
    components.add_security_scheme(
        "token",
        scheme(HttpAuthScheme::Bearer, "A token of the server's token file."),
    );
    components.add_security_scheme(
        "password",
        scheme(
            HttpAuthScheme::Basic,
            "The same token as the password, for browsers. The name is not looked at.",
        ),
    );
    let info = InfoBuilder::new()
        .title("job-dashboard")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Create jobs, list them, follow their output, keep their history.\n\n\
             A server on a loopback address needs no token: whoever reaches it is its user. Every other server wants \
             one. A job of somebody else does not exist. Every refusal is an `application/problem+json` with a stable \
             `code`.",
        ))
        .license(Some(License::new("Apache-2.0")))
        .build();
    let tag = |name: &str, about: &str| TagBuilder::new().name(name).description(Some(about)).build();
    let mut document = OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .security(Some([
            SecurityRequirement::default(),
            SecurityRequirement::new("token", [] as [&str; 0]),
            SecurityRequirement::new("password", [] as [&str; 0]),
        ]))
        .tags(Some([
            tag("jobs", "Jobs and what is done to them"),
            tag(
                "templates",
                "Jobs with parameters; for everybody who may use the dashboard, changed by their owners",
            ),
            tag("schedules", "Jobs that are made by themselves"),
            tag("logs", "The output of jobs"),
            tag("events", "What happens, as it happens"),
            tag("audit", "Who did what"),
            tag("health", "Whether the server works"),
        ]))
        .build();
    document.merge(guarded().into_openapi());
    document.merge(open().into_openapi());
    document
}

/// Returns the description of everything that is served, as `/openapi.json` has it.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        let mut document = serde_json::to_value(described()).unwrap_or_default();
        without_null_headers(&mut document);
        document
    });
    &DOCUMENT
}

/// A header that may be left out is not one that may be null, which the macros say of it.
fn without_null_headers(value: &mut Value) {
    let header = value["in"] == "header";
    if let Some(kind) = value.pointer_mut("/schema/type").filter(|_| header) {
        one_type(kind);
    }
    if let Some(headers) = value.get_mut("headers").and_then(Value::as_object_mut) {
        for (_, header) in headers {
            if let Some(kind) = header.pointer_mut("/schema/type") {
                one_type(kind);
            }
        }
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(without_null_headers),
        Value::Array(values) => values.iter_mut().for_each(without_null_headers),
        _ => {}
    }
}

fn one_type(kind: &mut Value) {
    let first = kind
        .as_array()
        .and_then(|kinds| kinds.iter().find(|kind| *kind != "null"))
        .cloned();
    if let Some(first) = first {
        *kind = first;
    }
}

/// Sends the description.
pub(super) async fn json() -> Response {
    ([(header::CACHE_CONTROL, "no-cache")], Json(document())).into_response()
}

/// Sends the page.
pub(super) async fn docs() -> Response {
    static PAGE: LazyLock<String> = LazyLock::new(|| page::html(document()));
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], PAGE.as_str()).into_response()
}

/// Sends the page's style.
pub(super) async fn style() -> Response {
    let kind = HeaderValue::from_static("text/css; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], page::STYLE).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    match value {
                        Value::String(text) if name == "$ref" => out.push(text),
                        value => references(value, out),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, out)),
            _ => {}
        }
    }

    #[test]
    fn the_description_is_whole() {
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        let mut all = Vec::new();
        references(document, &mut all);
        assert!(all.len() > 20, "{all:?}");
        for reference in all {
            let found = document.pointer(reference.trim_start_matches('#'));
            assert!(found.is_some(), "{reference} leads nowhere");
        }
        let paths = document["paths"].as_object().expect("paths");
        assert!(paths.len() >= 13, "{:?}", paths.keys());
        let mut ids = std::collections::BTreeSet::new();
        for (path, item) in paths {
            for (method, operation) in item.as_object().expect("operations") {
                let id = operation["operationId"].as_str().expect("an id");
                assert!(ids.insert(id), "{id} is used twice");
                let summary = operation["summary"].as_str().unwrap_or_default();
                assert!(
                    !summary.is_empty() && !summary.ends_with('.'),
                    "{method} {path}: {summary:?}"
                );
                let guarded = ["/jobs", "/events", "/templates", "/schedules", "/audit"]
                    .iter()
                    .any(|part| path.starts_with(part));
                assert_eq!(operation["responses"].get("401").is_some(), guarded, "{method} {path}");
            }
        }
    }

    #[test]
    fn the_page_has_every_route_and_every_code_and_nothing_of_elsewhere() {
        let page = page::html(document());
        for path in document()["paths"].as_object().expect("paths").keys() {
            assert!(page.contains(path), "{path}");
        }
        for kind in Kind::ALL {
            assert!(page.contains(&format!("id=\"{}\"", kind.code())), "{}", kind.code());
        }
        for foreign in ["http://", "https://", "<script", " style=", "<style"] {
            assert!(!page.contains(foreign), "{foreign} is against the page's own policy");
        }
    }
}
