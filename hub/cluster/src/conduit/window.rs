//! The messages that were sent to a peer and are not acknowledged yet, in order, kept to be sent again.
//!
//! Invariants
//! - Places are numbered from 1 without a hole; a message that is withdrawn leaves its place behind.
//! - A message that may have been received is never withdrawn: only one that was handed to the carrier once, and came
//!   back. When the window ends, calls that no carrier has taken come back too.
//! - The window is bounded: in messages and bytes for those that can be refused, in messages for all. Calls and items
//!   each have bytes of their own, so that large answers leave room for calls.
//! - All of it is charged to the hub ([`Kept::Links`]) for as long as it is kept. Messages that can be refused are
//!   refused once the hub's budget is used up; an empty window may draw on the budget's reserve.

use std::collections::VecDeque;

use alkhub_budget::{Budget, Held, Kept};
use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::message::Kind;
use crate::carrier::NotSent;

/// The class of a message: whether a window that is nearly full still accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A call: refused first, since it can go elsewhere; taken back if nobody received it.
    Call,
    /// One item of many: refused like a call.
    Item,
    /// The end of a call: refused after calls and items, when the window has no room even for it or the hub's budget is
    /// used up.
    End,
    /// Small, and nobody could do anything about its loss: never refused.
    Control,
}

/// How many messages a window accepts before it refuses calls and items: enough that small ones are bounded by their
/// bytes.
const MESSAGES: usize = 131_072;

/// How many bytes of calls a window accepts before it refuses calls, and how many of items before it refuses items.
const BYTES: usize = 16 * 1024 * 1024;

/// How many bytes of all messages a window accepts before it refuses ends.
const ALL_BYTES: usize = 64 * 1024 * 1024;

/// How many messages a window accepts at all: beyond that the conduit breaks.
const ALL_MESSAGES: usize = 262_144;

/// The approximate cost of a message in addition to its bytes.
const ENTRY_BYTES: usize = 64;

/// After this long without an acknowledgement the first message is sent again; doubled each time ...
const PAUSE: Duration = Duration::from_secs(1);

/// ... up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Complaints that come within this time are about the same loss.
const COMPLAINTS: Duration = Duration::from_millis(150);

/// How long to wait before offering a message to the carrier again.
const CARRIER_PAUSE: Duration = Duration::from_millis(20);

/// A peer that acknowledges nothing for this long, while the carrier works, does not read.
const SILENCE: Duration = Duration::from_secs(30);

/// The messages that wait for their acknowledgement.
#[derive(Debug)]
pub(super) struct Window {
    entries: VecDeque<Entry>,
    /// The place of the first entry.
    first: u64,
    bytes: ByClass,
    held: Held,
    /// The next place to be handed to the carrier, if that is not the one after the last.
    resume: Option<u64>,
    /// Why the carrier did not accept the message there, if it was offered.
    refused: Option<NotSent>,
    /// Whether only the first entry was sent again, and the rest follows once it is acknowledged.
    probes: bool,
    /// When something is sent again; only meaningful while there are entries.
    resend_at: Instant,
    /// When the entries were last sent again from the first one on.
    resent_at: Option<Instant>,
    pause: Duration,
    /// When the peer last acknowledged something, or last could not have.
    heard_at: Instant,
}

/// The payload bytes of the entries.
#[derive(Clone, Copy, Debug, Default)]
struct ByClass {
    calls: usize,
    items: usize,
    /// Of ends and of what is never refused.
    others: usize,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    class: Class,
    payload: Bytes,
    /// How often a carrier has taken it.
    sent: u32,
}

/// What there is no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// This message.
    ForThis,
    /// Any message.
    ForAnything,
    /// The hub's budget is used up.
    InBudget,
}

// === impl Window ===

impl Window {
    pub(super) fn new(budget: &Budget, now: Instant) -> Self {
        Self {
            entries: VecDeque::new(),
            first: 1,
            bytes: ByClass::default(),
            held: budget.nothing(Kept::Links),
            resume: None,
            refused: None,
            probes: false,
            resend_at: now,
            resent_at: None,
            pause: PAUSE,
            heard_at: now,
        }
    }

    /// The number of bytes that wait for their acknowledgement.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.all()
    }

    /// Makes room for a message, which is pushed next. An empty window accepts any message that the budget has room
    /// for.
    pub(super) fn make_room(&mut self, class: Class, bytes: usize) -> Result<(), NoRoom> {
        let (messages, cost) = (self.entries.len(), self.cost() + bytes + ENTRY_BYTES);
        let (kept, most) = match class {
            Class::Call => (self.bytes.calls, BYTES),
            Class::Item => (self.bytes.items, BYTES),
            Class::End => (self.bytes.all(), ALL_BYTES),
            Class::Control => (0, usize::MAX),
        };
        match class {
            _ if messages == 0 => {}
            _ if messages >= ALL_MESSAGES => return Err(NoRoom::ForAnything),
            Class::Call | Class::Item if messages >= MESSAGES => return Err(NoRoom::ForThis),
            _ if kept.saturating_add(bytes) > most => return Err(NoRoom::ForThis),
            Class::Call | Class::Item | Class::End | Class::Control => {}
        }
        match class {
            Class::Call | Class::Item | Class::End => self.held.follow(cost).map_err(|_| NoRoom::InBudget),
            Class::Control => {
                self.held.insist(cost);
                Ok(())
            }
        }
    }

    /// The number of bytes charged to the budget.
    fn cost(&self) -> usize {
        self.bytes.all() + self.entries.len() * ENTRY_BYTES
    }

    /// Whether something has to be handed to the carrier before the next message.
    pub(super) fn is_behind(&self) -> bool {
        self.resume.is_some()
    }

    /// Why nothing may overtake what waits: the carrier was away when it was last tried, or too much waits.
    pub(super) fn refusal(&self) -> NotSent {
        self.refused.unwrap_or(NotSent::Full)
    }

    /// The carrier is back: what it did not accept because it was away can go at once.
    pub(super) fn carrier_is_back(&mut self, now: Instant) {
        if self.refused == Some(NotSent::Unreachable) {
            self.resend_at = now;
        }
    }

    /// The place of the next message.
    pub(super) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Adds a message at [`Window::next`], for which there is room. Returns whether it may be handed to the carrier
    /// now: it must not overtake what waits.
    pub(super) fn push(&mut self, class: Class, payload: Bytes, now: Instant) -> bool {
        if self.entries.is_empty() {
            (self.pause, self.heard_at) = (PAUSE, now);
            self.resend_at = now + PAUSE;
        }
        let goes = self.resume.is_none();
        *self.bytes.of(class) += payload.len();
        self.entries.push_back(Entry {
            kind: Kind::Data,
            class,
            payload,
            sent: u32::from(goes),
        });
        goes
    }

    /// Takes back the last message, which the carrier did not accept.
    pub(super) fn retract(&mut self) {
        if let Some(entry) = self.entries.pop_back() {
            *self.bytes.of(entry.class) -= entry.payload.len();
            self.held.ease(self.cost());
        }
    }

    /// The carrier did not accept the message at this place: it will soon be offered again, followed by the later ones.
    pub(super) fn not_taken(&mut self, place: u64, reason: NotSent, now: Instant) {
        if let Some(entry) = self.entry(place) {
            entry.sent = entry.sent.saturating_sub(1);
            (self.resume, self.refused) = (Some(place), Some(reason));
            self.resend_at = now + CARRIER_PAUSE;
        }
    }

    /// The carrier returned the message at this place because nobody received it. Returns the payload, if it certainly
    /// went nowhere else and can be taken back.
    pub(super) fn withdraw(&mut self, place: u64) -> Option<Bytes> {
        let entry = self.entry(place)?;
        if entry.class != Class::Call || entry.kind != Kind::Data || entry.sent > 1 {
            return None;
        }
        entry.kind = Kind::Skip;
        let payload = std::mem::take(&mut entry.payload);
        self.bytes.calls -= payload.len();
        self.held.ease(self.cost());
        Some(payload)
    }

    /// Ends the window. Returns the calls that no carrier has taken: nobody has received them. They are not charged any
    /// more, so nobody may keep them for long.
    pub(super) fn into_unsent(self) -> Vec<Bytes> {
        let is_unsent = |entry: &Entry| entry.class == Class::Call && entry.kind == Kind::Data && entry.sent == 0;
        let unsent = self.entries.into_iter().filter(is_unsent);
        unsent.map(|entry| entry.payload).collect()
    }

    /// Everything up to this place has arrived. False if the window never had that place.
    pub(super) fn acknowledge(&mut self, place: u64, now: Instant) -> bool {
        if place >= self.next() {
            return false;
        }
        if place < self.first {
            return true;
        }
        while self.first <= place {
            let Some(entry) = self.entries.pop_front() else { break };
            *self.bytes.of(entry.class) -= entry.payload.len();
            self.first += 1;
        }
        self.held.ease(self.cost());
        if self.entries.is_empty() && self.entries.capacity() > 1_024 {
            self.entries = VecDeque::new();
        }
        self.resume = self
            .resume
            .map(|resume| resume.max(self.first))
            .filter(|_| !self.entries.is_empty());
        (self.pause, self.heard_at) = (PAUSE, now);
        if std::mem::take(&mut self.probes) {
            self.resend(now);
        } else if self.resume.is_none() {
            self.resend_at = now + PAUSE;
        }
        true
    }

    /// From now on, sends the unacknowledged messages again.
    pub(super) fn resend(&mut self, now: Instant) {
        if !self.entries.is_empty() {
            (self.resume, self.refused) = (Some(self.first), None);
            (self.resend_at, self.resent_at) = (now, Some(now));
        }
    }

    /// The peer asks for repetition. Ignored if that has just begun, because a peer complains more than once.
    pub(super) fn complained(&mut self, now: Instant) {
        let is_new = |at| now.saturating_duration_since(at) >= COMPLAINTS;
        if self.resent_at.is_none_or(is_new) {
            self.resend(now);
        }
    }

    /// The peer could not be reached until now, so its silence means nothing.
    pub(super) fn excuse(&mut self, now: Instant) {
        (self.pause, self.heard_at) = (PAUSE, now);
    }

    /// Whether the peer has been silent for too long.
    pub(super) fn is_ignored(&self, now: Instant) -> bool {
        !self.entries.is_empty() && now.saturating_duration_since(self.heard_at) >= SILENCE
    }

    /// When [`Window::take_due`] has something; `None` while nothing waits.
    pub(super) fn due_at(&self) -> Option<Instant> {
        (!self.entries.is_empty()).then_some(self.resend_at)
    }

    /// The next message to be handed to the carrier now: its place, kind and payload.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(u64, Kind, Bytes)> {
        if self.entries.is_empty() || now < self.resend_at {
            return None;
        }
        self.refused = None;
        let place = self.resume.unwrap_or(self.first);
        let is_probe = self.resume.is_none();
        let last = self.next() - 1;
        let entry = self.entry(place)?;
        entry.sent = entry.sent.saturating_add(1);
        let (kind, payload) = (entry.kind, entry.payload.clone());
        if is_probe || place == last {
            self.probes = is_probe;
            self.resume = None;
            self.resend_at = now + self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        } else {
            self.resume = Some(place + 1);
        }
        Some((place, kind, payload))
    }

    fn entry(&mut self, place: u64) -> Option<&mut Entry> {
        let at = usize::try_from(place.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)
    }
}

// === impl ByClass ===

impl ByClass {
    fn of(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Call => &mut self.calls,
            Class::Item => &mut self.items,
            Class::End | Class::Control => &mut self.others,
        }
    }

    fn all(&self) -> usize {
        self.calls + self.items + self.others
    }
}

#[cfg(test)]
mod tests {
    use alkhub_budget::{Budgets, RESERVE};
    use alkhub_config::BudgetConfig;
    use prometheus::Registry;

    use super::*;

    fn window(now: Instant) -> Window {
        Window::new(&budgets(BudgetConfig::default().hub_bytes).own(), now)
    }

    fn budgets(hub_bytes: usize) -> Budgets {
        let config = BudgetConfig {
            hub_bytes,
            ..BudgetConfig::default()
        };
        Budgets::new(&config, &Registry::new()).expect("a fresh registry")
    }

    fn payload() -> Bytes {
        Bytes::from_static(b"payload")
    }

    fn due(window: &mut Window, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| window.take_due(now).map(|(place, ..)| place)).collect()
    }

    #[test]
    fn what_is_not_acknowledged_is_probed_by_its_first_message_and_then_sent_again() {
        let start = Instant::now();
        let mut window = window(start);
        for _ in 0..3 {
            assert!(window.push(Class::Item, payload(), start));
        }

        assert!(due(&mut window, start).is_empty());
        assert_eq!(due(&mut window, start + PAUSE), [1]);
        assert!(due(&mut window, start + PAUSE).is_empty(), "the pause grows");
        assert_eq!(due(&mut window, start + PAUSE * 3), [1]);
        assert!(window.acknowledge(1, start + PAUSE * 3));
        assert_eq!(due(&mut window, start + PAUSE * 3), [2, 3]);
        assert!(window.acknowledge(3, start + PAUSE * 3));
        assert!(window.bytes() == 0 && window.due_at().is_none());
    }

    #[test]
    fn nothing_overtakes_what_the_carrier_has_not_taken() {
        let start = Instant::now();
        let mut window = window(start);
        assert!(window.push(Class::Item, payload(), start));
        window.not_taken(1, NotSent::Full, start);

        assert!(!window.push(Class::Item, payload(), start));

        assert_eq!(due(&mut window, start + CARRIER_PAUSE), [1, 2]);
        assert!(window.push(Class::Item, payload(), start));
    }

    #[test]
    fn what_waits_for_a_carrier_that_was_away_goes_when_it_is_back_and_what_was_too_much_waits_on() {
        for (reason, at_once) in [(NotSent::Unreachable, vec![1]), (NotSent::Full, vec![])] {
            let start = Instant::now();
            let mut window = window(start);
            window.push(Class::Item, payload(), start);
            window.not_taken(1, reason, start);
            assert_eq!(window.refusal(), reason);

            window.carrier_is_back(start);

            assert_eq!(due(&mut window, start), at_once);
        }
    }

    #[test]
    fn only_a_call_that_was_sent_once_is_withdrawn_and_it_leaves_its_place() {
        let start = Instant::now();
        let mut window = window(start);
        for class in [Class::Call, Class::End, Class::Call] {
            window.push(class, payload(), start);
        }
        assert_eq!(window.withdraw(1), Some(payload()));
        assert_eq!(window.withdraw(1), None, "once");
        assert_eq!(window.withdraw(2), None, "an end");
        window.resend(start);
        let again: Vec<_> = std::iter::from_fn(|| window.take_due(start)).collect();

        assert_eq!(window.withdraw(3), None, "it may have arrived");
        let kinds: Vec<_> = again.iter().map(|(place, kind, _)| (*place, *kind)).collect();
        assert_eq!(kinds, [(1, Kind::Skip), (2, Kind::Data), (3, Kind::Data)]);
    }

    #[test]
    fn only_calls_that_no_carrier_has_taken_come_back_when_the_window_ends() {
        let start = Instant::now();
        let mut window = window(start);
        let numbered = |number: u8| Bytes::from(vec![number]);
        for (number, class) in (1..).zip([Class::Call, Class::Call, Class::Item, Class::Call, Class::Call]) {
            window.push(class, numbered(number), start);
            if number == 2 {
                window.not_taken(2, NotSent::Full, start);
            }
        }
        assert_eq!(window.withdraw(5), Some(numbered(5)));

        window.resend(start);
        assert!(window.take_due(start).is_some(), "a second time");
        window.not_taken(1, NotSent::Full, start);

        assert_eq!(window.into_unsent(), [numbered(2), numbered(4)]);
    }

    #[test]
    fn what_can_be_refused_is_refused_first() {
        let start = Instant::now();
        for (class, other) in [(Class::Call, Class::Item), (Class::Item, Class::Call)] {
            let mut window = window(start);
            assert_eq!(
                window.make_room(class, ALL_BYTES),
                Ok(()),
                "an empty window takes anything"
            );
            window.push(class, Bytes::from(vec![0; BYTES]), start);

            assert_eq!(window.make_room(class, 1), Err(NoRoom::ForThis));
            assert_eq!(window.make_room(other, 1), Ok(()));
            assert_eq!(window.make_room(Class::End, 1), Ok(()));
            assert_eq!(window.make_room(Class::End, ALL_BYTES), Err(NoRoom::ForThis));
            assert_eq!(window.make_room(Class::Control, ALL_BYTES), Ok(()));
        }
    }

    #[test]
    fn ends_that_fill_the_window_leave_room_for_calls() {
        let start = Instant::now();
        let mut window = window(start);
        window.push(Class::End, Bytes::from(vec![0; ALL_BYTES]), start);

        assert_eq!(window.make_room(Class::End, 1), Err(NoRoom::ForThis));
        assert_eq!(window.make_room(Class::Call, BYTES), Ok(()));
        window.acknowledge(1, start);
        assert_eq!(window.bytes(), 0);
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_none() {
        let now = Instant::now();
        let mut window = window(now);
        window.push(Class::End, payload(), now);

        assert!(!window.acknowledge(2, now));
        assert!(window.acknowledge(1, now));
        assert!(window.acknowledge(0, now), "an old one");
    }

    #[test]
    fn a_peer_that_acknowledges_nothing_is_found_out_unless_it_could_not() {
        let start = Instant::now();
        let mut window = window(start);
        window.push(Class::End, payload(), start);

        assert!(!window.is_ignored(start + SILENCE - PAUSE));
        assert!(window.is_ignored(start + SILENCE));
        window.excuse(start + SILENCE);
        assert!(!window.is_ignored(start + SILENCE + PAUSE));
    }

    fn sent(window: &mut Window, class: Class, bytes: usize, now: Instant) -> Result<(), NoRoom> {
        window.make_room(class, bytes)?;
        window.push(class, Bytes::from(vec![0; bytes]), now);
        Ok(())
    }

    #[test]
    fn what_is_kept_is_charged_until_it_is_acknowledged_taken_back_or_given_up() {
        let start = Instant::now();
        let budget = budgets(BYTES).own();
        let mut window = Window::new(&budget, start);
        for class in [Class::Call, Class::Item, Class::End, Class::Control] {
            assert_eq!(sent(&mut window, class, 100_000, start), Ok(()));
        }
        assert!(budget.used() >= 400_000);

        window.retract();
        assert_eq!(window.withdraw(1).map(|payload| payload.len()), Some(100_000));
        assert!(budget.used() < 300_000, "{}", budget.used());
        assert!(window.acknowledge(3, start));
        assert_eq!(budget.used(), 0);

        assert_eq!(sent(&mut window, Class::End, 100_000, start), Ok(()));
        drop(window);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_hub_that_keeps_all_it_may_refuses_what_can_be_refused_and_what_is_small_is_counted() {
        let start = Instant::now();
        let budgets = budgets(1_000);
        let budget = budgets.own();
        let mut window = Window::new(&budget, start);
        assert_eq!(sent(&mut window, Class::End, RESERVE - 8_192, start), Ok(()));

        for class in [Class::Call, Class::Item, Class::End] {
            assert_eq!(window.make_room(class, 10_000), Err(NoRoom::InBudget));
        }
        assert_eq!(sent(&mut window, Class::Control, 10_000, start), Ok(()));

        assert!(budget.used() > RESERVE);
        let mut other = Window::new(&budgets.own(), start);
        assert_eq!(
            sent(&mut other, Class::Call, RESERVE / 2, start),
            Ok(()),
            "its own reserve"
        );
        assert!(window.acknowledge(2, start));
        assert_eq!(budget.used(), 0);
        assert_eq!(sent(&mut window, Class::Call, 10_000, start), Ok(()));
    }
}
