//! One open WebSocket: a reader that hands messages on and a writer that sends what is queued, in batches.
//!
//! Invariants
//! - Messages are sent in the order in which they were queued, many with one flush, and before the close frame.
//! - A socket that stays silent for 8 s in spite of a ping is given up; after 25 s if the ping may be stuck behind much
//!   data that is on its way. A socket whose hub keeps asking for things that are refused, and does not read the
//!   refusals, is given up too: they would pile up without end.

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
use crate::kept::{KeptSession, MUCH_BYTES};
use crate::outbox::Outbox;

/// Silence after which a ping is sent.
const PING_AFTER: Duration = Duration::from_secs(3);

/// Silence after the ping until the peer is considered dead.
const DEAD_AFTER: Duration = Duration::from_secs(5);

/// The same if more than [`MUCH_BYTES`] are on their way, or their number is unknown: a slow network may need that
/// long.
const DEAD_AFTER_MUCH: Duration = Duration::from_secs(22);

/// Time for the peer to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How a socket ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// [`Outbox::close`] was called and everything was sent; if the hub may lack some of it, the outbox still has that.
    Closed,
    /// The hub closed, with a code and a reason.
    ByHub(u16, String),
    /// It broke or fell silent.
    Broken(String),
    /// Another socket for the same session was refused for good.
    Failed(Error),
}

/// Runs one socket to its end. `read` gets each message and must not wait. The queue outlives the socket; dropping the
/// future cuts the connection.
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
    if let (Ok(()), Ok(Ending::ByHub(code, _))) = (&written, &ending)
        && *code == u16::from(CloseCode::Normal)
    {
        // With that the hub answers our close, which it read after everything before it.
        outbox.kept(KeptSession::forget_sent);
    }
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
        if matches!(message, Some(Ok(_))) {
            outbox.heard();
        }
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

/// Lets the answer to a close frame be sent.
async fn closed(mut stream: SplitStream<Socket>, frame: Option<CloseFrame>) -> Ending {
    let _answered = timeout(CLOSE_TIMEOUT, stream.next()).await;
    let (code, reason) = frame.map_or((CloseCode::Status, String::new()), |f| {
        (f.code, f.reason.as_str().to_owned())
    });
    Ending::ByHub(code.into(), reason)
}
