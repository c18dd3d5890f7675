//! The header of the PROXY protocol, versions 1 and 2, in which a proxy names its client; pure.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. No library is used: the one that is maintained would
//! bring in a second `thiserror` (docs/decisions/0017).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Version 2 begins with this.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 1 begins with this.
const WORD: &[u8; 6] = b"PROXY ";

/// The longest line of version 1, including its end.
const LINE_LIMIT: usize = 107;

/// The longest block of version 2 that is read: addresses and extensions.
const BLOCK_LIMIT: usize = 4096;

/// As much of a header as has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// More bytes are needed.
    Partial,
    /// It is whole.
    Whole {
        /// Its length in bytes.
        length: usize,
        /// The client; `None` if the proxy speaks for itself (a health check) or does not know.
        client: Option<IpAddr>,
    },
}

/// The bytes are not such a header.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no header of the PROXY protocol: {0}")]
pub(super) struct NoHeader(&'static str);

/// Reads the header at the beginning of a connection.
///
/// # Errors
/// [`NoHeader`]: whatever follows, it can never become one.
pub(super) fn read(bytes: &[u8]) -> Result<Header, NoHeader> {
    let begins = |with: &[u8]| bytes.starts_with(with) || with.starts_with(bytes);
    if begins(SIGNATURE) {
        version_2(bytes)
    } else if begins(WORD) {
        version_1(bytes)
    } else {
        Err(NoHeader("the connection begins with something else"))
    }
}

fn version_1(bytes: &[u8]) -> Result<Header, NoHeader> {
    let Some(end) = bytes.windows(2).take(LINE_LIMIT).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= LINE_LIMIT {
            Err(NoHeader("its line is too long"))
        } else {
            Ok(Header::Partial)
        };
    };
    let line = std::str::from_utf8(&bytes[WORD.len()..end]).map_err(|_| NoHeader("its line is no text"))?;
    let parts: Vec<&str> = line.split(' ').collect();
    let client = match parts[..] {
        ["UNKNOWN", ..] => None,
        ["TCP4", client, _, _, _] => Some(IpAddr::V4(address(client)?)),
        ["TCP6", client, _, _, _] => Some(IpAddr::V6(address(client)?)),
        _ => return Err(NoHeader("its line has another form")),
    };
    Ok(Header::Whole {
        length: end + 2,
        client: client.map(|client| client.to_canonical()),
    })
}

fn address<T: std::str::FromStr>(text: &str) -> Result<T, NoHeader> {
    text.parse().map_err(|_| NoHeader("its address cannot be read"))
}

fn version_2(bytes: &[u8]) -> Result<Header, NoHeader> {
    let Some(&[version_and_command, family, high, low]) = bytes.get(12..16) else {
        return Ok(Header::Partial);
    };
    let block = usize::from(u16::from_be_bytes([high, low]));
    if version_and_command >> 4 != 2 || block > BLOCK_LIMIT {
        return Err(NoHeader("its version or length is not known"));
    }
    let Some(block) = bytes.get(16..16 + block) else {
        return Ok(Header::Partial);
    };
    let client = match (version_and_command & 0xF, family >> 4) {
        (1, 1) => Some(IpAddr::V4(Ipv4Addr::from(first::<4>(block, 12)?))),
        (1, 2) => Some(IpAddr::V6(Ipv6Addr::from(first::<16>(block, 36)?))),
        // The proxy itself, or a client without an address of these kinds.
        (0 | 1, _) => None,
        _ => return Err(NoHeader("its command is not known")),
    };
    Ok(Header::Whole {
        length: 16 + block.len(),
        client: client.map(|client| client.to_canonical()),
    })
}

/// The first bytes of a block that must have at least `least`.
fn first<const N: usize>(block: &[u8], least: usize) -> Result<[u8; N], NoHeader> {
    block
        .get(..least)
        .and_then(|block| block.first_chunk::<N>())
        .copied()
        .ok_or(NoHeader("its addresses are cut off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, block].concat()
    }

    fn client(bytes: &[u8]) -> Option<String> {
        match read(bytes).expect("a header") {
            Header::Whole { length, client } => {
                assert_eq!(length, bytes.len());
                client.map(|client| client.to_string())
            }
            Header::Partial => panic!("it is whole"),
        }
    }

    #[test]
    fn both_versions_tell_the_client() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0x1D, 0x0C];
        let v6 = [&[0x20, 1, 0xD, 0xB8][..], &[0; 31], &[1]].concat();

        assert_eq!(
            client(b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 7420\r\n").as_deref(),
            Some("192.0.2.7")
        );
        assert_eq!(
            client(b"PROXY TCP6 2001:db8::1 ::1 4711 7420\r\n").as_deref(),
            Some("2001:db8::1")
        );
        assert_eq!(client(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(client(&version_2(1, 0x11, &v4)).as_deref(), Some("192.0.2.7"));
        assert_eq!(
            client(&version_2(1, 0x11, &[&v4[..], &[4, 0, 1, 9]].concat())).as_deref(),
            Some("192.0.2.7")
        );
        assert_eq!(client(&version_2(1, 0x21, &v6)).as_deref(), Some("2001:db8::"));
        assert_eq!(client(&version_2(0, 0, &[])), None, "a health check of the proxy's own");
    }

    #[test]
    fn a_header_that_has_not_come_whole_is_waited_for() {
        let v2 = version_2(1, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0, 1, 0, 2]);
        for whole in [&b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 7420\r\n"[..], &v2] {
            for length in 0..whole.len() {
                assert_eq!(read(&whole[..length]), Ok(Header::Partial), "{length}");
            }
        }
    }

    #[test]
    fn anything_else_is_no_header() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 nonsense 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.7\r\n",
            b"PROXY \xFF\r\n",
            &[b"PROXY ", &[b'x'; 120][..]].concat(),
            &version_2(1, 0x11, &[1, 2, 3]),
            &version_2(7, 0x11, &[0; 12]),
        ] {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }
}
