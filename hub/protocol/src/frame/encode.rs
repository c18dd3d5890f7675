//! Writes frames: one function for each message.
//!
//! Payloads are copied as they are. Golden tests pin the output: a change here is a change of the protocol and needs a
//! decision record.

use std::time::Duration;

use bytes::Bytes;

use super::session::{Ack, Hello, Hubs, Migrate, Resume, Welcome};
use super::{Dialect, Gap, kind};
use crate::call::{Identity, Metadata};
use crate::envelope::{encode as envelope, push_string};
use crate::{CallError, OperationName, RawJson, SpokeName, Topic, TopicFilter};

/// What a `call.requested` has besides its id, its operation and its input.
#[derive(Clone, Debug, Default)]
pub struct RequestOptions<'a> {
    /// Time left; written as `timeoutMs` and, with `now_ms`, as the origin's absolute `deadline`.
    pub timeout: Option<Duration>,
    /// For subscriptions: the longest silence between items.
    pub idle_timeout: Option<Duration>,
    /// The call during which this one is made.
    pub parent: Option<&'a str>,
    /// W3C trace context; put into the metadata unless these have one of their own.
    pub traceparent: Option<&'a str>,
    /// The caller's metadata.
    pub metadata: Option<&'a Metadata>,
    /// Who asks; only a hub sends it.
    pub identity: Option<&'a Identity>,
    /// The spoke that must answer; only a caller sends it.
    pub target: Option<&'a SpokeName>,
    /// The operation as its spoke spells it, if that differs from its name.
    pub spelled: Option<&'a str>,
    /// Milliseconds since the epoch, for `deadline`.
    pub now_ms: u64,
}

/// `call.requested`; to a spoke, with the operation as that spoke spells it. Without an input there is no `input`.
pub fn call_requested(
    dialect: Dialect,
    request_id: &str,
    operation: &OperationName,
    input: Option<&RawJson>,
    options: &RequestOptions<'_>,
) -> Bytes {
    let operation = options.spelled.unwrap_or(operation.as_str());
    let more = operation.len() + input.map_or(0, RawJson::len) + 160;
    let mut out = start(kind::REQUESTED, dialect, request_id, more);
    out.extend_from_slice(b",\"operationId\":");
    push_string(&mut out, operation);
    if let Some(input) = input {
        out.extend_from_slice(b",\"input\":");
        out.extend_from_slice(input.as_bytes());
    }
    if let Some(parent) = options.parent {
        out.extend_from_slice(b",\"parentRequestId\":");
        push_string(&mut out, parent);
    }
    if let Some(timeout) = options.timeout {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let deadline = options.now_ms.saturating_add(timeout_ms);
        out.extend_from_slice(format!(",\"deadline\":{deadline},\"timeoutMs\":{timeout_ms}").as_bytes());
    }
    if let Some(idle) = options.idle_timeout {
        out.extend_from_slice(format!(",\"idleTimeout\":{}", idle.as_millis()).as_bytes());
    }
    push_metadata(&mut out, options);
    if let Some(identity) = options.identity {
        out.extend_from_slice(b",\"identity\":");
        serde_json::to_writer(&mut out, identity).expect("an identity is a plain struct");
    }
    if let Some(target) = options.target {
        out.extend_from_slice(b",\"target\":{\"spokeId\":");
        push_string(&mut out, target.as_str());
        out.push(b'}');
    }
    end(out)
}

fn push_metadata(out: &mut Vec<u8>, options: &RequestOptions<'_>) {
    let own = options.metadata.map(|metadata| metadata.raw().as_bytes());
    let traced = options
        .metadata
        .is_some_and(|metadata| metadata.traceparent().is_some());
    let traceparent = options.traceparent.filter(|_| !traced);
    if own.is_none() && traceparent.is_none() {
        return;
    }
    out.extend_from_slice(b",\"metadata\":");
    // The caller's own members, without the brackets.
    let members = own.map_or(&[][..], |own| &own[1..own.len() - 1]);
    let Some(traceparent) = traceparent else {
        return out.extend_from_slice(own.unwrap_or(b"{}"));
    };
    out.extend_from_slice(b"{\"traceparent\":");
    push_string(out, traceparent);
    if !members.trim_ascii().is_empty() {
        out.push(b',');
        out.extend_from_slice(members);
    }
    out.push(b'}');
}

/// `call.responded`: the output, or one item of a subscription.
pub fn call_responded(dialect: Dialect, request_id: &str, output: &RawJson) -> Bytes {
    let mut out = start(kind::RESPONDED, dialect, request_id, output.len() + 16);
    out.extend_from_slice(b",\"output\":");
    out.extend_from_slice(output.as_bytes());
    end(out)
}

/// `call.completed`: no more items follow.
pub fn call_completed(dialect: Dialect, request_id: &str) -> Bytes {
    end(start(kind::COMPLETED, dialect, request_id, 0))
}

/// `call.aborted`: tells a spoke to stop, or a caller that the call was stopped. `reason` is one sentence.
pub fn call_aborted(dialect: Dialect, request_id: &str, reason: Option<&str>) -> Bytes {
    let mut out = start(kind::ABORTED, dialect, request_id, 0);
    if let Some(reason) = reason {
        out.extend_from_slice(b",\"reason\":");
        push_string(&mut out, reason);
    }
    end(out)
}

/// `call.error`.
pub fn call_error(dialect: Dialect, request_id: &str, error: &CallError) -> Bytes {
    let mut out = start(kind::FAILED, dialect, request_id, 128);
    let body = serde_json::to_vec(error).expect("an error is a plain struct");
    out.push(b',');
    out.extend_from_slice(&body[1..body.len() - 1]);
    end(out)
}

/// An event.
pub fn event(topic: &Topic, payload: Option<&RawJson>) -> Bytes {
    envelope(topic.event_type(), topic.id(), payload, None)
}

/// `__subscribe`, `__unsubscribe`, `__subscribed` or `__unsubscribed` with `{topic}`.
pub fn topic_control(kind: &str, filter: &TopicFilter) -> Bytes {
    let payload = RawJson::from(serde_json::json!({ "topic": filter.to_string() }));
    envelope(kind, "", Some(&payload), None)
}

/// `__gap`.
pub fn gap(gap: &Gap) -> Bytes {
    let payload = RawJson::from_value(gap).expect("a gap is a plain struct");
    envelope(kind::GAP, "", Some(&payload), None)
}

/// `__error`: a frame that belongs to no call was refused; `topic` names the subscription, if it was about one.
pub fn refused(error: &CallError, topic: Option<&str>) -> Bytes {
    refusal(error, topic.map(|topic| ("topic", topic)))
}

/// `__error` about a message that named a call without ending it: `requestId` says which.
pub fn refused_of_call(error: &CallError, request_id: &str) -> Bytes {
    refusal(error, Some(("requestId", request_id)))
}

/// `__hello`.
pub fn hello(hello: &Hello) -> Bytes {
    control(kind::HELLO, hello)
}

/// `__welcome`.
pub fn welcome(welcome: &Welcome) -> Bytes {
    control(kind::WELCOME, welcome)
}

/// `__resume`.
pub fn resumed(resume: &Resume) -> Bytes {
    control(kind::RESUME, resume)
}

/// `hub.migrate`.
pub fn migrate(migrate: &Migrate) -> Bytes {
    control(kind::MIGRATE, migrate)
}

/// `__ack`: this many messages of the session were received.
pub fn ack(count: u64) -> Bytes {
    control(kind::ACK, &Ack { count })
}

/// `__hubs`: this many hubs take connections.
pub fn hubs(count: u32) -> Bytes {
    control(kind::HUBS, &Hubs { count })
}

/// `__ping`.
pub fn ping() -> Bytes {
    envelope(kind::PING, "", None, None)
}

/// `__pong`, with the payload of the `__ping`.
pub fn pong(payload: Option<&RawJson>) -> Bytes {
    envelope(kind::PONG, "", payload, None)
}

fn control(kind: &str, payload: &impl serde::Serialize) -> Bytes {
    let payload = RawJson::from_value(payload).expect("a plain struct is JSON");
    envelope(kind, "", Some(&payload), None)
}

fn refusal(error: &CallError, about: Option<(&str, &str)>) -> Bytes {
    // Serialized once: details may hold numbers that none of our types hold.
    #[derive(serde::Serialize)]
    struct Refusal<'a> {
        #[serde(flatten)]
        error: &'a CallError,
        #[serde(flatten)]
        about: Option<std::collections::BTreeMap<&'a str, &'a str>>,
    }
    let about = about.map(|about| std::collections::BTreeMap::from([about]));
    let payload = RawJson::from_value(&Refusal { error, about }).expect("an error is a plain struct");
    envelope(kind::REFUSED, "", Some(&payload), None)
}

fn start(kind: &str, dialect: Dialect, request_id: &str, more: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(96 + 2 * request_id.len() + more);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"id\":");
    match dialect {
        Dialect::Payload => out.extend_from_slice(b"\"\""),
        Dialect::Id => push_string(&mut out, request_id),
    }
    out.extend_from_slice(b",\"payload\":{\"requestId\":");
    push_string(&mut out, request_id);
    out
}

fn end(mut out: Vec<u8>) -> Bytes {
    out.extend_from_slice(b"}}");
    out.into()
}
