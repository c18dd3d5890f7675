//! What every request passes through: its id, its span, its metrics, and the charge for its answer.

use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::call::Metadata;
use alkhub_protocol::{CallError, Code, Delivered, RawJson, RequestId, time};
use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::conformance;
use crate::error::{ApiError, ProblemBody};
use crate::header::{METADATA, PARENT, REQUEST_ID, TIMEOUT, only};
use crate::metrics::EdgeMetrics;
use crate::payer::Payer;
use crate::trace::continue_trace;

/// The variable parts of a path, percent-decoded.
#[derive(Debug)]
pub struct Path<T>(pub T);

/// The id of the request that is being answered.
#[derive(Clone, Debug)]
pub struct Id(pub RequestId);

/// Gives a request its id before anything can answer it, and adds the id to an answer that has none: a preflight gets
/// no further than its layer.
pub(crate) async fn identify(mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let value = header_of(&id);
    request.extensions_mut().insert(Id(id));
    let mut response = next.run(request).await;
    response.headers_mut().entry(REQUEST_ID).or_insert(value);
    response
}

/// Gives a request its span, counts it, and puts the id into the answer, including a problem document.
pub(crate) async fn observe(State(metrics): State<Arc<EdgeMetrics>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let known = request.extensions().get::<Id>();
    let id = known.map_or_else(|| request_id(request.headers()), |known| known.0.clone());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().clone();
    let span = tracing::info_span!("request", request.id = %id, http.method = %method, http.route = %route);
    continue_trace(&span, request.headers());
    request.extensions_mut().insert(Id(id.clone()));
    let payer = Payer::of(&mut request);
    let last = conformance::ends_connection(&request);

    let response = match conformance::check(&request) {
        Ok(()) => next.run(request).instrument(span.clone()).await,
        Err(refusal) => refusal.into_response(),
    };
    let mut response = payer
        .charge(named(response, &id), &method)
        .unwrap_or_else(|refusal| named(refusal.into_response(), &id));

    let elapsed = started.elapsed();
    let status = response.status();
    let method = known_method(&method);
    metrics.request(&route, method, status.as_u16(), elapsed);
    span.in_scope(|| {
        tracing::debug!(
            http.status = status.as_u16(),
            duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            "answered"
        );
    });
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, header_of(&id));
    // What one key sees is for nobody else.
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    if last {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Puts the request's id into a problem document.
fn named(mut response: Response, id: &RequestId) -> Response {
    if let Some(ProblemBody(mut problem)) = response.extensions_mut().remove::<ProblemBody>() {
        problem.instance = Some(id.to_string());
        let body = serde_json::to_vec(&problem).expect("a problem is a plain struct");
        response.headers_mut().remove(CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }
    response
}

/// The answer to a panic of ours.
pub(crate) fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    tracing::error!("a request panicked; the panic's own message stands above");
    let message = "the hub failed; its log has the reason under this request's id";
    // It may have been a call that was under way.
    let error = CallError::new(Code::Internal, message).delivered(Delivered::Maybe);
    ApiError::from(error).into_response()
}

fn header_of(id: &RequestId) -> HeaderValue {
    HeaderValue::from_str(id.as_str()).expect("visible ASCII is a header's value")
}

/// The client's id if it is valid, otherwise a new one that sorts by time.
fn request_id(headers: &HeaderMap) -> RequestId {
    only(headers, &REQUEST_ID)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or_else(|| {
            let id = uuid::Uuid::now_v7().to_string();
            id.parse().expect("a UUID is visible ASCII")
        })
}

/// The method as a label: a closed set in metrics.
fn known_method(method: &http::Method) -> &'static str {
    match *method {
        http::Method::GET => "GET",
        http::Method::POST => "POST",
        http::Method::PUT => "PUT",
        http::Method::DELETE => "DELETE",
        http::Method::HEAD => "HEAD",
        http::Method::OPTIONS => "OPTIONS",
        http::Method::PATCH => "PATCH",
        _ => "OTHER",
    }
}

/// The time limit that the caller gives in `Alkhub-Timeout`: `500ms`, `5s`, `2m`, or seconds without a unit.
///
/// # Errors
/// The header is present and cannot be read.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    value
        .to_str()
        .ok()
        .and_then(|text| time::parse(text.trim()))
        .map(Some)
        .ok_or_else(|| ApiError::bad_request("header `Alkhub-Timeout` must be a time such as `500ms`, `5s` or `2m`"))
}

/// What accompanies the call besides its input, from `Alkhub-Metadata`: a JSON object.
pub fn metadata(headers: &HeaderMap) -> Result<Option<Metadata>, ApiError> {
    let Some(value) = headers.get(METADATA) else {
        return Ok(None);
    };
    let wrong = |why: String| ApiError::bad_request(format!("header `Alkhub-Metadata`: {why}"));
    let raw = RawJson::parse(value.as_bytes().to_vec()).map_err(|e| wrong(e.to_string()))?;
    Metadata::new(raw).map(Some).map_err(|e| wrong(e.to_string()))
}

/// The call during which this one is made, from `Alkhub-Parent-Request-Id`.
pub fn parent(headers: &HeaderMap) -> Result<Option<RequestId>, ApiError> {
    let Some(value) = headers.get(PARENT) else {
        return Ok(None);
    };
    let parent = value.to_str().ok().and_then(|text| text.parse().ok());
    parent.map(Some).ok_or_else(|| {
        ApiError::bad_request("header `Alkhub-Parent-Request-Id` must be 1 to 128 visible ASCII characters")
    })
}

// === impl Path, Id ===

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(path)| Self(path))
            .map_err(|e| ApiError::bad_request(e.body_text()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let id = parts.extensions.get::<Self>().cloned();
        Ok(id.unwrap_or_else(|| Self(request_id(&parts.headers))))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn a_clients_request_id_is_kept_when_it_is_one() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("abc-1"));
        assert_eq!(request_id(&headers).as_str(), "abc-1");

        headers.insert(REQUEST_ID, HeaderValue::from_static("with space"));
        assert_eq!(request_id(&headers).as_str().len(), 36);

        headers.insert(REQUEST_ID, HeaderValue::from_static("abc-1"));
        headers.append(REQUEST_ID, HeaderValue::from_static("abc-2"));
        assert_eq!(request_id(&headers).as_str().len(), 36, "two are none");
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_that_tells_nothing() {
        async fn broken() {
            panic!("secret");
        }
        let router = axum::Router::new()
            .route("/", axum::routing::get(broken))
            .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked));

        let request = Request::new(Body::empty());
        let response = tower::ServiceExt::oneshot(router, request).await.expect("answered");

        assert_eq!(response.status(), 500);
        let body = response.into_body().collect().await.expect("read").to_bytes();
        let problem: alkhub_protocol::Problem = serde_json::from_slice(&body).expect("a problem document");
        assert_eq!((problem.code, problem.delivered), (Code::Internal, Delivered::Maybe));
        assert!(!problem.detail.contains("secret"));
    }
}
