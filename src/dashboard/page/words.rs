//! A command as one types it, and as the list of its parts. Pure.
//!
//! Quotes and backslashes mean what they mean to a shell; nothing is expanded, because no shell takes part.

/// Why a text is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoWords {
    /// A quote that is not closed.
    #[error("a {0} quote is not closed")]
    Open(&'static str),
    /// Nothing follows the last backslash.
    #[error("it ends with a backslash, and nothing follows to be quoted")]
    Backslash,
}

/// Takes a command line apart.
///
/// # Errors
/// A quote is left open, or a backslash is the last character.
pub(super) fn split(text: &str) -> Result<Vec<String>, NoWords> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(NoWords::Open("single"))? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(NoWords::Open("double"))? {
                        '"' => break,
                        '\\' => match rest.next().ok_or(NoWords::Open("double"))? {
                            '\n' => {}
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => match rest.next().ok_or(NoWords::Backslash)? {
                '\n' => {}
                c => word.get_or_insert_default().push(c),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Writes parts as a command line that [`split`] takes apart into the same.
pub(super) fn join(words: &[String]) -> String {
    let quoted = |word: &String| {
        let plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%^".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_are_those_of_a_shell() {
        for (text, words) in [
            ("", &[] as &[&str]),
            ("  \n\t", &[]),
            ("echo hello  world", &["echo", "hello", "world"]),
            ("sh -c 'echo $HOME; exit 3'", &["sh", "-c", "echo $HOME; exit 3"]),
            (r#"a "b \"c\" \d" e"#, &["a", r#"b "c" \d"#, "e"]),
            (r"a\ b 'it'\''s' ''", &["a b", "it's", ""]),
            ("a \\\n b", &["a", "b"]),
            ("--x='1 2'3", &["--x=1 23"]),
        ] {
            assert_eq!(split(text).expect(text), words, "{text}");
        }
        assert_eq!(split("echo 'a"), Err(NoWords::Open("single")));
        assert_eq!(split("echo \"a\\"), Err(NoWords::Open("double")));
        assert_eq!(split("echo \\"), Err(NoWords::Backslash));
    }

    #[test]
    fn what_is_joined_is_split_into_the_same() {
        let hard = [
            "",
            " ",
            "'",
            "\"",
            "\\",
            "a'b\"c\\d",
            "$x",
            "\n",
            "*",
            "ä",
            "~",
            "a=b",
            "#",
        ];
        let words: Vec<String> = hard.map(str::to_owned).to_vec();
        assert_eq!(split(&join(&words)).expect("it is whole"), words);
        assert_eq!(join(&["echo".to_owned(), "a-b_c/d.e".to_owned()]), "echo a-b_c/d.e");
    }
}
