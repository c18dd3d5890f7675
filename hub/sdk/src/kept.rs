//! What one end knows of a session that the hub keeps: its id, what was received, and what may have to be sent again.
//!
//! Invariants
//! - Both ends count alike: every message but those with which they keep the session itself, from the `__hello` on.
//! - Until the hub has said whether it keeps the session, everything is kept as if it did.
//! - What is kept has a bound: over it the oldest are forgotten, and a hub that lacks one of them cannot go on.

use std::collections::VecDeque;
use std::time::Duration;

use alkhub_protocol::Frame;
use alkhub_protocol::frame::encode;
use alkhub_protocol::frame::session::{HASHES, HUBS, Hello, MIGRATE, Migrate, RESUME, ResumeRequest, Welcome};
use alkhub_queue::{Limits, Unacknowledged};
use bytes::Bytes;

/// Messages that are kept until the hub acknowledges them.
const MOST: Limits = Limits {
    items: 4_096,
    bytes: 4 * 1024 * 1024,
};

/// Messages after which the hub is told that they were received ...
const ACK_MESSAGES: u64 = 64;

/// ... and their bytes.
const ACK_BYTES: usize = 64 * 1024;

/// How every message of the session's own begins, as a hub writes it: the others need no second look.
const CONTROL: &[u8] = b"{\"type\":\"__";

/// The one of them that begins otherwise.
const MOVING: &[u8] = b"{\"type\":\"hub.migrate\"";

/// A session as its peer knows it.
#[derive(Debug)]
pub(crate) struct KeptSession {
    standing: Standing,
    /// What left and is not acknowledged.
    unacknowledged: Unacknowledged<Bytes>,
    received: u64,
    /// Of these, those of which the hub was told, and the bytes of the others.
    told: u64,
    untold_bytes: usize,
    /// Whether the hub is about to be told.
    ack_waits: bool,
    /// The hub asks to go on with the session on another one.
    migrate: Option<Migrate>,
    /// The hub that serves it, as it names itself.
    hub: Option<String>,
    /// Whether hubs are to tell how many there are.
    asks_for_hubs: bool,
    /// What one has just told.
    hubs: Option<u32>,
    /// Whether specifications are to be named by their hash.
    asks_for_hashes: bool,
    /// Whether the hub that serves it takes that; `None` before it has said so.
    hashes: Option<bool>,
}

#[derive(Debug, Default)]
enum Standing {
    /// The hub has not answered the `__hello`.
    #[default]
    Asked,
    /// It keeps the session for so long.
    Granted { id: String, time: Duration },
    /// It does not.
    Plain,
}

/// What a message of the hub is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HubMessage {
    /// For the reader, and whether the hub is to be told what was received.
    Message { ack: bool },
    /// The session's own.
    Control,
    /// The session's own: it is to go on over another connection.
    Migrate,
    /// The session's own: so many hubs take connections.
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

    /// The session is to go on over another connection within this time, where the hub keeps it.
    pub(crate) fn move_on(&mut self, time: Duration) {
        self.migrate = self.time().map(|_| Migrate {
            deadline_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            resume: true,
            target: None,
        });
    }

    /// Whether nothing may leave until the hub has acknowledged something: else it could not go on with the session.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.standing, Standing::Granted { .. }) && self.unacknowledged.is_full()
    }

    /// Whether more bytes than these may be on their way: they are not acknowledged, or nobody counts them.
    pub(crate) fn owes(&self, bytes: usize) -> bool {
        match self.standing {
            Standing::Granted { .. } => self.unacknowledged.bytes() > bytes || self.unacknowledged.is_full(),
            Standing::Asked | Standing::Plain => true,
        }
    }

    /// Hubs are to tell how many there are.
    pub(crate) fn ask_for_hubs(&mut self) {
        self.asks_for_hubs = true;
    }

    /// Specifications are to be named by their hash, where the hub takes that.
    pub(crate) fn ask_for_hashes(&mut self) {
        self.asks_for_hashes = true;
    }

    /// Whether the hub that serves the session takes hashes; `None` before it has said so.
    pub(crate) fn hashes(&self) -> Option<bool> {
        self.hashes
    }

    /// The hub that serves the session, by its `hubId`; `None` before it has said so.
    pub(crate) fn hub(&self) -> Option<&str> {
        self.hub.as_deref()
    }

    /// This hub serves the session from now on.
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

    /// Nobody comes back to the session.
    pub(crate) fn lose(&mut self) {
        self.standing = Standing::Plain;
        self.hashes.get_or_insert(false);
        self.unacknowledged = Unacknowledged::counting(MOST);
    }

    /// What the hub asks for, if it wants the session to go on elsewhere; asking answers it.
    pub(crate) fn take_migrate(&mut self) -> Option<Migrate> {
        self.migrate.take()
    }

    /// A message leaves.
    pub(crate) fn sent(&mut self, message: &Bytes) {
        if matches!(self.standing, Standing::Plain) {
            return;
        }
        self.unacknowledged.push(message.clone());
    }

    /// Tells the hub what was received.
    pub(crate) fn ack(&mut self) -> Bytes {
        self.told = self.received;
        self.untold_bytes = 0;
        self.ack_waits = false;
        encode::ack(self.received)
    }

    /// Whether the hub does not know of everything that was received; it is about to be told then.
    pub(crate) fn has_news(&mut self) -> bool {
        let news = self.time().is_some() && self.received > self.told && !self.ack_waits;
        self.ack_waits |= news;
        news
    }

    /// Takes a message of the hub.
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
            // It passed over the `__hello`.
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

    /// Whether it is a message of the session's own, which is acted on then.
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

    /// What left and was not acknowledged.
    pub(crate) fn unreceived(&self) -> impl Iterator<Item = &Bytes> {
        self.unacknowledged.kept()
    }

    /// Keeps none of that any more: nobody comes back to the session.
    pub(crate) fn forget_sent(&mut self) {
        self.unacknowledged.clear();
    }

    /// What the hub, which has received so many messages, did not receive: it leaves again, with the numbers that it had.
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
