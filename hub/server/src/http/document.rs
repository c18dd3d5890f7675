//! The OpenAPI document as it is served.

use alkhub_edge::envelope;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha1::{Digest as _, Sha1};

use crate::app::App;

/// The OpenAPI document as it is served: made once, for it is the same until the hub ends.
#[derive(Debug)]
pub(crate) struct Document {
    text: Bytes,
    tag: HeaderValue,
}

// === impl Document ===

impl Document {
    fn new() -> Self {
        let text = crate::openapi().to_string();
        let hash = Sha1::digest(text.as_bytes());
        let tag: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self {
            tag: HeaderValue::from_str(&format!("\"{tag}\"")).expect("hexadecimal digits"),
            text: text.into(),
        }
    }
}

/// `GET /v1/openapi.json`: 304 to who has it already.
pub(crate) async fn openapi(State(app): State<App>, headers: HeaderMap) -> Response {
    let document = app.document.get_or_init(Document::new);
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
