//! How bad lines say that they are, in the log of a job's page; and what is new in forms and filters beside it.

use serde_json::json;

use super::Site;
use super::driver::{Browser, Look};

/// Writes a few hundred lines, of which some say how bad they are, each in another way.
const MIXED: &str = r#"i=0; while [ $i -lt 300 ]; do i=$((i+1)); case $i in
    40) echo '{"level":"error","msg":"no room","disk":"sda","free":{"mib":3}}' ;;
    120) echo 'level=warn msg=slow' ;;
    200) echo '2026-11-26 12:00:00 ERROR it broke' ;;
    *) echo "line $i" ;; esac; done"#;

#[test]
fn bad_lines_are_seen_and_found() {
    let Some(browser) = Browser::open(Look::default()) else {
        return;
    };
    let site = Site::start();
    let id = site.shell("mixed", MIXED);
    site.ended(&id);
    browser.go(&site.url(&format!("/ui/jobs/{id}")));
    browser.wait(
        "the log",
        "return document.getElementById('link').textContent === 'The log is whole: 300 lines'",
    );
    let choose = |level: &str| {
        browser.run(&format!(
            "const level = document.getElementById('level'); level.value = '{level}'; level.dispatchEvent(new Event('change'))"
        ));
    };
    choose("error");
    let hits = |text: &str| {
        browser.wait(
            "what was found",
            &format!("return document.getElementById('hits').textContent === '{text}'"),
        );
    };
    hits("2 of 2");
    let hit = || {
        browser.run("return document.querySelector('.row.hit')?.querySelector('.n').textContent + ' ' + document.querySelector('.row.hit')?.querySelector('.s').textContent")
    };
    browser.wait("the last one", "return !!document.querySelector('.row.hit.is-error')");
    assert_eq!(hit(), "200 error");
    browser.run("document.getElementById('after').click()");
    hits("1 of 2");
    browser.wait(
        "the first one",
        "return document.querySelector('.row.hit .n')?.textContent === '40'",
    );
    choose("warn");
    hits("1 of 3");
    // A text narrows it further.
    browser.run("const needle = document.getElementById('needle'); needle.value = 'broke'; needle.dispatchEvent(new Event('input'))");
    hits("1 of 1");
    browser.wait(
        "that line",
        "return document.querySelector('.row.hit .n')?.textContent === '200'",
    );
    browser.run(
        "const needle = document.getElementById('needle'); needle.value = ''; needle.dispatchEvent(new Event('input'))",
    );
    hits("3 of 3");
    browser.run("document.getElementById('after').click()");
    hits("1 of 3");
    // Fields of JSON as people would write them, and back.
    let text = "return document.querySelector('.row.hit .x')?.textContent";
    browser.wait("the first one", &format!("{text}.startsWith('{{')"));
    browser.run("document.getElementById('fields').click()");
    browser.wait(
        "the fields",
        &format!(r#"{text} === 'no room  level=error  disk=sda  free={{"mib":3}}'"#),
    );
    browser.run("document.getElementById('fields').click()");
    browser.wait("the line", &format!("{text}.startsWith('{{')"));
    assert_eq!(browser.complaints(), [] as [String; 0]);
}

#[test]
fn a_priority_is_chosen_and_what_ran_long_is_found() {
    let Some(browser) = Browser::open(Look::default()) else {
        return;
    };
    let site = Site::start();
    browser.go(&site.url("/ui/jobs/new"));
    browser.run(
        "document.querySelector('[name=name]').value = 'urgent'; document.querySelector('[name=command]').value = '/bin/sleep 60'; document.querySelector('[name=priority]').value = 'high'",
    );
    browser.follow("form.job button.primary, form.job button[value=run]");
    assert!(browser.text("dl.spec").contains("high"), "{}", browser.text("main"));
    site.create(&json!({"name": "waits", "command": ["true"], "suspend": true}));
    browser.go(&site.url("/?min_duration=1h"));
    assert!(
        browser.text("#none").contains("No jobs match"),
        "{}",
        browser.text("main")
    );
    browser.go(&site.url("/?min_duration=soon"));
    assert!(
        browser.text(".fault").contains("such as 90s"),
        "{}",
        browser.text("main")
    );
    // An address that cannot be understood is what a browser complains of.
    browser.complaints();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    browser.go(&site.url("/?min_duration=1s"));
    let rows = browser.text("#rows");
    assert!(rows.contains("urgent") && !rows.contains("waits"), "{rows}");
    assert_eq!(browser.complaints(), [] as [String; 0]);
}
