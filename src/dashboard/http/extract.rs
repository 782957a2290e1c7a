//! What handlers take out of a request: every refusal is a problem.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::problem::{Kind, Problem};
use super::query::{Acts, AfterSeal, At, List, Log, Occurrences, Wrong};
use crate::dashboard::job::JobId;
use crate::dashboard::job::spec::{Fault, pointer};

impl From<Wrong> for Problem {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Malformed(why) => Self::new(Kind::Malformed).detail(why),
            Wrong::Parameter(why) => Self::new(Kind::Parameter).detail(why),
            Wrong::Cursor => Self::new(Kind::Cursor).detail(
                "take the `next` of the page before, with the same filter; without a cursor the list begins anew",
            ),
        }
    }
}

/// The id in the path.
#[derive(Debug, Clone, Copy)]
pub struct Id(pub JobId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::new(Kind::Malformed).detail("the path is not UTF-8"))?;
        // What cannot be an id is the id of no job.
        let id = text
            .parse()
            .map_err(|why| Problem::new(Kind::NoSuchJob).detail(format!("{why}")))?;
        Ok(Self(id))
    }
}

/// The name in the path.
#[derive(Debug, Clone)]
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::new(Kind::Malformed).detail("the path is not UTF-8"))?;
        Ok(Self(name))
    }
}

fn query(parts: &Parts) -> &str {
    parts.uri.query().unwrap_or_default()
}

impl<S: Send + Sync> FromRequestParts<S> for List {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::parse(query(parts), Timestamp::now())?)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Occurrences {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::parse(query(parts), Timestamp::now())?)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for At {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::parse(query(parts))?)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Acts {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::parse(query(parts))?)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for AfterSeal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::parse(query(parts))?)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Log {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::parse(query(parts), Timestamp::now())?)
    }
}

/// A body of JSON.
#[derive(Debug, Clone)]
pub struct Document<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Document<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Text(bytes) = Text::from_request(request, state).await?;
        document(&bytes).map(Self)
    }
}

/// A body that says it is JSON, as it was sent.
#[derive(Debug, Clone)]
pub struct Text(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(Kind::MediaType).detail("send it with `Content-Type: application/json`"));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|refused| {
            if axum::response::IntoResponse::into_response(refused).status() == StatusCode::PAYLOAD_TOO_LARGE {
                Problem::new(Kind::BodyTooLarge)
            } else {
                Problem::new(Kind::Malformed).detail("the body ended before it was whole")
            }
        })?;
        Ok(Self(bytes))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Reads a document; one that is JSON and something else is [`Kind::Invalid`].
///
/// # Errors
/// It cannot be read.
pub(super) fn document<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let pointer = pointer(error.path());
        (error.into_inner(), pointer)
    });
    let document = read.and_then(|document| match reader.end() {
        Ok(()) => Ok(document),
        Err(error) => Err((error, String::new())),
    });
    document.map_err(|(error, pointer)| {
        if !error.is_data() {
            return Problem::new(Kind::Json).detail(error.to_string());
        }
        Problem::new(Kind::Invalid).errors(vec![Fault {
            pointer,
            detail: error.to_string(),
        }])
    })
}

/// The `Idempotency-Key` of a request.
#[derive(Debug, Clone)]
pub struct IdempotencyKey(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        const NAME: HeaderName = HeaderName::from_static("idempotency-key");
        Ok(Self(single(&parts.headers, &NAME)?.map(ToOwned::to_owned)))
    }
}

/// Returns a header that may be there once.
///
/// # Errors
/// It is there twice, or it is not ASCII.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut all = headers.get_all(name).iter();
    let Some(one) = all.next() else { return Ok(None) };
    let wrong = |what: &str| Problem::new(Kind::Parameter).detail(format!("the header `{name}` {what}"));
    if all.next().is_some() {
        return Err(wrong("is given twice"));
    }
    one.to_str().map(Some).map_err(|_| wrong("is not ASCII"))
}

/// What a client says of the version that it knows.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    none_match: Vec<HeaderValue>,
    matches: Vec<HeaderValue>,
}

impl<S: Send + Sync> FromRequestParts<S> for Conditions {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let all = |name| parts.headers.get_all(name).iter().cloned().collect();
        Ok(Self {
            none_match: all(header::IF_NONE_MATCH),
            matches: all(header::IF_MATCH),
        })
    }
}

/// Returns whether a list of tags has a tag in it; a weak one is as good as a strong one where `weak`.
fn has(values: &[HeaderValue], tag: &str, weak: bool) -> bool {
    let tags = values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    tags.map(str::trim).any(|known| {
        let known = if weak { known.trim_start_matches("W/") } else { known };
        known == "*" || known == tag.trim_start_matches("W/")
    })
}

impl Conditions {
    /// Returns whether the client has what is tagged so.
    pub fn knows(&self, tag: &str) -> bool {
        has(&self.none_match, tag, true)
    }

    /// Returns whether the client asks for a job of a version at all.
    pub fn wants_version(&self) -> bool {
        !self.matches.is_empty()
    }

    /// Returns the version that the client wants to change; nothing for whatever version it is (`*`). `now` asks for the
    /// version that is there now.
    ///
    /// # Errors
    /// It is another one now, or nothing was said where it must be.
    pub(super) async fn version(
        &self,
        required: bool,
        now: impl Future<Output = Result<i64, Problem>>,
    ) -> Result<Option<i64>, Problem> {
        if self.matches.is_empty() {
            return if required {
                Err(Problem::new(Kind::Unconditional)
                    .detail("send the `ETag` that you have as `If-Match`, or `*` to overwrite whatever is there"))
            } else {
                Ok(None)
            };
        }
        let version = now.await?;
        if self.allows(version) {
            let any = self.matches.iter().any(|value| value == "*");
            Ok((!any).then_some(version))
        } else {
            Err(Problem::new(Kind::Stale).detail("read it again, and then decide"))
        }
    }

    /// Returns whether the client may change a job of this version.
    pub fn allows(&self, version: i64) -> bool {
        self.matches.is_empty() || has(&self.matches, &tag(version), false)
    }
}

/// Returns the `ETag` of a job's version.
pub(super) fn tag(version: i64) -> String {
    format!("\"{version}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::job::spec::Spec;

    fn fails(json: &str) -> (Kind, String) {
        let problem = document::<Spec>(json.as_bytes()).expect_err(json);
        (problem.kind(), format!("{problem:?}"))
    }

    #[test]
    fn what_is_wrong_in_a_body_is_told_with_its_place() {
        for (json, kind, place) in [
            ("", Kind::Json, "EOF"),
            ("{", Kind::Json, "EOF"),
            ("nul", Kind::Json, "line 1"),
            (r#"{"name": "a", "command": ["x"]} x"#, Kind::Json, "trailing"),
            ("\u{feff}{}", Kind::Json, "line 1"),
            ("[]", Kind::Invalid, "pointer: \"\""),
            ("{}", Kind::Invalid, "missing field"),
            (r#"{"name": 1}"#, Kind::Invalid, "pointer: \"/name\""),
            (
                r#"{"name": "a", "command": ["x", null]}"#,
                Kind::Invalid,
                "pointer: \"/command/1\"",
            ),
            (
                r#"{"name": "a", "command": ["x"], "env": {"a/b~": 1}}"#,
                Kind::Invalid,
                "/env/a~1b~0",
            ),
            (
                r#"{"name": "a", "command": ["x"], "limits": {"seconds": -1}}"#,
                Kind::Invalid,
                "/limits/seconds",
            ),
            (
                r#"{"name": "a", "command": ["x"], "retries": 1e99}"#,
                Kind::Invalid,
                "/retries",
            ),
            (
                r#"{"name": "a", "command": ["x"], "comand": 1}"#,
                Kind::Invalid,
                "comand",
            ),
        ] {
            let (found, text) = fails(json);
            assert_eq!(found, kind, "{json}: {text}");
            assert!(text.contains(place), "{json}: {text}");
        }
        assert_eq!(fails(&"[".repeat(100_000)).0, Kind::Invalid);
        let deep = format!(r#"{{"name": {}"#, "[".repeat(100_000));
        assert!(document::<Spec>(deep.as_bytes()).is_err());
        assert!(document::<Spec>(b"{\"name\": \"\xff\"}").is_err());
    }

    #[test]
    fn tags_are_compared_as_the_standard_says() {
        let values = |text: &'static str| vec![HeaderValue::from_static(text)];
        let known = |text| Conditions {
            none_match: values(text),
            ..Conditions::default()
        };
        for (text, expected) in [
            ("\"3\"", true),
            ("W/\"3\"", true),
            ("\"1\", \"3\"", true),
            ("*", true),
            ("\"4\"", false),
            ("3", false),
            ("", false),
        ] {
            assert_eq!(known(text).knows(&tag(3)), expected, "{text}");
        }
        let wanted = |text| Conditions {
            matches: values(text),
            ..Conditions::default()
        };
        for (text, expected) in [
            ("\"3\"", true),
            ("*", true),
            ("W/\"3\"", false),
            ("\"2\"", false),
            ("", false),
        ] {
            assert_eq!(wanted(text).allows(3), expected, "{text}");
        }
        assert!(Conditions::default().allows(3));
    }
}
