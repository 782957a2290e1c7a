//! Lines of jobs that run, for everyone who watches: one reader of the runner a job, whoever looks.
//!
//! The newest lines of each job lie in a ring. A viewer reads from it at its own pace; one that is slower than the ring
//! finds what it missed in the store, where every line is before it leaves the ring. So nobody waits for anybody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use super::Line;
use crate::dashboard::job::JobId;

/// How many bytes of lines a ring keeps.
const RING_BYTES: usize = 1 << 20;
/// How many lines a ring keeps.
const RING_LINES: usize = 8192;
/// What a line costs beside its bytes.
const LINE_COST: usize = size_of::<Line>();

/// How far a job's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The number of the newest line; 0 where there is none.
    pub newest: u64,
    /// Nothing more comes.
    pub ended: bool,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<Line>,
    cost: usize,
    /// Lines up to this one are in the store and may leave the ring.
    stored: u64,
}

struct Live {
    ring: Mutex<Ring>,
    reach: watch::Sender<Reach>,
}

/// The jobs whose lines are being read; cheap to clone, all clones are one.
#[derive(Clone, Default)]
pub struct Hub(Arc<Shared>);

#[derive(Default)]
struct Shared {
    jobs: Mutex<Jobs>,
    /// Rung when somebody waits for a job that nobody waited for.
    wanted: Notify,
    /// This server runs the jobs: what is not fed here is fed nowhere.
    leads: AtomicBool,
}

#[derive(Default)]
struct Jobs {
    /// How many viewers wait for lines of a job, wherever they are read.
    wanted: BTreeMap<JobId, usize>,
    live: BTreeMap<JobId, Arc<Live>>,
    /// Jobs that nobody feeds yet and that somebody waits for.
    awaited: BTreeMap<JobId, Arc<Notify>>,
}

/// Waits for somebody to feed a job.
pub struct Dawn {
    hub: Hub,
    id: JobId,
    notify: Arc<Notify>,
}

/// Says as long as it lives that somebody waits for a job's lines.
pub struct Want {
    hub: Hub,
    id: JobId,
}

/// Who puts a job's lines into the hub. The log of the job has ended when it is dropped.
pub struct Feed {
    hub: Hub,
    id: JobId,
    live: Arc<Live>,
}

/// Who reads a job's lines from the hub.
pub struct Tap {
    live: Arc<Live>,
    reach: watch::Receiver<Reach>,
}

impl Hub {
    fn jobs(&self) -> std::sync::MutexGuard<'_, Jobs> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that somebody here waits for a job's lines, so that another server that reads them sends them.
    pub fn want(&self, id: JobId) -> Want {
        let count = {
            let mut jobs = self.jobs();
            let count = jobs.wanted.entry(id).or_default();
            *count += 1;
            *count
        };
        if count == 1 {
            self.0.wanted.notify_one();
        }
        Want { hub: self.clone(), id }
    }

    /// Returns the jobs that somebody here waits for.
    pub fn wanted(&self) -> BTreeSet<JobId> {
        self.jobs().wanted.keys().copied().collect()
    }

    /// Returns whether somebody here waits for a job.
    pub fn is_wanted(&self, id: JobId) -> bool {
        self.jobs().wanted.contains_key(&id)
    }

    /// Waits until somebody waits for a job that nobody waited for.
    pub async fn until_wanted(&self) {
        self.0.wanted.notified().await;
    }

    /// Says whether this server runs the jobs.
    pub fn lead(&self, leads: bool) {
        self.0.leads.store(leads, Ordering::Relaxed);
    }

    /// Returns whether this server runs the jobs.
    pub fn leads(&self) -> bool {
        self.0.leads.load(Ordering::Relaxed)
    }

    /// Begins a job whose newest stored line is `stored`; nothing where somebody feeds it already.
    pub fn feed(&self, id: JobId, stored: u64) -> Option<Feed> {
        let mut jobs = self.jobs();
        if jobs.live.contains_key(&id) {
            return None;
        }
        let live = Arc::new(Live {
            ring: Mutex::new(Ring {
                stored,
                ..Ring::default()
            }),
            reach: watch::Sender::new(Reach {
                newest: stored,
                ended: false,
            }),
        });
        jobs.live.insert(id, Arc::clone(&live));
        let awaited = jobs.awaited.remove(&id);
        drop(jobs);
        if let Some(awaited) = awaited {
            awaited.notify_waiters();
        }
        Some(Feed {
            hub: self.clone(),
            id,
            live,
        })
    }

    /// Returns a way to read a job's lines; nothing where nobody feeds it.
    pub fn tap(&self, id: JobId) -> Option<Tap> {
        let live = Arc::clone(self.jobs().live.get(&id)?);
        let reach = live.reach.subscribe();
        Some(Tap { live, reach })
    }

    /// Returns a way to wait for a job to be fed.
    pub fn dawn(&self, id: JobId) -> Dawn {
        let notify = Arc::clone(self.jobs().awaited.entry(id).or_default());
        Dawn {
            hub: self.clone(),
            id,
            notify,
        }
    }

    /// Returns how many jobs are fed.
    pub fn len(&self) -> usize {
        self.jobs().live.len()
    }

    /// Returns whether no job is fed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Dawn {
    /// Waits until somebody feeds the job; at once where somebody does.
    pub async fn wait(&self) {
        let notified = self.notify.notified();
        tokio::pin!(notified);
        // From here on a feed that begins is noticed, and one that began before is found.
        notified.as_mut().enable();
        if self.hub.tap(self.id).is_none() {
            notified.await;
        }
    }
}

impl Drop for Dawn {
    fn drop(&mut self) {
        let mut jobs = self.hub.jobs();
        // The map's and this one.
        if jobs
            .awaited
            .get(&self.id)
            .is_some_and(|notify| Arc::ptr_eq(notify, &self.notify))
            && Arc::strong_count(&self.notify) == 2
        {
            jobs.awaited.remove(&self.id);
        }
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        let mut jobs = self.hub.jobs();
        if let Some(count) = jobs.wanted.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                jobs.wanted.remove(&self.id);
            }
        }
    }
}

impl Feed {
    /// Returns the number of the newest line; 0 where there is none.
    pub fn newest(&self) -> u64 {
        self.live.reach.borrow().newest
    }

    /// Goes on after a line, all before which is found in the store alone.
    pub fn skip(&self, to: u64) {
        {
            let mut ring = self.live.ring.lock().unwrap_or_else(PoisonError::into_inner);
            *ring = Ring {
                stored: to,
                ..Ring::default()
            };
        }
        self.live.reach.send_modify(|reach| reach.newest = reach.newest.max(to));
    }

    /// Adds lines that follow those before them, and wakes whoever waits. Lines that were added before are left out: after
    /// a failure the same ones are read again.
    pub fn push(&self, lines: impl IntoIterator<Item = Line>) {
        let mut newest = self.live.reach.borrow().newest;
        let before = newest;
        {
            let mut ring = self.live.ring.lock().unwrap_or_else(PoisonError::into_inner);
            for line in lines {
                if line.number <= newest {
                    continue;
                }
                newest = line.number;
                ring.cost += line.bytes.len() + LINE_COST;
                ring.lines.push_back(line);
            }
            ring.shrink();
        }
        if newest > before {
            self.live.reach.send_modify(|reach| reach.newest = newest);
        }
    }

    /// Says that lines up to this one are in the store.
    pub fn stored(&self, number: u64) {
        let mut ring = self.live.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.stored = ring.stored.max(number);
        ring.shrink();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.hub.jobs().live.remove(&self.id);
        self.live.reach.send_modify(|reach| reach.ended = true);
    }
}

impl Ring {
    /// Lets lines go that are too many and in the store. Those that are not stay: the writer to the store bounds them.
    fn shrink(&mut self) {
        while self.cost > RING_BYTES || self.lines.len() > RING_LINES {
            match self.lines.front() {
                Some(line) if line.number <= self.stored => {
                    self.cost -= line.bytes.len() + LINE_COST;
                    self.lines.pop_front();
                }
                _ => return,
            }
        }
    }
}

/// What a ring has of the lines that a viewer wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// These lines, which are the next ones; none where they are not written yet.
    Lines(Vec<Line>),
    /// The next line has left the ring: it is in the store.
    Stored,
}

impl Tap {
    /// Returns the lines from number `from` on, as many as have about `bytes` bytes.
    pub fn read(&self, from: u64, bytes: usize) -> Found {
        let ring = self.live.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = ring.lines.front().map(|line| line.number) else {
            return if from <= ring.stored {
                Found::Stored
            } else {
                Found::Lines(Vec::new())
            };
        };
        let Some(skip) = from.checked_sub(first) else {
            return Found::Stored;
        };
        let mut left = bytes;
        let mut out = Vec::new();
        for line in ring.lines.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX)) {
            out.push(line.clone());
            left = left.saturating_sub(line.bytes.len() + LINE_COST);
            if left == 0 {
                break;
            }
        }
        Found::Lines(out)
    }

    /// Returns the number of the oldest line that is in the ring; of the next one where it is empty.
    pub fn oldest(&self) -> u64 {
        let ring = self.live.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.lines.front().map_or(ring.stored + 1, |line| line.number)
    }

    /// Returns how far the log is.
    pub fn reach(&self) -> Reach {
        *self.reach.borrow()
    }

    /// Waits until there is a line with number `from`, or the log has ended.
    pub async fn wait(&mut self, from: u64) -> Reach {
        match self.reach.wait_for(|reach| reach.newest >= from || reach.ended).await {
            Ok(reach) => *reach,
            // The sender lives as long as the tap does.
            Err(_) => Reach { newest: 0, ended: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::Stream;
    use super::*;

    fn line(number: u64, size: usize) -> Line {
        Line {
            number,
            at_us: 0,
            attempt: 1,
            stream: Stream::Stdout,
            partial: false,
            bytes: Bytes::from(vec![b'x'; size]),
        }
    }

    fn numbers(found: Found) -> Vec<u64> {
        match found {
            Found::Lines(lines) => lines.into_iter().map(|line| line.number).collect(),
            Found::Stored => vec![0],
        }
    }

    fn id() -> JobId {
        JobId::from_number(5).expect("an id")
    }

    #[test]
    fn a_job_is_fed_by_one() {
        let hub = Hub::default();
        let feed = hub.feed(id(), 0).expect("the first");
        assert!(hub.feed(id(), 0).is_none());
        assert_eq!(hub.len(), 1);
        drop(feed);
        assert!(hub.is_empty() && hub.tap(id()).is_none());
        assert!(hub.feed(id(), 0).is_some());
    }

    #[test]
    fn lines_that_are_read_again_are_there_once() {
        let hub = Hub::default();
        let feed = hub.feed(id(), 3).expect("fed");
        let tap = hub.tap(id()).expect("a tap");
        feed.push([line(4, 1), line(5, 1)]);
        feed.push([line(4, 1), line(5, 1), line(6, 1)]);
        assert_eq!(numbers(tap.read(4, 1000)), [4, 5, 6]);
        assert_eq!(tap.reach().newest, 6);
    }

    #[tokio::test]
    async fn who_waits_for_a_job_to_be_fed_is_woken_and_leaves_nothing() {
        let hub = Hub::default();
        let dawn = hub.dawn(id());
        let other = hub.dawn(id());
        let waiting = tokio::spawn(async move { dawn.wait().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let feed = hub.feed(id(), 0).expect("fed");
        waiting.await.expect("no panic");
        other.wait().await;
        drop((feed, other));
        drop(hub.dawn(id()));
        assert!(hub.jobs().awaited.is_empty());
    }

    #[test]
    fn viewers_read_where_they_are() {
        let hub = Hub::default();
        let feed = hub.feed(id(), 3).expect("fed");
        let tap = hub.tap(id()).expect("a tap");
        assert_eq!(tap.read(4, 1000), Found::Lines(Vec::new()));
        assert_eq!(tap.read(3, 1000), Found::Stored);
        feed.push([line(4, 1), line(5, 1), line(6, 1)]);
        assert_eq!(numbers(tap.read(4, 1000)), [4, 5, 6]);
        assert_eq!(numbers(tap.read(6, 1000)), [6]);
        assert_eq!(numbers(tap.read(7, 1000)), [] as [u64; 0]);
        assert_eq!(numbers(tap.read(4, 1)), [4], "at least one");
        assert_eq!(tap.read(1, 1000), Found::Stored);
    }

    #[test]
    fn lines_leave_the_ring_only_when_they_are_stored() {
        let hub = Hub::default();
        let feed = hub.feed(id(), 0).expect("fed");
        let tap = hub.tap(id()).expect("a tap");
        feed.push((1..=4).map(|number| line(number, RING_BYTES / 2)));
        assert_eq!(numbers(tap.read(1, usize::MAX)), [1, 2, 3, 4]);
        feed.stored(2);
        assert_eq!(tap.read(2, usize::MAX), Found::Stored);
        assert_eq!(numbers(tap.read(3, usize::MAX)), [3, 4], "not stored, so kept");
        feed.stored(4);
        assert_eq!(numbers(tap.read(4, usize::MAX)), [4]);
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_a_line_and_by_the_end() {
        let hub = Hub::default();
        let feed = hub.feed(id(), 0).expect("fed");
        let mut tap = hub.tap(id()).expect("a tap");
        let waiting = tokio::spawn(async move {
            let first = tap.wait(1).await;
            let second = tap.wait(2).await;
            (first, second)
        });
        feed.push([line(1, 1)]);
        tokio::task::yield_now().await;
        drop(feed);
        let (first, second) = waiting.await.expect("no panic");
        assert_eq!(first.newest, 1);
        assert!(second.ended);
    }
}
