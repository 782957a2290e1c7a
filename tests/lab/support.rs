//! The shared lab: made when the first test asks for it, removed when the last one is done.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use labctl::config::{Dirs, LabName, Ports, Settings};
use labctl::drive::debian::Release;
use labctl::drive::docker::Docker;
use labctl::drive::files::Lock;
use labctl::lab::engine;

/// The lab's name: a user's own lab is not touched.
pub(crate) const NAME: &str = "labctl-test";

/// Ports that neither a user's lab nor the usual programs have.
pub(crate) const PORTS: Ports = Ports {
    http: 18_080,
    grpc: 18_081,
    mtls: 18_443,
    metrics: 18_090,
    registry: 15_001,
};

/// Why the tests cannot run.
pub(crate) enum Skip {
    /// They are skipped.
    Quietly(String),
    /// Skipping was forbidden.
    AsFailure(String),
}

/// The lab that all tests share.
pub(crate) struct Lab {
    state: PathBuf,
    _lock: Lock,
}

static LAB: OnceLock<Result<Lab, String>> = OnceLock::new();

/// Prints where a person sees it, whatever captures the output of tests.
pub(crate) fn say(text: &str) {
    _ = writeln!(std::io::stderr(), "\n{text}\n");
}

fn variable(name: &str) -> bool {
    labctl::config::variable(name).is_some_and(|value| value != "0")
}

fn settings() -> Result<Settings> {
    Ok(Settings {
        lab: LabName::parse(NAME)?,
        // The engine and the cache are the user's; the state is not.
        dirs: Dirs::from_environment()?.with_state(state()),
        yes: true,
        ask: false,
        json: false,
    })
}

/// Returns why the tests cannot run here, if they cannot.
pub(crate) fn skip() -> Option<Skip> {
    let runtime = tokio::runtime::Runtime::new().ok()?;
    let settings = settings().ok()?;
    let engine = runtime.block_on(Docker::find(&settings));
    if engine.is_ok() || engine::can_install(&Release::of_this_machine()) {
        return None;
    }
    let why = "no container engine answers, and this user may not install one".to_owned();
    Some(if variable("LABCTL_REQUIRE_LAB") {
        Skip::AsFailure(format!("{why}; LABCTL_REQUIRE_LAB forbids to skip"))
    } else {
        Skip::Quietly(why)
    })
}

/// Returns the lab, making it for the first test that asks.
///
/// # Errors
/// The end of what `labctl up` said, once for every test that asks.
pub(crate) fn lab() -> Result<&'static Lab, String> {
    let made = LAB.get_or_init(|| Lab::up().map_err(|error| format!("{error:?}")));
    made.as_ref().map_err(Clone::clone)
}

/// Removes the lab, if one was made.
///
/// # Errors
/// `labctl teardown` failed, which it does also where something is left.
pub(crate) fn remove() -> Result<()> {
    let Some(made) = LAB.get() else { return Ok(()) };
    if variable("LABCTL_KEEP_LAB") {
        say(&format!(
            "the lab is kept: LABCTL_STATE_DIR={} labctl --lab {NAME} status",
            state().display()
        ));
        return Ok(());
    }
    // Also after a failed `up`: what it made half-way must not stay.
    _ = made;
    let output = run(&state(), &["teardown", "--yes"], Stdio::null())?;
    ensure!(output.status.success(), "labctl teardown: {}", both(&output));
    // A user keeps the registry for the next `up`; after tests it would only be in the way.
    let registry = format!("{NAME}-registry");
    tokio::runtime::Runtime::new()?.block_on(async {
        let docker = Docker::find(&settings()?).await?;
        docker.remove_container(&registry).await?;
        _ = docker
            .api()
            .remove_volume(&registry, None::<bollard::query_parameters::RemoveVolumeOptions>)
            .await;
        Ok(())
    })
}

/// Returns where the shared lab keeps its state: in the build directory, so that it goes with it.
fn state() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("lab-state")
}

fn run(state: &Path, args: &[&str], stderr: Stdio) -> Result<Output> {
    command(state, NAME, args, stderr)
        .spawn()
        .and_then(Child::wait_with_output)
        .with_context(|| format!("run labctl {}", args.join(" ")))
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests run the program as a user would, exit code and all"
)]
fn command(state: &Path, lab: &str, args: &[&str], stderr: Stdio) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_labctl"));
    command
        .args(["--lab", lab])
        .args(args)
        // The cache is the user's own: what is built once is built for good.
        .env("LABCTL_STATE_DIR", state)
        .env("CI", "true")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr);
    command
}

/// Runs another program and returns what it printed.
///
/// # Errors
/// It failed.
#[expect(clippy::disallowed_methods, reason = "the exit code is looked at")]
pub(crate) fn program(name: &str, args: &[&str], variables: &[(&str, &str)]) -> Result<String> {
    let output = Command::new(name)
        .args(args)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {name}"))?;
    ensure!(output.status.success(), "{name} {}: {}", args.join(" "), both(&output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the exit code and both outputs of a program, for messages.
pub(crate) fn both(output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{:?}\n{out}{err}", output.status.code())
}

impl Lab {
    fn up() -> Result<Self> {
        let state = state();
        // A second `cargo test` of the same checkout waits for this one instead of taking its lab away.
        let lock = loop {
            let path = state.with_extension("lock");
            match Lock::try_take(&path, &format!("cargo test (pid {})", std::process::id()))? {
                Ok(lock) => break lock,
                Err(holder) => {
                    say(&format!("waiting for {holder}, which has the test lab"));
                    std::thread::sleep(std::time::Duration::from_secs(5));
                }
            }
        };
        let lab = Self { state, _lock: lock };
        let flags = lab.port_flags();
        let mut args = vec!["up", "--yes"];
        args.extend(flags.iter().map(String::as_str));
        // Making the lab for the first time takes minutes; they are seen.
        let output = run(&lab.state, &args, Stdio::inherit())?;
        ensure!(
            output.status.success(),
            "labctl {} exited with {:?}",
            args.join(" "),
            output.status.code()
        );
        Ok(lab)
    }

    /// Returns the flags of `labctl up` that choose the test lab's ports.
    #[expect(clippy::unused_self, reason = "it reads as what it is")]
    pub(crate) fn port_flags(&self) -> Vec<String> {
        [
            ("--http-port", PORTS.http),
            ("--grpc-port", PORTS.grpc),
            ("--mtls-port", PORTS.mtls),
            ("--metrics-port", PORTS.metrics),
            ("--registry-port", PORTS.registry),
        ]
        .iter()
        .flat_map(|(flag, port)| [(*flag).to_owned(), port.to_string()])
        .collect()
    }

    /// Returns the root of the state.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Returns the directory of the lab's state.
    pub(crate) fn dir(&self) -> PathBuf {
        self.state.join("labs").join(NAME)
    }

    /// Returns the settings that labctl has for this lab.
    ///
    /// # Errors
    /// The environment does not say where the cache is.
    #[expect(clippy::unused_self, reason = "it reads as what it is")]
    pub(crate) fn settings(&self) -> Result<Settings> {
        settings()
    }

    /// Starts labctl on the shared lab.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn spawn(&self, args: &[&str]) -> Result<Child> {
        command(&self.state, NAME, args, Stdio::piped())
            .spawn()
            .with_context(|| format!("start labctl {}", args.join(" ")))
    }

    /// Runs labctl on another lab with the same state directory.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn labctl_of(&self, lab: &str, args: &[&str]) -> Result<Output> {
        command(&self.state, lab, args, Stdio::piped())
            .output()
            .with_context(|| format!("run labctl {}", args.join(" ")))
    }

    /// Runs labctl on another lab with more environment variables.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn labctl_with(&self, lab: &str, args: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
        command(&self.state, lab, args, Stdio::piped())
            .envs(variables.iter().copied())
            .output()
            .with_context(|| format!("run labctl {}", args.join(" ")))
    }

    /// Runs a shell script in a namespace of its own (`--mount`, `--net`), as root there: what it mounts is seen by
    /// nobody else and goes with it.
    ///
    /// # Errors
    /// It cannot be started.
    #[expect(clippy::disallowed_methods, reason = "the exit code is looked at")]
    pub(crate) fn apart(&self, namespace: &str, script: &str) -> Result<Output> {
        let root = rustix::process::geteuid().is_root();
        let user: &[&str] = if root { &[] } else { &["--user", "--map-root-user"] };
        Command::new("unshare")
            .args(user)
            .args([namespace, "sh", "-c", script])
            .env("LABCTL_STATE_DIR", &self.state)
            .env("CI", "true")
            .stdin(Stdio::null())
            .output()
            .context("run unshare")
    }

    /// Runs labctl on the shared lab and returns its exit code and both outputs.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn labctl(&self, args: &[&str]) -> Result<Output> {
        run(&self.state, args, Stdio::piped())
    }

    /// Runs labctl on the shared lab, and takes another exit code than 0 for an error.
    ///
    /// # Errors
    /// It failed; both outputs are in the error.
    pub(crate) fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.labctl(args)?;
        ensure!(
            output.status.success(),
            "labctl {} exited with {}",
            args.join(" "),
            both(&output)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Looks that the lab is as `up` makes it.
    ///
    /// # Errors
    /// A step would run; the first one is named, for the others may only stand behind it.
    pub(crate) fn nothing_to_do(&self) -> Result<()> {
        let plan = self.ok(&["up", "--plan"])?;
        let first = plan.lines().find(|line| line.starts_with("run "));
        ensure!(first.is_none(), "`labctl up` would change the lab: {first:?}");
        Ok(())
    }
}
