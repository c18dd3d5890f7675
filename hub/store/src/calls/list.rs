//! Reads call records.

use alkhub_protocol::call::{CallRecord, CallStatus};
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{CallFilter, Cursor};
use crate::Error;
use crate::row::unsigned;

/// Most records in one answer.
const LIMIT: u32 = 1_000;

/// The columns of a record.
#[derive(Debug)]
pub(super) struct Row {
    ended_at: jiff_sqlx::Timestamp,
    call_id: Uuid,
    duration_us: i64,
    input_bytes: i64,
    output_bytes: i64,
    operation: String,
    status: String,
    code: Option<String>,
    caller: String,
    spoke: Option<String>,
    hub_id: String,
    request_id: String,
    parent_request_id: Option<String>,
    trace_id: Option<String>,
}

// === impl Row ===

impl Row {
    pub(super) fn record(self) -> Result<CallRecord, Error> {
        let duration = jiff::SignedDuration::from_micros(self.duration_us);
        let started_at = self.ended_at.to_jiff().checked_sub(duration);
        Ok(CallRecord {
            call_id: self.call_id.to_string(),
            request_id: self.request_id,
            parent_request_id: self.parent_request_id,
            operation: self.operation,
            status: status(&self.status)?,
            code: self.code,
            caller: self.caller,
            spoke: self.spoke,
            hub_id: self.hub_id,
            started_at: started_at.map_err(|_| Error::Corrupt("time of a call"))?,
            duration_us: unsigned(self.duration_us),
            input_bytes: unsigned(self.input_bytes),
            output_bytes: unsigned(self.output_bytes),
            trace_id: self.trace_id,
        })
    }
}

pub(super) fn status_text(status: CallStatus) -> &'static str {
    match status {
        CallStatus::Completed => "completed",
        CallStatus::Failed => "failed",
        CallStatus::Aborted => "aborted",
    }
}

fn status(text: &str) -> Result<CallStatus, Error> {
    match text {
        "completed" => Ok(CallStatus::Completed),
        "failed" => Ok(CallStatus::Failed),
        "aborted" => Ok(CallStatus::Aborted),
        _ => Err(Error::Corrupt("status of a call")),
    }
}

fn limit(filter: &CallFilter) -> i64 {
    i64::from(filter.limit.clamp(1, LIMIT))
}

fn split(cursor: Option<Cursor>) -> (Option<jiff_sqlx::Timestamp>, Option<Uuid>) {
    (
        cursor.map(|cursor| cursor.ended_at.to_sqlx()),
        cursor.map(|cursor| cursor.call_id),
    )
}

/// The comparison of pairs finds the place; the one of times beside it lets Postgres leave partitions out.
pub(super) async fn newest_first(db: &mut PgConnection, filter: &CallFilter) -> sqlx::Result<Vec<Row>> {
    let (before, before_id) = split(filter.before);
    let (after, after_id) = split(filter.after);
    sqlx::query_as!(
        Row,
        r#"SELECT ended_at AS "ended_at: _", call_id, duration_us, input_bytes, output_bytes, operation, status, code,
                  caller, spoke, hub_id, request_id, parent_request_id, trace_id
           FROM calls
           WHERE ($1::text IS NULL OR operation = $1)
             AND ($2::text IS NULL OR status = $2)
             AND ($3::text IS NULL OR caller = $3)
             AND ($4::timestamptz IS NULL OR (ended_at <= $4 AND (ended_at, call_id) < ($4, $5::uuid)))
             AND ($6::timestamptz IS NULL OR (ended_at >= $6 AND (ended_at, call_id) > ($6, $7::uuid)))
           ORDER BY ended_at DESC, call_id DESC
           LIMIT $8"#,
        filter.operation.as_ref().map(|operation| operation.as_str()),
        filter.status.map(status_text),
        filter.caller.as_deref(),
        before as _,
        before_id,
        after as _,
        after_id,
        limit(filter)
    )
    .fetch_all(db)
    .await
}

pub(super) async fn oldest_first(db: &mut PgConnection, filter: &CallFilter) -> sqlx::Result<Vec<Row>> {
    let (after, after_id) = split(filter.after);
    sqlx::query_as!(
        Row,
        r#"SELECT ended_at AS "ended_at: _", call_id, duration_us, input_bytes, output_bytes, operation, status, code,
                  caller, spoke, hub_id, request_id, parent_request_id, trace_id
           FROM calls
           WHERE ($1::text IS NULL OR operation = $1)
             AND ($2::text IS NULL OR status = $2)
             AND ($3::text IS NULL OR caller = $3)
             AND ($4::timestamptz IS NULL OR (ended_at >= $4 AND (ended_at, call_id) > ($4, $5::uuid)))
           ORDER BY ended_at, call_id
           LIMIT $6"#,
        filter.operation.as_ref().map(|operation| operation.as_str()),
        filter.status.map(status_text),
        filter.caller.as_deref(),
        after as _,
        after_id,
        limit(filter)
    )
    .fetch_all(db)
    .await
}
