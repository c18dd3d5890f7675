//! What is kept, bounded and sent again, and when a hub is silent.

use std::time::Duration;

use alkhub_protocol::frame::encode;
use alkhub_protocol::frame::session::{RESUME, Welcome};
use alkhub_protocol::{CallError, Code, Dialect};
use futures::FutureExt as _;
use tokio::time::timeout;

use super::*;
use crate::kept::MUCH_BYTES;

fn queued(outbox: &Outbox) -> usize {
    outbox.0.waiting.lock().queue.len()
}

#[tokio::test]
async fn the_answers_of_a_session_that_has_ended_are_left_whether_or_not_they_were_sent() {
    let outbox = Outbox::default();
    let ask = "text.upper".parse().expect("valid");
    let asked = encode::call_requested(Dialect::Id, "r", &ask, None, &encode::RequestOptions::default());
    let output = |n: u64| encode::call_responded(Dialect::Id, "n1-7", &serde_json::json!(n).into());
    let failed = encode::call_error(Dialect::Id, "n1-8", &CallError::new(Code::NotFound, "no"));
    [asked, output(1)].into_iter().for_each(|sent| outbox.push(sent));
    outbox.batch().await.expect("both leave");
    [failed.clone(), encode::call_completed(Dialect::Id, "n1-9"), output(2)]
        .into_iter()
        .for_each(|waits| outbox.push(waits));

    outbox.end();

    assert_eq!(outbox.take_left(), [output(1), failed, output(2)]);
    assert!(outbox.take_left().is_empty());
}

#[tokio::test]
async fn a_hub_that_reads_no_refusals_is_given_up_and_they_stay_bounded() {
    let outbox = Outbox::default();
    (0..REFUSALS).for_each(|_| outbox.refuse(Bytes::from_static(b"no")));
    (0..BATCH.items).for_each(|_| outbox.push(Bytes::from_static(b"an item")));
    let mut left = 0;
    while queued(&outbox) > BATCH.items {
        left += outbox.batch().await.expect("it is open").len();
    }
    assert_eq!(left, REFUSALS);

    (0..REFUSALS).for_each(|_| outbox.refuse(Bytes::from_static(b"no")));
    assert!(!outbox.0.is_stalled.is_cancelled(), "those before were taken");
    (0..3).for_each(|_| outbox.refuse(Bytes::from_static(b"no")));

    assert!(outbox.0.is_stalled.is_cancelled());
    let waits = BATCH.items + REFUSALS;
    assert_eq!(queued(&outbox), waits);
    outbox.push(Bytes::from_static(b"the answer of a call that runs"));
    assert_eq!(queued(&outbox), waits + 1, "these are as many as the calls");
}

/// A queue whose hub keeps the session.
fn granted() -> Outbox {
    let outbox = Outbox::default();
    outbox.kept(|kept| kept.hello());
    let welcome = encode::welcome(&Welcome {
        session_id: "s".to_owned(),
        hub_id: "hub".to_owned(),
        heartbeat_ms: 10_000,
        resume_ms: 30_000,
        max_inflight: 0,
        features: vec![RESUME.to_owned()],
    });
    assert_eq!(outbox.received(welcome), None, "the session's own");
    outbox
}

#[tokio::test]
async fn what_counts_as_sent_can_be_sent_again_however_much_waits() {
    let outbox = granted();
    (0..3 * 4_096).for_each(|_| outbox.push(Bytes::from_static(b"an item")));
    assert!(outbox.batch().await.is_some_and(|sent| sent.len() == BATCH.items));
    while let Some(Some(_)) = outbox.batch().now_or_never() {}

    outbox.rewind(0).expect("everything that left is kept");

    assert_eq!(queued(&outbox), 3 * 4_096);
}

#[tokio::test]
async fn what_waits_for_an_acknowledgement_leaves_with_it() {
    let outbox = granted();
    (0..4_097).for_each(|_| outbox.push(Bytes::from_static(b"an item")));
    while let Some(Some(_)) = outbox.batch().now_or_never() {}
    assert_eq!(queued(&outbox), 1);
    let rest = outbox.batch();
    tokio::pin!(rest);
    assert!(futures::poll!(&mut rest).is_pending());

    assert_eq!(outbox.received(encode::ack(64)), None);

    assert!(rest.await.is_some_and(|sent| sent.len() == 1));
}

#[tokio::test]
async fn the_silence_of_a_hub_does_not_count_while_much_is_on_its_way_to_it() {
    let (outbox, moment) = (granted(), Duration::from_millis(10));
    let large = Bytes::from(vec![b'x'; MUCH_BYTES + 1]);
    outbox.push(large);

    let waiting = timeout(30 * moment, outbox.silent(moment)).await;
    outbox.batch().await.expect("it leaves");
    let unacknowledged = timeout(30 * moment, outbox.silent(moment)).await;
    outbox.received(encode::ack(1));

    assert!(waiting.is_err() && unacknowledged.is_err());
    let silent = timeout(Duration::from_secs(20), outbox.silent(moment)).await;
    assert!(silent.is_ok(), "it says nothing, and has everything");
}
