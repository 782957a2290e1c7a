//! What is answered where a request cannot be served: `application/problem+json` of RFC 9457.
//!
//! `code` is stable and what programs branch on; `title` and `detail` are for people and may change. Nothing internal
//! is ever put in here: that goes to the log, where the request id finds it.

use std::collections::BTreeMap;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};

use crate::dashboard::job::spec::Fault;
use crate::dashboard::runner::RunnerError;
use crate::dashboard::service::ServiceError;
use crate::dashboard::service::rate::{Left, WINDOW};
use crate::dashboard::store::StoreError;
use crate::dashboard::store::documents::Kind as What;

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $code:literal, $title:literal;)*) => {
        /// A kind of failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// Every kind, in the order of the statuses.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the status of the response.
            pub fn status(self) -> StatusCode { match self { $(Self::$name => StatusCode::$status,)* } }

            /// Returns the code that programs branch on. It never changes once released.
            pub fn code(self) -> &'static str { match self { $(Self::$name => $code,)* } }

            /// Returns what it is, for people.
            pub fn title(self) -> &'static str { match self { $(Self::$name => $title,)* } }
        }
    };
}

kinds! {
    /// The request is not one that HTTP or URLs allow, such as a path that is not UTF-8.
    Malformed = BAD_REQUEST, "malformed-request", "The request cannot be read";
    /// The body is no JSON.
    Json = BAD_REQUEST, "malformed-json", "The body is not JSON";
    /// A parameter of the query, or a header, is wrong.
    Parameter = BAD_REQUEST, "invalid-parameter", "A parameter is wrong";
    /// A cursor is not one of this list.
    Cursor = BAD_REQUEST, "invalid-cursor", "The cursor is not one of this list";
    /// Nobody said who asks, or the token is not known.
    Unauthenticated = UNAUTHORIZED, "unauthenticated", "A token is needed";
    /// The request came under a host name that is not this server's: a page that made the browser come here.
    Host = FORBIDDEN, "wrong-host", "The server is not known under this host name";
    /// A page of another site sent a request that changes something.
    CrossSite = FORBIDDEN, "cross-site", "Another site may not ask for this";
    /// There is nothing at this path.
    NotFound = NOT_FOUND, "not-found", "There is nothing at this path";
    /// There is no such job, or it is not the caller's.
    NoSuchJob = NOT_FOUND, "no-such-job", "There is no such job";
    /// There is no such template.
    NoSuchTemplate = NOT_FOUND, "no-such-template", "There is no such template";
    /// There is no such schedule, or it is not the caller's.
    NoSuchSchedule = NOT_FOUND, "no-such-schedule", "There is no such schedule";
    /// The document is somebody else's.
    NotYours = FORBIDDEN, "not-yours", "Only its owner may change it";
    /// Only an admin may ask for this.
    NotAdmin = FORBIDDEN, "not-admin", "Only an admin may ask for this";
    /// Another document has the name.
    NameTaken = CONFLICT, "name-taken", "The name is taken";
    /// There are as many as may be.
    TooMany = CONFLICT, "too-many", "There are as many as there may be";
    /// The document has changed since the caller looked at it.
    Stale = PRECONDITION_FAILED, "document-changed", "It has changed since";
    /// A change must say of which version it is one.
    Unconditional = PRECONDITION_REQUIRED, "if-match-required", "If-Match must say which version is changed";
    /// The document is JSON and no template.
    InvalidTemplate = UNPROCESSABLE_ENTITY, "invalid-template", "The template cannot be used as it is written";
    /// The document is JSON and no schedule.
    InvalidSchedule = UNPROCESSABLE_ENTITY, "invalid-schedule", "The schedule cannot be used as it is written";
    /// The arguments of a template are wrong.
    InvalidParameters = UNPROCESSABLE_ENTITY, "invalid-parameters", "No job can be made with these parameters";
    /// There is something at this path, and it does not take this method.
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method-not-allowed", "This path does not take this method";
    /// Another request with this idempotency key is being worked on.
    KeyInFlight = CONFLICT, "idempotency-key-in-flight", "A request with this Idempotency-Key is in flight";
    /// The job is in a state in which this cannot be done.
    State = CONFLICT, "state-conflict", "The state of the job does not allow it";
    /// The runner cannot do this at all.
    Unsupported = CONFLICT, "runner-unsupported", "The runner cannot do this";
    /// The job has changed since the caller looked at it.
    Changed = PRECONDITION_FAILED, "job-changed", "The job has changed since";
    /// The body is larger than it may be.
    BodyTooLarge = PAYLOAD_TOO_LARGE, "body-too-large", "The body of the request is too large";
    /// The body is not of a type that this path takes.
    MediaType = UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body must be application/json";
    /// The document is JSON and no job.
    Invalid = UNPROCESSABLE_ENTITY, "invalid-job", "The job cannot be run as it is written";
    /// The document is JSON, and nothing that can be asked for here.
    InvalidRequest = UNPROCESSABLE_ENTITY, "invalid-request", "What is asked for is not known here";
    /// The idempotency key was used with another document.
    KeyReused = UNPROCESSABLE_ENTITY, "idempotency-key-reused", "This Idempotency-Key was used for another job";
    /// The runner refuses the job for good.
    Refused = UNPROCESSABLE_ENTITY, "runner-refused", "The runner refuses the job";
    /// The caller has created as many jobs as may be created in this time.
    TooFast = TOO_MANY_REQUESTS, "too-many-requests", "As many jobs were created as may be in this time";
    /// A bug.
    Internal = INTERNAL_SERVER_ERROR, "internal", "The server failed; its log has more under the request id";
    /// The server took too long.
    Timeout = SERVICE_UNAVAILABLE, "timeout", "The server took too long";
    /// The database does not answer.
    StoreDown = SERVICE_UNAVAILABLE, "store-unavailable", "The database does not answer";
    /// The database took too long for this request.
    StoreSlow = SERVICE_UNAVAILABLE, "store-timeout", "The database took too long";
    /// The runner does not answer.
    RunnerDown = SERVICE_UNAVAILABLE, "runner-unavailable", "The runner does not answer";
    /// The runner wants fewer requests.
    RunnerBusy = SERVICE_UNAVAILABLE, "runner-busy", "The runner is overloaded";
    /// As many streams are open as may be.
    Streams = SERVICE_UNAVAILABLE, "too-many-streams", "As many streams are open as this server allows";
    /// The disk or the quota is full.
    Full = INSUFFICIENT_STORAGE, "store-full", "There is no room left for jobs";
}

impl Kind {
    /// Returns after how many seconds the same request may work, where waiting helps.
    fn retry_after(self) -> Option<u32> {
        match self {
            Self::KeyInFlight | Self::Timeout | Self::StoreSlow | Self::RunnerBusy => Some(1),
            Self::StoreDown | Self::RunnerDown => Some(2),
            Self::Streams => Some(5),
            _ => None,
        }
    }
}

/// An answer to a request that cannot be served.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: Kind,
    detail: Option<String>,
    errors: Vec<Fault>,
    /// What the caller may still create, and in how many seconds more.
    left: Option<(Left, u64)>,
}

/// A problem as it is sent; for the description of the API.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
struct Document<'a> {
    /// Where the kind of problem is described, relative to the server.
    #[schema(example = "/docs#invalid-job", format = "uri-reference")]
    r#type: String,
    /// What it is, for people.
    title: &'a str,
    /// The status of the response.
    status: u16,
    /// What programs branch on; it never changes.
    #[schema(example = "invalid-job")]
    code: &'a str,
    /// What exactly is wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    /// Everything that is wrong in the body.
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    errors: &'a [Fault],
    /// This one occurrence, as RFC 9457 has it: a name for the request, with its id. There is nothing to fetch at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "urn:labctl:request:3f0c5d7e9a1b2c4d", format = "uri", nullable = false)]
    instance: Option<String>,
    /// The request's id, as in `X-Request-Id` and in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

impl Problem {
    /// Makes a problem without details.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            detail: None,
            errors: Vec::new(),
            left: None,
        }
    }

    /// Says what exactly is wrong, to the one who asked.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Says what is wrong where in the body.
    #[must_use]
    pub fn errors(mut self, errors: Vec<Fault>) -> Self {
        self.errors = errors;
        self
    }

    /// Makes it one of another kind where it is of this one.
    #[must_use]
    pub(super) fn instead(mut self, of: Kind, kind: Kind) -> Self {
        if self.kind == of {
            self.kind = kind;
        }
        self
    }

    /// Returns its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Makes the response, with the request's id in it where it is known.
    pub(super) fn response(&self, request_id: Option<&str>) -> Response {
        let status = self.kind.status();
        let document = Document {
            r#type: format!("/docs#{}", self.kind.code()),
            title: self.kind.title(),
            status: status.as_u16(),
            code: self.kind.code(),
            detail: self.detail.as_deref(),
            errors: &self.errors,
            // The id needs no escapes: `super::access` takes only characters that may stand in a URN (RFC 8141).
            instance: request_id.map(|id| format!("urn:labctl:request:{id}")),
            request_id,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.kind.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some((left, seconds)) = &self.left {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
            headers.extend(rate_limit(left));
        }
        if self.kind == Kind::Unauthenticated {
            // The second one lets a browser ask its user for the token, as the password; the name is not looked at.
            headers.append(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"labctl\""),
            );
            let basic = HeaderValue::from_static("Basic realm=\"labctl\", charset=\"UTF-8\"");
            headers.append(header::WWW_AUTHENTICATE, basic);
        }
        response
    }
}

impl IntoResponse for Problem {
    /// Leaves the problem with the response, so that `super::access::log` can write it again with the request's id.
    fn into_response(self) -> Response {
        let mut response = self.response(None);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::NotFound => Self::new(Kind::NoSuchJob),
            ServiceError::Invalid(faults) => Self::new(Kind::Invalid).errors(faults),
            ServiceError::Parameter(why) => Self::new(Kind::Parameter).detail(why),
            ServiceError::KeyReused => Self::new(Kind::KeyReused),
            ServiceError::KeyInFlight => Self::new(Kind::KeyInFlight),
            ServiceError::State(why) => Self::new(Kind::State).detail(why),
            ServiceError::Changed => Self::new(Kind::Changed).detail("read it again, and then decide"),
            ServiceError::Missing(What::Schedule) => Self::new(Kind::NoSuchSchedule),
            ServiceError::Missing(What::Template) => Self::new(Kind::NoSuchTemplate),
            ServiceError::Taken(_) => Self::new(Kind::NameTaken).detail(error.to_string()),
            ServiceError::NotYours(_) => Self::new(Kind::NotYours).detail(error.to_string()),
            ServiceError::NotAdmin => Self::new(Kind::NotAdmin),
            ServiceError::Stale(_) => Self::new(Kind::Stale).detail("read it again, and then decide"),
            ServiceError::TooMany(_) => Self::new(Kind::TooMany).detail(error.to_string()),
            ServiceError::Faulty(What::Schedule, faults) => Self::new(Kind::InvalidSchedule).errors(faults),
            ServiceError::Faulty(What::Template, faults) => Self::new(Kind::InvalidTemplate).errors(faults),
            ServiceError::Arguments(faults) => Self::new(Kind::InvalidParameters).errors(faults),
            ServiceError::TooFast { after, left } => Self {
                left: Some((left, after.as_secs())),
                ..Self::new(Kind::TooFast).detail(error.to_string())
            },
            ServiceError::Full(why) => Self::new(Kind::Full).detail(why),
            ServiceError::Store(error) => from_store(error),
            ServiceError::Runner(error) => from_runner(error),
        }
    }
}

/// Returns the headers that say how much a caller has left, as the IETF's draft has them
/// (`draft-ietf-httpapi-ratelimit-headers-10`).
pub(super) fn rate_limit(left: &Left) -> [(HeaderName, HeaderValue); 2] {
    let Left { quota, jobs, whole_in } = left;
    let text = |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
    let policy = format!("\"jobs\";q={quota};w={}", WINDOW.as_secs());
    [
        (HeaderName::from_static("ratelimit-policy"), text(policy)),
        (
            HeaderName::from_static("ratelimit"),
            text(format!("\"jobs\";r={jobs};t={}", whole_in.as_secs())),
        ),
    ]
}

fn from_store(error: StoreError) -> Problem {
    let (kind, cause) = match error {
        StoreError::Unavailable(cause) => (Kind::StoreDown, cause),
        StoreError::Timeout(cause) => (Kind::StoreSlow, cause),
        StoreError::Full(cause) => (Kind::Full, cause),
        StoreError::KeyReused => return Problem::new(Kind::KeyReused),
        // Only who runs the jobs writes by a lease, and nobody waits for an answer there.
        StoreError::LeaseLost => return Problem::new(Kind::StoreDown),
        StoreError::Broken(cause) => (Kind::Internal, cause),
    };
    tracing::warn!(error = format!("{cause:#}"), code = kind.code(), "the store failed");
    match kind {
        Kind::Full => Problem::new(kind).detail(
            "the disk of the database or its --quota is full: delete jobs that have ended, start the server with --keep-for, or give it more room",
        ),
        _ => Problem::new(kind),
    }
}

fn from_runner(error: RunnerError) -> Problem {
    let (kind, cause) = match error {
        RunnerError::Unavailable(cause) => (Kind::RunnerDown, cause),
        RunnerError::Busy(cause) => (Kind::RunnerBusy, cause),
        RunnerError::Refused(why) => return Problem::new(Kind::Refused).detail(why),
        RunnerError::Unsupported(why) => return Problem::new(Kind::Unsupported).detail(why),
    };
    tracing::warn!(error = format!("{cause:#}"), code = kind.code(), "the runner failed");
    Problem::new(kind)
}

/// Returns the responses of some kinds for the description of the API: one a status, with all its codes.
pub(super) fn described(kinds: &[Kind]) -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
    let mut texts: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for kind in kinds {
        let text = format!("`{}`: {}", kind.code(), kind.title());
        texts.entry(kind.status().as_u16()).or_default().push(text);
    }
    let content = Content::new(Some(RefOr::Ref(Ref::from_schema_name("Problem"))));
    texts
        .into_iter()
        .map(|(status, texts)| {
            let response = ResponseBuilder::new()
                .description(texts.join("; "))
                .content(MEDIA_TYPE, content.clone())
                .build();
            (status.to_string(), RefOr::T(response))
        })
        .collect()
}

/// Returns the schema of a problem, for the description of the API.
pub(super) fn schema() -> (String, RefOr<utoipa::openapi::Schema>) {
    use utoipa::PartialSchema;
    ("Problem".to_owned(), Document::schema())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_can_be_part_of_an_address() {
        let mut seen = std::collections::BTreeSet::new();
        for kind in Kind::ALL {
            assert!(seen.insert(kind.code()), "{} is used twice", kind.code());
            assert!(
                kind.code().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{}",
                kind.code()
            );
            assert!(kind.status().is_client_error() || kind.status().is_server_error());
        }
    }

    #[test]
    fn what_is_inside_stays_inside() {
        let secret = || anyhow::anyhow!("postgres://u:secret@db");
        for (error, status, retry) in [
            (ServiceError::Store(StoreError::Unavailable(secret())), 503, true),
            (ServiceError::Store(StoreError::Timeout(secret())), 503, true),
            (ServiceError::Store(StoreError::Full(secret())), 507, false),
            (ServiceError::Store(StoreError::Broken(secret())), 500, false),
            (ServiceError::Runner(RunnerError::Unavailable(secret())), 503, true),
            (ServiceError::Runner(RunnerError::Busy(secret())), 503, true),
            (ServiceError::KeyInFlight, 409, true),
            (ServiceError::NotFound, 404, false),
        ] {
            let problem = Problem::from(error);
            assert!(!format!("{problem:?}").contains("secret"), "{problem:?}");
            let response = problem.response(None);
            assert_eq!(response.status().as_u16(), status, "{problem:?}");
            assert_eq!(
                response.headers().contains_key(header::RETRY_AFTER),
                retry,
                "{problem:?}"
            );
        }
    }

    #[test]
    fn a_status_lists_all_its_codes() {
        let described = described(&[Kind::Invalid, Kind::KeyReused, Kind::NoSuchJob]);
        let codes: Vec<_> = described.keys().map(String::as_str).collect();
        assert_eq!(codes, ["404", "422"]);
        let text = serde_json::to_string(&described["422"]).expect("JSON");
        assert!(
            text.contains("invalid-job") && text.contains("idempotency-key-reused"),
            "{text}"
        );
    }
}
