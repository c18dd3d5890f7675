//! A conversation that moves from one hub to another, and what passes through the tunnel between the two.

use std::task::{Context, Poll, Waker};

use alkhub_calls::{HeldInstance, Registration};
use alkhub_events::Item;
use alkhub_protocol::frame::encode;
use alkhub_protocol::{CallError, CloseCode, Code, RequestId};
use bytes::Bytes;

use super::Conversation;
use crate::handover::Handover;
use crate::left::PeerMessage;
use crate::pending::Done;
use crate::tunnel::TunnelGuard;

/// The subscriptions of a session that moves.
pub(crate) struct TakenSubscriptions {
    /// Events that wait for the peer, encoded as it will read them.
    pub(crate) events: Vec<Bytes>,
    pub(crate) topics: Vec<String>,
}

// === impl Conversation ===

impl Conversation {
    // --- the hub that it leaves ---

    /// Resolves when nothing is under way any more that only this hub would tell the peer about: registrations,
    /// subscriptions that wait for their confirmation, publications.
    pub(crate) fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_pending(cx);
        if self.pending.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Ends the subscriptions here.
    pub(crate) fn take_subscriptions(&mut self) -> TakenSubscriptions {
        let mut events = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(item) = self.poll_event(&mut cx) {
            events.push(match item {
                Item::Event(event) => event.text().clone(),
                Item::Gap(gap) => encode::gap(&gap),
            });
        }
        let subscriptions = std::mem::take(&mut self.subscriptions);
        TakenSubscriptions {
            events,
            topics: subscriptions.into_topics(),
        }
    }

    /// Ends the calls that would be too many hubs away if the session moved on.
    pub(crate) fn end_far_calls(&self) {
        self.tunnels.iter().for_each(TunnelGuard::end_far);
    }

    /// Notes that another hub goes on with the session.
    pub(crate) fn moved(&self) {
        if let Some(registration) = self.spoke.registration() {
            registration.moved();
        }
    }

    /// Describes to another hub what runs here.
    pub(crate) fn describe(&self, handover: &mut Handover) {
        let open = self.tunnels.iter().filter(|tunnel| !tunnel.is_closed());
        handover.hubs = open.map(TunnelGuard::hubs).max().unwrap_or(0);
        let registration = self.spoke.registration();
        handover.instance = registration.and_then(HeldInstance::of);
        handover.legs = self.legs();
        handover.calls = self.tickets.running().map(RequestId::to_string).collect();
        for tunnel in &self.tunnels {
            handover.calls.extend(tunnel.calls());
        }
    }

    /// The calls that run on the spoke for this hub, and for hubs that the session has left before, by the ids that the
    /// spoke knows.
    pub(crate) fn legs(&self) -> Vec<String> {
        let own = self.spoke.registration().map(Registration::running);
        let tunnelled = self.tunnels.iter().flat_map(TunnelGuard::legs);
        own.into_iter().flatten().chain(tunnelled).collect()
    }

    /// Acts on a message that the peer sent where its session is now, about a call that runs here or on a hub left
    /// before.
    pub(crate) fn received_elsewhere(&mut self, received: &PeerMessage) {
        let PeerMessage { message, size } = received;
        if *size > message.len() {
            self.too_large(message, *size);
        } else {
            self.message(message);
        }
    }

    /// Whether nothing of a session that has moved to another hub runs here any more, and nobody is sent here for it.
    pub(crate) fn is_left(&mut self) -> bool {
        self.tunnels.retain(|tunnel| !tunnel.is_closed());
        let is_over = |registration: &Registration| registration.is_over();
        self.spoke.registration().is_none_or(is_over)
            && self.tickets.running().next().is_none()
            && self.tunnels.is_empty()
            && self.pending.is_empty()
            // The end of a call that is over may still be on its way.
            && self.outbox.is_quiet()
    }

    // --- the hub that goes on with it ---

    /// Goes on with the state that another hub has sent; running calls continue through the tunnel.
    pub(crate) fn go_on(&mut self, handover: &mut Handover, tunnel: TunnelGuard) {
        self.tunnels.push(tunnel);
        if let Some(instance) = handover.instance.take() {
            let (calls, caller) = (self.sockets.calls().clone(), self.key.caller());
            let outbox = self.outbox.clone();
            self.spoke.begin();
            self.arriving = true;
            self.pending.add(async move {
                let taken = calls.take_over(&caller, instance, outbox).await;
                Done::TakenOver(Box::new(taken))
            });
        }
        for topic in std::mem::take(&mut handover.topics) {
            match topic.parse() {
                Ok(filter) => self.subscribe_again(filter),
                Err(error) => tracing::warn!(%error, "another hub has named a topic that is none"),
            }
        }
    }

    /// Resolves when the spoke of the session can be called here through every hub, or that has taken too long.
    pub(crate) fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_pending(cx);
        if self.arriving { Poll::Pending } else { Poll::Ready(()) }
    }

    /// The registration has come here too, or it could not.
    pub(super) fn taken_over(&mut self, taken: Result<Registration, CallError>) {
        match taken {
            Ok(registration) => {
                for tunnel in &self.tunnels {
                    tunnel.settle(registration.slots());
                }
                let visible = self.sockets.calls().visible(&registration);
                self.pending.add(async move {
                    // Lagging hubs are in the log; they find the spoke by a look.
                    drop(visible.await);
                    Done::Settled
                });
                self.spoke.settle(Some(registration));
                self.tell_if_reconnecting();
                let caller = self.key.caller();
                self.narrow(&caller);
            }
            Err(error) => {
                self.arriving = false;
                self.spoke.settle(None);
                tracing::info!(%error, "a spoke that has come from another hub cannot go on here");
                match error.code {
                    Code::Conflict => self.outbox.close(CloseCode::Replaced, &error.message),
                    _ => self.outbox.close(CloseCode::GoingAway, &error.message),
                }
            }
        }
    }

    // --- through the tunnel ---

    /// Passes on a message of the peer if it is about a call that the spoke runs for a hub which the session has left.
    pub(super) fn answer_elsewhere(&self, id: &RequestId, data: &Bytes) -> bool {
        self.hand_on(data, data.len(), |tunnel| tunnel.has_leg(id))
    }

    /// The same for a message of `size` bytes, over the limit, of which only the beginning is left.
    pub(super) fn too_large_elsewhere(&self, id: &RequestId, head: &Bytes, size: usize) -> bool {
        self.hand_on(head, size, |tunnel| tunnel.has_leg(id))
    }

    /// The same for a call that the peer made there.
    pub(super) fn abort_elsewhere(&self, id: &RequestId, data: &Bytes) -> bool {
        self.hand_on(data, data.len(), |tunnel| tunnel.has_call(id))
    }

    /// Whether a call of the peer with this id is running, here or on a hub that the session has left.
    pub(super) fn is_running(&self, id: &RequestId) -> bool {
        self.tickets.is_running(id) || self.tunnels.iter().any(|tunnel| tunnel.has_call(id))
    }

    fn hand_on(&self, data: &Bytes, size: usize, concerns: impl Fn(&TunnelGuard) -> bool) -> bool {
        let tunnel = self.tunnels.iter().find(|tunnel| concerns(tunnel));
        if let Some(tunnel) = tunnel {
            tunnel.hand_on(data, size);
        }
        tunnel.is_some()
    }

    /// Whether calls of the peer run on a hub that the session has left.
    pub(super) fn has_calls_elsewhere(&self) -> bool {
        self.tunnels.iter().any(TunnelGuard::has_calls)
    }

    /// The calls of the peer that run there and end with the session.
    pub(super) fn take_calls_elsewhere(&mut self) -> Vec<RequestId> {
        let calls = self.tunnels.iter().flat_map(TunnelGuard::take_calls);
        let calls = calls.filter_map(|id| id.parse().ok()).collect();
        self.tunnels.clear();
        calls
    }
}
