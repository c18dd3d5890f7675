//! Listeners, limits and the graceful end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::network::Network;
use crate::origin::Origin;

/// `[server]`, `ALKHUB_SERVER__*`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServerConfig {
    /// Where clients and spokes connect. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where `/metrics`, `/livez` and `/readyz` are served; keep it off the Internet.
    pub management_listen: SocketAddr,
    /// Where other hubs dial this one for messages from pod to pod, beside Redis; none by default, and then they all go
    /// through Redis. Keep it off the Service and off the Internet, and let the hubs' pods reach it on each other's
    /// addresses (`pod.ip`). Hubs prove by `auth.hash-key-file` that they are of one Hub; the port speaks TLS where `tls` is
    /// set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_listen: Option<SocketAddr>,
    /// Serves TLS on `listen` with this certificate; without it put a proxy in front.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Origins of web pages that may use the hub, over HTTP and WebSocket (`https://app.example`, or `*`), as browsers
    /// send them; none by default.
    pub cors_origins: Vec<Origin>,
    /// Networks of the proxies in front of the hub (`10.0.0.0/8`), whose word on a client's address counts
    /// (`client-address`); none by default. Too few and all clients behind a proxy share the limits of one address; too
    /// many and a client can take another's place in them.
    pub trusted_proxies: Vec<Network>,
    /// How a trusted proxy tells the client's address: `x-forwarded-for`, `forwarded` (RFC 7239) or `proxy-protocol`
    /// (versions 1 and 2, on every connection). Only the one that is named is read: a proxy hands on what clients write
    /// into the others.
    pub client_address: ClientAddress,
    /// Open connections in all. Too low refuses spokes with 503; too high runs out of memory (about 10 KiB each).
    pub max_connections: usize,
    /// Open connections of one address (of an IPv6 address: of its /64), trusted proxies excepted. Too low refuses spokes
    /// behind one NAT or a proxy that is not in `trusted-proxies`; too high lets one client take the hub.
    pub max_connections_per_address: usize,
    /// Open connections of one key: WebSockets, and streams of server-sent events. Too low refuses a large pool of
    /// spokes; too high lets one key take the hub.
    pub max_connections_per_key: usize,
    /// HTTP requests of one key in a second, with bursts of twice as many. Too low answers 429.
    pub requests_per_second_per_key: u32,
    /// WebSocket messages that ask for something (calls, events, subscriptions; not a spoke's answers) of one key in a
    /// second, with bursts of twice as many. Over it its sockets are read no faster; nothing is refused. Too low slows a
    /// busy key; too high lets one key use the CPU.
    pub messages_per_second_per_key: u32,
    /// Bad keys from one address in a minute before more of them get 429; good keys go on. Too low hides from a
    /// misconfigured fleet what is wrong with its keys; too high lets guesses cost more look-ups.
    pub bad_keys_per_minute: u32,
    /// Messages waiting for one connection; a connection over it is closed. Generous: `outbox-bytes` is the bound that
    /// counts, so that a burst of small messages passes.
    pub outbox_messages: usize,
    /// Bytes waiting for one connection; a connection over it is closed. Too low drops readers that fall behind for a
    /// moment; too high lets slow ones use up `budget.key-bytes`.
    pub outbox_bytes: usize,
    /// Time for a client to send its request's header, the first one from the connection's start, and for a WebSocket to
    /// be upgraded; an HTTP/1.1 connection without a request is closed after it. Too short cuts slow clients off; too
    /// long lets idle connections hold their places.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// A peer of HTTP or of a WebSocket that takes no byte of what is for it for so long is cut off; of HTTP/2 an answer
    /// is, of which 16 KiB were not taken. Too short cuts slow networks off; too long lets a peer that reads nothing hold
    /// its place and what waits for it.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// A WebSocket is pinged this often. Too long and proxies cut idle connections; too short costs wake-ups.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// A WebSocket silent for longer is dead; at least twice `ping-interval`.
    #[serde(with = "humantime_serde")]
    pub dead_after: Duration,
    /// A peer that asked for it may come back to its session for so long after its connection broke: its calls go on, and
    /// its spoke stays registered. Too short ends them at each loss of a network that takes longer; too long lets calls wait
    /// for a spoke that does not come back, and keeps what is to be said to it. 0 ends each session with its connection.
    #[serde(with = "humantime_serde")]
    pub resume: Duration,
    /// A WebSocket message must arrive whole in this time, or its connection is closed (1008). Too short cuts large
    /// messages over slow networks; too long lets messages that never end keep memory.
    #[serde(with = "humantime_serde")]
    pub message_timeout: Duration,
    /// Whether connections that are unequally spread over the pods of a Hub get to other pods: peers are let go when nothing
    /// of theirs is under way, and a pod with more than its part refuses new ones (503 with `Retry-After`). Without it only a
    /// pod that drains does either. For all pods of a Hub the same.
    pub rebalance: bool,
    /// At the end: time between not ready and no longer accepting, so that load balancers notice.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
    /// At the end: time for running calls to finish. Kubernetes must allow `drain-delay + drain-timeout + 22s`.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

/// Where a trusted proxy writes the address of its client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAddress {
    /// Header `X-Forwarded-For`, the nearest hop last.
    #[default]
    XForwardedFor,
    /// Header `Forwarded`, RFC 7239.
    Forwarded,
    /// The PROXY protocol before the first byte of a connection.
    ProxyProtocol,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TlsConfig {
    /// The chain, leaf first.
    pub cert_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

/// The port for clients and spokes.
pub const PORT: u16 = 7420;

/// The port for metrics and probes.
pub const MANAGEMENT_PORT: u16 = 7421;

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], PORT).into(),
            management_listen: ([127, 0, 0, 1], MANAGEMENT_PORT).into(),
            peer_listen: None,
            tls: None,
            cors_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            client_address: ClientAddress::default(),
            max_connections: 20_000,
            max_connections_per_address: 10_000,
            max_connections_per_key: 10_000,
            requests_per_second_per_key: 2_000,
            messages_per_second_per_key: 20_000,
            bad_keys_per_minute: 60,
            outbox_messages: 65_536,
            outbox_bytes: 8 * 1024 * 1024,
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            ping_interval: Duration::from_secs(10),
            dead_after: Duration::from_secs(25),
            resume: Duration::from_secs(30),
            message_timeout: Duration::from_secs(30),
            rebalance: true,
            drain_delay: Duration::from_secs(0),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_time_that_kubernetes_must_allow_is_the_time_that_a_hub_takes() {
        let documented = format!("`drain-delay + drain-timeout + {}s`", crate::drain::LIMIT.as_secs());

        assert!(crate::reference().contains(&documented), "{documented}");
    }
}
