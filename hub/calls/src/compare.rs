//! Two hubs compare what they know of each other's calls after the link of one of them was broken: what was on its way
//! may be lost, and nobody shall wait for it.
//!
//! A hub whose link has come up tells every other hub which of its calls it believes there, and which calls of the
//! other's it holds; the other answers for these, and tells the same. So it makes no difference whose link broke, or
//! which of two hubs came back first.
//!
//! - A call that the holder does not know: its request or its end was lost. It fails.
//! - A subscription that the holder knows: the holder tells how many items it has sent. When some did not arrive, it
//!   fails.
//! - A call that the caller's hub does not know: an abort was lost. It is aborted.
//!
//! Invariants
//! - What is said of a call names the attempt that it is about. A call that was sent again meanwhile is not ended by what
//!   was said of it before.
//! - A comparison that could not be told begins anew: when the link is back, or, where the queue to it was full, a moment
//!   later ([`Relay`](crate::relay::Relay)).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use alkhub_hub_cluster::LinkState;
use alkhub_protocol::{CallError, Code, Delivered, HubId};

use crate::call::{Call, Origin, To};
use crate::core::Core;
use crate::relay::{Asked, Known};
use crate::sink::{End, Sink};

/// Keys of one kind in one message at most.
const KEYS: usize = 8_192;

/// Between messages that were lost here and the comparison that finds which.
const LOSS_PAUSE: Duration = Duration::from_millis(500);

/// So long the holder waits before it denies a call: its end may come back and be sent again.
const DENIAL_PAUSE: Duration = Duration::from_millis(500);

impl Core {
    /// Compares with everybody whenever the link has come up, or messages were lost in this hub, until the end.
    pub(crate) async fn compare_after_breaks(self: Arc<Self>) {
        let mut link = self.cluster.link();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.relay.missed.notified() => {
                    // More may be lost meanwhile; one comparison finds it all.
                    if self.stop.run_until_cancelled(tokio::time::sleep(LOSS_PAUSE)).await.is_none() {
                        return;
                    }
                }
                changed = link.changed() => match changed {
                    Ok(()) if *link.borrow_and_update() == LinkState::Up => {}
                    Ok(()) => continue,
                    // There are no other hubs.
                    Err(_) => return self.stop.cancelled().await,
                },
            }
            self.compare_with_all();
        }
    }

    fn compare_with_all(&self) {
        let mut hubs: HashSet<HubId> = self.cluster.pods().iter().map(|pod| pod.hub_id.clone()).collect();
        hubs.extend(self.directory.instances().iter().map(|i| i.entry.hub.clone()));
        let relayed = self.pending.select(|call| call.other_hub().is_some());
        hubs.extend(relayed.iter().filter_map(|call| call.other_hub()));
        hubs.remove(&self.hub);
        for hub in &hubs {
            self.tell_known(hub, &relayed, false);
        }
    }

    /// Tells a hub what is known of calls between it and this one. A first message, even an empty one, wants an answer
    /// of the same kind.
    fn tell_known(&self, hub: &HubId, relayed: &[Arc<Call>], is_answer: bool) {
        let (mut mine, mut held) = (Vec::new(), Vec::new());
        for call in relayed {
            match &call.origin {
                Origin::Hub { hub: from, key, .. } if from == hub => held.push(*key),
                Origin::Caller(_) => mine.extend(call.attempt_at(hub).map(|attempt| (call.key, attempt))),
                Origin::Hub { .. } => {}
            }
        }
        let (mut mine, mut held) = (mine.chunks(KEYS), held.chunks(KEYS));
        let mut is_answer = is_answer;
        loop {
            let (some, others) = (mine.next(), held.next());
            if is_answer && some.is_none() && others.is_none() {
                return;
            }
            let known = Known {
                mine: some.unwrap_or_default().iter().map(|(key, _)| *key).collect(),
                attempts: some.unwrap_or_default().iter().map(|(_, attempt)| *attempt).collect(),
                held: others.unwrap_or_default().to_vec(),
                is_answer,
            };
            if self.relay.known(hub, known).is_err() {
                // It begins anew when the link is back, or when there is room.
                return;
            }
            is_answer = true;
        }
    }

    /// Another hub tells what it knows.
    pub(crate) fn compare(self: &Arc<Self>, with: &HubId, known: &Known) {
        // Its link is up: it takes the ends that waited for it.
        self.relay.late.heard(with);
        let asked = known.mine.iter().enumerate().map(|(i, &key)| Asked {
            hub: with.clone(),
            key,
            attempt: known.attempts.get(i).copied(),
        });
        let unknown: Vec<Asked> = asked.filter(|asked| !self.mark(asked)).collect();
        if !unknown.is_empty() {
            self.deny(unknown);
        }
        for &key in &known.held {
            let runs_there = self
                .pending
                .get(key)
                .is_some_and(|call| call.attempt_at(with).is_some());
            if !runs_there && self.relay.abort(with, key, "the caller ended the call").is_err() {
                return;
            }
        }
        if !known.is_answer {
            let relayed = self
                .pending
                .select(|call| call.other_hub().is_some_and(|hub| hub == *with));
            self.tell_known(with, &relayed, true);
        }
    }

    /// Tells how many items of a call were sent, behind the last of them. False when no such call runs here.
    fn mark(&self, asked: &Asked) -> bool {
        let local = self.inbound.get(&(asked.hub.clone(), asked.key)).map(|local| *local);
        let Some(call) = local.and_then(|local| self.pending.get(local)) else {
            return false;
        };
        if let Sink::Hub(back) = &*call.sink.lock() {
            back.mark();
        }
        true
    }

    fn deny(self: &Arc<Self>, unknown: Vec<Asked>) {
        let core = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut left = unknown;
            while !left.is_empty() {
                let pause = tokio::time::sleep(DENIAL_PAUSE);
                if core.stop.run_until_cancelled(pause).await.is_none() {
                    return;
                }
                // It may have come meanwhile, or come again.
                left.retain(|asked| !core.mark(asked));
                let (late, unknown): (Vec<Asked>, Vec<Asked>) = left
                    .into_iter()
                    .partition(|asked| core.relay.late.has(&asked.hub, asked.key));
                if unknown.iter().any(|asked| core.relay.unknown(asked).is_err()) {
                    // It begins anew when the link is back, or when there is room.
                    return;
                }
                left = late;
            }
        });
    }

    /// The holder does not know the call, or sent items that did not arrive.
    pub(crate) fn lost_on_the_way(&self, call: &Call, stop: Option<&str>) {
        self.end(call.key, End::Failed(self.link_lost(call)), stop);
    }

    /// The error of a call of which something was lost between two hubs.
    pub(crate) fn link_lost(&self, call: &Call) -> CallError {
        let delivered = if call.has_output() {
            Delivered::Yes
        } else {
            Delivered::Maybe
        };
        let message = "the link between the hubs broke, and an answer may be lost";
        let mut error = CallError::new(Code::Unavailable, message).delivered(delivered);
        error.retryable = call.operation.spec.may_repeat();
        error
    }
}

impl Call {
    /// How often it had been sent again when it was sent to this other hub; `None` when it is not there.
    fn attempt_at(&self, hub: &HubId) -> Option<u8> {
        let leg = self.leg.lock();
        let is_there = matches!(&leg.to, To::Hub { instance } if instance.entry.hub == *hub);
        is_there.then_some(leg.resent)
    }
}
