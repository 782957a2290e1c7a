//! One line a request in the log, an id that ties request, response and log together, and a net under panics.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::Instrument;

use super::guard::Actor;
use super::problem::{Kind, Problem};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long an id that is sent to us may be, in bytes.
const ID_BYTES: usize = 128;
/// How much of a path is logged, in bytes.
const PATH_BYTES: usize = 256;

/// The id of a request, for handlers that want to log or return it.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// The address of the other end of a request's connection: of the client, or of the last proxy before this server.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Gives the request its id, serves it, logs it.
///
/// The query is not logged: people put secrets there.
pub(super) async fn log(mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = sent_id(request.headers()).unwrap_or_else(made_id);
    let method = request.method().clone();
    let path = shortened(request.uri().path());
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.to_canonical());
    request.extensions_mut().insert(RequestId(id.clone()));

    let span = tracing::info_span!("request", request_id = %id);
    let served = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span);
    let mut response = served.await.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(request_id = %id, panic = text, "a handler panicked");
        Problem::new(Kind::Internal).into_response()
    });

    let actor = response.extensions_mut().remove::<Actor>();
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let allow = response.headers_mut().remove(header::ALLOW);
        response = problem.response(Some(&id));
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    tracing::info!(
        method = %method,
        path,
        actor = actor.map(|actor| actor.0),
        remote_ip = peer.map(tracing::field::display),
        status = response.status().as_u16(),
        duration_ms = (start.elapsed().as_secs_f64() * 1e6).round() / 1e3,
        request_id = %id,
        "request"
    );
    response
}

/// Returns the id that came with the request, where it is one that may go into logs and headers as it is.
fn sent_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let sane = (1..=ID_BYTES).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte));
    sane.then(|| id.to_owned())
}

/// Makes an id that no other request of this or another server has: 16 hexadecimal digits.
///
/// A counter through a hash with random keys of this process: it tells nothing of how many requests there were. It is
/// a name and not a secret.
fn made_id() -> String {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{:016x}", KEYS.hash_one(COUNT.fetch_add(1, Ordering::Relaxed)))
}

fn shortened(path: &str) -> String {
    let mut end = path.len().min(PATH_BYTES);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    path[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ids_differ_and_would_be_accepted() {
        let ids: std::collections::BTreeSet<_> = (0..1000).map(|_| made_id()).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(&id).expect("a header value"));
            assert_eq!(sent_id(&headers), Some(id));
        }
    }

    #[test]
    fn a_path_is_cut_between_characters() {
        assert_eq!(shortened("/a"), "/a");
        let long = format!("/{}", "é".repeat(200));
        assert_eq!(shortened(&long).len(), 255);
    }
}
