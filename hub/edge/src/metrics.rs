//! Every metric of this crate.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// One family.
#[derive(Clone, Copy, Debug)]
struct Family {
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
}

const REQUESTS: Family = Family {
    name: "alkhub_http_requests_total",
    labels: &["route", "method", "status"],
    help: "HTTP requests answered, by route (`none` when no route matched), method and status.",
};
const REQUEST_DURATION: Family = Family {
    name: "alkhub_http_request_duration_seconds",
    labels: &["route"],
    help: "Time from a request's header to the header of its answer.",
};
const CONNECTIONS: Family = Family {
    name: "alkhub_connections",
    labels: &["kind"],
    help: "Open connections: `http` (not upgraded), `websocket`, and `sse` streams on top of HTTP; `reconnecting`: sessions whose connection is lost and that wait for their peers; `left`: sessions that other hubs go on with, while calls of theirs run here.",
};
const AUTH_FAILURES: Family = Family {
    name: "alkhub_auth_failures_total",
    labels: &["reason"],
    help: "Requests refused because of their key, by reason.",
};
const RATE_LIMITED: Family = Family {
    name: "alkhub_rate_limited_total",
    labels: &["limit"],
    help: "Requests and connections refused, and sockets read no faster (`messages_per_key`), because a limit of `[server]` was reached, by limit.",
};

/// What kind of connection is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// A connection that is not upgraded.
    Http,
    /// A WebSocket.
    Websocket,
    /// A stream of server-sent events, on top of HTTP.
    Sse,
    /// Not a connection: a session whose connection is lost, and that waits for its peer.
    Reconnecting,
    /// Not a connection: a session that has moved to another hub, while calls of it run here.
    Left,
}

/// Why a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthFailure {
    /// None was given.
    Missing,
    /// Not a key: prefix, length or checksum is wrong.
    Malformed,
    /// No such key.
    Unknown,
    /// Somebody ended it.
    Revoked,
    /// It has expired.
    Expired,
    /// Its spoke is suspended.
    Suspended,
    /// Postgres is away and the key is not cached.
    Unavailable,
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// `max-connections`.
    Connections,
    /// `max-connections-per-address`.
    AddressConnections,
    /// `max-connections-per-key`.
    KeyConnections,
    /// `requests-per-second-per-key`.
    KeyRequests,
    /// `messages-per-second-per-key`: a socket was read more slowly.
    KeyMessages,
    /// `bad-keys-per-minute`.
    BadKeys,
}

/// Handles to the metrics of one hub.
#[derive(Debug)]
pub struct EdgeMetrics {
    requests: IntCounterVec,
    request_duration: HistogramVec,
    http: IntGauge,
    websocket: IntGauge,
    sse: IntGauge,
    reconnecting: IntGauge,
    left: IntGauge,
    auth_failures: IntCounterVec,
    rate_limited: IntCounterVec,
}

/// Counts one connection for as long as it lives.
#[derive(Debug)]
pub struct Counted {
    kind: ConnectionKind,
    gauge: IntGauge,
}

// === impl EdgeMetrics ===

impl EdgeMetrics {
    /// Makes the metrics and puts them into the registry.
    ///
    /// # Errors
    /// The registry has one of the names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = counters(registry, REQUESTS)?;
        let request_duration = HistogramVec::new(
            HistogramOpts::new(REQUEST_DURATION.name, REQUEST_DURATION.help).buckets(vec![
                0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
            ]),
            REQUEST_DURATION.labels,
        )?;
        registry.register(Box::new(request_duration.clone()))?;
        let connections = IntGaugeVec::new(Opts::new(CONNECTIONS.name, CONNECTIONS.help), CONNECTIONS.labels)?;
        registry.register(Box::new(connections.clone()))?;
        let metrics = Self {
            requests,
            request_duration,
            http: connections.with_label_values(&[ConnectionKind::Http.label()]),
            websocket: connections.with_label_values(&[ConnectionKind::Websocket.label()]),
            sse: connections.with_label_values(&[ConnectionKind::Sse.label()]),
            reconnecting: connections.with_label_values(&[ConnectionKind::Reconnecting.label()]),
            left: connections.with_label_values(&[ConnectionKind::Left.label()]),
            auth_failures: counters(registry, AUTH_FAILURES)?,
            rate_limited: counters(registry, RATE_LIMITED)?,
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    /// A family without a series does not exist for a scraper, so the closed label sets start at zero.
    fn start_at_zero(&self) {
        for reason in AuthFailure::ALL {
            self.auth_failures.with_label_values(&[reason.label()]);
        }
        for limit in Limit::ALL {
            self.rate_limited.with_label_values(&[limit.label()]);
        }
        self.requests.with_label_values(&["none", "GET", "404"]);
        self.request_duration.with_label_values(&["none"]);
    }

    /// Counts a request that was answered.
    pub(crate) fn request(&self, route: &str, method: &str, status: u16, duration: Duration) {
        let mut buffer = [0; 3];
        self.requests
            .with_label_values(&[route, method, decimal(status, &mut buffer)])
            .inc();
        self.request_duration
            .with_label_values(&[route])
            .observe(duration.as_secs_f64());
    }

    /// Counts a connection until the guard is dropped.
    pub fn open(&self, kind: ConnectionKind) -> Counted {
        let gauge = match kind {
            ConnectionKind::Http => &self.http,
            ConnectionKind::Websocket => &self.websocket,
            ConnectionKind::Sse => &self.sse,
            ConnectionKind::Reconnecting => &self.reconnecting,
            ConnectionKind::Left => &self.left,
        };
        gauge.inc();
        Counted {
            kind,
            gauge: gauge.clone(),
        }
    }

    /// Counts a refused key.
    pub(crate) fn auth_failure(&self, reason: AuthFailure) {
        self.auth_failures.with_label_values(&[reason.label()]).inc();
    }

    /// Counts a refusal by a limit.
    pub(crate) fn limited(&self, limit: Limit) {
        self.rate_limited.with_label_values(&[limit.label()]).inc();
    }
}

// === impl Counted ===

impl Counted {
    /// What it counts.
    pub(crate) fn kind(&self) -> ConnectionKind {
        self.kind
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

// === labels ===

impl ConnectionKind {
    fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Websocket => "websocket",
            Self::Sse => "sse",
            Self::Reconnecting => "reconnecting",
            Self::Left => "left",
        }
    }
}

impl AuthFailure {
    const ALL: [Self; 7] = [
        Self::Missing,
        Self::Malformed,
        Self::Unknown,
        Self::Revoked,
        Self::Expired,
        Self::Suspended,
        Self::Unavailable,
    ];

    /// The label's value.
    fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Suspended => "suspended",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Limit {
    const ALL: [Self; 6] = [
        Self::Connections,
        Self::AddressConnections,
        Self::KeyConnections,
        Self::KeyRequests,
        Self::KeyMessages,
        Self::BadKeys,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::AddressConnections => "connections_per_address",
            Self::KeyConnections => "connections_per_key",
            Self::KeyRequests => "requests_per_key",
            Self::KeyMessages => "messages_per_key",
            Self::BadKeys => "bad_keys",
        }
    }
}

fn counters(registry: &Registry, family: Family) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(family.name, family.help), family.labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

/// A status in decimal without an allocation.
fn decimal(status: u16, buffer: &mut [u8; 3]) -> &str {
    let digit = |n: u16| b'0' + u8::try_from(n % 10).expect("one digit");
    *buffer = [digit(status / 100), digit(status / 10), digit(status)];
    std::str::from_utf8(buffer).expect("digits are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILIES: &[Family] = &[REQUESTS, REQUEST_DURATION, CONNECTIONS, AUTH_FAILURES, RATE_LIMITED];

    #[test]
    fn every_family_is_there_from_the_start() {
        let registry = Registry::new();
        let metrics = EdgeMetrics::new(&registry).expect("new names");
        metrics.request("/v1/ws", "GET", 101, Duration::from_millis(3));

        let gathered = registry.gather();

        for family in FAMILIES {
            let found = gathered.iter().find(|found| found.name() == family.name);
            let found = found.unwrap_or_else(|| panic!("{} has no series", family.name));
            assert_eq!(found.help(), family.help);
        }
    }

    #[test]
    fn a_status_is_written_in_decimal() {
        assert_eq!(decimal(503, &mut [0; 3]), "503");
    }
}
