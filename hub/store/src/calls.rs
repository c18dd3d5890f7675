//! Records of ended calls: written in batches, listed by time, followed as they are written, and dropped by the hour.
//!
//! Invariants
//! - A reader that follows the records gets each one that ended after the reader's place exactly once, however late it
//!   was written.
//!
//! The table is partitioned by the hour in which a call ended. Partitions are made ahead of time, or else by the first
//! insert that needs one. Whatever is older than the retention is removed by dropping whole hours, so a record may live
//! up to an hour longer.

mod list;
mod place;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::call::{CallRecord, CallStatus};
use alkhub_protocol::{HubId, OperationName, RequestId, SpokeName};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::db::Db;
use crate::metrics::Statement;
use crate::row::{microseconds, signed};
use crate::statement::run;
use crate::{Cursor, Error};
pub use place::Mark;

/// How many partitions one [`CallRows::prune`] drops at most; the rest is left to the next one.
const PRUNE_LIMIT: u64 = 48;

/// The call records of a store.
#[derive(Clone, Copy, Debug)]
pub struct CallRows<'a>(pub(crate) &'a Db);

/// One ended call, to be written.
#[derive(Clone, Debug)]
pub struct CallRow {
    /// The hub's own id, a UUID version 7.
    pub call_id: Uuid,
    /// The id of the first call of its tree; its own if it is that call.
    pub root_call_id: Uuid,
    /// The id of the call during which it was made, if the hub knew that one.
    pub parent_call_id: Option<Uuid>,
    /// The caller's id.
    pub request_id: RequestId,
    /// The parent's request id, as the caller gave it.
    pub parent_request_id: Option<RequestId>,
    /// What was called.
    pub operation: OperationName,
    /// How it ended.
    pub status: CallStatus,
    /// The error's code, if it failed.
    pub code: Option<String>,
    /// The caller's key, by its id.
    pub caller: Arc<str>,
    /// The spoke that got it.
    pub spoke: Option<SpokeName>,
    /// The hub that admitted the call.
    pub hub_id: HubId,
    /// When the hub admitted it.
    pub started_at: Timestamp,
    /// From then to the end.
    pub duration: Duration,
    /// Size of the input in bytes.
    pub input_bytes: u64,
    /// Size of the output, or of all items together, in bytes.
    pub output_bytes: u64,
    /// W3C trace id, if the caller gave one.
    pub trace_id: Option<String>,
}

/// Which records to list; the default is the newest hundred.
#[derive(Clone, Debug)]
pub struct CallFilter {
    /// Only of this operation.
    pub operation: Option<OperationName>,
    /// Only those that ended with this status.
    pub status: Option<CallStatus>,
    /// Only those of this key, by its id.
    pub caller: Option<String>,
    /// Only those that ended before this place, newest first.
    pub before: Option<Cursor>,
    /// Only those after this place.
    pub after: Option<Mark>,
    /// How many, from 1 to 1,000.
    pub limit: u32,
}

// === impl CallRows ===

impl CallRows<'_> {
    /// Writes a batch in one statement. Writing the same rows again changes nothing, so a batch whose outcome is
    /// unknown may be sent twice.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like: either nothing was written, or everything was.
    pub async fn insert(self, rows: &[CallRow]) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let columns = Columns::of(rows);
        match run!(self.0, Statement::CallInsert, |db| columns.insert(db)) {
            Err(Error::Query { source, .. }) if lacks_partition(&source) => {}
            result => return result,
        }
        run!(self.0, Statement::CallInsert, |db| columns.insert_with_partitions(db))
    }

    /// The records that match a filter, newest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn list(self, filter: &CallFilter) -> Result<Vec<CallRecord>, Error> {
        let rows = run!(self.0, Statement::CallList, |db| list::newest_first(db, filter))?;
        rows.into_iter().map(list::Row::record).collect()
    }

    /// The records after a place, in the order in which they were written, and the place behind them; `None` if there
    /// are none yet. Page by page, a reader gets each record that ended after its first place exactly once, whichever
    /// hub wrote it, and whenever; `before` in the filter is ignored.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn follow(self, after: &Mark, filter: &CallFilter) -> Result<(Vec<CallRecord>, Option<Mark>), Error> {
        let written_to = run!(self.0, Statement::CallMark, |db| list::written_to(db))?;
        let place = (after, written_to);
        let rows = run!(self.0, Statement::CallList, |db| list::as_written(db, place, filter))?;
        let next = rows.last().map(|last| last.mark(after));
        let records: Result<_, Error> = rows.into_iter().map(list::Row::record).collect();
        Ok((records?, next))
    }

    /// Drops the hours that ended longer ago than `retention`, in one short transaction each and up to a bound, and
    /// makes the partition of the coming hour. Returns how many hours were dropped.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like. If a long-running reader is in the way, the hour is left for the next time.
    pub async fn prune(self, retention: Duration) -> Result<u64, Error> {
        let before = Timestamp::now().checked_sub(retention).unwrap_or(Timestamp::MIN);
        self.begin_hours().await?;
        let mut dropped = 0;
        while dropped < PRUNE_LIMIT {
            match run!(self.0, Statement::CallPrune, |db| drop_oldest(db, before)) {
                Ok(true) => dropped += 1,
                Ok(false) => break,
                Err(Error::Query { source, .. }) if is_locked(&source) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(dropped)
    }

    /// Makes the partitions of this hour and the coming one: an insert without one would be an error in Postgres' log.
    pub(crate) async fn begin_hours(self) -> Result<(), Error> {
        let now = Timestamp::now();
        let coming = now.checked_add(Duration::from_secs(3600)).unwrap_or(now);
        run!(self.0, Statement::CallPrune, |db| ensure(db, &[now, coming]))
    }
}

// === impl CallRow ===

impl CallRow {
    fn ended_at(&self) -> Timestamp {
        let started = microseconds(self.started_at);
        started
            .checked_add(Duration::from_micros(self.duration_us()))
            .unwrap_or(started)
    }

    fn duration_us(&self) -> u64 {
        u64::try_from(self.duration.as_micros()).unwrap_or(0)
    }
}

// === impl CallFilter ===

impl Default for CallFilter {
    fn default() -> Self {
        Self {
            operation: None,
            status: None,
            caller: None,
            before: None,
            after: None,
            limit: 100,
        }
    }
}

/// A batch, column by column.
#[derive(Debug, Default)]
struct Columns<'a> {
    ended_at: Vec<jiff_sqlx::Timestamp>,
    call_id: Vec<Uuid>,
    root_call_id: Vec<Uuid>,
    parent_call_id: Vec<Option<Uuid>>,
    duration_us: Vec<i64>,
    input_bytes: Vec<i64>,
    output_bytes: Vec<i64>,
    operation: Vec<&'a str>,
    status: Vec<&'a str>,
    code: Vec<Option<Cow<'a, str>>>,
    caller: Vec<&'a str>,
    spoke: Vec<Option<&'a str>>,
    hub_id: Vec<&'a str>,
    request_id: Vec<&'a str>,
    parent_request_id: Vec<Option<&'a str>>,
    trace_id: Vec<Option<Cow<'a, str>>>,
}

// === impl Columns ===

impl<'a> Columns<'a> {
    fn of(rows: &'a [CallRow]) -> Self {
        let mut columns = Self::default();
        for row in rows {
            columns.ended_at.push(row.ended_at().to_sqlx());
            columns.call_id.push(row.call_id);
            columns.root_call_id.push(row.root_call_id);
            columns.parent_call_id.push(row.parent_call_id);
            columns.duration_us.push(signed(row.duration_us()));
            columns.input_bytes.push(signed(row.input_bytes));
            columns.output_bytes.push(signed(row.output_bytes));
            columns.operation.push(row.operation.as_str());
            columns.status.push(row.status.as_str());
            columns.code.push(row.code.as_deref().map(storable));
            columns.caller.push(&row.caller);
            columns.spoke.push(row.spoke.as_ref().map(SpokeName::as_str));
            columns.hub_id.push(row.hub_id.as_str());
            columns.request_id.push(row.request_id.as_str());
            columns
                .parent_request_id
                .push(row.parent_request_id.as_ref().map(RequestId::as_str));
            columns.trace_id.push(row.trace_id.as_deref().map(storable));
        }
        columns
    }

    async fn insert(&self, db: &mut PgConnection) -> sqlx::Result<()> {
        sqlx::query!(
            "INSERT INTO calls (ended_at, call_id, duration_us, input_bytes, output_bytes, operation, status, code,
                                caller, spoke, hub_id, request_id, parent_request_id, trace_id, root_call_id,
                                parent_call_id)
             SELECT * FROM UNNEST($1::timestamptz[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[],
                                  $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
                                  $13::text[], $14::text[], $15::uuid[], $16::uuid[])
             ON CONFLICT DO NOTHING",
            &self.ended_at as _,
            &self.call_id,
            &self.duration_us,
            &self.input_bytes,
            &self.output_bytes,
            &self.operation as _,
            &self.status as _,
            &self.code as _,
            &self.caller as _,
            &self.spoke as _,
            &self.hub_id as _,
            &self.request_id as _,
            &self.parent_request_id as _,
            &self.trace_id as _,
            &self.root_call_id,
            &self.parent_call_id as _
        )
        .execute(db)
        .await?;
        Ok(())
    }

    /// For the first batch of an hour.
    async fn insert_with_partitions(&self, db: &mut PgConnection) -> sqlx::Result<()> {
        let ended: Vec<Timestamp> = self.ended_at.iter().map(|at| at.to_jiff()).collect();
        ensure(db, &ended).await?;
        wait_for_makers(db).await?;
        self.insert(db).await
    }
}

/// A peer's text may contain a character that Postgres refuses, which would make it refuse the whole batch.
fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{FFFD}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Makes the partitions for these times.
async fn ensure(db: &mut PgConnection, times: &[Timestamp]) -> sqlx::Result<()> {
    let mut hours: Vec<i64> = times.iter().map(|at| at.as_second().div_euclid(3600)).collect();
    hours.sort_unstable();
    hours.dedup();
    for hour in hours {
        sqlx::query!("SELECT calls_ensure(to_timestamp($1::bigint * 3600))", hour)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Waits until whoever is making a partition has finished. Its row in the catalogue becomes visible a moment before
/// other sessions are told to reload the table's partitions, and an insert in between would not find it; they are told
/// before the maker's lock is released.
async fn wait_for_makers(db: &mut PgConnection) -> sqlx::Result<()> {
    let mut transaction = db.begin().await?;
    sqlx::query("LOCK TABLE ONLY calls IN SHARE UPDATE EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

async fn drop_oldest(db: &mut PgConnection, before: Timestamp) -> sqlx::Result<bool> {
    let dropped = sqlx::query_scalar!("SELECT calls_drop_oldest($1::timestamptz)", before.to_sqlx() as _)
        .fetch_one(db)
        .await?;
    Ok(dropped.unwrap_or(false))
}

/// check_violation, which an insert gets if no partition fits; the table has no checks of its own.
fn lacks_partition(error: &sqlx::Error) -> bool {
    has_code(error, "23514")
}

/// lock_not_available
fn is_locked(error: &sqlx::Error) -> bool {
    has_code(error, "55P03")
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.code().as_deref() == Some(code))
}
