//! Padding and formula. A finding says what can go, never who wrote it: people write all of this too, and a reader
//! loses time with it either way.
//!
//! Phrases are data (`assets/prose/rules.toml`). Here is what needs counting: marks that nobody types, runs of the same
//! form, and signs that mean something only by their density. A weak sign is reported where a document has more of it
//! per 1,000 words than nine of ten human documents of its register; `assets/prose/registers.toml` has those figures
//! and says which texts they were measured on.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

use serde::Deserialize;

use super::finding::Said;
use super::phrase::Hit;
use super::rule::{Class, Strength};
use super::span::{Block, Kind, OPAQUE};
use super::{Look, toml_file};
use crate::assets;

/// A kind of text, with habits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Register {
    /// Tutorials, chapters, posts: text that leads somebody through something.
    HowTo,
    /// Manuals, references.
    Reference,
    /// Novels, essays.
    General,
}

impl Register {
    /// Every register.
    pub const ALL: [Self; 3] = [Self::HowTo, Self::Reference, Self::General];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::HowTo => "how-to",
            Self::Reference => "reference",
            Self::General => "general",
        }
    }
}

/// Human rates, measured.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    #[serde(rename = "measured_on")]
    _measured_on: String,
    /// For each register and weak rule: the 90th percentile of hits per 1,000 words.
    p90: BTreeMap<Register, BTreeMap<String, f64>>,
}

/// Returns how many hits of a weak rule nine of ten human documents of a register stay below, per 1,000 words.
pub fn human_p90(register: Register, rule: &str) -> f64 {
    static MEASURED: OnceLock<Measured> = OnceLock::new();
    let measured = MEASURED.get_or_init(|| {
        let text = assets::text("assets/prose/registers.toml").expect("the file is embedded");
        toml_file::read(text).expect("a unit test reads the file")
    });
    let rates = measured.p90.get(&register);
    rates.and_then(|rates| rates.get(rule)).copied().unwrap_or(0.0)
}

/// Below so many hits, a density says nothing.
const FEWEST: usize = 3;
/// Below so many hits per 1,000 words, it is no habit, however rare people use the sign.
const RAREST: f64 = 2.0;
/// Below so many words, neither.
const SHORTEST: usize = 150;
/// How many sentences in a row with the same beginning are a frame.
const FRAME: usize = 3;
/// How many items in a row with a bold lead are a run.
const LEADS: usize = 4;

/// Remains of a chat program in a copied text.
const ARTEFACTS: [&str; 6] = [
    "utm_source=chatgpt",
    "utm_source=openai",
    "oaicite",
    "contentReference[",
    "turn0search",
    "turn0view",
];

/// Looks for everything of this class in one document.
pub(super) fn look(look: &mut Look<'_, '_>) {
    raw(look);
    let mut weak: BTreeMap<&'static str, Vec<Range<usize>>> = BTreeMap::new();
    for block in &look.document.blocks {
        if block.quoted || block.kind == Kind::Comment {
            continue;
        }
        marks(block, &mut weak);
        frames(look, block);
    }
    for (id, hits) in weak {
        density(look, id, &hits);
    }
    leads(look);
}

/// Looks for the phrases of all rules, of this class or another.
pub(super) fn phrases(look: &mut Look<'_, '_>) {
    let rules = look.rules();
    let mut hits: Vec<Hit> = Vec::new();
    let mut weak: BTreeMap<usize, Vec<Range<usize>>> = BTreeMap::new();
    for block in &look.document.blocks {
        // Who quotes a phrase does not use it.
        if block.quoted {
            continue;
        }
        rules.phrases().find(block, &mut hits);
        for hit in &hits {
            let rule = &rules.all()[hit.owner];
            if (block.kind == Kind::Comment && !rule.comments) || !look.runs(&rule.id) || quoted(block, hit) {
                continue;
            }
            let at = block.source(block.range(hit.first, hit.last));
            if rule.strength == Strength::Weak && rule.class == Class::Slop {
                weak.entry(hit.owner).or_default().push(at);
            } else {
                look.add(&rule.id, at, Said::default());
            }
        }
    }
    for (owner, hits) in weak {
        let id = rules.all()[owner].id.clone();
        density(look, &id, &hits);
    }
}

/// Returns whether a phrase stands between quotation marks: it is spoken of, not used.
fn quoted(block: &Block, hit: &Hit) -> bool {
    let before = hit.first.checked_sub(1).map_or("", |at| block.token(at));
    let mut behind = hit.last + 1;
    if matches!(block.token(behind), "," | "." | "!" | "?") {
        behind += 1;
    }
    let after = block.token(behind);
    let closes = matches!(after, "\"" | "\u{201d}" | "'" | "\u{2019}");
    closes && matches!(before, "\"" | "\u{201c}" | "'" | "\u{2018}")
}

/// Reports a weak sign where it is denser than in nine of ten human documents.
fn density(look: &mut Look<'_, '_>, id: &str, hits: &[Range<usize>]) {
    let words = look.document.words();
    if hits.is_empty() || !look.runs(id) {
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of words")]
    let rate = hits.len() as f64 * 1000.0 / words.max(1) as f64;
    look.rates.insert(id.to_owned(), rate);
    let p90 = human_p90(look.register, id);
    if hits.len() < FEWEST || words < SHORTEST || rate <= p90.max(RAREST) {
        return;
    }
    let lines: Vec<String> = hits
        .iter()
        .skip(1)
        .take(5)
        .map(|hit| look.document.place(hit.start).line.to_string())
        .collect();
    let more = if hits.len() > 6 { ", ..." } else { "" };
    let message = look.rule(id).map(|rule| rule.message.clone()).unwrap_or_default();
    let text = format!(
        "{message}: {} times, {rate:.1} per 1,000 words; 9 of 10 human {} texts have at most {p90:.1} (also in lines {}{more})",
        hits.len(),
        look.register.name(),
        lines.join(", ")
    );
    look.add(id, hits[0].clone(), Said::message(text));
}

/// Looks at the bytes of the file, code included: what nobody types.
fn raw(look: &mut Look<'_, '_>) {
    let text = look.document.text;
    if look.runs("chat-artefact") && look.document.language.is_prose() {
        for artefact in ARTEFACTS {
            for (at, _) in text.match_indices(artefact) {
                look.add("chat-artefact", at..at + artefact.len(), Said::default());
            }
        }
    }
    if !look.runs("hidden-character") || text.is_ascii() {
        return;
    }
    for (at, c) in text.char_indices() {
        let what = match c {
            '\u{200b}' => "a zero-width space",
            '\u{2060}' => "a word joiner",
            '\u{ad}' => "a soft hyphen",
            '\u{feff}' if at > 0 => "a byte order mark in the middle of the file",
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => "a mark that turns the direction of the text",
            '\u{e0000}'..='\u{e007f}' => "an invisible tag",
            _ => continue,
        };
        let span = at..at + c.len_utf8();
        let said =
            Said::message(format!("{what} (U+{:04X}) is here, and nobody sees it", u32::from(c))).fix(span.clone(), "");
        look.add("hidden-character", span, said);
    }
}

/// Collects the marks that count by density.
fn marks(block: &Block, weak: &mut BTreeMap<&'static str, Vec<Range<usize>>>) {
    let mut add = |id: &'static str, range: Range<usize>| weak.entry(id).or_default().push(block.source(range));
    for (index, token) in block.tokens.iter().enumerate() {
        if token.word {
            continue;
        }
        match block.token(index) {
            "\u{2014}" => add("em-dash", token.start..token.end),
            "," => {
                // `a, b, and c`, of one word each.
                let word = |at: usize| block.tokens.get(at).is_some_and(|token| token.word);
                let three = index >= 1
                    && word(index - 1)
                    && word(index + 1)
                    && block.token(index + 2) == ","
                    && matches!(block.token_lower(index + 3), "and" | "or")
                    && word(index + 4);
                let longer = index >= 2 && block.token(index - 2) == ",";
                if three && !longer {
                    add("triad", block.range(index - 1, index + 4));
                }
            }
            _ => {}
        }
    }
}

/// Finds sentences in a row that begin with the same two words.
fn frames(look: &mut Look<'_, '_>, block: &Block) {
    if !look.runs("same-frame") {
        return;
    }
    let head = |sentence: &Range<usize>| {
        let two = (block.token_lower(sentence.start), block.token_lower(sentence.start + 1));
        let words = sentence.len() >= 5 && !two.0.contains(OPAQUE) && !two.1.contains(OPAQUE);
        (words && two.0.chars().all(char::is_alphabetic) && two.1.chars().all(char::is_alphabetic)).then_some(two)
    };
    let mut run = 1;
    for index in 1..=block.sentences.len() {
        let same = block.sentences.get(index).is_some_and(|sentence| {
            let this = head(sentence);
            this.is_some() && this == head(&block.sentences[index - 1])
        });
        if same {
            run += 1;
            continue;
        }
        if run >= FRAME {
            let first = &block.sentences[index - run];
            let start = block.range(first.start, first.start + 1);
            let words = block.text[start.clone()].to_owned();
            let text = format!("{run} sentences in a row begin with \"{words}\"");
            look.add("same-frame", block.source(start), Said::message(text));
        }
        run = 1;
    }
}

/// Finds runs of list items that all begin with a few bold words and a colon.
fn leads(look: &mut Look<'_, '_>) {
    if !look.runs("bold-leads") || !look.document.language.is_markdown() {
        return;
    }
    let text = look.document.text;
    let lead = |block: &Block| {
        let start = block.start();
        let rest = text.get(start..).unwrap_or_default();
        let before = text[..start].ends_with("**");
        let line = rest.lines().next().unwrap_or_default();
        let end = line.find("**").filter(|at| *at < 50)?;
        let marked = line[..end].ends_with([':', '.']) || line[end + 2..].starts_with([':', '.']);
        (before && marked && block.kind == Kind::Item).then_some(start..start + end)
    };
    let mut run: Vec<Range<usize>> = Vec::new();
    let flush = |look: &mut Look<'_, '_>, run: &mut Vec<Range<usize>>| {
        if run.len() >= LEADS {
            let said = Said::message(format!("{} items in a row begin with a bold lead", run.len()));
            look.add("bold-leads", run[0].clone(), said);
        }
        run.clear();
    };
    for block in &look.document.blocks {
        match lead(block) {
            Some(range) => run.push(range),
            None => flush(look, &mut run),
        }
    }
    flush(look, &mut run);
}
