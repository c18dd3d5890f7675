//! The client's link to its hub: one connection at a time, and the task that makes the next.
//!
//! Invariants
//! - A call that was not handed to the socket yet is sent on the next one; a call that was is never sent again.

use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::frame::encode;
use alkhub_protocol::{CallError, Code, Dialect, Frame, RawJson, RequestId, TopicFilter};
use alkhub_queue::Limits;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::event::Delivery;
use super::followed::Joined;
use super::state::{Pending, State};
use crate::Error;
use crate::endpoint::{self, BACKOFF, HubEndpoint};
use crate::last_cause::LastCause;
use crate::outbox::Outbox;
use crate::queue::{Receiver, queue};
use crate::session;
use crate::socket::Ending;

/// How much a subscription's reader may leave unread.
const ITEM_LIMITS: Limits = Limits {
    items: 1_024,
    bytes: 4 * 1024 * 1024,
};

/// The state of the link.
#[derive(Clone, Debug)]
enum Phase {
    /// Nobody has asked for a connection yet, or it failed and nobody has asked again.
    Idle,
    /// A first attempt, or another after a loss, with the last error.
    Connecting(Option<Error>),
    /// Open.
    Up(Outbox),
    /// The first attempt failed, or the hub refuses for good.
    Failed(Error),
    /// Closed by the program.
    Closed,
}

/// The link, its calls and its subscriptions.
#[derive(Debug)]
pub(super) struct Link {
    endpoint: HubEndpoint,
    phase: watch::Sender<Phase>,
    state: Mutex<State>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A running call; dropping it aborts the call unless it has ended.
#[derive(Debug)]
pub(super) struct Ticket {
    link: Arc<Link>,
    outbox: Outbox,
    request_id: RequestId,
}

/// A stream's place among the followers of its topic; dropping it unsubscribes.
#[derive(Debug)]
pub(super) struct Seat {
    link: Arc<Link>,
    filter: TopicFilter,
    follower: u64,
}

/// However the task that keeps the connection open ends, this ends everything that waits for it.
struct EndOnDrop {
    link: Arc<Link>,
    /// Why it ended; `None`: the task was dropped before it knew.
    why: Option<Error>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.link.state.lock().calls.remove(&self.request_id).is_some() {
            self.outbox
                .push(encode::call_aborted(Dialect::Id, self.request_id.as_str(), None));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.link.unfollow(&self.filter, self.follower);
    }
}

// === impl Seat ===

impl Seat {
    /// The topic that is followed.
    pub(super) fn filter(&self) -> &TopicFilter {
        &self.filter
    }
}

// === impl Link ===

impl Link {
    pub(super) fn new(endpoint: HubEndpoint) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            phase: watch::Sender::new(Phase::Idle),
            state: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// The open connection; waits for it until `end`, and starts it if nobody has. The caller has a deadline of its
    /// own, a little later, which applies if no cause is known.
    pub(super) async fn outbox(self: &Arc<Self>, end: Instant) -> Result<Outbox, Error> {
        let mut phase = self.phase.subscribe();
        self.start();
        let settled = |phase: &Phase| match phase {
            Phase::Idle | Phase::Connecting(_) => false,
            Phase::Up(outbox) => outbox.is_open(),
            Phase::Failed(_) | Phase::Closed => true,
        };
        let Ok(settled) = timeout_at(end, phase.wait_for(settled)).await else {
            return self.overdue().await;
        };
        match settled.as_deref() {
            Ok(Phase::Up(outbox)) => Ok(outbox.clone()),
            Ok(Phase::Failed(error)) => Err(error.clone()),
            Ok(Phase::Idle | Phase::Connecting(_) | Phase::Closed) | Err(_) => Err(Error::Closed),
        }
    }

    /// Why there is still no connection; never resolves if that is unknown.
    async fn overdue<T>(&self) -> Result<T, Error> {
        let phase = self.phase.borrow().clone();
        match phase {
            Phase::Connecting(Some(error)) => Err(error),
            _ => std::future::pending().await,
        }
    }

    fn start(self: &Arc<Self>) {
        let begun = self.phase.send_if_modified(|phase| {
            let begin = matches!(phase, Phase::Idle | Phase::Failed(_));
            if begin {
                *phase = Phase::Connecting(None);
            }
            begin
        });
        if begun {
            self.tasks.spawn(self.clone().keep_open());
        }
    }

    /// Sends a call and waits for its answer; `None` if the connection ended before it was sent.
    pub(super) async fn call(
        self: &Arc<Self>,
        outbox: Outbox,
        request_id: &RequestId,
        frame: Bytes,
    ) -> Option<Result<RawJson, Error>> {
        let (sender, answer) = oneshot::channel();
        let ticket = self.insert(outbox, request_id, Pending::Call(sender));
        if ticket.outbox.send(frame).await.is_err() {
            self.state.lock().calls.remove(request_id);
            return None;
        }
        Some(answer.await.unwrap_or(Err(Error::Lost)))
    }

    /// Sends a subscription; `None` if the connection ended before it was sent.
    pub(super) async fn subscribe(
        self: &Arc<Self>,
        outbox: Outbox,
        request_id: &RequestId,
        frame: Bytes,
    ) -> Option<(Receiver<Result<RawJson, Error>>, Ticket)> {
        let (sender, receiver) = queue(ITEM_LIMITS);
        let ticket = self.insert(outbox, request_id, Pending::Subscription(sender));
        if ticket.outbox.send(frame).await.is_err() {
            self.state.lock().calls.remove(request_id);
            return None;
        }
        Some((receiver, ticket))
    }

    fn insert(self: &Arc<Self>, outbox: Outbox, request_id: &RequestId, pending: Pending) -> Ticket {
        self.state.lock().calls.insert(request_id.clone(), pending);
        Ticket {
            link: self.clone(),
            outbox,
            request_id: request_id.clone(),
        }
    }

    /// Follows a topic; resolves once the hub has confirmed.
    pub(super) async fn events(
        self: &Arc<Self>,
        filter: TopicFilter,
        end: Instant,
    ) -> Result<(Receiver<Result<Delivery, Error>>, Seat), Error> {
        self.outbox(end).await?;
        let Joined {
            follower,
            queue,
            confirmed,
        } = self.join(&filter)?;
        let seat = Seat {
            link: self.clone(),
            filter,
            follower,
        };
        confirmed.await.unwrap_or(Err(Error::Closed))?;
        Ok((queue, seat))
    }

    /// Adds a stream.
    ///
    /// # Errors
    /// The link has ended since the caller saw it open. Whoever joined then would wait for nothing: those who wait are
    /// told of an end once.
    fn join(&self, filter: &TopicFilter) -> Result<Joined, Error> {
        let State { followed, outbox, .. } = &mut *self.state.lock();
        // `EndOnDrop` changes the phase under the same lock.
        match &*self.phase.borrow() {
            Phase::Failed(error) => return Err(error.clone()),
            Phase::Closed => return Err(Error::Closed),
            Phase::Idle | Phase::Connecting(_) | Phase::Up(_) => {}
        }
        Ok(followed.join(filter, outbox.as_ref()))
    }

    pub(super) fn unfollow(&self, filter: &TopicFilter, follower: u64) {
        let State { followed, outbox, .. } = &mut *self.state.lock();
        followed.leave(filter, follower, outbox.as_ref());
    }

    /// The last client is gone: the connection closes unless a stream still needs it.
    pub(super) fn release(&self) {
        self.stop.cancel();
    }

    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.phase.send_replace(Phase::Closed);
    }

    /// Keeps the connection open until the program or the hub ends it for good, then ends everything that waits for it.
    async fn keep_open(self: Arc<Self>) {
        let mut end = EndOnDrop {
            link: self.clone(),
            why: None,
        };
        end.why = Some(self.connected().await);
    }

    /// Connects, and again after each loss; returns why it ended.
    async fn connected(self: &Arc<Self>) -> Error {
        let (mut backoff, mut last_cause) = (BACKOFF, LastCause::default());
        let mut was_up = false;
        loop {
            let dialed = tokio::select! {
                () = self.stop.cancelled() => return Error::Closed,
                dialed = self.endpoint.dial() => dialed,
            };
            let error = match dialed {
                Ok(socket) => {
                    backoff.reset();
                    last_cause.connected();
                    was_up = true;
                    self.serve(socket).await
                }
                Err(error) => error,
            };
            // A refusal that says when to come again is no failed first attempt: it is tried again.
            let is_first = !was_up && error.retry_after().is_none();
            if is_first || error.is_permanent() {
                return error;
            }
            last_cause.log("the client", &error);
            let pause = endpoint::pause(&error, &mut backoff);
            self.phase.send_replace(Phase::Connecting(Some(error)));
            tokio::select! {
                () = self.stop.cancelled() => return Error::Closed,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Runs one session to its end and fails its calls.
    async fn serve(self: &Arc<Self>, socket: crate::endpoint::Socket) -> Error {
        let outbox = Outbox::default();
        self.state.lock().connected(&outbox);
        self.phase.send_replace(Phase::Up(outbox.clone()));
        let ending = {
            let seen = |link| {
                self.phase.send_replace(match link {
                    session::LinkNews::Lost(error) => Phase::Connecting(Some(error)),
                    session::LinkNews::Back(_) => Phase::Up(outbox.clone()),
                });
            };
            let read = |message: Bytes| self.received(&message, &outbox);
            let nothing = std::future::ready(());
            let mut running = Box::pin(session::run(&self.endpoint, socket, &outbox, read, seen, nothing));
            tokio::select! {
                ending = &mut running => ending,
                () = self.stop.cancelled() => {
                    outbox.close();
                    running.await
                }
            }
        };
        if !self.stop.is_cancelled() {
            self.phase.send_replace(Phase::Connecting(None));
        }
        let (error, cause) = match ending {
            Ending::Closed => (Error::Closed, Error::Closed),
            Ending::ByHub(code, reason) => (self.endpoint.refused(code, reason), Error::Lost),
            Ending::Broken(reason) => (self.endpoint.unreachable(std::io::Error::other(reason)), Error::Lost),
            Ending::Failed(error) => (error, Error::Lost),
        };
        for pending in self.state.lock().disconnected() {
            pending.fail(cause.clone());
        }
        error
    }

    /// Asks for a topic again after a while.
    fn ask_again(self: &Arc<Self>, filter: TopicFilter, wait: Duration) {
        let link = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = link.stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {
                    let State { followed, outbox, .. } = &mut *link.state.lock();
                    followed.ask_again(&filter, outbox.as_ref());
                }
            }
        });
    }

    fn received(self: &Arc<Self>, message: &Bytes, outbox: &Outbox) {
        let frame = match Frame::decode(message) {
            Ok((frame, _)) => frame,
            Err(error) => {
                tracing::debug!(%error, "the hub sent something that this client does not read");
                if let Some(named) = &error.call {
                    // Nobody waits for an answer that cannot be read.
                    let unread = CallError::new(
                        error.to_call_error().code,
                        format!("the answer cannot be read: {error}"),
                    );
                    self.state.lock().ended(&named.request_id, Some(unread.into()));
                }
                return;
            }
        };
        let mut state = self.state.lock();
        match frame {
            Frame::Responded { request_id, output } => state.responded(&request_id, output, outbox),
            Frame::Completed { request_id } => state.ended(&request_id, None),
            Frame::Failed { request_id, error } => state.ended(&request_id, Some(error.into())),
            Frame::Aborted { request_id } => {
                let error = CallError::new(Code::Aborted, "the call was aborted");
                state.ended(&request_id, Some(error.into()));
            }
            Frame::Subscribed(topic) => state.followed.confirmed(&topic),
            Frame::Unsubscribed(topic) => state.followed.unsubscribed(&topic),
            Frame::Gap(gap) => state.followed.lost(&gap),
            Frame::Event(envelope) => state.followed.deliver(envelope),
            Frame::Refused(error) => {
                if let Some((filter, wait)) = state.refused(message, error) {
                    self.ask_again(filter, wait);
                }
            }
            Frame::Requested(call) => {
                let error = CallError::new(Code::OperationNotFound, "this connection offers no operations");
                outbox.refuse(encode::call_error(Dialect::Id, call.request_id.as_str(), &error));
            }
            Frame::Subscribe(_)
            | Frame::Unsubscribe(_)
            | Frame::Hello(_)
            | Frame::Welcome(_)
            | Frame::Resumed(_)
            | Frame::Acknowledged(_)
            | Frame::Hubs(_)
            | Frame::Ping(_)
            | Frame::Pong(_)
            | Frame::Migrate(_) => {}
        }
    }
}

// === impl EndOnDrop ===

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let error = self.why.take().unwrap_or_else(Error::of_drop);
        let unanswered = {
            let mut state = self.link.state.lock();
            state.followed.fail(&error);
            let closed = matches!(error, Error::Closed);
            let phase = if closed { Phase::Closed } else { Phase::Failed(error) };
            // Under the lock, so that nobody joins between the two, and no next attempt begins before this one is over.
            self.link.phase.send_replace(phase);
            state.disconnected()
        };
        for pending in unanswered {
            pending.fail(Error::Lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{SinkExt as _, StreamExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;
    use tokio_tungstenite::tungstenite::Message;

    use super::*;
    use crate::Client;
    use crate::panicking::Subscriber;

    #[tokio::test]
    async fn who_joins_a_link_that_has_just_ended_is_told_why() {
        let client = Client::builder("http://127.0.0.1:1").build().expect("valid settings");
        let link = &client.0.link;
        let filter = "job:1".parse().expect("valid");

        for why in [Error::Panicked, Error::Closed] {
            // Just before this, a caller of `events` saw the link open.
            drop(EndOnDrop {
                link: link.clone(),
                why: Some(why.clone()),
            });

            let told = link.join(&filter).expect_err("nobody will confirm it");

            assert_eq!(told.to_string(), why.to_string());
        }
    }

    #[tokio::test]
    async fn calls_of_a_client_whose_task_panics_are_lost_at_once() {
        let _subscriber = tracing::subscriber::set_default(Subscriber);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let hub = async {
            let (stream, _) = listener.accept().await.expect("a client");
            let mut socket = tokio_tungstenite::accept_async(stream).await.expect("a WebSocket");
            socket.next().await.expect("a call").expect("whole");
            // A message that cannot be read is logged.
            socket.send(Message::text("{")).await.expect("sent");
            while socket.next().await.is_some_and(|message| message.is_ok()) {}
        };
        let client = Client::builder(url).build().expect("valid settings");

        let call = timeout(Duration::from_secs(20), client.call::<_, RawJson>("text.upper", "x"));
        let (answer, ()) = tokio::join!(call, hub);

        assert!(matches!(answer, Ok(Err(Error::Lost))), "{answer:?}");
        let phase = client.0.link.phase.borrow().clone();
        assert!(matches!(phase, Phase::Failed(Error::Panicked)), "{phase:?}");
    }
}
