//! The OpenAPI document as it is served.

use std::sync::{Arc, OnceLock};

use alkhub_edge::envelope;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;
use sha1::{Digest as _, Sha1};

/// The OpenAPI document as it is served: made when it is first asked for, and kept until the hub ends.
#[derive(Debug)]
pub(crate) struct Document {
    make: fn() -> Value,
    made: OnceLock<Made>,
}

#[derive(Debug)]
struct Made {
    text: Bytes,
    tag: HeaderValue,
}

// === impl Document ===

impl Document {
    /// A document that `make` makes.
    pub(crate) fn new(make: fn() -> Value) -> Self {
        Self {
            make,
            made: OnceLock::new(),
        }
    }

    fn made(&self) -> &Made {
        self.made.get_or_init(|| Made::of(&(self.make)()))
    }
}

// === impl Made ===

impl Made {
    fn of(document: &Value) -> Self {
        let text = document.to_string();
        let hash = Sha1::digest(text.as_bytes());
        let tag = hex::encode(&hash[..8]);
        Self {
            tag: HeaderValue::from_str(&format!("\"{tag}\"")).expect("hexadecimal digits"),
            text: text.into(),
        }
    }
}

/// `GET /v1/openapi.json`: 304 for clients that have it already.
pub(crate) async fn openapi(State(document): State<Arc<Document>>, headers: HeaderMap) -> Response {
    let document = document.made();
    let has = |known: &str| known == "*" || known.trim_start_matches("W/").as_bytes() == document.tag.as_bytes();
    let known = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|known| has(known.trim()));
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        envelope::json(StatusCode::OK, document.text.clone())
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, document.tag.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
