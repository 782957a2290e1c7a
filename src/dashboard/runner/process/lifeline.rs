//! What ties a keeper to its server: as long as it holds, the job runs; when it breaks, the keeper ends the job.
//!
//! It begins as the keeper's standard input and output. A server that is stopped says so first ([`Order::Leave`]); then
//! the keeper goes on alone and waits at a socket in the job's directory, the door, for the next server. From then on
//! that connection is the lifeline. A server that is killed says nothing, so none of its jobs goes on: what nobody
//! answers for must not run.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};

use super::end::Why;
use super::keeper::{OUTPUT, RECORD};
use super::place::Order;

/// The socket's name in the job's directory.
pub(super) const DOOR: &str = "door";

type Orders = Lines<BufReader<Box<dyn AsyncRead + Send + Unpin>>>;

/// Where the keeper rings.
enum Bell {
    Pipe(pipe::Sender),
    Socket(OwnedWriteHalf),
}

/// The keeper's end of it.
pub(super) struct Lifeline {
    orders: Option<Orders>,
    bell: Option<Bell>,
    /// Nothing where it could not be made: then the job ends with its server.
    door: Option<UnixListener>,
    left: bool,
}

impl Lifeline {
    /// Takes standard input and output, which a server holds, and opens the door in the directory that this process is
    /// in. Returns the first line too, which has the instructions.
    pub(super) async fn take() -> Result<(Self, String)> {
        let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        let input = pipe::Receiver::from_owned_fd(input).context("labctl job-keeper reads from a pipe")?;
        let bell = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
        let bell = pipe::Sender::from_owned_fd(bell).context("labctl job-keeper writes to a pipe")?;
        let mut orders = BufReader::new(Box::new(input) as Box<dyn AsyncRead + Send + Unpin>).lines();
        let first = orders.next_line().await?.context("there are no instructions")?;
        // An earlier keeper of the job may have left one.
        _ = std::fs::remove_file(DOOR);
        let lifeline = Self {
            orders: Some(orders),
            bell: Some(Bell::Pipe(bell)),
            door: UnixListener::bind(DOOR).ok(),
            left: false,
        };
        Ok((lifeline, first))
    }

    /// Rings: a full pipe says that the server has not come to listen yet; an end of it is noticed at the orders.
    pub(super) fn ring(&self, what: u8) {
        match &self.bell {
            Some(Bell::Pipe(pipe)) => _ = pipe.try_write(&[what]),
            Some(Bell::Socket(socket)) => _ = socket.try_write(&[what]),
            None => {}
        }
    }

    /// Waits for an order that ends the job, or for the end of the server; that it is gone is said once. May be dropped
    /// while it waits.
    pub(super) async fn told(&mut self) -> Why {
        loop {
            if let Some(orders) = &mut self.orders {
                let line = orders.next_line().await.ok().flatten();
                match line.as_deref().map(Order::parse) {
                    Some(Some(Order::End)) => return Why::Asked,
                    Some(Some(Order::Hold)) => return Why::Held,
                    Some(Some(Order::Stop)) => return Why::ServerStopped,
                    Some(Some(Order::Leave)) => self.left = self.door.is_some(),
                    // What a newer server says.
                    Some(None) => {}
                    None => {
                        self.orders = None;
                        self.bell = None;
                        if !self.left {
                            return Why::ServerLost;
                        }
                    }
                }
            } else if let Some(door) = &self.door
                && self.left
            {
                let Ok((server, _)) = door.accept().await else {
                    return Why::ServerLost;
                };
                let (orders, bell) = server.into_split();
                self.orders = Some(BufReader::new(Box::new(orders) as Box<dyn AsyncRead + Send + Unpin>).lines());
                // Whatever is new since it looked.
                _ = bell.try_write(&[OUTPUT, RECORD]);
                self.bell = Some(Bell::Socket(bell));
                self.left = false;
            } else {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Takes up the job of a directory, whose keeper an earlier server left. A keeper that is about to end takes the
/// connection with it.
///
/// # Errors
/// There is no keeper. To be called within a runtime.
pub(super) fn take_up(dir: &Path) -> std::io::Result<UnixStream> {
    let stream = connect(dir)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// A socket's address has about 100 bytes, and a directory's name may have more.
#[cfg(target_os = "linux")]
fn connect(dir: &Path) -> std::io::Result<StdUnixStream> {
    use std::os::fd::AsRawFd as _;
    let dir = std::fs::File::open(dir)?;
    StdUnixStream::connect(format!("/proc/self/fd/{}/{DOOR}", dir.as_raw_fd()))
}

#[cfg(not(target_os = "linux"))]
fn connect(dir: &Path) -> std::io::Result<StdUnixStream> {
    StdUnixStream::connect(dir.join(DOOR))
}
