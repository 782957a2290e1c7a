//! Who holds a port.

use std::net::Ipv4Addr;

use super::Port;
use crate::drive::port;

/// Tries the ports on the loopback address and finds who holds those that cannot be had.
pub(super) fn ports(wanted: &[(&'static str, u16)], published: &[(u16, String, Option<String>)]) -> Vec<Port> {
    wanted
        .iter()
        .map(|&(what, number)| {
            let free = port::is_free((Ipv4Addr::LOCALHOST, number).into());
            let container = published.iter().find(|(port, ..)| *port == number).filter(|_| !free);
            Port {
                what,
                number,
                free,
                holder: match container {
                    Some((_, name, _)) => Some(format!("the container {name}")),
                    None if free => None,
                    None => port::holder(number).map(|holder| holder.to_string()),
                },
                lab: container.and_then(|(_, _, lab)| lab.clone()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

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
