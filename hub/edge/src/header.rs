//! The headers that a hub itself reads or writes by name: one list of those of a request, with how often each may occur
//! and whether a page may send it, and one of those of an answer that a page may read.
//!
//! Invariants
//! - A single-valued header that occurs twice is refused by name: a proxy and the hub might each read a different one.
//!   Exempt are lists, and headers that count as absent if they occur twice ([`only`]): `traceparent`, as W3C's trace
//!   context has it, and `X-Request-Id`.

use alkhub_protocol::header as own;
use http::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::ApiError;

/// The request's id, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The span of the caller's trace (W3C).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// How long the caller waits.
pub const TIMEOUT: HeaderName = HeaderName::from_static(own::TIMEOUT.name);

/// What accompanies a call besides its input.
pub const METADATA: HeaderName = HeaderName::from_static(own::METADATA.name);

/// The call during which this one is made.
pub const PARENT: HeaderName = HeaderName::from_static(own::PARENT.name);

/// Where a reader of events stopped.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A header of requests.
struct RequestHeader {
    name: HeaderName,
    /// The name as people write it.
    title: &'static str,
    /// Whether a request with two of them is refused.
    is_single: bool,
    /// Whether the script of a page may set it.
    is_of_pages: bool,
}

static OF_REQUESTS: [RequestHeader; 9] = [
    request(AUTHORIZATION, "Authorization", true, true),
    // A browser sets it itself.
    request(ORIGIN, "Origin", true, false),
    request(CONTENT_TYPE, "Content-Type", false, true),
    request(REQUEST_ID, "X-Request-Id", false, true),
    request(TRACEPARENT, "traceparent", false, true),
    request(TIMEOUT, own::TIMEOUT.title, true, true),
    request(METADATA, own::METADATA.title, true, true),
    request(PARENT, own::PARENT.title, true, true),
    request(LAST_EVENT_ID, "Last-Event-ID", true, true),
];

/// The headers of answers that the script of a page may read.
pub(crate) const READ_BY_PAGES: [HeaderName; 2] = [REQUEST_ID, RETRY_AFTER];

const fn request(name: HeaderName, title: &'static str, is_single: bool, is_of_pages: bool) -> RequestHeader {
    RequestHeader {
        name,
        title,
        is_single,
        is_of_pages,
    }
}

/// The headers that the script of a page may set.
pub(crate) fn sent_by_pages() -> Vec<HeaderName> {
    let of_pages = OF_REQUESTS.iter().filter(|header| header.is_of_pages);
    of_pages.map(|header| header.name.clone()).collect()
}

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
    let is_repeated = |header: &&RequestHeader| headers.get_all(&header.name).iter().nth(1).is_some();
    let mut single = OF_REQUESTS.iter().filter(|header| header.is_single);
    match single.find(is_repeated) {
        Some(RequestHeader { title: name, .. }) => {
            let message = format!("header `{name}` is there more than once: send it once");
            Err(ApiError::bad_request(message))
        }
        None => Ok(()),
    }
}
