//! The file in which a job's output is kept until the store has it: blocks, one after the other, each with a head and the
//! lines that were read at one moment from one stream of one attempt. A block is written at once or not at all, as far as
//! readers care: they wait for the rest of one that is not whole.
//!
//! A position in the log is the offset of a block. A head is [`HEAD_BYTES`] little-endian bytes: the length of what
//! follows (4), the stream (1), whether it is one line that goes on (1), the attempt (4), the time (8). What follows is
//! lines with their ends, or the one line that goes on, without.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::dashboard::log::{LINE_BYTES, Line, Stream};
use crate::dashboard::runner::{BATCH_BYTES, Batch};

/// How long a head is.
const HEAD_BYTES: usize = 4 + 1 + 1 + 4 + 8;
/// Lines are gathered into one block up to this many bytes.
const BLOCK_BYTES: usize = 64 << 10;
/// How much is read at once.
const READ_BYTES: usize = 256 << 10;

fn number(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
        Stream::Merged => 2,
        Stream::Note => 3,
    }
}

fn stream(number: u8) -> Option<Stream> {
    [Stream::Stdout, Stream::Stderr, Stream::Merged, Stream::Note]
        .into_iter()
        .find(|stream| self::number(*stream) == number)
}

/// Why an output cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// It cannot be read now.
    #[error("{0:#}")]
    Io(anyhow::Error),
    /// It is not what was written; reading it again does not help. The text says in what way.
    #[error("{0}")]
    Damaged(String),
}

/// Where the lines of a block came from, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) stream: Stream,
    pub(super) attempt: u32,
    /// In microseconds since 1970.
    pub(super) at_us: i64,
}

/// Appends lines to a job's output.
pub(super) struct Writer {
    file: File,
    /// Blocks that are not written yet.
    buffer: Vec<u8>,
    /// Where the length of the block stands in the buffer that takes more lines, and what its head says.
    open: Option<(usize, Head)>,
}

impl Writer {
    /// Opens the file, or makes it. The end of a block that was never finished is cut off.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let attempt = || {
            let file = File::options()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .open(path)?;
            let whole = whole_blocks(&file)?;
            if whole < file.metadata()?.len() {
                file.set_len(whole)?;
            }
            Ok::<_, io::Error>(file)
        };
        Ok(Self {
            file: attempt().with_context(|| format!("open `{}`", path.display()))?,
            buffer: Vec::new(),
            open: None,
        })
    }

    /// Adds a line; it is in the file after [`Writer::flush`].
    pub(super) fn line(&mut self, head: Head, partial: bool, line: &[u8]) {
        let fits = |start: usize| self.buffer.len() - start - HEAD_BYTES + line.len() < BLOCK_BYTES;
        let start = match self.open {
            Some((start, open)) if open == head && !partial && fits(start) => start,
            _ => {
                let start = self.buffer.len();
                self.buffer.put_u32_le(0);
                self.buffer.put_u8(number(head.stream));
                self.buffer.put_u8(u8::from(partial));
                self.buffer.put_u32_le(head.attempt);
                self.buffer.put_i64_le(head.at_us);
                start
            }
        };
        self.buffer.put_slice(line);
        if !partial {
            self.buffer.put_u8(b'\n');
        }
        self.open = (!partial).then_some((start, head));
        let length = u32::try_from(self.buffer.len() - start - HEAD_BYTES).unwrap_or(u32::MAX);
        self.buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Writes what was added.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.open = None;
        let written = self.file.write_all(&self.buffer);
        self.buffer.clear();
        written
    }
}

/// Returns how many bytes at the beginning of a file are whole blocks.
fn whole_blocks(file: &File) -> io::Result<u64> {
    use std::os::unix::fs::FileExt as _;
    let length = file.metadata()?.len();
    let mut at = 0;
    loop {
        let mut head = [0; 4];
        if at + HEAD_BYTES as u64 > length {
            return Ok(at);
        }
        file.read_exact_at(&mut head, at)?;
        let next = at + HEAD_BYTES as u64 + u64::from(u32::from_le_bytes(head));
        if next > length {
            return Ok(at);
        }
        at = next;
    }
}

/// Takes the first block out of a buffer: its head, whether it is one line that goes on, and its lines; nothing where it
/// is not whole yet.
fn take_block(buffer: &mut BytesMut) -> Result<Option<(Head, bool, Bytes)>, &'static str> {
    if buffer.len() < HEAD_BYTES {
        return Ok(None);
    }
    let mut head = &buffer[..HEAD_BYTES];
    let length = head.get_u32_le() as usize;
    let stream = stream(head.get_u8());
    let partial = head.get_u8();
    let attempt = head.get_u32_le();
    let at_us = head.get_i64_le();
    let (Some(stream), true) = (stream, (1..=LINE_BYTES + 1).contains(&length) && partial <= 1) else {
        return Err("there is something else where the head of a block should be");
    };
    if buffer.len() < HEAD_BYTES + length {
        // The rest may be a long line: room for it at once saves moving it.
        buffer.reserve(HEAD_BYTES + length - buffer.len());
        return Ok(None);
    }
    let partial = partial == 1;
    if !partial && buffer[HEAD_BYTES + length - 1] != b'\n' {
        return Err("a block ends within a line");
    }
    buffer.advance(HEAD_BYTES);
    let lines = buffer.split_to(length).freeze();
    let head = Head { stream, attempt, at_us };
    Ok(Some((head, partial, lines)))
}

/// Cuts a block's lines apart and numbers them from `next` on.
fn cut(head: Head, partial: bool, mut rest: Bytes, next: u64, out: &mut Vec<Line>) {
    let line = |number, partial, bytes| Line {
        number,
        at_us: head.at_us,
        attempt: head.attempt,
        stream: head.stream,
        partial,
        bytes,
    };
    if partial {
        out.push(line(next, true, rest));
        return;
    }
    let mut number = next;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let bytes = rest.split_to(end);
        rest.advance(1);
        out.push(line(number, false, bytes));
        number += 1;
    }
}

fn io(path: &Path, error: io::Error) -> ReadError {
    ReadError::Io(anyhow::Error::new(error).context(format!("read `{}`", path.display())))
}

/// Reads a job's output from a position on.
pub(super) struct Reader {
    path: PathBuf,
    file: Option<tokio::fs::File>,
    buffer: BytesMut,
    position: u64,
    next: u64,
}

impl Reader {
    /// Begins at a position, with the number that the next line has. Nothing is opened yet: there may be no file.
    ///
    /// # Errors
    /// The position is not one of this file's.
    pub(super) fn new(path: PathBuf, position: &str, next: u64) -> Result<Self> {
        let position = match position {
            "" => 0,
            text => text
                .parse()
                .with_context(|| format!("`{text}` is no position in an output"))?,
        };
        Ok(Self {
            path,
            file: None,
            buffer: BytesMut::new(),
            position,
            next,
        })
    }

    /// Returns lines that are there and were not read yet; nothing where there are none.
    pub(super) async fn read(&mut self) -> Result<Option<Batch>, ReadError> {
        if self.file.is_none() {
            let mut file = match tokio::fs::File::open(&self.path).await {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(io(&self.path, error)),
            };
            let length = file.metadata().await.map_err(|error| io(&self.path, error))?.len();
            if self.position > length {
                return Err(ReadError::Damaged("its file is shorter than it was".to_owned()));
            }
            file.seek(io::SeekFrom::Start(self.position))
                .await
                .map_err(|error| io(&self.path, error))?;
            file.set_max_buf_size(READ_BYTES);
            self.file = Some(file);
        }
        loop {
            if let Some(batch) = self.take()? {
                return Ok(Some(batch));
            }
            let Some(file) = &mut self.file else { return Ok(None) };
            // What a slow program writes shares one allocation; what a fast one writes is read in large pieces.
            if self.buffer.capacity() - self.buffer.len() < 4 << 10 {
                self.buffer.reserve(READ_BYTES);
            }
            if file
                .read_buf(&mut self.buffer)
                .await
                .map_err(|error| io(&self.path, error))?
                == 0
            {
                return Ok(None);
            }
        }
    }

    fn take(&mut self) -> Result<Option<Batch>, ReadError> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            let block = match take_block(&mut self.buffer) {
                Ok(Some(block)) => block,
                Ok(None) => break,
                // What is before it is good.
                Err(_) if !lines.is_empty() => break,
                Err(why) => {
                    return Err(ReadError::Damaged(format!(
                        "at byte {} of its file {why}",
                        self.position
                    )));
                }
            };
            let (head, partial, text) = block;
            self.position += (HEAD_BYTES + text.len()) as u64;
            bytes += text.len();
            let before = lines.len();
            cut(head, partial, text, self.next, &mut lines);
            self.next += (lines.len() - before) as u64;
        }
        Ok((!lines.is_empty()).then(|| Batch {
            lines,
            position: self.position.to_string(),
        }))
    }

    /// Returns the number that the next line has.
    pub(super) fn next(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(at_us: i64) -> Head {
        Head {
            stream: Stream::Stderr,
            attempt: 3,
            at_us,
        }
    }

    async fn all(path: &Path, position: &str, next: u64) -> Result<(Vec<Line>, String)> {
        let mut reader = Reader::new(path.to_owned(), position, next)?;
        let mut out = (Vec::new(), position.to_owned());
        while let Some(batch) = reader.read().await? {
            out.0.extend(batch.lines);
            out.1 = batch.position;
        }
        Ok(out)
    }

    #[tokio::test]
    async fn lines_are_read_as_they_were_written_from_every_position() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("output.log");
        assert_eq!(all(&path, "", 1).await.expect("no file yet").0, []);
        let mut writer = Writer::open(&path).expect("opened");
        let long = vec![b'x'; LINE_BYTES];
        let mut written = Vec::new();
        let mut reader = Reader::new(path.clone(), "", 1).expect("a reader");
        let mut positions = vec![(String::new(), 0)];
        let mut read = Vec::new();
        for (time, lines) in [
            vec![(false, &b"one"[..]), (false, b""), (true, &long), (false, b"\xff\x00")],
            vec![(false, &long), (false, b"after")],
            vec![(true, &long), (true, &long)],
        ]
        .into_iter()
        .enumerate()
        {
            let at = i64::try_from(time).expect("small") - 1;
            for (partial, line) in lines {
                writer.line(head(at), partial, line);
                written.push((at, partial, line.to_vec()));
            }
            writer.flush().expect("written");
            while let Some(batch) = reader.read().await.expect("read") {
                read.extend(batch.lines);
                positions.push((batch.position, read.len()));
            }
        }
        let shape = |line: &Line| (line.at_us, line.partial, line.bytes.to_vec());
        assert_eq!(read.iter().map(shape).collect::<Vec<_>>(), written);
        assert_eq!(
            read.iter().map(|line| line.number).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5, 6, 7, 8]
        );
        assert!(
            read.iter()
                .all(|line| line.attempt == 3 && line.stream == Stream::Stderr)
        );
        assert!(positions.len() > 3, "{positions:?}");
        for (position, seen) in positions {
            let (rest, _) = all(&path, &position, seen as u64 + 1).await.expect("read");
            assert_eq!(rest, read[seen..], "from {position}");
        }
        for wrong in ["x", "-1", "99999999"] {
            assert!(all(&path, wrong, 1).await.is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn many_short_lines_cost_little() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("output.log");
        let mut writer = Writer::open(&path).expect("opened");
        for _ in 0..100_000 {
            writer.line(head(1), false, b"");
        }
        writer.flush().expect("written");
        assert!(path.metadata().expect("there").len() < 100_100);
        assert_eq!(all(&path, "", 1).await.expect("read").0.len(), 100_000);
    }

    #[tokio::test]
    async fn a_block_that_is_not_whole_is_waited_for_and_cut_off_by_the_next_writer() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("output.log");
        let mut writer = Writer::open(&path).expect("opened");
        writer.line(head(1), false, b"whole");
        writer.flush().expect("written");
        let whole = path.metadata().expect("there").len();
        writer.line(head(2), false, b"torn");
        writer.flush().expect("written");
        let file = File::options().write(true).open(&path).expect("open");
        for left in [whole + 3, whole + HEAD_BYTES as u64, whole + HEAD_BYTES as u64 + 4] {
            file.set_len(left).expect("cut");
            assert_eq!(all(&path, "", 1).await.expect("read").0.len(), 1, "{left}");
        }
        let mut writer = Writer::open(&path).expect("opened");
        writer.line(head(3), false, b"next");
        writer.flush().expect("written");
        let (lines, _) = all(&path, "", 1).await.expect("read");
        assert_eq!(
            lines.iter().map(|line| &line.bytes[..]).collect::<Vec<_>>(),
            [&b"whole"[..], b"next"]
        );
    }

    #[test]
    fn no_bytes_at_all_make_the_parser_panic_or_go_on_for_ever() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let noise = seed.to_le_bytes();
            let mut buffer = BytesMut::new();
            // Half of them begin like a block, so that what is behind a head is reached too.
            if seed.is_multiple_of(2) {
                buffer.put_u32_le(u32::from(noise[0] % 16));
                buffer.put_slice(&[noise[1] % 5, noise[2] % 3]);
            }
            buffer.put_slice(&noise.repeat(5));
            while let Ok(Some((head, partial, text))) = take_block(&mut buffer) {
                let mut lines = Vec::new();
                cut(head, partial, text.clone(), 1, &mut lines);
                let bytes: usize = lines
                    .iter()
                    .map(|line| line.bytes.len() + usize::from(!line.partial))
                    .sum();
                assert_eq!(bytes, text.len());
            }
        }
    }
}
