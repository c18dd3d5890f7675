//! The envelope: `{type, id, payload}`, the one shape of every message of the origin.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{self, IgnoredAny};
use serde_json::value::RawValue;
use std::borrow::Cow;

use crate::json::{self, RawJson};
use crate::{FRAME_DEPTH_LIMIT, FRAME_LIMIT_BYTES, PAYLOAD_LIMIT_BYTES};

/// A message with its payload as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Event or message type.
    pub kind: String,
    /// Topic or correlation id; empty if the peer sent none.
    pub id: String,
    /// `None` when the field is absent, which differs from `null`.
    pub payload: Option<RawJson>,
    /// The transport's own header, present only between hubs.
    pub transport: Option<TransportHeader>,
}

/// What a hub adds to an envelope that crosses Redis, in the field `_alk`; the origin ignores it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct TransportHeader {
    /// The hub that published the event.
    pub node: String,
    /// Bridges passed so far.
    #[serde(default)]
    pub hop: u8,
}

/// Why bytes are not an envelope.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More bytes than [`FRAME_LIMIT_BYTES`], or a payload over [`PAYLOAD_LIMIT_BYTES`].
    #[error("message of {size} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What arrived.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Not JSON, or nested too deep.
    #[error(transparent)]
    Json(#[from] json::Error),
    /// JSON, but not `{type, id, payload}`.
    #[error("a frame is an envelope, the JSON object {{\"type\": string, \"id\": string, \"payload\": any}}: {0}")]
    Shape(serde_json::Error),
}

/// An envelope that shares the bytes of its frame: most are only looked at and not kept.
#[derive(Debug)]
pub(crate) struct Borrowed<'a> {
    pub(crate) kind: Cow<'a, str>,
    pub(crate) id: Cow<'a, str>,
    pub(crate) payload: Option<RawJson>,
    transport: Option<TransportHeader>,
}

#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(rename = "_alk", borrow, default)]
    transport: Option<&'a RawValue>,
}

/// Keeps `null` apart from an absent field.
pub(crate) fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

// === impl Envelope ===

impl Envelope {
    /// Reads an envelope; its payload shares the bytes of `frame`.
    ///
    /// # Errors
    /// [`Error`], checked in this order: size, depth, syntax, shape, size of the payload.
    pub fn decode(frame: &Bytes) -> Result<Self, Error> {
        let (envelope, _) = Borrowed::read(frame)?;
        limit(envelope.payload.as_ref())?;
        Ok(envelope.into_owned())
    }

    /// Writes the envelope as one JSON text.
    pub fn encode(&self) -> Bytes {
        encode(&self.kind, &self.id, self.payload.as_ref(), self.transport.as_ref())
    }
}

// === impl Borrowed ===

impl<'a> Borrowed<'a> {
    /// [`Envelope::decode`] without the limit on the payload: for a call, the limit applies to the input or the output
    /// inside. Also returns how deep the frame nests.
    pub(crate) fn read(frame: &'a Bytes) -> Result<(Self, usize), Error> {
        if frame.len() > FRAME_LIMIT_BYTES {
            return Err(Error::TooLarge {
                size: frame.len(),
                limit: FRAME_LIMIT_BYTES,
            });
        }
        let depth = json::depth(frame, FRAME_DEPTH_LIMIT)?;
        // serde would read an array as the fields in order.
        if frame.trim_ascii_start().first() == Some(&b'[') {
            serde_json::from_slice::<IgnoredAny>(frame).map_err(classify)?;
            return Err(Error::Shape(de::Error::custom("this is an array")));
        }
        // Every frame passes through here, so the head contains no struct.
        let head: Head<'_> = serde_json::from_slice(frame).map_err(classify)?;
        let transport = head.transport.map(|raw| json::strict::from_str(raw.get()));
        let envelope = Self {
            kind: head.kind,
            id: head.id,
            payload: head.payload.map(|raw| RawJson::slice_of(frame, raw)),
            transport: transport.transpose().map_err(classify)?,
        };
        Ok((envelope, depth))
    }

    /// The same with memory of its own for its names.
    pub(crate) fn into_owned(self) -> Envelope {
        Envelope {
            kind: self.kind.into_owned(),
            id: self.id.into_owned(),
            payload: self.payload,
            transport: self.transport,
        }
    }
}

/// Checks a payload, an input or an output against [`PAYLOAD_LIMIT_BYTES`].
pub(crate) fn limit(value: Option<&RawJson>) -> Result<(), Error> {
    match value.map(RawJson::len) {
        Some(size) if size > PAYLOAD_LIMIT_BYTES => Err(Error::TooLarge {
            size,
            limit: PAYLOAD_LIMIT_BYTES,
        }),
        _ => Ok(()),
    }
}

/// Writes an envelope from its parts without copying them into one first.
pub fn encode(kind: &str, id: &str, payload: Option<&RawJson>, transport: Option<&TransportHeader>) -> Bytes {
    let size =
        48 + kind.len() + id.len() + payload.map_or(0, RawJson::len) + transport.map_or(0, |t| t.node.len() + 32);
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(b"{\"type\":");
    push_string(&mut out, kind);
    out.extend_from_slice(b",\"id\":");
    push_string(&mut out, id);
    if let Some(payload) = payload {
        out.extend_from_slice(b",\"payload\":");
        out.extend_from_slice(payload.as_bytes());
    }
    if let Some(transport) = transport {
        out.extend_from_slice(b",\"_alk\":{\"node\":");
        push_string(&mut out, &transport.node);
        out.extend_from_slice(format!(",\"hop\":{}}}", transport.hop).as_bytes());
    }
    out.push(b'}');
    out.into()
}

/// Appends a JSON string.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing a string to memory cannot fail");
}

fn classify(error: serde_json::Error) -> Error {
    match error.classify() {
        serde_json::error::Category::Data => Error::Shape(error),
        _ => Error::Json(json::Error::Syntax(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &'static str) -> Result<Envelope, Error> {
        Envelope::decode(&Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn null_absent_and_empty_payloads_stay_different() {
        let absent = decode(r#"{"type":"a","id":"1"}"#).expect("valid");
        let null = decode(r#"{"type":"a","id":"1","payload":null}"#).expect("valid");
        let empty = decode(r#"{"type":"a","id":"1","payload":""}"#).expect("valid");

        assert_eq!(absent.payload, None);
        assert_eq!(null.payload.expect("present").as_str(), "null");
        assert_eq!(empty.payload.expect("present").as_str(), "\"\"");
    }

    #[test]
    fn an_envelope_is_written_as_it_was_read() {
        let text = r#"{"type":"a\"b","id":"ü","payload":{"n":1.50},"_alk":{"node":"h1","hop":2}}"#;

        assert_eq!(decode(text).expect("valid").encode(), text.as_bytes());
    }

    #[test]
    fn each_fault_has_its_own_answer() {
        assert!(matches!(decode("{"), Err(Error::Json(_))));
        assert!(matches!(decode("[]"), Err(Error::Shape(_))));
        assert!(matches!(decode(r#"{"id":"1"}"#), Err(Error::Shape(_))));
        assert!(matches!(decode(r#"{"type":1}"#), Err(Error::Shape(_))));
        let large = Bytes::from(vec![b' '; FRAME_LIMIT_BYTES + 1]);
        assert!(matches!(Envelope::decode(&large), Err(Error::TooLarge { .. })));
    }
}
