//! The envelope of every JSON answer: `{"data": …, "meta": {"source": "local", "timestamp": ms}}`.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::Serialize;

use crate::error::ApiError;

/// An answer with data.
#[derive(Debug)]
pub struct Data<T>(pub StatusCode, pub T);

/// A page of a list; if more may follow, `meta.next` is the cursor to ask with.
#[derive(Debug)]
pub struct Page<T> {
    /// The items of this page.
    pub items: Vec<T>,
    /// Where the next page begins; `None` on the last page.
    pub next: Option<String>,
}

/// What accompanies the data.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation_id: Option<&'a str>,
    timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

// === impl Data ===

impl<T> Data<T> {
    /// The usual answer.
    pub fn ok(data: T) -> Self {
        Self(StatusCode::OK, data)
    }
}

impl<T: Serialize> IntoResponse for Data<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.1) {
            Ok(data) => json(self.0, local(&data, None)),
            Err(error) => ApiError::internal(&error).into_response(),
        }
    }
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        let meta = Meta {
            next: self.next,
            ..Meta::now()
        };
        match serde_json::to_vec(&self.items) {
            Ok(data) => json(StatusCode::OK, wrap(&data, &meta)),
            Err(error) => ApiError::internal(&error).into_response(),
        }
    }
}

impl Meta<'_> {
    fn now() -> Self {
        Self {
            source: "local",
            timestamp: Timestamp::now().as_millisecond(),
            ..Self::default()
        }
    }
}

/// A JSON answer, sent as it is.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    streamed(status, body.into().into())
}

/// A JSON answer that is written while it is produced.
pub fn streamed(status: StatusCode, body: Body) -> Response {
    let mut response = (status, body).into_response();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What follows the items of a list that began with `{"data":[`.
pub fn end_of_page(next: Option<String>) -> Vec<u8> {
    let meta = Meta { next, ..Meta::now() };
    let meta = serde_json::to_vec(&meta).expect("a plain struct");
    [b"],\"meta\":", &*meta, b"}"].concat()
}

/// Wraps a JSON text without parsing it.
pub fn local(data: &[u8], operation: Option<&str>) -> Vec<u8> {
    let meta = Meta {
        operation_id: operation,
        ..Meta::now()
    };
    wrap(data, &meta)
}

fn wrap(data: &[u8], meta: &Meta<'_>) -> Vec<u8> {
    let meta = serde_json::to_vec(meta).expect("a plain struct");
    [b"{\"data\":", data, b",\"meta\":", &meta, b"}"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_wrapped_as_it_is() {
        let wrapped = local(br#"{"n":1.50}"#, Some("hub.register"));

        assert!(wrapped.starts_with(br#"{"data":{"n":1.50},"meta":{"#));
        let value: serde_json::Value = serde_json::from_slice(&wrapped).expect("JSON");
        assert_eq!(value["meta"]["operationId"], "hub.register");
        assert_eq!(value["meta"]["source"], "local");
    }
}
