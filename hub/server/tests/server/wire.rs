//! A WebSocket peer that knows frames and nothing else: the wire is the product.

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Request};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::harness::{LIMIT, TestHub};

pub(crate) struct Wire(pub(crate) WebSocketStream<MaybeTlsStream<TcpStream>>);

/// Where a peer puts the request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// With `id: ""`, and the request id in the payload.
    Origin,
    /// In the envelope's `id`.
    Successor,
}

/// The request of the opening handshake.
pub(crate) fn request(hub: &TestHub, key: Option<&str>) -> Request<()> {
    let url = format!("{}/v1/ws", hub.hub.url().replacen("http", "ws", 1));
    let mut request = url.into_client_request().expect("a URL");
    if let Some(key) = key {
        let value = HeaderValue::from_str(&format!("Bearer {key}")).expect("a header");
        request.headers_mut().insert("authorization", value);
    }
    request
}

// === impl Wire ===

impl Wire {
    /// Connects with a key in the header.
    pub(crate) async fn connect(hub: &TestHub, key: &str) -> Self {
        Self::open(request(hub, Some(key))).await.expect("connects")
    }

    /// The spoke `text` with these operations, in the origin's dialect.
    pub(crate) async fn spoke(hub: &TestHub, operations: &[Value]) -> Self {
        let (key, _) = hub.spoke_key("text").await;
        let mut spoke = Self::connect(hub, &key).await;
        spoke.register(Dialect::Origin, operations).await;
        spoke
    }

    pub(crate) async fn open(request: Request<()>) -> Result<Self, Box<Error>> {
        // Nagle's algorithm would hold back a message until the one before it is acknowledged, which may take 40 ms.
        let connecting = connect_async_with_config(request, None, true);
        let connected = timeout(LIMIT, connecting).await.expect("connects in time");
        connected.map(|(socket, _)| Self(socket)).map_err(Box::new)
    }

    /// The HTTP status with which the opening handshake is refused.
    pub(crate) async fn refused(request: Request<()>) -> u16 {
        match Self::open(request).await.map_err(|error| *error) {
            Err(Error::Http(response)) => response.status().as_u16(),
            Err(other) => panic!("no HTTP answer: {other}"),
            Ok(_) => panic!("the handshake was not refused"),
        }
    }

    pub(crate) async fn send(&mut self, message: &Value) {
        self.text(&message.to_string()).await;
    }

    pub(crate) async fn text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("sent");
    }

    pub(crate) async fn message(&mut self, message: Message) {
        self.0.send(message).await.expect("sent");
    }

    /// The next message, whole.
    pub(crate) async fn next(&mut self) -> Message {
        loop {
            let next = timeout(LIMIT, self.0.next()).await.expect("a message in time");
            match next.expect("the connection is open").expect("a message") {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    /// The next JSON message.
    pub(crate) async fn recv(&mut self) -> Value {
        let message = self.next().await;
        assert!(!message.is_close(), "closed: {message:?}");
        serde_json::from_slice(&message.into_data()).expect("JSON")
    }

    /// The next message, which must have this type.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        let message = self.recv().await;
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// Reads until the hub closes; returns the code and the reason.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(frame) = self.next().await {
                let frame = frame.expect("a close with a code");
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }

    /// Reads for as long as it takes until the hub closes; returns the code.
    pub(crate) async fn let_go(&mut self) -> u16 {
        loop {
            let message = self.0.next().await.expect("the connection is open").expect("a message");
            if let Message::Close(frame) = message {
                return frame.expect("a close with a code").code.into();
            }
        }
    }

    /// Makes a call in a dialect, without waiting.
    pub(crate) async fn call(&mut self, dialect: Dialect, id: &str, operation: &str, input: Value) {
        let mut payload = json!({ "requestId": id, "operationId": operation, "input": input });
        let mut envelope_id = "";
        if dialect == Dialect::Successor {
            payload.as_object_mut().expect("an object").remove("requestId");
            envelope_id = id;
        }
        self.send(&json!({ "type": "call.requested", "id": envelope_id, "payload": payload }))
            .await;
    }

    /// Registers operations as the origin does, and checks that all were accepted.
    pub(crate) async fn register(&mut self, dialect: Dialect, operations: &[Value]) -> Value {
        let input = json!({
            "identity": { "id": "somebody else", "scopes": ["admin"] },
            "operations": operations,
            "spokeType": "dev-env",
        });
        self.call(dialect, "register-1", "hub.register", input).await;
        let answer = self.expect("call.responded").await;
        assert_eq!(answer["payload"]["requestId"], "register-1", "{answer}");
        let data = answer["payload"]["output"]["data"].clone();
        let results = data["operations"].as_array().expect("results");
        assert!(results.iter().all(|result| result["result"] != "rejected"), "{data}");
        data
    }

    /// Answers a call as a spoke, with a bare value.
    pub(crate) async fn respond(&mut self, call: &Value, output: Value) {
        let payload = json!({ "requestId": call["payload"]["requestId"], "output": output });
        self.send(&json!({ "type": "call.responded", "id": call["id"], "payload": payload }))
            .await;
    }

    /// Says something about a call, as its spoke.
    pub(crate) async fn say(&mut self, kind: &str, call: &Value, more: Value) {
        let mut payload = more;
        payload["requestId"] = call["payload"]["requestId"].clone();
        self.send(&json!({ "type": kind, "id": call["id"], "payload": payload }))
            .await;
    }
}

/// An operation whose input and output are text.
pub(crate) fn operation(namespace: &str, name: &str, kind: &str) -> Value {
    json!({
        "namespace": namespace,
        "name": name,
        "version": "1.0.0",
        "type": kind,
        "description": "made for a test",
        "inputSchema": { "type": "string" },
        "outputSchema": { "type": "string" },
        "accessControl": { "requiredScopes": [] },
    })
}
