//! Jobs as people read them: a table that fits the terminal, and all there is of one.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use crate::config;
use crate::dashboard::http::api::{ApiDetail, ApiJob, Moment};
use crate::dashboard::job::State;
use crate::report::human::Styles;
pub(super) use crate::report::human::plain;

/// What standard output can show.
pub(super) struct Screen {
    /// How many characters a line may have; nothing where nobody looks at it.
    pub(super) width: Option<usize>,
    /// Colours.
    pub(super) styles: Styles,
}

impl Screen {
    /// Looks at standard output.
    pub(super) fn of_stdout() -> Self {
        let out = std::io::stdout();
        let terminal = out.is_terminal();
        let wide = rustix::termios::tcgetwinsize(&out)
            .ok()
            .map(|size| usize::from(size.ws_col));
        let columns = config::text_variable("COLUMNS").and_then(|columns| columns.parse().ok());
        Self {
            width: wide
                .filter(|wide| *wide > 0 && terminal)
                .or(columns.filter(|_| terminal)),
            styles: if terminal && config::variable("NO_COLOR").is_none() {
                Styles::colour()
            } else {
                Styles::default()
            },
        }
    }
}

fn style(state: State, s: &Styles) -> &'static str {
    match state {
        State::Succeeded => s.good,
        State::Failed => s.bad,
        State::Running | State::Stopping => s.warn,
        State::Pending | State::Suspended | State::Cancelled => s.dim,
    }
}

/// Writes a time span with its two largest units at most.
fn span(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..10 => format!("{:.1}s", f64::from(i32::try_from(ms.max(0)).unwrap_or(0)) / 1000.0),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn took(job: &ApiJob, now: i64) -> Option<i64> {
    let begun = job.started_at?.0;
    Some(job.finished_at.map_or(now, |end| end.0) - begun)
}

/// Why a job is as it is, in a few words.
fn why(job: &ApiJob) -> String {
    match (&job.reason, &job.message) {
        (Some(reason), Some(message)) => format!("{reason}: {message}"),
        (Some(word), None) | (None, Some(word)) => word.clone(),
        (None, None) => String::new(),
    }
}

/// Says how far the end of a job is that someone asked for.
pub(super) fn ending(job: &ApiJob) -> &'static str {
    if job.state.is_final() {
        job.state.name()
    } else {
        "asked to end"
    }
}

/// Says how a job ended, in a line.
pub(super) fn verdict(job: &ApiJob) -> String {
    let mut out = format!("{} {}", job.id, job.state);
    if let Some(ms) = job.finished_at.and_then(|end| took(job, end.0)) {
        _ = write!(out, " after {}", span(ms));
    }
    if job.state == State::Failed {
        _ = write!(out, ": {}", plain(&why(job)));
    }
    out
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    out.push('…');
    out
}

/// Writes a table of jobs. Names get what is needed of the room, the reason what is left.
pub(super) fn table(jobs: &[ApiJob], now: i64, screen: &Screen) -> String {
    let owners: std::collections::BTreeSet<&str> = jobs.iter().map(|job| job.owner.as_str()).collect();
    let several = owners.len() > 1;
    let mut heads = vec!["ID", "NAME", "STATE", "AGE", "TOOK"];
    if several {
        heads.insert(2, "OWNER");
    }
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|job| {
            let mut row = vec![
                job.id.to_string(),
                cut(&job.name, 40),
                job.state.name().to_owned(),
                span(now - job.created_at.0),
                took(job, now).map_or_else(|| "-".to_owned(), span),
            ];
            if several {
                row.insert(2, cut(&plain(&job.owner), 20));
            }
            row
        })
        .collect();
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| {
            let longest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            longest.max(heads[column].len())
        })
        .collect();
    let used: usize = widths.iter().map(|width| width + 2).sum();
    let room = screen.width.map_or(usize::MAX, |width| width.saturating_sub(used));
    let mut out = String::new();
    let s = &screen.styles;
    let mut line = |cells: &[String], state: Option<State>, why: &str| {
        let mut text = String::new();
        for ((cell, width), head) in cells.iter().zip(&widths).zip(&heads) {
            let pad = width.saturating_sub(cell.chars().count()) + 2;
            match state.filter(|_| *head == "STATE") {
                Some(state) => _ = write!(text, "{}{cell}{}{:pad$}", style(state, s), s.reset, ""),
                None => _ = write!(text, "{cell}{:pad$}", ""),
            }
        }
        // A reason of a few letters says nothing.
        if room >= 8 {
            text.push_str(&cut(why, room));
        }
        _ = writeln!(out, "{}", text.trim_end());
    };
    let names: Vec<String> = heads.iter().map(ToString::to_string).collect();
    line(&names, None, "WHY");
    for (job, row) in jobs.iter().zip(&rows) {
        line(row, Some(job.state), &plain(&why(job)));
    }
    out
}

fn moment(at: Moment) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| "-".to_owned(), |at| format!("{at:.3}"))
}

/// Quotes a command so that a shell would take it apart again.
pub(super) fn quoted(command: &[String]) -> String {
    let quote = |word: &String| {
        let safe = !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&b));
        if safe {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    command.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Writes all there is to know of a job.
pub(super) fn detail(detail: &ApiDetail, screen: &Screen) -> String {
    let (job, spec, s) = (&detail.job, &detail.spec, &screen.styles);
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        if !text.is_empty() {
            _ = writeln!(out, "{name:<10} {}", plain(text));
        }
    };
    line("id", &job.id.to_string());
    line("name", &job.name);
    line("owner", &job.owner);
    line("state", job.state.name());
    line("why", &why(job));
    line(
        "exit code",
        &job.exit_code.map(|code| code.to_string()).unwrap_or_default(),
    );
    line(
        "attempts",
        &format!("{} of {}", job.attempts, u64::from(spec.retries) + 1),
    );
    line("created", &moment(job.created_at));
    line("started", &job.started_at.map(moment).unwrap_or_default());
    line("finished", &job.finished_at.map(moment).unwrap_or_default());
    let finished = job.finished_at.and_then(|end| took(job, end.0));
    line("took", &finished.map(span).unwrap_or_default());
    line("rerun of", &job.parent.map(|id| id.to_string()).unwrap_or_default());
    match &detail.origin {
        Some(origin) if origin.version > 0 => {
            line("template", &format!("{}, version {}", origin.template, origin.version));
        }
        _ => line("template", job.template.as_deref().unwrap_or_default()),
    }
    if let Some(result) = &detail.result {
        line("result", &serde_json::to_string(result).unwrap_or_default());
    }
    line("command", &quoted(&spec.command));
    line("image", spec.image.as_deref().unwrap_or_default());
    for (name, value) in &spec.env {
        line("env", &format!("{name}={value}"));
    }
    for (name, value) in &job.labels {
        line("label", &format!("{name}={value}"));
    }
    let limits = &spec.limits;
    line(
        "limits",
        &format!(
            "{} of time, {} MiB of memory, {} of a core, {} MiB of output",
            span(i64::from(limits.seconds) * 1000),
            limits.memory_mib,
            f64::from(limits.cpu_milli) / 1000.0,
            limits.output_mib
        ),
    );
    // The state alone has a colour: it is what is looked for first.
    let word = format!("state      {}", job.state.name());
    let coloured = format!("state      {}{}{}", style(job.state, s), job.state.name(), s.reset);
    out.replacen(&word, &coloured, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str, owner: &str, state: State, message: &str) -> ApiJob {
        let json = serde_json::json!({
            "id": "0000000000001", "name": name, "owner": owner, "state": state, "labels": {},
            "created_at": "2026-01-01T00:00:00Z", "started_at": "2026-01-01T00:00:01Z",
            "reason": "ExitCode", "message": message, "attempts": 1, "cancelling": false,
            "log_complete": false, "version": 1,
        });
        serde_json::from_value(json).expect("a job")
    }

    const NOW: i64 = 1_767_225_600_000 + 3_723_000;

    fn screen(width: Option<usize>) -> Screen {
        Screen {
            width,
            styles: Styles::default(),
        }
    }

    #[test]
    fn a_table_fits_the_terminal_and_moves_no_cursor() {
        let jobs = [
            job("short", "me", State::Failed, &"long\u{1b}[31m\n".repeat(50)),
            job(&"n".repeat(63), "me", State::Running, ""),
        ];
        for width in [20, 79, 80, 81, 120, 200] {
            let text = table(&jobs, NOW, &screen(Some(width)));
            assert!(!text.contains('\u{1b}') && text.lines().count() == 3, "{text}");
            if width > 80 {
                assert!(
                    text.lines().all(|line| line.chars().count() <= width),
                    "{width}:\n{text}"
                );
            }
        }
        let whole = table(&jobs, NOW, &screen(None));
        assert!(whole.contains("1h02m") && whole.contains("ExitCode: long"), "{whole}");
        assert!(!whole.contains("OWNER"));
        let two = [job("a", "me", State::Failed, ""), job("b", "you", State::Failed, "")];
        assert!(table(&two, NOW, &screen(None)).contains("OWNER"));
    }

    #[test]
    fn colours_are_of_the_state_alone() {
        let coloured = Screen {
            width: None,
            styles: Styles::colour(),
        };
        let text = table(&[job("a", "me", State::Failed, "x")], NOW, &coloured);
        assert!(text.contains("\u{1b}[31mfailed\u{1b}[0m"), "{text:?}");
        assert_eq!(text.matches('\u{1b}').count(), 2);
    }

    #[test]
    fn spans_are_short() {
        for (ms, text) in [
            (-5, "0.0s"),
            (1234, "1.2s"),
            (59_999, "59s"),
            (61_000, "1m01s"),
            (3_660_000, "1h01m"),
            (90_000_000, "1d01h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn a_command_is_shown_as_a_shell_takes_it() {
        let command = ["sh", "-c", "echo 'a b'; exit 1", ""].map(str::to_owned);
        assert_eq!(quoted(&command), r"sh -c 'echo '\''a b'\''; exit 1' ''");
    }
}
