//! One look at a page: who looks, the token of this browser's forms, the theme; and the frame around every page.

use std::fmt::Write as _;

use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};
use rustls::crypto::SecureRandom;

use super::query::pairs;
use super::{files, show};
use crate::dashboard::http::Api;
use crate::dashboard::runner::RunnerError;
use crate::dashboard::service::{Caller, Service, ServiceError};
use crate::dashboard::store::StoreError;

/// The cookie with the token that this browser's forms carry.
const TOKEN: &str = "labctl-form";
/// The cookie with the theme that was chosen.
const THEME: &str = "labctl-theme";
/// How many characters a token has: 128 bits.
const TOKEN_LEN: usize = 32;

/// Light or dark, where it is chosen and not left to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Theme {
    Light,
    Dark,
}

impl Theme {
    fn named(name: &str) -> Option<Self> {
        match name {
            "light" => Some(Self::Light),
            "dark" => Some(Self::Dark),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

/// One look at a page.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    /// Who looks.
    pub(super) caller: Caller,
    /// What forms carry and [`Form::checked`] looks for.
    token: String,
    /// The browser does not have the token yet.
    fresh: bool,
    theme: Option<Theme>,
    /// Where the browser reached us, as commands on a page name it.
    pub(super) base: String,
    /// The path and query of this page.
    here: String,
}

/// Why there is no page.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    title: String,
    text: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, title: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            status,
            title: title.into(),
            text: text.into(),
        }
    }

    /// Says that there is no such job.
    pub(super) fn no_job() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "There is no such job",
            "It was deleted, it never was, or it belongs to somebody else.",
        )
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        let text = error.to_string();
        let unavailable = |what: &str| {
            tracing::warn!(error = text, cause = ?error, "a page cannot be shown");
            Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                what,
                "What runs goes on. Load this page again in a moment; /readyz says what is missing.",
            )
        };
        match &error {
            ServiceError::NotFound => Self::no_job(),
            ServiceError::Invalid(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "The job cannot be run", text),
            ServiceError::Parameter(_) => Self::new(StatusCode::BAD_REQUEST, "The request cannot be understood", text),
            ServiceError::KeyReused
            | ServiceError::KeyInFlight
            | ServiceError::State(_)
            | ServiceError::Changed
            | ServiceError::Taken(_)
            | ServiceError::Stale(_)
            | ServiceError::TooMany(_) => Self::new(StatusCode::CONFLICT, "This cannot be done", text),
            ServiceError::Missing(kind) => Self::new(
                StatusCode::NOT_FOUND,
                text,
                format!("The {kind} was deleted, it never was, or it belongs to somebody else."),
            ),
            ServiceError::NotYours(_) | ServiceError::NotAdmin => {
                Self::new(StatusCode::FORBIDDEN, "This cannot be done", text)
            }
            ServiceError::Faulty(_, faults) | ServiceError::Arguments(faults) => {
                let faults = faults
                    .iter()
                    .map(|fault| format!("{}: {}", fault.pointer, fault.detail));
                Self::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    text,
                    faults.collect::<Vec<_>>().join("; "),
                )
            }
            ServiceError::Runner(RunnerError::Unsupported(_) | RunnerError::Refused(_)) => {
                Self::new(StatusCode::CONFLICT, "The runner does not do this", text)
            }
            ServiceError::Runner(RunnerError::Unavailable(_) | RunnerError::Busy(_)) => {
                unavailable("What runs the jobs does not answer")
            }
            ServiceError::Store(StoreError::Unavailable(_) | StoreError::Timeout(_) | StoreError::LeaseLost) => {
                unavailable("The database does not answer")
            }
            ServiceError::TooFast { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "No more jobs for the moment", text)
            }
            ServiceError::Full(_) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "There is no room left for jobs", text)
            }
            ServiceError::Store(StoreError::Full(_)) => unavailable("The database has no room left"),
            ServiceError::Store(StoreError::KeyReused | StoreError::Broken(_)) => {
                tracing::error!(error = text, cause = ?error, "a page cannot be shown");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "The server failed",
                    "Its log says more, under this request's id.",
                )
            }
        }
    }
}

/// Returns a cookie's value.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers
        .get_all(header::COOKIE)
        .into_iter()
        .filter_map(|line| line.to_str().ok());
    let mut pairs = all
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
}

fn is_token(text: &str) -> bool {
    text.len() == TOKEN_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns 128 bits that nobody can guess, as text.
///
/// # Errors
/// The system gives no random numbers.
pub(super) fn secret() -> Result<String, Failure> {
    let mut bytes = [0; TOKEN_LEN / 2];
    let random: &dyn SecureRandom = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| {
        tracing::error!("the system gives no random numbers");
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The server failed",
            "Its log says more.",
        )
    })?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    }))
}

impl<S: Send + Sync> FromRequestParts<S> for Visit {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let Some(caller) = parts.extensions.get::<Caller>().cloned() else {
            // Whoever puts the routes together names the caller; without one nobody may see anything.
            return Err(StatusCode::UNAUTHORIZED.into_response());
        };
        let known = cookie(&parts.headers, TOKEN)
            .filter(|token| is_token(token))
            .map(str::to_owned);
        let fresh = known.is_none();
        let token = match known {
            Some(token) => token,
            None => secret().map_err(|failure| failure.status.into_response())?,
        };
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let plain = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
        let host = host.or(parts.uri.authority().map(Authority::as_str));
        let host = host.filter(|host| host.chars().all(plain)).unwrap_or("127.0.0.1:8080");
        Ok(Self {
            caller,
            token,
            fresh,
            theme: cookie(&parts.headers, THEME).and_then(Theme::named),
            base: format!("http://{host}"),
            here: parts
                .uri
                .path_and_query()
                .map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }
}

/// What does the work, for pages that show some.
pub(super) struct Work(pub(super) Service);

impl FromRequestParts<Api> for Work {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Response> {
        if let Ok(service) = api.service() {
            return Ok(Self(service.clone()));
        }
        let visit = Visit::from_request_parts(parts, api).await?;
        Err(visit.failure(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The database has not answered yet",
            "Load this page again in a moment; /readyz says what is missing.",
        )))
    }
}

impl Visit {
    /// Returns the hidden field that every form which changes something has.
    pub(super) fn token_field(&self) -> Markup {
        html! { input type="hidden" name="token" value=(self.token); }
    }

    /// Puts the frame around a page's content.
    pub(super) fn page(&self, status: StatusCode, title: &str, script: Option<&str>, content: &Markup) -> Response {
        let theme = self.theme.map(Theme::name);
        let page = html! {
            (DOCTYPE)
            html lang="en" data-theme=[theme] {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " · labctl" }
                    link rel="icon" type="image/svg+xml" href=(files::url("icon.svg"));
                    link rel="stylesheet" href=(files::url("ui.css"));
                    script type="module" src=(files::url("app.js")) {}
                    @if let Some(script) = script {
                        script type="module" src=(files::url(script)) {}
                    }
                }
                body {
                    a.skip href="#main" { "Skip to the content" }
                    header.top {
                        nav aria-label="Site" {
                            a.brand href="/" { "labctl" span { " jobs" } }
                            a.place href="/ui/templates" { "Templates" }
                            a.place href="/ui/schedules" { "Schedules" }
                            a.button.primary href="/ui/jobs/new" { "New job" }
                        }
                        span #live .live role="status" {}
                        span.who title="The jobs you create are created under this name" { (self.caller.name) }
                        form.theme method="post" action="/ui/theme" {
                            (self.token_field())
                            input type="hidden" name="back" value=(self.here);
                            // The style sheet shows the one that changes something.
                            @for theme in [Theme::Light, Theme::Dark] {
                                button class={ "quiet to-" (theme.name()) } name="to" value=(theme.name()) title={ "Change to the " (theme.name()) " theme" } {
                                    (show::icon("theme")) span.unseen { "Change to the " (theme.name()) " theme" }
                                }
                            }
                        }
                        a.quiet.button #help href="/ui/help" title="Keys and the API" { "?" span.unseen { " Help" } }
                    }
                    main #main tabindex="-1" { (content) }
                }
            }
        };
        self.send(status, page)
    }

    /// Makes a response of HTML: a whole page, or a part that a script asked for.
    pub(super) fn send(&self, status: StatusCode, page: Markup) -> Response {
        let mut response = (status, page.into_string()).into_response();
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CACHE_CONTROL, "private, no-cache"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        if self.fresh {
            let value = format!("{TOKEN}={}; Path=/; HttpOnly; SameSite=Strict", self.token);
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.append(header::SET_COOKIE, value);
            }
        }
        response
    }

    /// Says why there is no page.
    pub(super) fn failure(&self, failure: impl Into<Failure>) -> Response {
        let Failure { status, title, text } = failure.into();
        let content = html! {
            section.narrow {
                h1 { (title) }
                p { (text) }
                p { a href="/" { "All jobs" } }
            }
        };
        self.page(status, &title, None, &content)
    }
}

/// Sends the browser on after something was done, so that loading again does not do it again.
pub(super) fn see_other(address: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let address = HeaderValue::from_str(address).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(header::LOCATION, address);
    response
}

/// Returns an address that a form named where it is one of ours, or that of the list.
pub(super) fn local(address: &str) -> &str {
    let ours = address.starts_with('/')
        && !address.starts_with("//")
        && address
            .bytes()
            .all(|byte| (0x21..0x7f).contains(&byte) && byte != b'\\');
    if ours { address } else { "/" }
}

/// The fields of a form that changes something.
#[derive(Debug, Clone, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Takes a form whose token is that of the browser it came from.
    ///
    /// This is the one place where that is looked at. A page of another site can make a browser send a form, with all
    /// cookies; it cannot read the cookie, and so not send its value in a field.
    ///
    /// # Errors
    /// The token is missing or another one.
    pub(super) fn checked(visit: &Visit, body: &Bytes) -> Result<Self, Failure> {
        let form = Self::unchecked(&String::from_utf8_lossy(body));
        if visit.fresh || form.one("token") != visit.token {
            return Err(Failure::new(
                StatusCode::FORBIDDEN,
                "The form is not one of this browser's",
                "Cookies may be off, or were cleared since the page was loaded. Nothing was done: go back, load the page \
                 again, and send the form again.",
            ));
        }
        Ok(form)
    }

    /// Takes fields that change nothing.
    pub(super) fn unchecked(text: &str) -> Self {
        Self(pairs(text))
    }

    /// Returns a field's value; empty where there is none.
    pub(super) fn one(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value)
    }

    /// Returns all values of a field.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Keeps the theme that was chosen.
pub(super) async fn choose_theme(visit: Visit, body: Bytes) -> Response {
    let form = match Form::checked(&visit, &body) {
        Ok(form) => form,
        Err(failure) => return visit.failure(failure),
    };
    let mut response = see_other(local(form.one("back")));
    if let Some(theme) = Theme::named(form.one("to")) {
        let value = format!("{THEME}={}; Path=/; Max-Age=31536000; SameSite=Lax", theme.name());
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().append(header::SET_COOKIE, value);
        }
    }
    response
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const OWN: &str = "0123456789abcdef0123456789abcdef";

    /// A visit of a browser that was here before.
    pub(in super::super) fn visit() -> Visit {
        Visit {
            caller: Caller::new("anna", true),
            token: OWN.to_owned(),
            fresh: false,
            theme: None,
            base: "http://127.0.0.1:8080".to_owned(),
            here: "/".to_owned(),
        }
    }

    #[test]
    fn a_form_needs_the_token_of_its_browser() {
        let check = |visit: &Visit, body: &str| Form::checked(visit, &Bytes::copy_from_slice(body.as_bytes())).is_ok();
        let good = format!("id=1&token={OWN}");
        assert!(check(&visit(), &good));
        for bad in ["", "id=1", "token=", "token=0123456789abcdef0123456789abcdee"] {
            assert!(!check(&visit(), bad), "{bad}");
        }
        let fresh = Visit { fresh: true, ..visit() };
        assert!(
            !check(&fresh, &good),
            "a browser without the cookie cannot have the form"
        );
    }

    #[test]
    fn a_browser_gets_its_token_once() {
        let page = |visit: Visit| visit.page(StatusCode::OK, "x", None, &html! {});
        assert!(page(visit()).headers().get(header::SET_COOKIE).is_none());
        let fresh = page(Visit { fresh: true, ..visit() });
        let cookie = fresh.headers()[header::SET_COOKIE].to_str().expect("text");
        assert_eq!(cookie, format!("labctl-form={OWN}; Path=/; HttpOnly; SameSite=Strict"));
        assert_ne!(secret().expect("random"), secret().expect("random"));
    }

    #[test]
    fn one_is_sent_to_addresses_of_this_server_alone() {
        for address in ["/", "/?q=a%20b", "/ui/jobs/0000000000001"] {
            assert_eq!(local(address), address);
        }
        for address in [
            "",
            "//example.org",
            "https://example.org",
            "/\\example.org",
            "/a b",
            "/a\r\nb",
            "x",
        ] {
            assert_eq!(local(address), "/", "{address:?}");
        }
    }

    #[test]
    fn cookies_are_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; labctl-theme=dark"));
        headers.append(header::COOKIE, HeaderValue::from_static("labctl-form=x"));
        assert_eq!(cookie(&headers, THEME), Some("dark"));
        assert_eq!(cookie(&headers, TOKEN), Some("x"));
        assert_eq!(cookie(&headers, "b"), None);
    }
}
