//! A caller that speaks the origin's plain wire over a WebSocket: it sees every end that a hub sends, even a second
//! one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_test_support::pause;
use alkhub_tests::promise::delivered;
use alkhub_tests::wire::{Peer, Receiver, Sender};
use anyhow::Result;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{TIMEOUT, rest};
use crate::ledger::{End, Kind};
use crate::run::{Run, Waiting};

/// The time between two connections.
const AGAIN: Duration = Duration::from_millis(100);
/// How many calls run at once.
const MOST: usize = 4;

/// The calls of one connection.
#[derive(Debug, Default)]
struct Calls(Mutex<HashMap<u64, Running>>);

#[derive(Debug)]
struct Running {
    call: Waiting,
    items: u64,
}

/// Makes calls over one connection after another.
pub(super) async fn calls(run: Run, url: String) {
    while !run.stop.is_cancelled() {
        let Ok(peer) = Peer::connect(&url, &run.key).await else {
            pause(AGAIN).await;
            continue;
        };
        let (sender, receiver) = peer.split();
        let (calls, over) = (Arc::new(Calls::default()), CancellationToken::new());
        let reading = async {
            drop(read(&run, receiver, &calls).await);
            over.cancel();
        };
        // The reader ends with the connection, which the writer closes once everything is answered.
        tokio::join!(reading, write(&run, sender, &calls, &over));
    }
}

/// Makes calls until no more should begin, and closes when all have ended; or stops when the connection is over.
async fn write(run: &Run, mut sender: Sender, calls: &Calls, over: &CancellationToken) {
    let mut chance = run.chance(300);
    while !over.is_cancelled() {
        let running = calls.0.lock().len();
        if run.stop.is_cancelled() && running == 0 {
            drop(sender.close().await);
            return over.cancelled().await;
        }
        if !run.stop.is_cancelled() && running < MOST {
            let kind = Kind::ALL[chance.usize(..Kind::ALL.len())];
            let operation = run.operation(&mut chance, kind);
            let call = run.begins(&operation, kind);
            let number = call.number;
            let payload = json!({
                "requestId": number.to_string(), "operationId": operation, "input": number,
                "timeoutMs": TIMEOUT.as_millis(),
            });
            calls.0.lock().insert(number, Running { call, items: 0 });
            let sending = sender.send("call.requested", "", &payload);
            drop(over.run_until_cancelled(sending).await);
        }
        pause(rest(&mut chance)).await;
    }
}

async fn read(run: &Run, mut receiver: Receiver, calls: &Calls) -> Result<()> {
    while let Ok(message) = receiver.next_or_closed().await? {
        calls.told(run, &message);
    }
    Ok(())
}

// === impl Calls ===

impl Calls {
    fn told(&self, run: &Run, message: &Value) {
        let payload = &message["payload"];
        let number = payload["requestId"].as_str().and_then(|number| number.parse().ok());
        let Some(mut running) = number.and_then(|number: u64| self.0.lock().remove(&number)) else {
            return run.ledger.broken(format!("{message} is about no call that runs"));
        };
        let is_stream = run.ledger.kind(running.call.number) == Some(Kind::Subscription);
        let end = match message["type"].as_str() {
            Some("call.responded") if is_stream => {
                let due = json!([running.call.number, running.items]);
                if payload["output"]["data"] != due {
                    run.ledger.broken(format!("{message} came where {due} was due"));
                }
                running.items += 1;
                self.0.lock().insert(running.call.number, running);
                return;
            }
            Some("call.responded") => End::Output(payload["output"]["data"].clone()),
            Some("call.completed") => End::Completed(running.items),
            Some("call.error") => {
                let code = payload["code"].as_str().unwrap_or("none");
                End::Failed(code.to_owned(), delivered(payload["delivered"].as_str()))
            }
            _ => return run.ledger.broken(format!("{message} ends no call")),
        };
        running.call.ends(end);
    }
}
