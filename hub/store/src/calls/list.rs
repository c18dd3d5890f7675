//! Reads call records.

use alkhub_protocol::PAGE_LIMIT;
use alkhub_protocol::call::{CallRecord, CallStatus};
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{CallFilter, Mark};
use crate::row::unsigned;
use crate::{Cursor, Error};

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
    written: i64,
}

// === impl Row ===

impl Row {
    /// The place behind this record, for a reader that stood at `before`.
    pub(super) fn mark(&self, before: &Mark) -> Mark {
        let own = Cursor {
            at: self.ended_at.to_jiff(),
            id: self.call_id,
        };
        Mark {
            last: Some((self.written, own)),
            ..*before
        }
    }

    pub(super) fn record(self) -> Result<CallRecord, Error> {
        let duration = jiff::SignedDuration::from_micros(self.duration_us);
        let started_at = self.ended_at.to_jiff().checked_sub(duration);
        Ok(CallRecord {
            call_id: self.call_id.to_string(),
            request_id: self.request_id,
            parent_request_id: self.parent_request_id,
            operation: self.operation,
            status: self.status.parse().map_err(|_| Error::Corrupt("status of a call"))?,
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

fn limit(filter: &CallFilter) -> i64 {
    i64::from(filter.limit.clamp(1, PAGE_LIMIT))
}

/// The newest records first. The comparison of pairs finds the place; the extra comparison of times lets Postgres skip
/// partitions.
pub(super) async fn newest_first(db: &mut PgConnection, filter: &CallFilter) -> sqlx::Result<Vec<Row>> {
    let (before, before_id) = Cursor::columns(filter.before);
    let (after, after_id) = Cursor::columns(filter.after.map(|after| after.since));
    let last = filter.after.map(|after| after.last());
    let (last_end, last_id) = Cursor::columns(last.map(|(_, cursor)| cursor));
    sqlx::query_as!(
        Row,
        r#"SELECT ended_at AS "ended_at: _", call_id, duration_us, input_bytes, output_bytes, operation, status, code,
                  caller, spoke, hub_id, request_id, parent_request_id, trace_id, written
           FROM calls
           WHERE ($1::text IS NULL OR operation = $1)
             AND ($2::text IS NULL OR status = $2)
             AND ($3::text IS NULL OR caller = $3)
             AND ($4::timestamptz IS NULL OR (ended_at <= $4 AND (ended_at, call_id) < ($4, $5::uuid)))
             AND ($6::timestamptz IS NULL OR (ended_at >= $6 AND (ended_at, call_id) > ($6, $7::uuid)))
             AND ($8::bigint IS NULL OR (written, ended_at, call_id) > ($8, $9::timestamptz, $10::uuid))
           ORDER BY ended_at DESC, call_id DESC
           LIMIT $11"#,
        filter.operation.as_ref().map(|operation| operation.as_str()),
        filter.status.map(CallStatus::as_str),
        filter.caller.as_deref(),
        before as _,
        before_id,
        after as _,
        after_id,
        last.map(|(written, _)| written),
        last_end as _,
        last_id,
        limit(filter)
    )
    .fetch_all(db)
    .await
}

/// The number up to which every record has been written that ever will be.
pub(super) async fn written_to(db: &mut PgConnection) -> sqlx::Result<i64> {
    let number = sqlx::query_scalar!("SELECT calls_written_to()").fetch_one(db).await?;
    Ok(number.unwrap_or_default())
}

/// What was written after a mark, up to a number.
pub(super) async fn as_written(
    db: &mut PgConnection,
    (after, written_to): (&Mark, i64),
    filter: &CallFilter,
) -> sqlx::Result<Vec<Row>> {
    let (since, (written, last)) = (after.since, after.last());
    sqlx::query_as!(
        Row,
        r#"SELECT ended_at AS "ended_at: _", call_id, duration_us, input_bytes, output_bytes, operation, status, code,
                  caller, spoke, hub_id, request_id, parent_request_id, trace_id, written
           FROM calls
           WHERE ($1::text IS NULL OR operation = $1)
             AND ($2::text IS NULL OR status = $2)
             AND ($3::text IS NULL OR caller = $3)
             AND ended_at >= $4::timestamptz AND (ended_at, call_id) > ($4::timestamptz, $5::uuid)
             AND (written, ended_at, call_id) > ($6::bigint, $7::timestamptz, $8::uuid)
             AND written <= $9::bigint
           ORDER BY written, ended_at, call_id
           LIMIT $10"#,
        filter.operation.as_ref().map(|operation| operation.as_str()),
        filter.status.map(CallStatus::as_str),
        filter.caller.as_deref(),
        since.at.to_sqlx() as _,
        since.id,
        written,
        last.at.to_sqlx() as _,
        last.id,
        written_to,
        limit(filter)
    )
    .fetch_all(db)
    .await
}
