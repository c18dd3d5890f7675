//! Operations: the list, and one with its schemas.

use alkhub_protocol::operation::OperationInfo;
use alkhub_protocol::{Code, OperationName, scope};
use axum::extract::State;

use crate::app::App;
use crate::auth::Caller;
use crate::envelope::Data;
use crate::error::ApiError;
use crate::request::{Path, Query};

/// `GET /v1/operations`.
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    query: Query,
) -> Result<Data<Vec<OperationInfo>>, ApiError> {
    caller.require(scope::OPERATIONS_READ)?;
    Ok(Data::ok(app.calls.operations(&caller.who, query.first("search"))))
}

/// `GET /v1/operations/{name}`.
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Data<OperationInfo>, ApiError> {
    caller.require(scope::OPERATIONS_READ)?;
    let name: OperationName = name
        .parse()
        .map_err(|e: alkhub_protocol::id::InvalidId| ApiError::bad_request(e.to_string()))?;
    app.calls
        .operation(&caller.who, &name)
        .map(Data::ok)
        .ok_or_else(|| ApiError::new(Code::OperationNotFound, format!("operation `{name}` is not known here")))
}
