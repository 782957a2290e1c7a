//! The pages' style sheet, scripts and pictures: `assets/ui`, under addresses that change with their content.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::assets;

/// Where the files are.
const FOLDER: &str = "assets/ui";

/// One name for the whole folder, so that scripts find each other by relative addresses.
static VERSION: LazyLock<String> = LazyLock::new(|| assets::digest(FOLDER).hex()[..12].to_owned());

/// The scripts as they are sent: without what is there for who reads them alone, which is lines of comments and how far
/// lines are indented.
static LEAN: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let scripts = assets::files(FOLDER)
        .into_iter()
        .filter(|(name, _)| name.extension().is_some_and(|extension| extension == "js"));
    let lean = scripts.map(|(name, bytes)| {
        let text = String::from_utf8_lossy(bytes);
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("//"));
        let lean = lines.fold(String::new(), |lean, line| lean + line + "\n");
        let name = name.file_name().unwrap_or_default();
        (name.to_string_lossy().into_owned(), lean)
    });
    lean.collect()
});

/// Returns the address of a file.
pub(super) fn url(name: &str) -> String {
    format!("/ui/assets/{}/{name}", *VERSION)
}

/// Serves a file: for good under the address of this version, and for now under that of another one, which a replica
/// of another version wrote into a page.
pub(super) async fn serve(Path((version, name)): Path<(String, String)>) -> Response {
    let kind = match name.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let lean = LEAN.get(&name).map(String::as_str);
    let Some(text) = lean.or_else(|| assets::text(&format!("{FOLDER}/{name}"))) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let caching = if version == *VERSION {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_are_small_and_ask_nobody_else() {
        let mut scripts = 0;
        for (name, bytes) in assets::files(FOLDER) {
            let text = std::str::from_utf8(bytes).expect("text");
            if name.extension().is_some_and(|extension| extension == "js") {
                // Over lines, a text could have what looks like a comment or an indent.
                let over_lines = text.lines().find(|line| line.matches('`').count() % 2 == 1);
                assert_eq!(over_lines, None, "{}", name.display());
                let file = name.file_name().and_then(|name| name.to_str()).expect("a name");
                scripts += LEAN[file].len();
                for forbidden in [
                    "innerHTML",
                    "outerHTML",
                    "insertAdjacentHTML",
                    "document.write",
                    "eval(",
                ] {
                    assert!(!text.contains(forbidden), "{}: {forbidden}", name.display());
                }
            }
            let elsewhere = text
                .match_indices("//")
                .any(|(place, _)| text[..place].ends_with("http:") || text[..place].ends_with("https:"));
            let namespace = text.contains("http://www.w3.org/2000/svg");
            assert!(!elsewhere || namespace, "{} names another server", name.display());
        }
        assert!((1..30_000).contains(&scripts), "{scripts} bytes of scripts");
    }

    #[tokio::test]
    async fn this_version_is_kept_for_good_and_another_one_is_asked_for_again() {
        let ask = |version: &str, name: &str| serve(Path((version.to_owned(), name.to_owned())));
        let kept = ask(&VERSION, "ui.css").await;
        assert_eq!(kept.status(), StatusCode::OK);
        assert_eq!(
            kept.headers()[header::CACHE_CONTROL],
            "public, max-age=31536000, immutable"
        );
        assert_eq!(ask("0", "list.js").await.headers()[header::CACHE_CONTROL], "no-cache");
        for name in ["none.js", "../versions.toml", "..", "ui"] {
            assert_eq!(ask(&VERSION, name).await.status(), StatusCode::NOT_FOUND, "{name}");
        }
    }

    /// Text and the grounds on which it stands, as the style sheet uses them.
    const TEXTS: [(&str, &[&str]); 17] = [
        (
            "text",
            &[
                "ground",
                "raised",
                "info-ground",
                "good-ground",
                "bad-ground",
                "warn-ground",
                "found",
            ],
        ),
        (
            "faint",
            &["ground", "raised", "info-ground", "bad-ground", "warn-ground"],
        ),
        ("link", &["ground", "raised", "info-ground"]),
        ("on-strong", &["strong"]),
        ("bad", &["ground", "raised", "info-ground", "bad-ground"]),
        ("ground", &["bad"]),
        ("good", &["ground", "raised", "info-ground"]),
        ("warn", &["ground", "raised", "info-ground", "warn-ground"]),
        ("black", &["raised", "bad-ground"]),
        ("red", &["raised", "bad-ground"]),
        ("green", &["raised", "bad-ground"]),
        ("yellow", &["raised", "bad-ground"]),
        ("blue", &["raised", "bad-ground"]),
        ("magenta", &["raised", "bad-ground"]),
        ("cyan", &["raised", "bad-ground"]),
        ("white", &["raised", "bad-ground"]),
        // Not text: the edges of what one types into.
        ("edge", &["ground"]),
    ];

    /// Returns the light and the dark form of a variable, each as the relative luminance that WCAG 2.2 defines.
    fn luminance(css: &str, name: &str) -> [f64; 2] {
        let start = format!("--{name}: light-dark(");
        let rest = css.split(&start).nth(1).unwrap_or_else(|| panic!("no {name}"));
        let pair = rest.split(')').next().unwrap_or_default();
        let mut both = pair.split(',').map(|colour| {
            let number = u32::from_str_radix(colour.trim().trim_start_matches('#'), 16).expect("a colour");
            let part = |shift: u32| {
                let share = f64::from(number >> shift & 255) / 255.0;
                if share <= 0.04045 {
                    share / 12.92
                } else {
                    ((share + 0.055) / 1.055).powf(2.4)
                }
            };
            0.2126 * part(16) + 0.7152 * part(8) + 0.0722 * part(0)
        });
        [both.next().expect("light"), both.next().expect("dark")]
    }

    #[test]
    fn every_text_can_be_read_on_its_ground() {
        let css = assets::text("assets/ui/ui.css").expect("a style sheet");
        let mut wrong = Vec::new();
        for (text, grounds) in TEXTS {
            let least = if text == "edge" { 3.0 } else { 4.5 };
            for ground in grounds {
                for (scheme, (a, b)) in ["light", "dark"]
                    .iter()
                    .zip(luminance(css, text).into_iter().zip(luminance(css, ground)))
                {
                    let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
                    if contrast < least {
                        wrong.push(format!("{text} on {ground}, {scheme}: {contrast:.2} of {least}"));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!((luminance(css, "on-strong")[0] - 1.0).abs() < 1e-9, "white has 1");
    }
}
