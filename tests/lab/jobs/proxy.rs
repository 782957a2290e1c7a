//! A bad network between a dashboard and its API server: a proxy that passes everything on, or throttles, cuts, forgets,
//! or takes everything and says nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use http::StatusCode;
use http_body_util::BodyExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tokio::sync::watch;

/// How it treats what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Everything is passed on.
    Pass,
    /// Every request is answered with 429.
    Throttle,
    /// Every watch is answered with 410: what it wants to go on from is too old.
    Forget,
    /// Nothing is answered, and what was open says nothing any more, for good.
    Mute,
}

/// See the module.
pub(super) struct Proxy {
    address: SocketAddr,
    /// The mode, and how often everything open was cut.
    mode: watch::Sender<(Mode, u64)>,
    asked: Arc<AtomicU64>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Clone)]
struct Shared {
    client: kube::Client,
    mode: watch::Receiver<(Mode, u64)>,
    asked: Arc<AtomicU64>,
}

impl Proxy {
    /// Stands before the API server of a kubeconfig, with its credentials.
    pub(super) async fn before(kubeconfig: &Path) -> Result<Self> {
        labctl::world::install_crypto();
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?;
        config.proxy_url = None;
        config.read_timeout = None;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mode, receiver) = watch::channel((Mode::Pass, 0));
        let asked = Arc::new(AtomicU64::new(0));
        let shared = Shared {
            client: kube::Client::try_from(config)?,
            mode: receiver,
            asked: Arc::clone(&asked),
        };
        let router = Router::new().fallback(pass).with_state(shared);
        let server = tokio::spawn(async move {
            _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            mode,
            asked,
            server,
        })
    }

    /// Writes a kubeconfig that leads here.
    pub(super) fn kubeconfig(&self, dir: &Path, namespace: &str) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": namespace}}],
            "clusters": [{"name": "a", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "a", "user": {}}],
        });
        let path = dir.join("proxied");
        labctl::drive::files::write_secret(&path, config.to_string())?;
        Ok(path)
    }

    /// Treats what comes from now on in another way.
    pub(super) fn set(&self, mode: Mode) {
        self.mode.send_modify(|now| now.0 = mode);
    }

    /// Cuts everything that is open.
    pub(super) fn cut(&self) {
        self.mode.send_modify(|now| now.1 += 1);
    }

    /// Returns how many requests came so far.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

fn refusal(code: u16, reason: &str, message: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": message});
    let code = StatusCode::from_u16(code).expect("a code");
    (code, [("retry-after", "1")], axum::Json(status)).into_response()
}

async fn pass(State(mut shared): State<Shared>, request: Request) -> Response {
    shared.asked.fetch_add(1, Ordering::Relaxed);
    let (mode, cuts) = *shared.mode.borrow_and_update();
    let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    match mode {
        Mode::Mute => return std::future::pending().await,
        Mode::Throttle => return refusal(429, "TooManyRequests", "the server has received too many requests"),
        Mode::Forget if watches => return refusal(410, "Expired", "too old resource version"),
        Mode::Pass | Mode::Forget => {}
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("readable").to_bytes();
    let mut onward = http::Request::new(kube::client::Body::from(body.to_vec()));
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = parts
        .uri
        .path_and_query()
        .expect("a path")
        .as_str()
        .parse()
        .expect("an address");
    for name in [http::header::CONTENT_TYPE, http::header::ACCEPT] {
        if let Some(value) = parts.headers.get(&name) {
            onward.headers_mut().insert(name, value.clone());
        }
    }
    let answer = match shared.client.send(onward).await {
        Ok(answer) => answer,
        Err(error) => return refusal(503, "ServiceUnavailable", &error.to_string()),
    };
    let (parts, body) = answer.into_parts();
    let frames = futures_util::stream::unfold((body.into_data_stream(), shared.mode, cuts), move |state| async move {
        let (mut body, mut mode, cuts) = state;
        loop {
            tokio::select! {
                frame = body.next() => {
                    let frame = frame?.map_err(|error| std::io::Error::other(error.to_string()));
                    return Some((frame, (body, mode, cuts)));
                }
                changed = mode.changed() => {
                    let now = *mode.borrow_and_update();
                    if changed.is_err() || now.1 != cuts {
                        return Some((Err(std::io::Error::other("cut")), (body, mode, now.1)));
                    }
                    if now.0 == Mode::Mute {
                        return std::future::pending().await;
                    }
                }
            }
        }
    });
    let mut out = Response::new(Body::from_stream(frames));
    *out.status_mut() = parts.status;
    if let Some(kind) = parts.headers.get(http::header::CONTENT_TYPE) {
        out.headers_mut().insert(http::header::CONTENT_TYPE, kind.clone());
    }
    out
}
