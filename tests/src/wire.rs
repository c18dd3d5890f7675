//! A peer that speaks the origin's frames over a bare WebSocket, without our SDK.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// Longest wait for a frame that must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// One WebSocket.
#[derive(Debug)]
pub struct Peer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

// === impl Peer ===

impl Peer {
    /// Connects to `{url}/v1/ws` with a key in the header.
    ///
    /// # Errors
    /// The hub refused the upgrade.
    pub async fn connect(url: &str, token: &str) -> Result<Self> {
        let url = format!("{}/v1/ws", url.replacen("http", "ws", 1));
        let mut request = url.into_client_request()?;
        request
            .headers_mut()
            .insert("authorization", format!("Bearer {token}").parse()?);
        let (socket, _) = connect_async(request).await?;
        Ok(Self { socket })
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
        self.send_text(json!({ "type": kind, "id": id, "payload": payload }).to_string())
            .await
    }

    /// The next envelope; pings are answered on the way.
    ///
    /// # Errors
    /// Nothing came within 10 s, or the connection ended: the message tells how.
    pub async fn next(&mut self) -> Result<Value> {
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

    /// The next envelope, however long it takes, or the code and reason with which the hub closes.
    ///
    /// # Errors
    /// The connection broke, or the hub sent no JSON.
    pub async fn next_or_closed(&mut self) -> Result<Result<Value, (u16, String)>> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(Ok(serde_json::from_str(&text)?)),
                Some(Ok(Message::Close(Some(frame)))) => return Ok(Err((frame.code.into(), frame.reason.to_string()))),
                Some(Ok(_)) => {}
                Some(Err(error)) => bail!("the connection broke: {error}"),
                None => bail!("the connection ended without a close frame"),
            }
        }
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

    /// Registers operations as the origin's spokes do; the hub's answer.
    ///
    /// # Errors
    /// The hub refused, or did not answer.
    pub async fn register(&mut self, name: &str, operations: Value) -> Result<Value> {
        let input = json!({ "name": name, "operations": operations, "spokeType": "dev-env" });
        let payload = json!({ "requestId": "register", "operationId": "hub.register", "input": input });
        self.send("call.requested", "", payload).await?;
        let answer = self.next().await?;
        if answer["type"] != "call.responded" {
            bail!("not registered: {answer}");
        }
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

/// An OperationSpec that accepts and gives anything.
pub fn operation(namespace: &str, name: &str, kind: &str) -> Value {
    json!({
        "name": name, "namespace": namespace, "version": "1.0.0", "type": kind,
        "description": format!("{namespace}.{name} for a test"),
        "inputSchema": {}, "outputSchema": {}, "accessControl": { "requiredScopes": [] },
    })
}
