//! What one end of a connection has sent and the other has not acknowledged, to be sent again over the next connection.

use std::collections::VecDeque;

use crate::{Limits, ease};

/// Why a peer's count is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongCount {
    /// It is higher than the number that was sent.
    #[error("{received} messages are said to be received, but {sent} have been sent")]
    Future {
        /// What the peer says.
        received: u64,
        /// How many were sent.
        sent: u64,
    },
    /// Messages after it are no longer kept.
    #[error("messages {} to {forgotten} are not kept any more", received + 1)]
    Forgotten {
        /// What the peer says.
        received: u64,
        /// The last message that is not kept.
        forgotten: u64,
    },
}

/// Messages that were sent and may have to be sent again, without a lock.
///
/// They are kept in the order in which they were sent, without a gap: the most recent ones of all that were sent. A
/// plain peer acknowledges messages by their being written to it. For a peer that counts what it receives, they stay
/// within limits, except that the last message is always kept: beyond the limits the oldest are forgotten, and a peer
/// that lacks one of those cannot come back.
#[derive(Debug)]
pub struct Unacknowledged<T> {
    kept: VecDeque<T>,
    bytes: usize,
    /// For a peer that counts what it receives.
    limits: Option<Limits>,
    /// How many messages were sent since the session began, if the peer counts.
    sent: u64,
}

// === impl Unacknowledged ===

impl<T: AsRef<[u8]>> Unacknowledged<T> {
    /// For a peer that counts.
    pub const fn counting(limits: Limits) -> Self {
        Self::counting_from(limits, 0)
    }

    /// For a peer that counts, and has received this many messages before.
    pub const fn counting_from(limits: Limits, received: u64) -> Self {
        Self {
            kept: VecDeque::new(),
            bytes: 0,
            limits: Some(limits),
            sent: received,
        }
    }

    /// The peer counts from now on: what was sent before does not belong to the session.
    pub fn count(&mut self, limits: Limits) {
        self.clear();
        self.limits = Some(limits);
    }

    /// Whether the peer counts what it receives.
    pub fn counts(&self) -> bool {
        self.limits.is_some()
    }

    /// What is kept, in the order in which it was sent.
    pub fn kept(&self) -> impl Iterator<Item = &T> {
        self.kept.iter()
    }

    /// Messages that are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many messages were sent since the session began, if the peer counts.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the next message might make it forget one: the number of messages, or half of the bytes, is reached. A
    /// sender that sends no more until this changes can always resume elsewhere.
    pub fn is_full(&self) -> bool {
        let limits = self.limits;
        limits.is_some_and(|limits| self.kept.len() >= limits.items || self.bytes >= limits.bytes / 2)
    }

    /// Notes that a message is sent.
    pub fn push(&mut self, message: T) {
        self.bytes += message.as_ref().len();
        self.kept.push_back(message);
        let Some(limits) = self.limits else { return };
        self.sent += 1;
        while self.kept.len() > limits.items || (self.kept.len() > 1 && self.bytes > limits.bytes) {
            self.pop();
        }
    }

    /// Everything sent was written, which is all that can be known of a peer that does not count.
    pub fn written(&mut self) {
        if !self.counts() {
            self.clear();
        }
    }

    /// The peer has received this many messages.
    ///
    /// # Errors
    /// More than were sent; nothing changes.
    pub fn acknowledge(&mut self, count: u64) -> Result<(), WrongCount> {
        if count > self.sent {
            return Err(WrongCount::Future {
                received: count,
                sent: self.sent,
            });
        }
        while self.forgotten() < count {
            self.pop();
        }
        ease(&mut self.kept);
        Ok(())
    }

    /// Checks that everything is kept that a peer with this many messages lacks.
    ///
    /// # Errors
    /// It is not, or the peer cannot have received this many.
    pub fn check(&self, received: u64) -> Result<(), WrongCount> {
        let (sent, forgotten) = (self.sent, self.forgotten());
        if received > sent {
            Err(WrongCount::Future { received, sent })
        } else if received < forgotten {
            Err(WrongCount::Forgotten { received, forgotten })
        } else {
            Ok(())
        }
    }

    /// Takes everything out, with its size in bytes: it is sent again, with its old numbers.
    pub fn rewind(&mut self) -> (VecDeque<T>, usize) {
        if self.counts() {
            self.sent = self.forgotten();
        }
        (std::mem::take(&mut self.kept), std::mem::take(&mut self.bytes))
    }

    /// Forgets everything that it keeps.
    pub fn clear(&mut self) {
        self.bytes = 0;
        self.kept.clear();
        ease(&mut self.kept);
    }

    /// The number of the last message that is not kept.
    pub fn forgotten(&self) -> u64 {
        self.sent - u64::try_from(self.kept.len()).unwrap_or(u64::MAX)
    }

    fn pop(&mut self) {
        if let Some(message) = self.kept.pop_front() {
            self.bytes -= message.as_ref().len();
        }
    }
}

impl<T> Default for Unacknowledged<T> {
    /// For a plain peer.
    fn default() -> Self {
        Self {
            kept: VecDeque::new(),
            bytes: 0,
            limits: None,
            sent: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        items: 256,
        bytes: 1024 * 1024,
    };

    fn ring(messages: u64) -> Unacknowledged<Vec<u8>> {
        let mut ring = Unacknowledged::default();
        ring.count(LIMITS);
        (1..=messages).for_each(|n| ring.push(n.to_string().into_bytes()));
        ring
    }

    fn again(ring: &mut Unacknowledged<Vec<u8>>) -> Vec<String> {
        let (messages, _) = ring.rewind();
        let text = |message| String::from_utf8(message).expect("text");
        messages.into_iter().map(text).collect()
    }

    #[test]
    fn what_is_not_acknowledged_leaves_again_with_the_numbers_that_it_had() {
        let mut ring = ring(5);

        ring.acknowledge(2).expect("sent");
        ring.acknowledge(1).expect("late, and no harm");
        ring.check(3).expect("kept");
        ring.acknowledge(3).expect("sent");

        assert_eq!(again(&mut ring), ["4", "5"]);
        assert_eq!(ring.check(4), Err(WrongCount::Future { received: 4, sent: 3 }));
        ring.push(b"4".to_vec());
        ring.check(4).expect("it left again");
    }

    #[test]
    fn a_count_that_cannot_be_is_refused_and_changes_nothing() {
        let mut ring = ring(3);

        let future = WrongCount::Future { received: 4, sent: 3 };
        assert_eq!(ring.acknowledge(4), Err(future));
        assert_eq!(ring.check(4), Err(future));
        ring.acknowledge(2).expect("sent");

        let forgotten = ring.check(1).expect_err("it is acknowledged");
        assert_eq!(
            forgotten,
            WrongCount::Forgotten {
                received: 1,
                forgotten: 2
            }
        );
        assert_eq!(forgotten.to_string(), "messages 2 to 2 are not kept any more");
        assert_eq!(again(&mut ring), ["3"]);
    }

    #[test]
    fn it_is_bounded_in_messages_and_in_bytes_and_keeps_the_last_whatever_its_size() {
        let mut many = ring(0);
        (0..LIMITS.items + 10).for_each(|_| many.push(Vec::new()));
        let mut large = ring(0);
        (0..3).for_each(|_| large.push(vec![0; LIMITS.bytes / 2]));
        large.push(vec![0; LIMITS.bytes + 1]);

        assert_eq!((many.len(), large.len()), (LIMITS.items, 1));
        many.check(10).expect("the last of them are there");
        assert!(matches!(many.check(9), Err(WrongCount::Forgotten { .. })));
        large.check(3).expect("the last one is there");
        assert_eq!(large.bytes(), LIMITS.bytes + 1);
    }

    #[test]
    fn a_peer_that_does_not_count_has_what_was_written() {
        let mut ring = Unacknowledged::default();
        ring.push(b"a".to_vec());
        ring.written();
        ring.push(b"b".to_vec());

        assert_eq!(again(&mut ring), ["b"]);
    }
}
