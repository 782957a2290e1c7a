//! The output of jobs: lines, numbered from 1 through all attempts of a job, so that a line's number is the place where a
//! viewer goes on.

pub mod hub;
pub mod level;
pub mod relay;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// How long a line may be; a longer one is cut into several, and all but the last say that they go on.
pub const LINE_BYTES: usize = 1 << 20;

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Not known: Kubernetes' log has both as one.
    Merged,
    /// Not a line of the job: the dashboard says something here, such as that lines are missing.
    Note,
}

impl Stream {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Stdout, Self::Stderr, Self::Merged, Self::Note];

    /// Returns its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Merged => "merged",
            Self::Note => "note",
        }
    }
}

/// A line of a job's output, without its line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number in the job, from 1.
    pub number: u64,
    /// When it was written, in microseconds since 1970.
    pub at_us: i64,
    /// The attempt that wrote it, from 1.
    pub attempt: u32,
    /// Where it was written to.
    pub stream: Stream,
    /// Whether the line goes on in the next one, because it is longer than [`LINE_BYTES`].
    pub partial: bool,
    /// What was written, as it was: not always UTF-8.
    pub bytes: Bytes,
}

/// A stored part of a job's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The number of its first line.
    pub first: u64,
    /// How many lines it has.
    pub lines: u64,
    /// How many bytes the lines have, line ends not counted.
    pub bytes: u64,
    /// Where the runner goes on reading after this part; only the runner knows what it means.
    pub position: String,
    /// The lines, compressed ([`Chunk::pack`]).
    pub data: Vec<u8>,
}

/// How many bytes a chunk may have when it is unpacked; what claims more is corrupt.
const UNPACKED_BYTES: usize = 64 << 20;
/// How hard the compressor tries: zstd's own default, a few hundred MB/s.
const LEVEL: i32 = 3;
/// What is before a line's bytes: length, stream, partial, attempt, time.
const HEAD_BYTES: usize = 4 + 1 + 1 + 4 + 8;

impl Stream {
    fn number(self) -> u8 {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
            Self::Merged => 2,
            Self::Note => 3,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Stdout, Self::Stderr, Self::Merged, Self::Note]
            .into_iter()
            .find(|stream| stream.number() == number)
    }
}

impl Chunk {
    /// Packs lines that follow each other; `position` is where the runner goes on after the last one.
    ///
    /// # Errors
    /// There are no lines, or the compressor fails.
    pub fn pack(lines: &[Line], position: impl Into<String>) -> Result<Self> {
        let first = lines.first().context("a part of a log without lines")?.number;
        let bytes: usize = lines.iter().map(|line| line.bytes.len()).sum();
        let mut buffer = Vec::with_capacity(bytes + lines.len() * HEAD_BYTES);
        for line in lines {
            buffer.put_u32_le(u32::try_from(line.bytes.len()).context("a line of more than 4 GiB")?);
            buffer.put_u8(line.stream.number());
            buffer.put_u8(u8::from(line.partial));
            buffer.put_u32_le(line.attempt);
            buffer.put_i64_le(line.at_us);
            buffer.put_slice(&line.bytes);
        }
        Ok(Self {
            first,
            lines: lines.len() as u64,
            bytes: bytes as u64,
            position: position.into(),
            data: zstd::bulk::compress(&buffer, LEVEL).context("compress a part of a log")?,
        })
    }

    /// Returns the lines.
    ///
    /// # Errors
    /// What is stored is no such part, or another one than it says.
    pub fn unpack(&self) -> Result<Vec<Line>> {
        let expected = usize::try_from(self.bytes)
            .ok()
            .zip(usize::try_from(self.lines).ok())
            .and_then(|(bytes, lines)| lines.checked_mul(HEAD_BYTES)?.checked_add(bytes))
            .filter(|expected| *expected <= UNPACKED_BYTES)
            .context("a part of a log claims to be too large")?;
        let mut rest = Bytes::from(zstd::bulk::decompress(&self.data, expected).context("unpack a part of a log")?);
        ensure!(rest.len() == expected, "a part of a log has another size than it says");
        let mut out = Vec::new();
        while rest.has_remaining() {
            ensure!(rest.len() >= HEAD_BYTES, "a part of a log ends within a line");
            let length = rest.get_u32_le() as usize;
            let Some(stream) = Stream::from_number(rest.get_u8()) else {
                bail!("a part of a log has a line of no known stream");
            };
            let partial = rest.get_u8() != 0;
            let attempt = rest.get_u32_le();
            let at_us = rest.get_i64_le();
            ensure!(rest.len() >= length, "a part of a log ends within a line");
            out.push(Line {
                number: self.first + out.len() as u64,
                at_us,
                attempt,
                stream,
                partial,
                bytes: rest.split_to(length),
            });
        }
        ensure!(
            out.len() as u64 == self.lines,
            "a part of a log has another number of lines than it says"
        );
        Ok(out)
    }
}

/// Cuts a stream of bytes into lines of at most [`LINE_BYTES`].
#[derive(Debug, Default)]
pub struct Cutter {
    rest: BytesMut,
    /// How much of `rest` is known to have no line end.
    seen: usize,
}

impl Cutter {
    /// Takes bytes and calls `line` with each line that they complete; `true` means that the line goes on.
    pub fn push(&mut self, bytes: &[u8], mut line: impl FnMut(Bytes, bool)) {
        self.rest.extend_from_slice(bytes);
        loop {
            let end = self.rest[self.seen..]
                .iter()
                .position(|byte| *byte == b'\n')
                .map(|at| self.seen + at);
            match end {
                Some(end) if end <= LINE_BYTES => {
                    let whole = self.rest.split_to(end).freeze();
                    self.rest.advance(1);
                    line(whole, false);
                }
                _ if self.rest.len() > LINE_BYTES => line(self.rest.split_to(LINE_BYTES).freeze(), true),
                _ => {
                    self.seen = self.rest.len();
                    return;
                }
            }
            self.seen = 0;
        }
    }

    /// Returns what was written last without a line end.
    pub fn finish(&mut self) -> Option<Bytes> {
        self.seen = 0;
        (!self.rest.is_empty()).then(|| self.rest.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64, bytes: &[u8]) -> Line {
        Line {
            number,
            at_us: -5,
            attempt: 2,
            stream: Stream::Stderr,
            partial: number.is_multiple_of(2),
            bytes: Bytes::copy_from_slice(bytes),
        }
    }

    #[test]
    fn a_chunk_is_unpacked_as_it_was_packed() {
        let big = vec![b'x'; LINE_BYTES];
        let lines = [line(7, b""), line(8, b"\xff\x00\n"), line(9, &big)];
        let chunk = Chunk::pack(&lines, "here").expect("packed");
        assert_eq!((chunk.first, chunk.lines, chunk.bytes), (7, 3, 3 + (1 << 20)));
        assert!(chunk.data.len() < 1000, "it is compressed");
        assert_eq!(chunk.unpack().expect("unpacked"), lines);
        assert!(Chunk::pack(&[], "").is_err());
    }

    #[test]
    fn a_corrupt_chunk_is_an_error_and_no_panic() {
        let whole = Chunk::pack(&[line(1, b"hello"), line(2, b"world")], "").expect("packed");
        for place in 0..whole.data.len() {
            let mut broken = whole.clone();
            broken.data[place] ^= 0x55;
            // A flipped bit in a time cannot be noticed; nothing may panic, and the shape must hold.
            if let Ok(lines) = broken.unpack() {
                assert_eq!(lines.len(), 2);
            }
        }
        for (lines, bytes) in [(1, 10), (2, 9), (u64::MAX, 0), (0, u64::MAX), (0, 0)] {
            let broken = Chunk {
                lines,
                bytes,
                ..whole.clone()
            };
            assert!(broken.unpack().is_err(), "{lines} {bytes}");
        }
    }

    fn cut(parts: &[&[u8]]) -> Vec<(usize, bool)> {
        let mut out = Vec::new();
        let mut cutter = Cutter::default();
        for part in parts {
            cutter.push(part, |line, partial| out.push((line.len(), partial)));
        }
        out.extend(cutter.finish().map(|rest| (rest.len(), false)));
        out
    }

    #[test]
    fn lines_are_cut_at_their_ends_wherever_the_parts_are() {
        assert_eq!(
            cut(&[b"a\n\nbc", b"d\ne"]),
            [(1, false), (0, false), (3, false), (1, false)]
        );
        assert_eq!(cut(&[]), []);
        let exact = [vec![b'x'; LINE_BYTES], b"\n".to_vec()].concat();
        assert_eq!(cut(&[&exact]), [(LINE_BYTES, false)]);
        let long = vec![b'x'; 2 * LINE_BYTES + 5];
        let expected = [(LINE_BYTES, true), (LINE_BYTES, true), (5, false)];
        assert_eq!(cut(&[&long]), expected);
        let parts: Vec<&[u8]> = long.chunks(4096).collect();
        assert_eq!(cut(&parts), expected);
    }
}
