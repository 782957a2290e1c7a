//! Lines between servers: one runs the jobs, and viewers of the others see its lines as they come.
//!
//! A server whose viewers wait for a job says so on a wire, and again every second; the server that reads the job's
//! output sends what is new for as long as somebody says so. What arrives goes into the hub, where viewers find it as if
//! the job were read here. So a job that nobody watches elsewhere costs nothing.
//!
//! A wire may lose anything: every line is in the store half a second later, and viewers read it there. No wire is the
//! same with more patience.

pub mod redis;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use super::hub::{Feed, Found, Hub};
use super::{Chunk, Line};
use crate::dashboard::job::JobId;

/// How often a server says for which jobs it has viewers.
const RENEW: Duration = Duration::from_secs(1);
/// How long a server sends to one that says so no more.
const INTEREST: Duration = Duration::from_secs(4);
/// After how long without a word nothing is expected of the other server any more: viewers read the store.
const SILENCE: Duration = Duration::from_secs(4);
/// How many bytes of lines are packed at once.
const READ_BYTES: usize = 128 << 10;
/// How many messages a receiver may be behind.
pub(crate) const WAITING: usize = 1024;

/// What carries messages to all servers, this one too.
#[async_trait]
pub trait Wire: Send + Sync {
    /// Returns how many bytes a message may have.
    fn limit(&self) -> usize;

    /// Sends a message.
    ///
    /// # Errors
    /// It cannot be sent now. It may be lost without an error as well.
    async fn send(&self, message: &str) -> Result<()>;

    /// Returns what is sent from now on, by whomever.
    fn heard(&self) -> broadcast::Receiver<Arc<str>>;
}

/// What servers say to each other, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Message {
    /// Somebody waits for lines of a job, from this one on; from the oldest that is at hand where it is 0.
    Want { id: JobId, from: u64 },
    /// The job is read, and this is its newest line.
    Alive { id: JobId, newest: u64 },
    /// Lines of a job.
    Lines { id: JobId, chunk: Chunk },
    /// The job is read no more.
    Over { id: JobId },
}

impl Message {
    fn write(&self) -> String {
        match self {
            Self::Want { id, from } => format!("w {id} {from}"),
            Self::Alive { id, newest } => format!("a {id} {newest}"),
            Self::Lines { id, chunk } => {
                let Chunk {
                    first, lines, bytes, ..
                } = chunk;
                format!("l {id} {first} {lines} {bytes} {}", BASE64.encode(&chunk.data))
            }
            Self::Over { id } => format!("e {id}"),
        }
    }

    /// Reads a message; nothing where it is none, or one that a newer labctl wrote.
    fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let kind = words.next()?;
        let id = words.next()?.parse().ok()?;
        let mut number = || words.next()?.parse().ok();
        let message = match kind {
            "w" => Self::Want { id, from: number()? },
            "a" => Self::Alive { id, newest: number()? },
            "l" => Self::Lines {
                id,
                chunk: Chunk {
                    first: number().filter(|first| *first > 0)?,
                    lines: number()?,
                    bytes: number()?,
                    position: String::new(),
                    data: BASE64.decode(words.next()?).ok()?,
                },
            },
            "e" => Self::Over { id },
            _ => return None,
        };
        words.next().is_none().then_some(message)
    }
}

/// Who elsewhere waits for a job's lines.
struct Interest {
    until: Mutex<Instant>,
    /// From which line on they are sent again; `u64::MAX` where nothing was asked for since.
    from: AtomicU64,
    /// The wire on which it was said last: it works in both directions.
    wire: AtomicUsize,
    asked: AtomicBool,
    rung: Notify,
}

/// A job that another server reads, as it is here.
struct Mirror {
    feed: Feed,
    heard: Instant,
}

struct Inner {
    hub: Hub,
    wires: Vec<Arc<dyn Wire>>,
    mirrors: Mutex<BTreeMap<JobId, Mirror>>,
    interests: Mutex<BTreeMap<JobId, Arc<Interest>>>,
}

/// See the module; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Relay(Arc<Inner>);

impl Relay {
    /// Puts it together; the first wire that works is used.
    pub fn new(hub: Hub, wires: Vec<Arc<dyn Wire>>) -> Self {
        Self(Arc::new(Inner {
            hub,
            wires,
            mirrors: Mutex::default(),
            interests: Mutex::default(),
        }))
    }

    /// Works until it is dropped.
    pub async fn run(&self) {
        if self.0.wires.is_empty() {
            return std::future::pending().await;
        }
        let listening = (0..self.0.wires.len()).map(|wire| self.listen(wire));
        tokio::join!(futures_util::future::join_all(listening), self.renew());
    }

    fn mirrors(&self) -> MutexGuard<'_, BTreeMap<JobId, Mirror>> {
        self.0.mirrors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interests(&self) -> MutexGuard<'_, BTreeMap<JobId, Arc<Interest>>> {
        self.0.interests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says for which jobs viewers here wait, and lets go of those that nobody waits for or tells of.
    async fn renew(&self) {
        let mut asked: BTreeMap<JobId, Instant> = BTreeMap::new();
        loop {
            let wanted = self.0.hub.wanted();
            let leads = self.0.hub.leads();
            self.mirrors()
                .retain(|id, mirror| !leads && wanted.contains(id) && mirror.heard.elapsed() < SILENCE);
            asked.retain(|id, at| wanted.contains(id) && at.elapsed() < RENEW);
            if !leads {
                for id in wanted {
                    if asked.contains_key(&id) {
                        continue;
                    }
                    asked.insert(id, Instant::now());
                    let from = self.mirrors().get(&id).map_or(0, |mirror| mirror.feed.newest() + 1);
                    self.say(&Message::Want { id, from }).await;
                }
            }
            _ = tokio::time::timeout(RENEW / 2, self.0.hub.until_wanted()).await;
        }
    }

    /// Sends a message on the first wire that takes it.
    async fn say(&self, message: &Message) {
        let text = message.write();
        for wire in &self.0.wires {
            match wire.send(&text).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(error = format!("{error:#}"), "a message to other servers was not sent"),
            }
        }
    }

    async fn listen(&self, wire: usize) {
        let mut heard = self.0.wires[wire].heard();
        loop {
            match heard.recv().await {
                Ok(text) => {
                    if let Some(message) = Message::read(&text) {
                        self.take(wire, message);
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn take(&self, wire: usize, message: Message) {
        if let Message::Want { id, from } = message {
            if self.0.hub.leads() {
                self.serve(wire, id, from);
            }
            return;
        }
        if self.0.hub.leads() {
            return;
        }
        match message {
            Message::Lines { id, chunk } if self.0.hub.is_wanted(id) => self.mirror(id, &chunk),
            Message::Alive { id, .. } => {
                if let Some(mirror) = self.mirrors().get_mut(&id) {
                    mirror.heard = Instant::now();
                }
            }
            Message::Over { id } => _ = self.mirrors().remove(&id),
            Message::Lines { .. } | Message::Want { .. } => {}
        }
    }

    /// Puts lines of another server into the hub.
    fn mirror(&self, id: JobId, chunk: &Chunk) {
        let lines = match chunk.unpack() {
            Ok(lines) => lines,
            Err(error) => {
                tracing::warn!(job_id = %id, error = format!("{error:#}"), "another server sent what is no part of a log");
                return;
            }
        };
        let mut mirrors = self.mirrors();
        let heard = Instant::now();
        let mirror = match mirrors.entry(id) {
            Entry::Occupied(place) => place.into_mut(),
            Entry::Vacant(place) => {
                let Some(feed) = self.0.hub.feed(id, chunk.first - 1) else {
                    return;
                };
                place.insert(Mirror { feed, heard })
            }
        };
        mirror.heard = heard;
        if chunk.first > mirror.feed.newest() + 1 {
            // What was lost is in the store.
            mirror.feed.skip(chunk.first - 1);
        }
        mirror.feed.push(lines);
        // Or will be in a moment: nobody here has to keep it for that.
        mirror.feed.stored(mirror.feed.newest());
    }

    /// Takes notice that somebody elsewhere waits for a job's lines.
    fn serve(&self, wire: usize, id: JobId, from: u64) {
        let mut interests = self.interests();
        let until = Instant::now() + INTEREST;
        if let Some(interest) = interests.get(&id) {
            *interest.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
            interest.from.fetch_min(from, Ordering::Relaxed);
            interest.wire.store(wire, Ordering::Relaxed);
            interest.asked.store(true, Ordering::Relaxed);
            interest.rung.notify_one();
            return;
        }
        let interest = Arc::new(Interest {
            until: Mutex::new(until),
            from: AtomicU64::new(from),
            wire: AtomicUsize::new(wire),
            asked: AtomicBool::new(true),
            rung: Notify::new(),
        });
        interests.insert(id, Arc::clone(&interest));
        drop(interests);
        let relay = self.clone();
        tokio::spawn(async move {
            relay.publish(id, &interest).await;
            relay.interests().remove(&id);
        });
    }

    /// Sends a job's lines as long as somebody waits for them.
    async fn publish(&self, id: JobId, interest: &Interest) {
        // Nothing was sent yet.
        let mut next = u64::MAX;
        let hub = &self.0.hub;
        loop {
            let until = *interest.until.lock().unwrap_or_else(PoisonError::into_inner);
            if Instant::now() >= until || !hub.leads() {
                return;
            }
            let Some(mut tap) = hub.tap(id) else {
                // It has not begun, or is between two rounds of its reader.
                _ = tokio::time::timeout_at(until, hub.dawn(id).wait()).await;
                continue;
            };
            let wire = &self.0.wires[interest.wire.load(Ordering::Relaxed)];
            let asked = interest.from.swap(u64::MAX, Ordering::Relaxed);
            // Whoever has nothing yet gets what is at hand; whoever lost something gets it again.
            next = match next.min(asked) {
                u64::MAX => tap.oldest(),
                from => from.max(tap.oldest()),
            };
            match tap.read(next, READ_BYTES) {
                Found::Lines(lines) if !lines.is_empty() => {
                    interest.asked.store(false, Ordering::Relaxed);
                    next = lines.last().map_or(next, |line| line.number + 1);
                    if let Err(error) = send_lines(&**wire, id, &lines).await {
                        tracing::debug!(job_id = %id, error = format!("{error:#}"), "lines were not sent to other servers");
                    }
                }
                Found::Lines(_) => {
                    if interest.asked.swap(false, Ordering::Relaxed) {
                        let newest = tap.reach().newest;
                        _ = wire.send(&Message::Alive { id, newest }.write()).await;
                    }
                    let ended = tokio::select! {
                        reach = tap.wait(next) => reach.ended,
                        () = interest.rung.notified() => false,
                        () = tokio::time::sleep_until(until) => false,
                    };
                    if ended {
                        _ = wire.send(&Message::Over { id }.write()).await;
                        // The next round begins where its ring does.
                        next = u64::MAX;
                    }
                }
                // It left the ring just now.
                Found::Stored => tokio::task::yield_now().await,
            }
        }
    }
}

/// Sends lines in as many messages as they need. A line that is too long for the wire is left out: it is in the store.
async fn send_lines(wire: &dyn Wire, id: JobId, lines: &[Line]) -> Result<()> {
    let mut left = vec![lines];
    while let Some(lines) = left.pop() {
        let chunk = Chunk::pack(lines, "")?;
        let text = Message::Lines { id, chunk }.write();
        if text.len() <= wire.limit() {
            wire.send(&text).await?;
        } else if lines.len() > 1 {
            let (first, second) = lines.split_at(lines.len() / 2);
            left.push(second);
            left.push(first);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::Stream;
    use super::*;

    /// A wire between the servers of one process, which can be cut.
    struct Local {
        sender: broadcast::Sender<Arc<str>>,
        cut: Arc<AtomicBool>,
        limit: usize,
    }

    #[async_trait]
    impl Wire for Local {
        fn limit(&self) -> usize {
            self.limit
        }

        async fn send(&self, message: &str) -> Result<()> {
            assert!(message.len() <= self.limit);
            anyhow::ensure!(!self.cut.load(Ordering::Relaxed), "cut by the test");
            _ = self.sender.send(message.into());
            Ok(())
        }

        fn heard(&self) -> broadcast::Receiver<Arc<str>> {
            self.sender.subscribe()
        }
    }

    fn line(number: u64, bytes: &[u8]) -> Line {
        Line {
            number,
            at_us: 7,
            attempt: 1,
            stream: Stream::Stdout,
            partial: false,
            bytes: Bytes::copy_from_slice(bytes),
        }
    }

    fn id() -> JobId {
        JobId::from_number(5).expect("an id")
    }

    #[test]
    fn messages_are_read_as_they_are_written_and_junk_is_none() {
        let chunk = Chunk::pack(&[line(3, b"a\xffb"), line(4, b"")], "").expect("packed");
        for message in [
            Message::Want { id: id(), from: 9 },
            Message::Alive { id: id(), newest: 1 },
            Message::Lines { id: id(), chunk },
            Message::Over { id: id() },
        ] {
            let text = message.write();
            assert_eq!(Message::read(&text), Some(message));
            assert_eq!(Message::read(&format!("{text} more")), None);
        }
        for text in [
            "",
            "w",
            "w x 1",
            "x 0000000000005 1",
            "l 0000000000005 0 1 1 AA",
            "w 0000000000005 -1",
        ] {
            assert_eq!(Message::read(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn viewers_of_another_server_see_lines_as_they_come_and_after_a_break() {
        let (sender, cut) = (broadcast::Sender::new(64), Arc::new(AtomicBool::new(false)));
        let server = |hub: &Hub| {
            let wire = Local {
                sender: sender.clone(),
                cut: Arc::clone(&cut),
                limit: 4000,
            };
            let relay = Relay::new(hub.clone(), vec![Arc::new(wire)]);
            tokio::spawn(async move { relay.run().await })
        };
        let (here, there) = (Hub::default(), Hub::default());
        here.lead(true);
        let tasks = [server(&here), server(&there)];
        let feed = here.feed(id(), 0).expect("fed");
        feed.push([line(1, b"before anybody looked")]);
        let _want = there.want(id());
        let limit = Duration::from_secs(5);
        tokio::time::timeout(limit, there.dawn(id()).wait())
            .await
            .expect("it is told");
        let mut tap = there.tap(id()).expect("a mirror");
        assert_eq!(tap.wait(1).await.newest, 1);
        assert_eq!(tap.read(1, 1000), Found::Lines(vec![line(1, b"before anybody looked")]));
        // Too many for one message, and one that no message can take.
        // What a compressor cannot make small: xorshift32 (Marsaglia, 2003).
        let mut state = 2_463_534_242_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[1]
        })
        .take(20_000)
        .collect();
        feed.push((2..=400).map(|number| line(number, &noise[usize::try_from(number).expect("small")..][..40])));
        feed.push([line(401, &noise), line(402, b"after")]);
        tokio::time::timeout(limit, tap.wait(402)).await.expect("it is told");
        assert_eq!(tap.read(402, 1000), Found::Lines(vec![line(402, b"after")]));
        assert_eq!(tap.read(401, 1000), Found::Stored, "it is too long for the wire");
        cut.store(true, Ordering::Relaxed);
        feed.push([line(403, b"lost")]);
        tokio::time::sleep(Duration::from_millis(50)).await;
        cut.store(false, Ordering::Relaxed);
        let reach = tokio::time::timeout(limit, tap.wait(403))
            .await
            .expect("it is sent again");
        assert!(reach.newest == 403 && !reach.ended);
        drop(feed);
        let reach = tokio::time::timeout(limit, tap.wait(404)).await.expect("it is told");
        assert!(reach.ended);
        assert!(there.is_empty());
        for task in tasks {
            task.abort();
        }
    }

    #[tokio::test]
    async fn a_server_that_falls_silent_is_not_waited_for() {
        let sender = broadcast::Sender::new(64);
        let cut = Arc::new(AtomicBool::new(false));
        let hub = Hub::default();
        let wire = Local {
            sender: sender.clone(),
            cut,
            limit: 4000,
        };
        let relay = Relay::new(hub.clone(), vec![Arc::new(wire)]);
        let task = tokio::spawn(async move { relay.run().await });
        let _want = hub.want(id());
        tokio::time::sleep(Duration::from_millis(100)).await;
        let chunk = Chunk::pack(&[line(8, b"x")], "").expect("packed");
        _ = sender.send(Message::Lines { id: id(), chunk }.write().into());
        tokio::time::timeout(Duration::from_secs(1), hub.dawn(id()).wait())
            .await
            .expect("a mirror");
        let mut tap = hub.tap(id()).expect("a mirror");
        let reach = tokio::time::timeout(SILENCE + RENEW, tap.wait(9))
            .await
            .expect("in time");
        assert!(reach.ended && hub.is_empty());
        task.abort();
    }
}
