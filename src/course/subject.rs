//! The learner's server while a chapter is judged: labctl starts it on a free port, waits until it listens or is ready, and ends it.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::setup::Serve;
use crate::drive::exec::{Cmd, Running};
use crate::drive::port;

/// How long a server may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause between two looks whether it listens.
const PAUSE: Duration = Duration::from_millis(30);

/// A server that runs. It ends when this is dropped.
pub struct Subject {
    running: Option<Running>,
    output: PathBuf,
    port: u16,
    /// Why it does not listen, if it does not.
    pub trouble: Option<String>,
}

impl Subject {
    /// Starts the server and waits until it listens, ends, or takes too long. That it does not listen is no error: it is
    /// what the checks will find.
    ///
    /// # Errors
    /// No port is free, or the file for its output cannot be made.
    pub async fn start(serve: &Serve, cmd: Cmd, output: &Path) -> Result<Self> {
        let port = port::free().context("find a free port")?;
        let mut cmd = cmd.env("PORT", port.to_string());
        for (name, value) in &serve.env {
            cmd = cmd.env(name, value);
        }
        let mut subject = Self {
            running: None,
            output: output.to_owned(),
            port,
            trouble: None,
        };
        match Running::start(&cmd, output) {
            Ok(running) => subject.running = Some(running),
            Err(error) => {
                subject.trouble = Some(error.to_string());
                return Ok(subject);
            }
        }
        let start = Instant::now();
        loop {
            let begun = match &serve.ready {
                Some(path) => answers(port, path).await,
                None => listens(port),
            };
            if begun {
                return Ok(subject);
            }
            if let Some(how) = subject.running.as_mut().and_then(Running::ended) {
                subject.trouble = Some(format!("your server ended at once ({how})"));
                return Ok(subject);
            }
            if start.elapsed() > serve.within() {
                let seconds = serve.within().as_secs();
                let what = match &serve.ready {
                    Some(path) => format!("GET {path} is not 200 at 127.0.0.1:{port}"),
                    None => format!("nothing listens on 127.0.0.1:{port}"),
                };
                subject.trouble = Some(format!("your server runs, and {what} (PORT) after {seconds}s"));
                return Ok(subject);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns its URL without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the last lines that it wrote.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let text = std::fs::read(&self.output).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let from = lines.len().saturating_sub(count);
        lines[from..].iter().map(|line| (*line).to_owned()).collect()
    }

    /// Returns how it ended, if it did.
    pub fn ended(&mut self) -> Option<String> {
        self.running.as_mut().and_then(Running::ended)
    }

    /// Ends it.
    pub async fn stop(mut self) {
        if let Some(running) = self.running.take() {
            running.stop(PATIENCE).await;
        }
    }
}

/// Asks with a client of its own each time, as a server that only begins may close its first connections.
async fn answers(port: u16, path: &str) -> bool {
    let url = format!("http://127.0.0.1:{port}{path}");
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(1))
        .build();
    match client {
        Ok(client) => client.get(url).send().await.is_ok_and(|answer| answer.status() == 200),
        Err(_) => false,
    }
}

fn listens(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}
