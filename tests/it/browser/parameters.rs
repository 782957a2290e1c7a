//! The list of jobs with one parameter of their template, as it lives.

use serde_json::json;

use super::Site;
use super::driver::{Browser, Look};

#[test]
fn a_list_by_a_parameter_lives_and_takes_in_nothing_else() {
    let Some(browser) = Browser::open(Look::default()) else {
        return;
    };
    let site = Site::start();
    let made = |name: &str| site.create(&json!({"template": "hello", "parameters": {"name": name, "count": 4}}));
    let ours = made("anna");
    let other = made("eve");
    // From the page of a job to all that have the same parameter.
    browser.go(&site.url(&format!("/ui/jobs/{ours}")));
    browser.follow("dd.labels a[href*='name%3Danna']");
    let ids = || browser.run("return [...document.querySelectorAll('#rows tr')].map((row) => row.dataset.id)");
    assert_eq!(ids(), json!([ours]));
    let another = made("eve");
    site.ended(&ours);
    browser.wait(
        "the row that changes",
        &format!("return document.querySelector('#j-{ours} .state').textContent.trim() === 'succeeded'"),
    );
    // It belongs here as before, and what does not was told of as well.
    assert_eq!(
        browser.run(&format!(
            "return document.getElementById('j-{ours}').classList.contains('aside')"
        )),
        json!(false)
    );
    site.ended(&other);
    site.ended(&another);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(ids(), json!([ours]));
    assert_eq!(
        browser.run("return document.getElementById('fresh').hidden"),
        json!(true)
    );
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
