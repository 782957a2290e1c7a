//! What must hold for any bytes. Fuzz targets and the test of the seeds call these.

use bytes::Bytes;
use jiff::Timestamp;
use labctl::dashboard::http::query::{Acts, AfterSeal, At, List, Log, Occurrences, Wrong, duration_ms};
use labctl::dashboard::job::JobId;
use labctl::dashboard::job::spec::Spec;
use labctl::dashboard::log::level::Level;
use labctl::dashboard::log::{Chunk, Cutter, LINE_BYTES, Line, Stream};
use labctl::prose::config::Config;
use labctl::prose::{Checker, Selection};

/// A moment that does not move, for what is relative.
fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).expect("a time")
}

/// A cursor leads to the job that it was made of, in its own list alone; anything else is refused.
pub(crate) fn cursor(data: &[u8]) {
    let filters = ["", "state=failed&", "q=a%26b&label=a%3Db&"];
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(list) = List::parse(&format!("cursor={text}"), now())
        && let Some(after) = list.after
    {
        let again = List::parse(&format!("cursor={}", list.cursor(after)), now());
        assert_eq!(again.expect("its own cursor").after, Some(after));
    }
    let Some(id) = data
        .first_chunk::<8>()
        .and_then(|id| JobId::from_number(i64::from_be_bytes(*id)))
    else {
        return;
    };
    for (place, filter) in filters.iter().enumerate() {
        let list = List::parse(filter, now()).expect("a good filter");
        let cursor = list.cursor(id);
        let next = List::parse(&list.next(&cursor), now()).expect("its own cursor");
        assert_eq!((next.after, next.filter), (Some(id), list.filter));
        let other = filters[(place + 1) % filters.len()];
        let elsewhere = List::parse(&format!("{other}cursor={cursor}"), now());
        assert_eq!(elsewhere.expect_err("of another list"), Wrong::Cursor);
    }
}

/// A query is refused or understood, and the query of the next page means the same list.
pub(crate) fn filter(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else { return };
    _ = Log::parse(query, now());
    _ = Occurrences::parse(query, now());
    _ = At::parse(query);
    _ = Acts::parse(query);
    _ = AfterSeal::parse(query);
    assert!(duration_ms(query).is_none_or(|ms| ms >= 0));
    let Ok(list) = List::parse(query, now()) else { return };
    let id = JobId::from_number(1 << 50).expect("an id");
    let next = List::parse(&list.next(&list.cursor(id)), now()).expect("the next page of a list that was understood");
    assert_eq!(
        (next.filter, next.limit, next.after),
        (list.filter, list.limit, Some(id))
    );
}

/// A stored part that is read has the lines that it says, and is stored the same again; lines are cut at the same places
/// however their bytes come.
pub(crate) fn frames(data: &[u8]) {
    // Whatever is written, a line has a level or none, and the same one with a line end.
    let line = data.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = &line[..line.len().min(60_000)];
    assert_eq!(Level::of(line), Level::of(&[line, b"\r".as_slice()].concat()));
    if let Some((head, rest)) = data.split_first_chunk::<4>() {
        let [lines, bytes, more, step] = *head;
        let chunk = Chunk {
            first: 1,
            lines: lines.into(),
            bytes: u64::from(bytes) | (u64::from(more) << 8),
            position: String::new(),
            data: rest.to_vec(),
        };
        if let Ok(unpacked) = chunk.unpack() {
            assert_eq!(unpacked.len() as u64, chunk.lines);
            if !unpacked.is_empty() {
                let again = Chunk::pack(&unpacked, "").expect("packed").unpack();
                assert_eq!(again.expect("unpacked"), unpacked);
            }
        }
        let cut = |parts: &mut dyn Iterator<Item = &[u8]>| {
            let mut lines: Vec<(Bytes, bool)> = Vec::new();
            let mut cutter = Cutter::default();
            for part in parts {
                cutter.push(part, |line, partial| lines.push((line, partial)));
            }
            let end = cutter.finish();
            (lines, end)
        };
        let (lines, end) = cut(&mut std::iter::once(rest));
        assert_eq!(
            (lines.clone(), end.clone()),
            cut(&mut rest.chunks(usize::from(step) + 1))
        );
        let mut joined = Vec::new();
        for (line, partial) in &lines {
            assert!(line.len() <= LINE_BYTES);
            joined.extend_from_slice(line);
            if !partial {
                joined.push(b'\n');
            }
        }
        joined.extend_from_slice(&end.unwrap_or_default());
        assert_eq!(joined, rest, "every byte is in a line");
        let packed: Vec<Line> = (1..)
            .zip(&lines)
            .map(|(number, (bytes, partial))| Line {
                number,
                at_us: i64::from(step) - 99,
                attempt: 1,
                stream: Stream::Stdout,
                partial: *partial,
                bytes: bytes.clone(),
            })
            .collect();
        if !packed.is_empty() {
            assert_eq!(
                Chunk::pack(&packed, "").expect("packed").unpack().expect("unpacked"),
                packed
            );
        }
    }
}

/// A document is refused or understood; one that is understood is written and read as the same, and one that is good has
/// a name that can be one.
pub(crate) fn spec(data: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Spec>(data) else {
        return;
    };
    let faults = spec.faults();
    let json = serde_json::to_vec(&spec).expect("JSON");
    assert_eq!(serde_json::from_slice::<Spec>(&json).expect("what was written"), spec);
    if faults.is_empty() {
        assert!(!spec.name.is_empty() && spec.name.len() <= 63 && !spec.command.is_empty());
    }
    for fault in faults {
        // Every pointer leads to something in the document, be it only the document itself.
        let value: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        let parent = fault.pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
        assert!(value.pointer(parent).is_some(), "{}", fault.pointer);
    }
}

/// Any text is read without a panic, and what is mended is text.
pub(crate) fn prose(data: &[u8]) {
    use std::sync::LazyLock;
    static CHECKER: LazyLock<Checker> = LazyLock::new(|| Checker::new(Config::new("/nowhere"), &Selection::default()));
    _ = CHECKER.check(std::path::Path::new("/nowhere/text.md"), data);
}
