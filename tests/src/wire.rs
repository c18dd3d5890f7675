//! A peer that speaks the origin's frames over a bare WebSocket, without our SDK.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async, connect_async_with_config};

/// The longest wait for a frame that must come.
const PATIENCE: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The message that came, or the code and reason of a close that came instead.
pub type Closing<T> = Result<T, (u16, String)>;

/// One WebSocket.
#[derive(Debug)]
pub struct Peer {
    socket: Socket,
    /// Messages that came before the answer to a registration, such as calls.
    early: VecDeque<Value>,
}

/// The half of a [`Peer`] that sends.
#[derive(Debug)]
pub struct Sender {
    socket: SplitSink<Socket, Message>,
}

/// The half of a [`Peer`] that reads. Pings are answered only while something is being read.
#[derive(Debug)]
pub struct Receiver {
    socket: SplitStream<Socket>,
}

// === impl Peer ===

impl Peer {
    /// Connects to `{url}/v1/ws` with a key in the header.
    ///
    /// # Errors
    /// The hub refused the upgrade.
    pub async fn connect(url: &str, token: &str) -> Result<Self> {
        let (socket, _) = connect_async_with_config(upgrade(url, token)?, None, true).await?;
        Ok(Self::of(socket))
    }

    /// The same at `address`, for a peer that knows the hub by the name in `url`.
    ///
    /// # Errors
    /// As [`Peer::connect`].
    pub async fn connect_by_name(address: &str, url: &str, token: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (socket, _) = client_async(upgrade(url, token)?, MaybeTlsStream::Plain(stream)).await?;
        Ok(Self::of(socket))
    }

    fn of(socket: Socket) -> Self {
        Self {
            socket,
            early: VecDeque::new(),
        }
    }

    /// Splits it, for one task that reads and another that sends. Dropping both halves cuts the connection.
    pub fn split(self) -> (Sender, Receiver) {
        let (sink, stream) = self.socket.split();
        (Sender { socket: sink }, Receiver { socket: stream })
    }

    /// Sends a text frame as it is.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send_text(&mut self, text: impl Into<String>) -> Result<()> {
        let text: String = text.into();
        Ok(self.socket.send(Message::text(text)).await?)
    }

    /// Sends `{type, id, payload}`.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send(&mut self, kind: &str, id: &str, payload: Value) -> Result<()> {
        self.send_text(envelope(kind, id, &payload)).await
    }

    /// Sends an envelope `times` times in one write.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send_at_once(&mut self, times: usize, kind: &str, payload: &Value) -> Result<()> {
        for _ in 0..times {
            self.socket.feed(Message::text(envelope(kind, "", payload))).await?;
        }
        Ok(self.socket.flush().await?)
    }

    /// The next envelope; pings are answered on the way.
    ///
    /// # Errors
    /// Nothing came within 10 s, or the connection ended: the message tells how.
    pub async fn next(&mut self) -> Result<Value> {
        if let Some(early) = self.early.pop_front() {
            return Ok(early);
        }
        self.next_frame().await
    }

    async fn next_frame(&mut self) -> Result<Value> {
        let frame = tokio::time::timeout(PATIENCE, self.frame())
            .await
            .context("no frame within 10 s")??;
        Ok(serde_json::from_str(&frame)?)
    }

    /// The next envelope of one type; others are passed over.
    ///
    /// # Errors
    /// As [`Peer::next`].
    pub async fn next_of(&mut self, kind: &str) -> Result<Value> {
        loop {
            let envelope = self.next().await?;
            if envelope["type"] == kind {
                return Ok(envelope);
            }
        }
    }

    /// Answers the next call with its own input: the call.
    ///
    /// # Errors
    /// As [`Peer::next`].
    pub async fn echo(&mut self) -> Result<Value> {
        let asked = self.next_of("call.requested").await?;
        let call = &asked["payload"];
        let answer = json!({ "requestId": call["requestId"], "output": call["input"] });
        self.send("call.responded", "", answer).await?;
        Ok(asked)
    }

    /// The next envelope, however long it takes, or the code and reason with which the hub closes.
    ///
    /// # Errors
    /// The connection broke, or the hub sent no JSON.
    pub async fn next_or_closed(&mut self) -> Result<Closing<Value>> {
        if let Some(early) = self.early.pop_front() {
            return Ok(Ok(early));
        }
        next_or_closed(&mut self.socket).await
    }

    /// The code and reason with which the hub closes; frames before that are passed over.
    ///
    /// # Errors
    /// The hub does not close within 10 s.
    pub async fn closed(&mut self) -> Result<(u16, String)> {
        let close = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(Some(frame)))) => return Ok((frame.code.into(), frame.reason.to_string())),
                    Some(Ok(Message::Close(None))) => return Ok((1005, String::new())),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => bail!("the connection broke: {error}"),
                    None => bail!("the connection ended without a close frame"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, close)
            .await
            .context("no close within 10 s")?
    }

    /// Registers operations as the origin's spokes do; the hub's answer. Calls that come before it are kept for later.
    ///
    /// # Errors
    /// The hub refused, or did not answer.
    pub async fn register(&mut self, name: &str, operations: Value) -> Result<Value> {
        let input = json!({ "name": name, "operations": operations, "spokeType": "dev-env" });
        let payload = json!({ "requestId": "register", "operationId": "hub.register", "input": input });
        self.send("call.requested", "", payload).await?;
        let answer = loop {
            let frame = self.next_frame().await?;
            match frame["type"].as_str() {
                Some("call.responded") => break frame,
                Some("call.requested") => self.early.push_back(frame),
                _ => bail!("not registered: {frame}"),
            }
        };
        Ok(answer["payload"]["output"]["data"].clone())
    }

    async fn frame(&mut self) -> Result<String> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
                Some(Ok(Message::Binary(bytes))) => return Ok(String::from_utf8(bytes.into())?),
                Some(Ok(Message::Close(frame))) => bail!("closed by the hub: {frame:?}"),
                Some(Ok(_)) => {}
                Some(Err(error)) => bail!("the connection broke: {error}"),
                None => bail!("the connection ended"),
            }
        }
    }
}

// === impl Sender ===

impl Sender {
    /// Sends `{type, id, payload}`.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send(&mut self, kind: &str, id: &str, payload: &Value) -> Result<()> {
        Ok(self.socket.send(Message::text(envelope(kind, id, payload))).await?)
    }

    /// Begins to close the connection, as a peer that is done.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn close(&mut self) -> Result<()> {
        Ok(self.socket.close().await?)
    }
}

// === impl Receiver ===

impl Receiver {
    /// [`Peer::next_or_closed`].
    ///
    /// # Errors
    /// The connection broke, or the hub sent no JSON.
    pub async fn next_or_closed(&mut self) -> Result<Closing<Value>> {
        next_or_closed(&mut self.socket).await
    }
}

fn upgrade(url: &str, token: &str) -> Result<Request> {
    let url = format!("{}/v1/ws", url.replacen("http", "ws", 1));
    let mut request = url.into_client_request()?;
    let key = format!("Bearer {token}").parse()?;
    request.headers_mut().insert("authorization", key);
    Ok(request)
}

fn envelope(kind: &str, id: &str, payload: &Value) -> String {
    json!({ "type": kind, "id": id, "payload": payload }).to_string()
}

async fn next_or_closed(
    messages: &mut (impl Stream<Item = tungstenite::Result<Message>> + Unpin),
) -> Result<Closing<Value>> {
    loop {
        match messages.next().await {
            Some(Ok(Message::Text(text))) => return Ok(Ok(serde_json::from_str(&text)?)),
            Some(Ok(Message::Close(Some(frame)))) => return Ok(Err((frame.code.into(), frame.reason.to_string()))),
            Some(Ok(_)) => {}
            Some(Err(error)) => bail!("the connection broke: {error}"),
            None => bail!("the connection ended without a close frame"),
        }
    }
}

/// An OperationSpec that accepts and gives anything.
pub fn operation(namespace: &str, name: &str, kind: &str) -> Value {
    json!({
        "name": name, "namespace": namespace, "version": "1.0.0", "type": kind,
        "description": format!("{namespace}.{name} for a test"),
        "inputSchema": {}, "outputSchema": {}, "accessControl": { "requiredScopes": [] },
    })
}
