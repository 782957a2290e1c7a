//! The rules of the source that the compiler does not know: who may import whom, and what may not be written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::harness::checkout;

/// The layers from the bottom up, as the crate documentation has them. Modules of one layer do not import each other.
const LAYERS: [&[&str]; 7] = [
    &["error"],
    &["config"],
    &["report"],
    &["drive"],
    &["world"],
    &["course", "lab", "check", "dashboard", "operator", "prose", "fault"],
    &["cli"],
];
/// Imports between modules of one layer that the crate documentation allows.
const SIDEWAYS: [(&str, &str); 5] = [
    ("course", "check"),
    ("course", "lab"),
    ("course", "prose"),
    ("dashboard", "operator"),
    ("fault", "check"),
];
/// Modules whose file may import none of [`OUTSIDE`].
const PURE: [&str; 10] = [
    "check/judge",
    "dashboard/job",
    "dashboard/job/schedule",
    "dashboard/job/template",
    "dashboard/job/template/schema",
    "dashboard/runner/kubernetes/cursor",
    "dashboard/runner/kubernetes/desired",
    "dashboard/runner/kubernetes/observed",
    "lab/machine",
    "operator/desired",
];
const OUTSIDE: [&str; 8] = [
    "tokio",
    "kube",
    "bollard",
    "sqlx",
    "reqwest",
    "axum",
    "std::fs",
    "std::process",
];
/// Files may have this many lines, not counting their tests.
const LINES: usize = 620;
/// Files that may have more, and why.
const LONG: [(&str, &str); 0] = [];

/// Returns the files below some folders of the checkout, with their paths from its top.
fn files(folders: &[&str]) -> Vec<(String, PathBuf)> {
    let mut out = Vec::new();
    for folder in folders {
        let top = checkout().join(folder);
        let found = if top.is_file() {
            vec![top]
        } else {
            labctl::drive::files::walk(&top).expect("readable")
        };
        for path in found {
            let name = path
                .strip_prefix(checkout())
                .expect("below the top")
                .display()
                .to_string();
            out.push((name, path));
        }
    }
    out
}

fn text(path: &Path) -> String {
    // A picture has no words in it.
    String::from_utf8(std::fs::read(path).expect("readable")).unwrap_or_default()
}

/// Returns a file's text up to its tests, which stand at its end.
fn without_tests(text: &str) -> &str {
    let tests = text.match_indices("#[cfg(test)]\n").find(|(place, mark)| {
        let item = text[place + mark.len()..].lines().next().unwrap_or_default();
        item.trim_end_matches([' ', '{', ';']).ends_with("mod tests")
    });
    tests.map_or(text, |(place, _)| &text[..place])
}

/// Returns what a file is without its tests and its comments.
fn code(text: &str) -> String {
    let lines = without_tests(text).lines();
    lines
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Returns the top modules that a text names by `crate::`, also within `use crate::{a, b::c}`.
fn named(code: &str) -> Vec<String> {
    let word = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut out = Vec::new();
    for (place, found) in code.match_indices("crate::") {
        // `$crate::` and `my_crate::` are something else.
        if code[..place].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[place + found.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            out.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && !c.is_whitespace() => {
                    out.push(word(&group[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    out
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn imports_go_down_only() {
    let mut wrong = Vec::new();
    let mut seen = BTreeMap::new();
    for (name, path) in files(&["src"]) {
        let within = name.trim_start_matches("src/").trim_end_matches(".rs");
        let from = within.split('/').next().unwrap_or_default().to_owned();
        // The embedded files are used from every layer; `main` and `lib` only put things together.
        let Some(own) = layer(&from) else {
            assert!(
                ["assets", "main", "lib"].contains(&from.as_str()),
                "{name}: which layer is `{from}` of?"
            );
            continue;
        };
        seen.insert(from.clone(), own);
        // Tests beside the code may build a world to test in.
        if within.ends_with("tests") {
            continue;
        }
        for to in named(&code(&text(&path))) {
            let Some(target) = layer(&to) else { continue };
            let sideways = target == own && to != from && !SIDEWAYS.contains(&(from.as_str(), to.as_str()));
            if target > own || sideways {
                wrong.push(format!("{name} imports crate::{to}"));
            }
        }
    }
    assert!(seen.len() >= 7, "the source was not read: {seen:?}");
    assert!(wrong.is_empty(), "imports must go down:\n{}", wrong.join("\n"));
}

#[test]
fn pure_modules_touch_nothing_outside() {
    let mut read = 0;
    for module in PURE {
        let path = checkout().join("src").join(format!("{module}.rs"));
        if !path.exists() {
            continue;
        }
        read += 1;
        let code = code(&text(&path));
        for outside in OUTSIDE {
            let used = code.match_indices(outside).any(|(place, _)| {
                let after = &code[place + outside.len()..];
                !code[..place].ends_with(|c: char| c.is_alphanumeric() || "_:".contains(c)) && after.starts_with("::")
            });
            assert!(!used, "src/{module}.rs is pure and uses {outside}");
        }
    }
    assert!(read > 0, "no pure module was found");
}

#[test]
fn no_file_is_longer_than_a_person_can_hold() {
    for (name, path) in files(&["src", "tests", "benches"]) {
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let allowed = LONG.iter().any(|(long, _)| *long == name);
        let text = text(&path);
        let lines = without_tests(&text).lines().count();
        assert!(lines <= LINES || allowed, "{name} has {lines} lines: it is two rooms");
        assert!(
            lines > LINES || !allowed,
            "{name} has {lines} lines and needs no exception any more"
        );
    }
}

#[test]
fn no_mod_rs_and_no_drawer_for_everything() {
    for (name, _) in files(&["src"]) {
        let stem = Path::new(&name)
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        let stem = stem.unwrap_or_default();
        assert!(
            !["mod", "utils", "util", "helpers", "common", "manager"].contains(&stem.as_str()),
            "{name}: name it by what it owns"
        );
    }
}

#[test]
fn every_code_and_every_exit_code_is_in_the_readme() {
    use labctl::error::{Code, Exit};
    let readme = std::fs::read_to_string(checkout().join("README.md")).unwrap_or_default();
    // The table begins to exist with the README; from then on it is whole.
    if !readme.contains("LAB-ENV-") {
        return;
    }
    for code in Code::ALL {
        let row = format!("| {} |", code.id());
        let row = readme.lines().find(|line| line.replace('`', "").contains(&row));
        let row = row.unwrap_or_else(|| panic!("README.md has no row for {}", code.id()));
        assert!(
            row.contains(code.title()),
            "README.md: {} is \"{}\"",
            code.id(),
            code.title()
        );
    }
    for exit in Exit::ALL {
        let row = format!("| {} |", exit.code());
        assert!(
            readme.lines().any(|line| line.replace('`', "").contains(&row)),
            "README.md has no row for exit code {}",
            exit.code()
        );
    }
}

#[test]
fn nothing_is_said_of_the_place_where_it_was_written() {
    // Written in two parts, so that this file is not found by itself.
    let places = [
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("r-", "seed-"),
        concat!("arti", "factory"),
    ];
    let folders = [
        "Cargo.toml",
        "README.md",
        "src",
        "tests",
        "labs",
        "assets",
        "charts",
        "benches",
        ".ci",
        ".cargo",
        ".config",
        ".clippy.toml",
        ".deny.toml",
        ".typos.toml",
        "build.rs",
    ];
    let present: Vec<&str> = folders
        .into_iter()
        .filter(|name| checkout().join(name).exists())
        .collect();
    for (name, path) in files(&present) {
        for (number, line) in text(&path).lines().enumerate() {
            for place in places {
                assert!(
                    !line.contains(place),
                    "{name}:{}: `{place}` is a place of one machine",
                    number + 1
                );
            }
        }
    }
}

#[test]
fn names_are_found_in_every_form_of_an_import() {
    let code = "use crate::drive::exec;\nuse crate::{config, error::{Code, Exit}, world::World};\nlet x = crate::report::y();\n$crate::no";
    assert_eq!(named(code), ["drive", "config", "error", "world", "report", "no"]);
}
