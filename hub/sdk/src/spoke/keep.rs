//! Keeps a spoke connected and registered.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alkhub_protocol::Chain;
use alkhub_protocol::register::Registered;
use alkhub_retry::Backoff;
use bytes::Bytes;
use futures::FutureExt as _;

use super::attachment::Attachment;
use super::offers::Answered;
use super::registering::{Registering, Way};
use super::session::Session;
use super::{FIRST, SECOND, Shared, Status, beside, lent, share};
use crate::Error;
use crate::endpoint::{self, BACKOFF, Socket};
use crate::kept::KeptSession;
use crate::last_cause::LastCause;
use crate::outbox::Outbox;
use crate::session::{self, LinkNews};
use crate::socket::Ending;

/// Pauses between one second session and the next.
const AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));

/// How a session ended: why, and whether it was registered.
struct Ended {
    error: Error,
    registered: bool,
}

/// Shows the end of a spoke, however the task that keeps it connected ends: nobody must wait for it for ever.
struct EndOnDrop {
    shared: Arc<Shared>,
    /// Why it ended; `None`: the task was dropped before it knew.
    why: Option<Option<Error>>,
}

/// Keeps the spoke connected until the program or the hub ends it for good, and shows its end.
pub(super) async fn keep_open(shared: Arc<Shared>) {
    let mut end = EndOnDrop {
        shared: shared.clone(),
        why: None,
    };
    let first = async {
        let why = Box::pin(connected(&shared)).await;
        shared.stop.cancel();
        why
    };
    let second = async {
        if shared.sessions.len() < 2 {
            return None;
        }
        let why = Box::pin(keep_second(&shared)).await;
        if why.is_some() {
            shared.stop.cancel();
        }
        why
    };
    let divide = shared.stop.run_until_cancelled(share::divide(&shared));
    let (first, second, _) = tokio::join!(first, second, divide);
    end.why = Some(first.or(second));
}

/// Connects and registers, and again after each loss; returns why it ended, unless it was shut down.
async fn connected(shared: &Arc<Shared>) -> Option<Error> {
    let (mut backoff, mut last_cause) = (BACKOFF, LastCause::default());
    let mut ever_registered = false;
    loop {
        let dialed = shared
            .stop
            .run_until_cancelled(Box::pin(dial(shared, backoff.failures())))
            .await?;
        let error = match dialed {
            _ if shared.is_ending() => Error::Closed,
            Ok(socket) => {
                let ended = serve(shared, FIRST, socket, ever_registered).await;
                if ended.registered {
                    ever_registered = true;
                    backoff.reset();
                    last_cause.connected();
                }
                ended.error
            }
            Err(error) => error,
        };
        if shared.is_ending() {
            shared.show(Some(error));
            shared.other_has_ended().await;
            return None;
        }
        // A certificate that was good before will be replaced by a good one: a fleet must survive until then.
        let never_trusted = !ever_registered && matches!(error, Error::Untrusted { .. });
        if error.is_permanent() || never_trusted {
            return Some(error);
        }
        last_cause.log("the spoke", &error);
        let pause = endpoint::pause(&error, &mut backoff);
        shared.show(Some(error));
        shared.stop.run_until_cancelled(tokio::time::sleep(pause)).await?;
    }
}

/// Keeps the second session for as long as the spoke goes on. Its failures end nothing, with one exception: if another
/// program has taken its place, the spoke ends for that reason, as the two would take it from each other for ever.
async fn keep_second(shared: &Arc<Shared>) -> Option<Error> {
    let mut pause = AGAIN;
    loop {
        let socket = shared.stop.run_until_cancelled(Box::pin(dial_second(shared))).await?;
        if shared.is_ending() {
            return None;
        }
        let ended = tokio::select! {
            ended = serve(shared, SECOND, socket, true) => ended,
            never = beside::part(shared) => match never {},
        };
        tracing::info!(error = %Chain::of(&ended.error), "the second session of the spoke has ended");
        if ended.registered {
            pause.reset();
        }
        let is_replaced = ended.error.is_replaced();
        shared.show(Some(ended.error.clone()));
        if shared.is_ending() {
            return None;
        }
        if is_replaced {
            return Some(ended.error);
        }
        shared
            .stop
            .run_until_cancelled(tokio::time::sleep(pause.pause()))
            .await?;
    }
}

/// A connection for the first session, after so many failures: to any hub, unless the second session is connected.
async fn dial(shared: &Shared, failures: u32) -> Result<Socket, Error> {
    if shared.other(FIRST).is_some()
        && let Some(socket) = beside::dial(shared, FIRST).await
    {
        return Ok(socket);
    }
    shared.endpoints[FIRST].after(failures).dial().await
}

/// A connection for the second session, once there is a first one.
async fn dial_second(shared: &Shared) -> Socket {
    loop {
        let first = &shared.sessions[FIRST];
        shared
            .wait_for(|| first.output().is_some() && shared.is_divisible())
            .await;
        if let Some(socket) = beside::dial(shared, SECOND).await {
            return socket;
        }
    }
}

/// Runs one session to its end, over `socket` first; `which` says which of the two it is. If its hub, which may be
/// dead, has not taken some answers, they are left to the other session, or to the one that comes next.
async fn serve(shared: &Arc<Shared>, which: usize, socket: Socket, again: bool) -> Ended {
    let ended = run(shared, which, socket, again).await;
    shared.sessions[which].ends();
    ended
}

async fn run(shared: &Arc<Shared>, which: usize, socket: Socket, again: bool) -> Ended {
    let (outbox, attachment) = (Outbox::default(), &shared.sessions[which]);
    if shared.sessions.len() > 1 {
        outbox.kept(KeptSession::ask_for_hubs);
    }
    let room = shared.stop.run_until_cancelled(shared.make_room(which)).await;
    let Some(concurrency) = room.filter(|_| !shared.is_ending()) else {
        return Ended {
            error: Error::Closed,
            registered: false,
        };
    };
    outbox.kept(KeptSession::ask_for_hashes);
    let session = Session::new(shared.clone(), attachment.clone(), outbox.clone());
    let read = |message: Bytes| session.received(&message);
    let seen = |link| shared.seen(attachment, link);
    let finishing = session.answers_elsewhere(which);
    let endpoint = &shared.endpoints[which];
    let mut running = Box::pin(session::run(endpoint, socket, &outbox, read, seen, finishing));
    let registering = Registering {
        way: Way::First(&session),
        attachment,
        outbox: &outbox,
    };
    let answered = registration(shared, registering, concurrency, again);
    tokio::pin!(answered);
    let verdict = tokio::select! {
        verdict = &mut answered => verdict,
        ending = &mut running => {
            // A refusal that came just before the end explains more than the end does.
            let refusal = answered.now_or_never().and_then(Result::err);
            return Ended { error: refusal.unwrap_or_else(|| cause(shared, ending)), registered: false };
        }
        () = shared.stop.cancelled() => Err(Error::Closed),
    };
    let registered = match verdict {
        Ok(answered) => answered,
        Err(error) => {
            outbox.close();
            running.await;
            return Ended {
                error,
                registered: false,
            };
        }
    };
    shared.learn(concurrency, &registered.output);
    attachment.begins(outbox.clone(), registered, concurrency);
    shared.show(None);
    let withdrawing = async {
        // The drain came too early to find this session.
        if shared.is_ending() {
            shared.withdraw_from(attachment).await;
        }
        std::future::pending().await
    };
    let ending = tokio::select! {
        // The stop first: a connection that breaks at that very moment is lost to a session that is to end, which comes
        // back for its answers, and not to one that begins to come back and is ended.
        biased;
        () = shared.stop.cancelled() => {
            outbox.close();
            running.await
        }
        ending = &mut running => ending,
        ending = withdrawing => ending,
        never = lent::lend(shared, which, &outbox) => match never {},
    };
    shared.left.lock().extend(outbox.take_left());
    Ended {
        error: cause(shared, ending),
        registered: true,
    }
}

/// Registers. A first registration must be accepted as a whole; a later one is kept even if it is not, so that a spoke
/// does not lose all its operations because one of them is refused now.
async fn registration(
    shared: &Shared,
    session: Registering<'_>,
    concurrency: Option<u32>,
    again: bool,
) -> Result<Answered, Error> {
    let answered = shared.register(session, concurrency).await?;
    let operations = answered.output.operations.iter();
    let rejected: Vec<_> = operations
        .filter(|o| o.result == Registered::Rejected)
        .cloned()
        .collect();
    if rejected.is_empty() {
        return Ok(answered);
    }
    let error = Error::Rejected(rejected);
    if again {
        tracing::warn!(%error, "registered again without some operations");
        return Ok(answered);
    }
    Err(error)
}

fn cause(shared: &Shared, ending: Ending) -> Error {
    match ending {
        Ending::Closed => Error::Closed,
        Ending::ByHub(code, reason) => shared.endpoints[FIRST].refused(code, reason),
        Ending::Broken(reason) => shared.endpoints[FIRST].unreachable(std::io::Error::other(reason)),
        Ending::Failed(error) => error,
    }
}

// === impl EndOnDrop ===

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let why = self.why.take().unwrap_or_else(|| Some(Error::of_drop()));
        self.shared.stop.cancel();
        // Nobody will answer what was asked of the hubs any more.
        self.shared.sessions.iter().for_each(|session| session.ends());
        self.shared.status.send_replace(Status::Ended(why));
    }
}

// === impl Shared ===

impl Shared {
    /// Updates the status: registered while one of the sessions is connected, otherwise why none is. Answers that were
    /// left over are sent over a connected one.
    pub(super) fn show(&self, error: Option<Error>) {
        if let Some(there) = self.sessions.iter().find(|session| session.output().is_some()) {
            there.send(self.left.lock().drain(..));
        }
        if self.stop.is_cancelled() {
            return;
        }
        // Looked up while the status is locked, so that a later result is not overwritten by an earlier one.
        self.status.send_modify(|status| {
            let there = self.sessions.iter().find_map(|session| session.output());
            *status = match there {
                Some(output) => Status::Registered(output),
                None => Status::Connecting(error),
            };
        });
    }

    /// Shows what happens to the connection while a session goes on.
    fn seen(&self, session: &Attachment, link: LinkNews) {
        let (is_there, error) = match link {
            LinkNews::Lost(error) => (false, Some(error)),
            LinkNews::Back(at) => {
                session.is_at(&at);
                (true, None)
            }
        };
        // Before the session is registered, nothing changes.
        if session.set_there(is_there) {
            self.show(error);
        }
    }

    /// Waits until a condition on the sessions holds; every change to them shows in the status.
    pub(super) async fn wait_for(&self, holds: impl Fn() -> bool) {
        // Cannot fail: we hold the sender.
        let _ = self.status.subscribe().wait_for(|_| holds()).await;
    }

    /// The other session, if there may be two.
    pub(super) fn other(&self, session: usize) -> Option<&Attachment> {
        let other = self.sessions.get(1 - session);
        other.map(Arc::as_ref)
    }

    /// Waits, once the first session is over, until the second one is too, or the spoke has nothing more to do.
    async fn other_has_ended(&self) {
        if let Some(other) = self.other(FIRST) {
            let ended = self.wait_for(|| !other.has_room());
            self.stop.run_until_cancelled(ended).await;
        }
    }

    /// Whether the spoke will not connect again.
    pub(super) fn is_ending(&self) -> bool {
        self.stop.is_cancelled() || self.draining.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::Spoke;
    use crate::panicking::Subscriber;

    #[tokio::test]
    async fn a_spoke_whose_task_panics_has_ended() {
        let _subscriber = tracing::subscriber::set_default(Subscriber);
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", port.local_addr().expect("bound"));
        drop(port);

        // Nobody listens there, so the task logs an error.
        let spoke = Spoke::builder(url).name("builder").spawn().expect("valid settings");
        let ended = timeout(Duration::from_secs(20), spoke.ended()).await;

        assert!(matches!(ended, Ok(Err(Error::Panicked))), "{ended:?}");
    }
}
