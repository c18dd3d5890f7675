//! The ends of streams and the aborts of calls, for a peer that must not read them together with what came before them.
//!
//! A process of the origin receives items and the end of a stream through two separate paths, and if one read brings
//! both, it sees the end first and loses items. As a spoke it receives calls and aborts through two paths, and forgets
//! an abort that it sees before its call. So the end, or the abort, waits here until the peer has answered a ping that
//! was written after the items, or the call: having answered, it has read them, and the end arrives by another read.
//!
//! Invariants
//! - Every message is sent once and in order: with the pong that it waits for, after two beats at the latest, or before
//!   a close.
//! - At most [`MOST`] messages wait, and at most [`MOST_BYTES`], though one is always allowed; beyond that the first
//!   ones are sent without their pongs.
//! - A message that may be sent is taken when a write has room for it: nothing is copied from here to an unbounded
//!   place.
//! - Nothing else waits: what is queued after these messages may be written before them.

use std::collections::VecDeque;

use bytes::Bytes;

/// Messages that wait, at most.
const MOST: usize = 1_024;

/// Their bytes, at most.
const MOST_BYTES: usize = 1024 * 1024;

/// The messages that wait for pongs.
#[derive(Debug, Default)]
pub(crate) struct HeldBack {
    /// In order, each with the number of its ping.
    waiting: VecDeque<(u64, Bytes)>,
    /// How many of the first ones may be sent.
    free: usize,
    /// The bytes of all of them, and of those that may be sent.
    bytes: usize,
    free_bytes: usize,
    /// The number of the next ping.
    next: u64,
    /// The number of the next ping at the last beat.
    beat: u64,
    /// Whether something waits for a ping that has not been written yet.
    unasked: bool,
}

// === impl HeldBack ===

impl HeldBack {
    /// Whether nothing is held back.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keeps a message until the next ping is answered; if it has to make room, the first ones may be sent.
    pub(crate) fn keep(&mut self, message: Bytes) {
        self.bytes += message.len();
        self.waiting.push_back((self.next, message));
        self.unasked = true;
        while self.waits() > MOST || (self.waits() > 1 && self.bytes - self.free_bytes > MOST_BYTES) {
            self.release(self.free + 1);
        }
    }

    /// Starts over for another connection: what waits needs a pong of its own there.
    pub(crate) fn attach(&mut self) {
        (self.free, self.free_bytes) = (0, 0);
        self.unasked = !self.waiting.is_empty();
    }

    /// The payload of the ping to be written now, if one is needed.
    pub(crate) fn ask(&mut self) -> Option<[u8; 8]> {
        if !std::mem::take(&mut self.unasked) {
            return None;
        }
        self.next += 1;
        Some((self.next - 1).to_be_bytes())
    }

    /// A pong releases what waits for it.
    pub(crate) fn answered(&mut self, pong: &[u8]) {
        // Any other pong does not answer a ping of ours.
        let asked = pong.try_into().map(u64::from_be_bytes).ok();
        let asked = asked.filter(|asked| *asked < self.next);
        self.release_before(asked.map_or(0, |asked| asked + 1));
    }

    /// A beat releases what has waited since before the last one: the peer does not answer pings as it should.
    pub(crate) fn beat(&mut self) {
        let before = std::mem::replace(&mut self.beat, self.next);
        self.release_before(before);
    }

    /// Releases everything.
    pub(crate) fn release_all(&mut self) {
        self.release(self.waiting.len());
    }

    /// The next message that may be sent.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        self.free = self.free.checked_sub(1)?;
        let (_, message) = self.waiting.pop_front()?;
        self.bytes -= message.len();
        self.free_bytes -= message.len();
        Some(message)
    }

    fn waits(&self) -> usize {
        self.waiting.len() - self.free
    }

    fn release_before(&mut self, number: u64) {
        self.release(self.waiting.partition_point(|(waits_for, _)| *waits_for < number));
    }

    fn release(&mut self, count: usize) {
        let freed = self.waiting.range(self.free.min(count)..count);
        self.free_bytes += freed.map(|(_, message)| message.len()).sum::<usize>();
        self.free = self.free.max(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(held: &mut HeldBack) -> String {
        let text = |message: Bytes| String::from_utf8(message.into()).expect("text");
        std::iter::from_fn(|| held.take().map(text)).collect()
    }

    #[test]
    fn an_end_leaves_with_the_pong_to_the_ping_after_it() {
        let mut held = HeldBack::default();
        assert_eq!(held.ask(), None);
        held.keep(Bytes::from_static(b"a"));
        held.keep(Bytes::from_static(b"b"));
        let first = held.ask().expect("something waits");
        assert_eq!(held.ask(), None, "one ping is enough");
        held.keep(Bytes::from_static(b"c"));
        let second = held.ask().expect("something new waits");

        held.answered(b"");
        held.answered(&7_u64.to_be_bytes());
        assert_eq!(taken(&mut held), "", "that was never asked");
        held.answered(&first);
        assert_eq!(taken(&mut held), "ab");
        held.answered(&first);
        assert_eq!(taken(&mut held), "");
        held.answered(&second);
        assert_eq!(taken(&mut held), "c");
        assert!(held.is_empty());
    }

    #[test]
    fn what_no_pong_lets_go_leaves_at_the_second_beat_or_makes_room() {
        let mut held = HeldBack::default();
        held.keep(Bytes::from_static(b"a"));
        held.ask();

        held.beat();
        assert_eq!(taken(&mut held), "");
        held.keep(Bytes::from_static(b"b"));
        held.ask();
        held.beat();
        assert_eq!(taken(&mut held), "a");
        held.beat();
        assert_eq!(taken(&mut held), "b");
        for _ in 0..MOST {
            held.keep(Bytes::from_static(b"c"));
        }
        assert_eq!(taken(&mut held), "");
        held.keep(Bytes::from_static(b"d"));
        assert_eq!(taken(&mut held), "c");
        held.release_all();
        assert_eq!(taken(&mut held).len(), MOST);
    }

    #[test]
    fn what_waits_asks_the_next_connection_for_a_pong_of_its_own() {
        let mut held = HeldBack::default();
        held.keep(Bytes::from_static(b"a"));
        held.ask().expect("something waits");

        held.attach();
        let again = held.ask().expect("it waits still");
        held.answered(&again);

        assert_eq!(taken(&mut held), "a");
        held.attach();
        assert_eq!(held.ask(), None, "nothing waits");
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_one_message_of_any_size_may_wait() {
        let mut held = HeldBack::default();
        held.keep(Bytes::from(vec![b'a'; 2 * MOST_BYTES]));
        assert_eq!(held.take(), None);

        held.keep(Bytes::from(vec![b'b'; MOST_BYTES - 1]));
        assert_eq!(taken(&mut held).len(), 2 * MOST_BYTES);
        held.keep(Bytes::from_static(b"c"));
        assert_eq!(held.take(), None, "there is room");
        held.keep(Bytes::from_static(b"d"));

        assert_eq!(taken(&mut held).len(), MOST_BYTES - 1);
        held.release_all();
        assert_eq!(taken(&mut held), "cd");
        assert_eq!((held.bytes, held.free_bytes), (0, 0));
    }
}
