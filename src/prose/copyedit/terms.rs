//! Abbreviations that a chapter uses before it, or an earlier chapter, says what they stand for.

use std::collections::{HashMap, HashSet};

use crate::prose::Look;
use crate::prose::finding::Said;
use crate::prose::span::{Block, Document};

/// What a reader of a course about servers knows before it begins.
const KNOWN: &[&str] = &[
    "AND", "API", "ASCII", "BIOS", "CD", "CI", "CLI", "CPU", "CSS", "CSV", "CTRL", "DNS", "EOF", "ERROR", "FAIL",
    "FAQ", "FTP", "GB", "GET", "GID", "GNU", "GPU", "GUI", "HEAD", "HTML", "HTTP", "HTTPS", "ID", "IDE", "IO", "IP",
    "ISO", "IT", "JSON", "KB", "LTS", "MB", "NOT", "OK", "OR", "OS", "PASS", "PATH", "PC", "PDF", "PID", "POST", "PUT",
    "RAM", "README", "REST", "SKIP", "SQL", "SSD", "SSH", "SSL", "TB", "TCP", "TLS", "TOML", "TODO", "TXT", "UDP",
    "UI", "UID", "URL", "US", "USB", "UTC", "UTF", "UUID", "VM", "XML", "YAML", "ZIP",
];

/// Returns a token's abbreviation: two to six capitals, perhaps with the s of a plural.
fn abbreviation(block: &Block, index: usize) -> Option<&str> {
    let word = block.token(index);
    let word = word.strip_suffix('s').unwrap_or(word);
    let capitals = word.len() >= 2 && word.len() <= 6 && word.bytes().all(|b| b.is_ascii_uppercase());
    capitals.then_some(word)
}

/// Returns the abbreviations that a document explains, with the place where each is explained first.
pub(in crate::prose) fn defined(document: &Document<'_>) -> HashMap<String, usize> {
    let mut out: HashMap<String, usize> = HashMap::new();
    for block in &document.blocks {
        for index in 0..block.tokens.len() {
            let Some(word) = abbreviation(block, index) else {
                continue;
            };
            let before = index.checked_sub(1).map_or("", |at| block.token(at));
            let (after, second) = (block.token(index + 1), block.token_lower(index + 2));
            // `Kubernetes in Docker (KIND)`, `KIND (Kubernetes in Docker)`, `KIND is ..`, `KIND stands for ..`.
            let explained = (before == "(" && matches!(after, ")" | ","))
                || (after == "(" && second.starts_with(|c: char| c.is_alphabetic()))
                || matches!(block.token_lower(index + 1), "is" | "are" | "means" | "stands");
            if explained {
                let at = block.source(block.range(index, index)).start;
                let first = out.entry(word.to_owned()).or_insert(at);
                *first = (*first).min(at);
            }
        }
    }
    out
}

/// Finds abbreviations that are used before they are explained, or never are.
pub(super) fn look(look: &mut Look<'_, '_>) {
    if !look.runs("term-undefined") {
        return;
    }
    let document = look.document;
    let here = defined(document);
    let earlier = look.chapter.map(|chapter| &chapter.terms);
    let mut said: HashSet<&str> = HashSet::new();
    for block in &document.blocks {
        let shouted = block.text == block.text.to_uppercase();
        for index in 0..block.tokens.len() {
            let Some(word) = abbreviation(block, index) else {
                continue;
            };
            let known = KNOWN.contains(&word)
                || look.config.terms.iter().any(|known| known == word)
                || look.config.names.contains_key(word)
                || earlier.is_some_and(|earlier| earlier.contains(word));
            let at = block.source(block.range(index, index));
            let code = block.text[..block.tokens[index].start].ends_with(['_', '/', '.', '-', '$', '\u{fffc}']);
            if known || shouted || code || said.contains(word) {
                continue;
            }
            said.insert(word);
            match here.get(word) {
                Some(place) if *place <= at.start => {}
                Some(place) => {
                    let line = document.place(*place).line;
                    let text = format!("`{word}` is used here and explained only in line {line}");
                    look.add("term-undefined", at, Said::message(text));
                }
                None => {
                    let text = format!("`{word}` is used and not explained, here or in an earlier chapter");
                    look.add("term-undefined", at, Said::message(text));
                }
            }
        }
    }
}
