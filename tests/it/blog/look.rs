//! The book in a browser, opened as files: does it fit a telephone, in light and in dark?

use std::path::PathBuf;

use labctl::course::book::folder;
use serde_json::{Value, json};

use super::{is_page, own};
use crate::browser::driver::{Browser, Look};

#[test]
fn every_page_fits_a_telephone_and_has_two_themes() {
    let Some(browser) = Browser::open(Look {
        width: 390,
        height: 844,
        scripts: true,
    }) else {
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let site = dir.path().join("site");
    let book = own();
    folder::replace(&site, &book.files).expect("written");
    let mut grounds = Vec::new();
    for name in book.files.keys().filter(|name| is_page(name)) {
        let path: PathBuf = site.join(name);
        browser.go(&format!("file://{}", path.display()));
        for dark in [false, true] {
            browser.scheme(dark);
            let seen = browser.run(
                "const wide = [...document.querySelectorAll('main *')].filter(e => !e.closest('pre, .wide') && \
                 e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80)); \
                 return {width: document.documentElement.scrollWidth, wide, \
                 ground: getComputedStyle(document.body).backgroundColor, \
                 broken: [...document.images].filter(i => !i.naturalWidth).length}",
            );
            assert_eq!((&seen["width"], &seen["wide"]), (&json!(390), &json!([])), "{name}");
            assert_eq!(seen["broken"], json!(0), "{name}");
            grounds.push(seen["ground"].clone());
        }
    }
    assert!(grounds.len() >= 8, "{grounds:?}");
    let pairs = grounds.chunks(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(pairs * 2, grounds.len(), "a page has one theme only: {grounds:?}");
    assert_eq!(browser.complaints(), [] as [&str; 0]);
    assert_ne!(grounds[0], Value::Null);
}
