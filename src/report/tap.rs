//! Verdicts as TAP 13, the Test Anything Protocol: a line a check, with why it did not pass below it.
//! The form is that of <https://testanything.org/tap-version-13-specification.html>.

use std::fmt::Write as _;

use super::junit::{Outcome, Suite};

/// Returns the document.
pub fn document(suites: &[Suite]) -> String {
    let cases: Vec<_> = suites
        .iter()
        .flat_map(|suite| suite.cases.iter().map(move |case| (suite, case)))
        .collect();
    let mut out = format!("TAP version 13\n1..{}\n", cases.len());
    for (i, (suite, case)) in cases.into_iter().enumerate() {
        let n = i + 1;
        let name = format!("{} - {}", case.name, suite.name).replace('#', "");
        let (line, text) = match &case.outcome {
            Outcome::Passed => (format!("ok {n} - {name}"), None),
            Outcome::Failed(text) | Outcome::Errored(text) => (format!("not ok {n} - {name}"), Some(text)),
            // A skipped check says nothing of what it asks, so it must not be `ok`.
            Outcome::Skipped(text) => (format!("not ok {n} - {name} # SKIP"), Some(text)),
        };
        _ = writeln!(out, "{line}");
        if let Some(text) = text {
            let kind = if matches!(case.outcome, Outcome::Errored(_)) {
                "error"
            } else {
                "fail"
            };
            _ = writeln!(out, "  ---\n  severity: {kind}\n  message: |");
            for line in text.lines() {
                _ = writeln!(out, "    {line}");
            }
            _ = writeln!(out, "  ...");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::junit::Case;
    use std::time::Duration;

    #[test]
    fn a_check_is_a_line_and_its_reason_is_below_it() {
        let case = |name: &str, outcome| Case {
            name: name.into(),
            took: Duration::ZERO,
            outcome,
        };
        let suites = [Suite {
            name: "00 health: it answers".into(),
            cases: vec![
                case("a", Outcome::Passed),
                case("b", Outcome::Failed("asked     x\nactual    y".into())),
                case("c", Outcome::Skipped("skipped   as `b` failed".into())),
            ],
        }];
        insta::assert_snapshot!(document(&suites), @r"
        TAP version 13
        1..3
        ok 1 - a - 00 health: it answers
        not ok 2 - b - 00 health: it answers
          ---
          severity: fail
          message: |
            asked     x
            actual    y
          ...
        not ok 3 - c - 00 health: it answers # SKIP
          ---
          severity: fail
          message: |
            skipped   as `b` failed
          ...
        ");
    }
}
