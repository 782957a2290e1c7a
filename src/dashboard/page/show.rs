//! How times, durations and states look on a page. `assets/ui/show.js` says the same for what changes while one looks.

use jiff::Timestamp;
use maud::{Markup, html};

use super::files;
use crate::dashboard::job::{Job, State};

/// Returns a time as everybody reads it, in UTC.
pub(super) fn clock(ms: i64) -> String {
    Timestamp::from_millisecond(ms)
        .map(|time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
        .unwrap_or_default()
}

/// Returns a time as programs read it.
pub(super) fn machine(ms: i64) -> String {
    Timestamp::from_millisecond(ms)
        .map(|time| time.to_string())
        .unwrap_or_default()
}

/// Returns a duration with two units at most: `850 ms`, `3.2 s`, `4 min 05 s`, `2 h 10 min`, `3 d 4 h`.
pub(super) fn length(ms: i64) -> String {
    let ms = ms.max(0);
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..10 => format!("{seconds}.{} s", ms % 1000 / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Returns how long ago a time is, with one unit; after a month, the date.
pub(super) fn age(ms: i64, now_ms: i64) -> String {
    let seconds = (now_ms - ms).max(0) / 1000;
    match seconds {
        0..5 => "just now".to_owned(),
        5..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        172_800..2_592_000 => format!("{} d ago", seconds / 86_400),
        _ => clock(ms).chars().take(10).collect(),
    }
}

/// Shows how long ago a time is; the script keeps it fresh and puts the reader's own time zone into the title.
pub(super) fn ago(ms: i64, now_ms: i64) -> Markup {
    html! { time datetime=(machine(ms)) title=(clock(ms)) data-ago { (age(ms, now_ms)) } }
}

/// Returns how long a job ran so far, or nothing where it never did.
pub(super) fn ran(job: &Job, now_ms: i64) -> Option<i64> {
    Some(job.finished_ms.unwrap_or(now_ms) - job.started_ms?)
}

/// Shows how long a job runs or ran.
pub(super) fn duration(job: &Job, now_ms: i64) -> Markup {
    let Some(ran) = ran(job, now_ms) else {
        return html! { span.none { "–" } };
    };
    html! {
        @if job.finished_ms.is_some() {
            (length(ran))
        } @else {
            span data-since=(job.started_ms.unwrap_or(now_ms)) { (length(ran)) }
        }
    }
}

/// Shows a picture of `icons.svg`; text beside it says the same.
pub(super) fn icon(name: &str) -> Markup {
    html! { svg.icon aria-hidden="true" { use href={ (files::url("icons.svg")) "#" (name) } {} } }
}

/// Shows a state, by shape and by word; colour only repeats it.
pub(super) fn state(state: State) -> Markup {
    html! { span class={ "state " (state) } { (icon(state.name())) span { (state) } } }
}

/// Shows a text of our own in which code stands between backticks.
pub(super) fn said(text: &str) -> Markup {
    html! {
        @for (place, part) in text.split('`').enumerate() {
            @if place % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// Returns a number of jobs as words.
pub(super) fn jobs(count: usize) -> String {
    if count == 1 {
        "1 job".to_owned()
    } else {
        format!("{count} jobs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (ms, text) in [
            (-5, "0 ms"),
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (9_999, "9.9 s"),
            (10_000, "10 s"),
            (245_000, "4 min 05 s"),
            (7_800_000, "2 h 10 min"),
            (273_600_000, "3 d 4 h"),
            (i64::MAX, "106751991167 d 7 h"),
        ] {
            assert_eq!(length(ms), text);
        }
    }

    #[test]
    fn ages_have_one_unit_and_end_in_a_date() {
        let now = 1_764_100_800_000;
        for (before, text) in [
            (-60_000, "just now"),
            (4_999, "just now"),
            (5_000, "5 s ago"),
            (60_000, "1 min ago"),
            (3_600_000, "1 h ago"),
            (172_800_000, "2 d ago"),
            (2_592_000_000, "2025-10-26"),
        ] {
            assert_eq!(age(now - before, now), text);
        }
        assert_eq!(clock(now), "2025-11-25 20:00:00 UTC");
        assert_eq!(machine(now), "2025-11-25T20:00:00Z");
    }

    #[test]
    fn every_state_has_a_picture() {
        let icons = crate::assets::text("assets/ui/icons.svg").expect("icons");
        for state in State::ALL {
            assert!(icons.contains(&format!("id=\"{state}\"")), "{state}");
        }
    }
}
