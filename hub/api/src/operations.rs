//! Operations: the list, and one with its schemas.

use alkhub_calls::ListQuery;
use alkhub_edge::KeyHolder;
use alkhub_edge::envelope::{Data, Page};
use alkhub_edge::error::ApiError;
use alkhub_edge::query::Query;
use alkhub_edge::request::Path;
use alkhub_protocol::operation::OperationInfo;
use alkhub_protocol::{Code, OperationName};
use axum::extract::State;

use crate::api::Api;

/// `GET /v1/operations`: what the key may call, page by page.
pub(crate) async fn list(
    State(api): State<Api>,
    caller: KeyHolder,
    query: Query,
) -> Result<Page<OperationInfo>, ApiError> {
    let wanted = ListQuery {
        search: query.first("search").unwrap_or_default().to_owned(),
        namespace: query.first("namespace").map(str::to_owned),
        all: query.parse("all")?.unwrap_or_default(),
        cursor: query.parse("cursor")?,
        limit: query.limit()?,
    };
    let page = api.calls().operation_page(&caller.who(), &wanted)?;
    Ok(Page {
        items: page.operations,
        next: page.next.map(|name| name.to_string()),
    })
}

/// `GET /v1/operations/{name}`.
pub(crate) async fn get(
    State(api): State<Api>,
    caller: KeyHolder,
    Path(name): Path<String>,
) -> Result<Data<OperationInfo>, ApiError> {
    let name: OperationName = name
        .parse()
        .map_err(|e: alkhub_protocol::id::InvalidId| ApiError::bad_request(e.to_string()))?;
    api.calls()
        .operation(&caller.who(), &name)
        .map(Data::ok)
        .ok_or_else(|| ApiError::new(Code::OperationNotFound, format!("operation `{name}` is not known here")))
}
