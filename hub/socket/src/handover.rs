//! The state of a session, as one hub sends it to the hub that goes on with it.

use std::collections::HashMap;
use std::time::Duration;

use alkhub_calls::HeldInstance;
use alkhub_protocol::json::strict;
use alkhub_protocol::{Dialect, HubId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// If the lists of a session are larger than this, in bytes, they are sent in parts: messages between hubs are limited
/// to about two frames of a peer, and each holds up those behind it.
const PART_BYTES: usize = 256 * 1024;

/// A session, without its messages.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Handover {
    /// Messages of the peer that were received.
    received: u64,
    /// Messages that the peer has received.
    sent: u64,
    /// Whether the peer writes request ids into the envelope; absent if it has written none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    envelope_ids: Option<bool>,
    /// The peer's instance, if it is a spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<HeldInstance>,
    /// Calls that run on it, by the ids that it knows.
    pub(crate) legs: Vec<String>,
    /// Its own running calls, by its own ids.
    pub(crate) calls: Vec<String>,
    /// Topics that it is subscribed to.
    pub(crate) topics: Vec<String>,
    /// The number of hubs between the one that it leaves and the calls that are furthest away.
    #[serde(default)]
    pub(crate) hubs: u32,
    /// How long ago it was last moved at a hub's request; absent if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved_ms: Option<u64>,
    /// The claims that it has met.
    #[serde(default)]
    pub(crate) met: MetClaims,
}

/// Some of the lists of a session that are too long for one message.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HandoverPart {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    legs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    calls: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    topics: Vec<String>,
}

/// How many messages of a session were received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReceivedCounts {
    /// The peer's messages, received by its hubs.
    pub(crate) by_hub: u64,
    /// The hubs' messages, received by the peer, as far as it has acknowledged them.
    pub(crate) by_peer: u64,
}

/// Identifies a claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClaimId {
    /// The hub that claims.
    pub(crate) hub: HubId,
    /// The number that this hub gave it.
    pub(crate) number: u64,
}

/// For each hub, the last claim by which a session has come to it: a hub that has put aside one of those must not meet
/// it again, since nobody waits for it any more.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct MetClaims(HashMap<HubId, u64>);

// === impl Handover ===

impl Handover {
    /// The state of a session with these counts.
    pub(crate) fn new(counts: ReceivedCounts, dialect: Option<Dialect>) -> Self {
        Self {
            received: counts.by_hub,
            sent: counts.by_peer,
            envelope_ids: dialect.map(|dialect| dialect == Dialect::Id),
            instance: None,
            legs: Vec::new(),
            calls: Vec::new(),
            topics: Vec::new(),
            hubs: 0,
            moved_ms: None,
            met: MetClaims::default(),
        }
    }

    pub(crate) fn counts(&self) -> ReceivedCounts {
        ReceivedCounts {
            by_hub: self.received,
            by_peer: self.sent,
        }
    }

    /// Notes how long ago it was last moved at a hub's request.
    pub(crate) fn moved(&mut self, ago: Option<Duration>) {
        self.moved_ms = ago.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
    }

    /// When that was; also `None` if it was before this machine began to count.
    pub(crate) fn moved_at(&self) -> Option<Instant> {
        Instant::now().checked_sub(Duration::from_millis(self.moved_ms?))
    }

    /// How the peer writes request ids, once it has written one.
    pub(crate) fn dialect(&self) -> Option<Dialect> {
        let dialect = |in_envelope| if in_envelope { Dialect::Id } else { Dialect::Payload };
        self.envelope_ids.map(dialect)
    }

    /// If the lists are too long for one message, takes them out; returns the messages that go before it.
    pub(crate) fn take_parts(&mut self) -> Vec<Bytes> {
        let lists = [&self.legs, &self.calls, &self.topics];
        let bytes: usize = lists.into_iter().flatten().map(String::len).sum();
        if bytes <= PART_BYTES {
            return Vec::new();
        }
        let (mut parts, mut part, mut bytes) = (Vec::new(), HandoverPart::default(), 0);
        let lists = [&mut self.legs, &mut self.calls, &mut self.topics].map(std::mem::take);
        for (place, list) in lists.into_iter().enumerate() {
            for item in list {
                bytes += item.len();
                [&mut part.legs, &mut part.calls, &mut part.topics][place].push(item);
                if bytes >= PART_BYTES {
                    parts.push(encode(&std::mem::take(&mut part)));
                    bytes = 0;
                }
            }
        }
        parts.push(encode(&part));
        parts
    }

    /// Adds a part that came before it.
    pub(crate) fn add(&mut self, part: HandoverPart) {
        self.legs.extend(part.legs);
        self.calls.extend(part.calls);
        self.topics.extend(part.topics);
    }

    pub(crate) fn encode(&self) -> Bytes {
        encode(self)
    }

    /// Reads what [`Handover::encode`] wrote; `None` for anything else.
    pub(crate) fn decode(state: &Bytes) -> Option<Self> {
        strict::from_slice(state).ok()
    }
}

// === impl HandoverPart ===

impl HandoverPart {
    /// Reads one of the parts that [`Handover::take_parts`] wrote; `None` for anything else.
    pub(crate) fn decode(state: &Bytes) -> Option<Self> {
        strict::from_slice(state).ok()
    }
}

/// Encodes a session, or a part of one.
fn encode(of: &impl Serialize) -> Bytes {
    serde_json::to_vec(of).expect("it is plain data").into()
}

// === impl MetClaims ===

impl MetClaims {
    /// Notes that the session came to a hub for its claim; drops claims of hubs that are no longer among its `others`.
    pub(crate) fn add(&mut self, claim: ClaimId, others: &[HubId]) {
        self.0.retain(|met, _| others.contains(met));
        self.0.insert(claim.hub, claim.number);
    }

    /// Whether a claim was met, or is older than one of the same hub that was.
    pub(crate) fn has(&self, claim: &ClaimId) -> bool {
        self.0.get(&claim.hub).is_some_and(|met| claim.number <= *met)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(name: &str) -> HubId {
        name.parse().expect("an id")
    }

    fn claim(hub: &HubId, number: u64) -> ClaimId {
        ClaimId {
            hub: hub.clone(),
            number,
        }
    }

    fn fresh() -> Handover {
        let counts = ReceivedCounts { by_hub: 1, by_peer: 2 };
        Handover::new(counts, None)
    }

    #[test]
    fn lists_that_are_too_long_for_one_message_go_in_parts_and_come_whole() {
        let list = |of: &str, items: usize| (0..items).map(|n| format!("{of}-{n:0500}")).collect::<Vec<_>>();
        let mut handover = fresh();
        (handover.legs, handover.calls, handover.topics) = (list("leg", 700), list("call", 1), list("topic", 900));
        let wanted = (handover.legs.clone(), handover.calls.clone(), handover.topics.clone());

        let parts = handover.take_parts();
        let mut handover = Handover::decode(&handover.encode()).expect("plain data");
        assert!(handover.legs.is_empty() && handover.topics.is_empty());
        for part in &parts {
            assert!(part.len() < 2 * PART_BYTES, "{}", part.len());
            handover.add(HandoverPart::decode(part).expect("plain data"));
        }

        assert_eq!(parts.len(), 4);
        assert!(wanted == (handover.legs, handover.calls, handover.topics));
        assert!(fresh().take_parts().is_empty());
    }

    #[test]
    fn a_claim_that_a_session_has_met_is_known_wherever_it_goes_then() {
        let (one, two, three) = (hub("one"), hub("two"), hub("three"));
        let mut handover = fresh();
        handover.met.add(claim(&one, 7), &[two.clone(), three.clone()]);

        let mut met = Handover::decode(&handover.encode()).expect("plain data").met;
        met.add(claim(&two, 3), &[one.clone(), three.clone()]);

        assert!(met.has(&claim(&one, 7)) && met.has(&claim(&one, 6)) && met.has(&claim(&two, 3)));
        assert!(
            !met.has(&claim(&one, 8)) && !met.has(&claim(&three, 1)),
            "those are wanted"
        );
        met.add(claim(&two, 4), &[three]);
        assert!(!met.has(&claim(&one, 7)), "that hub is gone");
    }
}
