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
use alkhub_protocol::{CallRequest, OperationKind, OperationName};
use alkhub_store::{CallFilter, Cursor};
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};

use crate::api::Api;
use crate::sse::{self, OnDrain};

/// Records in an answer by default.
const PAGE: u32 = 100;

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
        timeout: request::timeout(&headers)?,
        parent: request::parent(&headers)?,
        traceparent: traced.or_else(|| trace::traceparent(&headers)),
        metadata,
        ..CallRequest::new(request_id, operation, input)
    };
    let who = caller.who();
    let (calls, closes) = (api.calls(), &api.edge().scope().close);
    let prepared = tokio::select! {
        biased;
        prepared = calls.prepare(&who, request) => prepared?,
        () = closes.cancelled() => return Err(unanswered(DRAINING).into()),
    };
    if prepared.kind() == Some(OperationKind::Subscription) {
        let held = sse::open(api.edge(), &caller, OnDrain::Finish)?;
        let items = calls.subscribe_prepared(prepared)?;
        return Ok(sse::items(&api, &caller, held, items));
    }
    tokio::select! {
        // An answer that came before the end is returned, however late it is looked at.
        biased;
        output = calls.call_prepared(prepared) => Ok(envelope::json(StatusCode::OK, output?.bytes())),
        () = closes.cancelled() => Err(unanswered(DRAINING).into()),
    }
}

/// `GET /v1/calls`: ended calls, newest first; with `after` and no `before`, in the order in which they were written.
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
    let next = records.last().filter(|_| full).map(Cursor::of_call).transpose();
    let next = next.map_err(|e| ApiError::internal(&e))?;
    Ok(Page {
        items: records,
        next: next.map(|cursor| cursor.to_string()),
    })
}

fn filter(query: &Query) -> Result<CallFilter, ApiError> {
    Ok(CallFilter {
        operation: query.parse("operation")?,
        status: query.parse("status")?,
        caller: query.first("caller").map(str::to_owned),
        before: query.parse("before")?,
        after: query.parse("after")?,
        limit: query.limit()?.unwrap_or(PAGE),
    })
}
