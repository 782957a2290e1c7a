//! Misspellings, by the dictionary of typos: what is known to be wrong, never what is only unknown.

use std::borrow::Cow;
use std::sync::LazyLock;

use typos::tokens::{Case, Identifier, Tokenizer, TokenizerBuilder, Word};
use typos::{Dictionary, Status};
use unicase::UniCase;

use crate::prose::Look;
use crate::prose::finding::Said;
use crate::prose::span::{Block, Kind, OPAQUE};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| TokenizerBuilder::new().unicode(true).build());

/// Words that the dictionary takes for misspellings and that people write as meant.
const MEANT: [&str; 4] = ["buildd", "invokable", "uupdate", "writeable"];

/// The dictionary, without the words that a project accepts.
struct Known<'a> {
    accept: &'a [String],
}

impl Dictionary for Known<'_> {
    fn correct_ident<'s>(&'s self, ident: Identifier<'_>) -> Option<Status<'s>> {
        let text = ident.token();
        // Names of programs and types are not prose.
        let code = text.contains(['_', OPAQUE]) || text.chars().any(|c| c.is_ascii_digit());
        let accepted = self.accept.iter().any(|word| word.eq_ignore_ascii_case(text));
        (code || accepted).then_some(Status::Valid)
    }

    fn correct_word<'s>(&'s self, word: Word<'_>) -> Option<Status<'s>> {
        let text = word.token();
        if word.case() == Case::Upper && text.len() < 6 || !text.is_ascii() {
            return None;
        }
        let found = typos_dict::WORD.find(&UniCase::new(text))?;
        let accepted = self.accept.iter().any(|word| word.eq_ignore_ascii_case(text));
        if accepted || MEANT.contains(&text) {
            return Some(Status::Valid);
        }
        let corrections = found
            .iter()
            .map(|right| Cow::Owned(in_case(right, word.case())))
            .collect();
        Some(Status::Corrections(corrections))
    }
}

/// Gives a correction the case of the word that it replaces.
fn in_case(word: &str, case: Case) -> String {
    match case {
        Case::Title => {
            let mut chars = word.chars();
            chars
                .next()
                .map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
        }
        Case::Upper => word.to_uppercase(),
        _ => word.to_owned(),
    }
}

/// Returns whether a word is capitalised where only a name is.
fn is_name(block: &Block, start: usize) -> bool {
    let word = &block.text[start..];
    let mut chars = word.chars();
    let title = chars.next().is_some_and(char::is_uppercase) && chars.next().is_some_and(char::is_lowercase);
    let token = block.tokens.partition_point(|token| token.start < start);
    let begins = block
        .sentences
        .binary_search_by_key(&token, |sentence| sentence.start)
        .is_ok();
    let behind_mark = token.checked_sub(1).is_none_or(|before| !block.tokens[before].word);
    title && !begins && !behind_mark && block.kind != Kind::Heading
}

/// Finds misspelt words.
pub(super) fn look(look: &mut Look<'_, '_>) {
    if !look.runs("spelling") {
        return;
    }
    let known = Known {
        accept: &look.config.accept,
    };
    for block in &look.document.blocks {
        for typo in typos::check_str(&block.text, &TOKENIZER, &known) {
            let Status::Corrections(right) = &typo.corrections else {
                continue;
            };
            let range = typo.span();
            let before = block.text[..range.start].chars().next_back().unwrap_or(' ');
            let after = block.text[range.end..].chars().next().unwrap_or(' ');
            // The letters of `2nd`, a part of a contraction, a file's ending, a flag.
            if before.is_alphanumeric()
                || after.is_alphanumeric()
                || "'\u{2019}./\\$@%-_=".contains(before)
                || "'\u{2019}/\\=_@(".contains(after)
            {
                continue;
            }
            // A short part of a compound: `mis-convert`. And a name in the middle of a sentence: `Niklaus Wirth`.
            if (after == '-' && range.len() <= 4) || is_name(block, range.start) {
                continue;
            }
            let span = block.source(range.clone());
            let list: Vec<String> = right.iter().map(|word| format!("`{word}`")).collect();
            let mut said = Said::message(format!("`{}` is misspelt", typo.typo));
            if !list.is_empty() {
                said = said.instead(format!("write {}", list.join(" or ")));
            }
            if let [only] = right.as_slice()
                && block.is_literal(&range)
            {
                said = said.fix(span.clone(), only.clone().into_owned());
            }
            look.add("spelling", span, said);
        }
    }
}
