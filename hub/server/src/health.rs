//! The management listener: `/metrics`, `/livez`, `/readyz`.

use alkhub_edge::error::ApiError;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use prometheus::{Encoder as _, TextEncoder};
use serde_json::json;

use crate::app::App;

/// `GET /metrics`.
pub(crate) async fn metrics(State(app): State<App>) -> Response {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&app.registry.gather(), &mut text) {
        Ok(()) => ([(CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => ApiError::internal(&error).into_response(),
    }
}

/// `GET /livez`: the process answers.
pub(crate) async fn live() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// `GET /readyz`: whether clients should come here, and what is away.
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let report = app.readiness.report();
    let status = if report.status.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(report)).into_response()
}
