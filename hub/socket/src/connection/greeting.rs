//! `__hello` and its consequences: the features that the peer is granted, and the session that it comes back to.
//!
//! Invariants
//! - A peer that sends no `__hello` is served as if there were none.
//! - Messages written here do not count in any session. They are bounded: a connection has [`MOST_REFUSED`] refusals of
//!   a `__hello`, and one pong that waits.

use std::pin::Pin;
use std::task::{Context, Poll};

use alkhub_edge::open::MOVING;
use alkhub_protocol::frame::encode;
use alkhub_protocol::frame::session::{HASHES, HUBS, Hello, MIGRATE, Migrate, PING, RESUME, Resume, Welcome};
use alkhub_protocol::{CallError, Code};
use alkhub_wire::MessageKind;
use tokio::io::{AsyncRead, AsyncWrite};

use super::uncounted::{Claiming, Greeting, Uncounted};
use super::{Connection, JSON, Phase};
use crate::conversation::ForConnection;
use crate::mobility::Mobility;
use crate::resumable;
use crate::session::PeerSession;
use crate::waiting;

/// A peer whose `__hello` was refused may try again; after this many refusals it is served as a plain peer.
const MOST_REFUSED: u8 = 4;

// === impl Connection ===

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Acts on the part of a message of `bytes` bytes that the conversation leaves to the connection.
    pub(super) fn act_on(&mut self, left: ForConnection, bytes: usize) {
        match left {
            ForConnection::Counted => self.session.received(bytes),
            ForConnection::Uncounted => {}
            ForConnection::Hello(hello) => return self.greet(&hello),
            ForConnection::Ping(payload) if self.uncounted.pings => {
                self.uncounted.pong = Some(encode::pong(payload.as_ref()));
            }
            ForConnection::Ping(_) => {
                self.unsupported("`__ping` is answered to a peer whose `__hello` names the feature `ping`")
            }
            ForConnection::Acknowledged(count) if self.session.id().is_some() => match self.outbox.acknowledge(count) {
                Ok(()) => self.session.acknowledged(count),
                Err(wrong) => {
                    let message = format!("`count` of an `__ack` is wrong: {wrong}");
                    let error = CallError::new(Code::BadRequest, message);
                    self.session.conversation.refuse(&error, None);
                }
            },
            ForConnection::Acknowledged(_) => {
                self.unsupported("`__ack` is for a session that its `__welcome` granted the feature `resume`");
            }
        }
        if let Greeting::Awaited(_) = self.greeting {
            self.greeting = Greeting::Plain;
        }
    }

    fn unsupported(&self, message: &str) {
        let error = CallError::new(Code::Unsupported, message);
        self.session.conversation.refuse(&error, None);
    }

    /// Acts on `__hello`.
    fn greet(&mut self, hello: &Hello) {
        let Greeting::Awaited(refused) = self.greeting else {
            let message = "`__hello` must be the first message of a connection, and there is one";
            let error = CallError::new(Code::BadRequest, message);
            return self.session.conversation.refuse(&error, None);
        };
        match self.granted(hello, refused) {
            Ok(greeting) => {
                self.uncounted.pings = hello.has(PING);
                self.uncounted.migrates = hello.has(MIGRATE);
                self.uncounted.hubs = hello.has(HUBS);
                self.uncounted.hashes = hello.has(HASHES);
                if let Greeting::Greeted = greeting {
                    self.outbox.names_by_hash(self.uncounted.hashes);
                    self.welcome();
                }
                self.greeting = greeting;
            }
            Err(error) => self.refuse_hello(&error, refused),
        }
    }

    /// Refuses a `__hello`, after `before` others.
    fn refuse_hello(&mut self, error: &CallError, before: u8) {
        self.uncounted.messages.push(encode::refused(error, None));
        self.greeting = match before + 1 {
            MOST_REFUSED.. => Greeting::Plain,
            refused => Greeting::Awaited(refused),
        };
    }

    /// The result of a `__hello`, after `refused` others were refused.
    fn granted(&mut self, hello: &Hello, refused: u8) -> Result<Greeting, CallError> {
        if !hello.protocols.is_empty() && hello.protocols.iter().all(|protocol| protocol != JSON) {
            let message = format!("the hub speaks `{JSON}`, which `protocols` does not name");
            return Err(CallError::new(Code::Unsupported, message));
        }
        let sockets = self.session.conversation.sockets().clone();
        let key = self.session.conversation.key().clone();
        if let Some(request) = &hello.resume {
            let claimed = sockets.claim(request, &key);
            let session = claimed.inspect_err(|_| sockets.sessions().refused.inc())?;
            return Ok(Greeting::Claiming(Box::new(Claiming {
                session,
                received: request.received,
                refused,
            })));
        }
        let lasts = !sockets.edge().server().resume.is_zero() && !self.registered.socket.draining();
        if hello.has(RESUME) && lasts {
            self.session.count(sockets.resumable().enter(&key.id, &self.outbox));
        }
        Ok(Greeting::Greeted)
    }

    /// Queues the `__welcome` of the session.
    fn welcome(&mut self) {
        let sockets = self.session.conversation.sockets();
        let server = sockets.edge().server();
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let id = self.session.id();
        let migrates = id.is_some() && self.uncounted.migrates;
        let features = [
            (RESUME, id.is_some()),
            (PING, self.uncounted.pings),
            (MIGRATE, migrates),
            (HUBS, self.uncounted.hubs),
            (HASHES, self.uncounted.hashes),
        ];
        let features = features.into_iter().filter(|(_, granted)| *granted);
        let welcome = Welcome {
            // A session that ends with its connection has nothing to be named by an id.
            session_id: id.unwrap_or_default().to_owned(),
            hub_id: sockets.edge().hub_id().to_string(),
            heartbeat_ms: ms(server.ping_interval),
            resume_ms: id.map_or(0, |_| ms(server.resume)),
            max_inflight: u64::try_from(sockets.calls().max_in_flight_per_key()).unwrap_or(u64::MAX),
            features: features.map(|(feature, _)| feature.to_owned()).collect(),
        };
        self.uncounted.messages.push(encode::welcome(&welcome));
        self.tell_hubs();
    }

    /// Tells the peer how many hubs take connections, if it wants to know and has been greeted.
    pub(super) fn tell_hubs(&mut self) {
        // A peer that comes back to a session is greeted once that has arrived.
        if self.uncounted.hubs && !self.is_claiming() {
            let hubs = self.session.conversation.sockets().balancer().hubs();
            self.uncounted.messages.push(encode::hubs(hubs));
        }
    }

    /// How the peer could get to another hub.
    pub(super) fn mobility(&self) -> Mobility {
        match self.greeting {
            _ if self.session.id().is_some() && self.uncounted.migrates => Mobility::Moves,
            _ if self.session.id().is_some() => Mobility::Session,
            Greeting::Awaited(_) => Mobility::Silent,
            Greeting::Claiming(_) => Mobility::Coming,
            Greeting::Greeted | Greeting::Plain => Mobility::Plain,
        }
    }

    /// Whether the session that the peer asked for is on its way.
    pub(super) fn is_claiming(&self) -> bool {
        matches!(self.greeting, Greeting::Claiming(_))
    }

    /// Goes on with the session that the peer asked for, once it is here.
    pub(super) fn poll_claim(&mut self, cx: &mut Context<'_>) {
        let Greeting::Claiming(claiming) = &mut self.greeting else {
            return;
        };
        if self.phase != Phase::Open {
            self.greeting = Greeting::Plain;
            return;
        }
        let Poll::Ready(session) = Pin::new(&mut claiming.session).poll(cx) else {
            return;
        };
        let (received, refused) = (claiming.received, claiming.refused);
        let taken = session.unwrap_or_else(|_| Err(resumable::ended()));
        let taken = taken.and_then(|session| self.take_over(PeerSession::handed(session), received));
        let sessions = self.session.conversation.sockets().sessions().clone();
        match taken {
            Ok(received) => {
                sessions.resumed.inc();
                self.greeting = Greeting::Greeted;
                self.welcome();
                let generation = self.session.conversation.generation();
                self.uncounted
                    .messages
                    .push(encode::resumed(&Resume { received, generation }));
            }
            Err(error) => {
                sessions.refused.inc();
                self.refuse_hello(&error, refused);
            }
        }
    }

    /// Serves this session from now on; returns how many messages of the peer it has received.
    fn take_over(&mut self, mut session: Box<PeerSession>, received: u64) -> Result<u64, CallError> {
        let outbox = session.conversation.outbox().clone();
        let resumed = session.resume(received);
        let resumed = resumed.map_err(|wrong| resumable::refused(&outbox, wrong));
        let received = match resumed {
            Ok(received) if self.registered.socket.serves(outbox.clone()) => received,
            // This connection is ending.
            Ok(_) => {
                waiting::let_wait(session);
                return Err(resumable::on_its_way());
            }
            Err(error) => {
                waiting::let_wait(session);
                return Err(error);
            }
        };
        let key = self.session.conversation.key().clone();
        session.is_asked = false;
        self.registered.socket.has_moved(session.moved);
        outbox.names_by_hash(self.uncounted.hashes);
        self.outbox = outbox;
        self.session = session;
        self.session.conversation.set_reconnecting(false);
        self.session.conversation.opened_by(key);
        // A draining hub waits for it all along: it is asked to move before it stops counting as one that is coming.
        self.registered.socket.set_mobility(self.mobility());
        self.asks_itself();
        self.session.is_here();
        tracing::debug!(session.id = %self.outbox.session(), "a peer has come back to its session");
        Ok(received)
    }

    /// Asks the peer to move its session to another hub, if that was requested.
    pub(super) fn ask_to_move(&mut self) {
        let Some(target) = self.registered.socket.take_move() else {
            return;
        };
        let sockets = self.session.conversation.sockets();
        let deadline = sockets.edge().server().drain_timeout.min(MOVING);
        sockets.sessions().asked.inc();
        tracing::debug!(session.id = %self.outbox.session(), "a peer is asked to move to another hub");
        self.uncounted.messages.push(encode::migrate(&Migrate {
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            resume: true,
            target,
        }));
    }

    /// Queues messages that count in no session.
    pub(super) fn say_uncounted(&mut self, kind: MessageKind, beat: bool) {
        if beat && self.uncounted.pings {
            self.uncounted.messages.push(encode::ping());
        }
        let ack = self.session.take_ack(beat).map(encode::ack);
        let Uncounted { messages, pong, .. } = &mut self.uncounted;
        for message in messages.drain(..).chain(pong.take()).chain(ack) {
            self.batch.message(kind, message);
        }
    }
}
