//! Who may come in: the host name, the site that a request comes from, and who asks.
//!
//! A server that trusts whoever reaches its loopback address is reached by every page that its user's browser shows.
//! Such a page can send requests here (cross-site), and under a name of its own that resolves to a loopback address it
//! could also read the answers (DNS rebinding). So the name must be a loopback one, and what changes something must
//! not come from another site.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;

use super::access::{Peer, RequestId};
use super::problem::{Kind, Problem};
use crate::dashboard::auth::Auth;
use crate::dashboard::service::{Caller, Via};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who may come in, for `check`.
#[derive(Debug, Clone)]
pub struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    auth: Auth,
    hosts: Vec<String>,
}

impl Guard {
    /// Makes one. `hosts` are host names, beside the loopback ones, under which a server without tokens is reached.
    pub fn new(auth: Auth, hosts: Vec<String>) -> Self {
        let hosts = hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect();
        Self(Arc::new(Inner { auth, hosts }))
    }

    /// Returns who asks.
    ///
    /// # Errors
    /// The request may not come in.
    pub fn admit(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Caller, Problem> {
        let host = host(uri, headers);
        // A token is not sent to a name that it was not given for, so only who needs none depends on the name.
        if self.0.auth.is_local() && !host.as_ref().is_some_and(|host| self.knows(host)) {
            let name = host.as_ref().map_or("", |host| host.as_str());
            return Err(Problem::new(Kind::Host).detail(format!(
                "`{name}` is no loopback name; where it is this server's name, run `labctl serve --host NAME`"
            )));
        }
        if changes(method) && from_elsewhere(host.as_ref(), headers) {
            return Err(Problem::new(Kind::CrossSite));
        }
        let token = token(headers);
        self.0.auth.caller(token.as_deref()).ok_or_else(|| {
            Problem::new(Kind::Unauthenticated).detail(match token {
                Some(_) => "the token is not known here",
                None => "send `Authorization: Bearer TOKEN`",
            })
        })
    }

    fn knows(&self, host: &Authority) -> bool {
        let name = host.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let address = name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
        let local = name == "localhost" || name.ends_with(".localhost");
        address || local || self.0.hosts.contains(&name)
    }
}

/// Returns under which name the server was asked: of the URI in HTTP/2, of the header in HTTP/1.1.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    if let Some(authority) = uri.authority() {
        return Some(authority.clone());
    }
    let mut all = headers.get_all(header::HOST).iter();
    let one = all.next()?.to_str().ok()?.parse().ok()?;
    all.next().is_none().then_some(one)
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Returns whether a browser says that the request comes from a page of another site. Programs say nothing.
fn from_elsewhere(host: Option<&Authority>, headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get(FETCH_SITE) {
        return site != "same-origin" && site != "none";
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    // An origin has no path; `null` is that of a page which has none.
    !origin.is_some_and(|(_, origin)| host.is_some_and(|host| host.as_str().eq_ignore_ascii_case(origin)))
}

/// Returns the token: of `Bearer`, or the password of `Basic`, which is how browsers ask for one.
fn token(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = (&value[..space], value[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = base64::engine::general_purpose::STANDARD.decode(rest).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_owned())
}

/// Lets a request in, or not, and tells the routes who asks.
pub(super) async fn check(State(guard): State<Guard>, mut request: Request, next: Next) -> Result<Response, Problem> {
    let mut caller = guard.admit(request.method(), request.uri(), request.headers())?;
    caller.via = Via {
        request_id: request.extensions().get::<RequestId>().map(|id| id.0.as_str().into()),
        ip: request.extensions().get::<Peer>().map(|peer| peer.0),
    };
    request.extensions_mut().insert(caller.clone());
    let mut response = next.run(request).await;
    response.extensions_mut().insert(Actor(caller.name));
    Ok(response)
}

/// Who asked, left with the response for the access log.
#[derive(Debug, Clone)]
pub(super) struct Actor(pub(super) String);

/// Who asks, for handlers of routes that `check` guards.
#[derive(Debug, Clone)]
pub struct By(pub Caller);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // A route outside the guard is a bug, and must not let anybody in.
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.map(Self).ok_or_else(|| Problem::new(Kind::Internal))
    }
}

/// Adds what tells browsers to be careful with whatever is served.
pub(super) async fn careful(mut response: Response) -> Response {
    const ALWAYS: [(HeaderName, &str); 4] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // With `no-referrer` a browser would also hide the origin of forms that our own pages send.
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in ALWAYS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::auth::tokens::Tokens;

    fn local(hosts: &[&str]) -> Guard {
        let caller = Caller::new("me", true);
        Guard::new(Auth::Local(caller), hosts.iter().map(ToString::to_string).collect())
    }

    fn ask(guard: &Guard, method: &str, headers: &[(&'static str, &str)]) -> Result<String, Kind> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let admitted = guard.admit(&method, &Uri::from_static("/jobs"), &map);
        admitted.map(|caller| caller.name).map_err(|problem| problem.kind())
    }

    #[test]
    fn without_tokens_only_loopback_names_are_known() {
        let guard = local(&["Lab.Example"]);
        for good in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:8080",
            "127.8.9.1",
            "[::1]:80",
            "a.localhost",
            "lab.example:1",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(ask(&guard, "GET", &[("host", good)]).is_ok(), "{good}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "0.0.0.0",
            "10.0.0.1:80",
            "",
            "a b",
            "evil.example@localhost.x",
            "xlocalhost",
            "\u{e4}",
        ] {
            assert_eq!(ask(&guard, "GET", &[("host", bad)]), Err(Kind::Host), "{bad}");
        }
        assert_eq!(ask(&guard, "GET", &[]), Err(Kind::Host));
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(ask(&guard, "GET", &two), Err(Kind::Host));
    }

    #[test]
    fn another_site_may_change_nothing() {
        let guard = local(&[]);
        let at = ("host", "localhost:8080");
        for good in [
            vec![at],
            vec![at, ("sec-fetch-site", "same-origin")],
            vec![at, ("sec-fetch-site", "none")],
            vec![at, ("origin", "http://localhost:8080")],
        ] {
            assert!(ask(&guard, "POST", &good).is_ok(), "{good:?}");
        }
        for bad in [
            vec![at, ("sec-fetch-site", "cross-site")],
            vec![at, ("sec-fetch-site", "same-site")],
            vec![
                at,
                ("sec-fetch-site", "cross-site"),
                ("origin", "http://localhost:8080"),
            ],
            vec![at, ("origin", "http://localhost:9090")],
            vec![at, ("origin", "null")],
            vec![at, ("origin", "http://evil.example")],
            vec![at, ("origin", "")],
        ] {
            for method in ["POST", "DELETE", "PUT", "PATCH", "JUNK"] {
                assert_eq!(ask(&guard, method, &bad), Err(Kind::CrossSite), "{bad:?}");
            }
            // It could not read the answer, and nothing is done.
            assert!(ask(&guard, "GET", &bad).is_ok());
        }
    }

    #[test]
    fn a_token_is_taken_as_bearer_or_as_password() {
        let tokens = Tokens::parse("ana:0123456789abcdef").expect("good");
        let guard = Guard::new(Auth::Tokens(tokens), Vec::new());
        let basic = base64::engine::general_purpose::STANDARD.encode("whoever:0123456789abcdef");
        for good in [
            "Bearer 0123456789abcdef",
            "bearer  0123456789abcdef",
            &format!("Basic {basic}"),
        ] {
            let asked = ask(&guard, "GET", &[("host", "any.example"), ("authorization", good)]);
            assert_eq!(asked.as_deref(), Ok("ana"), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer x",
            "Basic !!",
            "Basic YQ==",
            "Digest x",
            "0123456789abcdef",
        ] {
            let asked = ask(&guard, "GET", &[("authorization", bad)]);
            assert_eq!(asked, Err(Kind::Unauthenticated), "{bad}");
        }
        assert_eq!(ask(&guard, "GET", &[]), Err(Kind::Unauthenticated));
    }
}
