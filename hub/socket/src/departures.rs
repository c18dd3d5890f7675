//! Sessions that leave for another hub: how they are given up, and what stays here of them.
//!
//! Invariants
//! - From the moment when a hub asks for a session until nothing of it runs here any more, or it waits here again, it
//!   is listed among the sessions that have left ([`crate::left`]).
//! - A session is handed over whole, or stays as it was. It is not handed to a hub that is known to have given up or to
//!   be gone; a hub that gave up before this one heard of its claim keeps the session for its peer
//!   ([`crate::unanswered`]).
//! - A hub that asks is answered, at once or when the session is given up, unless messages to that hub were lost.
//! - While nobody has the session, its key is among those of what is open, and what the key no longer allows is looked
//!   for once the session has been handed over.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use alkhub_calls::{Caller, Outgoing, SessionMessage, TunnelId};
use alkhub_edge::Key;
use alkhub_edge::metrics::ConnectionKind;
use alkhub_edge::open::{Closeable, Closing, Entered};
use alkhub_protocol::{CallError, Code};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::claims::Asked;
use crate::conversation::Conversation;
use crate::handover::{ClaimId, Handover, ReceivedCounts};
use crate::left::{LeftGuard, LeftSession};
use crate::resumable::{self, Claimed};
use crate::session::PeerSession;
use crate::sockets::Sockets;
use crate::waiting;

/// Time for what a peer has asked for to be answered before its session can go.
const SETTLING: Duration = Duration::from_secs(2);

/// How often what is left of a session checks whether anything still is.
const LOOK: Duration = Duration::from_millis(100);

/// A session on its way from one owner to the next: its key is looked up with those of what is open, and the next owner
/// checks what that has changed.
#[derive(Debug)]
struct InHandover;

// === impl InHandover ===

impl Closeable for InHandover {
    fn recheck(&self, _: &Arc<Caller>) {}

    fn drain(&self) {}

    fn close(&self, _: Closing) {}

    fn kill(&self) {}
}

/// Another hub asks for a session.
pub(crate) fn asked(sockets: &Sockets, asked: Asked) {
    // The peer went from one hub to the next before the first one had its session.
    let Some(asked) = sockets.claims().put_aside(asked) else {
        return;
    };
    let ClaimId { hub, number: claim } = asked.claim.clone();
    let refuse = |error| sockets.say(&hub, SessionMessage::Refused { claim, error });
    if asked.is_given_up() {
        return refuse(resumable::unsure());
    }
    if sockets.left().meets(&asked.claim) {
        return;
    }
    match sockets
        .resumable()
        .claim(&asked.digest, asked.received, &asked.key, Some(&asked.claim))
    {
        Ok(Some(session)) => {
            let budget = sockets.edge().budgets().key(&Arc::from(asked.key.as_str()));
            let tunnel = sockets.calls().moves().new_tunnel();
            let left = sockets.left().enter(asked.claim.clone(), tunnel, &budget);
            let (leaves, scope) = (sockets.clone(), sockets.edge().scope());
            let stop = scope.stop.clone();
            scope.tasks.spawn(async move {
                let leaving = hand_over(&leaves, asked, session, left);
                stop.run_until_cancelled(leaving).await;
            });
        }
        // The session may still arrive here, and while it does, its former hub no longer has it.
        Ok(None) if sockets.claims().has(sockets.calls().moves(), &asked.digest) => refuse(resumable::unsure()),
        Ok(None) => sockets.say(&hub, SessionMessage::Unknown { claim }),
        Err(error) => refuse(error),
    }
}

/// Hands a session over when the task that has it gives it up, and stays to serve what is left of it.
async fn hand_over(sockets: &Sockets, asked: Asked, session: oneshot::Receiver<Claimed>, left: LeftGuard) {
    let claim = asked.claim.number;
    let say = |message| {
        // Otherwise messages were lost, and the claim may have been made anew.
        if !left.is_ended() {
            sockets.say(&asked.claim.hub, message);
        }
    };
    let mut session = match session.await {
        Ok(Ok(session)) => PeerSession::handed(session),
        Ok(Err(error)) => return say(SessionMessage::Refused { claim, error }),
        Err(_) => return say(SessionMessage::Unknown { claim }),
    };
    let between = enter(sockets, session.conversation.key(), Arc::new(InHandover));
    // The previous owner may not have looked.
    session.conversation.look_again();
    if let Err(error) = ready(&mut session, &asked, &left).await {
        say(SessionMessage::Refused { claim, error });
        // Its peer is on its way to the other hub, and will ask there again.
        return Box::pin(waiting::wait_or_end(sockets, session, true, (left, between))).await;
    }
    Box::pin(leave(sockets, session, left, between)).await;
}

/// Enters what is left of a session, or will be, among what is open. It is never refused for being one too many: what
/// is left of a session ends with its key all the same.
fn enter(sockets: &Sockets, key: &Arc<Key>, handle: Arc<dyn Closeable>) -> Entered {
    let edge = sockets.edge();
    let counted = (edge.keys().take_left(key), edge.metrics().open(ConnectionKind::Left));
    edge.open().enter(key.clone(), handle, counted)
}

/// Makes a session ready to go to the hub that asked for it.
///
/// # Errors
/// It cannot go now.
async fn ready(session: &mut PeerSession, asked: &Asked, left: &LeftSession) -> Result<(), CallError> {
    let settled = timeout(SETTLING, poll_fn(|cx| session.conversation.poll_settled(cx))).await;
    if settled.is_err() {
        let message = "the session cannot move while what its peer has asked for is under way: try again";
        return Err(CallError::new(Code::Unavailable, message).retryable());
    }
    if asked.is_given_up() || left.is_ended() {
        return Err(resumable::on_its_way());
    }
    if session.is_ahead_of(asked.received) {
        return Err(resumable::overtaken());
    }
    let resumed = session.resume(asked.received);
    resumed.map_err(|wrong| resumable::refused(session.conversation.outbox(), wrong))?;
    Ok(())
}

/// Gives everything of a session to another hub, and serves what is left of it.
async fn leave(sockets: &Sockets, session: Box<PeerSession>, left: LeftGuard, between: Entered) {
    let (hub, claim, tunnel) = (left.to(), left.claim.number, left.tunnel);
    let key = session.conversation.key().clone();
    let (mut conversation, mut outgoing) = match hand(sockets, &left, session) {
        Ok(parts) => parts,
        Err(conversation) => {
            tracing::warn!(hub.id = %hub, "a session is lost: the hub that it was to go to does not take it");
            sockets.say(hub, SessionMessage::Unknown { claim });
            sockets.say(hub, SessionMessage::Closed { tunnel });
            return conversation.end().await;
        }
    };
    sockets.sessions().left.inc();
    tracing::info!(session.id = %conversation.outbox().session(), hub.id = %hub, "a session has moved to another hub");
    let entered = enter(sockets, &key, left.session());
    drop(between);
    sockets.edge().keys().close_if_faulty(&key);
    // Changes during the handover were told to nobody.
    conversation.look_again();
    serve_rest(&mut conversation, &mut outgoing, &left).await;
    drop(entered);
    sockets.say(hub, SessionMessage::Closed { tunnel });
    drop(outgoing);
    conversation.end().await;
}

/// Hands everything over; returns what is left of the session.
///
/// # Errors
/// The other hub does not take it; returns what is to be ended.
fn hand(
    sockets: &Sockets,
    left: &LeftSession,
    session: Box<PeerSession>,
) -> Result<(Conversation, Outgoing), Box<Conversation>> {
    let (hub, claim, tunnel) = (left.to(), left.claim.number, left.tunnel);
    let moves = sockets.calls().moves();
    let dialect = session.conversation.outbox().spoken();
    let moved = session.moved_ago();
    let (mut conversation, mut outgoing, mut rest) = session.into_parts();
    conversation.end_far_calls();
    let subscriptions = conversation.take_subscriptions();
    for event in subscriptions.events {
        // Events that do not fit are covered by the gap with which each topic begins there.
        let _ = conversation.outbox().push(event);
    }
    let mut legs = Vec::new();
    let kept = std::mem::take(&mut rest.kept);
    let id = TunnelId {
        hub: hub.clone(),
        number: tunnel,
    };
    let handed = moves.leave(&mut outgoing, id, kept, |delivery| {
        let counts = ReceivedCounts {
            by_hub: rest.received,
            by_peer: delivery.received,
        };
        let mut handover = Handover::new(counts, dialect);
        conversation.describe(&mut handover);
        handover.topics = subscriptions.topics;
        handover.met = rest.met;
        handover.moved(moved);
        legs.clone_from(&handover.legs);
        for state in handover.take_parts() {
            moves.say(hub, SessionMessage::Part { tunnel, state })?;
        }
        let state = handover.encode();
        moves.say(hub, SessionMessage::Handed { claim, tunnel, state })?;
        for message in delivery.again {
            moves.say(hub, SessionMessage::Again { tunnel, message })?;
        }
        Ok(())
    });
    if handed.is_err() {
        return Err(Box::new(conversation));
    }
    sockets.say(hub, SessionMessage::Whole { tunnel });
    // The peer is no longer awaited here, nor connected.
    conversation.set_reconnecting(false);
    conversation.moved();
    // Calls may have ended while they were being listed.
    let running: HashSet<String> = conversation.legs().into_iter().collect();
    let ended = legs.iter().filter(|leg| !running.contains(leg.as_str()));
    ended.for_each(|leg| conversation.outbox().leg_ended(leg));
    Ok((conversation, outgoing))
}

/// Takes the peer's messages about calls that run here, until nothing is left of the session.
async fn serve_rest(conversation: &mut Conversation, outgoing: &mut Outgoing, left: &LeftSession) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut poll = |cx: &mut Context<'_>| {
        loop {
            let signs = left.poll(cx);
            if signs.end || outgoing.poll_ended(cx).is_ready() {
                return Poll::Ready(());
            }
            if signs.look {
                conversation.look_again();
            }
            if signs.over && conversation.poll_settled(cx).is_ready() {
                return Poll::Ready(());
            }
            let Some(message) = signs.message else { break };
            // It counts in the session on the hub that has that now.
            conversation.received_elsewhere(&message);
        }
        conversation.poll_pending(cx);
        while looks.poll_tick(cx).is_ready() {
            if conversation.is_left() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    };
    poll_fn(|cx| poll(cx)).await;
}
