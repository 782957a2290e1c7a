//! Logs that are read in every way they can be cut.

use super::*;
use crate::dashboard::log::LINE_BYTES;

/// A log as the kubelet has it: when each line was written, in nanoseconds, and its text.
fn log(lines: &[(i64, &str)]) -> Vec<(i64, Vec<u8>)> {
    lines.iter().map(|(at, text)| (*at, text.as_bytes().to_vec())).collect()
}

/// What the log API answers.
fn answer(log: &[(i64, Vec<u8>)], since: Option<i64>) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, text) in log {
        if since.is_some_and(|since| *at < since * SECOND_NS) {
            continue;
        }
        let time = jiff::Timestamp::from_nanosecond(i128::from(*at)).expect("a time");
        out.extend_from_slice(format!("{time:.9} ").as_bytes());
        out.extend_from_slice(text);
        out.push(b'\n');
    }
    out
}

fn texts(reads: &[Read]) -> Vec<String> {
    let text = |read: &Read| match read {
        Read::Line { bytes, partial, .. } => {
            format!("{}{}", String::from_utf8_lossy(bytes), if *partial { "~" } else { "" })
        }
        Read::Rotated => "<rotated>".to_owned(),
        Read::Said(text) => format!("<{text}>"),
    };
    reads.iter().map(text).collect()
}

/// Reads an answer, of which only so many bytes came.
fn read(place: &Place, answer: &[u8], came: usize, whole: bool) -> (Place, Vec<Read>) {
    let mut out = Vec::new();
    // As a place is stored and read again.
    let place = place.to_string().parse().expect("a place");
    let mut decoder = Decoder::new(place);
    for part in answer[..came].chunks(7) {
        decoder.push(part, &mut out);
    }
    if whole {
        let place = decoder.finish(&mut out);
        return (place, out);
    }
    (decoder.place().clone(), out)
}

fn begin() -> Place {
    Place::default().next((1_700_000_000_000, "0b7e-11".to_owned()))
}

const T: i64 = 1_700_000_000 * SECOND_NS;

/// Lines of one moment, of one second, of the second after, and one that is late.
fn tricky() -> Vec<(i64, Vec<u8>)> {
    log(&[
        (T, "a"),
        (T + 999_999_999, "b"),
        (T + 999_999_999, "c"),
        (T + 999_999_999, ""),
        (T + SECOND_NS, "e"),
        (T + SECOND_NS + 5, "f \u{fffd}"),
        (T + SECOND_NS + 5, "f \u{fffd}"),
        (T + SECOND_NS + 3, "late"),
        (T + SECOND_NS + 9, "h"),
        (T + 3 * SECOND_NS, "i"),
    ])
}

#[test]
fn wherever_it_is_cut_nothing_is_lost_or_repeated() {
    let log = tricky();
    let all = answer(&log, None);
    let (_, expected) = read(&begin(), &all, all.len(), true);
    assert_eq!(expected.len(), log.len());
    for first in 0..=all.len() {
        let (place, mut found) = read(&begin(), &all, first, false);
        let rest = answer(&log, place.since());
        // And cut a second time, in the repetition or behind it.
        for second in (0..=rest.len()).step_by(3) {
            let (place, more) = read(&place, &rest, second, false);
            let last = answer(&log, place.since());
            let (_, end) = read(&place, &last, last.len(), true);
            let whole = [found.clone(), more, end].concat();
            assert_eq!(whole, expected, "cut at {first} and {second}");
        }
        let (_, more) = read(&place, &rest, rest.len(), true);
        found.extend(more);
        assert_eq!(found, expected, "cut at {first}");
    }
}

#[test]
fn times_are_kept_to_the_microsecond_and_bytes_as_they_are() {
    let log = vec![(T + 123_456_789, b"\xff\x00 two  words ".to_vec())];
    let all = answer(&log, None);
    let (place, found) = read(&begin(), &all, all.len(), true);
    assert_eq!(
        found,
        [Read::Line {
            at_us: (T + 123_456_789) / 1000,
            partial: false,
            bytes: Bytes::from_static(b"\xff\x00 two  words "),
        }]
    );
    assert_eq!(place.bytes, 15, "with its line end");
    // A kubelet in another time zone, with a shorter fraction.
    let mut out = Vec::new();
    Decoder::new(begin()).push(b"2023-11-15T00:13:20.5+02:00 x\n", &mut out);
    assert_eq!(
        out,
        [Read::Line {
            at_us: T / 1000 + 500_000,
            partial: false,
            bytes: Bytes::from_static(b"x"),
        }]
    );
}

#[test]
fn long_lines_go_on_between_their_pieces() {
    let long = vec![b'x'; 2 * LINE_BYTES + 3];
    let log = vec![
        (T, b"before".to_vec()),
        (T + 1, long),
        (T + 2, b"after".to_vec()),
        (T + 3, vec![b'y'; LINE_BYTES]),
    ];
    let all = answer(&log, None);
    let parts = |reads: &[Read]| -> Vec<(usize, bool)> {
        let of = |read: &Read| match read {
            Read::Line { bytes, partial, .. } => (bytes.len(), *partial),
            other => panic!("{other:?}"),
        };
        reads.iter().map(of).collect()
    };
    let expected = [
        (6, false),
        (LINE_BYTES, true),
        (LINE_BYTES, true),
        (3, false),
        (5, false),
        (LINE_BYTES, false),
    ];
    let (_, whole) = read(&begin(), &all, all.len(), true);
    assert_eq!(parts(&whole), expected);
    for came in [
        10,
        100,
        LINE_BYTES + 60,
        LINE_BYTES + 200,
        2 * LINE_BYTES + 80,
        2 * LINE_BYTES + 110,
        all.len() - 1,
    ] {
        let (place, mut found) = read(&begin(), &all, came, false);
        let rest = answer(&log, place.since());
        let (_, more) = read(&place, &rest, rest.len(), true);
        found.extend(more);
        assert_eq!(parts(&found), expected, "cut at {came}");
    }
}

#[test]
fn the_last_line_needs_no_end_once_everything_is_read() {
    let all = answer(&log(&[(T, "a"), (T + 1, "no end")]), None);
    let came = all.len() - 1;
    let (_, cut) = read(&begin(), &all, came, false);
    assert_eq!(texts(&cut), ["a"], "it may go on");
    let (place, whole) = read(&begin(), &all, came, true);
    assert_eq!(texts(&whole), ["a", "no end"]);
    let again = answer(&log(&[(T, "a"), (T + 1, "no end")]), place.since());
    assert_eq!(texts(&read(&place, &again, came, true).1), [] as [&str; 0]);
}

#[test]
fn a_rotated_log_is_told_where_lines_can_be_missing_and_only_there() {
    let before = log(&[(T, "a"), (T + 1, "b"), (T + 2, "c")]);
    let all = answer(&before, None);
    let (place, _) = read(&begin(), &all, all.len(), false);
    // The file was rotated, and nothing of it that was read is left.
    let rotated = log(&[(T + 500, "x"), (T + 2 * SECOND_NS, "y")]);
    let rest = answer(&rotated, place.since());
    let (after, found) = read(&place, &rest, rest.len(), false);
    assert_eq!(texts(&found), ["<rotated>", "x", "y"]);
    // It is told once.
    let again = answer(&rotated, after.since());
    assert_eq!(texts(&read(&after, &again, again.len(), false).1), [] as [&str; 0]);
    // A line that was read is in the new file, so everything behind it is.
    let overlapping = log(&[(T + 2, "c"), (T + 500, "x")]);
    let rest = answer(&overlapping, place.since());
    assert_eq!(texts(&read(&place, &rest, rest.len(), false).1), ["x"]);
    // Nothing new, so nothing to tell yet.
    assert_eq!(texts(&read(&place, b"", 0, true).1), [] as [&str; 0]);
}

/// What the kubelet answers of a log whose lines containerd wrote in pieces: a time only where a line begins.
fn answer_of_pieces(lines: &[&[(i64, &str)]], since: Option<i64>) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        for (number, (at, text)) in line.iter().enumerate() {
            if since.is_some_and(|since| *at < since * SECOND_NS) {
                continue;
            }
            let end = if number + 1 == line.len() { "\n" } else { "" };
            let one = answer(&log(&[(*at, text)]), None);
            let begin = if number == 0 { 0 } else { one.len() - 1 - text.len() };
            out.extend_from_slice(&one[begin..one.len() - 1]);
            out.extend_from_slice(end.as_bytes());
        }
    }
    out
}

#[test]
fn the_end_of_a_long_line_that_began_a_second_earlier_is_not_read_twice() {
    let lines: &[&[(i64, &str)]] = &[
        &[(T, "before")],
        &[
            (T + SECOND_NS - 2, "one "),
            (T + SECOND_NS - 1, "two "),
            (T + SECOND_NS, "three"),
        ],
        &[(T + SECOND_NS + 1, "after")],
        &[
            (T + SECOND_NS + 2, "a "),
            (T + 2 * SECOND_NS, "b "),
            (T + 3 * SECOND_NS, "c"),
        ],
        &[(T + 3 * SECOND_NS + 1, "last")],
    ];
    let all = answer_of_pieces(lines, None);
    let (_, expected) = read(&begin(), &all, all.len(), true);
    assert_eq!(texts(&expected), ["before", "one two three", "after", "a b c", "last"]);
    for came in 0..=all.len() {
        let (place, mut found) = read(&begin(), &all, came, false);
        let rest = answer_of_pieces(lines, place.since());
        let (_, more) = read(&place, &rest, rest.len(), true);
        found.extend(more);
        assert_eq!(found, expected, "cut at {came}");
    }
    // That it was needed: such an answer begins in the middle of a line.
    let (place, _) = read(&begin(), &all, all.len(), false);
    let rest = answer_of_pieces(lines, place.since());
    assert!(rest.starts_with(b"c\n2023-"), "{}", String::from_utf8_lossy(&rest));
    // Where nothing follows, it is the kubelet that speaks.
    let (_, said) = read(&place, b"unable to retrieve container logs\n", 34, true);
    assert_eq!(texts(&said), ["<unable to retrieve container logs>"]);
}

#[test]
fn what_has_no_time_is_said_by_the_kubelet() {
    let mut all = answer(&log(&[(T, "a")]), None);
    all.extend_from_slice(b"failed to watch file: no space left\nunable\n");
    all.extend_from_slice(&answer(&log(&[(T + 1, "b")]), None));
    all.extend_from_slice(b"unable to retrieve container logs for containerd://1");
    let (place, found) = read(&begin(), &all, all.len(), true);
    assert_eq!(
        texts(&found),
        [
            "a",
            "<failed to watch file: no space left>",
            "<unable>",
            "b",
            "<unable to retrieve container logs for containerd://1>"
        ]
    );
    assert_eq!(place.seen, 2, "only lines of the program are counted");
    let mut junk = vec![b'z'; 100_000];
    junk.push(b'\n');
    let (_, found) = read(&begin(), &junk, junk.len(), true);
    assert!(
        matches!(&found[..], [Read::Said(text)] if text.len() == SAID_BYTES),
        "and not for long"
    );
}

#[test]
fn places_are_read_as_they_are_written() {
    let place = Place {
        attempt: 3,
        pod: (1_700_000_000_000, "6f0c".to_owned()),
        bytes: u64::MAX,
        newest_ns: T + 7,
        seen: 9,
        pieces: 2,
    };
    assert_eq!(place.to_string().parse(), Ok(place.clone()));
    assert_eq!("".parse(), Ok(Place::default()));
    for wrong in [
        "k1",
        "k2/1/1/x/1/1/1/1",
        "12345",
        "k1/1/1/x/y/1/1/1",
        "k1/1/1/x/1/1/1/1/1",
        "k1/-1/1/x/1/1/1/1",
    ] {
        assert_eq!(wrong.parse::<Place>(), Err(NotAPlace), "{wrong}");
    }
    let next = place.next((1_700_000_010_000, "9a".to_owned()));
    assert_eq!((next.attempt, next.bytes, next.since()), (4, u64::MAX, None));
}
