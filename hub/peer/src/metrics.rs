//! The metrics of this crate.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// All metric families, registered once per hub.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) links: IntGauge,
    pub(crate) made: IntCounter,
    pub(crate) lost: IntCounterVec,
    pub(crate) refused: IntCounterVec,
    pub(crate) failed: IntCounterVec,
    pub(crate) sent: Traffic,
    pub(crate) received: Traffic,
}

/// The traffic in one direction.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    messages: IntCounter,
    bytes: IntCounter,
}

/// Why links end.
const LOST: &[&str] = &["closed", "broken", "protocol", "silent", "stalled", "dropped", "ended"];

/// Why a link was not made.
const NOT_MADE: &[&str] = &["connection", "foreign", "secret", "refused", "late"];

/// The same for a hub that dials this one; it may also be one too many.
pub(crate) const BUSY: &str = "busy";

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let family = |name: &str, label: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &[label]);
        let messages = family(
            "alkhub_peer_messages_total",
            "direction",
            "Messages between this hub and others over the links from pod to pod.",
        )?;
        let bytes = family(
            "alkhub_peer_bytes_total",
            "direction",
            "Bytes of the links from pod to pod, WebSocket frames included and TLS not.",
        )?;
        let traffic = |direction: &str| Traffic {
            messages: messages.with_label_values(&[direction]),
            bytes: bytes.with_label_values(&[direction]),
        };
        let metrics = Self {
            links: IntGauge::new("alkhub_peer_links", "Links from pod to pod that are up.")?,
            made: IntCounter::new(
                "alkhub_peer_links_made_total",
                "Links from pod to pod that came up, the first ones and those made anew.",
            )?,
            lost: family(
                "alkhub_peer_links_lost_total",
                "reason",
                "Links from pod to pod that ended, by reason.",
            )?,
            refused: family(
                "alkhub_peer_refused_total",
                "reason",
                "Connections to the port for hubs that were refused, by reason; `secret`: there was no proof of this Hub's.",
            )?,
            failed: family(
                "alkhub_peer_dial_failures_total",
                "reason",
                "Attempts to dial another hub that made no link, by reason.",
            )?,
            sent: traffic("sent"),
            received: traffic("received"),
        };
        for reason in LOST {
            metrics.lost.with_label_values(&[reason]);
        }
        for reason in NOT_MADE {
            metrics.refused.with_label_values(&[reason]);
            metrics.failed.with_label_values(&[reason]);
        }
        metrics.refused.with_label_values(&[BUSY]);
        let collectors: [Box<dyn Collector>; 7] = [
            Box::new(metrics.links.clone()),
            Box::new(metrics.made.clone()),
            Box::new(metrics.lost.clone()),
            Box::new(metrics.refused.clone()),
            Box::new(metrics.failed.clone()),
            Box::new(messages),
            Box::new(bytes),
        ];
        collectors
            .into_iter()
            .try_for_each(|collector| registry.register(collector))?;
        Ok(metrics)
    }
}

// === impl Traffic ===

impl Traffic {
    pub(crate) fn add(&self, messages: u64, bytes: usize) {
        self.messages.inc_by(messages);
        self.bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}
