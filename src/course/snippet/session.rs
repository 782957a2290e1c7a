//! Runs what a document asks its reader to type, in one shell and one folder, and compares.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Command, Step, shown};
use crate::drive::exec::{Cmd, Exec, ExecError};
use crate::drive::files;

/// Where a session takes place.
#[derive(Debug, Clone)]
pub struct Ground {
    dir: PathBuf,
    env: Vec<(String, String)>,
    limit: Duration,
}

impl Ground {
    /// Makes a ground: a folder that is the session's home, an environment with nothing else in it than `PATH`, a
    /// locale, a time zone, and a minute of time.
    pub fn new(dir: impl Into<PathBuf>, path: &str) -> Self {
        let dir = dir.into();
        let env = [
            ("HOME", dir.display().to_string()),
            ("PATH", path.to_owned()),
            ("LC_ALL", "C.UTF-8".into()),
            ("TZ", "UTC".into()),
            // Nobody is there to page or to edit.
            ("PAGER", "cat".into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
            ("GIT_AUTHOR_NAME", "A reader".into()),
            ("GIT_AUTHOR_EMAIL", "reader@example.org".into()),
            ("GIT_COMMITTER_NAME", "A reader".into()),
            ("GIT_COMMITTER_EMAIL", "reader@example.org".into()),
        ];
        Self {
            dir,
            env: env.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            limit: Duration::from_secs(60),
        }
    }

    /// Sets a variable, such as `KUBECONFIG`.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Sets how long the whole session may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

/// What a command came to that did not do what the document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The document.
    pub file: PathBuf,
    /// The line of the command or file.
    pub line: usize,
    /// What was typed.
    pub typed: String,
    /// What was wrong.
    pub why: Why,
}

/// What was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The output or the exit code was another one: the difference, and all that came out, as a document shows it.
    Differs(String, String),
    /// It was not there when the time was over.
    Slow(Duration),
    /// The session ended before, or in it.
    NotRun,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}:{}: $ {}",
            self.file.display(),
            self.line,
            self.typed.replace('\n', "\n    > ")
        )?;
        match &self.why {
            Why::Differs(difference, _) => {
                writeln!(f, "  expected (-) and actual (+):")?;
                difference.lines().try_for_each(|line| writeln!(f, "    {line}"))
            }
            Why::Slow(limit) => writeln!(
                f,
                "  not done when the session's {}s were over: it hangs, or it left something that holds its output open",
                limit.as_secs()
            ),
            Why::NotRun => writeln!(f, "  the session was over before this was done"),
        }
    }
}

/// Runs a document's steps and returns those that did not come to what it says.
///
/// A command with another exit code than expected ends the session; one with another output does not.
///
/// # Errors
/// There is no bash, or the ground cannot be written.
pub async fn run(exec: &dyn Exec, file: &Path, steps: &[Step], ground: &Ground) -> Result<Vec<Failure>> {
    if steps.is_empty() {
        return Ok(Vec::new());
    }
    files::make_dir(&ground.dir)?;
    let beside = tempfile::tempdir().context("make a folder for the session")?;
    // Nothing that a command prints can be taken for the mark: the folder's name is new in every run.
    let mark = format!("labctl{}", beside.path().display()).replace('/', "-");
    let script = script(steps, &mark, beside.path())?;
    let path = beside.path().join("session");
    files::write(&path, script)?;
    let passed = Arc::new(AtomicUsize::new(0));
    let count = {
        let (passed, mark) = (Arc::clone(&passed), mark.clone());
        move |line: &str| {
            if line.starts_with(&mark) {
                passed.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let variables = ground.env.iter().map(|(name, value)| format!("{name}={value}"));
    let cmd = Cmd::new("env")
        .arg("-i")
        .args(variables)
        .args(["bash", "--noprofile", "--norc"])
        .arg(&path)
        .dir(&ground.dir)
        .limit(ground.limit)
        .on_line(count);
    let output = match exec.run(&cmd).await {
        Ok(output) => output.stdout,
        Err(ExecError::Failed { output, .. }) => output.stdout,
        Err(ExecError::Timeout { limit, .. }) => {
            let at = passed.load(Ordering::Relaxed).min(steps.len() - 1);
            return Ok(vec![failure(file, &steps[at], Why::Slow(limit))]);
        }
        Err(error) => return Err(anyhow::Error::new(error).context("run the session in bash")),
    };
    Ok(judge(file, steps, &output, &mark))
}

fn judge(file: &Path, steps: &[Step], output: &str, mark: &str) -> Vec<Failure> {
    let mut out = Vec::new();
    let mut rest = output;
    let end = format!("\n{mark} ");
    for step in steps {
        let Some((printed, (code, after))) = rest
            .split_once(&end)
            .and_then(|(printed, tail)| Some((printed, tail.split_once('\n')?)))
        else {
            out.push(failure(file, step, Why::NotRun));
            break;
        };
        rest = after;
        let code = code.parse().unwrap_or(-1);
        let why = match step {
            Step::Command(command) => command
                .difference(printed, code)
                .map(|difference| Why::Differs(difference, shown(printed, code))),
            Step::File { .. } => (code != 0).then(|| Why::Differs(shown(printed, code), String::new())),
        };
        out.extend(why.map(|why| failure(file, step, why)));
    }
    out
}

fn failure(file: &Path, step: &Step, why: Why) -> Failure {
    let (line, typed) = match step {
        Step::Command(Command { line, text, .. }) => (*line, text.clone()),
        Step::File { line, name, .. } => (*line, format!("(write {name})")),
    };
    Failure {
        file: file.to_owned(),
        line,
        typed,
        why,
    }
}

/// What a session can do besides what is typed. A command that runs beside it is no child of the shell, so that `%1` is
/// what the reader's own terminal would call so. Programs that the shell starts in the background ignore Ctrl-C; one with
/// a terminal of its own does not.
const PROLOGUE: &str = r#"exec 2>&1 </dev/null
BASH_ARGV0=bash
labctl_exit=0
labctl_beside=()
labctl_tree() {
    local child children=
    tree+=" $1"
    read -r children 2>/dev/null <"/proc/$1/task/$1/children"
    for child in $children; do
        labctl_tree "$child"
    done
}
labctl_kill() {
    local tree=
    labctl_tree "$2"
    kill "$1" $tree 2>/dev/null
}
labctl_end() {
    local pid
    for pid in $(jobs -p) "${labctl_beside[@]}"; do
        labctl_kill -TERM "$pid"
    done
}
trap labctl_end EXIT
labctl_begin() {
    ( (trap - INT; eval "$1") >"$3" 2>&1 & echo $! >"$3.pid")
    local pid i
    pid=$(cat "$3.pid")
    labctl_beside+=("$pid")
    for ((i = 0; i < 150; i++)); do
        [ "$(wc -l <"$3")" -lt "$2" ] && kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    cat "$3"
}
ctrl_c() {
    local pid=${labctl_beside[-1]} i
    unset 'labctl_beside[-1]'
    labctl_kill -INT "$pid"
    for ((i = 0; i < 100; i++)); do
        kill -0 "$pid" 2>/dev/null || return 0
        # Where this very session was begun in the background of a shell, its programs ignore Ctrl-C.
        [ "$i" != 20 ] || labctl_kill -TERM "$pid"
        sleep 0.1
    done
    echo "it does not end"
    return 1
}
"#;

/// Returns the script of a session: each step, then the mark and its exit code.
fn script(steps: &[Step], mark: &str, beside: &Path) -> Result<String> {
    let mut out = PROLOGUE.to_owned();
    for (index, step) in steps.iter().enumerate() {
        let copy = beside.join(index.to_string());
        let place = quoted(&copy.display().to_string());
        let (typed, wanted) = match step {
            Step::Command(command) if command.beside => {
                let lines = command.expected.len();
                (format!("labctl_begin {} {lines} {place}", quoted(&command.text)), 0)
            }
            // `$?` is what the command before left; a mistake in the syntax ends the command, not the session.
            Step::Command(command) => (
                format!("(exit $labctl_exit); eval {}", quoted(&command.text)),
                command.exit,
            ),
            Step::File { name, text, .. } => {
                files::write(&copy, text)?;
                let name = quoted(name);
                (
                    format!("mkdir -p -- \"$(dirname -- {name})\" && cp -- {place} {name}"),
                    0,
                )
            }
        };
        _ = write!(
            out,
            "{typed}\nlabctl_exit=$?\nprintf '\\n%s %s\\n' {mark} \"$labctl_exit\"\n[ \"$labctl_exit\" = {wanted} ] || exit 0\n"
        );
    }
    Ok(out)
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Returns a document with what its commands really printed in the place of what it said, and how many places changed.
///
/// Only outputs that differ are replaced; an output that was trimmed is then whole, to be trimmed again by hand.
pub fn updated(text: &str, steps: &[Step], failures: &[Failure]) -> (String, usize) {
    let mut out = text.to_owned();
    let mut made = 0;
    let commands = steps.iter().rev().filter_map(|step| match step {
        Step::Command(command) => Some(command),
        Step::File { .. } => None,
    });
    for command in commands {
        let found = failures.iter().find(|failure| failure.line == command.line);
        if let Some(Failure {
            why: Why::Differs(_, printed),
            ..
        }) = found
            && text.get(command.at.clone()).is_some()
        {
            out.replace_range(command.at.clone(), printed);
            made += 1;
        }
    }
    (out, made)
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;
    use crate::drive::exec::System;

    async fn outcome(text: &str, limit: u64) -> (Vec<Failure>, String) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = crate::config::variable("PATH").expect("a PATH");
        let path = path.to_string_lossy().into_owned();
        let ground = Ground::new(dir.path(), &path)
            .env("GREETING", "hello world")
            .limit(Duration::from_secs(limit));
        let steps = read(text).expect("read");
        let failures = run(&System, Path::new("a.md"), &steps, &ground).await.expect("run");
        let (text, _) = updated(text, &steps, &failures);
        (failures, text)
    }

    fn console(lines: &str) -> String {
        format!("```console\n{lines}```\n")
    }

    #[tokio::test]
    async fn one_shell_runs_all_of_a_document() {
        let text = console("$ cd / && x='a b'\n$ pwd; echo \"$x $GREETING\"\n/\na b hello world\n")
            + &console("$ false\n[exit 1]\n$ echo $?; cd\n1\n")
            + "```text file=a/b.txt\nit's  \n```\n"
            + &console("$ cat -A a/b.txt; printf no-newline; echo >&2 error\nit's  $\nno-newlineerror\n")
            + &console("$ read x\n[exit 1]\n");
        let (failures, same) = outcome(&text, 20).await;
        assert_eq!(
            failures,
            [],
            "{}",
            failures.iter().map(ToString::to_string).collect::<String>()
        );
        assert_eq!(same, text);
    }

    #[tokio::test]
    async fn a_difference_is_told_with_its_place_and_can_be_taken_over() {
        let text = console("$ echo one; echo two\none\n2\n$ if\n$ echo three\n3\n");
        let (failures, _) = outcome(&text, 20).await;
        let said = failures[0].to_string();
        assert_eq!(
            said,
            "a.md:2: $ echo one; echo two\n  expected (-) and actual (+):\n      one\n    - 2\n    + two\n"
        );
        // A mistake in the syntax is a command that failed, and ends the session.
        assert!(failures[1].to_string().contains("syntax error"), "{}", failures[1]);
        assert_eq!(failures[2].why, Why::NotRun);
        let (_, new) = outcome(&console("$ echo one; exit 7\n$ printf x\ny\n"), 20).await;
        assert!(new.contains("$ printf x\ny"), "{new}");
        let (failures, new) = outcome(&console("$ (echo one; exit 7)\n$ printf x\ny\n"), 20).await;
        assert_eq!(failures.len(), 2);
        let (_, new) = outcome(&new, 20).await;
        assert_eq!(new, console("$ (echo one; exit 7)\none\n[exit 7]\n$ printf x\nx\n"));
    }

    #[tokio::test]
    async fn what_hangs_is_named_and_ended() {
        let (failures, _) = outcome(&console("$ echo a\na\n$ sleep 1000\n$ echo b\nb\n"), 1).await;
        assert_eq!(failures.len(), 1);
        assert_eq!((failures[0].line, failures[0].typed.as_str()), (4, "sleep 1000"));
        assert!(
            failures[0]
                .to_string()
                .contains("not done when the session's 1s were over")
        );
        // What runs in its background ends with it.
        let (failures, _) = outcome(&console("$ sleep 1000 &\n$ echo b\nb\n"), 10).await;
        assert_eq!(failures, []);
    }

    #[tokio::test]
    async fn a_second_terminal_is_begun_and_ended() {
        let text = "```console beside\n$ GREETING=hi python3 -uc 'print(1); import time; time.sleep(60)'\n1\n```\n"
            .to_owned()
            + &console("$ sleep 50 & sleep 0.3; kill %1; echo $?\n0\n")
            + "<!-- labctl-session\n$ ctrl_c\n$ touch made-by-hand\n-->\n"
            + &console("$ ls\nmade-by-hand\n");
        let (failures, same) = outcome(&text, 20).await;
        assert_eq!(failures, []);
        assert_eq!(same, text);
    }
}
