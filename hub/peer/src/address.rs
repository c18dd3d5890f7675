//! Where a hub takes the links of other hubs.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `ws://10.0.0.7:7422`, or `wss://` if the hub has TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerAddress {
    /// The pod's address and the port for hubs.
    pub address: SocketAddr,
    /// Whether the port expects TLS.
    pub tls: bool,
}

/// The text is not the address of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hub's address for links is `ws://` or `wss://`, an IP address and a port")]
pub struct InvalidPeerAddress;

// === impl PeerAddress ===

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}", self.address)
    }
}

impl FromStr for PeerAddress {
    type Err = InvalidPeerAddress;

    fn from_str(text: &str) -> Result<Self, InvalidPeerAddress> {
        let (scheme, address) = text.split_once("://").ok_or(InvalidPeerAddress)?;
        let tls = match scheme {
            "ws" => false,
            "wss" => true,
            _ => return Err(InvalidPeerAddress),
        };
        let address = address.parse().map_err(|_| InvalidPeerAddress)?;
        Ok(Self { address, tls })
    }
}

impl TryFrom<String> for PeerAddress {
    type Error = InvalidPeerAddress;

    fn try_from(text: String) -> Result<Self, InvalidPeerAddress> {
        text.parse()
    }
}

impl From<PeerAddress> for String {
    fn from(address: PeerAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_it_was_written() {
        for text in ["ws://10.0.0.7:7422", "wss://[2001:db8::7]:7422"] {
            let address: PeerAddress = text.parse().expect("valid");
            assert_eq!(
                (address.to_string().as_str(), address.tls),
                (text, text.starts_with("wss"))
            );
        }
        for text in [
            "",
            "10.0.0.7:7422",
            "http://10.0.0.7:7422",
            "ws://pod:7422",
            "ws://10.0.0.7",
        ] {
            assert_eq!(text.parse::<PeerAddress>(), Err(InvalidPeerAddress), "{text}");
        }
    }
}
