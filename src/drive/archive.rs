//! Tar archives as byte streams, for the engine's API.

use std::io::{self, Write};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

/// How much is gathered before it is passed on.
const CHUNK: usize = 256 << 10;

/// Writes an archive in a thread of its own and returns it as a stream, so that it is never in memory whole.
///
/// An error of `write` becomes the stream's last item. Where the stream is dropped, `write` sees a closed pipe.
pub fn stream<F>(write: F) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static
where
    F: FnOnce(&mut tar::Builder<Sender>) -> anyhow::Result<()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(8);
    tokio::task::spawn_blocking(move || {
        let mut archive = tar::Builder::new(Sender {
            sender: sender.clone(),
            buffer: Vec::with_capacity(CHUNK),
        });
        archive.mode(tar::HeaderMode::Deterministic);
        archive.follow_symlinks(false);
        let outcome = write(&mut archive).and_then(|()| Ok(archive.into_inner()?.flush()?));
        if let Err(error) = outcome {
            _ = sender.blocking_send(Err(io::Error::other(error)));
        }
    });
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
}

/// Returns a file as a stream.
///
/// # Errors
/// It cannot be opened.
pub async fn file(path: &std::path::Path) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
    let file = tokio::fs::File::open(path).await?;
    Ok(tokio_util::io::ReaderStream::with_capacity(file, CHUNK))
}

/// The writing end of a stream.
pub struct Sender {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender
            .blocking_send(Ok(Bytes::from(chunk)))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Appends a file with the given mode, owned by root, without a time.
///
/// # Errors
/// The archive cannot be written.
pub fn append<W: Write>(archive: &mut tar::Builder<W>, name: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(contents.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    archive.append_data(&mut header, name, contents)
}

/// Appends a file from disk with the given mode, owned by root, without a time.
///
/// # Errors
/// The file cannot be read or the archive cannot be written.
pub fn append_file<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    mode: u32,
    path: &std::path::Path,
) -> anyhow::Result<()> {
    use anyhow::Context;
    let file = std::fs::File::open(path).with_context(|| format!("read `{}`", path.display()))?;
    let mut header = tar::Header::new_gnu();
    header.set_size(file.metadata()?.len());
    header.set_mode(mode);
    header.set_mtime(0);
    archive.append_data(&mut header, name, file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;

    async fn bytes_of(big: Vec<u8>) -> Vec<u8> {
        stream(move |archive| Ok(append(archive, "a/b", 0o755, &big)?))
            .try_fold(Vec::new(), |mut all, part| async move {
                all.extend_from_slice(&part);
                Ok(all)
            })
            .await
            .expect("a whole archive")
    }

    #[tokio::test]
    async fn the_same_files_give_the_same_bytes() {
        let big = vec![7; CHUNK * 3];
        let one = bytes_of(big.clone()).await;
        assert_eq!(one, bytes_of(big.clone()).await);
        let mut archive = tar::Archive::new(one.as_slice());
        let entry = archive.entries().expect("entries").next().expect("one").expect("sound");
        assert_eq!(entry.header().mode().expect("a mode"), 0o755);
        assert_eq!(entry.size(), big.len() as u64);
    }

    #[tokio::test]
    async fn an_error_ends_the_stream_as_an_error() {
        let mut items: Vec<_> = Vec::new();
        let mut parts = std::pin::pin!(stream(|_| anyhow::bail!("no such file")));
        while let Some(item) = futures_util::StreamExt::next(&mut parts).await {
            items.push(item);
        }
        assert!(items.last().expect("an item").is_err());
    }
}
