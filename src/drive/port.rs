//! Ports of this machine: whether one can be had, and who holds it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use crate::report::human::plain;

/// How much of a command line is shown, in characters.
const COMMAND_CHARS: usize = 60;

/// The process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its command line, cut to one short line; its name where the command line cannot be read.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

/// Returns whether this process could listen on an address now.
///
/// It is tried, because the tables of the kernel do not say which addresses exclude each other. An answer is true of the
/// moment only; who needs the port must listen, and deal with failure.
pub fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// Returns a port of 127.0.0.1 that nobody listens on at this moment.
///
/// # Errors
/// There is none.
pub fn free() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Returns the process that listens on a TCP port, on whatever address.
///
/// `None` where nobody does, where this user may not see the process that does, and on systems without `/proc`.
/// The source is `/proc/net/tcp` and `tcp6` (see proc_net_tcp in the kernel's documentation), which give the socket's
/// inode, and `/proc/<pid>/fd`, which gives the process.
pub fn holder(port: u16) -> Option<Holder> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, port))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(descriptors) = std::fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let holds = descriptors
            .flatten()
            .filter_map(|file| std::fs::read_link(file.path()).ok())
            .any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()));
        if holds {
            return Some(Holder {
                pid,
                command: command(&entry.path()),
            });
        }
    }
    None
}

/// Says that a port is taken, and by whom where that can be known.
pub fn taken(port: u16) -> String {
    match holder(port) {
        Some(holder) => format!("port {port} is taken by {holder}"),
        None => format!("port {port} is taken"),
    }
}

/// Returns the command line of the process of a directory such as `/proc/12`.
fn command(process: &Path) -> String {
    let whole = std::fs::read(process.join("cmdline")).unwrap_or_default();
    let words: Vec<String> = whole
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let line = if words.is_empty() {
        std::fs::read_to_string(process.join("comm")).unwrap_or_default()
    } else {
        words.join(" ")
    };
    // Any process may call itself anything; a control character must not reach the terminal.
    let line = plain(line.trim());
    match line.char_indices().nth(COMMAND_CHARS) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

/// Returns the sockets, as `/proc/PID/fd` names them, that listen on a port.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let local = columns.next()?;
            let state = columns.nth(1)?;
            let inode = columns.nth(5)?;
            let number = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
            (state == LISTEN && number == port).then(|| format!("socket:[{inode}]"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::files;

    #[test]
    fn the_kernels_table_of_sockets_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
            1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n\
            2: garbage\n";
        assert_eq!(listening(table, 8080), ["socket:[4711]"]);
        assert!(listening(table, 8081).is_empty());
        assert!(listening("", 8080).is_empty());
    }

    #[test]
    fn a_held_port_is_not_free_and_its_holder_is_named() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(held) = TcpListener::bind(any) else {
                continue;
            };
            let address = held.local_addr().expect("an address");
            assert!(!is_free(address));
            let holder = holder(address.port()).expect("this process");
            assert_eq!(holder.pid, std::process::id());
            assert!(taken(address.port()).ends_with(&format!("(pid {})", holder.pid)));
            drop(held);
            assert!(is_free(address));
        }
    }

    #[test]
    fn a_command_line_is_one_short_line() {
        let dir = tempfile::tempdir().expect("temporary directory");
        files::write(&dir.path().join("comm"), "kworker\n").expect("written");
        assert_eq!(command(dir.path()), "kworker");
        files::write(&dir.path().join("cmdline"), b"evil\x1b[2J\0-x\0").expect("written");
        assert_eq!(command(dir.path()), "evil [2J -x");
        files::write(&dir.path().join("cmdline"), "é".repeat(200)).expect("written");
        assert_eq!(command(dir.path()), format!("{}...", "é".repeat(COMMAND_CHARS)));
    }
}
