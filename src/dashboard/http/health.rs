//! `/healthz`, `/livez`, `/readyz` and `/version`.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::App;

/// The answer of `/healthz` and `/livez`.
#[derive(Serialize)]
struct Status {
    status: &'static str,
}

/// The answer of `/version`.
#[derive(Serialize)]
struct Build {
    name: &'static str,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<&'static str>,
    target: &'static str,
}

/// A probe must see the server, not what a proxy remembers of it.
fn fresh(response: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], response).into_response()
}

/// Says that the server answers; for people and for the course's checks.
pub(super) async fn healthz() -> Response {
    fresh(Json(Status { status: "ok" }))
}

/// Says that the process works. It depends on nothing outside the process: a restart would not bring a database back.
pub(super) async fn livez() -> Response {
    fresh(Json(Status { status: "ok" }))
}

/// Says whether requests may be sent here: 200, or 503 with what is wrong.
pub(super) async fn readyz(State(app): State<App>) -> Response {
    let readiness = app.health.readiness();
    let status = if readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    fresh((status, Json(readiness)))
}

/// Says what is running.
pub(super) async fn version() -> Response {
    fresh(Json(Build {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        // Set by whoever builds a release; a build from a working tree has no commit that says what is in it.
        commit: option_env!("LABCTL_COMMIT"),
        target: env!("LABCTL_TARGET"),
    }))
}
