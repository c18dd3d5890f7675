//! Finds out from the kernel which process listens at an address: a key must not be sent to a listener just to learn
//! that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Whether somebody listens at an address, and every socket that does belongs to process `pid`.
pub(super) fn is_of(pid: u32, address: SocketAddr) -> bool {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    let sockets = [table("tcp"), table("tcp6")].concat();
    let mut inodes = sockets.lines().filter_map(|line| listener(line, address)).peekable();
    let held = sockets_of(pid);
    inodes.peek().is_some() && inodes.all(|inode| held.contains(&format!("socket:[{inode}]")))
}

/// The sockets that a process has open. Those of another user's process cannot be seen.
fn sockets_of(pid: u32) -> Vec<String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let files = files.into_iter().flatten().flatten();
    let targets = files.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter_map(|target| Some(target.to_str()?.to_owned())).collect()
}

/// The inode of a line's socket, if it listens where a connection to `address` would arrive.
fn listener(line: &str, address: SocketAddr) -> Option<&str> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
    let (ip, port) = local.split_once(':')?;
    let (ip, port) = (ip_of(ip)?, u16::from_str_radix(port, 16).ok()?);
    let reached = ip == address.ip() || ip.is_unspecified();
    (*state == LISTEN && port == address.port() && reached).then_some(*inode)
}

/// An address in the kernel's notation: 32-bit words, each in the machine's byte order.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for at in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let v4 = || Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.as_slice()).ok()?).into());
    let v6 = || Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?));
    v4().or_else(|| v6().map(|ip| ip.to_canonical()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_told_from_that_of_another_process() {
        for ip in ["127.0.0.1", "::1", "0.0.0.0"] {
            let Ok(listener) = TcpListener::bind((ip, 0)) else {
                continue;
            };
            let mut address = listener.local_addr().expect("bound");
            if address.ip().is_unspecified() {
                address.set_ip(Ipv4Addr::LOCALHOST.into());
            }

            assert!(is_of(std::process::id(), address), "{address} is ours");
            assert!(!is_of(std::os::unix::process::parent_id(), address), "{address}");
            drop(listener);
            assert!(!is_of(std::process::id(), address), "nobody listens at {address}");
        }
    }
}
