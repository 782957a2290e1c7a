//! Runs the real program in a world of its own: an empty home, an empty PATH, no engine, no network.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long one run may take before the test fails.
const LIMIT: Duration = Duration::from_secs(30);

/// A world for one test.
pub(crate) struct TestEnvironment {
    root: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl TestEnvironment {
    /// Makes a world with nothing in it.
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        for dir in ["home", "bin"] {
            std::fs::create_dir(root.path().join(dir)).expect("a directory");
        }
        let at = |name: &str| root.path().join(name).display().to_string();
        // Nobody listens on the discard port, so whatever would use the network fails at once.
        let nobody = "http://127.0.0.1:9";
        let variables = [
            ("HOME", at("home")),
            ("PATH", at("bin")),
            ("TMPDIR", at("home")),
            ("COLUMNS", "80".into()),
            ("LANG", "C.UTF-8".into()),
            ("CI", "true".into()),
            ("DOCKER_HOST", format!("unix://{}", at("no-engine.sock"))),
            ("HTTP_PROXY", nobody.into()),
            ("HTTPS_PROXY", nobody.into()),
            ("NO_PROXY", "127.0.0.1,localhost".into()),
        ];
        Self {
            variables: variables.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            root,
        }
    }

    /// Sets an environment variable of every run from here on.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Returns a path in this world.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Returns the directory of the default lab's state.
    pub(crate) fn lab(&self) -> PathBuf {
        self.path("home/.local/state/labctl/labs/labctl")
    }

    /// Writes a file of this world.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        labctl::drive::files::write(&path, contents).expect("written");
        path
    }

    /// Puts a shell script on this world's PATH.
    pub(crate) fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        labctl::drive::files::write_executable(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
    }

    /// Prepares a run of labctl.
    #[expect(
        clippy::disallowed_methods,
        reason = "tests run the program as a user would, exit code and all"
    )]
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_labctl"));
        command
            .args(args)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.path("home"))
            .stdin(Stdio::null());
        command
    }

    /// Runs labctl to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.expect("labctl starts");
        let pid = rustix::process::Pid::from_child(&child);
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            if ended.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        });
        let start = Instant::now();
        let output = child.wait_with_output().expect("it ends");
        drop(done);
        watch.join().expect("the watch ends");
        assert!(start.elapsed() < LIMIT, "labctl {} hung", args.join(" "));
        Output {
            exit: output.status.code(),
            stdout: self.normal(&output.stdout),
            stderr: self.normal(&output.stderr),
        }
    }

    /// Replaces what differs from run to run and from machine to machine.
    fn normal(&self, bytes: &[u8]) -> String {
        let root = self.root.path().display().to_string();
        String::from_utf8_lossy(bytes)
            .replace(&root, "$TEST")
            .replace(env!("CARGO_PKG_VERSION"), "$VERSION")
            .lines()
            .map(|line| without_times(line.trim_end()) + "\n")
            .collect()
    }
}

/// Replaces times such as `0.42s`, `12.3s` and `4m07s`.
fn without_times(line: &str) -> String {
    let is_time = |word: &str| {
        let number = word.strip_suffix('s').unwrap_or_default();
        number.contains(['.', 'm']) && number.chars().all(|c| c.is_ascii_digit() || c == '.' || c == 'm')
    };
    line.split(' ')
        .map(|word| if is_time(word) { "$TIME" } else { word })
        .collect::<Vec<_>>()
        .join(" ")
}

/// What a run came to. Look at it, or say that it does not matter.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    /// The exit code; nothing where a signal ended it.
    pub(crate) exit: Option<i32>,
    /// Standard output, normalised.
    pub(crate) stdout: String,
    /// Standard error, normalised.
    pub(crate) stderr: String,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exit {
            Some(code) => writeln!(f, "exit {code}")?,
            None => writeln!(f, "ended by a signal")?,
        }
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                write!(f, "----- {name}\n{text}")?;
            }
        }
        Ok(())
    }
}

impl Output {
    /// Returns standard output as JSON values, a line each.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("`{line}` is not JSON: {error}")))
            .collect()
    }
}

/// Returns the top of the checkout.
pub(crate) fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn times_are_normalised_and_versions_are_not() {
    assert_eq!(
        without_times("  0.42s done in 4m07s, v1.2.3"),
        "  $TIME done in 4m07s, v1.2.3"
    );
    assert_eq!(without_times("12.3s"), "$TIME");
}
