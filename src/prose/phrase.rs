//! Phrases: what most rules look for.
//!
//! A pattern is a row of words, such as `it is|'s worth noting that?`, matched against the words of a sentence in lower
//! case:
//!
//! | in a pattern | stands for |
//! |---|---|
//! | `word` | that word |
//! | `a\|b` | either word |
//! | `a\|b?` | either word, or nothing |
//! | `_` | any one word or piece of inline code |
//! | `..` | up to eight words, none of them behind a full stop, a semicolon or a colon |
//! | `^` | the beginning of a sentence |
//! | `$` | the end of a block |
//! | `, : ; ! ? .` and dashes | that mark |
//!
//! A pattern begins with a word, behind `^` where it has one. Each is tried only where its first word stands, and gaps
//! are bounded, so a text takes time in proportion to its length.

use std::collections::HashMap;

use super::span::{Block, OPAQUE};

/// How many words `..` may stand for.
const GAP: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Words { any: Vec<String>, optional: bool },
    Any,
    Gap,
    Start,
    End,
}

/// Patterns of all rules, found in one pass.
#[derive(Debug, Default)]
pub(super) struct Phrases {
    patterns: Vec<(usize, Vec<Part>)>,
    by_first: HashMap<String, Vec<usize>>,
}

/// A phrase that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hit {
    /// What the pattern was added for.
    pub(super) owner: usize,
    /// The first token.
    pub(super) first: usize,
    /// The last one.
    pub(super) last: usize,
}

impl Phrases {
    /// Adds a pattern for a rule.
    pub(super) fn add(&mut self, pattern: &str, owner: usize) -> Result<(), String> {
        let mut parts = Vec::new();
        for word in pattern.split_whitespace() {
            parts.push(match word {
                "^" => Part::Start,
                "$" => Part::End,
                "_" => Part::Any,
                ".." => Part::Gap,
                _ => {
                    let (words, optional) = match word.strip_suffix('?') {
                        Some(words) if !words.is_empty() => (words, true),
                        _ => (word, false),
                    };
                    let any: Vec<String> = words.split('|').map(str::to_lowercase).collect();
                    if any.iter().any(String::is_empty) {
                        return Err(format!("`{pattern}` has an empty word in `{word}`"));
                    }
                    Part::Words { any, optional }
                }
            });
        }
        let first = parts.iter().find(|part| **part != Part::Start);
        let Some(Part::Words { any, optional: false }) = first else {
            return Err(format!("`{pattern}` must begin with a word"));
        };
        for word in any {
            self.by_first.entry(word.clone()).or_default().push(self.patterns.len());
        }
        self.patterns.push((owner, parts));
        Ok(())
    }

    /// Finds all phrases in a block; those of one rule do not overlap.
    pub(super) fn find(&self, block: &Block, out: &mut Vec<Hit>) {
        out.clear();
        if self.by_first.is_empty() {
            return;
        }
        let mut sentences = block.sentences.iter().map(|sentence| sentence.start).peekable();
        for at in 0..block.tokens.len() {
            while sentences.next_if(|start| *start < at).is_some() {}
            let starts = sentences.peek() == Some(&at) || (at > 0 && opens(block, at - 1) && starts_at(block, at - 1));
            let Some(candidates) = self.by_first.get(&*plain(block.token_lower(at))) else {
                continue;
            };
            for index in candidates {
                let (owner, parts) = &self.patterns[*index];
                let rest = match parts.split_first() {
                    Some((Part::Start, rest)) if starts => rest,
                    Some((Part::Start, _)) => continue,
                    _ => parts,
                };
                if let Some(end) = matches(block, rest, at)
                    && end > at
                {
                    let hit = Hit {
                        owner: *owner,
                        first: at,
                        last: end - 1,
                    };
                    match out.iter_mut().rev().find(|known| known.owner == hit.owner) {
                        Some(known) if known.last >= hit.first => {
                            if known.first == hit.first && known.last < hit.last {
                                *known = hit;
                            }
                        }
                        _ => out.push(hit),
                    }
                }
            }
        }
    }
}

/// Returns whether a token opens a quotation or a bracket.
fn opens(block: &Block, at: usize) -> bool {
    matches!(
        block.token(at),
        "\"" | "\u{201c}" | "(" | "\u{2018}" | "'" | "*" | "-" | "\u{2022}"
    )
}

fn starts_at(block: &Block, at: usize) -> bool {
    block
        .sentences
        .binary_search_by_key(&at, |sentence| sentence.start)
        .is_ok()
}

/// Returns a word with a typewriter's apostrophe.
fn plain(word: &str) -> std::borrow::Cow<'_, str> {
    if word.contains('\u{2019}') {
        word.replace('\u{2019}', "'").into()
    } else {
        word.into()
    }
}

/// Returns the token behind the match of `parts` at `at`.
fn matches(block: &Block, parts: &[Part], at: usize) -> Option<usize> {
    let Some((part, rest)) = parts.split_first() else {
        return Some(at);
    };
    let is_word = |at: usize| {
        block
            .tokens
            .get(at)
            .is_some_and(|token| token.word || block.token(at).starts_with(OPAQUE))
    };
    match part {
        Part::Start => None,
        Part::End => (at == block.tokens.len()).then_some(at),
        Part::Any => is_word(at).then(|| matches(block, rest, at + 1)).flatten(),
        Part::Words { any, optional } => {
            let word = plain(block.token_lower(at));
            let here = !word.is_empty() && any.iter().any(|candidate| *candidate == word);
            let taken = here.then(|| matches(block, rest, at + 1)).flatten();
            taken.or_else(|| optional.then(|| matches(block, rest, at)).flatten())
        }
        Part::Gap => {
            for end in at..=at + GAP {
                if let Some(found) = matches(block, rest, end) {
                    return Some(found);
                }
                let token = block.token(end);
                if !is_word(end) && !matches!(token, "," | "'" | "\"" | "/" | "(" | ")" | "\u{201c}" | "\u{201d}") {
                    return None;
                }
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prose::span::{Document, Language};

    fn found(pattern: &str, text: &str) -> Vec<String> {
        let mut phrases = Phrases::default();
        phrases.add(pattern, 0).expect("a pattern");
        let document = Document::new(text, Language::Markdown);
        let mut hits = Vec::new();
        let mut out = Vec::new();
        for block in &document.blocks {
            phrases.find(block, &mut hits);
            out.extend(
                hits.iter()
                    .map(|hit| block.text[block.range(hit.first, hit.last)].to_owned()),
            );
        }
        out
    }

    #[test]
    fn words_alternatives_gaps_and_places() {
        assert_eq!(
            found("it is|was worth noting", "It is worth\nnoting."),
            ["It is worth noting"]
        );
        assert_eq!(found("it's", "But it’s so."), ["it’s"]);
        assert_eq!(found("^ overall ,", "Overall, yes. The overall, no."), ["Overall,"]);
        assert_eq!(
            found("not just .. but", "It is not just fast, but also small."),
            ["not just fast, but"]
        );
        assert!(found("not just .. but", "It is not just fast. But it is small.").is_empty());
        assert_eq!(found("great _ !", "Great question! Great, no!"), ["Great question!"]);
        assert_eq!(found("i hope this|it? helps $", "I hope helps"), ["I hope helps"]);
        assert!(found("helps $", "helps you").is_empty());
        assert_eq!(found("a b", "a b a b"), ["a b", "a b"]);
    }

    #[test]
    fn a_pattern_that_could_stand_anywhere_is_refused() {
        for bad in ["", "^", ".. a", "_ a", "a? b", "a||b"] {
            assert!(Phrases::default().add(bad, 0).is_err(), "{bad}");
        }
    }
}
