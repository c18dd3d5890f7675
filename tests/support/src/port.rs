//! Ports of loopback for servers that a test starts, ends, and starts again at the same place.
//!
//! Binding port 0 is no way to find one: it gives a port of the range from which the kernel serves everybody
//! (`ip_local_port_range`), and while the server is away the next one who asks may get it:
//! - another test that binds port 0, or any program's outgoing connection;
//! - whoever dials the closed port again and again. Once the kernel gives the dialler the very port that it dials, the
//!   socket is connected to itself (TCP's simultaneous open), and the server cannot bind any more: "Address already in
//!   use". Seen on Linux 6.18 after 4489 attempts in 0.14 s, on port 40000. There, `bind` takes odd ports first and
//!   `connect` even ones, so that an odd port waits until the even ones are used up; no rule promises that.
//!
//! So a [`Port`] lies below that range, where the kernel gives nothing away on its own, and it is locked: tests that run
//! side by side, in this process or in others, never have the same one.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use tokio::net::TcpSocket;

/// Well-known servers listen below.
const LOWEST: u16 = 10_000;

/// Where the range of the kernel starts when nobody changed it.
const USUAL_START: u16 = 32_768;

/// With fewer ports than these below the kernel's range, it is not spared.
const ENOUGH: u16 = 1_000;

const ATTEMPTS: usize = 1_000;

/// A port of 127.0.0.1 that nobody listened on when it was chosen, and that no other `Port` has while this one lives.
///
/// Keep it as long as the server may come back.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// The lock is a name of the kernel's (an abstract socket), seen by the same processes that share the ports; it goes
    /// with its process and leaves no file.
    _lock: UnixListener,
}

// === impl Port ===

impl Port {
    /// Chooses one by chance.
    ///
    /// # Panics
    /// None is free.
    pub fn free() -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let range = beside(&kernel);
        (0..ATTEMPTS)
            .find_map(|_| Self::lock(fastrand::u16(range.clone())))
            .unwrap_or_else(|| panic!("no port of {range:?} is free"))
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// This port, unless somebody has locked it or listens on it.
    fn lock(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("alkhub-test-port-{number}")).ok()?;
        let lock = UnixListener::bind_addr(&name).ok()?;
        // Without listening: a process that is just being started has a copy of every socket until it runs its program,
        // and a copy of a listening one would be in the server's way.
        let probe = TcpSocket::new_v4().ok()?;
        probe.set_reuseaddr(true).ok()?;
        probe.bind((Ipv4Addr::LOCALHOST, number).into()).ok()?;
        Some(Self { number, _lock: lock })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

/// The ports to choose from, beside those that the kernel keeps for itself (`FIRST LAST`).
fn beside(kernel: &str) -> RangeInclusive<u16> {
    let first = kernel.split_whitespace().next();
    let first = first.and_then(|first| first.parse().ok()).unwrap_or(USUAL_START);
    if first >= LOWEST + ENOUGH {
        LOWEST..=first - 1
    } else {
        LOWEST..=u16::MAX
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::net::TcpListener;

    use super::*;
    use crate::until;

    #[test]
    fn ports_lie_below_those_of_the_kernel() {
        assert_eq!(beside("32768\t60999\n"), 10_000..=32_767);
        assert_eq!(beside("15000 64000"), 10_000..=14_999);
        assert_eq!(beside(""), 10_000..=32_767);
        assert_eq!(beside("1024\t65535\n"), 10_000..=65_535, "nothing is left below");
    }

    #[tokio::test]
    async fn a_port_belongs_to_one_until_it_is_dropped() {
        let port = Port::free();
        let number = port.number();
        assert!(Port::lock(number).is_none());

        drop(port);

        // Not at once: a process that another test starts may have a copy of the lock for a moment.
        until("the port is free again", || ready(Port::lock(number).ok_or("locked"))).await;
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_given() {
        let server = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("free");
        let number = server.local_addr().expect("bound").port();

        assert!(Port::lock(number).is_none());
    }
}
