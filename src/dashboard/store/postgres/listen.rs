//! What other servers change, and this one: heard from the database, so that all servers hear the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Row as _;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::{fault, list::columns, row};
use crate::dashboard::job::JobId;
use crate::dashboard::store::{Changed, StoreError};

/// Where changes are told.
const CHANNEL: &str = "labctl_jobs";
/// How long it is waited before the connection is opened again, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How many rows are read at once.
const BATCH: usize = 500;
/// How long a connection may be silent before it is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(10);

/// When the connection that listens broke last: the others broke with it where the database was restarted.
#[derive(Debug, Clone, Default)]
pub(super) struct Break(Arc<Mutex<Option<Instant>>>);

impl Break {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns whether it was so long ago or less.
    pub(super) fn within(&self, time: Duration) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() <= time)
    }
}

/// Listens until it is dropped.
pub(super) struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listener {
    /// Begins to listen: what is committed after this is heard.
    pub(super) async fn start(
        options: PgConnectOptions,
        pool: PgPool,
        changes: broadcast::Sender<Changed>,
        broke: Break,
    ) -> Result<Self, sqlx::Error> {
        // A pool of its own: a listener keeps its connection, and requests must not have to wait for it.
        let own = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(super::ACQUIRE)
            .connect_lazy_with(options);
        let listener = listener(&own).await?;
        Ok(Self(tokio::spawn(run(own, listener, pool, changes, broke))))
    }
}

async fn listener(own: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(own).await?;
    // Whether the connection broke has to be known, so it is mended here.
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

async fn run(own: PgPool, mut listener: PgListener, pool: PgPool, changes: broadcast::Sender<Changed>, broke: Break) {
    loop {
        if let Err(error) = hear(&mut listener, &pool, &changes).await {
            tracing::warn!(error = ?error, "changes of jobs are not heard; the database is asked again");
        }
        broke.now();
        drop(listener);
        listener = again(&own).await;
        tracing::info!("changes of jobs are heard again");
        // Nobody may be listening.
        _ = changes.send(Changed::Missed);
    }
}

/// Opens the connection again, however long that takes.
async fn again(own: &PgPool) -> PgListener {
    let mut pause = BACKOFF.0;
    loop {
        match listener(own).await {
            Ok(listener) => return listener,
            Err(error) => tracing::debug!(error = %error, "the database does not answer to who listens"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Tells what is heard until the connection breaks.
async fn hear(
    listener: &mut PgListener,
    pool: &PgPool,
    changes: &broadcast::Sender<Changed>,
) -> Result<(), StoreError> {
    loop {
        let Ok(heard) = tokio::time::timeout(SILENCE, listener.try_recv()).await else {
            // A connection whose other end vanished says nothing for ever.
            let asked = tokio::time::timeout(SILENCE, sqlx::query("SELECT 1").execute(&mut *listener)).await;
            fault::late(asked, "asking the connection that listens")?.map_err(fault::postgres)?;
            continue;
        };
        let Some(first) = heard.map_err(fault::postgres)? else {
            return Ok(());
        };
        let mut notes = vec![first.payload().to_owned()];
        while notes.len() < BATCH
            && let Some(next) = listener.next_buffered()
        {
            notes.push(next.payload().to_owned());
        }
        tell(&notes, pool, changes).await?;
    }
}

/// What a payload says.
enum Note {
    Changed(JobId),
    Deleted(JobId, String),
}

/// Returns the payload that tells of a job that was deleted.
pub(super) fn deleted(id: JobId, owner: &str) -> String {
    format!("d{} {owner}", id.number())
}

/// Reads a payload: `c` and an id, or `d`, an id and the owner. One that a newer labctl wrote says nothing here.
fn read(payload: &str) -> Option<Note> {
    let id = |text: &str| JobId::from_number(text.parse().ok()?);
    match payload.split_at_checked(1)? {
        ("c", number) => Some(Note::Changed(id(number)?)),
        ("d", rest) => {
            let (number, owner) = rest.split_once(' ')?;
            Some(Note::Deleted(id(number)?, owner.to_owned()))
        }
        _ => None,
    }
}

async fn tell(notes: &[String], pool: &PgPool, changes: &broadcast::Sender<Changed>) -> Result<(), StoreError> {
    let notes: Vec<Note> = notes.iter().filter_map(|payload| read(payload)).collect();
    let ids: BTreeSet<i64> = notes
        .iter()
        .filter_map(|note| match note {
            Note::Changed(id) => Some(id.number()),
            Note::Deleted(..) => None,
        })
        .collect();
    let mut rows = BTreeMap::new();
    if !ids.is_empty() && changes.receiver_count() > 0 {
        let ids: Vec<i64> = ids.into_iter().collect();
        let sql = concat!("SELECT ", columns!("jobs"), " FROM jobs WHERE id = ANY($1)");
        for row in sqlx::query(sql)
            .bind(ids)
            .fetch_all(pool)
            .await
            .map_err(fault::postgres)?
        {
            rows.insert(row.try_get::<i64, _>(0).map_err(row::broken)?, row::job(&row)?);
        }
    }
    for note in notes {
        let change = match note {
            // Each row once, as it is after all of its changes; one that is gone is told by the note that follows.
            Note::Changed(id) => rows.remove(&id.number()).map(Changed::Job),
            Note::Deleted(id, owner) => Some(Changed::Deleted { id, owner }),
        };
        if let Some(change) = change {
            // Nobody may be listening.
            _ = changes.send(change);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_read_back_and_what_is_none_says_nothing() {
        let id = JobId::at(1_800_000_000_000);
        assert!(matches!(read(&format!("c{}", id.number())), Some(Note::Changed(read)) if read == id));
        let owner = "ada lovelace é";
        assert!(matches!(read(&deleted(id, owner)), Some(Note::Deleted(read, of)) if read == id && of == owner));
        for payload in ["", "c", "cx", "c-1", "d1", "é", "x1", "c99999999999999999999"] {
            assert!(read(payload).is_none(), "{payload}");
        }
    }
}
