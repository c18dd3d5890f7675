//! The address of a client behind proxies that are trusted (`server.trusted-proxies`).
//!
//! Each proxy appends the address from which it was asked. The list is read from its end, skipping the trusted proxies:
//! the first address that is not one of theirs is the client's, and anything before that is only the client's word.

use std::net::IpAddr;

use alkhub_config::{ClientAddress, Network, ServerConfig};
use http::header::FORWARDED;
use http::{HeaderMap, HeaderName};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client of a request that came over a socket from `peer`.
pub(crate) fn client(headers: &HeaderMap, peer: IpAddr, server: &ServerConfig) -> IpAddr {
    if !is_trusted(&server.trusted_proxies, peer) {
        return peer;
    }
    let hops: Vec<Option<IpAddr>> = match server.client_address {
        ClientAddress::XForwardedFor => {
            let texts = texts(headers, &X_FORWARDED_FOR);
            texts.flat_map(|text| text.split(',')).map(node).collect()
        }
        ClientAddress::Forwarded => {
            let texts = texts(headers, &FORWARDED);
            texts.flat_map(|text| split(text, ',')).map(forwarded_for).collect()
        }
        // Read before the connection's first request, so the peer is the client already.
        ClientAddress::ProxyProtocol => Vec::new(),
    };
    nearest(hops, peer, &server.trusted_proxies)
}

/// Whether an address is a trusted proxy's.
pub(crate) fn is_trusted(proxies: &[Network], address: IpAddr) -> bool {
    proxies.iter().any(|network| network.contains(address))
}

/// The last hop that is not a trusted proxy. Behind a hop that is hidden or unreadable, nothing is believed.
fn nearest(hops: Vec<Option<IpAddr>>, peer: IpAddr, proxies: &[Network]) -> IpAddr {
    let mut nearest = peer;
    for hop in hops.into_iter().rev() {
        let Some(address) = hop else { return nearest };
        nearest = address;
        if !is_trusted(proxies, address) {
            break;
        }
    }
    nearest
}

fn texts<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    // A value that is not text hides a hop.
    headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?"))
}

/// The `for` of one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let value = split(element, ';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim())
    })?;
    node(
        value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'))
            .unwrap_or(value),
    )
}

/// An address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let host = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => host,
            _ => text,
        },
    };
    host.parse().map(|address: IpAddr| address.to_canonical()).ok()
}

/// The parts of a text between separators outside quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        if escaped {
            escaped = false;
            return false;
        }
        escaped = quoted && c == '\\';
        quoted ^= c == '"';
        c == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(by: ClientAddress, header: &str, values: &[&str], peer: &str) -> String {
        let server = ServerConfig {
            trusted_proxies: vec![
                "10.0.0.0/8".parse().expect("valid"),
                "2001:db8:f::/48".parse().expect("valid"),
            ],
            client_address: by,
            ..ServerConfig::default()
        };
        let mut headers = HeaderMap::new();
        for value in values {
            let name: HeaderName = header.parse().expect("a name");
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        client(&headers, peer.parse().expect("valid"), &server).to_string()
    }

    #[test]
    fn the_nearest_hop_that_is_no_trusted_proxy_is_the_client() {
        let of = |values: &[&str], peer| of(ClientAddress::XForwardedFor, "x-forwarded-for", values, peer);

        assert_eq!(of(&["192.0.2.7"], "10.0.0.1"), "192.0.2.7");
        assert_eq!(of(&["192.0.2.7, 10.2.2.2"], "10.0.0.1"), "192.0.2.7");
        assert_eq!(of(&["192.0.2.7", "10.2.2.2"], "10.0.0.1"), "192.0.2.7");
        assert_eq!(of(&["2001:db8::1, 2001:db8:f::2"], "10.0.0.1"), "2001:db8::1");
        assert_eq!(of(&["192.0.2.7:4711"], "10.0.0.1"), "192.0.2.7");
        assert_eq!(of(&["[2001:db8::1]:4711"], "10.0.0.1"), "2001:db8::1");
        assert_eq!(of(&["::ffff:192.0.2.7"], "10.0.0.1"), "192.0.2.7");
        assert_eq!(of(&[], "10.0.0.1"), "10.0.0.1");
        assert_eq!(
            of(&["10.3.3.3"], "10.0.0.1"),
            "10.3.3.3",
            "a client of the proxies' own network"
        );
    }

    #[test]
    fn what_a_client_writes_itself_is_not_believed() {
        let of = |values: &[&str], peer| of(ClientAddress::XForwardedFor, "x-forwarded-for", values, peer);

        assert_eq!(of(&["203.0.113.9"], "192.0.2.7"), "192.0.2.7", "it is no proxy");
        assert_eq!(of(&["203.0.113.9, 192.0.2.7"], "10.0.0.1"), "192.0.2.7");
        assert_eq!(of(&["203.0.113.9, nonsense"], "10.0.0.1"), "10.0.0.1");
        assert_eq!(of(&["203.0.113.9, nonsense, 10.2.2.2"], "10.0.0.1"), "10.2.2.2");
    }

    #[test]
    fn only_the_header_that_is_named_is_read() {
        let one = "192.0.2.7";

        assert_eq!(
            of(ClientAddress::Forwarded, "x-forwarded-for", &[one], "10.0.0.1"),
            "10.0.0.1"
        );
        assert_eq!(
            of(
                ClientAddress::XForwardedFor,
                "forwarded",
                &["for=192.0.2.7"],
                "10.0.0.1"
            ),
            "10.0.0.1"
        );
        assert_eq!(
            of(ClientAddress::ProxyProtocol, "x-forwarded-for", &[one], "10.0.0.1"),
            "10.0.0.1"
        );
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        let of = |values: &[&str]| of(ClientAddress::Forwarded, "forwarded", values, "10.0.0.1");

        assert_eq!(of(&["for=192.0.2.60;proto=http;by=203.0.113.43"]), "192.0.2.60");
        assert_eq!(of(&["For=\"[2001:db8:cafe::17]:4711\""]), "2001:db8:cafe::17");
        assert_eq!(of(&["for=203.0.113.9, for=192.0.2.43, for=10.2.2.2"]), "192.0.2.43");
        assert_eq!(
            of(&["for=203.0.113.9", "host=\"a,b;for=1.1.1.1\";for=192.0.2.43"]),
            "192.0.2.43"
        );
        assert_eq!(of(&["for=203.0.113.9, for=unknown"]), "10.0.0.1");
        assert_eq!(of(&["for=203.0.113.9, for=_hidden"]), "10.0.0.1");
        assert_eq!(of(&["proto=https"]), "10.0.0.1");
    }
}
