//! What is sent: payloads, ids and `call.requested`.

use alkhub_protocol::PAYLOAD_LIMIT_BYTES;
use alkhub_protocol::call::{InvalidMetadata, METADATA_LIMIT_BYTES, Metadata};
use alkhub_protocol::frame::encode::{self, RequestOptions};
use alkhub_protocol::{Dialect, FRAME_LIMIT_BYTES, OperationName, RawJson, RequestId};
use bytes::Bytes;
use serde::Serialize;

use super::options::CallOptions;
use crate::Error;

/// Writes a value as JSON and checks its size.
pub(crate) fn payload<T: Serialize + ?Sized>(value: &T) -> Result<RawJson, Error> {
    let raw = RawJson::from_value(value).map_err(Error::encode)?;
    check_size(raw.len(), PAYLOAD_LIMIT_BYTES)?;
    Ok(raw)
}

pub(crate) fn check_size(size: usize, limit: usize) -> Result<(), Error> {
    if size > limit {
        Err(Error::TooLarge { size, limit })
    } else {
        Ok(())
    }
}

/// A new, unique request id.
pub(crate) fn new_id() -> RequestId {
    uuid::Uuid::now_v7()
        .to_string()
        .parse()
        .expect("a UUID is visible ASCII")
}

pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A call as it is sent.
pub(super) fn requested(
    id: &RequestId,
    operation: &OperationName,
    input: &RawJson,
    options: &CallOptions,
) -> Result<Bytes, Error> {
    let metadata = options.metadata.clone().map(metadata).transpose()?;
    let wire = RequestOptions {
        timeout: options.timeout,
        idle_timeout: options.idle_timeout,
        parent: options.parent.as_ref().map(RequestId::as_str),
        traceparent: options.traceparent.as_deref(),
        metadata: metadata.as_ref(),
        target: options.target.as_ref(),
        now_ms: now_ms(),
        ..RequestOptions::default()
    };
    let input = Some(input).filter(|_| !options.without_input);
    let frame = encode::call_requested(Dialect::Id, id.as_str(), operation, input, &wire);
    check_size(frame.len(), FRAME_LIMIT_BYTES)?;
    Ok(frame)
}

fn metadata(raw: RawJson) -> Result<Metadata, Error> {
    Metadata::new(raw).map_err(|error| match error {
        InvalidMetadata::TooLarge(size) => Error::TooLarge {
            size,
            limit: METADATA_LIMIT_BYTES,
        },
        InvalidMetadata::NoObject => Error::Setting {
            setting: "the call's metadata",
            reason: error.to_string(),
        },
    })
}

#[cfg(test)]
mod tests {
    use alkhub_protocol::Frame;

    use super::*;

    #[test]
    fn a_target_and_metadata_are_part_of_the_request() {
        let operation = "a.b".parse().expect("valid");
        let options = CallOptions {
            target: Some("builder".parse().expect("valid")),
            traceparent: Some("00-a-b-01".to_owned()),
            metadata: Some(RawJson::parse(r#"{"n":1.50}"#).expect("JSON")),
            ..CallOptions::default()
        };

        let frame = requested(&new_id(), &operation, &RawJson::null(), &options).expect("small");

        let (Frame::Requested(call), _) = Frame::decode(&frame).expect("valid") else {
            panic!("not a request")
        };
        assert_eq!(call.target.expect("given").as_str(), "builder");
        assert_eq!(
            call.metadata.expect("given").raw().as_str(),
            r#"{"traceparent":"00-a-b-01","n":1.50}"#
        );
    }

    #[test]
    fn an_input_is_null_or_is_not_sent() {
        let operation = "a.b".parse().expect("valid");
        for (without_input, wanted) in [(false, Some(RawJson::null())), (true, None)] {
            let options = CallOptions {
                without_input,
                ..CallOptions::default()
            };

            let frame = requested(&new_id(), &operation, &RawJson::null(), &options).expect("small");

            let (Frame::Requested(call), _) = Frame::decode(&frame).expect("valid") else {
                panic!("not a request")
            };
            assert_eq!(call.input, wanted);
        }
    }

    #[test]
    fn an_input_over_the_limit_is_refused_before_it_is_sent() {
        let error = payload(&"x".repeat(PAYLOAD_LIMIT_BYTES)).expect_err("two quotes too many");

        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
}
