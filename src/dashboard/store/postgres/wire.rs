//! `NOTIFY` as the wire between servers: on a connection of its own, so that lines do not wait for what is told of jobs.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::ACQUIRE;
use crate::dashboard::log::relay::{WAITING, Wire};

/// Where messages go; a channel is its database's own.
const CHANNEL: &str = "labctl_lines";
/// PostgreSQL takes less than 8000 bytes.
const MESSAGE_BYTES: usize = 7900;
/// How long a message may take to be sent. What is late is in the store.
const SEND: Duration = Duration::from_secs(1);
/// How long it is waited before the connection is opened again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a connection may be silent before it is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(10);

/// Where the one of a store is, once somebody asked for it.
#[derive(Default)]
pub(super) struct Place(OnceLock<Arc<Notices>>);

impl Place {
    /// Returns it; to be called within a runtime.
    pub(super) fn get(&self, options: &PgConnectOptions, pool: &PgPool) -> Arc<dyn Wire> {
        let notices = self.0.get_or_init(|| {
            let heard = broadcast::Sender::new(WAITING);
            Arc::new(Notices {
                pool: pool.clone(),
                listening: tokio::spawn(listen(options.clone(), heard.clone())),
                heard,
            })
        });
        Arc::clone(notices) as Arc<dyn Wire>
    }
}

pub(super) struct Notices {
    pool: PgPool,
    heard: broadcast::Sender<Arc<str>>,
    listening: JoinHandle<()>,
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

#[async_trait]
impl Wire for Notices {
    fn limit(&self) -> usize {
        MESSAGE_BYTES
    }

    async fn send(&self, message: &str) -> Result<()> {
        let notify = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(message);
        let sent = tokio::time::timeout(SEND, notify.execute(&self.pool)).await;
        sent.context("the database does not answer")?
            .context("tell other servers")?;
        Ok(())
    }

    fn heard(&self) -> broadcast::Receiver<Arc<str>> {
        self.heard.subscribe()
    }
}

async fn listen(options: PgConnectOptions, heard: broadcast::Sender<Arc<str>>) {
    // Only the listener's: it keeps its connection.
    let own = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ACQUIRE)
        .connect_lazy_with(options);
    loop {
        let ended = hear(&own, &heard).await;
        tracing::debug!(error = ?ended.err(), "lines of other servers are not heard; it is tried again");
        tokio::time::sleep(AGAIN).await;
    }
}

async fn hear(own: &PgPool, heard: &broadcast::Sender<Arc<str>>) -> Result<()> {
    let mut listener = PgListener::connect_with(own).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    loop {
        match tokio::time::timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(note))) => {
                // Nobody may be listening.
                _ = heard.send(note.payload().into());
            }
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error.into()),
            // A connection whose other end vanished says nothing for ever.
            Err(_) => {
                let asked = tokio::time::timeout(SILENCE, sqlx::query("SELECT 1").execute(&mut listener)).await;
                asked.context("the database does not answer")??;
            }
        }
    }
}
