//! Reads the payloads of frames: which call or topic it is about, and whether each part is valid.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::session::{Ack, Hubs};
use super::{ErrorKind, Frame, Requested, kind};
use crate::call::{Delivered, Metadata};
use crate::envelope::{self, Borrowed, present};
use crate::json::strict;
use crate::topic::TopicRequest;
use crate::{CallError, Code, RawJson, RequestId};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a JSON object")]
struct CallPayload<'a> {
    #[serde(borrow, default)]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    operation_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    input: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    output: Option<&'a RawValue>,
    #[serde(borrow, default)]
    parent_request_id: Option<Cow<'a, str>>,
    #[serde(default)]
    deadline: Option<AnyMillis>,
    #[serde(default)]
    timeout_ms: Option<Millis>,
    #[serde(default)]
    idle_timeout: Option<AnyMillis>,
    #[serde(default)]
    target: Option<Target>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    identity: Option<&'a RawValue>,
    #[serde(borrow, default)]
    code: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    details: Option<&'a RawValue>,
    #[serde(default)]
    retryable: bool,
    #[serde(default)]
    delivered: Option<Delivered>,
    #[serde(default)]
    retry_after_ms: Option<Millis>,
}

/// Which spoke is wanted. Ignoring an unknown selector would send the call to a different spoke, so it is refused.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object {\"spokeId\": \"name\"}")]
struct Target {
    #[serde(default)]
    spoke_id: Option<crate::SpokeName>,
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

/// A whole number of milliseconds; `1.5e12` also counts as one.
#[derive(Clone, Copy)]
struct Millis(u64);

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(MillisVisitor).map(Self)
    }
}

struct MillisVisitor;

impl Visitor<'_> for MillisVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of milliseconds, 0 or more")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<u64, E> {
        if number.fract() == 0.0 && (0.0..=LAST_WHOLE).contains(&number) {
            return whole(number).ok_or_else(|| E::invalid_type(de::Unexpected::Float(number), &self));
        }
        Err(E::invalid_type(de::Unexpected::Float(number), &self))
    }
}

/// Beyond 2^53, a double does not identify a single whole number.
const LAST_WHOLE: f64 = 9_007_199_254_740_992.0;

/// The whole part of a number from 0 to [`LAST_WHOLE`].
fn whole(number: f64) -> Option<u64> {
    format!("{:.0}", number.trunc()).parse().ok()
}

/// Milliseconds as the origin's timers accept them: any number, whose whole part is clamped to 0 to 2^53. The origin's
/// clocks have fractions, and its "never" is the largest number there is.
#[derive(Clone, Copy)]
struct AnyMillis(u64);

impl<'de> Deserialize<'de> for AnyMillis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(AnyMillisVisitor).map(Self)
    }
}

struct AnyMillisVisitor;

impl Visitor<'_> for AnyMillisVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of milliseconds")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
        Ok(number.min(1 << 53))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
        self.visit_u64(u64::try_from(number).unwrap_or(0))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<u64, E> {
        // This includes `-0.0`, which is written with its sign.
        if number < 1.0 {
            return Ok(0);
        }
        whole(number.min(LAST_WHOLE)).ok_or_else(|| E::invalid_type(de::Unexpected::Float(number), &self))
    }
}

pub(super) fn call(envelope: &Borrowed<'_>) -> Result<Frame, ErrorKind> {
    let message = || envelope.kind.to_string();
    let payload = object(envelope)?.bytes();
    // Every item of every stream passes through here: it is an object, as was checked, and contains no struct but
    // `Target`, which is read from an object only, since it keeps what it does not know.
    let body: CallPayload<'_> = serde_json::from_slice(&payload).map_err(|source| ErrorKind::Payload {
        message: message(),
        source,
    })?;
    let id = body.request_id.as_deref().filter(|id| !id.is_empty());
    let id = id.unwrap_or(&envelope.id);
    if id.is_empty() {
        return Err(ErrorKind::RequestIdMissing(message()));
    }
    let request_id: RequestId = id.parse()?;
    let raw = |raw: Option<&RawValue>| raw.map(|raw| RawJson::slice_of(&payload, raw));
    let input = raw(body.input);
    envelope::limit(input.as_ref())?;
    Ok(match &*envelope.kind {
        kind::REQUESTED => {
            let metadata = raw(body.metadata).map(Metadata::new).transpose()?;
            Frame::Requested(requested(request_id, &body, input, metadata)?)
        }
        kind::RESPONDED => Frame::Responded {
            request_id,
            // The hub checks its limit: what the hub wraps around an output is added to it.
            output: raw(body.output).unwrap_or_else(RawJson::null),
        },
        kind::COMPLETED => Frame::Completed { request_id },
        kind::ABORTED => Frame::Aborted { request_id },
        _ => Frame::Failed {
            request_id,
            error: failure(&body, raw(body.details)),
        },
    })
}

/// The payload, which must be an object.
fn object<'a>(envelope: &'a Borrowed<'_>) -> Result<&'a RawJson, ErrorKind> {
    match &envelope.payload {
        None => Err(ErrorKind::PayloadMissing(envelope.kind.to_string())),
        // serde would read an array as the fields in order.
        Some(payload) if payload.as_bytes().first() != Some(&b'{') => {
            Err(ErrorKind::PayloadShape(envelope.kind.to_string()))
        }
        Some(payload) => Ok(payload),
    }
}

fn requested(
    request_id: RequestId,
    body: &CallPayload<'_>,
    input: Option<RawJson>,
    metadata: Option<Metadata>,
) -> Result<Requested, ErrorKind> {
    let parent = body
        .parent_request_id
        .as_deref()
        .filter(|id| !id.is_empty())
        .map(str::parse)
        .transpose()?;
    let target = body.target.as_ref();
    if let Some(unknown) = target.and_then(|target| target.unknown.keys().next()) {
        return Err(ErrorKind::UnsupportedTarget(unknown.chars().take(80).collect()));
    }
    Ok(Requested {
        request_id,
        operation: body.operation_id.as_deref().unwrap_or("").parse()?,
        input,
        deadline_ms: body.deadline.map(|AnyMillis(ms)| ms),
        timeout_ms: body.timeout_ms.map(|Millis(ms)| ms),
        idle_timeout_ms: body.idle_timeout.map(|AnyMillis(ms)| ms),
        parent,
        target: target.and_then(|target| target.spoke_id.clone()),
        traceparent: metadata.as_ref().and_then(Metadata::traceparent).map(str::to_owned),
        metadata: metadata.map(Box::new),
        // An invalid identity counts as none: nobody but a hub is believed.
        identity: body
            .identity
            .and_then(|raw| strict::from_str(raw.get()).ok())
            .map(Box::new),
    })
}

fn failure(body: &CallPayload<'_>, details: Option<RawJson>) -> CallError {
    let code = body.code.as_deref().unwrap_or("").parse().unwrap_or(Code::UnknownError);
    let code = if code == Code::Domain(String::new()) {
        Code::UnknownError
    } else {
        code
    };
    CallError {
        code,
        message: body
            .message
            .as_deref()
            .unwrap_or("the spoke gave no message")
            .to_owned(),
        details,
        retryable: body.retryable,
        delivered: body.delivered.unwrap_or(Delivered::Yes),
        retry_after_ms: body.retry_after_ms.map(|Millis(ms)| ms),
        declared_status: None,
    }
}

/// `hub.register`, or `hub.register.update`, as a message: equivalent to a call of the operation of that name with the
/// payload as its input.
pub(super) fn register(envelope: &Borrowed<'_>) -> Result<Frame, ErrorKind> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Id {
        #[serde(default)]
        request_id: Option<String>,
    }
    let input = object(envelope)?.clone();
    envelope::limit(Some(&input))?;
    let inner: Id = input.to().map_err(|source| ErrorKind::Payload {
        message: envelope.kind.to_string(),
        source,
    })?;
    let id = inner.request_id.as_deref().filter(|id| !id.is_empty());
    let id = id.unwrap_or(&envelope.id);
    // A message without an id uses its type as the request id.
    let request_id = if id.is_empty() { &envelope.kind } else { id }.parse()?;
    let operation = envelope.kind.parse().expect("a valid name");
    Ok(Frame::Requested(Requested {
        request_id,
        operation,
        input: Some(input),
        deadline_ms: None,
        timeout_ms: None,
        idle_timeout_ms: None,
        parent: None,
        target: None,
        traceparent: None,
        metadata: None,
        identity: None,
    }))
}

pub(super) fn control(envelope: &Borrowed<'_>) -> Result<Frame, ErrorKind> {
    let message = || envelope.kind.to_string();
    fn read<T: serde::de::DeserializeOwned>(envelope: &Borrowed<'_>) -> Result<T, ErrorKind> {
        let payload = envelope
            .payload
            .as_ref()
            .ok_or_else(|| ErrorKind::PayloadMissing(envelope.kind.to_string()))?;
        payload.to().map_err(|source| ErrorKind::Payload {
            message: envelope.kind.to_string(),
            source,
        })
    }
    let topic = || read::<TopicRequest>(envelope);
    Ok(match &*envelope.kind {
        kind::SUBSCRIBE => Frame::Subscribe(topic()?.filter()?),
        kind::UNSUBSCRIBE => Frame::Unsubscribe(topic()?.filter()?),
        kind::SUBSCRIBED => Frame::Subscribed(topic()?.filter()?.to_string()),
        kind::UNSUBSCRIBED => Frame::Unsubscribed(topic()?.filter()?.to_string()),
        kind::GAP => Frame::Gap(read(envelope)?),
        kind::REFUSED => Frame::Refused(read(envelope)?),
        kind::HELLO => Frame::Hello(Box::new(read(envelope)?)),
        kind::WELCOME => Frame::Welcome(Box::new(read(envelope)?)),
        kind::RESUME => Frame::Resumed(read(envelope)?),
        kind::ACK => Frame::Acknowledged(read::<Ack>(envelope)?.count),
        kind::HUBS => Frame::Hubs(read::<Hubs>(envelope)?.count),
        kind::PING => Frame::Ping(sign_of_life(envelope)?),
        kind::PONG => Frame::Pong(sign_of_life(envelope)?),
        kind::MIGRATE => Frame::Migrate(Box::new(read(envelope)?)),
        _ => return Err(ErrorKind::Unsupported(message())),
    })
}

/// How many bytes of a `__ping` its answer repeats at most: as many as a WebSocket ping may have.
const ECHO_LIMIT: usize = 125;

fn sign_of_life(envelope: &Borrowed<'_>) -> Result<Option<RawJson>, ErrorKind> {
    let payload = envelope.payload.clone();
    match payload.as_ref().map_or(0, RawJson::len) {
        ..=ECHO_LIMIT => Ok(payload),
        size => Err(envelope::Error::TooLarge {
            size,
            limit: ECHO_LIMIT,
        }
        .into()),
    }
}
