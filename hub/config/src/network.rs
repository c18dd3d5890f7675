//! Networks, for lists of trusted proxies.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Addresses that are trusted: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

/// The text is not a network that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("network `{text}` is not valid: {cure}")]
pub struct InvalidNetwork {
    /// The text.
    pub text: String,
    /// What to write instead.
    pub cure: String,
}

// === impl Network ===

impl Network {
    /// Whether the address is in the network; an IPv4 address in IPv6 form counts as that IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = |cure: String| InvalidNetwork {
            text: text.chars().take(80).collect(),
            cure,
        };
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address.to_canonical()),
            Err(_) => text.parse::<IpNet>().map_err(|_| {
                invalid("write an address and a length, such as `10.0.0.0/8`, or one address".to_owned())
            })?,
        };
        if network.trunc() != network {
            return Err(invalid(format!(
                "the address has bits beyond its length: write `{}`",
                network.trunc()
            )));
        }
        if network.prefix_len() == 0 {
            return Err(invalid(
                "it would let every client say which address it comes from: name the proxies".to_owned(),
            ));
        }
        Ok(Self(network))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Network {
    type Error = InvalidNetwork;

    fn try_from(text: String) -> Result<Self, InvalidNetwork> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_in_either_form() {
        let network: Network = "10.1.0.0/16".parse().expect("valid");
        let one: Network = "2001:db8::7".parse().expect("valid");

        for (network, address, held) in [
            (network, "10.1.2.3", true),
            (network, "::ffff:10.1.2.3", true),
            (network, "10.2.0.1", false),
            (one, "2001:db8::7", true),
            (one, "2001:db8::8", false),
        ] {
            assert_eq!(network.contains(address.parse().expect("valid")), held, "{address}");
        }
    }

    #[test]
    fn what_is_no_network_is_answered_with_the_cure() {
        for (text, cure) in [
            ("", "10.0.0.0/8"),
            ("ingress", "10.0.0.0/8"),
            ("10.0.0.0/33", "10.0.0.0/8"),
            ("10.0.0.1/8", "write `10.0.0.0/8`"),
            ("0.0.0.0/0", "every client"),
            ("::/0", "every client"),
        ] {
            let error = text.parse::<Network>().expect_err(text).to_string();
            assert!(error.contains(cure), "{error}");
        }
    }
}
