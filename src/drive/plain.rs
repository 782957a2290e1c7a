//! Plain HTTP, where neither a CA bundle nor a proxy may be needed: one GET, and all of its answer.
//!
//! [`super::dashboard`] cannot be used in an image that has nothing but labctl: its client wants certificates to trust.
//! Here no redirect is followed, and nothing of the environment is looked at.

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How many bytes an answer may have: it is kept in memory.
const BODY_BYTES: usize = 16 << 20;

/// Reads a URL that can be asked here.
///
/// # Errors
/// It is none, or not one of plain HTTP with a host.
pub fn url(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
        return Err("it must begin with http:// and a host".to_owned());
    }
    // `Uri` takes any text of this form; a port that is none would be passed over, and another one be asked.
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err("it must not have a user or password in it".to_owned());
    }
    if authority
        .rsplit_once(']')
        .map_or(authority, |(_, rest)| rest)
        .contains(':')
        && uri.port_u16().is_none()
    {
        return Err("its port must be a number up to 65535".to_owned());
    }
    Ok(uri)
}

/// Gets a URL, and returns the status and the whole body of the answer. How long that may take is the caller's to say.
///
/// # Errors
/// Nobody listens, or what answers breaks off, is no HTTP, or is too long.
pub async fn get(url: &Uri) -> Result<(StatusCode, Bytes)> {
    // `Uri` keeps the brackets of an IPv6 address, which the resolver does not want.
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, url.port_u16().unwrap_or(80)))
        .await
        .with_context(|| format!("connect to {host}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(url.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", url.authority().map_or("", |authority| authority.as_str()))
        .header("user-agent", concat!("labctl/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())?;
    let asking = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        // The whole answer, so that one that breaks off is not taken for a good one.
        let body = Limited::new(answer.into_body(), BODY_BYTES).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?;
        anyhow::Ok((status, body.to_bytes()))
    };
    tokio::pin!(asking);
    tokio::select! {
        answer = &mut asking => answer.context("talk HTTP"),
        // The connection ends by itself once it was answered; what was read of it is with the request.
        ended = connection => {
            ended.context("talk HTTP")?;
            asking.await.context("talk HTTP")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_asked_is_taken() {
        for good in [
            "http://job-dashboard:80/readyz",
            "http://[::1]:8080",
            "http://[::1]",
            "http://127.0.0.1",
        ] {
            assert!(url(good).is_ok(), "{good}");
        }
        for bad in [
            "https://x/",
            "x/readyz",
            "http://",
            "",
            "http:// /",
            "/readyz",
            "http://u:p@x/",
            "http://x:99999/",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
