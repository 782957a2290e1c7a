//! The listener and its connections: HTTP/1.1 and HTTP/2 without TLS on one port, their limits, and how they end.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use super::health::{Health, Phase};
use crate::drive::port;
use crate::error::{Code, Diagnose, Diagnosis};

/// How long to wait where a connection cannot be accepted for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How many streams one HTTP/2 connection may have open.
const STREAMS: u32 = 250;

/// Why the server is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM: whoever sends requests here needs a moment to learn of it.
    Drain,
    /// SIGINT: a person at the keyboard does not want to wait.
    Now,
}

/// How the server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All requests were answered, or their time was over.
    Stopped,
    /// It was told to stop a second time, and did at once.
    Cut,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long the server serves on, being unready, after it was told to stop.
    pub drain: Duration,
    /// How long requests then have to end.
    pub finish: Duration,
    /// How long a connection may take to send the head of its next request; also how long it may be idle.
    pub head: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(5),
            finish: Duration::from_secs(20),
            head: Duration::from_secs(30),
        }
    }
}

/// Listens on an address.
///
/// # Errors
/// [`Code::PortTaken`], by whom; or the address cannot be had for another reason, such as that it is not this machine's.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error).diagnose(|| {
            Diagnosis::new(Code::PortTaken, port::taken(address.port()))
                .hint("labctl serve --listen 127.0.0.1:0 takes any free port and logs which")
        }),
        Err(error) => Err(error).with_context(|| format!("listen on {address}")),
    }
}

/// Receives SIGTERM and SIGINT as [`Stop`]s from now on.
///
/// # Errors
/// The signals cannot be handled.
pub fn signals() -> Result<mpsc::Receiver<Stop>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let stop = tokio::select! {
                Some(()) = term.recv() => Stop::Drain,
                Some(()) = int.recv() => Stop::Now,
                else => return,
            };
            if sender.send(stop).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Serves `router` until a [`Stop`] comes, then stops in this order: unready, drain, no new connections, requests
/// finish. A second [`Stop`] ends it at once, and so does the loss of the sender.
///
/// # Errors
/// The listener has no address, which only a closed one can have.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    health: Health,
    times: Times,
    mut stop: mpsc::Receiver<Stop>,
) -> Result<Ended> {
    let address = listener.local_addr().context("ask the listener for its address")?;
    let tracker = TaskTracker::new();
    let (closing, closed) = watch::channel(false);
    health.enter(Phase::Serving);
    tracing::info!(%address, "listening");

    let accepting = accept(&listener, &router, times, &tracker, &closed);
    tokio::pin!(accepting);
    let why = tokio::select! {
        () = &mut accepting => None,
        why = stop.recv() => why,
    };
    health.enter(Phase::Draining);
    let drain = if why == Some(Stop::Drain) { times.drain } else { Duration::ZERO };
    tracing::info!(drain_ms = millis(drain), "stopping; a second signal ends it at once");
    tokio::select! {
        () = tokio::time::sleep(drain) => {}
        () = &mut accepting => {}
        _ = stop.recv() => return Ok(cut(&tracker)),
    }

    drop(listener);
    _ = closing.send(true);
    tracker.close();
    tokio::select! {
        () = tracker.wait() => {}
        () = tokio::time::sleep(times.finish) => {
            tracing::warn!(connections = tracker.len(), "requests did not end in time and are cut off");
        }
        _ = stop.recv() => return Ok(cut(&tracker)),
    }
    tracing::info!("stopped");
    Ok(Ended::Stopped)
}

fn cut(tracker: &TaskTracker) -> Ended {
    tracing::warn!(connections = tracker.len(), "ended at once");
    Ended::Cut
}

async fn accept(
    listener: &TcpListener,
    router: &Router,
    times: Times,
    tracker: &TaskTracker,
    closed: &watch::Receiver<bool>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tracker.spawn(connection(stream, router.clone(), times, closed.clone()));
            }
            // The peer went away before it was accepted, or there is no descriptor for it: neither ends the server.
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection until its peer closes it, it breaks a limit, or the server stops.
async fn connection(stream: TcpStream, router: Router, times: Times, mut closed: watch::Receiver<bool>) {
    // Answers are small and written whole; waiting to fill a packet only delays them.
    _ = stream.set_nodelay(true);
    // hyper's limit for heads begins with the first byte, so a connection that sends none would stay for ever.
    let spoke = tokio::select! {
        peeked = tokio::time::timeout(times.head, stream.peek(&mut [0])) => matches!(peeked, Ok(Ok(1..))),
        _ = closed.wait_for(|closed| *closed) => false,
    };
    if !spoke {
        return;
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(times.head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(times.head))
        .max_concurrent_streams(STREAMS);
    let service = TowerToHyperService::new(router);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        _ = closed.wait_for(|closed| *closed) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // Junk, a limit, or a peer that went away: worth a line to who looks for a fault, and to nobody else.
        tracing::debug!(error, "a connection ended badly");
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
