//! What the SDK and the hubs send each other, frame by frame, as recorded by the proxy between them.

use std::future::ready;
use std::io::empty;

use alkhub_sdk::protocol::Frame;
use alkhub_sdk::protocol::register::RefusedDetails;
use alkhub_test_support::{Proxy, Recording, Said, until};
use bytes::Bytes;
use serde_json::Value;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// The prefix of every request about a registration.
const REGISTER: &str = "hub.register";

/// A change of a registration, as it is named on the wire.
pub(crate) const UPDATE: &str = "hub.register__2Eupdate";

/// The connections through a proxy that were made since the recording began.
pub(crate) struct Wire(Recording);

/// What was sent over one connection so far.
#[derive(Debug, Default)]
pub(crate) struct Spoken {
    /// The query in its URL, once that has arrived.
    pub(crate) query: Option<String>,
    /// The SDK's requests about its registration, in order.
    pub(crate) asked: Vec<Asked>,
    /// How many calls the SDK has answered.
    pub(crate) answers: usize,
    /// Whether the SDK has said goodbye rather than just disappearing.
    pub(crate) goodbye: bool,
    /// For each refusal, the hashes that the hub did not know.
    pub(crate) unknown: Vec<Vec<String>>,
}

/// A request about a registration.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) operation: String,
    pub(crate) input: Value,
}

// === impl Wire ===

impl Wire {
    pub(crate) fn of(link: &Proxy) -> Self {
        Self(link.record())
    }

    /// What was sent, connection by connection.
    pub(crate) fn spoken(&self) -> Vec<Spoken> {
        self.0.said().iter().map(Spoken::read).collect()
    }

    /// The requests about registrations, connection by connection.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.spoken().into_iter().flat_map(|spoken| spoken.asked).collect()
    }

    /// The same, once there are this many.
    pub(crate) async fn asks(&self, requests: usize) -> Vec<Asked> {
        self.shows("so many requests about registrations", |spoken| {
            spoken.iter().map(|one| one.asked.len()).sum::<usize>() >= requests
        })
        .await;
        self.asked()
    }

    /// Waits until something was sent.
    pub(crate) async fn shows(&self, what: &str, look: impl Fn(&[Spoken]) -> bool) {
        until(what, || {
            let spoken = self.spoken();
            let seen = look(&spoken);
            ready(if seen { Ok(()) } else { Err(format!("{spoken:?}")) })
        })
        .await;
    }
}

// === impl Spoken ===

impl Spoken {
    fn read(said: &Said) -> Self {
        let mut spoken = Self::default();
        let Some((head, of_sdk)) = split(&said.to_server) else {
            return spoken;
        };
        let address = head.split(' ').nth(1).unwrap_or_default();
        let query = address.split_once('?').map_or("", |(_, query)| query);
        spoken.query = Some(query.to_owned());
        messages(of_sdk, Role::Server)
            .into_iter()
            .for_each(|message| spoken.says(message));
        let of_hub = split(&said.to_client).map_or_else(Vec::new, |(_, of_hub)| of_hub);
        messages(of_hub, Role::Client)
            .into_iter()
            .for_each(|message| spoken.hears(message));
        spoken
    }

    fn says(&mut self, message: Message) {
        match message {
            Message::Text(text) => match frame(text) {
                Frame::Requested(call) if call.operation.as_str().starts_with(REGISTER) => self.asked.push(Asked {
                    operation: call.operation.to_string(),
                    input: call.input.expect("it has one").to().expect("JSON"),
                }),
                Frame::Responded { .. } => self.answers += 1,
                _ => {}
            },
            Message::Close(_) => self.goodbye = true,
            _ => {}
        }
    }

    fn hears(&mut self, message: Message) {
        let Message::Text(text) = message else {
            return;
        };
        if let Frame::Failed { error, .. } = frame(text)
            && let Some(details) = error.details
        {
            let details: RefusedDetails = details.to().unwrap_or_default();
            self.unknown.push(details.unknown);
        }
    }
}

// === impl Asked ===

impl Asked {
    /// The entries that a registration offers.
    pub(crate) fn offers(&self) -> &[Value] {
        assert_eq!(self.operation, REGISTER, "{self:?}");
        self.input["operations"].as_array().expect("a list")
    }
}

fn frame(text: Utf8Bytes) -> Frame {
    Frame::decode(&Bytes::from(text)).expect("a frame").0
}

/// The head with which a connection begins, and what came after it.
fn split(said: &[u8]) -> Option<(String, Vec<u8>)> {
    const END: &[u8] = b"\r\n\r\n";
    let end = said.windows(END.len()).position(|bytes| bytes == END)?;
    let head = String::from_utf8_lossy(&said[..end]).into_owned();
    Some((head, said[end + END.len()..].to_vec()))
}

/// The messages that have arrived completely, as read in this role.
fn messages(said: Vec<u8>, role: Role) -> Vec<Message> {
    let mut socket = WebSocket::from_partially_read(empty(), said, role, None);
    std::iter::from_fn(|| socket.read().ok()).collect()
}
