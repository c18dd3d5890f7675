//! The ends of streams for a peer that must not read them together with the items before them.
//!
//! A process of the origin takes items and the end of a stream by two ways of its own, and where one read brings both it
//! sees the end first and loses items. So the end waits here until the peer has answered a ping that was written after
//! the items: whoever answers has read them, and the end comes by another read.
//!
//! Invariants
//! - Every message leaves once: with the pong that it waits for, after two beats at the latest, or before a close.
//! - At most [`MOST`] wait; then the first one goes without its pong.

use std::collections::VecDeque;

use bytes::Bytes;

/// Messages that wait, at most.
const MOST: usize = 1_024;

/// What waits for pongs.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// In order, each with the number of its ping.
    waiting: VecDeque<(u64, Bytes)>,
    /// The number of the next ping.
    next: u64,
    /// The number of the next ping at the last beat.
    beat: u64,
    /// Whether something waits for a ping that is not asked yet.
    unasked: bool,
}

// === impl Held ===

impl Held {
    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keeps a message until the next ping is answered; the first one when it has to make room.
    pub(super) fn keep(&mut self, message: Bytes) -> Option<Bytes> {
        let first = if self.waiting.len() >= MOST {
            self.waiting.pop_front().map(|(_, first)| first)
        } else {
            None
        };
        self.waiting.push_back((self.next, message));
        self.unasked = true;
        first
    }

    /// The payload of the ping to be written now, when one is needed.
    pub(super) fn ask(&mut self) -> Option<[u8; 8]> {
        if !std::mem::take(&mut self.unasked) {
            return None;
        }
        self.next += 1;
        Some((self.next - 1).to_be_bytes())
    }

    /// What a pong lets go.
    pub(super) fn answered(&mut self, pong: &[u8]) -> impl Iterator<Item = Bytes> {
        // Any other pong is none of ours.
        let asked = pong.try_into().map(u64::from_be_bytes).ok();
        let asked = asked.filter(|asked| *asked < self.next);
        self.before(asked.map_or(0, |asked| asked + 1))
    }

    /// What has waited since before the last beat: the peer answers no pings as it should.
    pub(super) fn overdue(&mut self) -> impl Iterator<Item = Bytes> {
        let before = std::mem::replace(&mut self.beat, self.next);
        self.before(before)
    }

    /// Everything.
    pub(super) fn all(&mut self) -> impl Iterator<Item = Bytes> {
        self.before(u64::MAX)
    }

    fn before(&mut self, number: u64) -> impl Iterator<Item = Bytes> {
        let count = self.waiting.partition_point(|(waits_for, _)| *waits_for < number);
        self.waiting.drain(..count).map(|(_, message)| message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(messages: impl Iterator<Item = Bytes>) -> Vec<String> {
        let text = |message: Bytes| String::from_utf8(message.into()).expect("text");
        messages.map(text).collect()
    }

    #[test]
    fn an_end_leaves_with_the_pong_to_the_ping_after_it() {
        let mut held = Held::default();
        assert_eq!(held.ask(), None);
        for message in ["a", "b"] {
            assert_eq!(held.keep(Bytes::from_static(message.as_bytes())), None);
        }
        let first = held.ask().expect("something waits");
        assert_eq!(held.ask(), None, "one ping is enough");
        held.keep(Bytes::from_static(b"c"));
        let second = held.ask().expect("something new waits");

        assert!(texts(held.answered(b"")).is_empty());
        assert!(
            texts(held.answered(&7_u64.to_be_bytes())).is_empty(),
            "that was never asked"
        );
        assert_eq!(texts(held.answered(&first)), ["a", "b"]);
        assert!(texts(held.answered(&first)).is_empty());
        assert_eq!(texts(held.answered(&second)), ["c"]);
        assert!(held.is_empty());
    }

    #[test]
    fn what_no_pong_lets_go_leaves_at_the_second_beat_or_makes_room() {
        let mut held = Held::default();
        held.keep(Bytes::from_static(b"a"));
        held.ask();

        assert!(texts(held.overdue()).is_empty());
        held.keep(Bytes::from_static(b"b"));
        held.ask();
        assert_eq!(texts(held.overdue()), ["a"]);
        assert_eq!(texts(held.overdue()), ["b"]);
        for _ in 0..MOST {
            assert_eq!(held.keep(Bytes::from_static(b"c")), None);
        }
        assert_eq!(held.keep(Bytes::from_static(b"d")), Some(Bytes::from_static(b"c")));
        assert_eq!(texts(held.all()).len(), MOST);
    }
}
