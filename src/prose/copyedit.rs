//! What is wrong by itself: spelling, doubled words, a/an, marks that are not closed, order, links, names, terms.

mod article;
mod fences;
mod links;
mod names;
mod outline;
mod pairs;
mod spelling;
mod terms;

use super::finding::Said;
use super::span::{Block, Kind};
use super::{Look, Rooms};

pub(super) use fences::{Tested, commands};
pub(super) use links::decode;
pub(super) use terms::defined;

/// Looks for everything of this class in one document.
pub(super) fn look(look: &mut Look<'_, '_>, rooms: &Rooms<'_>) {
    for block in &look.document.blocks {
        doubled(look, block);
        article::look(look, block);
        if block.kind != Kind::Comment {
            pairs::look(look, block);
        }
        if look.document.language.is_markdown() {
            names::look(look, block);
        }
    }
    spelling::look(look);
    if look.document.language.is_markdown() {
        outline::look(look);
        links::look(look, rooms);
        if look.chapter.is_some() {
            terms::look(look);
        }
        if look.chapter.is_some() || look.sessions {
            fences::look(look, rooms);
        }
        fences::unclosed(look);
    }
}

/// Words that are said twice on purpose.
const TWICE: [&str; 18] = [
    "that", "had", "long", "bye", "blah", "ha", "no", "so", "very", "now", "there", "again", "yada", "tut", "knock",
    "hear", "same", "etc",
];

/// Words that are no names, so that they are doubled by accident also where both are capitalised.
const SMALL: [&str; 12] = [
    "the", "an", "and", "in", "is", "it", "of", "on", "or", "this", "to", "with",
];

/// Finds a word that stands twice in a row.
fn doubled(look: &mut Look<'_, '_>, block: &Block) {
    if !look.runs("doubled-word") {
        return;
    }
    let mut sentence = block.sentences.iter().peekable();
    for (index, pair) in block.tokens.windows(2).enumerate() {
        while sentence.next_if(|range| range.end <= index + 1).is_some() {}
        let [first, second] = pair else { continue };
        let (one, two) = (block.token_lower(index), block.token_lower(index + 1));
        if one != two || !first.word || one.len() < 2 || TWICE.contains(&one) {
            continue;
        }
        let starts = sentence.peek().is_some_and(|range| range.start == index);
        let same_case = block.token(index) == block.token(index + 1) || starts;
        let letters = one.chars().all(|c| c.is_alphabetic() || c == '\'' || c == '\u{2019}');
        let one_space = second.start == first.end + 1;
        // Names of people and places, and codes: `Duran Duran`, `NN NN`.
        let name = block.token(index + 1).starts_with(char::is_uppercase) && !SMALL.contains(&one);
        // `-f file file`, `x=y y`: a form of a command, not a sentence.
        let before = block.text[..first.start].chars().next_back().unwrap_or(' ');
        let after = block.text[second.end..].chars().next().unwrap_or(' ');
        let code = "-/_=.$@<[+".contains(before) || "/_=@(>]+".contains(after);
        if !letters || !same_case || !one_space || name || code {
            continue;
        }
        let range = first.start..second.end;
        let mut said = Said::message(format!("`{one}` stands here twice"));
        let cut = first.end..second.end;
        if block.is_literal(&range) {
            said = said.fix(block.source(cut), "");
        }
        look.add("doubled-word", block.source(range), said);
    }
}
