//! The three-character parts of names by which both databases find a part of a name. Pure.
//!
//! Letters are told apart without regard to case, and whatever no name of a job may have is one character ([`OTHER`]): an
//! index over these parts finds a little too much, never too little, and the name itself has the last word.

/// Stands for every character that is not in [`ALPHABET`].
const OTHER: u8 = b'~';
/// Follows a name twice, so that its last two characters begin a part too and can be looked for by one or two characters.
const END: u8 = b'!';
/// What parts are made of.
const ALPHABET: &[u8; 41] = b"abcdefghijklmnopqrstuvwxyz0123456789-_.~!";

/// A part of three characters of [`ALPHABET`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gram([u8; 3]);

impl Gram {
    /// Returns its characters, which are ASCII.
    pub(super) fn text(self) -> String {
        self.0.iter().map(|byte| char::from(*byte)).collect()
    }

    /// Returns its number, which never changes.
    pub(super) fn number(self) -> i32 {
        self.0.iter().fold(0, |number, byte| number * 41 + place(*byte))
    }
}

fn place(byte: u8) -> i32 {
    let place = ALPHABET.iter().position(|known| *known == byte).unwrap_or_default();
    i32::try_from(place).unwrap_or_default()
}

fn folded(text: &str) -> Vec<u8> {
    let fold = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '-' | '_' | '.') => u8::try_from(c).unwrap_or(OTHER),
        _ => OTHER,
    };
    text.chars().map(fold).collect()
}

fn windows(bytes: &[u8]) -> Vec<Gram> {
    let mut grams: Vec<Gram> = bytes.windows(3).map(|part| Gram([part[0], part[1], part[2]])).collect();
    grams.sort_unstable();
    grams.dedup();
    grams
}

/// Returns the parts under which a name is found.
pub(super) fn of_name(name: &str) -> Vec<Gram> {
    let mut bytes = folded(name);
    bytes.extend([END, END]);
    windows(&bytes)
}

/// What the parts of a name that has a text in it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sought {
    /// All of these are among them.
    All(Vec<Gram>),
    /// One of them begins with this: the text has one or two characters.
    Beginning(String),
}

impl Sought {
    /// Returns what to look for to find a text that is not empty.
    pub(super) fn new(text: &str) -> Self {
        let bytes = folded(text);
        if bytes.len() < 3 {
            return Self::Beginning(bytes.iter().map(|byte| char::from(*byte)).collect());
        }
        // Parts that follow each other, and the last one: those between them would be looked for in vain.
        let mut grams: Vec<Gram> = bytes
            .chunks_exact(3)
            .map(|part| Gram([part[0], part[1], part[2]]))
            .collect();
        grams.extend(bytes.windows(3).last().map(|part| Gram([part[0], part[1], part[2]])));
        grams.sort_unstable();
        grams.dedup();
        Self::All(grams)
    }

    /// Returns it as a query of FTS5. The characters of parts mean nothing within quotes.
    pub(super) fn fts5(&self) -> String {
        match self {
            Self::All(grams) => {
                let quoted: Vec<String> = grams.iter().map(|gram| format!("\"{}\"", gram.text())).collect();
                quoted.join(" ")
            }
            Self::Beginning(text) => format!("\"{text}\"*"),
        }
    }

    /// Returns the numbers of parts of which all (`true`) or at least one (`false`) must be there.
    pub(super) fn numbers(&self) -> (bool, Vec<i32>) {
        match self {
            Self::All(grams) => (true, grams.iter().map(|gram| gram.number()).collect()),
            Self::Beginning(text) => {
                // The numbers of all parts with the same beginning follow each other.
                let rest = 3 - u32::try_from(text.len()).unwrap_or_default();
                let span = 41_i32.pow(rest);
                let begin = text.bytes().fold(0, |number, byte| number * 41 + place(byte)) * span;
                (false, (begin..begin + span).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(name: &str) -> Vec<String> {
        of_name(name).into_iter().map(Gram::text).collect()
    }

    #[test]
    fn a_name_has_its_parts_once_and_its_end_too() {
        assert_eq!(texts("ABab"), ["ab!", "aba", "b!!", "bab"]);
        assert_eq!(texts("a"), ["a!!"]);
        assert_eq!(texts("é\"x"), ["x!!", "~x!", "~~x"]);
        assert!(texts("").is_empty());
    }

    /// Whether the parts of a name are what is sought.
    fn found(name: &str, text: &str) -> bool {
        let parts: Vec<i32> = of_name(name).iter().map(|gram| gram.number()).collect();
        let (all, numbers) = Sought::new(text).numbers();
        let mut there = numbers.iter().map(|number| parts.contains(number));
        if all {
            there.all(|there| there)
        } else {
            there.any(|there| there)
        }
    }

    #[test]
    fn every_part_of_a_name_is_found_and_what_is_not_there_is_not() {
        let name = "Nightly_build-2.x";
        for from in 0..name.len() {
            for to in from + 1..=name.len() {
                assert!(found(name, &name[from..to].to_uppercase()), "{}", &name[from..to]);
            }
        }
        for absent in ["q", "zq", "2x", "xx", "nightly-", "é", "build-2.xy"] {
            assert!(!found(name, absent), "{absent}");
        }
    }

    #[test]
    fn a_query_of_fts5_has_nothing_but_characters_of_parts_in_quotes() {
        assert_eq!(Sought::new("a\"b*").fts5(), "\"a~b\" \"~b~\"");
        assert_eq!(Sought::new("Zq").fts5(), "\"zq\"*");
        assert_eq!(Sought::new("é").fts5(), "\"~\"*");
        assert_eq!(
            Sought::new("!").fts5(),
            "\"~\"*",
            "the mark of the end cannot be looked for"
        );
    }

    #[test]
    fn numbers_do_not_change() {
        let numbers: Vec<i32> = of_name("ab").iter().map(|gram| gram.number()).collect();
        assert_eq!(numbers, [81, 3361]);
        assert_eq!(Sought::new("a").numbers().1.len(), 1681);
        assert_eq!(Sought::new("ab").numbers().1, (41..82).collect::<Vec<_>>());
    }
}
