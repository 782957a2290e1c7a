//! PostgreSQL for tests: a private cluster of this process, from the programs that Debian's `postgresql-15` installs.
//!
//! It listens on a socket in a directory of its own and on no port, runs as somebody without rights (PostgreSQL refuses
//! root), and is ended with the process that started it, however that ends: a shell waits for the end of its input.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use labctl::config;
use sqlx::Connection as _;

/// How long the cluster may take to come up.
const START: Duration = Duration::from_secs(60);

/// What the shell does: it makes the cluster, runs it, obeys, and takes everything away when nobody speaks any more.
const SCRIPT: &str = r#"
set -u
fail() { tail -n 20 "$1" >&2; rm -rf "$2"; exit 1; }
start() { "$bin/postgres" -D "$dir/data" >>"$dir/log" 2>&1 3<&- & pid=$!; }
stop() { kill -s "$1" "$pid" 2>/dev/null; wait "$pid"; }
"$bin/initdb" -D "$dir/data" -U labctl -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$dir/log" 2>&1 || fail "$dir/log" "$dir"
cat >>"$dir/data/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '$dir'
fsync = $fsync
max_connections = 200
shared_buffers = $buffers
END
start
echo started
while read -r word; do
    case $word in
    start) start ;;
    *) stop "$word" ;;
    esac
    echo done
done
stop INT
rm -rf "$dir"
"#;

/// How a cluster is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// Whether commits are pushed to the disk: `on` or `off`.
    pub(crate) fsync: &'static str,
    /// How much memory it has for pages, such as `128MB`.
    pub(crate) buffers: &'static str,
}

/// A cluster that runs.
pub(crate) struct Cluster {
    shell: Mutex<Shell>,
    dir: PathBuf,
}

struct Shell {
    child: Child,
    answers: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Cluster {
    /// Starts one; nothing where PostgreSQL is not installed, which is told loudly.
    pub(crate) async fn start(setup: Setup) -> Option<Self> {
        let Some(bin) = programs() else {
            assert!(
                config::variable("LABCTL_REQUIRE_LAB").is_none(),
                "there is no PostgreSQL, and LABCTL_REQUIRE_LAB forbids to skip: apt-get install postgresql"
            );
            let said = "SKIPPED: there is no PostgreSQL here: apt-get install postgresql\n";
            _ = std::io::stderr().write_all(said.as_bytes());
            return None;
        };
        let dir = tempfile::Builder::new()
            .prefix("labctl-pg-")
            .tempdir()
            .expect("a temporary directory");
        // The shell removes it: it outlives this process.
        let dir = dir.keep();
        #[expect(
            clippy::disallowed_methods,
            reason = "it must end after this process, which a driver would not let it"
        )]
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT])
            .env("bin", bin)
            .env("dir", &dir)
            .env("fsync", setup.fsync)
            .env("buffers", setup.buffers)
            .current_dir(&dir)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if rustix::process::geteuid().is_root() {
            let (user, group) = without_rights();
            std::os::unix::fs::chown(&dir, Some(user), Some(group)).expect("given away");
            command.uid(user).gid(group);
        }
        let mut child = command.spawn().expect("a shell");
        let answers = BufReader::new(child.stdout.take().expect("piped")).lines();
        let cluster = Self {
            shell: Mutex::new(Shell { child, answers }),
            dir,
        };
        cluster.answered();
        cluster.answers().await;
        Some(cluster)
    }

    /// Waits for the shell to say that something is done.
    fn answered(&self) {
        let answer = self.shell.lock().expect("not poisoned").answers.next();
        answer
            .expect("PostgreSQL starts: its last words are above")
            .expect("readable");
    }

    async fn answers(&self) {
        let start = Instant::now();
        while let Err(error) = sqlx::PgConnection::connect(&self.url("postgres")).await {
            assert!(start.elapsed() < START, "PostgreSQL does not answer: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Tells the shell to start the server, or to send it a signal and wait for its end.
    pub(crate) fn tell(&self, word: &str) {
        let mut shell = self.shell.lock().expect("not poisoned");
        let stdin = shell.child.stdin.as_mut().expect("piped");
        writeln!(stdin, "{word}").expect("the shell listens");
        drop(shell);
        self.answered();
    }

    /// Returns the address of a database.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://labctl@localhost/{database}?host={}", self.dir.display())
    }

    /// Makes an empty database and returns its address.
    pub(crate) async fn database(&self) -> String {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let name = format!("test_{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let mut connection = sqlx::PgConnection::connect(&self.url("postgres"))
            .await
            .expect("connected");
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::query(create).execute(&mut connection).await.expect("a database");
        connection.close().await.expect("closed");
        self.url(&name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Ok(shell) = self.shell.get_mut() {
            drop(shell.child.stdin.take());
            _ = shell.child.wait();
        }
    }
}

/// Returns the cluster that all tests of this process share, each with a database of its own.
pub(crate) async fn shared() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    let setup = Setup {
        fsync: "off",
        buffers: "128MB",
    };
    // Every test has a runtime of its own; the first one that comes here starts the cluster in another.
    let start = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(Cluster::start(setup))
    };
    let shared = tokio::task::spawn_blocking(move || {
        SHARED
            .get_or_init(|| std::thread::spawn(start).join().expect("it starts"))
            .as_ref()
    });
    shared.await.expect("it starts")
}

/// Finds the newest PostgreSQL that a Debian package installed, then what is on PATH.
pub(crate) fn programs() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let path = config::variable("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let whole = |bin: &PathBuf| ["initdb", "postgres"].iter().all(|name| bin.join(name).is_file());
    versions
        .into_iter()
        .rev()
        .map(|(_, bin)| bin)
        .chain(path.into_iter().flatten())
        .find(whole)
}

/// Returns user and group of somebody without rights: PostgreSQL's own user, else nobody.
fn without_rights() -> (u32, u32) {
    let passwd = std::fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    let own = passwd
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .and_then(|line| {
            let mut fields = line.split(':').skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        });
    own.unwrap_or((65_534, 65_534))
}
