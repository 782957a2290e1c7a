//! HTTP: the routes, and what is around every one of them.
//!
//! [`router`] is all there is to serve; a resource is a file below this one whose routes [`openapi`] puts together with
//! their description. What every request passes through, outermost first: headers for careful browsers, [`access`]
//! (request id, the access line, a caught panic), the limits (body size, time), for jobs the [`guard`] (host, site,
//! token), the route.

pub mod accept;
pub mod access;
pub mod api;
pub mod audit;
pub mod bulk;
pub mod events;
pub mod extract;
pub mod guard;
pub mod health;
pub mod jobs;
pub mod logs;
pub mod openapi;
pub mod problem;
pub mod query;
pub mod schedules;
pub mod streams;
pub mod templates;
mod together;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;

use self::events::SharedCounts;
use self::guard::Guard;
use self::problem::{Kind, Problem};
use self::streams::Streams;
use self::together::Together;
use super::health::Health;
use super::page;
use super::service::Service;

/// What every route may use; cheap to clone.
#[derive(Clone)]
pub struct App {
    /// Whether the server is alive and ready.
    pub health: Health,
    /// What a request may cost.
    pub limits: Limits,
    /// What routes of jobs use; a server that runs no jobs has none of them.
    pub api: Option<Api>,
}

/// What routes of jobs may use; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Api {
    service: Arc<OnceLock<Service>>,
    guard: Guard,
    streams: Streams,
    counts: SharedCounts,
    lists: Together<jobs::Asked, Arc<jobs::Shown>>,
}

impl Api {
    /// Makes one that refuses everything until [`Api::ready`]: the store may come later than the server.
    pub fn new(guard: Guard, streams: Streams) -> Self {
        Self {
            service: Arc::default(),
            guard,
            streams,
            counts: SharedCounts::default(),
            lists: Together::default(),
        }
    }

    /// Gives it what does the work. A second one is not taken.
    pub fn ready(&self, service: Service) {
        _ = self.service.set(service);
    }

    /// Returns what does the work.
    ///
    /// # Errors
    /// The store has not answered yet.
    pub fn service(&self) -> Result<&Service, Problem> {
        let service = self.service.get();
        service.ok_or_else(|| Problem::new(Kind::StoreDown).detail("it has not answered since the server started"))
    }
}

/// What one request may cost the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many bytes the body of a request may have.
    pub body_bytes: usize,
    /// How long the server may take until it has the head of its response. A body that is streamed may take longer.
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            request: Duration::from_secs(30),
        }
    }
}

/// Returns everything that is served.
pub fn router(app: App) -> Router {
    let mut routes: Router<App> = openapi::open().split_for_parts().0;
    if let Some(api) = &app.api {
        let guarded = openapi::guarded().split_for_parts().0.merge(page::router());
        let guarded = guarded.route_layer(middleware::from_fn_with_state(api.guard.clone(), guard::check));
        routes = routes
            .merge(guarded.with_state(api.clone()))
            .route("/openapi.json", get(openapi::json))
            .route("/docs", get(openapi::docs))
            .route("/docs/style.css", get(openapi::style));
    }
    around(routes, app)
}

/// Puts what every request passes through around some routes.
pub(super) fn around(routes: Router<App>, app: App) -> Router {
    let limits = app.limits;
    routes
        .fallback(nothing_here)
        .method_not_allowed_fallback(|| async { Problem::new(Kind::MethodNotAllowed) })
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        .layer(middleware::from_fn_with_state(app.clone(), within_limits))
        .layer(middleware::from_fn(access::log))
        .layer(middleware::map_response(guard::careful))
        .with_state(app)
}

async fn nothing_here(State(app): State<App>) -> Problem {
    let problem = Problem::new(Kind::NotFound);
    if app.api.is_some() {
        return problem;
    }
    problem.detail("this server runs no jobs (`labctl serve --runner`): it has /healthz, /livez, /readyz and /version")
}

/// Refuses a body that says itself that it is too large, and gives a request up that takes too long.
async fn within_limits(State(app): State<App>, request: Request, next: Next) -> Result<Response, Problem> {
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let most = app.limits.body_bytes;
    if declared.is_some_and(|length| length > most as u64) {
        return Err(Problem::new(Kind::BodyTooLarge).detail(format!("the body may have {most} bytes")));
    }
    tokio::time::timeout(app.limits.request, next.run(request))
        .await
        .map_err(|_| Problem::new(Kind::Timeout))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Method, StatusCode};
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;
    use crate::dashboard::health::Phase;

    fn app() -> App {
        let health = Health::default();
        health.enter(Phase::Serving);
        App {
            health,
            limits: Limits::default(),
            api: None,
        }
    }

    async fn ask(router: Router, request: Request) -> (Response<()>, Vec<u8>) {
        let response = router.oneshot(request).await.expect("infallible");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes().to_vec();
        (Response::from_parts(head, ()), body)
    }

    async fn get_json(router: Router, path: &str) -> (StatusCode, String, Value) {
        let (head, body) = ask(router, Request::get(path).body(Body::empty()).expect("a request")).await;
        let kind = head.headers()[header::CONTENT_TYPE].to_str().expect("text").to_owned();
        (head.status(), kind, serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn health_and_version_are_json() {
        for path in ["/healthz", "/livez"] {
            let (status, kind, body) = get_json(router(app()), path).await;
            assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/json"), "{path}");
            assert_eq!(body, serde_json::json!({"status": "ok"}));
        }
        let (status, _, body) = get_json(router(app()), "/version").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body["name"], "labctl");
        assert_eq!(body["version"], env!("CARGO_PKG_VERSION"));
        assert!(
            body["target"].as_str().is_some_and(|target| target.contains('-')),
            "{body}"
        );
    }

    #[tokio::test]
    async fn readiness_follows_the_phase_and_liveness_does_not() {
        let app = app();
        for (phase, status, word) in [
            (Phase::Serving, StatusCode::OK, "serving"),
            (Phase::Draining, StatusCode::SERVICE_UNAVAILABLE, "draining"),
        ] {
            app.health.enter(phase);
            let (got, kind, body) = get_json(router(app.clone()), "/readyz").await;
            assert_eq!((got, kind.as_str()), (status, "application/json"));
            assert_eq!(body["phase"], word);
            assert_eq!(body["checks"][0]["name"], "server");
            assert_eq!(get_json(router(app.clone()), "/livez").await.0, StatusCode::OK);
            assert_eq!(get_json(router(app.clone()), "/healthz").await.0, StatusCode::OK);
        }
        let starting = App {
            health: Health::default(),
            limits: Limits::default(),
            api: None,
        };
        let (status, _, body) = get_json(router(starting), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body["status"], "unready");
    }

    #[tokio::test]
    async fn readiness_is_told_in_lines_to_who_wants_that() {
        let app = app();
        app.health.set("store", Err("the database\ndoes not answer".to_owned()));
        let asked = async |query: &str| {
            let request = Request::get(format!("/readyz{query}")).body(Body::empty());
            let (head, body) = ask(router(app.clone()), request.expect("a request")).await;
            let kind = head.headers()[header::CONTENT_TYPE].to_str().expect("text").to_owned();
            assert_eq!(head.headers()[header::CACHE_CONTROL], "no-store");
            (head.status().as_u16(), kind, String::from_utf8(body).expect("UTF-8"))
        };
        let text = "text/plain; charset=utf-8";
        let failed = "[+]server ok: the server answers requests\n\
                      [-]store failed: the database does not answer\n\
                      readyz check failed\n";
        assert_eq!(asked("?verbose").await, (503, text.to_owned(), failed.to_owned()));
        app.health.set("store", Ok("SQLite".to_owned()));
        let passed = "[+]server ok: the server answers requests\n[+]store ok: SQLite\nreadyz check passed\n";
        for query in ["?verbose", "?verbose=", "?verbose=1", "?verbose=true", "?x=y&verbose&"] {
            assert_eq!(asked(query).await, (200, text.to_owned(), passed.to_owned()), "{query}");
        }
        for query in ["", "?", "?verbose=false", "?verbose=0", "?x=y"] {
            let (status, kind, _) = asked(query).await;
            assert_eq!((status, kind.as_str()), (200, "application/json"), "{query}");
        }
        for query in ["?verbose=maybe", "?verbose&verbose", "?%ff"] {
            let (status, kind, _) = asked(query).await;
            assert_eq!((status, kind.as_str()), (400, "application/problem+json"), "{query}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_a_problem_with_a_stable_code() {
        let (status, kind, body) = get_json(router(app()), "/nowhere?x=1").await;
        assert_eq!(
            (status, kind.as_str()),
            (StatusCode::NOT_FOUND, "application/problem+json")
        );
        assert_eq!(body["code"], "not-found");
        assert_eq!(body["status"], 404);

        let request = Request::post("/healthz").body(Body::empty()).expect("a request");
        let (head, body) = ask(router(app()), request).await;
        assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);
        let allowed = head.headers()[header::ALLOW].to_str().expect("text");
        assert!(allowed.contains("GET") && allowed.contains("HEAD"), "{allowed}");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["code"], "method-not-allowed");
    }

    #[tokio::test]
    async fn head_is_get_without_a_body() {
        let request = Request::head("/healthz").body(Body::empty()).expect("a request");
        let (head, body) = ask(router(app()), request).await;
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(head.headers()[header::CONTENT_LENGTH], "15");
        assert!(body.is_empty());
    }

    #[tokio::test]
    async fn a_sane_request_id_is_kept_and_any_other_replaced() {
        let many = "x".repeat(129);
        for (sent, kept) in [
            (Some("abc-123_4.5"), true),
            (Some("/a:b+c=="), true),
            (Some("a b"), false),
            (Some("<script>"), false),
            (Some(many.as_str()), false),
            (Some(""), false),
            (None, false),
        ] {
            let mut request = Request::get("/nowhere");
            if let Some(sent) = sent {
                request = request.header("x-request-id", sent);
            }
            let (head, body) = ask(router(app()), request.body(Body::empty()).expect("a request")).await;
            let id = head.headers()["x-request-id"].to_str().expect("text").to_owned();
            assert_eq!(sent == Some(id.as_str()), kept, "{sent:?} -> {id}");
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(body["request_id"], id.as_str());
            assert_eq!(body["instance"], format!("urn:labctl:request:{id}"));
            let url: reqwest::Url = body["instance"].as_str().expect("text").parse().expect("a URI");
            assert_eq!((url.scheme(), url.query(), url.fragment()), ("urn", None, None));
        }
    }

    #[tokio::test]
    async fn limits_are_problems_too() {
        async fn length(body: bytes::Bytes) -> String {
            body.len().to_string()
        }
        async fn slow() -> &'static str {
            tokio::time::sleep(Duration::from_secs(60)).await;
            "late"
        }
        async fn broken() -> &'static str {
            panic!("a bug")
        }
        let app = App {
            limits: Limits {
                body_bytes: 8,
                request: Duration::from_millis(20),
            },
            ..app()
        };
        let routes = Router::new()
            .route("/length", axum::routing::post(length))
            .route("/slow", get(slow))
            .route("/broken", get(broken));
        let router = around(routes, app);

        let post = |body: &'static str, declared: bool| {
            let request = Request::post("/length");
            if declared {
                request
                    .header(header::CONTENT_LENGTH, body.len())
                    .body(Body::from(body))
            } else {
                let chunks = futures_util::stream::iter(body.as_bytes().chunks(3).map(Ok::<_, std::io::Error>));
                request.body(Body::from_stream(chunks))
            }
            .expect("a request")
        };
        let (head, body) = ask(router.clone(), post("12345678", true)).await;
        assert_eq!((head.status(), body.as_slice()), (StatusCode::OK, b"8".as_slice()));
        let (head, body) = ask(router.clone(), post("123456789", true)).await;
        assert_eq!(head.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["code"], "body-too-large");
        let (head, _) = ask(router.clone(), post("123456789", false)).await;
        assert_eq!(
            head.status(),
            StatusCode::PAYLOAD_TOO_LARGE,
            "also where no length is declared"
        );

        let (status, _, body) = get_json(router.clone(), "/slow").await;
        assert_eq!(
            (status, &body["code"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"timeout".into())
        );
        let (status, _, body) = get_json(router, "/broken").await;
        assert_eq!(
            (status, &body["code"]),
            (StatusCode::INTERNAL_SERVER_ERROR, &"internal".into())
        );
        assert!(!body.to_string().contains("a bug"), "internal text stays inside");
    }

    #[tokio::test]
    async fn no_input_whatever_gives_a_5xx() {
        let paths = [
            "/",
            "//",
            "/healthz/",
            "/%00",
            "/%ff%fe",
            "/..%2f..",
            "/healthz?%",
            "/version;x",
            "*",
        ];
        for method in [
            "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "JUNK",
        ] {
            for path in paths {
                let Ok(request) = Request::builder()
                    .method(Method::from_bytes(method.as_bytes()).expect("a token"))
                    .uri(path)
                    .header("content-length", "18446744073709551616")
                    .header("x-request-id", vec![0xff; 8])
                    .header("accept", "\t;q=")
                    .body(Body::from(vec![0xff; 32]))
                else {
                    continue;
                };
                let (head, _) = ask(router(app()), request).await;
                assert!(
                    head.status().is_client_error() || head.status().is_success(),
                    "{method} {path}"
                );
            }
        }
    }
}
