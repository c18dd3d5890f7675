//! Who learns what, and when, over subscribe, event, loss and reconnect.

use std::task::{Context, Poll, Waker};

use super::*;
use crate::queue::Popped;

fn filter(text: &str) -> TopicFilter {
    text.parse().expect("valid")
}

fn event(text: &str) -> Envelope {
    let (kind, id) = text.split_once(':').expect("a colon");
    Envelope {
        kind: kind.to_owned(),
        id: id.to_owned(),
        payload: None,
        transport: None,
    }
}

fn next(joined: &mut Joined) -> Option<Result<Delivery, Error>> {
    match joined.queue.poll_next(&Context::from_waker(Waker::noop())) {
        Poll::Ready(Popped::Item(item)) => Some(item),
        Poll::Ready(other) => panic!("{other:?}"),
        Poll::Pending => None,
    }
}

fn topic_of(delivery: Option<Result<Delivery, Error>>) -> String {
    match delivery {
        Some(Ok(Delivery::Event(event))) => event.topic.to_string(),
        other => panic!("expected an event, got {other:?}"),
    }
}

fn reason_of(delivery: Option<Result<Delivery, Error>>) -> String {
    match delivery {
        Some(Ok(Delivery::Gap(gap))) => gap.reason,
        other => panic!("expected a gap, got {other:?}"),
    }
}

#[test]
fn a_stream_is_confirmed_by_its_own_answer_and_not_by_an_earlier_one() {
    let (mut followed, outbox) = (Followed::default(), Outbox::default());
    let first = followed.join(&filter("a:1"), Some(&outbox));
    followed.leave(&filter("a:1"), first.follower, Some(&outbox));
    let mut second = followed.join(&filter("a:1"), Some(&outbox));

    followed.confirmed("a:1");
    followed.unsubscribed("a:1");
    assert!(second.confirmed.try_recv().is_err(), "that was the answer to the first");
    followed.confirmed("a:1");

    assert!(matches!(second.confirmed.try_recv(), Ok(Ok(()))));
}

/// The hub never confirms what was given up before it could.
#[test]
fn a_topic_that_was_given_up_before_its_confirmation_can_be_followed_again() {
    let (mut followed, outbox) = (Followed::default(), Outbox::default());
    for _ in 0..3 {
        let given_up = followed.join(&filter("a:1"), Some(&outbox));
        followed.leave(&filter("a:1"), given_up.follower, Some(&outbox));
    }
    let mut stream = followed.join(&filter("a:1"), Some(&outbox));

    for _ in 0..3 {
        followed.unsubscribed("a:1");
        assert!(stream.confirmed.try_recv().is_err(), "nothing was confirmed");
    }
    followed.confirmed("a:1");

    assert!(matches!(stream.confirmed.try_recv(), Ok(Ok(()))));
    followed.leave(&filter("a:1"), stream.follower, Some(&outbox));
    followed.unsubscribed("a:1");
    assert!(followed.topics.is_empty(), "{followed:?}");
}

#[test]
fn a_late_answer_to_a_topic_that_was_given_up_confirms_no_later_stream() {
    let (mut followed, outbox) = (Followed::default(), Outbox::default());
    let first = followed.join(&filter("a:1"), Some(&outbox));
    followed.confirmed("a:1");
    followed.leave(&filter("a:1"), first.follower, Some(&outbox));
    let second = followed.join(&filter("a:1"), Some(&outbox));
    followed.leave(&filter("a:1"), second.follower, Some(&outbox));

    followed.unsubscribed("a:1");
    let mut third = followed.join(&filter("a:1"), Some(&outbox));
    followed.confirmed("a:1");
    assert!(third.confirmed.try_recv().is_err(), "that was the answer to the second");
    followed.unsubscribed("a:1");
    followed.confirmed("a:1");

    assert!(matches!(third.confirmed.try_recv(), Ok(Ok(()))));
}

#[test]
fn a_second_stream_of_a_confirmed_topic_is_confirmed_at_once() {
    let (mut followed, outbox) = (Followed::default(), Outbox::default());
    let _first = followed.join(&filter("a:1"), Some(&outbox));
    followed.confirmed("a:1");

    let mut second = followed.join(&filter("a:1"), Some(&outbox));

    assert!(matches!(second.confirmed.try_recv(), Ok(Ok(()))));
}

#[test]
fn a_reconnect_is_told_before_the_first_event_after_it() {
    let (mut followed, outbox) = (Followed::default(), Outbox::default());
    let mut stream = followed.join(&filter("a:*"), Some(&outbox));
    followed.confirmed("a:*");
    followed.deliver(event("a:1"));

    followed.resume(&Outbox::default());
    followed.deliver(event("a:2"));
    followed.confirmed("a:*");

    assert_eq!(topic_of(next(&mut stream)), "a:1");
    assert_eq!(reason_of(next(&mut stream)), "reconnected");
    assert_eq!(topic_of(next(&mut stream)), "a:2");
    assert!(next(&mut stream).is_none());
}

#[test]
fn an_event_reaches_the_followers_of_its_topic_and_of_its_type_and_nobody_else() {
    let (mut followed, outbox) = (Followed::default(), Outbox::default());
    let mut one = followed.join(&filter("a:1"), Some(&outbox));
    let mut all = followed.join(&filter("a:*"), Some(&outbox));
    let mut other = followed.join(&filter("a:2"), Some(&outbox));

    followed.deliver(event("a:1"));

    assert_eq!(topic_of(next(&mut one)), "a:1");
    assert_eq!(topic_of(next(&mut all)), "a:1");
    assert!(next(&mut other).is_none());
}

#[test]
fn a_refused_topic_fails_the_one_who_waits_and_ends_the_one_who_reads() {
    let (mut followed, outbox) = (Followed::default(), Outbox::default());
    let mut reads = followed.join(&filter("a:1"), Some(&outbox));
    followed.confirmed("a:1");
    let mut waits = followed.join(&filter("b:1"), Some(&outbox));

    followed.refused("a:1", &Error::Closed);
    followed.refused("b:1", &Error::Closed);

    assert!(matches!(next(&mut reads), Some(Err(Error::Closed))));
    assert!(matches!(waits.confirmed.try_recv(), Ok(Err(Error::Closed))));
}

#[test]
fn a_stream_that_nobody_reads_is_told_how_much_it_missed() {
    let (mut followed, outbox) = (Followed::default(), Outbox::default());
    let mut stream = followed.join(&filter("a:1"), Some(&outbox));
    for _ in 0..LIMITS.items + 3 {
        followed.deliver(event("a:1"));
    }

    let context = Context::from_waker(Waker::noop());
    let Poll::Ready(first) = stream.queue.poll_next(&context) else {
        panic!("nothing queued")
    };

    assert!(matches!(first, Popped::Lost(3)), "{first:?}");
}

fn unavailable() -> Error {
    use alkhub_protocol::{CallError, Code};
    CallError::new(Code::Unavailable, "Redis is not available")
        .retryable()
        .retry_after_ms(1_000)
        .into()
}

#[test]
fn a_stream_that_was_confirmed_outlives_a_refusal_that_may_be_tried_again() {
    let (mut followed, outbox) = (Followed::default(), Outbox::default());
    let mut stream = followed.join(&filter("a:1"), Some(&outbox));
    followed.confirmed("a:1");

    followed.resume(&outbox);
    let (again, wait) = followed.refused("a:1", &unavailable()).expect("it is asked again");
    assert!(wait >= Duration::from_secs(1), "the hub says when: {wait:?}");
    assert!(next(&mut stream).is_none());
    followed.ask_again(&again, Some(&outbox));
    followed.confirmed("a:1");
    followed.deliver(event("a:1"));

    assert_eq!(reason_of(next(&mut stream)), "reconnected");
    assert_eq!(topic_of(next(&mut stream)), "a:1");
}

#[test]
fn a_refusal_that_may_be_tried_again_is_the_answer_to_a_stream_that_was_never_confirmed() {
    let (mut followed, outbox) = (Followed::default(), Outbox::default());
    let mut new = followed.join(&filter("a:1"), Some(&outbox));

    assert!(followed.refused("a:1", &unavailable()).is_none());

    assert!(matches!(new.confirmed.try_recv(), Ok(Err(Error::Call(_)))));
}

#[test]
fn who_joins_a_topic_that_was_refused_asks_at_once_and_is_confirmed_by_the_answer() {
    let (mut followed, outbox) = (Followed::default(), Outbox::default());
    let mut old = followed.join(&filter("a:1"), Some(&outbox));
    followed.confirmed("a:1");
    let (again, _) = followed.refused("a:1", &unavailable()).expect("it is asked again");

    let mut new = followed.join(&filter("a:1"), Some(&outbox));
    assert!(new.confirmed.try_recv().is_err(), "nothing is confirmed yet");
    assert!(
        followed.refused("a:1", &unavailable()).is_none(),
        "somebody waits to ask again"
    );
    assert!(matches!(new.confirmed.try_recv(), Ok(Err(Error::Call(_)))));
    followed.ask_again(&again, Some(&outbox));
    followed.confirmed("a:1");

    assert_eq!(reason_of(next(&mut old)), "reconnected");
    followed.refused("a:1", &Error::Closed);
    assert!(matches!(next(&mut old), Some(Err(Error::Closed))), "that is for good");
}
