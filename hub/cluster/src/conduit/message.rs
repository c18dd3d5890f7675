//! The messages of a conduit: one line of text, followed by the payload in the two kinds that have one.
//!
//! ```text
//! {kind} {from} {epoch} {peer's epoch} {sequence} {acknowledged}\n{payload}
//! ```
//!
//! The first epoch is the sending side's, the second is the receiving side's as far as the sender knows it: `0` if it
//! knows none, `-7` if it has closed epoch 7. Numbers are decimal. An acknowledgement is cumulative: everything up to
//! it has arrived.

use alkhub_protocol::HubId;
use bytes::Bytes;

/// The longest header line, including the newline: a hub's name, four numbers, a letter, spaces.
const HEADER_LIMIT: usize = 256;

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A payload with its place in the order.
    Data,
    /// A place in the order whose payload was withdrawn.
    Skip,
    /// Only an acknowledgement.
    Ack,
    /// Something is missing: please send everything after the acknowledged place again.
    Nack,
}

/// The other side's epoch, as far as this side knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerEpoch {
    /// None.
    Unknown,
    /// Messages sent in it are accepted.
    Open(u64),
    /// Messages sent in it, or in an earlier one, are refused.
    Closed(u64),
}

/// The line in front of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// The epoch of the sending side.
    pub(super) epoch: u64,
    /// The epoch of the receiving side.
    pub(super) peer_epoch: PeerEpoch,
    /// The place in the order, starting at 1; 0 if the message has none.
    pub(super) sequence: u64,
    /// The last place up to which everything has arrived.
    pub(super) acknowledged: u64,
}

/// The bytes are not a message of a conduit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message between hubs has no valid header")]
pub(super) struct InvalidMessage;

// === impl Kind ===

impl Kind {
    fn letter(self) -> &'static str {
        match self {
            Self::Data => "d",
            Self::Skip => "s",
            Self::Ack => "a",
            Self::Nack => "n",
        }
    }

    fn of(letter: &str) -> Option<Self> {
        let all = [Self::Data, Self::Skip, Self::Ack, Self::Nack];
        all.into_iter().find(|kind| kind.letter() == letter)
    }

    /// Whether the message has a place in the order.
    pub(super) fn is_ordered(self) -> bool {
        matches!(self, Self::Data | Self::Skip)
    }
}

// === impl Header ===

impl Header {
    /// Encodes a message of `from`, with a payload in parts; also returns the payload as a slice of the message.
    pub(super) fn encode(&self, from: &HubId, payload: &[&[u8]]) -> (Bytes, Bytes) {
        let length: usize = payload.iter().map(|part| part.len()).sum();
        let mut message = Vec::with_capacity(HEADER_LIMIT.min(from.as_str().len() + 64) + length);
        for part in [self.kind.letter(), " ", from.as_str()] {
            message.extend_from_slice(part.as_bytes());
        }
        let (mark, peer_epoch): (&[u8], u64) = match self.peer_epoch {
            PeerEpoch::Unknown => (b" ", 0),
            PeerEpoch::Open(epoch) => (b" ", epoch),
            PeerEpoch::Closed(epoch) => (b" -", epoch),
        };
        message.push(b' ');
        push_number(&mut message, self.epoch);
        message.extend_from_slice(mark);
        for (i, number) in [peer_epoch, self.sequence, self.acknowledged].into_iter().enumerate() {
            if i > 0 {
                message.push(b' ');
            }
            push_number(&mut message, number);
        }
        message.push(b'\n');
        let start = message.len();
        for part in payload {
            message.extend_from_slice(part);
        }
        let message = Bytes::from(message);
        let payload = message.slice(start..);
        (message, payload)
    }

    /// Decodes a message: the claimed sender, the header and the payload, which shares the message's bytes.
    pub(super) fn decode(message: &Bytes) -> Result<(&str, Self, Bytes), InvalidMessage> {
        let start = &message[..message.len().min(HEADER_LIMIT)];
        let end = start.iter().position(|&byte| byte == b'\n').ok_or(InvalidMessage)?;
        let line = std::str::from_utf8(&start[..end]).map_err(|_| InvalidMessage)?;
        let mut fields = line.split(' ');
        let kind = fields.next().and_then(Kind::of).ok_or(InvalidMessage)?;
        let from = fields.next().filter(|from| !from.is_empty()).ok_or(InvalidMessage)?;
        let mut field = || fields.next().ok_or(InvalidMessage);
        let header = Self {
            kind,
            epoch: number(field()?)?,
            peer_epoch: PeerEpoch::read(field()?)?,
            sequence: number(field()?)?,
            acknowledged: number(field()?)?,
        };
        let is_whole = fields.next().is_none() && header.epoch > 0 && kind.is_ordered() == (header.sequence > 0);
        if !is_whole {
            return Err(InvalidMessage);
        }
        Ok((from, header, message.slice(end + 1..)))
    }
}

// === impl PeerEpoch ===

impl PeerEpoch {
    fn read(text: &str) -> Result<Self, InvalidMessage> {
        match text.strip_prefix('-') {
            Some(closed) => Ok(Self::Closed(number(closed)?)),
            None if text == "0" => Ok(Self::Unknown),
            None => Ok(Self::Open(number(text)?)),
        }
    }
}

fn number(text: &str) -> Result<u64, InvalidMessage> {
    text.parse().map_err(|_| InvalidMessage)
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        if rest == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> HubId {
        "pod-a-x1".parse().expect("a hub's id")
    }

    #[test]
    fn a_message_is_a_line_and_its_payload() {
        let header = Header {
            kind: Kind::Data,
            epoch: 7,
            peer_epoch: PeerEpoch::Unknown,
            sequence: 120,
            acknowledged: u64::MAX,
        };

        let (message, payload) = header.encode(&hub(), &[b"one\n", b"two"]);

        assert_eq!(&message[..], b"d pod-a-x1 7 0 120 18446744073709551615\none\ntwo");
        assert_eq!(&payload[..], b"one\ntwo");
        assert_eq!(Header::decode(&message), Ok(("pod-a-x1", header, payload)));
    }

    #[test]
    fn every_kind_is_read_as_it_was_written() {
        for kind in [Kind::Data, Kind::Skip, Kind::Ack, Kind::Nack] {
            for peer_epoch in [PeerEpoch::Unknown, PeerEpoch::Open(2), PeerEpoch::Closed(2)] {
                let header = Header {
                    kind,
                    epoch: 1,
                    peer_epoch,
                    sequence: u64::from(kind.is_ordered()),
                    acknowledged: 3,
                };
                let (message, _) = header.encode(&hub(), &[]);
                assert_eq!(Header::decode(&message).map(|(_, header, _)| header), Ok(header));
            }
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let long = format!("d {} 1 0 1 0\n", "x".repeat(HEADER_LIMIT));
        for message in [
            "",
            "\n",
            "d pod-a-x1 1 0 1 0",
            "d pod-a-x1 1 0 1\n",
            "d pod-a-x1 1 0 1 0 0\n",
            "d pod-a-x1 0 0 1 0\n",
            "d pod-a-x1 1 0 0 0\n",
            "a pod-a-x1 1 0 1 0\n",
            "x pod-a-x1 1 0 1 0\n",
            "d pod-a-x1 1 0 -1 0\n",
            "d  1 0 1 0\n",
            long.as_str(),
        ] {
            let bytes = Bytes::copy_from_slice(message.as_bytes());
            let read = Header::decode(&bytes);
            assert_eq!(read.map(|(_, header, _)| header), Err(InvalidMessage), "{message:?}");
        }
    }
}
