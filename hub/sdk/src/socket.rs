//! One open WebSocket: a reader that hands messages on and a writer that sends what is queued, in batches.
//!
//! Invariants
//! - Messages leave in the order in which they were queued, many with one flush.
//! - Whatever was queued before [`Outbox::close`] is sent before the close frame.
//! - A socket on which nothing arrives for 25 s, though it was asked with a ping, is given up. So is one whose hub goes on
//!   asking for what is refused and takes no refusal: they would grow without end.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use alkhub_queue::{Full, Limits, Queue, Weigh};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use crate::endpoint::Socket;

/// What may wait to be sent; over it senders wait.
const OUTBOX_LIMITS: Limits = Limits {
    items: 65_536,
    bytes: 4 * 1024 * 1024,
};

/// Refusals that may wait to be sent.
const REFUSALS: usize = 4_096;

/// Silence after which the peer is asked.
const PING_AFTER: Duration = Duration::from_secs(10);

/// Silence after the question until the peer is taken for dead.
const DEAD_AFTER: Duration = Duration::from_secs(15);

/// Time for the peer to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The queue of one socket; its clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox(Arc<Shared>);

/// How a socket ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// [`Outbox::close`] was called and all was sent.
    Closed,
    /// The hub closed, with a code and a reason.
    ByHub(u16, String),
    /// It broke or fell silent.
    Broken(String),
}

/// The socket is no more; the message was not sent.
#[derive(Debug)]
pub(crate) struct Gone;

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Room again.
    room: Notify,
    /// More refusals wait than may.
    is_stalled: CancellationToken,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Ended when the socket is to close.
    queue: Queue<Unsent>,
    /// Of what is queued, refusals.
    refusals: usize,
    /// The close frame is on its way, or the socket has ended.
    is_gone: bool,
}

#[derive(Debug)]
enum Unsent {
    Message(Bytes),
    Ping,
}

// === impl Outbox ===

impl Outbox {
    /// Queues a message, waiting for room. A dropped future has queued nothing.
    pub(crate) async fn send(&self, message: Bytes) -> Result<(), Gone> {
        loop {
            let room = self.0.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut waiting = self.0.waiting.lock();
                // The last one may be over the limit by its own bytes: else a large one would wait while small ones overtake it.
                match waiting.queue.room(0, OUTBOX_LIMITS) {
                    Ok(()) => {
                        let waiter = waiting.queue.add(Unsent::Message(message));
                        drop(waiting);
                        waiter.wake();
                        return Ok(());
                    }
                    Err(Full::Ended) => return Err(Gone),
                    Err(Full::Queue) => {}
                }
            }
            room.await;
        }
    }

    /// Queues a short message of which there is at most one for each running call or topic, room or not; while the
    /// socket is closing too, as long as the close frame has not left.
    pub(crate) fn push(&self, message: Bytes) {
        self.add(Unsent::Message(message));
    }

    /// Queues the refusal of something that the hub asked for. The hub asks as often as it likes: where too many wait, it
    /// does not read, and the socket is given up.
    pub(crate) fn refuse(&self, message: Bytes) {
        {
            let mut waiting = self.0.waiting.lock();
            if waiting.refusals < REFUSALS {
                waiting.refusals += 1;
            } else {
                drop(waiting);
                self.0.is_stalled.cancel();
                return;
            }
        }
        self.push(message);
    }

    /// Whether messages are taken.
    pub(crate) fn is_open(&self) -> bool {
        !self.0.waiting.lock().queue.has_ended()
    }

    /// Lets the socket close once everything queued is sent.
    pub(crate) fn close(&self) {
        let waiter = self.0.waiting.lock().queue.end();
        waiter.wake();
        self.0.room.notify_waiters();
    }

    fn add(&self, unsent: Unsent) {
        let mut waiting = self.0.waiting.lock();
        if !waiting.is_gone {
            let waiter = waiting.queue.add(unsent);
            drop(waiting);
            waiter.wake();
        }
    }

    fn end(&self) {
        let mut waiting = self.0.waiting.lock();
        waiting.is_gone = true;
        let (waiter, unsent) = (waiting.queue.end(), waiting.queue.take_all());
        drop(waiting);
        waiter.wake();
        drop(unsent);
        self.0.room.notify_waiters();
    }

    /// Everything queued; `None` when closing and nothing is left.
    async fn batch(&self) -> Option<VecDeque<Unsent>> {
        let batch = poll_fn(|context| {
            let mut waiting = self.0.waiting.lock();
            if !waiting.queue.is_empty() {
                waiting.refusals = 0;
                return Poll::Ready(Some(waiting.queue.take_all()));
            }
            if waiting.queue.has_ended() {
                waiting.is_gone = true;
                return Poll::Ready(None);
            }
            waiting.queue.wait(context);
            Poll::Pending
        })
        .await;
        self.0.room.notify_waiters();
        batch
    }
}

impl Weigh for Unsent {
    fn bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.len(),
            Self::Ping => 0,
        }
    }
}

/// Runs one socket to its end. `read` gets each message and must not wait. Dropping the future cuts the connection.
pub(crate) async fn run(socket: Socket, outbox: &Outbox, read: impl FnMut(Bytes)) -> Ending {
    let _end = EndOnDrop(outbox);
    let (sink, stream) = socket.split();
    let reading = receive(stream, outbox, read);
    tokio::pin!(reading);
    let written = tokio::select! {
        ending = &mut reading => return ending,
        () = outbox.0.is_stalled.cancelled() => {
            return Ending::Broken("the hub asks and does not read what is answered".to_owned());
        }
        written = write(sink, outbox) => written,
    };
    let ending = timeout(CLOSE_TIMEOUT, reading).await;
    match (written, ending) {
        (Ok(()), _) => Ending::Closed,
        (Err(_), Ok(ending)) => ending,
        (Err(error), Err(_)) => Ending::Broken(error.to_string()),
    }
}

async fn write(mut sink: SplitSink<Socket, Message>, outbox: &Outbox) -> Result<(), tungstenite::Error> {
    while let Some(batch) = outbox.batch().await {
        for unsent in batch {
            let message = match unsent {
                Unsent::Message(message) => {
                    Message::Text(Utf8Bytes::try_from(message).map_err(|e| tungstenite::Error::Utf8(e.to_string()))?)
                }
                Unsent::Ping => Message::Ping(Bytes::new()),
            };
            sink.feed(message).await?;
        }
        sink.flush().await?;
    }
    sink.send(Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    })))
    .await
}

async fn receive(mut stream: SplitStream<Socket>, outbox: &Outbox, mut read: impl FnMut(Bytes)) -> Ending {
    let mut asked = false;
    loop {
        let wait = if asked { DEAD_AFTER } else { PING_AFTER };
        let Ok(message) = timeout(wait, stream.next()).await else {
            if asked {
                return Ending::Broken("the hub fell silent".to_owned());
            }
            asked = true;
            outbox.add(Unsent::Ping);
            continue;
        };
        asked = false;
        match message {
            Some(Ok(Message::Text(text))) => read(text.into()),
            Some(Ok(Message::Binary(bytes))) => read(bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(frame))) => return closed(stream, frame).await,
            Some(Err(error)) => return Ending::Broken(error.to_string()),
            None => return Ending::Broken("the connection ended".to_owned()),
        }
    }
}

/// Lets the answer to a close frame leave.
async fn closed(mut stream: SplitStream<Socket>, frame: Option<CloseFrame>) -> Ending {
    let _answered = timeout(CLOSE_TIMEOUT, stream.next()).await;
    let (code, reason) = frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.as_str().to_owned()));
    Ending::ByHub(code, reason)
}

/// Senders learn of the end however the socket's future ends.
struct EndOnDrop<'a>(&'a Outbox);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(outbox: &Outbox) -> usize {
        outbox.0.waiting.lock().queue.len()
    }

    #[tokio::test]
    async fn a_hub_that_reads_no_refusals_is_given_up_and_they_stay_bounded() {
        let outbox = Outbox::default();
        (0..REFUSALS).for_each(|_| outbox.refuse(Bytes::from_static(b"no")));
        assert!(outbox.batch().await.is_some_and(|sent| sent.len() == REFUSALS));

        (0..REFUSALS).for_each(|_| outbox.refuse(Bytes::from_static(b"no")));
        assert!(!outbox.0.is_stalled.is_cancelled(), "those before were taken");
        (0..3).for_each(|_| outbox.refuse(Bytes::from_static(b"no")));

        assert!(outbox.0.is_stalled.is_cancelled());
        assert_eq!(queued(&outbox), REFUSALS);
        outbox.push(Bytes::from_static(b"the answer of a call that runs"));
        assert_eq!(queued(&outbox), REFUSALS + 1, "these are as many as the calls");
    }
}
