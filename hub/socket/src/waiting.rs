//! A session whose connection is lost, while it waits for its peer.
//!
//! Invariants
//! - Requests of the session go on meanwhile, and those that are no longer allowed end; nobody reads what is queued for
//!   the peer.
//! - It ends with its time (`server.resume`), with its key, when its instance registers over another connection, and
//!   when more waits for it than is allowed. While the hub drains, the peer may come back to another hub, and the
//!   session waits for that until the hub closes what is open. If no other hub would take the peer, it ends then,
//!   unless the peer was asked to move.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use alkhub_calls::Caller;
use alkhub_edge::metrics::ConnectionKind;
use alkhub_edge::open::{Closeable, Closing};
use tokio::time::{Instant, Sleep, sleep};

use crate::resumable::Taker;
use crate::session::PeerSession;
use crate::signs::Signs;
use crate::sockets::Sockets;

const LOOK: u8 = 1;
const END: u8 = 2;
const DRAIN: u8 = 4;

/// How the waiting ended.
enum Ending {
    /// The peer is back.
    Claimed(Taker),
    /// The peer cannot come back any more.
    Over,
}

/// A session that waits, as others see it.
#[derive(Debug, Default)]
struct WaitingEntry {
    signs: Signs,
    /// Whether its peer was asked to move to another hub.
    moves: bool,
}

/// Lets a session that no connection serves wait for its peer (on a draining hub only if it `moves`), or ends it. Its
/// previous `place` is given back once it has its own.
pub(crate) async fn wait_or_end(sockets: &Sockets, session: Box<PeerSession>, moves: bool, place: impl Send) {
    let over = if session.may_wait() {
        wait(sockets, session, moves, place).await
    } else {
        Some(session)
    };
    if let Some(over) = over {
        over.end().await;
    }
}

/// Lets a session wait whose peer is on its way, to this hub or to another one; or ends it.
pub(crate) fn let_wait(session: Box<PeerSession>) {
    let sockets = session.conversation.sockets().clone();
    let scope = sockets.edge().scope();
    let (tasks, stop) = (scope.tasks.clone(), scope.stop.clone());
    tasks.spawn(async move {
        let waiting = Box::pin(wait_or_end(&sockets, session, true, ()));
        stop.run_until_cancelled(waiting).await;
    });
}

/// Waits until the peer (which was asked to move if it `moves`) has come back, and hands the session over; returns
/// `None` then. Otherwise the session is over, and is returned for the caller to end. Its previous `place` is given
/// back once it has its own, so that it is counted at every moment. Dropping the future also ends the session.
pub(crate) async fn wait(
    sockets: &Sockets,
    mut session: Box<PeerSession>,
    moves: bool,
    place: impl Send,
) -> Option<Box<PeerSession>> {
    let edge = sockets.edge();
    let key = session.conversation.key().clone();
    let Some(slot) = edge.keys().take_waiting(&key) else {
        return Some(session);
    };
    let entry = Arc::new(WaitingEntry {
        moves,
        ..WaitingEntry::default()
    });
    let counted = (slot, edge.metrics().open(ConnectionKind::Reconnecting));
    let _entered = edge.open().enter(key.clone(), entry.clone(), counted);
    session.is_here();
    drop(place);
    // The key may have ended since the connection did.
    edge.keys().close_if_faulty(&key);
    // The previous owner may not have looked at what it was told.
    session.conversation.look_again();
    session.outgoing.detach();
    session.conversation.set_reconnecting(true);
    sockets.sessions().detached.inc();
    let begun = Instant::now();
    let mut time = pin!(sleep(edge.server().resume));
    loop {
        match poll_fn(|cx| poll(&mut session, &entry, time.as_mut(), cx)).await {
            Ending::Over => {
                sockets.sessions().expired.inc();
                sockets.sessions().returned(begun.elapsed());
                return Some(session);
            }
            Ending::Claimed(taker) => match session.hand_to(taker, let_wait) {
                Ok(()) => {
                    sockets.sessions().returned(begun.elapsed());
                    return None;
                }
                // Whoever asked for it is gone again.
                Err(returned) => session = returned,
            },
        }
    }
}

fn poll(
    session: &mut PeerSession,
    entry: &WaitingEntry,
    time: std::pin::Pin<&mut Sleep>,
    cx: &mut Context<'_>,
) -> Poll<Ending> {
    entry.signs.wake_by(cx.waker());
    if entry.signs.has(END) || session.outgoing.poll_ended(cx).is_ready() || time.poll(cx).is_ready() {
        return Poll::Ready(Ending::Over);
    }
    if entry.signs.take(LOOK) {
        session.conversation.look_again();
    }
    if entry.signs.take(DRAIN) && !session.conversation.sockets().calls().moves().has_refuge() {
        return Poll::Ready(Ending::Over);
    }
    session.conversation.poll_pending(cx);
    match session.asked(cx) {
        Some(taker) => Poll::Ready(Ending::Claimed(taker)),
        None => Poll::Pending,
    }
}

// === impl WaitingEntry ===

impl Closeable for WaitingEntry {
    fn recheck(&self, _: &Arc<Caller>) {
        self.signs.raise(LOOK);
    }

    fn drain(&self) {
        if !self.moves {
            self.signs.raise(DRAIN);
        }
    }

    fn is_moving(&self) -> bool {
        self.moves
    }

    fn close(&self, _: Closing) {
        self.signs.raise(END);
    }

    fn kill(&self) {
        self.signs.raise(END);
    }
}
