//! Tunnels: what passes, what is charged, and who is told of the end.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use alkhub_budget::Budgets;
use alkhub_calls::{Limits, Outgoing, OutgoingItem};
use alkhub_config::BudgetConfig;
use alkhub_protocol::{Code, Frame};
use bytes::Bytes;
use prometheus::Registry;

use super::running::CALL_BYTES;
use super::*;

/// The messages to the other hub.
type Sent = Arc<Mutex<Vec<SessionMessage>>>;

/// A tunnel with a call in each direction, whose way back is full or not.
fn tunnel(full: bool) -> (Tunnels, TunnelGuard, Sent, Outgoing) {
    let budgets = Budgets::new(&BudgetConfig::default(), &Registry::new()).expect("a fresh registry");
    let limits = Limits {
        items: 100,
        bytes: 100_000,
    };
    let (outbox, outgoing) = alkhub_calls::outbox("s", limits, &budgets.key(&Arc::from("k")));
    let sent = Sent::default();
    let way = Arc::clone(&sent);
    let back = Way(Box::new(move |message| {
        let small = matches!(message, SessionMessage::Left { .. });
        if full && !small {
            return Err(Full::Queue);
        }
        way.lock().push(message);
        Ok(())
    }));
    let tunnels = Tunnels::default();
    let parts = TunnelParts {
        id: TunnelId {
            hub: "old".parse().expect("an id"),
            number: 7,
        },
        back,
        outbox,
        legs: &["leg".to_owned()],
        calls: &["call".to_owned()],
        hubs: 1,
    };
    let guard = TunnelGuard::open(&tunnels, parts);
    (tunnels, guard, sent, outgoing)
}

fn left(sent: &Sent) -> usize {
    let sent = sent.lock();
    sent.iter()
        .filter(|message| matches!(message, SessionMessage::Left { tunnel: 7 }))
        .count()
}

/// The messages to the peer.
fn said(outgoing: &mut Outgoing) -> String {
    let text = |item| match item {
        OutgoingItem::Message(message) | OutgoingItem::Last(message) => String::from_utf8(message.into()),
        OutgoingItem::Close { reason, .. } => Ok(reason),
    };
    std::iter::from_fn(|| outgoing.try_next())
        .map(|item| text(item).expect("text"))
        .collect()
}

#[test]
fn a_tunnel_that_breaks_here_ends_its_calls_on_both_hubs_and_tells_the_other_one_once() {
    let (tunnels, guard, sent, mut outgoing) = tunnel(true);
    assert_eq!(tunnels.running(), 2);

    guard.hand_on(&Bytes::from_static(b"an answer"), 9);

    assert_eq!(left(&sent), 1, "{sent:?}");
    assert!(guard.is_closed());
    assert_eq!(tunnels.running(), 0);
    let said = said(&mut outgoing);
    assert!(said.contains("\"leg\"") && said.contains("\"call\""), "{said}");
    drop(guard);
    assert_eq!(left(&sent), 1, "it knows");
}

/// Checks, when the session has a message, whether a tunnel's lock is free.
struct Looks {
    tunnel: Arc<Tunnel>,
    /// The results.
    free: Mutex<Vec<bool>>,
}

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        let is_free = self.tunnel.running.try_lock().is_some();
        self.free.lock().push(is_free);
    }
}

/// A session that leaves asks its tunnels while its queue is locked, so nobody may put something into the queue
/// while holding a tunnel.
#[test]
fn a_tunnel_is_not_held_while_something_is_said_to_the_peer() {
    for end in [Tunnel::closed, Tunnel::breaks] {
        let (tunnels, _guard, _sent, mut outgoing) = tunnel(false);
        let tunnel = tunnels.get(&"old".parse().expect("an id"), 7).expect("open");
        let looks = Arc::new(Looks {
            tunnel: tunnel.clone(),
            free: Mutex::default(),
        });
        let waker = Waker::from(looks.clone());
        assert!(outgoing.poll_next(&mut Context::from_waker(&waker)).is_pending());

        end(&tunnel);

        assert_eq!(*looks.free.lock(), [true]);
    }
}

#[test]
fn what_comes_through_a_closed_tunnel_is_dropped() {
    let (tunnels, _guard, _sent, mut outgoing) = tunnel(false);
    let tunnel = tunnels.get(&"old".parse().expect("an id"), 7).expect("open");
    tunnel.closed();
    let before = said(&mut outgoing);

    tunnel.deliver(PassedMessage {
        kind: PassedKind::Call,
        id: Some("late".to_owned()),
        message: Bytes::from_static(b"a call"),
    });

    assert!(before.contains("\"leg\""), "{before}");
    assert_eq!(said(&mut outgoing), "", "its end has been told");
}

#[test]
fn a_key_pays_for_a_tunnel_until_it_is_closed() {
    let budgets = Budgets::new(&BudgetConfig::default(), &Registry::new()).expect("a fresh registry");
    let budget = budgets.key(&Arc::from("k"));
    let (tunnels, guard, _sent, _outgoing) = tunnel(false);
    let tunnel = tunnels.get(&"old".parse().expect("an id"), 7).expect("open");

    guard.charge(&budget).expect("room");
    let before = budget.used();
    tunnel.closed();
    let after = budget.used();
    guard.charge(&budget).expect("room");

    assert_eq!(
        before,
        "leg".len() + "call".len() + 2 * CALL_BYTES,
        "the two ids and what is known of them"
    );
    assert_eq!(after, 0, "the session goes on, with nothing in the tunnel");
    assert_eq!(budget.used(), 0, "it was closed before it was charged");
}

fn passed(kind: PassedKind, id: &str) -> PassedMessage {
    PassedMessage {
        kind,
        id: Some(id.to_owned()),
        message: Bytes::from_static(b"a message"),
    }
}

#[test]
fn a_key_pays_for_each_call_in_a_tunnel_until_that_call_ends() {
    let budgets = Budgets::new(&BudgetConfig::default(), &Registry::new()).expect("a fresh registry");
    let budget = budgets.key(&Arc::from("k"));
    let (tunnels, guard, _sent, _outgoing) = tunnel(false);
    let tunnel = tunnels.get(&"old".parse().expect("an id"), 7).expect("open");
    guard.charge(&budget).expect("room");
    let [first, later] = ["leg", "later"].map(|id| id.len() + CALL_BYTES);
    let used = |act: &dyn Fn()| {
        act();
        budget.used()
    };

    let both = used(&|| tunnel.deliver(passed(PassedKind::Call, "later")));
    let known = used(&|| tunnel.deliver(passed(PassedKind::Call, "later")));
    let without_own = used(&|| tunnel.deliver(passed(PassedKind::End, "call")));
    let without_first = used(&|| tunnel.done("leg"));
    let again = used(&|| tunnel.done("leg"));
    let closed = used(&|| tunnel.closed());

    assert_eq!([both, known], [first + later + "call".len() + CALL_BYTES; 2]);
    assert_eq!(without_own, first + later, "the peer's own call has ended");
    assert_eq!([without_first, again], [later; 2]);
    assert_eq!(closed, 0);
}

#[test]
fn a_call_for_which_its_key_has_no_room_is_answered_in_place_of_the_spoke() {
    let config = BudgetConfig {
        key_bytes: "leg".len() + "call".len() + 2 * CALL_BYTES,
        ..BudgetConfig::default()
    };
    let budgets = Budgets::new(&config, &Registry::new()).expect("a fresh registry");
    let (tunnels, guard, sent, mut outgoing) = tunnel(false);
    let tunnel = tunnels.get(&"old".parse().expect("an id"), 7).expect("open");
    guard.charge(&budgets.key(&Arc::from("k"))).expect("just so");

    tunnel.deliver(passed(PassedKind::Call, "later"));

    let sent = sent.lock();
    let Some(SessionMessage::FromPeer { size, message, .. }) = sent.first() else {
        panic!("{sent:?}");
    };
    let (frame, _) = Frame::decode(message).expect("as a spoke would send it");
    let Frame::Failed { request_id, error } = frame else {
        panic!("{frame:?}");
    };
    assert_eq!((request_id.as_str(), *size), ("later", message.len()));
    assert_eq!(error.code, Code::Overloaded);
    assert_eq!(said(&mut outgoing), "", "the spoke has not seen it");
    assert_eq!((guard.legs(), guard.is_closed()), (vec!["leg".to_owned()], false));
}

#[test]
fn the_other_hub_is_told_of_every_end_but_its_own() {
    let (tunnels, _guard, sent, _outgoing) = tunnel(false);
    tunnels.to(&"old".parse().expect("an id"))[0].breaks();
    assert_eq!(left(&sent), 1, "nothing passes between the two any more");

    let (_, guard, sent, _outgoing) = tunnel(false);
    drop(guard);
    assert_eq!(left(&sent), 1, "the session has ended");

    let (tunnels, guard, sent, mut outgoing) = tunnel(false);
    tunnels.get(&"old".parse().expect("an id"), 7).expect("open").closed();
    drop(guard);
    assert_eq!(left(&sent), 0, "it has said so itself");
    assert!(said(&mut outgoing).contains("\"leg\""));
}
