//! One open WebSocket: a reader that hands messages on and a writer that sends what is queued, in batches.
//!
//! Invariants
//! - Messages leave in the order in which they were queued, many with one flush, and before the close frame.
//! - A socket on which nothing arrives for 8 s, though it was asked with a ping, is given up; after 25 s where the question may
//!   stand behind much that is on its way. So is one whose hub goes on asking for what is refused and takes no refusal: they
//!   would grow without end.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use crate::Error;
use crate::endpoint::Socket;
use crate::kept::KeptSession;
use crate::outbox::Outbox;

/// Silence after which the peer is asked.
const PING_AFTER: Duration = Duration::from_secs(3);

/// Silence after the question until the peer is taken for dead.
const DEAD_AFTER: Duration = Duration::from_secs(5);

/// The same where more than [`MUCH_BYTES`] are on their way, or nobody counts what is: a slow network may need long for that.
const DEAD_AFTER_MUCH: Duration = Duration::from_secs(22);

/// What any network takes in little time.
const MUCH_BYTES: usize = 64 * 1024;

/// Time for the peer to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How a socket ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// [`Outbox::close`] was called and all was sent.
    Closed,
    /// The hub closed, with a code and a reason.
    ByHub(u16, String),
    /// It broke or fell silent.
    Broken(String),
    /// Another socket, for the same session, was refused for good.
    Failed(Error),
}

/// Runs one socket to its end. `read` gets each message and must not wait. The queue stays as it is; dropping the future
/// cuts the connection.
pub(crate) async fn run(socket: Socket, outbox: &Outbox, read: impl FnMut(Bytes)) -> Ending {
    let (sink, stream) = socket.split();
    let reading = receive(stream, outbox, read);
    tokio::pin!(reading);
    let written = tokio::select! {
        ending = &mut reading => return ending,
        () = outbox.stalled() => {
            outbox.kept(KeptSession::lose);
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
        for message in batch {
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
        let wait = match asked {
            false => PING_AFTER,
            true if outbox.kept(|kept| kept.owes(MUCH_BYTES)) => DEAD_AFTER_MUCH,
            true => DEAD_AFTER,
        };
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
            Some(Ok(Message::Text(text))) => outbox.received(text.into()).into_iter().for_each(&mut read),
            Some(Ok(Message::Binary(bytes))) => outbox.received(bytes).into_iter().for_each(&mut read),
            Some(Ok(Message::Ping(_))) => outbox.beat(),
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(frame))) => return closed(stream, frame).await,
            Some(Err(error)) => return Ending::Broken(error.to_string()),
            None => return Ending::Broken("the connection ended".to_owned()),
        }
    }
}

/// Lets the answer to a close frame leave.
async fn closed(mut stream: SplitStream<Socket>, frame: Option<CloseFrame>) -> Ending {
    let _answered = timeout(CLOSE_TIMEOUT, stream.next()).await;
    let (code, reason) = frame.map_or((CloseCode::Status, String::new()), |f| {
        (f.code, f.reason.as_str().to_owned())
    });
    Ending::ByHub(code.into(), reason)
}
