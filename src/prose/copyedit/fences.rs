//! Code blocks: are they closed, would labctl take their commands, and does a test run them?

use std::collections::HashSet;
use std::ops::Range;

use crate::prose::finding::Said;
use crate::prose::span::{Document, Fence, Language};
use crate::prose::{Look, Rooms};

/// What the tests of a project run, as far as text can tell.
#[derive(Debug, Default)]
pub(in crate::prose) struct Tested {
    /// Each test file's words: once as it is written, once the contents of its strings alone.
    files: Vec<String>,
}

impl Tested {
    /// Adds a test file.
    pub(in crate::prose) fn add(&mut self, text: &str, language: Language) {
        self.files.push(joined(text));
        if language == Language::Rust {
            self.files.push(strings(text));
        }
    }

    /// Returns whether a command stands in a test.
    fn has(&self, command: &str) -> bool {
        let whole = joined(command);
        let own = whole.strip_prefix(" labctl ").map(|rest| format!(" {rest}"));
        let own = own.unwrap_or_else(|| whole.clone());
        self.files
            .iter()
            .any(|file| file.contains(&whole) || file.contains(&own))
    }

    fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// Returns the words of a text with one space around each.
fn joined(text: &str) -> String {
    let mut out = String::from(" ");
    for word in text.split_whitespace() {
        out.push_str(word.trim_matches(['\'', '"', ',']));
        out.push(' ');
    }
    out
}

/// Returns the contents of the string literals of Rust, one behind the other.
fn strings(text: &str) -> String {
    let mut out = String::from(" ");
    let mut parts = text.split('"');
    parts.next();
    while let Some(inside) = parts.next() {
        for word in inside.split_whitespace() {
            out.push_str(word);
            out.push(' ');
        }
        if parts.next().is_none() {
            break;
        }
    }
    out
}

/// Returns the commands of a shell block: lines that a backslash joins are one; comments, output and prompts are not.
pub(in crate::prose) fn commands(fence: &Fence) -> Vec<(String, Range<usize>)> {
    let console = fence.is_session();
    let mut out: Vec<(String, Range<usize>)> = Vec::new();
    let mut goes_on = false;
    let mut continued = false;
    for (line, at) in &fence.lines {
        let end = at + line.len();
        if goes_on && let Some((command, place)) = out.last_mut() {
            command.push(' ');
            command.push_str(line.trim().trim_end_matches('\\').trim_end());
            place.end = end;
        } else {
            let trimmed = line.trim();
            // What a shell would ask for with its second prompt.
            if console
                && continued
                && let (Some(rest), Some((command, place))) = (line.strip_prefix("> "), out.last_mut())
            {
                command.push('\n');
                command.push_str(rest);
                place.end = end;
                continue;
            }
            let prompt = trimmed.strip_prefix("$ ");
            let command = if console {
                prompt.unwrap_or_default()
            } else {
                prompt.unwrap_or(trimmed)
            };
            continued = !command.is_empty();
            if command.is_empty() || command.starts_with('#') {
                goes_on = false;
                continue;
            }
            let start = at + line.find(command).unwrap_or(0);
            out.push((command.trim_end_matches('\\').trim_end().to_owned(), start..end));
        }
        goes_on = line.trim_end().ends_with('\\');
    }
    for (command, _) in &mut out {
        if let Some(at) = command.find(" # ") {
            command.truncate(at);
            command.truncate(command.trim_end().len());
        }
    }
    out
}

/// Cuts a simple command into words; nothing where a shell would have to be asked.
fn words(command: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut any = false;
    for c in command.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('"'), '$' | '`' | '\\')
            | (None, '$' | '`' | '|' | '&' | ';' | '<' | '>' | '\\' | '(' | '*' | '\n') => {
                return None;
            }
            (None, '"' | '\'') => {
                quote = Some(c);
                any = true;
            }
            (None, c) if c.is_whitespace() => {
                if any || !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
                any = false;
            }
            (_, c) => word.push(c),
        }
    }
    if any || !word.is_empty() {
        out.push(word);
    }
    quote.is_none().then_some(out)
}

/// Finds commands that labctl would refuse, and those that no test runs.
pub(super) fn look(look: &mut Look<'_, '_>, rooms: &Rooms<'_>) {
    let document = look.document;
    let tested = rooms.tested();
    let mut seen = HashSet::new();
    for fence in document.fences.iter().filter(|fence| fence.is_shell()) {
        let mut untested = Vec::new();
        for (command, at) in commands(fence) {
            if look.runs("fence-command")
                && let Some(words) = words(&command)
                && let Some(refuses) = rooms.refuses
                && let Some(why) = refuses(&words)
            {
                look.add(
                    "fence-command",
                    at.clone(),
                    Said::message(format!("labctl refuses this command: {why}")),
                );
            }
            let new = seen.insert(command.clone());
            let run = look.sessions && fence.is_session();
            if new && !run && !fence.is_untested() && !tested.has(&command) {
                untested.push(at);
            }
        }
        if look.runs("fence-untested")
            && (look.sessions || !tested.is_empty())
            && let (Some(first), Some(last)) = (untested.first(), untested.last())
        {
            let text = match untested.len() {
                1 => "no test runs this command".to_owned(),
                n => format!("no test runs {n} commands of this block"),
            };
            look.add(
                "fence-untested",
                first.start..last.end.max(first.end),
                Said::message(text),
            );
        }
    }
}

/// Finds a code block that goes on to the end of the file because its fence is not closed.
pub(super) fn unclosed(look: &mut Look<'_, '_>) {
    let document: &Document<'_> = look.document;
    if !look.runs("unclosed-fence") {
        return;
    }
    for fence in document.fences.iter().filter(|fence| !fence.closed) {
        let line = document.text[fence.source.clone()].lines().next().unwrap_or_default();
        look.add(
            "unclosed-fence",
            fence.source.start..fence.source.start + line.len(),
            Said::default(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(text: &str) -> Vec<String> {
        let document = Document::new(text, Language::Markdown);
        commands(&document.fences[0])
            .into_iter()
            .map(|(command, _)| command)
            .collect()
    }

    #[test]
    fn commands_of_a_block() {
        assert_eq!(
            fence("```sh\na b  # why\n# no\nc \\\n  d\n\n$ e\n```"),
            ["a b", "c d", "e"]
        );
        assert_eq!(fence("```console\n$ a\nout\n$ b\n```"), ["a", "b"]);
        assert_eq!(
            fence("```console\n$ for x in a; do\n> b\n> done\n> c\nout\n> d\n```"),
            ["for x in a; do\nb\ndone\nc"]
        );
    }

    #[test]
    fn words_of_a_command() {
        assert_eq!(
            words("a 'b c' \"d\"e ''"),
            Some(vec!["a".into(), "b c".into(), "de".into(), String::new()])
        );
        for shell in ["a | b", "a $X", "a \"$X\"", "a > b", "'a"] {
            assert_eq!(words(shell), None, "{shell}");
        }
    }

    #[test]
    fn a_command_is_tested_where_its_words_stand_in_a_test() {
        let mut tested = Tested::default();
        tested.add(
            "run(&[\"kubectl\", \"-n\", \"a\",\n  \"get\", \"pods\"]);",
            Language::Rust,
        );
        tested.add("curl -i x\n", Language::Shell);
        assert!(tested.has("labctl kubectl -n a get pods"));
        assert!(tested.has("curl -i x"));
        assert!(!tested.has("labctl kubectl get pods"));
        assert!(!tested.has("labctl kubectl -n a get pod"));
    }
}
