//! The OpenAPI document, and what answers where nothing is.

use alkhub_protocol::Code;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use sha1::{Digest as _, Sha1};

use crate::app::App;
use crate::envelope;
use crate::error::ApiError;

/// Characters of a path that are said of it, at most.
const SHOWN: usize = 200;

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

/// No such route.
pub(crate) async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(
        Code::NotFound,
        format!("there is no route `{}`; see /v1/openapi.json", shown(&uri)),
    )
}

/// The route has other methods; `Allow` names them.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        Code::MethodNotAllowed,
        format!("`{}` has no method {method}", shown(&uri)),
    )
}

/// As much of a path as is said of it: who has no key writes it too.
fn shown(uri: &Uri) -> String {
    uri.path().chars().take(SHOWN).collect()
}
