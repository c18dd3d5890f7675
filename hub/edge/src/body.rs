//! A request's body: read whole, within limits of size, depth and time, and charged to the key while it is read.
//!
//! Invariants
//! - Nothing is read before the request's key is known to be good, and the key must still be good when everything was
//!   read.
//! - What is read is charged as it grows; whoever takes it from here charges it for what it is then.
//! - A sender of too much still gets an answer: part of the rest is read and discarded.

use std::time::Duration;

use alkhub_budget::{Held, Kept};
use alkhub_protocol::{CallError, Code, PAYLOAD_LIMIT_BYTES, RawJson};
use axum::body::Body;
use axum::extract::{FromRef, FromRequest, Request};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use serde::de::DeserializeOwned;

use crate::conformance;
use crate::edge::Edge;
use crate::error::ApiError;
use crate::key_holder::Admitted;
use crate::payer::Payer;

/// A body that has not arrived whole in this time has failed.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of a body that is not kept is read and discarded, so that its sender gets the answer.
const DISCARD_LIMIT: usize = 8 * 1024 * 1024;

/// A request's body as one JSON value within the limits of size and depth; `None` if it is empty.
#[derive(Debug)]
pub struct RawBody(pub Option<RawJson>);

/// A request's body as a type.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

/// What has arrived of a body.
#[derive(Debug)]
struct Collected {
    /// The whole body, as it came, if it came in one piece.
    first: Option<Bytes>,
    more: Vec<u8>,
    size: usize,
    held: Held,
    /// Why nothing of it is kept.
    refused: Option<ApiError>,
}

// === impl RawBody, JsonBody ===

impl<S: Send + Sync> FromRequest<S> for RawBody
where
    Edge: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let admitted = request.extensions().get::<Admitted>().cloned();
        let body = read(request).await?;
        if let Some(admitted) = admitted {
            admitted.again(&Edge::from_ref(state)).await?;
        }
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(None));
        }
        RawJson::parse(body)
            .map(|json| Self(Some(json)))
            .map_err(|e| ApiError::bad_request(format!("the body cannot be read: {e}")))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T>
where
    Edge: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let RawBody(json) = RawBody::from_request(request, state).await?;
        let json = json.ok_or_else(|| ApiError::bad_request("the request needs a JSON body"))?;
        let mut reader = serde_json::Deserializer::from_slice(json.as_bytes());
        serde_path_to_error::deserialize(alkhub_protocol::json::strict::objects(&mut reader))
            .map(Self)
            .map_err(|error| {
                let place = match error.path().to_string().as_str() {
                    "." => String::new(),
                    field => format!("`{field}`: "),
                };
                ApiError::bad_request(format!(
                    "the body is not what this route reads: {place}{}",
                    error.inner()
                ))
            })
    }
}

/// Reads a body up to the limit of payloads.
async fn read(request: Request) -> Result<Bytes, ApiError> {
    let Some(budget) = Payer::budget(request.extensions()) else {
        return Err(ApiError::new(Code::Unauthenticated, "the request needs a key"));
    };
    // A sender that waits for `100 Continue` does not get it. From others, part of the rest is discarded so that they
    // get the answer.
    let length = usize::try_from(request.body().size_hint().lower()).unwrap_or(usize::MAX);
    let waits = conformance::expects_continue(request.headers());
    if length > DISCARD_LIMIT || (waits && length > PAYLOAD_LIMIT_BYTES) {
        return Err(too_large());
    }
    let mut collected = Collected {
        first: None,
        more: Vec::new(),
        size: 0,
        held: budget.nothing(Kept::Bodies),
        refused: None,
    };
    let read = tokio::time::timeout(BODY_TIMEOUT, collected.fill(request.into_body())).await;
    if let Some(refused) = collected.refused {
        return Err(refused);
    }
    match read {
        Ok(Ok(())) => Ok(collected.first.unwrap_or_else(|| collected.more.into())),
        Ok(Err(_)) => Err(ApiError::bad_request("the body ended before its time")),
        Err(_) => {
            Err(ApiError::bad_request("the body did not arrive in time").with_status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

fn too_large() -> ApiError {
    ApiError::new(
        Code::PayloadTooLarge,
        format!("the body is larger than {PAYLOAD_LIMIT_BYTES} bytes"),
    )
}

// === impl Collected ===

impl Collected {
    /// Reads a body to its end, or, if it is not kept, up to the limit of what is discarded.
    async fn fill(&mut self, mut body: Body) -> Result<(), axum::Error> {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            self.size += data.len();
            if self.refused.is_none()
                && let Err(refused) = self.keep(data)
            {
                (self.first, self.more) = (None, Vec::new());
                self.held.shrink(0);
                self.refused = Some(refused);
            }
            if self.size > DISCARD_LIMIT {
                break;
            }
        }
        Ok(())
    }

    fn keep(&mut self, data: Bytes) -> Result<(), ApiError> {
        if self.size > PAYLOAD_LIMIT_BYTES {
            return Err(too_large());
        }
        if self.size == data.len() {
            self.charge(self.size)?;
            self.first = Some(data);
            return Ok(());
        }
        if self.more.capacity() < self.size {
            let room = self.size.next_power_of_two().min(PAYLOAD_LIMIT_BYTES);
            self.charge(room)?;
            self.more.reserve_exact(room - self.more.len());
        }
        if let Some(first) = self.first.take() {
            self.more.extend_from_slice(&first);
        }
        self.more.extend_from_slice(&data);
        Ok(())
    }

    fn charge(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.held.follow(bytes).map_err(|full| CallError::from(full).into())
    }
}

#[cfg(test)]
mod tests {
    use alkhub_budget::Budgets;
    use alkhub_config::BudgetConfig;
    use prometheus::Registry;

    use super::*;

    /// A request with a body in pieces, by a key that may keep so many bytes.
    fn request(key_bytes: usize, sizes: &[usize]) -> Request {
        let pieces: Vec<_> = sizes
            .iter()
            .map(|&size| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; size])))
            .collect();
        let mut request = Request::new(Body::from_stream(futures::stream::iter(pieces)));
        let config = BudgetConfig {
            hub_bytes: key_bytes,
            key_bytes,
        };
        let budgets = Budgets::new(&config, &Registry::new()).expect("a fresh registry");
        let _payer = Payer::of(&mut request);
        Payer::set(request.extensions(), budgets.key(&"key".into()));
        request
    }

    async fn length(key_bytes: usize, sizes: &[usize]) -> Result<usize, u16> {
        let read = read(request(key_bytes, sizes)).await;
        let status = |error: ApiError| axum::response::IntoResponse::into_response(error).status().as_u16();
        read.map(|body| body.len()).map_err(status)
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together_and_one_too_large_is_not() {
        const MUCH: usize = 4 * PAYLOAD_LIMIT_BYTES;

        assert_eq!(length(MUCH, &[3, 4, 5]).await, Ok(12));
        assert_eq!(length(MUCH, &[PAYLOAD_LIMIT_BYTES]).await, Ok(PAYLOAD_LIMIT_BYTES));
        assert_eq!(length(MUCH, &[PAYLOAD_LIMIT_BYTES, 1]).await, Err(413));
        assert_eq!(length(MUCH, &[DISCARD_LIMIT + 1]).await, Err(413));
    }

    #[tokio::test]
    async fn a_body_over_the_budget_is_refused_and_one_of_nobody_is_not_read() {
        assert_eq!(length(100_000, &[50_000, 20_000]).await, Err(503), "room for 131,072");
        assert_eq!(length(140_000, &[50_000, 20_000]).await, Ok(70_000));
        assert!(read(Request::new(Body::from("{}"))).await.is_err());
    }
}
