//! The headers that a hub itself reads by name, and how often each may occur in a request.
//!
//! Invariants
//! - A single-valued header that occurs twice is refused by name: a proxy and the hub might each read a different one.
//!   Exempt are lists, and headers that count as absent if they occur twice ([`only`]): `traceparent`, as W3C's trace
//!   context has it, and `X-Request-Id`.

use alkhub_protocol::header as own;
use http::header::{AUTHORIZATION, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::ApiError;

/// The request's id, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How long the caller waits.
pub const TIMEOUT: HeaderName = HeaderName::from_static(own::TIMEOUT.name);

/// What accompanies a call besides its input.
pub const METADATA: HeaderName = HeaderName::from_static(own::METADATA.name);

/// The call during which this one is made.
pub const PARENT: HeaderName = HeaderName::from_static(own::PARENT.name);

/// Where a reader of events stopped.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Single-valued headers, with their names as people write them.
static SINGLE: [(HeaderName, &str); 6] = [
    (AUTHORIZATION, "Authorization"),
    (ORIGIN, "Origin"),
    (TIMEOUT, own::TIMEOUT.title),
    (METADATA, own::METADATA.title),
    (PARENT, own::PARENT.title),
    (LAST_EVENT_ID, "Last-Event-ID"),
];

/// The value of a header, if it occurs exactly once.
pub fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Checks that each single-valued header occurs at most once.
///
/// # Errors
/// 400 that names the repeated header.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), ApiError> {
    let is_repeated = |name: &HeaderName| headers.get_all(name).iter().nth(1).is_some();
    match SINGLE.iter().find(|(name, _)| is_repeated(name)) {
        Some((_, name)) => {
            let message = format!("header `{name}` is there more than once: send it once");
            Err(ApiError::bad_request(message))
        }
        None => Ok(()),
    }
}
