//! The outbox keeps its bounds and its order, and closes once.

use std::pin::pin;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Wake, Waker};

use super::*;
use crate::fixture::{budget, input};

const LIMITS: Limits = Limits { items: 3, bytes: 30 };

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn message(text: &'static str) -> Option<OutgoingItem> {
    Some(OutgoingItem::Message(Bytes::from_static(text.as_bytes())))
}

#[test]
fn messages_leave_in_order_and_the_close_comes_last() {
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget());

    outbox.push(text("a")).expect("room");
    outbox.push(text("b")).expect("room");
    outbox.close(CloseCode::Replaced, "replaced");
    outbox.close(CloseCode::GoingAway, "too late to count");

    assert_eq!(outbox.push(text("c")), Err(Full::Ended));
    assert_eq!(outgoing.try_next(), message("a"));
    assert_eq!(outgoing.try_next(), message("b"));
    let reason = "replaced".to_owned();
    let code = CloseCode::Replaced;
    assert_eq!(outgoing.try_next(), Some(OutgoingItem::Close { code, reason }));
    assert_eq!(outgoing.try_next(), None);
}

#[test]
fn a_full_queue_refuses_and_takes_again_once_it_was_read() {
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget());
    for _ in 0..3 {
        outbox.push(text("a")).expect("room");
    }

    assert_eq!(outbox.push(text("b")), Err(Full::Queue));
    outgoing.try_next();

    assert_eq!(outbox.push(text("b")), Ok(()));
    assert_eq!(outbox.queued(), 3);
}

#[test]
fn bytes_are_bounded_and_an_empty_queue_takes_any_message() {
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget());
    let large = Bytes::from(vec![b'x'; 100]);

    assert_eq!(outbox.push(large), Ok(()));
    assert_eq!(outbox.push(text("a")), Err(Full::Queue));
    outgoing.try_next();

    assert_eq!(outbox.push(text("a")), Ok(()));
}

#[test]
fn sealing_tells_which_calls_left_and_keeps_the_others_in() {
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget());
    let first = outbox.push_call(text("1"), "1", &input()).expect("room");
    let second = outbox.push_call(text("2"), "2", &input()).expect("room");
    outbox.push(text("answer")).expect("room");
    outgoing.try_next();

    let taken = outbox.seal();

    assert!(first <= taken && second > taken);
    assert_eq!(outbox.push_call(text("3"), "3", &input()), Err(Full::Ended));
    assert_eq!(outgoing.try_next(), message("answer"));
    assert_eq!(outgoing.try_next(), None);
}

#[test]
fn a_call_that_was_taken_out_at_the_end_is_not_aborted_and_one_that_left_is() {
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget());
    let left = outbox.push_call(text("1"), "1", &input()).expect("room");
    let taken_out = outbox.push_call(text("2"), "2", &input()).expect("room");
    outgoing.try_next();
    outbox.seal();

    outbox.push_abort(text("abort 2"), taken_out).expect("nothing to say");
    outbox.push_abort(text("abort 1"), left).expect("room");

    let said: Vec<_> = std::iter::from_fn(|| outgoing.try_next()).collect();
    assert_eq!(said, [OutgoingItem::Last(text("abort 1"))]);
}

#[test]
fn an_abort_that_waits_goes_with_its_call_at_the_end() {
    let (outbox, mut outgoing) = outbox("s1", Limits { items: 9, bytes: 90 }, &budget());
    let left = outbox.push_call(text("1"), "1", &input()).expect("room");
    let waits = outbox.push_call(text("2"), "2", &input()).expect("room");
    outgoing.try_next();
    outbox.push_abort(text("abort 2"), waits).expect("room");
    outbox.push_abort(text("abort 1"), left).expect("room");

    outbox.seal();

    let said: Vec<_> = std::iter::from_fn(|| outgoing.try_next()).collect();
    assert_eq!(said, [OutgoingItem::Last(text("abort 1"))]);
}

#[test]
fn a_dropped_reader_closes_the_outbox() {
    let (outbox, outgoing) = outbox("s1", LIMITS, &budget());

    drop(outgoing);

    assert!(outbox.is_closed());
    assert_eq!(outbox.push(text("a")), Err(Full::Ended));
}

#[test]
fn a_backlog_counts_what_its_subscription_has_waiting() {
    let (outbox, mut outgoing) = outbox(
        "s1",
        Limits {
            items: 100,
            bytes: 1000,
        },
        &budget(),
    );
    let backlog = Arc::new(Backlog::default());

    outbox.push_item(text("12345"), &backlog).expect("room");
    assert!(!backlog.has_room(5, 1, 100));
    assert!(!backlog.has_room(5, 10, 9));
    assert!(backlog.has_room(5, 10, 10));
    outgoing.try_next();

    assert!(backlog.has_room(1000, 1, 1));
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_reader_is_woken_once_for_a_batch() {
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget());
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);
    let mut next = pin!(outgoing.next());
    assert!(next.as_mut().poll(&mut cx).is_pending());

    for _ in 0..3 {
        outbox.push(text("a")).expect("room");
    }

    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert!(next.as_mut().poll(&mut cx).is_ready());
}

#[test]
fn what_waits_is_charged_until_it_is_written() {
    let budget = budget();
    let limits = Limits {
        items: 10,
        bytes: 1 << 20,
    };
    let (outbox, mut outgoing) = outbox("s1", limits, &budget);

    outbox.push(Bytes::from(vec![b'x'; 100_000])).expect("room");
    assert!(budget.used() >= 90_000);
    outgoing.try_next();
    assert!(budget.used() >= 90_000, "it is not written yet");
    outgoing.written();

    assert_eq!(budget.used(), 0);
}

#[test]
fn a_key_without_budget_is_told_like_a_full_queue() {
    let budget = budget();
    let limits = Limits {
        items: 10,
        bytes: 1 << 20,
    };
    let (outbox, _outgoing) = outbox("s1", limits, &budget);
    let rest = alkhub_config::BudgetConfig::default().key_bytes - 1_000;
    let _other = budget.take(alkhub_budget::Kept::Calls, rest).expect("room");

    assert_eq!(outbox.push(Bytes::from(vec![b'x'; 10_000])), Err(Full::Queue));
    assert_eq!(outbox.push(text("the budget is full")), Ok(()), "it can be told");
}

#[test]
fn the_input_of_a_call_is_kept_until_the_writer_has_it() {
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget());
    let input = input();
    outbox.push_call(text("1"), "1", &input).expect("room");
    assert!(input.json().is_some(), "it may have to be sent to another spoke");

    outgoing.try_next();

    assert!(input.json().is_none());
}

#[test]
fn the_end_of_a_stream_is_charged_for_as_long_as_the_writer_keeps_it() {
    const SIZE: usize = 100_000;
    let budget = budget();
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget);
    outbox.push_end(Bytes::from(vec![b'x'; SIZE]), "r", true).expect("room");
    let Some(OutgoingItem::Last(last)) = outgoing.try_next() else {
        panic!("it waits");
    };

    outgoing.written();
    assert!(budget.used() > SIZE - 4096, "it is kept for its pong");
    outgoing.sends(last);
    assert!(budget.used() > SIZE - 4096, "it is on its way");
    outgoing.written();

    assert_eq!(budget.used(), 0);
}

/// Everything that the writer finds now.
fn drain(outgoing: &mut Outgoing) -> Vec<OutgoingItem> {
    std::iter::from_fn(|| outgoing.try_next()).collect()
}

#[test]
fn a_connection_that_takes_over_gets_what_was_not_written_first() {
    let budget = budget();
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget);
    outbox.push(text("written")).expect("room");
    outgoing.try_next();
    outgoing.written();
    outbox.push(text("a")).expect("room");
    let call = outbox.push_call(text("b"), "b", &input()).expect("room");
    assert_eq!(drain(&mut outgoing).len(), 2);

    outgoing.attach();
    outbox.push(text("c")).expect("room");

    let again = [text("a"), text("b"), text("c")].map(OutgoingItem::Message);
    assert_eq!(drain(&mut outgoing), again);
    assert_eq!(outbox.seal(), call, "it may have left with the first connection");
    outgoing.written();
    outgoing.attach();
    assert_eq!((drain(&mut outgoing), outbox.queued()), (vec![], 0));
}

#[test]
fn a_call_that_was_never_taken_has_not_left_whatever_the_connection_that_takes_over_does() {
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget());
    let first = outbox.push_call(text("1"), "1", &input()).expect("room");
    outgoing.try_next();
    let second = outbox.push_call(text("2"), "2", &input()).expect("room");

    outgoing.attach();

    assert!(first <= outbox.seal() && second > outbox.seal());
    assert_eq!(drain(&mut outgoing), [OutgoingItem::Message(text("1"))]);
}

#[test]
fn the_end_of_a_stream_that_goes_out_stays_until_it_is_written() {
    let budget = budget();
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget);
    outbox.push_end(text("end"), "r", true).expect("room");
    outbox.push(text("next")).expect("room");
    let Some(OutgoingItem::Last(last)) = outgoing.try_next() else {
        panic!("the end is kept for its pong");
    };
    outgoing.sends(last);

    outgoing.attach();

    assert_eq!(
        drain(&mut outgoing),
        [text("end"), text("next")].map(OutgoingItem::Message)
    );
    outgoing.written();
    assert_eq!(budget.used(), 0);
}

#[test]
fn the_first_dialect_counts_for_the_session() {
    let (outbox, _outgoing) = outbox("s1", LIMITS, &budget());
    assert_eq!(outbox.dialect(), Dialect::default());

    outbox.speaks(Dialect::Payload);
    outbox.speaks(Dialect::Id);

    assert_eq!(outbox.dialect(), Dialect::Payload);
}

/// Where a session's messages go once another hub has it.
#[derive(Debug, Default)]
struct Destination {
    passed: parking_lot::Mutex<Vec<(PassedKind, Option<String>, Bytes)>>,
    is_full: std::sync::atomic::AtomicBool,
}

impl Elsewhere for Destination {
    fn pass(&self, passed: PassedMessage) -> Result<(), Full> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(Full::Queue);
        }
        let PassedMessage { kind, id, message } = passed;
        self.passed.lock().push((kind, id, message));
        Ok(())
    }

    fn done(&self, leg: &str) {
        let passed = (PassedKind::Message, Some(leg.to_owned()), text("done"));
        self.passed.lock().push(passed);
    }
}

#[test]
fn what_a_session_that_has_left_says_goes_where_it_went_in_its_order() {
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget());
    outgoing.count();
    outbox.push(text("read")).expect("room");
    outbox.push(text("lost")).expect("room");
    assert!(outgoing.try_next().is_some() && outgoing.try_next().is_some());
    outgoing.resume(1).expect("the peer has one");
    let waiting = outbox.push_call(text("call"), "x-1", &input()).expect("room");
    let there = Arc::new(Destination::default());

    let mut delivery = None;
    let kept = vec![text("end of a stream")];
    let left = outgoing.leave(there.clone(), kept, |left| {
        delivery = Some(left);
        Ok(())
    });
    left.expect("taken");
    let later = outbox.push_call(text("later"), "x-2", &input()).expect("taken");
    outbox.push_end(text("answer"), "r-1", false).expect("taken");
    outbox.leg_ended("x-1");

    let delivery = delivery.expect("it begins");
    assert_eq!((delivery.received, delivery.again), (1, vec![text("lost")]));
    let id = |id: &str| Some(id.to_owned());
    assert_eq!(
        *there.passed.lock(),
        [
            (PassedKind::Last, None, text("end of a stream")),
            (PassedKind::Call, None, text("call")),
            (PassedKind::Call, id("x-2"), text("later")),
            (PassedKind::End, id("r-1"), text("answer")),
            (PassedKind::Message, id("x-1"), text("done")),
        ]
    );
    assert!(outbox.is_away() && outgoing.try_next().is_none());
    assert!(waiting < later && outbox.seal() == later, "both may have arrived");
}

#[test]
fn what_the_hub_that_goes_on_does_not_take_is_refused_here() {
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget());
    let there = Arc::new(Destination::default());
    outgoing
        .leave(there.clone(), Vec::new(), |_| Ok(()))
        .expect("nothing waits");

    there.is_full.store(true, Ordering::SeqCst);

    assert_eq!(outbox.push(text("a")), Err(Full::Queue));
    assert_eq!(outbox.push_call(text("b"), "x-1", &input()), Err(Full::Queue));
    assert_eq!(outbox.seal(), 0, "it surely did not leave");
}

#[test]
fn a_session_that_has_come_says_first_what_its_peer_lacks() {
    let (outbox, mut outgoing) = outbox("s1", LIMITS, &budget());
    outbox.push(text("waits")).expect("room");

    let delivery = DeliveryState {
        received: 7,
        again: vec![text("lost")],
    };
    outgoing.restore(delivery).expect("there is room");

    assert!(outbox.can_resume(7).is_ok() && outbox.can_resume(8).is_err());
    outgoing.resume(7).expect("that is what it has");
    assert_eq!(outgoing.try_next(), message("lost"));
    assert_eq!(outgoing.try_next(), message("waits"));
    assert!(outbox.acknowledge(9).is_ok() && outbox.acknowledge(10).is_err());
}

#[test]
fn a_call_that_was_taken_out_goes_back_whatever_has_taken_its_room() {
    let one = Limits { items: 1, ..LIMITS };
    let (outbox, mut outgoing) = outbox("s1", one, &budget());
    let call = input();
    let number = outbox.push_call(text("call"), "r", &call).expect("room");
    assert!(outbox.withdraw(number));
    outbox.push(text("other")).expect("its room is free");
    assert_eq!(outbox.push_call(text("call"), "r", &call), Err(Full::Queue));

    let number = outbox.push_call_back(text("call"), "r", &call).expect("it had room");

    assert_eq!(outgoing.try_next(), message("other"));
    assert!(outbox.withdraw(number), "it waits as before");
    outbox.seal();
    assert_eq!(outbox.push_call_back(text("call"), "r", &call), Err(Full::Ended));
}
