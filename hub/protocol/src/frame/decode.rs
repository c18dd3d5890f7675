//! Reads the payloads of frames: which call, which topic, and whether each part keeps its rule.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Error, ErrorKind, Frame, Requested};
use crate::call::Delivered;
use crate::envelope::{self, Envelope, present};
use crate::id::InvalidId;
use crate::topic::TopicRequest;
use crate::{CallError, Code, RawJson, RequestId};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
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
    deadline: Option<u64>,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    idle_timeout: Option<u64>,
    #[serde(default)]
    target: Option<Target>,
    #[serde(borrow, default)]
    metadata: Option<Metadata<'a>>,
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
    retry_after_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    #[serde(default)]
    spoke_id: Option<crate::SpokeName>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow, default)]
    traceparent: Option<Cow<'a, str>>,
}

pub(super) fn call(envelope: &Envelope) -> Result<Frame, Error> {
    let message = || envelope.kind.clone();
    let from_id = || envelope.id.parse::<RequestId>().ok();
    let fail = |request_id, kind| Error { request_id, kind };
    let payload = match &envelope.payload {
        Some(payload) => payload.bytes(),
        None => return Err(fail(from_id(), ErrorKind::PayloadMissing(message()))),
    };
    let body: CallPayload<'_> = serde_json::from_slice(&payload).map_err(|source| {
        fail(
            from_id(),
            ErrorKind::Payload {
                message: message(),
                source,
            },
        )
    })?;
    let id = body.request_id.as_deref().unwrap_or(&envelope.id);
    if id.is_empty() {
        return Err(fail(None, ErrorKind::RequestIdMissing(message())));
    }
    let request_id: RequestId = id.parse().map_err(|e: InvalidId| fail(None, e.into()))?;
    let raw = |raw: Option<&RawValue>| raw.map(|raw| RawJson::slice_of(&payload, raw));
    let input = raw(body.input);
    envelope::limit(input.as_ref()).map_err(|e| fail(Some(request_id.clone()), e.into()))?;
    Ok(match envelope.kind.as_str() {
        "call.requested" => {
            let requested = requested(request_id.clone(), &body, input);
            Frame::Requested(requested.map_err(|kind| fail(Some(request_id), kind))?)
        }
        "call.responded" => Frame::Responded {
            request_id,
            // Its limit is the hub's to check: what the hub wraps around an output comes on top.
            output: raw(body.output).unwrap_or_else(RawJson::null),
        },
        "call.completed" => Frame::Completed { request_id },
        "call.aborted" => Frame::Aborted { request_id },
        _ => Frame::Failed {
            request_id,
            error: failure(&body, raw(body.details)),
        },
    })
}

fn requested(request_id: RequestId, body: &CallPayload<'_>, input: Option<RawJson>) -> Result<Requested, ErrorKind> {
    let parent = body
        .parent_request_id
        .as_deref()
        .filter(|id| !id.is_empty())
        .map(str::parse)
        .transpose()?;
    Ok(Requested {
        request_id,
        operation: body.operation_id.as_deref().unwrap_or("").parse()?,
        input: input.unwrap_or_else(RawJson::null),
        deadline_ms: body.deadline,
        timeout_ms: body.timeout_ms,
        idle_timeout_ms: body.idle_timeout,
        parent,
        target: body.target.as_ref().and_then(|target| target.spoke_id.clone()),
        traceparent: body
            .metadata
            .as_ref()
            .and_then(|m| m.traceparent.as_deref())
            .map(str::to_owned),
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
        retry_after_ms: body.retry_after_ms,
        declared_status: None,
    }
}

/// `hub.register` as a message: the same as a call of the operation `hub.register` with the payload as its input.
pub(super) fn register(envelope: &Envelope) -> Result<Frame, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Id {
        #[serde(default)]
        request_id: Option<String>,
    }
    let fail = |kind| Error {
        request_id: envelope.id.parse().ok(),
        kind,
    };
    let Some(input) = envelope.payload.clone() else {
        return Err(fail(ErrorKind::PayloadMissing(envelope.kind.clone())));
    };
    envelope::limit(Some(&input)).map_err(|e| fail(e.into()))?;
    let inner: Id = input.to().map_err(|source| {
        fail(ErrorKind::Payload {
            message: envelope.kind.clone(),
            source,
        })
    })?;
    let id = inner.request_id.as_deref().unwrap_or(&envelope.id);
    let id = if id.is_empty() { "hub.register" } else { id };
    let request_id = id.parse().map_err(|e: InvalidId| fail(e.into()))?;
    let operation = "hub.register".parse().expect("a valid name");
    Ok(Frame::Requested(Requested {
        request_id,
        operation,
        input,
        deadline_ms: None,
        timeout_ms: None,
        idle_timeout_ms: None,
        parent: None,
        target: None,
        traceparent: None,
    }))
}

pub(super) fn control(envelope: &Envelope) -> Result<Frame, ErrorKind> {
    let message = || envelope.kind.clone();
    fn read<T: serde::de::DeserializeOwned>(envelope: &Envelope) -> Result<T, ErrorKind> {
        let payload = envelope
            .payload
            .as_ref()
            .ok_or_else(|| ErrorKind::PayloadMissing(envelope.kind.clone()))?;
        payload.to().map_err(|source| ErrorKind::Payload {
            message: envelope.kind.clone(),
            source,
        })
    }
    let topic = || read::<TopicRequest>(envelope);
    Ok(match envelope.kind.as_str() {
        "__subscribe" => Frame::Subscribe(topic()?.filter()?),
        "__unsubscribe" => Frame::Unsubscribe(topic()?.filter()?),
        "__subscribed" => Frame::Subscribed(topic()?.filter()?.to_string()),
        "__unsubscribed" => Frame::Unsubscribed(topic()?.filter()?.to_string()),
        "__gap" => Frame::Gap(read(envelope)?),
        "__error" => Frame::Refused(read(envelope)?),
        _ => return Err(ErrorKind::Unsupported(message())),
    })
}
