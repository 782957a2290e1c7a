//! Redis for tests: a server of this process, from Debian's `redis-server`, which keeps nothing and ends with it.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use labctl::config;

/// What the shell does: it runs the server until nobody speaks any more, and then leaves nothing of it.
const SCRIPT: &str = r#"redis-server --bind 127.0.0.1 --port "$port" --save '' --appendonly no >/dev/null 2>&1 <&- & read -r _; kill -9 $!"#;

/// A Redis at a port of its own.
pub(crate) struct Redis {
    port: u16,
    shell: Option<Child>,
}

impl Redis {
    /// Starts one; nothing where it is not installed, which is told loudly.
    pub(crate) fn start() -> Option<Self> {
        if !Path::new("/usr/bin/redis-server").is_file() {
            assert!(
                config::variable("LABCTL_REQUIRE_LAB").is_none(),
                "there is no Redis, and LABCTL_REQUIRE_LAB forbids to skip: apt-get install redis-server"
            );
            let said = "SKIPPED: there is no Redis here: apt-get install redis-server\n";
            _ = std::io::stderr().write_all(said.as_bytes());
            return None;
        }
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut redis = Self { port, shell: None };
        redis.again();
        Some(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it once more.
    #[expect(
        clippy::disallowed_methods,
        reason = "it must end after this process, which a driver would not let it"
    )]
    pub(crate) fn again(&mut self) {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT])
            .env("port", self.port.to_string())
            .stdin(Stdio::piped());
        self.shell = Some(command.spawn().expect("a shell"));
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "Redis does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as nothing can be done against.
    pub(crate) fn kill(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            drop(shell.stdin.take());
            _ = shell.wait();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
