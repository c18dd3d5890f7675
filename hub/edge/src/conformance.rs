//! What RFC 9110 and 9112 require of a request, before anybody looks at its meaning (docs/HTTP.md has the whole table).

use alkhub_protocol::Code;
use axum::extract::Request;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode, Version};

use crate::error::ApiError;
use crate::header;

/// Checks a request's frame.
///
/// # Errors
/// 400 without exactly one valid `Host`, with a single-valued header given twice, or with an unknown transfer coding;
/// 417 for an unknown expectation, 415 for an encoded body.
pub(crate) fn check(request: &Request) -> Result<(), ApiError> {
    check_host(request)?;
    let headers = request.headers();
    header::check(headers)?;
    if has_unknown_coding(headers) {
        return Err(ApiError::bad_request(
            "`Transfer-Encoding` may be `chunked`, once, and nothing else",
        ));
    }
    if expectations(headers).any(|expected| !expected.eq_ignore_ascii_case("100-continue")) {
        return Err(ApiError::bad_request("`Expect` may be `100-continue` and nothing else")
            .with_status(StatusCode::EXPECTATION_FAILED));
    }
    let encoded = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().any(encoded) {
        let message = "the body must not be encoded: leave `Content-Encoding` out";
        return Err(ApiError::new(Code::BadRequest, message).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    Ok(())
}

/// Whether the client waits for `100 Continue` before it sends its body.
pub(crate) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.contains_key(EXPECT)
}

/// Whether the connection ends with the request. It does if the request gives its length twice, in two ways, in which
/// case RFC 9112 allows reading it by `Transfer-Encoding`; and if the body has an unknown coding.
pub(crate) fn ends_connection(request: &Request) -> bool {
    let headers = request.headers();
    let has_two_lengths = headers.contains_key(CONTENT_LENGTH) && headers.contains_key(TRANSFER_ENCODING);
    has_two_lengths || has_unknown_coding(headers)
}

/// Whether the body has a transfer coding besides `chunked`: hyper accepts any list that ends with that, and removes
/// only that.
fn has_unknown_coding(headers: &HeaderMap) -> bool {
    let is_chunked = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let first = codings.next();
    first.is_some_and(|first| !is_chunked(first)) || codings.next().is_some()
}

fn check_host(request: &Request) -> Result<(), ApiError> {
    let wrong = |rule: &str| {
        Err(ApiError::bad_request(format!(
            "a request needs one header `Host`: {rule}"
        )))
    };
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => wrong("this one has more"),
        (Some(host), None) if !is_host(host.as_bytes()) => wrong("its value is no host"),
        (None, _) if request.version() == Version::HTTP_11 => wrong("this one has none"),
        _ => Ok(()),
    }
}

/// A host with or without a port; nothing is valid if the target has no authority.
fn is_host(value: &[u8]) -> bool {
    value.is_empty() || Authority::try_from(value).is_ok_and(|authority| !authority.as_str().contains('@'))
}

fn expectations(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(EXPECT)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or("?").split(','))
        .map(str::trim)
}
