//! Verdicts as JUnit XML, which CI systems show: a suite is a criterion, a case is a check.

use std::fmt::Write as _;
use std::time::Duration;

/// The cases of one criterion.
#[derive(Debug, Clone)]
pub struct Suite {
    /// The suite's name.
    pub name: String,
    /// Its cases.
    pub cases: Vec<Case>,
}

/// One check.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// What it came to.
    pub outcome: Outcome,
}

/// What a case came to; the texts say why.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// As asked.
    Passed,
    /// Not as asked.
    Failed(String),
    /// Nobody can tell.
    Errored(String),
    /// Not tried.
    Skipped(String),
}

/// Returns the document.
pub fn document(suites: &[Suite]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for suite in suites {
        let count = |f: fn(&Outcome) -> bool| suite.cases.iter().filter(|case| f(&case.outcome)).count();
        _ = writeln!(
            out,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\">",
            escape(&suite.name),
            suite.cases.len(),
            count(|o| matches!(o, Outcome::Failed(_))),
            count(|o| matches!(o, Outcome::Errored(_))),
            count(|o| matches!(o, Outcome::Skipped(_))),
        );
        for case in &suite.cases {
            let (name, time) = (escape(&case.name), case.took.as_secs_f32());
            let mut open = |element: &str, text: &str| {
                let first = escape(text.lines().next().unwrap_or_default());
                _ = writeln!(out, "    <testcase name=\"{name}\" time=\"{time:.3}\">");
                _ = writeln!(out, "      <{element} message=\"{first}\">{}</{element}>", escape(text));
                _ = writeln!(out, "    </testcase>");
            };
            match &case.outcome {
                Outcome::Passed => _ = writeln!(out, "    <testcase name=\"{name}\" time=\"{time:.3}\"/>"),
                Outcome::Failed(text) => open("failure", text),
                Outcome::Errored(text) => open("error", text),
                Outcome::Skipped(text) => open("skipped", text),
            }
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML 1.0 has no way to write other control characters.
            c if c.is_control() && !matches!(c, '\n' | '\t' | '\r') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_counted() {
        let case = |name: &str, outcome| Case {
            name: name.into(),
            took: Duration::from_millis(1500),
            outcome,
        };
        let suite = Suite {
            name: "02 a & b".into(),
            cases: vec![
                case("one", Outcome::Passed),
                case("two", Outcome::Failed("x < 1\n\u{1b}[1m".into())),
            ],
        };
        assert_eq!(
            document(&[suite]),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  \
             <testsuite name=\"02 a &amp; b\" tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"0\">\n    \
             <testcase name=\"one\" time=\"1.500\"/>\n    \
             <testcase name=\"two\" time=\"1.500\">\n      \
             <failure message=\"x &lt; 1\">x &lt; 1\n\u{fffd}[1m</failure>\n    \
             </testcase>\n  </testsuite>\n</testsuites>\n"
        );
    }
}
