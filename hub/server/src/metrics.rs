//! Every metric of this crate.

use std::time::Duration;

use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// One family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
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
    help: "Open connections: `http` (not upgraded), `websocket`, and `sse` streams on top of HTTP.",
};
const MESSAGES: Family = Family {
    name: "alkhub_websocket_messages_total",
    labels: &["direction"],
    help: "WebSocket messages received (`in`) and queued to be written (`out`).",
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
const BUILD_INFO: Family = Family {
    name: "alkhub_build_info",
    labels: &["version"],
    help: "Always 1; the label tells the version that runs.",
};
const READY: Family = Family {
    name: "alkhub_ready",
    labels: &[],
    help: "1 while `/readyz` answers 200.",
};
const STARTED: Family = Family {
    name: "alkhub_start_time_seconds",
    labels: &[],
    help: "When this hub started, in seconds since the epoch.",
};

/// What kind of connection is open.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ConnectionKind {
    Http,
    Websocket,
    Sse,
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
    Revoked,
    Expired,
    /// Its spoke is suspended.
    Suspended,
    /// Postgres is away and the key is not cached.
    Unavailable,
    /// It lacks a scope.
    Scope,
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// `max-connections`.
    Connections,
    /// `max-connections-per-key`.
    KeyConnections,
    /// `requests-per-second-per-key`.
    KeyRequests,
    /// `messages-per-second-per-key`: a socket was read no faster.
    KeyMessages,
    /// `bad-keys-per-minute`.
    BadKeys,
}

/// Handles to the metrics of one hub.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    request_duration: HistogramVec,
    http: IntGauge,
    websocket: IntGauge,
    sse: IntGauge,
    pub(crate) messages_in: IntCounter,
    pub(crate) messages_out: IntCounter,
    auth_failures: IntCounterVec,
    rate_limited: IntCounterVec,
    pub(crate) ready: IntGauge,
}

/// Counts one connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct Open(IntGauge);

// === impl Metrics ===

impl Metrics {
    /// Makes the metrics and puts them, and those of the process, into the registry.
    ///
    /// # Errors
    /// The registry has one of the names already.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
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
        let messages = counters(registry, MESSAGES)?;
        let metrics = Self {
            requests,
            request_duration,
            http: connections.with_label_values(&[ConnectionKind::Http.label()]),
            websocket: connections.with_label_values(&[ConnectionKind::Websocket.label()]),
            sse: connections.with_label_values(&[ConnectionKind::Sse.label()]),
            messages_in: messages.with_label_values(&["in"]),
            messages_out: messages.with_label_values(&["out"]),
            auth_failures: counters(registry, AUTH_FAILURES)?,
            rate_limited: counters(registry, RATE_LIMITED)?,
            ready: IntGauge::new(READY.name, READY.help)?,
        };
        registry.register(Box::new(metrics.ready.clone()))?;
        metrics.start_at_zero();
        register_constants(registry)?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// A family without a series does not exist for a scraper: the closed label sets start at zero.
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
    pub(crate) fn request(&self, route: &str, method: &str, status: u16, took: Duration) {
        let mut buffer = [0; 3];
        self.requests
            .with_label_values(&[route, method, decimal(status, &mut buffer)])
            .inc();
        self.request_duration
            .with_label_values(&[route])
            .observe(took.as_secs_f64());
    }

    /// Counts a connection until the guard is dropped.
    pub(crate) fn open(&self, kind: ConnectionKind) -> Open {
        let gauge = match kind {
            ConnectionKind::Http => &self.http,
            ConnectionKind::Websocket => &self.websocket,
            ConnectionKind::Sse => &self.sse,
        };
        gauge.inc();
        Open(gauge.clone())
    }

    /// Open WebSockets.
    pub(crate) fn websockets(&self) -> u64 {
        u64::try_from(self.websocket.get()).unwrap_or(0)
    }

    /// Open connections that are not upgraded.
    pub(crate) fn http(&self) -> i64 {
        self.http.get()
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

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

// === labels ===

impl ConnectionKind {
    fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Websocket => "websocket",
            Self::Sse => "sse",
        }
    }
}

impl AuthFailure {
    const ALL: [Self; 8] = [
        Self::Missing,
        Self::Malformed,
        Self::Unknown,
        Self::Revoked,
        Self::Expired,
        Self::Suspended,
        Self::Unavailable,
        Self::Scope,
    ];

    /// The label's value.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Suspended => "suspended",
            Self::Unavailable => "unavailable",
            Self::Scope => "scope",
        }
    }
}

impl Limit {
    const ALL: [Self; 5] = [
        Self::Connections,
        Self::KeyConnections,
        Self::KeyRequests,
        Self::KeyMessages,
        Self::BadKeys,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
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

fn register_constants(registry: &Registry) -> Result<(), prometheus::Error> {
    let build = IntGaugeVec::new(Opts::new(BUILD_INFO.name, BUILD_INFO.help), BUILD_INFO.labels)?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(build))?;
    let started = Gauge::new(STARTED.name, STARTED.help)?;
    started.set(jiff::Timestamp::now().as_duration().as_secs_f64());
    registry.register(Box::new(started))
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

    const FAMILIES: &[Family] = &[
        REQUESTS,
        REQUEST_DURATION,
        CONNECTIONS,
        MESSAGES,
        AUTH_FAILURES,
        RATE_LIMITED,
        BUILD_INFO,
        READY,
        STARTED,
    ];

    #[test]
    fn every_family_is_there_from_the_start() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("new names");
        metrics.request("/v1/ws", "GET", 101, Duration::from_millis(3));

        let gathered = registry.gather();

        for family in FAMILIES {
            let found = gathered.iter().find(|found| found.name() == family.name);
            let found = found.unwrap_or_else(|| panic!("{} has no series", family.name));
            assert_eq!(found.help(), family.help);
        }
        assert!(
            gathered
                .iter()
                .any(|family| family.name() == "process_resident_memory_bytes")
        );
    }

    #[test]
    fn a_status_is_written_in_decimal() {
        assert_eq!(decimal(503, &mut [0; 3]), "503");
    }
}
