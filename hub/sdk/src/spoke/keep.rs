//! Keeps a spoke connected and registered, and drains it at the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alkhub_protocol::RequestId;
use alkhub_protocol::register::{RegisterOutput, Registered};
use futures::FutureExt as _;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::session::{Session, register};
use super::{Shared, Status};
use crate::Error;
use crate::endpoint::{BACKOFF, Socket};
use crate::last_cause::LastCause;
use crate::socket::{self, Ending, Outbox};

/// Time for the hub to answer a registration. It may have many schemas to compile, and others wait for the same; a hub that
/// is gone is noticed by the silence of its socket, long before. Who gives up early makes the hub begin again.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(60);

/// Time for the hub to confirm that no more calls come.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(10);

/// How a connection ended: why, and whether the spoke was registered on it.
struct Ended {
    error: Error,
    registered: bool,
}

/// Shows the end of a spoke however the task that keeps it connected ends: who waits for it must not wait for ever.
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
    end.why = Some(connected(&shared).await);
}

/// Connects and registers, again after each loss. Why it ended, unless it was shut down.
async fn connected(shared: &Arc<Shared>) -> Option<Error> {
    let (mut backoff, mut last_cause) = (BACKOFF, LastCause::default());
    let mut ever_registered = false;
    loop {
        let dialed = tokio::select! {
            () = shared.stop.cancelled() => return None,
            dialed = shared.endpoint.dial() => dialed,
        };
        let error = match dialed {
            Ok(socket) => {
                let ended = serve(shared, socket, ever_registered).await;
                if ended.registered {
                    ever_registered = true;
                    backoff.reset();
                    last_cause.connected();
                }
                ended.error
            }
            Err(error) => error,
        };
        if shared.stop.is_cancelled() || shared.draining.load(Ordering::Acquire) {
            return None;
        }
        // A certificate that was good before will be replaced by a good one: a fleet must see that day.
        let never_trusted = !ever_registered && matches!(error, Error::Untrusted { .. });
        if error.is_permanent() || never_trusted {
            return Some(error);
        }
        last_cause.log("the spoke", &error);
        shared.status.send_replace(Status::Connecting(Some(error)));
        tokio::select! {
            () = shared.stop.cancelled() => return None,
            () = tokio::time::sleep(backoff.pause()) => {}
        }
    }
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
            // A refusal that came just before the end explains more than the end does.
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
    // Nobody answers a withdrawal any more.
    drop(shared.withdrawal.lock().take());
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

// === impl EndOnDrop ===

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let why = self.why.take().unwrap_or_else(|| Some(Error::of_drop()));
        self.shared.stop.cancel();
        // Nobody answers a withdrawal any more.
        drop(self.shared.withdrawal.lock().take());
        self.shared.status.send_replace(Status::Ended(why));
    }
}

// === impl Shared ===

impl Shared {
    /// Withdraws the operations, waits for the running calls and closes.
    pub(super) async fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        let drained = async {
            self.withdraw().await;
            self.quiet().await;
        };
        // What has not finished by then is aborted with the connection.
        let _ = timeout(self.drain_timeout, drained).await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Asks the hub to send no more calls and waits for its answer: what it sent before comes before that.
    async fn withdraw(&self) {
        let outbox = self.outbox.lock().clone();
        let Some(outbox) = outbox.filter(Outbox::is_open) else {
            return;
        };
        let (sender, answer) = oneshot::channel();
        let id = crate::client::new_id();
        *self.withdrawal.lock() = Some((id.clone(), sender));
        outbox.push(register(&id, &self.withdraw));
        // A hub that refuses, or is silent, cannot be waited for.
        let _ = timeout(WITHDRAW_TIMEOUT, answer).await;
    }

    /// The hub has answered a request: perhaps the withdrawal.
    pub(super) fn withdrawn(&self, request_id: &RequestId) {
        let answered = self.withdrawal.lock().take_if(|(id, _)| id == request_id);
        if let Some((_, waiting)) = answered {
            // Who waits may have run out of time.
            let _ = waiting.send(());
        }
    }

    /// Waits until no call runs, and takes none from then on.
    async fn quiet(&self) {
        let mut running = self.running.subscribe();
        loop {
            // The sender is our own.
            let _ = running.wait_for(|calls| *calls == 0).await;
            let mut closed = false;
            self.running.send_if_modified(|calls| {
                closed = *calls == 0;
                self.closed.store(closed, Ordering::Release);
                false
            });
            if closed {
                return;
            }
        }
    }

    /// Counts a call that begins; false when none may.
    pub(super) fn begin(&self) -> bool {
        self.running.send_if_modified(|calls| {
            let open = !self.closed.load(Ordering::Acquire);
            *calls += usize::from(open);
            open
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Spoke;
    use crate::panicking::Subscriber;

    #[tokio::test]
    async fn a_spoke_whose_task_panics_has_ended() {
        let _subscriber = tracing::subscriber::set_default(Subscriber);
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", port.local_addr().expect("bound"));
        drop(port);

        // Nobody listens there, which the task writes into the log.
        let spoke = Spoke::builder(url).name("builder").spawn().expect("valid settings");
        let ended = timeout(Duration::from_secs(20), spoke.ended()).await;

        assert!(matches!(ended, Ok(Err(Error::Panicked))), "{ended:?}");
    }
}
