//! The example of the post on Tonic.ai: its jobs on a real server and a real PostgreSQL, with a small shop.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use labctl::config;

use crate::harness::checkout;

/// A run of one of the example's programs.
struct Run {
    exit: Option<i32>,
    output: String,
}

/// Runs a program of the example with nothing but PATH, and a folder of its own for temporary files.
fn run(program: &Path, args: &[&str], temporary: &Path) -> Run {
    #[expect(
        clippy::disallowed_methods,
        reason = "it is run as a reader of the post runs it, exit code and all"
    )]
    let mut command = Command::new(program);
    let output = command
        .args(args)
        .env_clear()
        .env("PATH", config::variable("PATH").unwrap_or_default())
        .env("LANG", "C.UTF-8")
        .env("LABCTL", env!("CARGO_BIN_EXE_labctl"))
        .env("HOME", temporary)
        .env("TMPDIR", temporary)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(example())
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let texts = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Run {
        exit: output.status.code(),
        output: texts.concat(),
    }
}

fn example() -> PathBuf {
    checkout().join("labs/blog/tonic-examples")
}

/// A folder that PostgreSQL's user may go through: the server does not run as root.
fn temporary() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("labctl-post-")
        .permissions(std::fs::Permissions::from_mode(0o711))
        .tempdir()
        .expect("a temporary directory")
}

/// Finds python3 on PATH, where it is.
fn python() -> Option<PathBuf> {
    let path = config::variable("PATH")?;
    let mut all = std::env::split_paths(&path).map(|dir| dir.join("python3"));
    all.find(|program| program.is_file())
}

/// Tells loudly that there is nothing to run with, unless that is forbidden.
fn skip(what: &str) {
    assert!(
        config::variable("LABCTL_REQUIRE_LAB").is_none(),
        "there is no {what}, and LABCTL_REQUIRE_LAB forbids to skip: apt-get install postgresql python3"
    );
    let said = format!("SKIPPED: there is no {what} here: apt-get install postgresql python3\n");
    _ = std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes());
}

/// Returns the lines of one job, from its heading to the next.
fn job<'a>(output: &'a str, name: &str) -> Vec<&'a str> {
    let heading = format!("## {name}");
    let mut lines = output.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "there is no job `{name}`: {output}");
    lines.take_while(|line| !line.starts_with("## ")).collect()
}

/// Returns the numbers of the line that begins with these words, in tenths.
fn tenths(lines: &[&str], words: &str) -> Vec<u64> {
    let line = lines.iter().find_map(|line| line.trim_start().strip_prefix(words));
    let line = line.unwrap_or_else(|| panic!("no line begins with `{words}`: {lines:#?}"));
    line.split(|c: char| !c.is_ascii_digit() && c != '.')
        .filter_map(|word| {
            let (whole, part) = word.split_once('.').unwrap_or((word, "0"));
            Some(whole.parse::<u64>().ok()? * 10 + part.parse::<u64>().ok()?)
        })
        .collect()
}

#[test]
fn a_shop_is_masked_measured_and_checked_by_jobs() {
    if crate::postgres::programs().is_none() {
        return skip("PostgreSQL");
    }
    if python().is_none() {
        return skip("python3");
    }
    let folder = temporary();
    let args = ["--customers", "400", "--seed", "1", "--published-key"];
    let Run { exit, output } = run(&example().join("run"), &args, folder.path());
    assert_eq!(exit, Some(0), "{output}");

    for name in ["check", "check-subset", "check-again"] {
        let lines = job(&output, name);
        let told = tenths(&lines, "searched");
        let [values, _tables, originals, found] = told[..] else {
            panic!("{lines:#?}");
        };
        assert!(values > 5_000 && originals > 20_000, "{lines:#?}");
        assert_eq!(found, 0, "{lines:#?}");
    }
    let leak = job(&output, "check-leak").join("\n");
    assert!(leak.contains("has an original e-mail"), "{leak}");
    assert!(
        !leak.contains('@'),
        "the log of the check has what it must not show: {leak}"
    );
    assert!(
        job(&output, "mask-new-column")
            .join("\n")
            .contains("no rule for customers.nickname: nothing was copied"),
        "{output}"
    );

    let measured = job(&output, "measure");
    let joined = tenths(&measured, "newsletter by lower(email)");
    assert!(joined.len() == 2 && joined[0] > 500, "{joined:?}");
    assert_eq!(joined[0], joined[1]);
    for exact in ["weekday of orders", "orders per customer", "year of birth"] {
        assert_eq!(tenths(&measured, exact), [0], "{exact}");
    }
    // Precision with its interval, then recall.
    let patterns = tenths(&measured, "patterns");
    let all = tenths(&measured, "+ own");
    assert!(patterns[0] > 950 && patterns[3] < 600, "{patterns:?}");
    assert!(all[0] > 650 && all[3] > 900, "{all:?}");
    assert!(all[3] < 1000, "the post says that something is missed: {all:?}");

    let customers = tenths(&job(&output, "subset"), "customers");
    assert!(
        (200..600).contains(&customers[0]),
        "5 % and who referred them: {customers:?}"
    );
    assert!(output.contains("The key is in no file"), "{output}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("readable").flatten().collect();
    assert!(left.is_empty(), "it leaves nothing: {left:?}");
}

/// Returns the lines of output that the post shows.
fn shown(post: &str) -> Vec<&str> {
    let mut inside = false;
    let mut out = Vec::new();
    for line in post.lines() {
        if line.starts_with("```") {
            inside = line.starts_with("```console");
        } else if inside && !line.starts_with("$ ") && line != "..." && !line.is_empty() {
            out.push(line);
        }
    }
    out
}

#[test]
#[ignore = "it takes a minute: for when the example or its post changes"]
fn the_post_shows_what_came_out() {
    let folder = temporary();
    let Run { exit, output } = run(&example().join("run"), &["--published-key"], folder.path());
    assert_eq!(exit, Some(0), "{output}");
    let post = std::fs::read_to_string(example().with_extension("md")).expect("the post");
    let lines = shown(&post);
    assert!(lines.len() > 50, "{lines:?}");
    let list: Vec<&str> = output.lines().skip_while(|line| *line != "## jobs").collect();
    for line in lines {
        // A row of the list of jobs has an id and times of its own in each run.
        let words: Vec<&str> = line.split_whitespace().collect();
        let known = match words[..] {
            ["ID", ..] => true,
            [id, name, state @ ("succeeded" | "failed"), ..] if id.len() == 13 => list
                .iter()
                .any(|row| row.split_whitespace().skip(1).take(2).eq([name, state])),
            _ => output.lines().any(|came| came == line),
        };
        assert!(known, "the post shows `{line}`, which did not come out: {output}");
    }
}

#[test]
fn the_masks_are_what_the_post_says() {
    let Some(python) = python() else {
        return skip("python3");
    };
    let folder = temporary();
    let Run { exit, output } = run(&python, &["-m", "unittest", "-v", "test_masking"], folder.path());
    assert_eq!(exit, Some(0), "{output}");
    assert!(output.contains("Ran 10 tests"), "{output}");
}
