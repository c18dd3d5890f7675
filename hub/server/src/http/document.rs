//! The OpenAPI document, and what answers where nothing is.

use alkhub_protocol::Code;
use axum::response::Response;
use http::{Method, StatusCode, Uri};

use crate::envelope;
use crate::error::ApiError;

/// `GET /v1/openapi.json`.
pub(crate) async fn openapi() -> Response {
    envelope::json(StatusCode::OK, crate::openapi().to_string())
}

/// No such route.
pub(crate) async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(
        Code::NotFound,
        format!("there is no route `{}`; see /v1/openapi.json", uri.path()),
    )
}

/// The route has other methods; `Allow` names them.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        Code::MethodNotAllowed,
        format!("`{}` has no method {method}", uri.path()),
    )
}
