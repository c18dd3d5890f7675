//! Answers to calls whose hub is gone: a spoke that got a call from that hub has come to another one, and brings them.
//!
//! The id by which the spoke knows the call says which hub its caller is on ([`LegIds`]). The hub that the spoke has come to
//! hands the answer on to that one, where the call runs until the other hub is known to be gone, or its deadline has passed.
//!
//! Invariants
//! - An answer is taken of the very instance that the call was sent to, or of the other session of the same program, as the hub
//!   that has its connection says.
//! - Nothing is taken for a subscription: items may be lost with the hub that is gone.
//! - An answer that nobody waits for any more changes nothing, and a session hands on no more than its peer may have
//!   kept: an id proves nothing until the hub of the caller has seen it.

use std::sync::Arc;

use alkhub_hub_cluster::Cluster;
use alkhub_protocol::frame::encode;
use alkhub_protocol::{Dialect, Frame, HubId, InstanceId, SpokeName};
use bytes::Bytes;

use crate::leg::call::To;
use crate::leg::call_id::LegIds;
use crate::leg::table::CallTable;
use crate::relay::Relay;
use crate::relay::arrivals::Arrivals;
use crate::session::{Session, spoken};

/// Takes and hands on late answers. Cheap to clone.
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
    /// Takes a message of a spoke of this hub about a call that another hub has sent it.
    pub(crate) fn received(&self, session: &Session, frame: Frame) {
        let id = match &frame {
            Frame::Responded { request_id, .. } | Frame::Failed { request_id, .. } => request_id.clone(),
            // Without an answer the call ends as one whose fate is unknown.
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

    /// An instance that has come to some hub brings the answer to a call of this one.
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
        self.arrivals.arrived(call, attempt, frame);
    }
}

/// Whether an instance is the one that a call was sent to, or the other session of the same program.
fn is_of(sent_to: &InstanceId, instance: &InstanceId) -> bool {
    sent_to == instance || sent_to.twin().as_ref() == Some(instance)
}

/// The answer as hubs hand it on, within the bounds that hold for spokes.
fn answer(mut frame: Frame, key: u64) -> Bytes {
    let id = key.to_string();
    match &mut frame {
        Frame::Failed { error, .. } => {
            // What the operation declares is not known here.
            spoken::bound(error, &[]);
            encode::call_error(Dialect::Payload, &id, error)
        }
        Frame::Responded { output, .. } => encode::call_responded(Dialect::Payload, &id, output),
        _ => Bytes::new(),
    }
}
