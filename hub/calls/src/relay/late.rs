//! Answers to calls whose hub is gone: a spoke that got a call from that hub has come to another one, and brings its
//! answer.
//!
//! The id by which the spoke knows the call says on which hub its caller is ([`LegIds`]). The hub that the spoke has
//! come to passes the answer on to that hub. There the call runs until the hub in between is known to be gone, or until
//! its deadline.
//!
//! Invariants
//! - An answer is accepted only from the very instance that the call was sent to, or from the other session of the same
//!   program, according to the hub that has its connection.
//! - No answer is accepted for a subscription: items may have been lost with the hub that is gone.
//! - An answer that nobody waits for any more changes nothing. And a session passes on no more than its peer may have
//!   kept, because an id proves nothing until the caller's hub has seen it.

use std::sync::Arc;

use alkhub_hub_cluster::Cluster;
use alkhub_protocol::frame::encode;
use alkhub_protocol::{Dialect, Frame, HubId, InstanceId, SpokeName};
use bytes::Bytes;

use crate::leg::call::To;
use crate::leg::call_id::LegIds;
use crate::leg::table::CallTable;
use crate::relay::Relay;
use crate::relay::arrival_queue::Arrival;
use crate::relay::arrivals::Arrivals;
use crate::session::{Session, spoken};

/// Takes late answers and passes them on. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LateAnswers {
    pub(crate) hub: HubId,
    pub(crate) cluster: Cluster,
    pub(crate) legs: LegIds,
    pub(crate) table: Arc<CallTable>,
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) relay: Arc<Relay>,
}

// === impl LateAnswers ===

impl LateAnswers {
    /// Takes a message from a spoke of this hub about a call that it got from another hub.
    pub(crate) fn received(&self, session: &Session, frame: Frame) {
        let id = match &frame {
            Frame::Responded { request_id, .. } | Frame::Failed { request_id, .. } => request_id.clone(),
            // Without an answer, the call ends as one whose fate is unknown.
            _ => return,
        };
        let Some(origin) = self.legs.origin(&id) else { return };
        let frame = answer(frame, origin.key);
        if !session.hands_on(frame.len()) {
            return;
        }
        if origin.is(&self.hub) {
            return self.arrived(origin.key, (&session.spoke, &session.instance), frame);
        }
        let pods = self.cluster.pods();
        if let Some(pod) = pods.iter().find(|pod| origin.is(&pod.hub_id)) {
            let spoke = (&session.spoke, &session.instance);
            self.relay.late(&pod.hub_id, origin.key, spoke, &frame);
        }
    }

    /// Takes the answer to a call of this hub, brought by an instance that has come to some hub.
    pub(crate) fn arrived(&self, key: u64, (spoke, instance): (&SpokeName, &InstanceId), frame: Bytes) {
        let Some(call) = self.table.get(key).filter(|call| !call.operation.is_subscription()) else {
            return;
        };
        let attempt = {
            let leg = call.leg.lock();
            match &leg.to {
                To::Hub { instance: to } if to.entry.spoke == *spoke && is_of(&to.entry.instance, instance) => {
                    leg.resent
                }
                To::Hub { .. } | To::Spoke { .. } | To::Nobody | To::Ended => return,
            }
        };
        tracing::debug!(spoke.id = %spoke, instance.id = %instance, "a spoke brings an answer whose hub is gone");
        let arrival = Arrival {
            attempt,
            is_late: true,
            frame,
        };
        self.arrivals.arrived(call, arrival);
    }
}

/// Whether an instance is the one that a call was sent to, or the other session of the same program.
fn is_of(sent_to: &InstanceId, instance: &InstanceId) -> bool {
    sent_to == instance || sent_to.twin().as_ref() == Some(instance)
}

/// The answer as hubs pass it on, within the bounds that hold for what spokes say.
fn answer(mut frame: Frame, key: u64) -> Bytes {
    let id = key.to_string();
    match &mut frame {
        Frame::Failed { error, .. } => {
            // This hub does not know which errors the operation declares.
            spoken::bound(error, &[]);
            encode::call_error(Dialect::Payload, &id, error)
        }
        Frame::Responded { output, .. } => encode::call_responded(Dialect::Payload, &id, output),
        _ => Bytes::new(),
    }
}
