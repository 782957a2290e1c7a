//! TOML files read strictly: an unknown key is an error with its place and the key that was perhaps meant.

use std::ops::Range;

use serde::de::DeserializeOwned;

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The bytes of the file.
    pub at: Option<Range<usize>>,
    /// What, in one line.
    pub text: String,
}

/// Reads a TOML text.
///
/// # Errors
/// It is not TOML, or not of the form of `T`.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, Wrong> {
    toml::from_str(text).map_err(|error| Wrong {
        at: error.span(),
        text: message(error.message()),
    })
}

/// Adds what was perhaps meant to serde's text about an unknown name.
fn message(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let mut names = first.split('`').skip(1).step_by(2);
    let what = if first.starts_with("unknown field") {
        "key"
    } else if first.starts_with("unknown variant") {
        "word"
    } else {
        return first.to_owned();
    };
    let Some(name) = names.next() else {
        return first.to_owned();
    };
    let known: Vec<&str> = names.collect();
    unknown(what, name, &known)
}

/// Says that a name is unknown, and which one was perhaps meant.
pub fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let meant = known
        .iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .filter(|(score, _)| *score >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match meant {
        Some((_, meant)) => format!("unknown {what} `{name}`; did you mean `{meant}`?"),
        None if known.is_empty() || known.len() > 12 => format!("unknown {what} `{name}`"),
        None => {
            let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
            format!("unknown {what} `{name}`; known are {}", known.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Form {
        #[serde(rename = "exclude")]
        _exclude: Option<Vec<String>>,
    }

    #[test]
    fn an_unknown_key_is_refused_where_it_stands() {
        let text = "exclude = []\nexclud = []\n";
        let wrong = read::<Form>(text).expect_err("refused");
        assert_eq!(wrong.text, "unknown key `exclud`; did you mean `exclude`?");
        assert_eq!(&text[wrong.at.expect("a place")], "exclud");
        let wrong = read::<Form>("zzz = 1\n").expect_err("refused");
        assert_eq!(wrong.text, "unknown key `zzz`; known are `exclude`");
        assert!(read::<Form>("exclude = [\n").is_err());
    }
}
