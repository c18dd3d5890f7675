//! A caller with the SDK.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use alkhub_sdk::{Client, Delivered, Delivery, Error, Event};
use alkhub_test_support::pause;
use fastrand::Rng;
use futures::StreamExt as _;
use serde_json::Value;

use super::rest;
use crate::ledger::{AWAY, End, Kind, LOST};
use crate::run::Run;
use crate::schedule::HUBS;

/// The time between two tries to follow a topic.
const AGAIN: Duration = Duration::from_millis(100);

/// What a follower has seen.
#[derive(Debug, Default)]
struct Followed {
    /// For each publisher the last number, and how many gaps there had been by then.
    numbers: HashMap<String, (u64, u64)>,
    gaps: u64,
    /// The hubs whose last events have arrived.
    last: HashSet<u64>,
}

/// Makes one call after another.
pub(super) async fn calls(run: Run, client: Client, mut chance: Rng) {
    while !run.stop.is_cancelled() {
        let kind = if chance.bool() { Kind::Query } else { Kind::Mutation };
        let operation = run.operation(&mut chance, kind);
        let call = run.begins(&operation, kind);
        let answer = client.call::<_, Value>(&operation, &call.number).await;
        call.ends(match answer {
            Ok(output) => End::Output(output),
            Err(error) => failed(&error),
        });
        pause(rest(&mut chance)).await;
    }
}

/// Reads one subscription after another.
pub(super) async fn subscriptions(run: Run, client: Client, mut chance: Rng) {
    while !run.stop.is_cancelled() {
        let operation = run.operation(&mut chance, Kind::Subscription);
        let call = run.begins(&operation, Kind::Subscription);
        let items = client.subscribe::<_, (u64, u64)>(&operation, &call.number).await;
        let end = match items {
            Ok(mut items) => {
                let mut count = 0;
                loop {
                    match items.next().await {
                        Some(Ok(item)) if item == (call.number, count) => count += 1,
                        Some(Ok(item)) => {
                            let place = (call.number, count);
                            run.ledger.broken(format!("item {item:?} came where {place:?} was due"));
                            count += 1;
                        }
                        Some(Err(error)) => break failed(&error),
                        None => break End::Completed(count),
                    }
                }
            }
            Err(error) => failed(&error),
        };
        call.ends(end);
        pause(rest(&mut chance)).await;
    }
}

/// Follows the topic until the last events of every hub have arrived.
pub(super) async fn events(run: Run, client: Client) {
    let mut events = loop {
        match client.events(&run.topic()).await {
            Ok(events) => break events,
            Err(error) => run.ledger.note(format!("a topic cannot be followed yet: {error}")),
        }
        pause(AGAIN).await;
    };
    let mut followed = Followed::default();
    while followed.last.len() < HUBS {
        match events.next().await {
            Some(Ok(Delivery::Event(event))) => followed.event(&run, &event),
            Some(Ok(Delivery::Gap(gap))) => {
                run.ledger.count(format!("gaps {}", gap.reason));
                followed.gaps += 1;
            }
            Some(Err(error)) => return run.ledger.broken(format!("a stream of events ended: {error}")),
            None => return run.ledger.broken("a stream of events ended without a word"),
        }
    }
}

// === impl Followed ===

impl Followed {
    fn event(&mut self, run: &Run, event: &Event) {
        let published = event.payload::<Value>().unwrap_or_default();
        if let Some(hub) = published["last"].as_u64() {
            self.last.insert(hub);
            return;
        }
        // A publisher takes a new name whenever it does not know what became of its last event.
        let (Some(from), Some(number)) = (published["from"].as_str(), published["number"].as_u64()) else {
            return run.ledger.broken(format!("{event:?} is nobody's event"));
        };
        run.ledger.count("events delivered");
        let before = self.numbers.insert(from.to_owned(), (number, self.gaps));
        if let Some((before, gaps)) = before {
            let is_next = number == before + 1;
            let is_after_a_gap = self.gaps > gaps;
            if is_after_a_gap && number <= before {
                // It was on its way to the hub to which the session has moved.
                run.ledger.count("events again, after a gap");
            } else if !is_next && !is_after_a_gap {
                run.ledger.broken(format!(
                    "event {number} of {from} came after {before}, and no gap between them"
                ));
            }
        }
    }
}

fn failed(error: &Error) -> End {
    let code = match error {
        Error::Lost => LOST.to_owned(),
        Error::Timeout(_) => "TIMEOUT".to_owned(),
        Error::Unreachable { .. } | Error::Refused { status: 503, .. } => AWAY.to_owned(),
        other => other
            .code()
            .map_or_else(|| format!("{other:?}"), |code| code.as_str().to_owned()),
    };
    let delivered: Delivered = error.delivered();
    End::Failed(code, delivered)
}
