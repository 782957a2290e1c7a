//! Quotation marks and brackets that open and are never closed, or close what was never opened.

use crate::prose::Look;
use crate::prose::finding::Said;
use crate::prose::span::{Block, Kind};

/// Finds the first mark of a block that has no partner.
pub(super) fn look(look: &mut Look<'_, '_>, block: &Block) {
    if !look.runs("unclosed") || block.kind == Kind::Cell {
        return;
    }
    let text = &block.text;
    let mut open: Vec<(char, usize)> = Vec::new();
    let mut straight: Option<usize> = None;
    for (index, token) in block.tokens.iter().enumerate() {
        if token.word {
            continue;
        }
        let mark = text[token.start..].chars().next().unwrap_or(' ');
        let before = text[..token.start].chars().next_back().unwrap_or(' ');
        let after = text[token.end..].chars().next().unwrap_or(' ');
        match mark {
            // `:(` and `;-)` are faces.
            '(' | ')'
                if matches!(before, ':' | ';')
                    || (before == '-'
                        && token.start >= 2
                        && matches!(text.as_bytes()[token.start - 2], b':' | b';')) => {}
            '(' | '[' | '\u{201c}' => open.push((mark, token.start)),
            ')' | ']' => {
                // `[0, 1)` is closed, and the `)` of `a)` or `1.` closes nothing.
                match open.iter().rposition(|(mark, _)| *mark != '\u{201c}') {
                    Some(found) => open.truncate(found),
                    None if mark == ')' && enumerates(block, index) => {}
                    None => return report(look, block, mark, token.start),
                }
            }
            '\u{201d}' => {
                // Of German and of quotations within quotations, nothing can be said.
                match open.iter().rposition(|(mark, _)| *mark == '\u{201c}') {
                    Some(found) => open.truncate(found),
                    None => return,
                }
            }
            '\u{201e}' => return,
            '"' => {
                // Inches and seconds.
                if straight.is_none() && before.is_ascii_digit() {
                    continue;
                }
                straight = match straight {
                    None if before.is_alphanumeric() && !after.is_alphanumeric() => return,
                    None => Some(token.start),
                    Some(_) => None,
                };
            }
            _ => {}
        }
    }
    // A quotation of several paragraphs opens each and closes the last.
    if let Some((mark, at)) = open.into_iter().find(|(mark, _)| *mark != '\u{201c}') {
        return report(look, block, mark, at);
    }
    if let Some(at) = straight {
        report(look, block, '"', at);
    }
}

/// Returns whether a bracket belongs to a number or letter of a list: `1)`, `a)`, `iv)`.
fn enumerates(block: &Block, index: usize) -> bool {
    let Some(before) = index.checked_sub(1) else {
        return true;
    };
    let word = block.token(before);
    let short = word.chars().count() <= 3 && word.chars().all(char::is_alphanumeric);
    let first =
        before == 0 || !block.tokens[before - 1].word || block.tokens[before - 1].end < block.tokens[before].start;
    short && first
}

fn report(look: &mut Look<'_, '_>, block: &Block, mark: char, at: usize) {
    let closes = matches!(mark, ')' | ']');
    let text = if closes {
        format!("`{mark}` closes what was not opened")
    } else {
        format!("`{mark}` is opened and not closed in this paragraph")
    };
    look.add("unclosed", block.source(at..at + mark.len_utf8()), Said::message(text));
}
