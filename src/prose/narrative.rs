//! Whether a chapter can be followed: what can be decided about it by a program, and no more.

use std::ops::Range;

use super::Look;
use super::copyedit::commands;
use super::finding::Said;
use super::span::{Block, Fence, Heading, Kind, OPAQUE};

/// How many commands one code block may hold.
const COMMANDS: usize = 6;
/// How many words there may be without anything to do.
const WORDS_WITHOUT_ACTION: usize = 260;
/// How many words a chapter may have, commands included: somewhat wider than what its author aims at.
const LENGTH: Range<usize> = 700..2000;
/// The share of sentences that may hide who acts, and how many sentences there must be to tell.
const PASSIVE: (f64, usize) = (0.40, 20);

/// Verbs with which a sentence tells the reader to do something.
const DO: [&str; 50] = [
    "add", "apply", "ask", "break", "build", "change", "check", "compare", "copy", "count", "create", "delete", "edit",
    "fill", "find", "follow", "give", "go", "guess", "install", "kill", "list", "look", "make", "move", "open",
    "press", "print", "put", "read", "remove", "render", "repair", "repeat", "replace", "restart", "rollback", "run",
    "save", "scale", "see", "send", "set", "start", "stop", "take", "try", "type", "watch", "write",
];

/// Words of a sentence that tells what is to be seen.
const SEEN: [&str; 62] = [
    "answers", "appear", "appears", "asks", "become", "becomes", "below", "beside", "match", "column", "comes",
    "counts", "ends", "error", "exits", "fail", "failed", "fails", "find", "finds", "get", "gets", "gives", "gone",
    "goes", "holds", "kept", "line", "lines", "list", "lists", "look", "message", "named", "names", "now", "output",
    "prints", "printed", "read", "refused", "refuses", "remember", "result", "return", "returns", "row", "said", "say",
    "says", "see", "seen", "show", "shown", "shows", "stands", "still", "tells", "turns", "watch", "writes", "you'll",
];

/// A part of a chapter below one heading of the second level.
struct Section<'a> {
    heading: &'a Heading,
    blocks: Vec<&'a Block>,
    fences: Vec<&'a Fence>,
    title: String,
}

impl Section<'_> {
    /// Returns whether the section only frames the chapter: its aim, or what lies behind it.
    fn frames(&self) -> bool {
        [
            "will work",
            "check yourself",
            "production",
            "read more",
            "further",
            "sources",
            "what you need",
        ]
        .iter()
        .any(|words| self.title.contains(words))
    }
}

/// Looks for everything of this class in a chapter.
pub(super) fn look(look: &mut Look<'_, '_>) {
    let document = look.document;
    let Some(chapter) = look.chapter else { return };
    let title = document
        .headings
        .first()
        .map_or(0..0, |heading| trimmed(document.text, &heading.source));
    let sections = sections(document);

    let first_section = sections
        .first()
        .map_or(usize::MAX, |section| section.heading.source.start);
    if chapter.number > 1 && look.runs("chapter-opening") {
        let names_it = document
            .blocks
            .iter()
            .filter(|block| block.start() < first_section)
            .any(|block| names_chapter(block, chapter.number - 1));
        if !names_it {
            let text = format!(
                "the opening does not name chapter {:02}, whose state this one begins with",
                chapter.number - 1
            );
            look.add("chapter-opening", title.clone(), Said::message(text));
        }
    }
    if let Some(works) = &chapter.works_after
        && look.runs("chapter-criterion")
    {
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let quoted = || document.blocks.iter().filter(|block| block.quoted);
        // Inline code is opaque in a block, so its source is compared.
        let says =
            |block: &&Block| squeeze(&document.text[block.start()..block.end()]).replace("> ", "") == squeeze(works);
        if !quoted().any(|block| says(&block)) {
            let at = quoted()
                .next()
                .map_or(title.clone(), |block| block.start()..block.end());
            let said = Said::message("the chapter does not quote its criterion word for word")
                .instead(format!("quote `works_after` of chapter.yaml: > {}", squeeze(works)));
            look.add("chapter-criterion", at, said);
        }
    }
    if look.runs("chapter-command") {
        let command = format!("labctl chapter {:02} verify", chapter.number);
        if !document
            .fences
            .iter()
            .any(|fence| fence.lines.iter().any(|(line, _)| line.contains(&command)))
        {
            look.add(
                "chapter-command",
                title.clone(),
                Said::message(format!("no code block shows `{command}`")),
            );
        }
    }
    if look.runs("no-failure") {
        let breaks = ["break", "fail", "wrong"];
        if !sections
            .iter()
            .any(|section| breaks.iter().any(|word| section.title.contains(word)))
        {
            look.add("no-failure", title.clone(), Said::default());
        }
    }
    for section in &sections {
        one(look, section);
    }
    for heading in &document.headings {
        if look.runs("question-heading") && heading.text.trim_end().ends_with('?') {
            look.add(
                "question-heading",
                trimmed(document.text, &heading.source),
                Said::default(),
            );
        }
    }
    if look.runs("closing-question")
        && let Some(last) = document.blocks.last()
        && !last.text.trim_end().ends_with('?')
    {
        look.add("closing-question", last.start()..last.end(), Said::default());
    }
    let words = document.text.split_whitespace().count();
    if look.runs("chapter-length") && !LENGTH.contains(&words) {
        look.add(
            "chapter-length",
            title.clone(),
            Said::message(format!("the chapter has {words} words")),
        );
    }
    passive(look, &title);
}

fn trimmed(text: &str, range: &Range<usize>) -> Range<usize> {
    range.start..range.start + text[range.clone()].trim_end().len()
}

fn sections<'a>(document: &'a super::span::Document<'_>) -> Vec<Section<'a>> {
    let mut out = Vec::new();
    for (index, heading) in document.headings.iter().enumerate() {
        if heading.level != 2 {
            continue;
        }
        let next = document.headings[index + 1..].iter().find(|next| next.level <= 2);
        let range = heading.source.end..next.map_or(document.text.len(), |next| next.source.start);
        let inside = |at: usize| range.contains(&at);
        out.push(Section {
            heading,
            blocks: document.blocks.iter().filter(|block| inside(block.start())).collect(),
            fences: document
                .fences
                .iter()
                .filter(|fence| inside(fence.source.start))
                .collect(),
            title: heading.text.to_lowercase(),
        });
    }
    out
}

fn one(look: &mut Look<'_, '_>, section: &Section<'_>) {
    let document = look.document;
    let heading = trimmed(document.text, &section.heading.source);
    let shell = || section.fences.iter().filter(|fence| fence.is_shell());
    if look.runs("section-reason")
        && let Some(fence) = shell().next()
        && section.blocks.iter().all(|block| block.start() > fence.source.start)
    {
        look.add("section-reason", heading.clone(), Said::default());
    }
    let acts = shell().next().is_some() || section.blocks.iter().any(|block| tells(block));
    if !acts && !section.frames() && look.runs("section-action") {
        look.add("section-action", heading.clone(), Said::default());
    }
    if look.runs("section-observation")
        && !section.frames()
        && let Some(last) = shell().next_back()
    {
        let shown = section
            .fences
            .iter()
            .any(|fence| !fence.is_shell() && fence.source.start > last.source.start);
        let told = section.blocks.iter().any(|block| {
            let behind = block.start() > last.source.start;
            // A question before the command that it answers is an observation announced.
            let first = shell().next().is_some_and(|first| block.start() > first.source.start);
            (behind || first) && (0..block.tokens.len()).any(|at| SEEN.contains(&block.token_lower(at)))
        });
        if !shown && !told {
            look.add("section-observation", heading.clone(), Said::default());
        }
    }
    if look.runs("step-length") {
        for fence in shell() {
            let count = commands(fence).len();
            if count > COMMANDS {
                let at = trimmed(document.text, &fence.source);
                look.add(
                    "step-length",
                    at,
                    Said::message(format!("one block holds {count} commands")),
                );
            }
        }
        let mut words = 0;
        let mut fences = shell().map(|fence| fence.source.start).peekable();
        for block in &section.blocks {
            let acted = fences.next_if(|fence| *fence < block.start()).is_some() || tells(block);
            while fences.next_if(|fence| *fence < block.start()).is_some() {}
            words = if acted { 0 } else { words };
            words += block.tokens.iter().filter(|token| token.word).count();
            if words > WORDS_WITHOUT_ACTION && !section.frames() {
                let text = format!("{words} words go by without anything to do");
                look.add("step-length", block.start()..block.end(), Said::message(text));
                break;
            }
        }
    }
}

/// Returns whether a sentence of a block tells the reader to do something.
fn tells(block: &Block) -> bool {
    block.kind != Kind::Heading
        && block.sentences.iter().any(|sentence| {
            let skip = usize::from(matches!(
                block.token_lower(sentence.start),
                "now" | "then" | "in" | "first" | "next"
            ));
            let mut at = sentence.start;
            if skip > 0 {
                // `Now ask ..`, `In a second terminal, run ..`.
                let comma = (sentence.start..sentence.end.min(sentence.start + 8)).find(|at| block.token(*at) == ",");
                at = comma.map_or(sentence.start + 1, |comma| comma + 1);
            }
            let orders = DO.contains(&block.token_lower(at)) || block.token(at).starts_with(OPAQUE) && skip > 0;
            // `.. and find the condition`, `.. then try ..`.
            orders
                || (sentence.start..sentence.end).any(|at| {
                    matches!(block.token_lower(at), "," | "then" | "and")
                        && matches!(
                            block.token_lower(at + 1),
                            "open" | "run" | "find" | "try" | "read" | "look" | "watch"
                        )
                })
        })
}

fn names_chapter(block: &Block, number: u32) -> bool {
    (0..block.tokens.len()).any(|at| {
        block.token_lower(at) == "chapter" && block.token(at + 1).parse::<u32>().is_ok_and(|named| named == number)
    })
}

/// Past participles that do not end with `ed`.
const IRREGULAR: [&str; 32] = [
    "built", "bought", "brought", "caught", "chosen", "done", "drawn", "driven", "found", "given", "gone", "held",
    "kept", "known", "left", "lost", "made", "meant", "put", "read", "run", "seen", "sent", "set", "shown", "spent",
    "spoken", "taken", "told", "thrown", "worn", "written",
];

fn passive(look: &mut Look<'_, '_>, title: &Range<usize>) {
    if !look.runs("passive-share") {
        return;
    }
    let (mut all, mut passive) = (0_usize, 0_usize);
    for block in look
        .document
        .blocks
        .iter()
        .filter(|block| block.kind != Kind::Heading && !block.quoted)
    {
        for sentence in &block.sentences {
            all += 1;
            let hides = (sentence.start..sentence.end).any(|at| {
                let be = matches!(
                    block.token_lower(at),
                    "is" | "are" | "was" | "were" | "be" | "been" | "being"
                );
                let participle = |at: usize| {
                    let word = block.token_lower(at);
                    (word.len() > 4 && word.ends_with("ed") && !word.ends_with("eed")) || IRREGULAR.contains(&word)
                };
                let next = at
                    + 1
                    + usize::from(matches!(
                        block.token_lower(at + 1),
                        "not" | "also" | "then" | "only" | "often"
                    ));
                be && next < sentence.end && participle(next)
            });
            passive += usize::from(hides);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of sentences")]
    let share = passive as f64 / (all as f64).max(1.0);
    if all >= PASSIVE.1 && share > PASSIVE.0 {
        let text = format!("{passive} of {all} sentences do not say who acts");
        look.add("passive-share", title.clone(), Said::message(text));
    }
}
