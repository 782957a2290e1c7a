//! What is answered where a request cannot be served: `application/problem+json` of RFC 9457.
//!
//! `code` is stable and what programs branch on; `title` and `detail` are for people and may change. Nothing internal
//! is ever put in here: that goes to the log, where the request id finds it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// A kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is nothing at this path.
    NotFound,
    /// There is something at this path, and it does not take this method.
    MethodNotAllowed,
    /// The body is larger than it may be.
    BodyTooLarge,
    /// The server took too long.
    Timeout,
    /// A bug.
    Internal,
}

impl Kind {
    /// Returns the status, the stable code, and the title.
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is nothing at this path"),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "This path does not take this method",
            ),
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                "The body of the request is too large",
            ),
            Self::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout", "The server took too long"),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "The server failed; its log has more under the request id",
            ),
        }
    }
}

/// An answer to a request that cannot be served.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: Kind,
    detail: Option<String>,
}

impl Problem {
    /// Makes a problem without details.
    pub fn new(kind: Kind) -> Self {
        Self { kind, detail: None }
    }

    /// Says what exactly is wrong, to the one who asked.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Makes the response, with the request's id in it where it is known.
    pub(super) fn response(&self, request_id: Option<&str>) -> Response {
        #[derive(Serialize)]
        struct Document<'a> {
            title: &'a str,
            status: u16,
            code: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            detail: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            request_id: Option<&'a str>,
        }
        let (status, code, title) = self.kind.parts();
        let document = Document {
            title,
            status: status.as_u16(),
            code,
            detail: self.detail.as_deref(),
            request_id,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (status, body).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
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
