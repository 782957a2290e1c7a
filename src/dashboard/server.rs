//! The listener and its connections: HTTP/1.1 and HTTP/2 without TLS on one port, their limits, and how they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::health::{Health, Phase};
use super::http::access::Peer;
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
/// `closing` is cancelled when requests are to finish: answers that would go on for ever end then.
///
/// # Errors
/// The listener has no address, which only a closed one can have.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    health: Health,
    times: Times,
    closing: CancellationToken,
    mut stop: mpsc::Receiver<Stop>,
) -> Result<Ended> {
    let address = listener.local_addr().context("ask the listener for its address")?;
    let tracker = TaskTracker::new();
    health.enter(Phase::Serving);
    tracing::info!(%address, "listening");

    // It owns the listener: once it is dropped, nothing can connect.
    let mut accepting = Box::pin(accept(listener, router, times, tracker.clone(), closing.clone()));
    let why = tokio::select! {
        () = &mut accepting => None,
        why = stop.recv() => why,
    };
    health.enter(Phase::Draining);
    let drain = if why == Some(Stop::Drain) {
        times.drain
    } else {
        Duration::ZERO
    };
    tracing::info!(drain_ms = millis(drain), "stopping; a second signal ends it at once");
    tokio::select! {
        () = tokio::time::sleep(drain) => {}
        () = &mut accepting => {}
        _ = stop.recv() => return Ok(cut(&tracker)),
    }

    drop(accepting);
    closing.cancel();
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

async fn accept(listener: TcpListener, router: Router, times: Times, tracker: TaskTracker, closing: CancellationToken) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let peer = Peer(peer.ip());
                tracker.spawn(connection(stream, peer, router.clone(), times, closing.clone()));
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
async fn connection(stream: TcpStream, peer: Peer, router: Router, times: Times, closing: CancellationToken) {
    // Answers are small and written whole; waiting to fill a packet only delays them.
    _ = stream.set_nodelay(true);
    // A client that was cut off the network says nothing; without this its streams would be kept for ever.
    _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(times.head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(times.head))
        .max_concurrent_streams(STREAMS);
    let begun = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&begun);
    let service = TowerToHyperService::new(router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        seen.store(true, Ordering::Relaxed);
        request
    }));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    // hyper's own limit begins where it is known which HTTP is spoken, so a connection that does not say so would stay
    // for ever.
    let first = async {
        tokio::time::sleep(times.head).await;
        if begun.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = first => return,
        () = closing.cancelled() => {
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::dashboard::http::{self, App, Limits};

    const QUICK: Times = Times {
        drain: Duration::ZERO,
        finish: Duration::from_secs(5),
        head: Duration::from_secs(5),
    };

    struct Running {
        address: SocketAddr,
        stop: mpsc::Sender<Stop>,
        server: JoinHandle<Result<Ended>>,
    }

    /// Runs a server with a route `/slow` that answers after 300 ms, and one that never does.
    async fn run(times: Times) -> Running {
        let listener = listen("127.0.0.1:0".parse().expect("an address"))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let health = Health::default();
        let app = App {
            health: health.clone(),
            limits: Limits::default(),
            api: None,
        };
        let router = http::router(app)
            .route(
                "/slow",
                get(|| async {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    "slow and whole"
                }),
            )
            .route("/never", get(std::future::pending::<()>));
        let (stop, receiver) = mpsc::channel(4);
        let server = tokio::spawn(serve(
            listener,
            router,
            health,
            times,
            CancellationToken::new(),
            receiver,
        ));
        Running { address, stop, server }
    }

    async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(bytes).await.expect("sent");
        stream
    }

    async fn read_all(mut stream: TcpStream) -> String {
        let mut bytes = Vec::new();
        // A connection that is reset was closed as well.
        _ = stream.read_to_end(&mut bytes).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn get_once(address: SocketAddr, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        read_all(send(address, request.as_bytes()).await).await
    }

    #[tokio::test]
    async fn a_request_in_flight_is_finished_and_nothing_new_is_taken() {
        let running = run(QUICK).await;
        let slow = send(running.address, b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let idle = send(running.address, b"").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let asked = Instant::now();
        running.stop.send(Stop::Drain).await.expect("told");
        let answer = read_all(slow).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.ends_with("slow and whole"), "{answer}");
        assert_eq!(read_all(idle).await, "", "an idle connection is closed");
        assert_eq!(running.server.await.expect("no panic").expect("ran"), Ended::Stopped);
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
        TcpStream::connect(running.address).await.expect_err("nobody listens");
    }

    #[tokio::test]
    async fn while_draining_the_server_is_unready_and_still_serves() {
        let running = run(Times {
            drain: Duration::from_millis(600),
            ..QUICK
        })
        .await;
        assert!(get_once(running.address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let asked = Instant::now();
        running.stop.send(Stop::Drain).await.expect("told");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let readiness = get_once(running.address, "/readyz").await;
        assert!(readiness.starts_with("HTTP/1.1 503"), "{readiness}");
        assert!(readiness.contains("draining"), "{readiness}");
        assert!(get_once(running.address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get_once(running.address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert_eq!(running.server.await.expect("no panic").expect("ran"), Ended::Stopped);
        assert!(asked.elapsed() >= Duration::from_millis(600));
    }

    #[tokio::test]
    async fn a_person_does_not_wait_for_the_drain() {
        let running = run(Times {
            drain: Duration::from_secs(60),
            ..QUICK
        })
        .await;
        let asked = Instant::now();
        running.stop.send(Stop::Now).await.expect("told");
        assert_eq!(running.server.await.expect("no panic").expect("ran"), Ended::Stopped);
        assert!(asked.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_second_signal_ends_the_drain_and_the_wait_for_requests() {
        for drain in [Duration::from_secs(60), Duration::ZERO] {
            let running = run(Times {
                drain,
                finish: Duration::from_secs(60),
                ..QUICK
            })
            .await;
            let never = send(running.address, b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
            running.stop.send(Stop::Drain).await.expect("told");
            tokio::time::sleep(Duration::from_millis(50)).await;
            running.stop.send(Stop::Drain).await.expect("told again");
            assert_eq!(running.server.await.expect("no panic").expect("ran"), Ended::Cut);
            drop(never);
        }
    }

    #[tokio::test]
    async fn a_request_that_never_ends_holds_the_server_for_a_limited_time() {
        let running = run(Times {
            finish: Duration::from_millis(100),
            ..QUICK
        })
        .await;
        let never = send(running.address, b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        running.stop.send(Stop::Drain).await.expect("told");
        assert_eq!(running.server.await.expect("no panic").expect("ran"), Ended::Stopped);
        drop(never);
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_or_half_a_head_is_closed() {
        let running = run(Times {
            head: Duration::from_millis(100),
            ..QUICK
        })
        .await;
        for bytes in ["", "G", "PRI * HTTP/2.0\r\n", "GET /healthz HTTP/1.1\r\nhost: x\r\n"] {
            let stream = send(running.address, bytes.as_bytes()).await;
            let closed = tokio::time::timeout(Duration::from_secs(3), read_all(stream)).await;
            let answer = closed.unwrap_or_else(|_| panic!("{bytes:?} is kept open"));
            assert!(!answer.contains(" 5"), "{bytes:?}: {answer}");
        }
    }

    #[tokio::test]
    async fn junk_is_refused_and_harms_nobody() {
        let running = run(QUICK).await;
        let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000));
        let heads = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
        let large = format!("GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "b".repeat(600_000));
        let junk: [&[u8]; 12] = [
            b"\0\0\0\0\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"GET / HTTP/1.1\r\nx-request-id: \x01\r\n\r\n",
            long.as_bytes(),
            heads.as_bytes(),
            large.as_bytes(),
        ];
        for bytes in junk {
            let mut stream = TcpStream::connect(running.address).await.expect("connected");
            // The server may close before it has read all of it.
            _ = stream.write_all(bytes).await;
            _ = stream.shutdown().await;
            let answer = tokio::time::timeout(Duration::from_secs(5), read_all(stream))
                .await
                .expect("closed");
            assert!(!answer.starts_with("HTTP/1.1 5"), "{answer}");
        }
        assert!(get_once(running.address, "/healthz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_taken_port_names_its_holder_and_a_way_out() {
        let held = listen("127.0.0.1:0".parse().expect("an address"))
            .await
            .expect("a port");
        let address = held.local_addr().expect("an address");
        let error = listen(address).await.expect_err("it is taken");
        let text = crate::error::render(&error);
        assert!(text.starts_with("error[LAB-ENV-010]: port "), "{text}");
        assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
        assert!(text.contains("hint: labctl serve --listen 127.0.0.1:0"), "{text}");
        let elsewhere = listen("192.0.2.1:80".parse().expect("an address"))
            .await
            .expect_err("that address is for documentation");
        assert!(crate::error::render(&elsewhere).contains("listen on 192.0.2.1:80"));
    }
}
