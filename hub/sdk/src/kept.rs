//! What one end knows of a session that the hub keeps: its id, what was received, and what may have to be sent again.
//!
//! Invariants
//! - Both ends count alike: every message from the `__hello` on, except those that maintain the session itself.
//! - Until the hub has said whether it keeps the session, everything is kept as if it did.
//! - What is kept is bounded: beyond that the oldest messages are forgotten, and a hub that lacks one of them cannot
//!   resume the session.

use std::collections::VecDeque;
use std::time::Duration;

use alkhub_protocol::Frame;
use alkhub_protocol::frame::encode;
use alkhub_protocol::frame::session::{HASHES, HUBS, Hello, MIGRATE, Migrate, RESUME, ResumeRequest, Welcome};
use alkhub_queue::{Limits, Unacknowledged};
use bytes::Bytes;

/// How much is kept until the hub acknowledges it.
const MOST: Limits = Limits {
    items: 4_096,
    bytes: 4 * 1024 * 1024,
};

/// As much as any network transfers in a short time.
pub(crate) const MUCH_BYTES: usize = 64 * 1024;

/// The hub is told what was received after this many messages ...
const ACK_MESSAGES: u64 = 64;

/// ... or this many bytes.
const ACK_BYTES: usize = 64 * 1024;

/// How the session's own messages begin, as a hub writes them: all others need no second look.
const CONTROL: &[u8] = b"{\"type\":\"__";

/// The one of them that begins differently.
const MOVING: &[u8] = b"{\"type\":\"hub.migrate\"";

/// A session as its peer knows it.
#[derive(Debug)]
pub(crate) struct KeptSession {
    standing: Standing,
    /// What was sent and is not acknowledged.
    unacknowledged: Unacknowledged<Bytes>,
    received: u64,
    /// How many of those the hub has been told about, and the bytes of the rest.
    told: u64,
    untold_bytes: usize,
    /// Whether an acknowledgement is already queued.
    ack_waits: bool,
    /// The hub asks for the session to move to another one.
    migrate: Option<Migrate>,
    /// The hub that serves it, as it names itself.
    hub: Option<String>,
    /// Whether to ask hubs how many of them there are.
    asks_for_hubs: bool,
    /// What a hub has just answered to that.
    hubs: Option<u32>,
    /// Whether to name specifications by their hash.
    asks_for_hashes: bool,
    /// Whether the hub that serves the session accepts hashes; `None` before it has said so.
    hashes: Option<bool>,
}

#[derive(Debug, Default)]
enum Standing {
    /// The hub has not answered the `__hello`.
    #[default]
    Asked,
    /// It keeps the session for this long.
    Granted { id: String, time: Duration },
    /// It does not keep the session.
    Plain,
}

/// What kind of message the hub sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HubMessage {
    /// For the reader; `ack` says whether the hub is to be told what was received.
    Message { ack: bool },
    /// The session's own.
    Control,
    /// The session's own: the session is to go on over another connection.
    Migrate,
    /// The session's own: this many hubs take connections.
    Hubs(u32),
}

// === impl KeptSession ===

impl KeptSession {
    /// The message with which a connection begins.
    pub(crate) fn hello(&self) -> Bytes {
        let resume = match &self.standing {
            Standing::Granted { id, .. } => Some(ResumeRequest {
                session_id: id.clone(),
                received: self.received,
            }),
            Standing::Asked | Standing::Plain => None,
        };
        encode::hello(&Hello {
            protocols: Vec::new(),
            features: [RESUME, MIGRATE]
                .into_iter()
                .chain(self.asks_for_hubs.then_some(HUBS))
                .chain(self.asks_for_hashes.then_some(HASHES))
                .map(str::to_owned)
                .collect(),
            resume,
        })
    }

    /// Has the session go on over another connection within this time, if the hub keeps it.
    pub(crate) fn move_on(&mut self, time: Duration) {
        self.migrate = self.time().map(|_| Migrate {
            deadline_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            resume: true,
            target: None,
        });
    }

    /// Whether nothing may be sent until the hub acknowledges something: otherwise it could not resume the session.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.standing, Standing::Granted { .. }) && self.unacknowledged.is_full()
    }

    /// Whether more than this many bytes may be on their way: unacknowledged, or not counted at all.
    pub(crate) fn owes(&self, bytes: usize) -> bool {
        match self.standing {
            Standing::Granted { .. } => self.unacknowledged.bytes() > bytes || self.unacknowledged.is_full(),
            Standing::Asked | Standing::Plain => true,
        }
    }

    /// From now on, hubs are asked how many of them there are.
    pub(crate) fn ask_for_hubs(&mut self) {
        self.asks_for_hubs = true;
    }

    /// From now on, specifications are named by their hash if the hub accepts that.
    pub(crate) fn ask_for_hashes(&mut self) {
        self.asks_for_hashes = true;
    }

    /// Whether the hub that serves the session accepts hashes; `None` before it has said so.
    pub(crate) fn hashes(&self) -> Option<bool> {
        self.hashes
    }

    /// The hub that serves the session, by its `hubId`; `None` before it has said so.
    pub(crate) fn hub(&self) -> Option<&str> {
        self.hub.as_deref()
    }

    /// Notes that this hub serves the session from now on.
    pub(crate) fn reached(&mut self, welcome: &Welcome) {
        self.hub = Some(welcome.hub_id.clone());
        self.hashes = Some(welcome.grants(HASHES));
    }

    /// How long the hub keeps the session without a connection; `None`: it does not.
    pub(crate) fn time(&self) -> Option<Duration> {
        match &self.standing {
            Standing::Granted { time, .. } => Some(*time),
            Standing::Asked | Standing::Plain => None,
        }
    }

    /// Gives the session up: nobody comes back to it.
    pub(crate) fn lose(&mut self) {
        self.standing = Standing::Plain;
        self.hashes.get_or_insert(false);
        self.unacknowledged = Unacknowledged::counting(MOST);
    }

    /// The hub's request to move the session, if there is one; each is returned once.
    pub(crate) fn take_migrate(&mut self) -> Option<Migrate> {
        self.migrate.take()
    }

    /// Notes that a message is sent.
    pub(crate) fn sent(&mut self, message: &Bytes) {
        if matches!(self.standing, Standing::Plain) {
            return;
        }
        self.unacknowledged.push(message.clone());
    }

    /// The message that tells the hub what was received.
    pub(crate) fn ack(&mut self) -> Bytes {
        self.told = self.received;
        self.untold_bytes = 0;
        self.ack_waits = false;
        encode::ack(self.received)
    }

    /// Whether there is something received that the hub has not been told; if so, it is about to be.
    pub(crate) fn has_news(&mut self) -> bool {
        let news = self.time().is_some() && self.received > self.told && !self.ack_waits;
        self.ack_waits |= news;
        news
    }

    /// Notes a message from the hub.
    pub(crate) fn received(&mut self, message: &Bytes) -> HubMessage {
        let is_control = message.starts_with(CONTROL) || message.starts_with(MOVING);
        if is_control && self.is_own(message) {
            return match self.hubs.take() {
                Some(hubs) => HubMessage::Hubs(hubs),
                None if self.migrate.is_some() => HubMessage::Migrate,
                None => HubMessage::Control,
            };
        }
        match self.standing {
            // The hub ignored the `__hello`.
            Standing::Asked => self.lose(),
            Standing::Granted { .. } => {
                self.received += 1;
                self.untold_bytes += message.len();
            }
            Standing::Plain => {}
        }
        let much = self.received - self.told >= ACK_MESSAGES || self.untold_bytes >= ACK_BYTES;
        HubMessage::Message {
            ack: much && self.has_news(),
        }
    }

    /// Whether it is one of the session's own messages; if so, acts on it.
    fn is_own(&mut self, message: &Bytes) -> bool {
        let Ok((frame, _)) = Frame::decode(message) else {
            return false;
        };
        match frame {
            Frame::Welcome(welcome) => self.welcomed(&welcome),
            Frame::Acknowledged(count) => self.acknowledged(count),
            Frame::Hubs(hubs) => self.hubs = Some(hubs),
            Frame::Migrate(migrate) => {
                self.migrate = Some(*migrate).filter(|migrate| migrate.resume && self.time().is_some());
            }
            Frame::Refused(error) if matches!(self.standing, Standing::Asked) => {
                tracing::debug!(%error, "the hub keeps no sessions");
                self.lose();
            }
            frame => return !frame.counts(),
        }
        true
    }

    fn welcomed(&mut self, welcome: &Welcome) {
        self.reached(welcome);
        if welcome.grants(RESUME) && !welcome.session_id.is_empty() {
            self.standing = Standing::Granted {
                id: welcome.session_id.clone(),
                time: Duration::from_millis(welcome.resume_ms),
            };
        } else {
            self.lose();
        }
    }

    fn acknowledged(&mut self, count: u64) {
        let count = count.min(self.unacknowledged.sent());
        self.unacknowledged.acknowledge(count).expect("so many were sent");
    }

    /// What was sent and is not acknowledged.
    pub(crate) fn unreceived(&self) -> impl Iterator<Item = &Bytes> {
        self.unacknowledged.kept()
    }

    /// Drops all of that: the hub has received it, or nobody comes back to the session.
    pub(crate) fn forget_sent(&mut self) {
        self.unacknowledged.clear();
    }

    /// The messages that the hub, having received so many, has not received: they are sent again, with their old
    /// numbers.
    pub(crate) fn rewind(&mut self, received: u64) -> Result<VecDeque<Bytes>, String> {
        let kept = &self.unacknowledged;
        kept.check(received).map_err(|_| {
            format!(
                "the hub has received {received} of {} messages, and those after {} are kept",
                kept.sent(),
                kept.forgotten()
            )
        })?;
        self.acknowledged(received);
        let (again, _) = self.unacknowledged.rewind();
        // The `__hello` told the hub what was received.
        self.told = self.received;
        (self.untold_bytes, self.ack_waits) = (0, false);
        Ok(again)
    }
}

impl Default for KeptSession {
    fn default() -> Self {
        Self {
            standing: Standing::default(),
            unacknowledged: Unacknowledged::counting(MOST),
            received: 0,
            told: 0,
            untold_bytes: 0,
            ack_waits: false,
            migrate: None,
            hub: None,
            asks_for_hubs: false,
            hubs: None,
            asks_for_hashes: false,
            hashes: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted() -> KeptSession {
        let mut kept = KeptSession::default();
        let welcome = encode::welcome(&Welcome {
            session_id: "5f".to_owned(),
            hub_id: "h".to_owned(),
            heartbeat_ms: 10_000,
            resume_ms: 30_000,
            max_inflight: 1,
            features: vec![RESUME.to_owned()],
        });
        kept.sent(&Bytes::from_static(b"1"));
        assert_eq!(kept.received(&welcome), HubMessage::Control);
        kept
    }

    #[test]
    fn what_the_hub_did_not_receive_leaves_again_what_left_before_the_welcome_too() {
        let mut kept = granted();
        kept.sent(&Bytes::from_static(b"2"));
        kept.sent(&Bytes::from_static(b"3"));

        assert_eq!(kept.received(&encode::ack(1)), HubMessage::Control);
        let again = kept.rewind(1).expect("kept");

        assert_eq!(again, ["2", "3"]);
        assert!(kept.rewind(0).is_err(), "it is acknowledged");
        assert!(kept.rewind(2).is_err(), "it has not left yet");
    }

    #[test]
    fn the_hub_is_told_what_was_received_after_so_many_messages_and_at_a_beat() {
        let mut kept = granted();
        let message = Bytes::from_static(b"{\"type\":\"job\"}");
        for _ in 1..ACK_MESSAGES {
            assert_eq!(kept.received(&message), HubMessage::Message { ack: false });
        }

        assert_eq!(kept.received(&message), HubMessage::Message { ack: true });
        assert_eq!(
            kept.received(&message),
            HubMessage::Message { ack: false },
            "it is about to be"
        );
        assert_eq!(kept.ack(), encode::ack(ACK_MESSAGES + 1));
        assert!(!kept.has_news());
        kept.received(&message);
        assert!(kept.has_news());
    }

    #[test]
    fn a_hub_that_knows_no_hello_keeps_nothing() {
        let refusal = encode::refused(
            &alkhub_protocol::CallError::new(alkhub_protocol::Code::Unsupported, "`__hello`?"),
            None,
        );
        for answer in [refusal, Bytes::from_static(b"{\"type\":\"call.responded\"}")] {
            let mut kept = KeptSession::default();
            kept.sent(&answer);
            kept.received(&answer);
            kept.sent(&answer);

            assert_eq!(kept.time(), None);
            assert_eq!(kept.unacknowledged.len(), 0);
        }
    }
}
