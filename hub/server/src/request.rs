//! What every request passes through: its id, its span, its metrics, and the reading of its body and query.

use std::time::Duration;

use alkhub_protocol::call::Metadata;
use alkhub_protocol::{Code, PAYLOAD_LIMIT_BYTES, RawJson, RequestId};
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::app::App;
use crate::error::{self, ApiError};
use crate::{conformance, telemetry};

/// The request's id, in both directions.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// W3C trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// How long the caller waits.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("alkhub-timeout");
pub(crate) const METADATA: HeaderName = HeaderName::from_static("alkhub-metadata");
pub(crate) const PARENT: HeaderName = HeaderName::from_static("alkhub-parent-request-id");

/// A body that has not arrived in this time has failed.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Of a body over the limit this much is read away, so that its sender gets the answer.
const DISCARD_LIMIT: usize = 8 * 1024 * 1024;

/// A request's body as one JSON value within the limits of size and depth; absent when it is empty.
#[derive(Debug)]
pub(crate) struct RawBody(pub(crate) Option<RawJson>);

/// A request's body as a type.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

/// A request's query, each key as often as it stands there.
#[derive(Debug)]
pub(crate) struct Query(Vec<(String, String)>);

/// The variable parts of a path, percent-decoded.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

/// The id of the request that is being answered.
#[derive(Clone, Debug)]
pub(crate) struct Id(pub(crate) RequestId);

/// Gives a request its id and its span, counts it, and puts the id into the answer, into a problem document too.
pub(crate) async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().clone();
    let span = tracing::info_span!("request", request.id = %id, http.method = %method, http.route = %route);
    telemetry::continue_trace(&span, request.headers());
    request.extensions_mut().insert(Id(id.clone()));
    let last = conformance::has_two_lengths(&request);

    let mut response = match conformance::check(&request) {
        Ok(()) => next.run(request).instrument(span.clone()).await,
        Err(refusal) => refusal.into_response(),
    };

    let took = started.elapsed();
    let status = response.status();
    let method = known_method(&method);
    app.metrics.request(&route, method, status.as_u16(), took);
    span.in_scope(|| {
        tracing::debug!(
            http.status = status.as_u16(),
            duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "answered"
        );
    });
    if let Some(error::Body(mut problem)) = response.extensions_mut().remove::<error::Body>() {
        problem.instance = Some(id.to_string());
        let body = serde_json::to_vec(&problem).expect("a problem is a plain struct");
        response.headers_mut().remove(CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }
    let value = HeaderValue::from_str(id.as_str()).expect("visible ASCII is a header's value");
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, value);
    // What one key sees is for nobody else.
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    if last {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The answer to a panic of ours.
pub(crate) fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    tracing::error!("a request panicked; the panic's own message stands above");
    ApiError::new(
        Code::Internal,
        "the hub failed; its log has the reason under this request's id",
    )
    .into_response()
}

/// The client's id where it is one, else a new one that sorts by time.
fn request_id(headers: &HeaderMap) -> RequestId {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or_else(|| {
            let id = uuid::Uuid::now_v7().to_string();
            id.parse().expect("a UUID is visible ASCII")
        })
}

/// Methods are a closed set in metrics.
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

/// Time that the caller gives, from `Alkhub-Timeout`: `500ms`, `5s`, `2m`, or seconds without a unit.
///
/// # Errors
/// The header is there and cannot be read.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    value
        .to_str()
        .ok()
        .and_then(duration)
        .map(Some)
        .ok_or_else(|| ApiError::bad_request("header `Alkhub-Timeout` must be a time such as `500ms`, `5s` or `2m`"))
}

/// What travels with the call beside its input, from `Alkhub-Metadata`: a JSON object.
pub(crate) fn metadata(headers: &HeaderMap) -> Result<Option<Metadata>, ApiError> {
    let Some(value) = headers.get(METADATA) else {
        return Ok(None);
    };
    let wrong = |why: String| ApiError::bad_request(format!("header `Alkhub-Metadata`: {why}"));
    let raw = RawJson::parse(value.as_bytes().to_vec()).map_err(|e| wrong(e.to_string()))?;
    Metadata::new(raw).map(Some).map_err(|e| wrong(e.to_string()))
}

/// The call in whose course this one is made, from `Alkhub-Parent-Request-Id`.
pub(crate) fn parent(headers: &HeaderMap) -> Result<Option<RequestId>, ApiError> {
    let Some(value) = headers.get(PARENT) else {
        return Ok(None);
    };
    let parent = value.to_str().ok().and_then(|text| text.parse().ok());
    parent.map(Some).ok_or_else(|| {
        ApiError::bad_request("header `Alkhub-Parent-Request-Id` must be 1 to 128 visible ASCII characters")
    })
}

fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().ok()?;
    let ms = match &text[digits..] {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    }?;
    Some(Duration::from_millis(ms))
}

// === impl Query ===

impl Query {
    /// The first value of a key.
    pub(crate) fn first(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Every value of a key.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The first value of a key as a type.
    ///
    /// # Errors
    /// The value is there and cannot be read; the key is named.
    pub(crate) fn parse<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, ApiError>
    where
        T::Err: std::fmt::Display,
    {
        self.first(key)
            .map(|value| {
                value
                    .parse()
                    .map_err(|e: T::Err| ApiError::bad_request(format!("query parameter `{key}` is not valid: {e}")))
            })
            .transpose()
    }

    /// Reads a query string.
    pub(crate) fn read(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or("").split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decoded(key), decoded(value))
                })
                .collect(),
        )
    }
}

fn decoded(text: &str) -> String {
    let spaces = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaces)
        .decode_utf8_lossy()
        .into_owned()
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::read(parts.uri.query()))
    }
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

// === impl RawBody, JsonBody ===

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let body = read(request).await?;
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(None));
        }
        RawJson::parse(body)
            .map(|json| Self(Some(json)))
            .map_err(|e| ApiError::bad_request(format!("the body cannot be read: {e}")))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let RawBody(json) = RawBody::from_request(request, state).await?;
        let json = json.ok_or_else(|| ApiError::bad_request("the request needs a JSON body"))?;
        json.to()
            .map(Self)
            .map_err(|e| ApiError::bad_request(format!("the body is not what this route reads: {e}")))
    }
}

/// Reads a body up to the limit of payloads.
async fn read(request: Request) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            Code::PayloadTooLarge,
            format!("the body is larger than {PAYLOAD_LIMIT_BYTES} bytes"),
        )
    };
    // Who waits for leave to send gets none; of the rest some is read away, so that they get the answer.
    let length = usize::try_from(request.body().size_hint().lower()).unwrap_or(usize::MAX);
    let waits = conformance::expects_continue(request.headers());
    if length > DISCARD_LIMIT || (waits && length > PAYLOAD_LIMIT_BYTES) {
        return Err(too_large());
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, collect(request.into_body())).await;
    match read {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::bad_request("the body ended before its time")),
        Err(_) => {
            Err(ApiError::bad_request("the body did not arrive in time").with_status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

/// The whole body, or `None` when it is over the limit; then it is read away up to another limit.
async fn collect(mut body: Body) -> Result<Option<Bytes>, axum::Error> {
    let mut first: Option<Bytes> = None;
    let mut more = Vec::new();
    let mut size = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        size += data.len();
        if size > DISCARD_LIMIT {
            break;
        }
        if size > PAYLOAD_LIMIT_BYTES {
            (first, more) = (None, Vec::new());
        } else if first.is_none() && more.is_empty() {
            first = Some(data);
        } else {
            if let Some(first) = first.take() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&data);
        }
    }
    if size > PAYLOAD_LIMIT_BYTES {
        return Ok(None);
    }
    Ok(Some(first.unwrap_or_else(|| more.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_key_may_repeat_and_is_decoded() {
        let query = Query::read(Some("topic=a%3Ab&x=1+2&topic=c:d:e&flag"));

        assert_eq!(query.all("topic").collect::<Vec<_>>(), ["a:b", "c:d:e"]);
        assert_eq!(query.first("x"), Some("1 2"));
        assert_eq!(query.first("flag"), Some(""));
        assert_eq!(query.first("none"), None);
    }

    #[test]
    fn a_timeout_has_a_unit_or_is_in_seconds() {
        for (text, ms) in [
            ("500ms", 500),
            ("5s", 5_000),
            ("5", 5_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "s",
            "-1s",
            "1.5s",
            "5 s",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_clients_request_id_is_kept_when_it_is_one() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("abc-1"));
        assert_eq!(request_id(&headers).as_str(), "abc-1");

        headers.insert(REQUEST_ID, HeaderValue::from_static("with space"));
        assert_eq!(request_id(&headers).as_str().len(), 36);
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
        assert_eq!(problem.code, Code::Internal);
        assert!(!problem.detail.contains("secret"));
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together_and_one_too_large_is_not() {
        let pieces = |sizes: &[usize]| {
            let pieces: Vec<_> = sizes
                .iter()
                .map(|&size| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; size])))
                .collect();
            Body::from_stream(futures::stream::iter(pieces))
        };

        let whole = collect(pieces(&[3, 4, 5])).await.expect("reads").expect("fits");
        assert_eq!(whole.len(), 12);
        let full = collect(pieces(&[PAYLOAD_LIMIT_BYTES])).await.expect("reads");
        assert_eq!(full.expect("fits").len(), PAYLOAD_LIMIT_BYTES);
        assert!(
            collect(pieces(&[PAYLOAD_LIMIT_BYTES, 1]))
                .await
                .expect("reads")
                .is_none()
        );
        assert!(collect(pieces(&[DISCARD_LIMIT + 1])).await.expect("reads").is_none());
    }
}
