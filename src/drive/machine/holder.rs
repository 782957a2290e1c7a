//! Who holds a port.

use std::net::{Ipv4Addr, TcpListener};

use super::{Port, text};

/// Tries the ports on the loopback address and finds who holds those that cannot be had.
pub(super) fn ports(wanted: &[(&'static str, u16)], published: &[(u16, String, Option<String>)]) -> Vec<Port> {
    wanted
        .iter()
        .map(|&(what, number)| {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok();
            let container = published.iter().find(|(port, ..)| *port == number).filter(|_| !free);
            Port {
                what,
                number,
                free,
                holder: match container {
                    Some((_, name, _)) => Some(format!("the container {name}")),
                    None if free => None,
                    None => process(number),
                },
                lab: container.and_then(|(_, _, lab)| lab.clone()),
            }
        })
        .collect()
}

/// Returns the process that listens on a port, such as `nginx (pid 12)`, where this user may see it.
fn process(port: u16) -> Option<String> {
    let tables = [text("/proc/net/tcp"), text("/proc/net/tcp6")];
    let sockets: Vec<String> = tables.iter().flat_map(|table| listening(table, port)).collect();
    if sockets.is_empty() {
        return None;
    }
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name
            .to_str()
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let holds = files
            .flatten()
            .filter_map(|file| std::fs::read_link(file.path()).ok())
            .any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()));
        if holds {
            let command = text(entry.path().join("comm"));
            return Some(format!("{} (pid {pid})", command.trim()));
        }
    }
    None
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

    #[test]
    fn the_kernels_table_of_sockets_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
            1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n";
        assert_eq!(listening(table, 8080), ["socket:[4711]"]);
        assert!(listening(table, 8081).is_empty());
    }

    #[test]
    fn the_holder_of_a_port_is_named() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let number = held.local_addr().expect("an address").port();
        let found = ports(&[("test", number)], &[]);
        assert!(!found[0].free);
        let pid = format!("(pid {})", std::process::id());
        assert!(
            found[0].holder.as_ref().is_some_and(|holder| holder.ends_with(&pid)),
            "{found:?}"
        );
        let published = [(number, "demo-control-plane".to_owned(), Some("demo".to_owned()))];
        let found = ports(&[("test", number)], &published);
        assert_eq!(found[0].holder.as_deref(), Some("the container demo-control-plane"));
        assert_eq!(found[0].lab.as_deref(), Some("demo"));
        drop(held);
        assert!(ports(&[("test", number)], &[])[0].free);
    }
}
