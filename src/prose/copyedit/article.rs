//! `a` or `an`: by the sound of the next word, and only where that sound is beyond doubt.

use crate::prose::Look;
use crate::prose::finding::Said;
use crate::prose::span::Block;

/// Words behind a letter that is named, not an article: `press a and then b`.
const AFTER_A_LETTER: [&str; 14] = [
    "and", "or", "in", "is", "are", "of", "on", "as", "at", "if", "it", "into", "are", "other",
];

/// Words that some say with a vowel and some without, and the letters of abbreviations that are said as words.
const EITHER: [&str; 16] = [
    "herb",
    "herbal",
    "historic",
    "historical",
    "history",
    "historian",
    "hotel",
    "homage",
    "sql",
    "faq",
    "led",
    "nic",
    "href",
    "http",
    "uri",
    "url",
];

/// Finds articles that do not go with the next word.
pub(super) fn look(look: &mut Look<'_, '_>, block: &Block) {
    if !look.runs("article") {
        return;
    }
    let mut sentence = block.sentences.iter().peekable();
    for (index, pair) in block.tokens.windows(2).enumerate() {
        while sentence.next_if(|range| range.end <= index + 1).is_some() {}
        let [article, next] = pair else { continue };
        let written = block.token(index);
        let starts = sentence.peek().is_some_and(|range| range.start == index);
        let is_an = match written {
            "a" => false,
            "an" => true,
            "A" if starts => false,
            "An" if starts => true,
            _ => continue,
        };
        let before = block.text[..article.start].chars().next_back().unwrap_or(' ');
        let apart = next.start == article.end + 1 && next.word;
        if !apart || !(before.is_whitespace() || matches!(before, '(' | '"' | '\u{201c}' | '*')) {
            continue;
        }
        let word = block.token(index + 1);
        let after = block.text[next.end..].chars().next().unwrap_or(' ');
        if word.contains('_') || "/=.@\\(_$^".contains(after) && !ends_sentence(block, next.end) {
            continue;
        }
        if AFTER_A_LETTER.contains(&block.token_lower(index + 1)) || vowel_sound(word) != Some(!is_an) {
            continue;
        }
        let right = match (is_an, written.starts_with('A')) {
            (true, true) => "A",
            (true, false) => "a",
            (false, true) => "An",
            (false, false) => "an",
        };
        let range = article.start..article.end;
        let mut said = Said::message(format!("`{written} {word}` does not go together by its sound"))
            .instead(format!("write `{right} {word}`"));
        if block.is_literal(&range) {
            said = said.fix(block.source(range), right);
        }
        look.add("article", block.source(article.start..next.end), said);
    }
}

fn ends_sentence(block: &Block, at: usize) -> bool {
    let rest = &block.text[at..];
    let mut chars = rest.chars();
    chars.next() == Some('.') && chars.next().is_none_or(char::is_whitespace)
}

/// Returns whether a word begins with the sound of a vowel; nothing where people would not agree.
fn vowel_sound(word: &str) -> Option<bool> {
    let part = word.split(['-', '\'', '\u{2019}']).next().unwrap_or_default();
    if part.is_empty() || !part.is_ascii() {
        return None;
    }
    let lower = part.to_ascii_lowercase();
    if EITHER.contains(&lower.as_str()) {
        return None;
    }
    if part.bytes().all(|b| b.is_ascii_digit()) {
        return number(part);
    }
    if part.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    let first = lower.as_bytes()[0];
    if part.len() == 1 {
        // A letter that stands for itself is said by its name.
        return (!matches!(first, b'a' | b'i')).then(|| letter(first));
    }
    let capitals = part.bytes().filter(u8::is_ascii_uppercase).count();
    if capitals == part.len() {
        // `an SSH key`, `a URL`; where it may be said as a word too (`LAN`, `RAM`), both must agree.
        let spelt = letter(first);
        let sayable = part.bytes().any(|b| b"AEIOU".contains(&b)) && begins_like_a_word(&lower);
        let said = written(&lower);
        return (!sayable || said == Some(spelt)).then_some(spelt);
    }
    // `mTLS`, `GitHub`, `SSHd`: only what is written as a word is said as one.
    if capitals > 1 || (capitals == 1 && !part.as_bytes()[0].is_ascii_uppercase()) {
        return None;
    }
    written(&lower)
}

/// Returns whether English words begin with the first two letters of one; nobody says `FBI` or `rlib` as it is written.
fn begins_like_a_word(lower: &str) -> bool {
    const PAIRS: [&str; 31] = [
        "bl", "br", "ch", "cl", "cr", "dr", "dw", "fl", "fr", "gh", "gl", "gn", "gr", "kn", "ph", "pl", "pr", "ps",
        "rh", "sc", "sh", "sk", "sl", "sm", "sn", "sp", "st", "sw", "th", "tr", "tw",
    ];
    let vowel = |byte: u8| b"aeiouy".contains(&byte);
    let bytes = lower.as_bytes();
    // `UUID`
    if bytes[0] == bytes[1] {
        return false;
    }
    vowel(bytes[0])
        || vowel(bytes[1])
        || PAIRS.contains(&&lower[..2])
        || lower.starts_with("wh")
        || lower.starts_with("wr")
}

fn letter(letter: u8) -> bool {
    b"aefhilmnorsx".contains(&letter.to_ascii_lowercase())
}

fn number(digits: &str) -> Option<bool> {
    match digits {
        "11" | "18" => Some(true),
        _ if digits.starts_with('8') => Some(true),
        // Eleven hundred, or one thousand one hundred?
        _ if digits.len() > 2 && (digits.starts_with("11") || digits.starts_with("18")) => None,
        _ => Some(false),
    }
}

/// Returns the sound of a word that is said as it is written.
fn written(word: &str) -> Option<bool> {
    let any = |starts: &[&str]| starts.iter().any(|start| word.starts_with(start));
    match word.as_bytes()[0] {
        b'a' | b'i' => Some(true),
        b'e' => Some(!any(&["eu", "ewe"])),
        b'o' => {
            if any(&["oui", "onc"]) || word == "one" || word == "ones" || word == "oneself" {
                return Some(word.starts_with("oncol"));
            }
            Some(true)
        }
        b'u' => {
            if any(&["unid", "unin", "unim"]) && !any(&["unidi", "unimod"]) {
                return Some(true);
            }
            if any(&["ur", "uk", "uu", "ug"]) {
                return if any(&["urg", "urb", "ugl"]) { Some(true) } else { None };
            }
            Some(!any(&[
                "uni", "use", "usu", "usa", "uti", "ute", "uto", "ubi", "usb", "unanim", "unary",
            ]))
        }
        b'h' => {
            if any(&["hour", "honest", "honor", "honour", "heir"]) {
                return Some(true);
            }
            Some(false)
        }
        b'y' => (!word[1..].starts_with(|c: char| !"aeiou".contains(c))).then_some(false),
        b if b.is_ascii_alphabetic() => {
            // What has no vowel, or begins like no word, is spelt out by some and said by others: `ssh`, `rlib`.
            let vowels = word.bytes().any(|b| b"aeiouy".contains(&b));
            (vowels && begins_like_a_word(word)).then_some(false)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sounds() {
        let an = [
            "apple",
            "hour",
            "honest",
            "SSH",
            "HTML",
            "8",
            "11",
            "80",
            "unused",
            "uninstalled",
            "X-ray",
            "onerous",
            "FBI",
            "MTA",
            "urgent",
            "n",
        ];
        for word in an {
            assert_eq!(vowel_sound(word), Some(true), "{word}");
        }
        let a = [
            "user",
            "unit",
            "union",
            "one",
            "once",
            "European",
            "YAML",
            "CPU",
            "UUID",
            "house",
            "9",
            "100",
            "utility",
            "year",
            "unidirectional",
            "unary",
            "one-time",
            "U-turn",
        ];
        for word in a {
            assert_eq!(vowel_sound(word), Some(false), "{word}");
        }
        for word in [
            "SQL", "herb", "historic", "LAN", "RAM", "ssh", "1100", "mTLS", "é", "ext4", "FAQ", "yttrium", "rlib",
            "lvalue",
        ] {
            assert_eq!(vowel_sound(word), None, "{word}");
        }
    }
}
