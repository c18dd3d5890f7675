//! One open WebSocket: a reader that hands messages on and a writer that sends what is queued, in batches.
//!
//! Invariants
//! - Messages leave in the order in which they were queued, many with one flush.
//! - Whatever was queued before [`Outbox::close`] is sent before the close frame.
//! - A socket on which nothing arrives for 25 s, though it was asked with a ping, is given up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use crate::endpoint::Socket;

/// Bytes waiting to be sent, over which senders wait.
const OUTBOX_BYTES: usize = 4 * 1024 * 1024;

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
    queue: Mutex<Queue>,
    /// Something to send.
    wake: Notify,
    /// Room again.
    room: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Bytes>,
    bytes: usize,
    /// A ping is to be sent.
    ping: bool,
    state: State,
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum State {
    #[default]
    Open,
    /// What is queued is sent, then the socket closes.
    Closing,
    /// The close frame is on its way, or the socket has ended.
    Gone,
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
                let mut queue = self.0.queue.lock();
                if queue.state != State::Open {
                    return Err(Gone);
                }
                if queue.bytes < OUTBOX_BYTES {
                    queue.push(message);
                    break;
                }
            }
            room.await;
        }
        self.0.wake.notify_one();
        Ok(())
    }

    /// Queues a short message of which there is at most one for each running call or topic, room or not; while the
    /// socket is closing too, as long as the close frame has not left.
    pub(crate) fn push(&self, message: Bytes) {
        let mut queue = self.0.queue.lock();
        if queue.state != State::Gone {
            queue.push(message);
            self.0.wake.notify_one();
        }
    }

    /// Whether messages are taken.
    pub(crate) fn is_open(&self) -> bool {
        self.0.queue.lock().state == State::Open
    }

    /// Lets the socket close once everything queued is sent.
    pub(crate) fn close(&self) {
        let mut queue = self.0.queue.lock();
        if queue.state == State::Open {
            queue.state = State::Closing;
        }
        drop(queue);
        self.0.wake.notify_one();
        self.0.room.notify_waiters();
    }

    fn ping(&self) {
        self.0.queue.lock().ping = true;
        self.0.wake.notify_one();
    }

    fn end(&self) {
        *self.0.queue.lock() = Queue {
            state: State::Gone,
            ..Queue::default()
        };
        self.0.room.notify_waiters();
    }

    /// Everything queued, and whether to ping; `None` when closing and nothing is left.
    async fn batch(&self) -> Option<(VecDeque<Bytes>, bool)> {
        loop {
            let wake = self.0.wake.notified();
            {
                let mut queue = self.0.queue.lock();
                if !queue.messages.is_empty() || queue.ping {
                    queue.bytes = 0;
                    let batch = (std::mem::take(&mut queue.messages), std::mem::take(&mut queue.ping));
                    drop(queue);
                    self.0.room.notify_waiters();
                    return Some(batch);
                }
                if queue.state != State::Open {
                    queue.state = State::Gone;
                    return None;
                }
            }
            wake.await;
        }
    }
}

// === impl Queue ===

impl Queue {
    fn push(&mut self, message: Bytes) {
        self.bytes += message.len();
        self.messages.push_back(message);
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
    while let Some((messages, ping)) = outbox.batch().await {
        if ping {
            sink.feed(Message::Ping(Bytes::new())).await?;
        }
        for message in messages {
            let text = Utf8Bytes::try_from(message).map_err(|e| tungstenite::Error::Utf8(e.to_string()))?;
            sink.feed(Message::Text(text)).await?;
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
            outbox.ping();
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
