use serde_json::json;

use super::*;

fn schedule(cron: &str, zone: &str, catch_up: u32) -> Schedule {
    let document = json!({
        "name": "s", "cron": cron, "time_zone": zone, "catch_up_seconds": catch_up,
        "job": {"name": "x", "command": ["true"]},
    });
    serde_json::from_value(document).expect("a schedule")
}

fn ms(text: &str) -> i64 {
    text.parse::<Timestamp>().expect("a time").as_millisecond()
}

fn times(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let timing = schedule(cron, zone, 0).timing().expect("good");
    let times = timing.upcoming(ms(after), count).into_iter();
    times.map(|at| timing.local(at)).collect()
}

#[test]
fn a_time_that_a_clock_leaves_out_comes_right_after_the_gap() {
    // Berlin's clocks go from 02:00 to 03:00 on 2026-03-29.
    assert_eq!(
        times("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
        [
            "Sat 2026-03-28 02:30 +01:00",
            "Sun 2026-03-29 03:00 +02:00",
            "Mon 2026-03-30 02:30 +02:00"
        ]
    );
    // Every half hour there are two an hour, and none in an hour that is not there.
    assert_eq!(
        times("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:15:00Z", 3),
        [
            "Sun 2026-03-29 01:30 +01:00",
            "Sun 2026-03-29 03:00 +02:00",
            "Sun 2026-03-29 03:30 +02:00"
        ]
    );
}

#[test]
fn a_time_that_a_clock_shows_twice_comes_once_and_an_interval_twice() {
    // Berlin's clocks go from 03:00 back to 02:00 on 2026-10-25.
    assert_eq!(
        times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
        ["Sun 2026-10-25 02:30 +02:00", "Mon 2026-10-26 02:30 +01:00"]
    );
    assert_eq!(
        times("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:59:00Z", 6),
        [
            "Sun 2026-10-25 02:00 +02:00",
            "Sun 2026-10-25 02:30 +02:00",
            "Sun 2026-10-25 02:00 +01:00",
            "Sun 2026-10-25 02:30 +01:00",
            "Sun 2026-10-25 03:00 +01:00",
            "Sun 2026-10-25 03:30 +01:00"
        ]
    );
}

#[test]
fn looking_back_finds_what_looking_forward_finds() {
    for zone in [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
    ] {
        for cron in [
            "30 2 * * *",
            "0 */6 * * *",
            "15 1 * * SUN",
            "0 0 1 * *",
            "*/20 1-3 * * *",
        ] {
            let timing = schedule(cron, zone, 0).timing().expect("good");
            let mut at = ms("2026-01-01T00:00:00Z");
            let end = ms("2026-12-31T00:00:00Z");
            while at < end {
                let next = timing.next(at).expect("there is a next one");
                assert!(next > at, "{cron} in {zone} goes on");
                let shown = timing.local(next);
                assert_eq!(timing.latest(next), Some(next), "{cron} in {zone} at {shown}");
                assert_eq!(
                    timing.latest(next + 59_999),
                    Some(next),
                    "{cron} in {zone} after {shown}"
                );
                if at != ms("2026-01-01T00:00:00Z") {
                    assert_eq!(timing.latest(next - 1), Some(at), "{cron} in {zone} before {shown}");
                }
                at = next;
            }
        }
    }
}

#[test]
fn each_occurrence_is_due_once() {
    let hourly = schedule("0 * * * *", "UTC", 0);
    let timing = hourly.timing().expect("good");
    let (noon, one) = (ms("2026-06-01T12:00:00Z"), ms("2026-06-01T13:00:00Z"));
    assert_eq!(hourly.due(&timing, &[noon - 1], noon - 1), Due::Nothing);
    assert_eq!(hourly.due(&timing, &[noon - 1], noon), Due::Run(noon));
    assert_eq!(hourly.due(&timing, &[noon], noon), Due::Nothing, "it is done");
    assert_eq!(hourly.due(&timing, &[noon], noon + 3_599_999), Due::Nothing);
    assert_eq!(hourly.due(&timing, &[noon], one), Due::Run(one));
    // The clock is set back: what is done stays done.
    for back in [1, 60_000, 3_600_000, 12 * 3_600_000] {
        assert_eq!(
            hourly.due(&timing, &[noon], noon - back),
            Due::Nothing,
            "{back} ms back"
        );
    }
    // A schedule that was changed or resumed begins from then.
    assert_eq!(hourly.due(&timing, &[noon, one + 1], one + 2), Due::Nothing);
}

#[test]
fn of_what_was_missed_one_is_made_up_for_within_the_limit() {
    let noon = ms("2026-06-01T12:00:00Z");
    let days = 24 * 3_600_000;
    for (catch_up, late, expected) in [
        // Another server had to take over first.
        (0, ON_TIME_MS, Due::Run(noon)),
        (0, ON_TIME_MS + 1, Due::Missed(noon)),
        (600, 600_000, Due::Run(noon)),
        (600, 600_001, Due::Missed(noon)),
    ] {
        let daily = schedule("0 12 * * *", "UTC", catch_up);
        let timing = daily.timing().expect("good");
        // A week without a server, or a clock that was set forward: six more were missed.
        assert_eq!(
            daily.due(&timing, &[noon - 7 * days], noon + late),
            expected,
            "{catch_up} {late}"
        );
        // What is said to be done now is done.
        assert_eq!(daily.due(&timing, &[noon], noon + late), Due::Nothing);
    }
}

#[test]
fn a_clock_that_was_far_ahead_once_stops_nothing_for_ever() {
    let hourly = schedule("0 * * * *", "UTC", 3600);
    let timing = hourly.timing().expect("good");
    let noon = ms("2026-06-01T12:00:00Z");
    let ahead = ms("2099-01-01T00:00:00Z");
    assert_eq!(hourly.due(&timing, &[ahead], noon), Due::Run(noon));
    assert_eq!(
        hourly.due(&timing, &[ahead], noon + ON_TIME_MS),
        Due::Nothing,
        "nothing old is dug up"
    );
    assert_eq!(hourly.due(&timing, &[noon, ahead], noon + 1), Due::Nothing);
}

#[test]
fn what_is_no_schedule_is_told_with_its_place() {
    let now = ms("2026-06-01T12:00:00Z");
    let pointers = |change: Value| -> Vec<String> {
        let mut document = json!({"name": "s", "cron": "* * * * *", "job": {"name": "x", "command": ["true"]}});
        for (key, value) in change.as_object().expect("an object") {
            document[key] = value.clone();
        }
        let schedule: Schedule = serde_json::from_value(document).expect("it parses");
        schedule.faults(now).into_iter().map(|fault| fault.pointer).collect()
    };
    assert_eq!(pointers(json!({})), [] as [&str; 0]);
    for cron in [
        "",
        "* * * *",
        "* * * * * *",
        "0 0 * * * * 2026",
        "@daily",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 9",
        "a b c d e",
        "*/0 * * * *",
        "5-1 * * * *",
        "0 0 30 2 *",
        "0 0 31 4 *",
        &"1,".repeat(200),
        "\u{0} * * * *",
        "ß * * * *",
    ] {
        assert_eq!(pointers(json!({"cron": cron})), ["/cron"], "{cron:?}");
    }
    for zone in [
        "",
        "Mars/Olympus",
        "../../etc/passwd",
        "/etc/localtime",
        "Europe/Berlin\u{0}",
        "Ä",
        &"x".repeat(65),
    ] {
        assert_eq!(pointers(json!({"time_zone": zone})), ["/time_zone"], "{zone:?}");
    }
    assert_eq!(pointers(json!({"name": "a b"})), ["/name", "/job/labels/schedule"]);
    assert_eq!(pointers(json!({"catch_up_seconds": 99_999_999})), ["/catch_up_seconds"]);
    assert_eq!(pointers(json!({"template": "x"})), ["/template"]);
    assert_eq!(pointers(json!({"job": null})), ["/job"]);
    assert_eq!(pointers(json!({"parameters": {"a": 1}})), ["/parameters"]);
    assert_eq!(
        pointers(json!({"job": {"name": "-", "command": []}})),
        ["/job/name", "/job/command"]
    );
    let labels: Map<_, _> = (0..16).map(|number| (format!("l{number}"), json!(""))).collect();
    let full = json!({"job": {"name": "x", "command": ["true"], "labels": labels}});
    assert_eq!(pointers(full), ["/job/labels"], "its own label has no room");
}

#[test]
fn zones_are_known_without_files_of_the_system() {
    // The dashboard's image has no /usr/share/zoneinfo: the program brings the zones itself.
    let bundled = jiff::tz::TimeZoneDatabase::bundled();
    assert!(bundled.get("Europe/Berlin").is_ok());
}
