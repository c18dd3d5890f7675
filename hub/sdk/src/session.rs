//! One session at the hub, over one connection after another.
//!
//! Invariants
//! - If the hub keeps the session, it is resumed for as long as the hub keeps it: what was sent and did not arrive is
//!   sent again, and nothing is delivered twice.
//! - When a session is lost, its queue ends. Nothing of it is sent to the next session except answers to calls: the
//!   next hub may find their callers. While calls run whose answers are still awaited, and can go another way, its end
//!   waits for them, but not for streams: nobody takes the rest of one.
//! - When the hub asks for the session to move, the next connection is open before the old one is given up.
//! - Whoever closes the session says so to the hub that has it, over whichever connection leads there at that moment:
//!   otherwise that hub would wait for a peer that does not come back.
//! - If the connection breaks during that, and the hub may lack answers to calls, the session comes back once more, to
//!   send them.

use std::pin::pin;
use std::time::Duration;

use alkhub_protocol::frame::Frame;
use alkhub_protocol::frame::session::Migrate;
use alkhub_protocol::{Chain, CloseCode};
use alkhub_retry::Backoff;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;

use crate::Error;
use crate::endpoint::{BACKOFF, HubEndpoint, Socket, pause};
use crate::outbox::{self, Outbox};
use crate::socket::{self, Ending};

/// Time for the hub to answer a peer that comes back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Pauses between requests for the session where a hub was reached that does not give it yet. After a hub was killed the
/// others answer so until they know that it is dead, in ten seconds; the calls of a client wait for that, and must not
/// wait for much longer because of a long pause.
const REACHED: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(4));

/// For how long after the loss of a connection the hubs of the callers await answers by another way, if its hub is dead:
/// until the lease of that hub is over. The other hubs may say much sooner that it has no session.
const AWAITED: Duration = Duration::from_secs(10);

/// How long another connection, once open, may take to take over a session that is to end; the end is said there,
/// because the session has moved there. Also how long it may take to come back to a session that is to end, for
/// answers that its hub may lack.
const FAREWELL: Duration = Duration::from_secs(2);

/// What happens to the link while the session goes on.
#[derive(Debug)]
pub(crate) enum LinkNews {
    /// Its connection is lost, for this reason.
    Lost(Error),
    /// There is another connection.
    Back(Whereabouts),
}

/// Where a session goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    /// The hub, by its `hubId`; empty if it did not say.
    pub(crate) hub: String,
    /// The generation of the session's registration there, if the hub says that.
    pub(crate) generation: Option<u64>,
}

/// Runs a session to its end, over `socket` first. `read` gets each message and must not wait; `seen` gets what happens
/// to the connection. `finishing` is waited for, while answers are awaited, when no hub has the session any more.
/// Dropping the future cuts the connection and ends the session's queue.
pub(crate) async fn run(
    endpoint: &HubEndpoint,
    mut socket: Socket,
    outbox: &Outbox,
    mut read: impl FnMut(Bytes),
    mut seen: impl FnMut(LinkNews),
    finishing: impl Future<Output = ()>,
) -> Ending {
    let _end = EndOnDrop(outbox);
    let hello = outbox.kept(|kept| kept.hello());
    if let Err(error) = socket.send(outbox::text(hello)).await {
        return Ending::Broken(error.to_string());
    }
    let mut is_last = false;
    loop {
        let ending = match serve(endpoint, socket, outbox, &mut read).await {
            Served::Moved(next) => {
                socket = next.socket;
                seen(LinkNews::Back(next.at));
                continue;
            }
            Served::Ended(ending) => ending,
        };
        if is_last {
            return ending;
        }
        is_last = !outbox.is_open();
        let (reason, time) = match lost(outbox, ending, is_last) {
            Ok(lost) => lost,
            Err(ending) => return ending,
        };
        tracing::info!(reason, "the connection to the hub is lost: coming back to the session");
        seen(LinkNews::Lost(
            endpoint.unreachable(std::io::Error::other(reason.clone())),
        ));
        let awaited = Instant::now() + AWAITED;
        let ending = match timeout(time, come_back(endpoint, outbox, is_last)).await {
            Ok(Ok(back)) => {
                tracing::info!("the session with the hub goes on");
                socket = back.socket;
                seen(LinkNews::Back(back.at));
                continue;
            }
            Ok(Err(ending)) => ending,
            Err(_) => Ending::Broken(reason),
        };
        if matches!(ending, Ending::Broken(_)) {
            // What has not finished by then is of no use to anybody.
            drop(timeout_at(awaited, finishing).await);
        }
        return ending;
    }
}

/// Why a connection is lost, and how long it may take to come back to the session.
///
/// # Errors
/// Nobody comes back to the session.
fn lost(outbox: &Outbox, ending: Ending, is_ending: bool) -> Result<(String, Duration), Ending> {
    let reason = match ending {
        Ending::Broken(reason) => reason,
        // Closed on account of an earlier connection of ours, of which the hub heard late: the session is still there
        // for us.
        Ending::ByHub(code, reason) if CloseCode::of(code) == Some(CloseCode::Moved) => reason,
        Ending::Closed if outbox.owes_answers() => "the hub has not answered the close".to_owned(),
        ending => return Err(ending),
    };
    let time = match outbox.kept(|kept| kept.time()) {
        Some(time) if is_ending => outbox.owes_answers().then_some(time.min(FAREWELL)),
        time => time,
    };
    time.map(|time| (reason.clone(), time)).ok_or(Ending::Broken(reason))
}

/// How a connection stopped being served.
enum Served {
    /// The session goes on over this other one.
    Moved(Box<Resumed>),
    Ended(Ending),
}

/// A connection over which the session goes on.
struct Resumed {
    socket: Socket,
    /// Where it leads.
    at: Whereabouts,
}

/// Runs one connection until it ends, or until the session moves to another one because its hub asks for that. The old
/// connection is served until the other one is open; from then on it is not read any more, and what arrived meanwhile
/// is sent again over the new one.
async fn serve(endpoint: &HubEndpoint, socket: Socket, outbox: &Outbox, read: impl FnMut(Bytes)) -> Served {
    let mut running = pin!(socket::run(socket, outbox, read));
    let (next, told) = loop {
        let asked = async {
            let migrate = outbox.migrate().await;
            tracing::info!(
                deadline_ms = migrate.deadline_ms,
                "the hub asks to go on on another one: connecting there"
            );
            elsewhere(endpoint, &migrate).await
        };
        tokio::select! {
            ending = &mut running => return Served::Ended(ending),
            moved = asked => if let Some(next) = moved { break next },
        }
    };
    // The old connection stays open meanwhile: its hub keeps the session for us.
    match unless_closed(outbox, resume(next, outbox)).await {
        Some(Ok(Ok(next))) => {
            tracing::info!(hub = told, "the session goes on over a new connection");
            Served::Moved(Box::new(next))
        }
        // The session has not moved, as far as anybody knows.
        None | Some(_) if !outbox.is_open() => Served::Ended(running.await),
        None => Served::Ended(Ending::Closed),
        Some(Ok(Err(lost)) | Err(lost)) => Served::Ended(Ending::Broken(lost)),
    }
}

/// Waits for the result of an open connection, but only briefly if the session is to end meanwhile; then `None`.
async fn unless_closed<T>(outbox: &Outbox, resuming: impl Future<Output = T>) -> Option<T> {
    let mut resuming = pin!(resuming);
    tokio::select! {
        resumed = &mut resuming => Some(resumed),
        () = outbox.closed() => timeout(FAREWELL, resuming).await.ok(),
    }
}

/// Connects to another hub, until the hub that has the session gives up waiting; also returns where that is.
async fn elsewhere(endpoint: &HubEndpoint, migrate: &Migrate) -> Option<(Socket, String)> {
    let until = Instant::now() + Duration::from_millis(migrate.deadline_ms);
    let target = migrate.target.as_deref().map(|url| endpoint.at(url));
    let mut target = target.and_then(|target| {
        let unusable = |error: &Error| tracing::debug!(%error, "the hub names a place that is not for this peer");
        target.inspect_err(unusable).ok()
    });
    let mut backoff = BACKOFF;
    while Instant::now() < until {
        // If that address cannot be reached, the usual one is as good.
        let at = target.take();
        let at = at.unwrap_or_else(|| endpoint.after(backoff.failures()));
        match at.dial().await {
            Ok(socket) => return Some((socket, at.place())),
            Err(error) => tracing::info!(error = %Chain::of(&error), "another hub cannot be reached yet"),
        }
        tokio::time::sleep(backoff.pause()).await;
    }
    None
}

/// Dials after so many failures.
async fn dial(endpoint: &HubEndpoint, failures: u32) -> Result<Socket, Error> {
    endpoint.after(failures).dial().await
}

/// Connects until a hub resumes the session or refuses to, or until the session is to end and no connection is open.
/// If `is_last`, it is to end already, and there is something left to say first.
async fn come_back(endpoint: &HubEndpoint, outbox: &Outbox, is_last: bool) -> Result<Resumed, Ending> {
    let given_up = || async {
        match is_last {
            true => std::future::pending().await,
            false => outbox.closed().await,
        }
    };
    let (mut backoff, mut reached) = (BACKOFF, REACHED);
    loop {
        let failures = backoff.failures() + reached.failures();
        let dialed = tokio::select! {
            () = given_up() => return Err(Ending::Closed),
            dialed = dial(endpoint, failures) => dialed,
        };
        let (error, pause) = match dialed {
            Ok(socket) => match unless_closed(outbox, resume(socket, outbox)).await {
                Some(Ok(resumed)) => return resumed.map_err(Ending::Broken),
                Some(Err(error)) => (error, reached.pause()),
                None => return Err(Ending::Closed),
            },
            Err(error) if error.is_permanent() => return Err(Ending::Failed(error)),
            Err(error) => (error.to_string(), pause(&error, &mut backoff)),
        };
        tracing::debug!(error, "the hub cannot be reached");
        tokio::select! {
            () = given_up() => return Err(Ending::Closed),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Asks for the session over a new connection: returns the connection that resumes it, or why the hub does not.
///
/// # Errors
/// The connection broke before the hub answered.
async fn resume(mut socket: Socket, outbox: &Outbox) -> Result<Result<Resumed, String>, String> {
    let mut hub = String::new();
    let hello = outbox.kept(|kept| kept.hello());
    socket.send(outbox::text(hello)).await.map_err(|e| e.to_string())?;
    let until = Instant::now() + ANSWER_TIMEOUT;
    loop {
        let message = timeout_at(until, socket.next()).await;
        let message = message.map_err(|_| "the hub does not answer".to_owned())?;
        if matches!(message, Some(Ok(_))) {
            outbox.heard();
        }
        let message = match message {
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(_))) | None => return Err("the hub closed the connection".to_owned()),
            Some(Err(error)) => return Err(error.to_string()),
        };
        match Frame::decode(&message) {
            Ok((Frame::Resumed(resume), _)) => {
                let rewound = outbox.rewind(resume.received);
                let generation = resume.generation;
                let at = Whereabouts { hub, generation };
                return Ok(rewound.map(|()| Resumed { socket, at }));
            }
            Ok((Frame::Welcome(welcome), _)) => {
                outbox.kept(|kept| kept.reached(&welcome));
                hub = welcome.hub_id;
            }
            Ok((Frame::Refused(error), _)) if error.retryable => return Err(error.to_string()),
            Ok((Frame::Refused(error), _)) => return Ok(Err(format!("the session is lost: {error}"))),
            Ok((Frame::Hubs(hubs), _)) => outbox.hubs_are(hubs),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Lets senders learn of the end, however the session's future ends.
struct EndOnDrop<'a>(&'a Outbox);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
