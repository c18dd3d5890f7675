//! Keeps a spoke connected and registered, and drains it at the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alkhub_protocol::register::{RegisterOutput, Registered};
use futures::FutureExt as _;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::session::{Session, register};
use super::{Shared, Status};
use crate::Error;
use crate::backoff::Backoff;
use crate::endpoint::Socket;
use crate::socket::{self, Ending, Outbox};
use crate::trouble::Trouble;

/// Time for the hub to answer a registration.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// How a connection ended: why, and whether the spoke was registered on it.
struct Ended {
    error: Error,
    registered: bool,
}

/// Connects and registers, again after each loss, until the program or the hub ends it for good.
pub(super) async fn keep_open(shared: Arc<Shared>) {
    let (mut backoff, mut trouble) = (Backoff::default(), Trouble::default());
    let mut ever_registered = false;
    let end = loop {
        let dialed = tokio::select! {
            () = shared.stop.cancelled() => break None,
            dialed = shared.endpoint.dial() => dialed,
        };
        let error = match dialed {
            Ok(socket) => {
                let ended = serve(&shared, socket, ever_registered).await;
                if ended.registered {
                    ever_registered = true;
                    backoff.reset();
                    trouble.over();
                }
                ended.error
            }
            Err(error) => error,
        };
        if shared.stop.is_cancelled() || shared.draining.load(Ordering::Acquire) {
            break None;
        }
        // A certificate that was good before will be replaced by a good one: a fleet must see that day.
        let never_trusted = !ever_registered && matches!(error, Error::Untrusted { .. });
        if error.is_permanent() || never_trusted {
            break Some(error);
        }
        trouble.tell("the spoke", &error);
        shared.status.send_replace(Status::Connecting(Some(error)));
        tokio::select! {
            () = shared.stop.cancelled() => break None,
            () = tokio::time::sleep(backoff.next()) => {}
        }
    };
    shared.stop.cancel();
    shared.status.send_replace(Status::Ended(end));
}

/// Runs one connection to its end.
async fn serve(shared: &Arc<Shared>, socket: Socket, again: bool) -> Ended {
    let outbox = Outbox::default();
    let (session, answer) = Session::begin(shared.clone(), outbox.clone());
    let running = socket::run(socket, &outbox, |message| session.received(&message));
    tokio::pin!(running);
    let answered = registration(answer, again);
    tokio::pin!(answered);
    let verdict = tokio::select! {
        verdict = &mut answered => verdict,
        ending = &mut running => {
            // A refusal that came just before the end says more than the end does.
            let refusal = answered.now_or_never().and_then(Result::err);
            return Ended { error: refusal.unwrap_or_else(|| cause(shared, ending)), registered: false };
        }
        () = shared.stop.cancelled() => Err(Error::Closed),
    };
    let registered = match verdict {
        Ok(output) => output,
        Err(error) => {
            outbox.close();
            running.await;
            return Ended {
                error,
                registered: false,
            };
        }
    };
    *shared.outbox.lock() = Some(outbox.clone());
    shared.status.send_replace(Status::Registered(Arc::new(registered)));
    let ending = tokio::select! {
        ending = &mut running => ending,
        () = shared.stop.cancelled() => {
            outbox.close();
            running.await
        }
    };
    Ended {
        error: cause(shared, ending),
        registered: true,
    }
}

/// The hub's answer. A first registration must be whole; a later one is kept as it is, so that a spoke does not take
/// all its operations away because one of them is refused now.
async fn registration(
    answer: oneshot::Receiver<Result<RegisterOutput, Error>>,
    again: bool,
) -> Result<RegisterOutput, Error> {
    let output = match timeout(REGISTER_TIMEOUT, answer).await {
        Ok(Ok(result)) => result?,
        Ok(Err(_)) => return Err(Error::Lost),
        Err(_) => return Err(Error::Timeout(REGISTER_TIMEOUT)),
    };
    let rejected: Vec<_> = output
        .operations
        .iter()
        .filter(|o| o.result == Registered::Rejected)
        .cloned()
        .collect();
    if rejected.is_empty() {
        return Ok(output);
    }
    let error = Error::Rejected(rejected);
    if again {
        tracing::warn!(%error, "registered again without some operations");
        return Ok(output);
    }
    Err(error)
}

fn cause(shared: &Shared, ending: Ending) -> Error {
    match ending {
        Ending::Closed => Error::Closed,
        Ending::ByHub(code, reason) => shared.endpoint.refused(code, reason),
        Ending::Broken(reason) => shared.endpoint.unreachable(std::io::Error::other(reason)),
    }
}

// === impl Shared ===

impl Shared {
    /// Withdraws the operations, waits for the running ones and closes.
    pub(super) async fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        if let Some(outbox) = &*self.outbox.lock() {
            outbox.push(register(&crate::client::new_id(), &self.withdraw));
        }
        let mut running = self.running.subscribe();
        // What has not finished by then is aborted with the connection.
        let _ = timeout(self.drain_timeout, running.wait_for(|calls| *calls == 0)).await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
