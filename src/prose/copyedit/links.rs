//! Links to files and headings of the project, without a network: does what they lead to exist?

use std::path::{Path, PathBuf};

use crate::prose::finding::Said;
use crate::prose::{Look, Rooms};

/// Finds links that lead nowhere.
pub(super) fn look(look: &mut Look<'_, '_>, rooms: &Rooms<'_>) {
    let document = look.document;
    if look.runs("missing-reference") {
        for (label, at) in &document.missing {
            let said = Said::message(format!("no link definition `[{label}]: ...` is in this file"));
            look.add("missing-reference", at.clone(), said);
        }
    }
    for link in &document.links {
        let to = link.to.as_str();
        let scheme = to.split(['/', '#', '?']).next().unwrap_or_default().contains(':');
        if to.is_empty() || scheme || to.starts_with("//") {
            continue;
        }
        let (path, fragment) = to
            .split_once('#')
            .map_or((to, None), |(path, fragment)| (path, Some(fragment)));
        let path = decode(path.split('?').next().unwrap_or_default());
        if path.is_empty() {
            if let Some(fragment) = fragment
                && look.runs("broken-anchor")
                && !leads(
                    fragment,
                    document.headings.iter().map(|heading| heading.anchor.as_str()),
                    &document.anchors,
                )
            {
                let near = nearest(
                    fragment,
                    document.headings.iter().map(|heading| heading.anchor.as_str()),
                );
                look.add(
                    "broken-anchor",
                    link.source.clone(),
                    broken_anchor(fragment, "this file", near.as_deref()),
                );
            }
            continue;
        }
        let target: PathBuf = match path.strip_prefix('/') {
            Some(from_top) => look.config.root.join(from_top),
            None => look.dir.join(&path),
        };
        if !target.exists() {
            if look.runs("broken-link") {
                let said = Said::message(format!("there is no file `{path}`"));
                look.add("broken-link", link.source.clone(), said);
            }
            continue;
        }
        let markdown = Path::new(&path).extension().is_some_and(|ending| ending == "md");
        if let (Some(fragment), true) = (fragment, markdown)
            && look.runs("broken-anchor")
        {
            let anchors = rooms.anchors(&target);
            if !leads(fragment, anchors.iter().map(String::as_str), &[]) {
                let near = nearest(fragment, anchors.iter().map(String::as_str));
                look.add(
                    "broken-anchor",
                    link.source.clone(),
                    broken_anchor(fragment, &format!("`{path}`"), near.as_deref()),
                );
            }
        }
    }
}

fn broken_anchor(fragment: &str, place: &str, near: Option<&str>) -> Said {
    let said = Said::message(format!("no heading of {place} has the anchor `#{fragment}`"));
    match near {
        Some(near) => said.instead(format!("link to `#{near}`, or mend the heading")),
        None => said,
    }
}

fn leads<'a>(fragment: &str, mut headings: impl Iterator<Item = &'a str>, others: &[String]) -> bool {
    let fragment = decode(fragment);
    // Line numbers of a file view, and the top of a page.
    let line = fragment
        .strip_prefix('L')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    line || fragment.is_empty()
        || fragment == "top"
        || headings.any(|anchor| anchor == fragment)
        || others.contains(&fragment)
}

fn nearest<'a>(fragment: &str, headings: impl Iterator<Item = &'a str>) -> Option<String> {
    headings
        .map(|anchor| (strsim::normalized_damerau_levenshtein(fragment, anchor), anchor))
        .filter(|(score, _)| *score >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, anchor)| anchor.to_owned())
}

/// Replaces `%20` and its like.
pub(in crate::prose) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten();
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
