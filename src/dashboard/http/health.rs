//! `/healthz`, `/livez`, `/readyz` and `/version`.

use std::fmt::Write as _;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::App;
use super::openapi::ProbeRefused;
use super::problem::Problem;
use super::query::verbose;
use crate::dashboard::health::{Check, Readiness};
use crate::report::human::plain;

/// The answer of `/healthz` and `/livez`.
#[derive(Serialize, utoipa::ToSchema)]
struct Status {
    /// `ok`.
    status: &'static str,
}

/// The answer of `/version`.
#[derive(Serialize, utoipa::ToSchema)]
struct Build {
    /// `labctl`.
    name: &'static str,
    /// The version.
    version: &'static str,
    /// The commit that it was built from, where it is a release.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    commit: Option<&'static str>,
    /// The platform that it was built for, such as `x86_64-unknown-linux-gnu`.
    target: &'static str,
}

/// A probe must see the server, not what a proxy remembers of it.
fn fresh(response: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], response).into_response()
}

/// Ask whether the server answers
///
/// Says that the server answers; for people and for the course's checks.
#[utoipa::path(
    get, path = "/healthz", operation_id = "healthz", tag = "health", security(()),
    responses((status = 200, description = "It does", body = Status))
)]
pub(super) async fn healthz() -> Response {
    fresh(Json(Status { status: "ok" }))
}

/// Ask whether the process works
///
/// Says that the process works. It depends on nothing outside the process: a restart would not bring a database back.
#[utoipa::path(
    get, path = "/livez", operation_id = "livez", tag = "health", security(()),
    responses((status = 200, description = "It does", body = Status))
)]
pub(super) async fn livez() -> Response {
    fresh(Json(Status { status: "ok" }))
}

/// Ask whether requests may be sent here
///
/// Says whether requests may be sent here: 200, or 503 with what is wrong. With `verbose` it says so in plain text, in
/// the form of the Kubernetes API server: a line for each check, `[+]` before one that is ok and `[-]` before one that
/// failed, and a last line for all of them.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "health", security(()),
    params(("verbose" = Option<bool>, Query, description = "Answer with a line for each check; `verbose` alone is `verbose=true`")),
    responses(
        (status = 200, description = "They may", content((Readiness = "application/json"), (String = "text/plain"))),
        (status = 503, description = "They may not, and why", content((Readiness = "application/json"), (String = "text/plain"))),
        ProbeRefused,
    )
)]
pub(super) async fn readyz(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let verbose = verbose(&query.unwrap_or_default())?;
    let readiness = app.health.readiness();
    let status = if readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok(if verbose {
        // A `String` is sent as `text/plain; charset=utf-8`.
        fresh((status, lines(&readiness)))
    } else {
        fresh((status, Json(readiness)))
    })
}

/// Writes a line for each check, and one for all of them.
fn lines(readiness: &Readiness) -> String {
    let mut out = String::new();
    for Check { name, ok, detail } in &readiness.checks {
        let (mark, word) = if *ok { ('+', "ok") } else { ('-', "failed") };
        // An error of several lines is one check all the same.
        _ = writeln!(out, "[{mark}]{name} {word}: {}", plain(detail));
    }
    let word = if readiness.is_ready() { "passed" } else { "failed" };
    _ = writeln!(out, "readyz check {word}");
    out
}

/// Ask what is running
///
/// Says what is running.
#[utoipa::path(
    get, path = "/version", operation_id = "version", tag = "health", security(()),
    responses((status = 200, description = "The name, the version and the platform", body = Build))
)]
pub(super) async fn version() -> Response {
    fresh(Json(Build {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        // Set by whoever builds a release; a build from a working tree has no commit that says what is in it.
        commit: option_env!("LABCTL_COMMIT"),
        target: env!("LABCTL_TARGET"),
    }))
}
