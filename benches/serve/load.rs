//! Requests over connections that are kept, as fast as they are answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    method: Method,
    path: String,
    accept: &'static str,
    body: Bytes,
}

impl Ask {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            accept: "*/*",
            body: Bytes::new(),
        }
    }

    pub(crate) fn post(path: &str, json: String) -> Self {
        Self {
            method: Method::POST,
            body: json.into(),
            ..Self::get(path)
        }
    }

    pub(crate) fn accept(self, accept: &'static str) -> Self {
        Self { accept, ..self }
    }

    fn request(&self, address: SocketAddr) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .header("host", address.to_string())
            .header("accept", self.accept);
        if self.method == Method::POST {
            request = request.header("content-type", "application/json");
        }
        Ok(request.body(Full::new(self.body.clone()))?)
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Asks once, over a connection of its own, and returns the body of a success.
pub(crate) async fn once(address: SocketAddr, ask: &Ask) -> Result<Bytes> {
    let response = connect(address).await?.send_request(ask.request(address)?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(
        status.is_success(),
        "{status} of {}: {}",
        ask.path,
        String::from_utf8_lossy(&body)
    );
    Ok(body)
}

/// A stream that is open.
pub(crate) struct View {
    response: Response<Incoming>,
    _sender: SendRequest<Full<Bytes>>,
}

impl View {
    /// Waits for the first part.
    pub(crate) async fn first(&mut self) -> Result<()> {
        let frame = self.response.frame().await.context("the stream ended")??;
        ensure!(frame.data_ref().is_some_and(|data| !data.is_empty()), "an empty part");
        Ok(())
    }

    /// Reads to the end.
    pub(crate) async fn drain(mut self) {
        while let Some(Ok(_)) = self.response.frame().await {}
    }
}

/// Opens a stream.
pub(crate) async fn view(address: SocketAddr, ask: &Ask) -> Result<View> {
    let mut sender = connect(address).await?;
    let response = sender.send_request(ask.request(address)?).await?;
    ensure!(response.status().is_success(), "{} of {}", response.status(), ask.path);
    Ok(View {
        response,
        _sender: sender,
    })
}

/// What was measured.
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    pub(crate) p99: Duration,
    pub(crate) failed: u64,
}

/// Who asks whom, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) warm: Duration,
    pub(crate) measured: Duration,
}

impl Load {
    pub(crate) async fn run(self, make: fn(u64) -> Ask) -> Result<Figures> {
        let (count, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let begin = Instant::now() + self.warm;
        let end = begin + self.measured;
        let mut tasks = Vec::new();
        for _ in 0..self.connections {
            let (count, failed) = (Arc::clone(&count), Arc::clone(&failed));
            let mut sender = connect(self.address).await?;
            tasks.push(tokio::spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < end {
                    let ask = make(count.fetch_add(1, Ordering::Relaxed));
                    let request = ask.request(self.address)?;
                    let start = Instant::now();
                    sender.ready().await?;
                    let response = sender.send_request(request).await?;
                    let good = response.status().is_success();
                    response.into_body().collect().await?;
                    if start < begin {
                        continue;
                    }
                    if good {
                        times.push(start.elapsed());
                    } else {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
                anyhow::Ok(times)
            }));
        }
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await??);
        }
        times.sort_unstable();
        #[expect(clippy::cast_precision_loss, reason = "a few million at most")]
        let per_second = times.len() as f64 / self.measured.as_secs_f64();
        Ok(Figures {
            per_second,
            p99: times.get(times.len() * 99 / 100).copied().unwrap_or_default(),
            failed: failed.load(Ordering::Relaxed),
        })
    }
}
