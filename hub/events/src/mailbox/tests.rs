//! Tests of the mailbox: bounds, gaps in their place, waking, and a model check that nothing is lost in silence.

use std::sync::atomic::AtomicUsize;
use std::task::{Wake, Waker};

use alkhub_protocol::frame::Gap;
use alkhub_protocol::{Envelope, RawJson};
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;

use super::contents::PRESSED_BYTES;
use super::*;
use crate::publication::WaitingBytes;

const ROOM: Limits = Limits {
    items: 100,
    bytes: 1 << 20,
};

fn event(topic: &str, value: u64) -> Arc<Publication> {
    let payload = RawJson::from_value(&value).expect("a number");
    Arc::new(Publication::new(topic.parse().expect("a topic"), Some(&payload)))
}

fn filter(text: &str) -> TopicFilter {
    text.parse().expect("a filter")
}

fn push(mailbox: &Mailbox, topic: &str, value: u64) -> Pushed {
    mailbox.queue().push(&event(topic, value), false)
}

fn push_gap(mailbox: &Mailbox, topic: &str, missed: Option<u64>) -> usize {
    mailbox.queue().push_gap(
        &filter(topic),
        Loss {
            reason: Reason::Malformed,
            missed,
        },
    )
}

/// The number from which [`event`] made it.
fn value(event: &Publication) -> u64 {
    let envelope = Envelope::decode(event.text()).expect("an envelope");
    envelope.payload.expect("a payload").to().expect("a number")
}

fn show(item: Item) -> String {
    match item {
        Item::Event(event) => format!("{} {}", event.topic, value(&event)),
        Item::Gap(Gap { topic, reason, missed }) => format!("gap {topic} {reason} {missed:?}"),
    }
}

fn drain(deliveries: &mut Deliveries) -> Vec<String> {
    std::iter::from_fn(|| deliveries.try_next()).map(show).collect()
}

#[test]
fn while_too_much_waits_on_the_hub_who_lags_behind_lets_go_and_who_reads_does_not() {
    let live = WaitingBytes::new(1 << 20);
    let (slow, mut unread) = mailbox(ROOM);
    let (fast, mut read) = mailbox(ROOM);
    let large = || {
        let payload = RawJson::from_value(&"x".repeat(100_000)).expect("a text");
        Arc::new(Publication::counted(
            "a:1".parse().expect("a topic"),
            Some(&payload),
            &live,
        ))
    };

    for _ in 0..10 {
        let event = large();
        slow.queue().push(&event, false);
        fast.queue().push(&event, false);
        assert!(matches!(read.try_next(), Some(Item::Event(_))));
    }

    assert!(matches!(unread.try_next(), Some(Item::Gap(_))), "there is a gap");
    assert!(unread.queued() * 100_000 <= PRESSED_BYTES, "{} wait", unread.queued());
    assert!(live.bytes() < 1 << 20, "{} bytes", live.bytes());
    drop((slow, unread, fast, read));
    assert_eq!(live.bytes(), 0);
}

#[test]
fn a_full_queue_loses_its_oldest_events_and_says_so_first() {
    let (mailbox, mut deliveries) = mailbox(Limits { items: 3, ..ROOM });

    for value in 0..5 {
        push(&mailbox, "a:1", value);
        push(&mailbox, "b:1", value);
    }

    let expected = [
        "gap a:1 overflow Some(4)",
        "gap b:1 overflow Some(3)",
        "b:1 3",
        "a:1 4",
        "b:1 4",
    ];
    assert_eq!(drain(&mut deliveries), expected);
}

#[test]
fn bytes_are_bounded_too_and_one_event_always_fits() {
    let large = event("a:1", u64::MAX);
    let (mailbox, mut deliveries) = mailbox(Limits {
        bytes: large.weight() * 2,
        ..ROOM
    });

    for _ in 0..3 {
        mailbox.queue().push(&large, false);
    }
    assert_eq!(deliveries.queued(), 2);
    let huge = Publication::new(
        "a:1".parse().expect("a topic"),
        Some(&RawJson::from_value(&"x".repeat(10_000)).expect("text")),
    );
    mailbox.queue().push(&Arc::new(huge), false);

    assert_eq!(show(deliveries.try_next().expect("a gap")), "gap a:1 overflow Some(3)");
    assert!(matches!(deliveries.try_next(), Some(Item::Event(event)) if event.weight() > 10_000));
    assert!(deliveries.try_next().is_none());
}

#[test]
fn a_loss_of_one_who_asked_for_all_ids_is_told_under_that_name() {
    let (mailbox, mut deliveries) = mailbox(Limits { items: 1, ..ROOM });

    for id in 0..4 {
        mailbox.queue().push(&event(&format!("a:{id}"), id), true);
    }

    assert_eq!(drain(&mut deliveries), ["gap a:* overflow Some(3)", "a:3 3"]);
}

#[test]
fn gaps_with_no_event_between_them_are_one() {
    let (mailbox, mut deliveries) = mailbox(ROOM);

    push(&mailbox, "a:1", 1);
    let gaps = [
        push_gap(&mailbox, "a:1", Some(1)),
        push_gap(&mailbox, "b:1", None),
        push_gap(&mailbox, "a:1", Some(2)),
    ];
    push(&mailbox, "a:1", 2);
    push_gap(&mailbox, "b:1", Some(5));
    push_gap(&mailbox, "a:1", Some(1));

    assert_eq!(gaps, [1, 1, 0]);
    let expected = [
        "a:1 1",
        "gap a:1 malformed Some(3)",
        "gap b:1 malformed None",
        "a:1 2",
        "gap a:1 malformed Some(1)",
    ];
    assert_eq!(drain(&mut deliveries), expected);
}

#[test]
fn a_flood_of_gaps_takes_no_room_from_events() {
    let (mailbox, mut deliveries) = mailbox(Limits { items: 2, ..ROOM });

    push(&mailbox, "a:1", 1);
    for _ in 0..1_000 {
        push_gap(&mailbox, "a:1", Some(1));
        push_gap(&mailbox, "b:1", Some(1));
    }
    push(&mailbox, "a:1", 2);

    let expected = [
        "a:1 1",
        "gap a:1 malformed Some(1000)",
        "gap b:1 malformed Some(1000)",
        "a:1 2",
    ];
    assert_eq!(drain(&mut deliveries), expected);
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_reader_that_waits_is_woken_once() {
    let (mailbox, mut deliveries) = mailbox(ROOM);
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    let mut context = Context::from_waker(&waker);

    assert!(deliveries.poll_next(&mut context).is_pending());
    for value in 0..10 {
        push(&mailbox, "a:1", value);
    }
    assert_eq!(count.0.load(Ordering::Relaxed), 1);

    assert_eq!(drain(&mut deliveries).len(), 10);
    assert!(deliveries.poll_next(&mut context).is_pending());
    drop(mailbox);
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
    assert!(matches!(deliveries.poll_next(&mut context), Poll::Ready(None)));
}

#[test]
fn a_mailbox_whose_reader_left_takes_nothing() {
    let (mailbox, deliveries) = mailbox(ROOM);
    drop(deliveries);

    assert_eq!(
        push(&mailbox, "a:1", 1),
        Pushed {
            queued: false,
            dropped: 1,
            gaps: 0
        }
    );
    assert_eq!(push_gap(&mailbox, "a:1", None), 0);
}

// === the model ===

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(usize),
    Gap(usize, Option<u64>),
    Read(usize),
}

/// What was pushed under one filter, in order: an event with its number, or a gap.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Event(u64),
    Gap(Option<u64>),
}

const FILTERS: [&str; 4] = ["a:1", "a:2", "a:*", "b:*"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..FILTERS.len()).prop_map(Step::Push),
        2 => (0..FILTERS.len(), prop::option::of(1..4_u64)).prop_map(|(filter, missed)| Step::Gap(filter, missed)),
        2 => (1..8_usize).prop_map(Step::Read),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn nothing_is_lost_without_a_sign(steps in steps(), items in 1..12_usize, small in any::<bool>()) {
        let limits = Limits { items, bytes: if small { 400 } else { 1 << 20 } };
        let (mailbox, mut deliveries) = mailbox(limits);
        let mut sent: [Vec<Sent>; 4] = Default::default();
        let mut read = Vec::new();
        let mut numbers = 0;
        for step in steps {
            match step {
                Step::Push(filter) => {
                    numbers += 1;
                    let any = FILTERS[filter].ends_with('*');
                    let topic = if any { FILTERS[filter].replace('*', "9") } else { FILTERS[filter].to_owned() };
                    let pushed = mailbox.queue().push(&event(&topic, numbers), any);
                    prop_assert!(pushed.queued && deliveries.queued() <= items);
                    sent[filter].push(Sent::Event(numbers));
                }
                Step::Gap(filter, missed) => {
                    push_gap(&mailbox, FILTERS[filter], missed);
                    sent[filter].push(Sent::Gap(missed));
                }
                Step::Read(count) => read.extend((0..count).map_while(|_| deliveries.try_next())),
            }
        }
        read.extend(std::iter::from_fn(|| deliveries.try_next()));
        for (filter, sent) in FILTERS.iter().zip(&sent) {
            check(filter, sent, &read)?;
        }
    }
}

/// There must be a gap between two events that were read exactly if events or gaps were pushed between them, and the
/// gaps must tell how many are missing.
fn check(filter: &str, sent: &[Sent], read: &[Item]) -> Result<(), TestCaseError> {
    let topic = filter.replace('*', "9");
    let mut sent = sent.iter();
    let mut told: Vec<Option<u64>> = Vec::new();
    for item in read {
        match item {
            Item::Gap(gap) if gap.topic == filter => told.push(gap.missed),
            Item::Event(event) if event.topic.as_str() == topic => {
                let number = value(event);
                compare(&skipped(&mut sent, Some(number))?, &told)?;
                told.clear();
            }
            _ => {}
        }
    }
    compare(&skipped(&mut sent, None)?, &told)
}

/// What was pushed before an event, or before the end; `None` stands for an unknown number.
fn skipped(sent: &mut std::slice::Iter<'_, Sent>, until: Option<u64>) -> Result<Vec<Option<u64>>, TestCaseError> {
    let mut skipped = Vec::new();
    for item in sent.by_ref() {
        match item {
            Sent::Event(number) if Some(*number) == until => return Ok(skipped),
            Sent::Event(_) => skipped.push(Some(1)),
            Sent::Gap(missed) => skipped.push(*missed),
        }
    }
    prop_assert!(until.is_none(), "an event was read twice or out of order: {until:?}");
    Ok(skipped)
}

fn compare(skipped: &[Option<u64>], told: &[Option<u64>]) -> Result<(), TestCaseError> {
    let sum = |counts: &[Option<u64>]| counts.iter().copied().sum::<Option<u64>>();
    prop_assert_eq!(skipped.is_empty(), told.is_empty());
    prop_assert_eq!(sum(skipped), sum(told));
    Ok(())
}
