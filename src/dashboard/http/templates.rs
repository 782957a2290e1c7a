//! `/templates`: jobs with parameters.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::api::{ApiTemplate, ApiTemplates};
use super::extract::{Conditions, Name, Text, document, tag};
use super::guard::By;
use super::jobs::{Answer, etag, located, not_modified};
use super::openapi::{
    AddTemplateRefused, ChangeTemplateRefused, DeleteTemplateRefused, DocumentsRefused, TemplateRefused,
};
use super::problem::{Kind, Problem};
use super::query;
use crate::dashboard::job::template::Template;
use crate::dashboard::service::documents::Kept;

fn answer(status: StatusCode, kept: Kept<Template>) -> Response {
    (status, etag(&tag(kept.version)), Json(ApiTemplate::from(kept))).into_response()
}

fn read(body: &[u8]) -> Result<Template, Problem> {
    document(body).map_err(|problem| problem.instead(Kind::Invalid, Kind::InvalidTemplate))
}

/// List templates by their names
#[utoipa::path(
    get, path = "/templates", operation_id = "listTemplates", tag = "templates",
    responses((status = 200, description = "All templates", body = ApiTemplates), DocumentsRefused)
)]
pub(super) async fn list(State(api): State<Api>, By(_): By) -> Answer {
    let templates = api.service()?.templates().await?;
    Ok(Json(ApiTemplates {
        templates: templates.into_iter().map(ApiTemplate::from).collect(),
    })
    .into_response())
}

/// Create a template
///
/// `parameters` is a JSON Schema (draft 2020-12) of type `object`; `job` is a job's document with placeholders such as
/// `${{ name }}` in its texts.
#[utoipa::path(
    post, path = "/templates", operation_id = "createTemplate", tag = "templates",
    request_body(content = Template, description = "The template"),
    responses(
        (status = 201, description = "Created", body = ApiTemplate, headers(
            ("Location" = String, description = "Where the template is"),
            ("ETag" = String, description = "The version of the template"),
        )),
        AddTemplateRefused,
    )
)]
pub(super) async fn create(State(api): State<Api>, By(caller): By, Text(body): Text) -> Answer {
    let template = read(&body)?;
    let kept = api.service()?.add_template(&caller, &template).await?;
    let response = answer(StatusCode::CREATED, kept);
    Ok(located(response, &format!("/templates/{}", template.name)))
}

/// Look at a template
#[utoipa::path(
    get, path = "/templates/{name}", operation_id = "getTemplate", tag = "templates",
    params(
        ("name" = String, Path, description = "The template's name", min_length = 1, max_length = 63),
        ("version" = Option<i64>, Query, description = "An older version, such as the one that a job was made from; also of a template that was deleted", minimum = 1),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of the template that the client has"),
    ),
    responses(
        (status = 200, description = "The template", body = ApiTemplate, headers(("ETag" = String, description = "The version of the template"))),
        (status = 304, description = "The client has this version"),
        TemplateRefused,
    )
)]
pub(super) async fn get(
    State(api): State<Api>,
    By(_): By,
    Name(name): Name,
    conditions: Conditions,
    RawQuery(query): RawQuery,
) -> Answer {
    let version = version(query.as_deref().unwrap_or_default())?;
    let kept = api.service()?.template(&name, version).await?;
    if conditions.knows(&tag(kept.version)) {
        return Ok(not_modified(&tag(kept.version)));
    }
    Ok(answer(StatusCode::OK, kept))
}

fn version(query: &str) -> Result<Option<i64>, Problem> {
    let wrong = |what: &str| Err(Problem::new(Kind::Parameter).detail(what.to_owned()));
    match query::parameters(query)?.as_slice() {
        [] => Ok(None),
        [(name, value)] if name == "version" => match value.parse::<i64>() {
            Ok(version) if version > 0 && value.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Some(version)),
            _ => wrong("`version` must be a number from 1 on"),
        },
        _ => wrong("the only parameter is `version`, given once"),
    }
}

/// Change a template
///
/// Its old versions are kept: jobs say which one they were made from.
#[utoipa::path(
    put, path = "/templates/{name}", operation_id = "replaceTemplate", tag = "templates",
    params(
        ("name" = String, Path, description = "The template's name", min_length = 1, max_length = 63),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that the template must still have, or `*`; it must be given"),
    ),
    request_body(content = Template, description = "The whole template; its name stays"),
    responses(
        (status = 200, description = "Changed", body = ApiTemplate, headers(("ETag" = String, description = "The new version of the template"))),
        ChangeTemplateRefused,
    )
)]
pub(super) async fn replace(
    State(api): State<Api>,
    By(caller): By,
    Name(name): Name,
    conditions: Conditions,
    Text(body): Text,
) -> Answer {
    let template = read(&body)?;
    let service = api.service()?;
    let now = async { Ok::<_, Problem>(service.template(&name, None).await?.version) };
    let version = conditions.version(true, now).await?;
    let kept = service.change_template(&caller, &name, version, &template).await?;
    Ok(answer(StatusCode::OK, kept))
}

/// Delete a template
///
/// Jobs that were made from it stay, and its versions can still be read.
#[utoipa::path(
    delete, path = "/templates/{name}", operation_id = "deleteTemplate", tag = "templates",
    params(
        ("name" = String, Path, description = "The template's name", min_length = 1, max_length = 63),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that the template must still have"),
    ),
    responses((status = 204, description = "Deleted"), DeleteTemplateRefused)
)]
pub(super) async fn delete(State(api): State<Api>, By(caller): By, Name(name): Name, conditions: Conditions) -> Answer {
    let service = api.service()?;
    let now = async { Ok::<_, Problem>(service.template(&name, None).await?.version) };
    let version = conditions.version(false, now).await?;
    service.remove_template(&caller, &name, version).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
