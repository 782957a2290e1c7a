//! Says why a check did not pass: at most twelve lines with the one that names it, no solution.
//!
//! ```text
//!   asked     what was asked, as a person would ask it
//!   at        the candidate and the address in it
//!   expected  what was expected there
//!   actual    what is there
//!   history   how that changed while labctl looked
//!   so        what it means, where the chapter's author foresaw it
//!   next      what to read, what to run
//! ```

use super::judge::{self, Reason, State};
use super::probe::NoCluster;
use super::schedule::Judged;
use super::spec::Check;

/// How many characters of one value are shown.
const VALUE: usize = 200;
/// How many changes a history shows.
const CHANGES: usize = 5;

/// What an explanation may refer to besides the check itself.
pub struct Around<'a> {
    /// The chapter's id.
    pub chapter: &'a str,
    /// Why there is no cluster, if there is none.
    pub no_cluster: Option<&'a NoCluster>,
}

/// Returns the explanation of a check that did not pass, a line an entry; nothing for one that did.
pub fn lines(check: &Check, judged: &Judged, around: &Around<'_>) -> Vec<String> {
    let mut out = Vec::new();
    let again = format!("labctl chapter {} verify --only {}", around.chapter, check.id);
    let mut line = |name: &str, text: &str| {
        let mut rows = text.lines().map(str::trim_end).filter(|row| !row.is_empty());
        out.push(format!("{name:<9} {}", short(rows.next().unwrap_or_default())));
        // One more row says more than a cut one; the rest is in the evidence.
        out.extend(rows.take(1).map(|row| format!("{:<9} {}", "", short(row))));
    };
    let (finding, cause) = match &judged.judgement.reason {
        Reason::Held => return Vec::new(),
        Reason::Skipped { because } => {
            line("skipped", &format!("as {because}"));
            return out;
        }
        Reason::Blind { why } => {
            line("asked", &judged.asked);
            line("could not", &format!("be judged: {why}"));
            // Only what is blind for want of a cluster is helped by having one.
            let none = around.no_cluster.filter(|none| none.why == *why);
            line("next", none.and_then(|none| none.next.as_deref()).unwrap_or(&again));
            return out;
        }
        Reason::Unmet { finding, cause } => (finding, cause.as_ref()),
        Reason::Aborted { finding, cause } => (finding, Some(cause)),
    };
    line("asked", &judged.asked);
    line("at", &finding.at);
    line("expected", &finding.expected);
    line("actual", &finding.actual);
    if let Some(text) = history(judged) {
        line("history", &text);
    }
    if let Some(cause) = cause {
        line("so", cause);
    }
    line(
        "next",
        &match &check.read {
            Some(read) => format!("read {read}, then: {again}"),
            None => again,
        },
    );
    out
}

/// Returns how what was seen changed: `+0.0s connection refused · +3.1s 503`.
fn history(judged: &Judged) -> Option<String> {
    let mut changes: Vec<(u64, String)> = Vec::new();
    for sample in &judged.history.0 {
        let text = match judge::look(&judged.expect, &sample.evidence) {
            State::Met => "as asked".to_owned(),
            State::Unmet(finding) => cut(&finding.actual, 60),
            State::Blind(why) => format!("could not look: {}", cut(&why, 40)),
        };
        if changes.last().is_none_or(|(_, last)| *last != text) {
            changes.push((sample.at_ms, text));
        }
    }
    if changes.len() < 2 {
        let looks = judged.history.looks();
        return (looks > 1).then(|| {
            let seconds = judged.elapsed.as_secs_f32();
            format!("the same in all of {looks} looks over {seconds:.1}s")
        });
    }
    let left_out = changes.len().saturating_sub(CHANGES);
    let mut text: Vec<_> = changes
        .iter()
        .skip(left_out)
        .map(|(at, text)| format!("+{}.{}s {text}", at / 1000, at % 1000 / 100))
        .collect();
    if left_out > 0 {
        text.insert(0, format!("({left_out} earlier)"));
    }
    Some(text.join(" · "))
}

fn short(text: &str) -> String {
    cut(text, VALUE)
}

fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let kept: String = text.chars().take(limit).collect();
    format!("{kept}...")
}
