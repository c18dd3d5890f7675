//! Calls over HTTP, and the list of ended ones.

use alkhub_edge::KeyHolder;
use alkhub_edge::body::RawBody;
use alkhub_edge::envelope::{self, Page};
use alkhub_edge::error::{ApiError, unanswered};
use alkhub_edge::open::DRAINING;
use alkhub_edge::query::Query;
use alkhub_edge::request::{self, Id, Path};
use alkhub_edge::trace;
use alkhub_protocol::call::{CallRecord, Metadata};
use alkhub_protocol::{CallRequest, CallStatus, Code, OnDisconnect, OperationKind, OperationName};
use alkhub_store::{CallFilter, Cursor};
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::api::Api;
use crate::shapes::PAGE_LIMIT;
use crate::sse::{self, OnDrain};

/// Records in an answer by default.
const PAGE: u32 = 100;

/// What matters here of the input of `hub.call`.
#[derive(Deserialize)]
struct HubCall {
    operation: OperationName,
}

/// `POST /v1/call/{operation}`: the body is the input, the answer is the output; a subscription answers as SSE.
///
/// A client that goes away before the answer aborts the call.
pub(crate) async fn call(
    State(api): State<Api>,
    caller: KeyHolder,
    Path(operation): Path<String>,
    Id(request_id): Id,
    headers: HeaderMap,
    RawBody(input): RawBody,
) -> Result<Response, ApiError> {
    let operation: OperationName = operation
        .parse()
        .map_err(|e: alkhub_protocol::id::InvalidId| ApiError::bad_request(e.to_string()))?;
    let metadata = request::metadata(&headers)?;
    let traced = metadata.as_ref().and_then(Metadata::traceparent).map(str::to_owned);
    let request = CallRequest {
        request_id,
        input,
        timeout: request::timeout(&headers)?,
        idle_timeout: None,
        parent: request::parent(&headers)?,
        target: None,
        traceparent: traced.or_else(|| trace::traceparent(&headers)),
        metadata,
        operation,
        on_disconnect: OnDisconnect::Abort,
    };
    if kind(&api, &request) == Some(OperationKind::Subscription) {
        let held = sse::open(api.edge(), &caller, OnDrain::Finish)?;
        let items = api.calls().subscribe(&caller.who(), request).await?;
        return Ok(sse::items(&api, &caller, held, items));
    }
    let who = caller.who();
    tokio::select! {
        // An answer that came before the end is given, however late this looks.
        biased;
        output = api.calls().call(&who, request) => Ok(envelope::json(StatusCode::OK, output?.bytes())),
        () = api.edge().scope().close.cancelled() => Err(unanswered(DRAINING).into()),
    }
}

/// `GET /v1/calls`: ended calls, the newest first; with `after` and no `before` as they were written.
pub(crate) async fn list(State(api): State<Api>, query: Query) -> Result<Page<CallRecord>, ApiError> {
    let filter = filter(&query)?;
    if let (Some(after), None) = (&filter.after, &filter.before) {
        let followed = api.store().calls().follow(after, &filter).await;
        let (items, next) = followed.map_err(|e| ApiError::store(&e))?;
        let next = next.map(|mark| mark.to_string());
        return Ok(Page { items, next });
    }
    let records = api
        .store()
        .calls()
        .list(&filter)
        .await
        .map_err(|e| ApiError::store(&e))?;
    let full = u32::try_from(records.len()).is_ok_and(|count| count == filter.limit);
    let next = records.last().filter(|_| full).and_then(|last| Cursor::of(last).ok());
    Ok(Page {
        items: records,
        next: next.map(|cursor| cursor.to_string()),
    })
}

/// Whether what is called is a query, a mutation or a subscription: of `hub.call`, the operation that it calls. `None` when
/// no spoke has offered it.
fn kind(api: &Api, request: &CallRequest) -> Option<OperationKind> {
    if request.operation.as_str() != "hub.call" {
        return api.calls().kind(&request.operation);
    }
    // An input that is none is refused where it is called.
    let inner: HubCall = request.input.as_ref()?.to().ok()?;
    api.calls().kind(&inner.operation)
}

fn filter(query: &Query) -> Result<CallFilter, ApiError> {
    let limit = query.parse::<u32>("limit")?.unwrap_or(PAGE);
    if !(1..=PAGE_LIMIT).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "query parameter `limit` must be 1 to {PAGE_LIMIT}"
        )));
    }
    Ok(CallFilter {
        operation: query.parse("operation")?,
        status: query.first("status").map(status).transpose()?,
        caller: query.first("caller").map(str::to_owned),
        before: query.parse("before")?,
        after: query.parse("after")?,
        limit,
    })
}

fn status(text: &str) -> Result<CallStatus, ApiError> {
    match text {
        "completed" => Ok(CallStatus::Completed),
        "failed" => Ok(CallStatus::Failed),
        "aborted" => Ok(CallStatus::Aborted),
        _ => Err(ApiError::new(
            Code::BadRequest,
            "query parameter `status` must be `completed`, `failed` or `aborted`",
        )),
    }
}
