//! The pages' style sheet, scripts and pictures: `assets/ui`, under addresses that change with their content.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::assets;

/// Where the files are.
const FOLDER: &str = "assets/ui";

/// One name for the whole folder, so that scripts find each other by relative addresses.
static VERSION: LazyLock<String> = LazyLock::new(|| assets::digest(FOLDER).hex()[..12].to_owned());

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
    let Some(text) = assets::text(&format!("{FOLDER}/{name}")) else {
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
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
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
                scripts += bytes.len();
                for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
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
        assert_eq!(kept.headers()[header::CACHE_CONTROL], "public, max-age=31536000, immutable");
        assert_eq!(ask("0", "list.js").await.headers()[header::CACHE_CONTROL], "no-cache");
        for name in ["none.js", "../versions.toml", "..", "ui"] {
            assert_eq!(ask(&VERSION, name).await.status(), StatusCode::NOT_FOUND, "{name}");
        }
    }
}
