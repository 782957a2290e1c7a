//! Redis as the wire between servers: Pub/Sub, which keeps nothing. Where it is away, what was to be sent goes another way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::{WAITING, Wire};
use crate::dashboard::health::Health;

/// Where messages go. Channels are the same for all databases of a Redis.
const CHANNEL: &str = "labctl:lines";
/// How long a message may be. Redis takes 512 MiB; what is longer than this would keep others waiting.
const MESSAGE_BYTES: usize = 1 << 20;
/// How long Redis has to accept a connection, and to answer.
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_millis(500);
/// How long it is waited before it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long nothing may be heard before it is asked whether anybody is there.
const SILENCE: Duration = Duration::from_secs(10);

/// A Redis that is tried for as long as this lives.
pub struct Redis {
    manager: ConnectionManager,
    heard: broadcast::Sender<Arc<str>>,
    up: Arc<AtomicBool>,
    listening: JoinHandle<()>,
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Redis {
    /// Takes a URL: `redis://USER:PASSWORD@HOST:PORT`, or `rediss://` for TLS. Whether anybody is there is seen later, and
    /// told as the part `redis` of `/readyz`, where it is no reason to send requests elsewhere.
    ///
    /// # Errors
    /// It is no such URL; what is said does not have it, because it may have a password.
    pub fn start(url: &str, health: Health) -> Result<Self> {
        // There is one provider in this program; naming it twice is no harm.
        _ = rustls::crypto::ring::default_provider().install_default();
        let wrong =
            |_| anyhow!("the address of Redis is no URL such as redis://HOST:6379 or rediss://USER:PASSWORD@HOST");
        let client = redis::Client::open(url).map_err(wrong)?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_max_delay(AGAIN)
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config)
            .map_err(|_| anyhow!("the connection to Redis cannot be set up"))?;
        let (heard, up) = (broadcast::Sender::new(WAITING), Arc::new(AtomicBool::new(false)));
        let listening = tokio::spawn(listen(client, heard.clone(), Arc::clone(&up), health));
        Ok(Self {
            manager,
            heard,
            up,
            listening,
        })
    }
}

#[async_trait]
impl Wire for Redis {
    fn limit(&self) -> usize {
        MESSAGE_BYTES
    }

    async fn send(&self, message: &str) -> Result<()> {
        // Nobody has to wait to learn what is known.
        ensure!(self.up.load(Ordering::Relaxed), "Redis is away");
        let mut manager = self.manager.clone();
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(CHANNEL).arg(message);
        let sent = tokio::time::timeout(2 * ANSWER, publish.query_async::<i64>(&mut manager)).await;
        sent.context("Redis does not answer")?
            .map_err(|error| anyhow!("{error}"))?;
        Ok(())
    }

    fn heard(&self) -> broadcast::Receiver<Arc<str>> {
        self.heard.subscribe()
    }
}

async fn listen(client: redis::Client, heard: broadcast::Sender<Arc<str>>, up: Arc<AtomicBool>, health: Health) {
    let mut told = None;
    loop {
        let ended = hear(&client, &heard, || {
            up.store(true, Ordering::Relaxed);
            if told != Some(true) {
                tracing::info!("lines go between servers by Redis");
                told = Some(true);
            }
            health.set("redis", Ok("lines go between servers by Redis".to_owned()));
        })
        .await;
        up.store(false, Ordering::Relaxed);
        let error = ended.err().map(|error| format!("{error:#}"));
        if told != Some(false) {
            tracing::warn!(
                error,
                "Redis is away: lines go between servers by the database; it is tried again"
            );
            told = Some(false);
        }
        // Nobody has to be sent elsewhere for it.
        health.set("redis", Ok("away; lines go between servers by the database".to_owned()));
        tokio::time::sleep(AGAIN).await;
    }
}

/// Passes on what is heard until the connection ends.
async fn hear(client: &redis::Client, heard: &broadcast::Sender<Arc<str>>, mut there: impl FnMut()) -> Result<()> {
    let pubsub = tokio::time::timeout(CONNECT, client.get_async_pubsub()).await;
    let mut pubsub = pubsub
        .context("Redis does not accept a connection")?
        .context("connect to Redis")?;
    let subscribed = tokio::time::timeout(CONNECT, pubsub.subscribe(CHANNEL)).await;
    subscribed
        .context("Redis does not answer")?
        .context("listen at Redis")?;
    there();
    let (mut sink, mut stream) = pubsub.split();
    let pass = |message: redis::Msg| {
        if let Ok(text) = message.get_payload::<String>() {
            // Nobody may be listening.
            _ = heard.send(text.into());
        }
    };
    loop {
        match tokio::time::timeout(SILENCE, stream.next()).await {
            Ok(Some(message)) => pass(message),
            Ok(None) => return Err(anyhow!("Redis ended the connection")),
            // A connection whose other end vanished says nothing for ever.
            Err(_) => {
                tokio::select! {
                    pong = sink.ping::<redis::Value>() => {
                        pong.context("ask whether Redis is there")?;
                    }
                    message = stream.next() => match message {
                        Some(message) => pass(message),
                        None => return Err(anyhow!("Redis ended the connection")),
                    },
                    () = tokio::time::sleep(CONNECT) => return Err(anyhow!("Redis does not answer")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wrong_address_is_refused_without_being_repeated() {
        for url in ["http://u:s3cret@h", "redis://u:s3cret@[::1", "s3cret"] {
            let error = Redis::start(url, Health::default()).err().expect("no URL of a Redis");
            assert!(!format!("{error:#} {error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_a_redis_that_is_away() {
        let health = Health::default();
        let redis = Redis::start("redis://127.0.0.1:1", health.clone()).expect("a URL");
        assert!(redis.send("x").await.is_err());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let checks = health.readiness().checks;
        let redis = checks.iter().find(|check| check.name == "redis").expect("told");
        assert!(redis.ok && redis.detail.starts_with("away"), "{redis:?}");
    }
}
