//! Places in lists that are sorted by a time, and by an id if times are equal.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use alkhub_protocol::admin::KeyInfo;
use alkhub_protocol::call::CallRecord;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use uuid::Uuid;

use crate::row::microseconds;

/// A place in a list: of call records, by their end, or of keys, by their creation; then by id. Its text is opaque to
/// callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub(crate) at: Timestamp,
    pub(crate) id: Uuid,
}

/// The text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: use one that an earlier answer gave")]
pub struct InvalidCursor;

// === impl Cursor ===

impl Cursor {
    /// The place of a record among the calls.
    ///
    /// # Errors
    /// [`InvalidCursor`] if the record's id is not one of ours.
    pub fn of_call(record: &CallRecord) -> Result<Self, InvalidCursor> {
        let started = microseconds(record.started_at);
        let ended_at = started.checked_add(Duration::from_micros(record.duration_us));
        Ok(Self {
            at: ended_at.map_err(|_| InvalidCursor)?,
            id: record.call_id.parse().map_err(|_| InvalidCursor)?,
        })
    }

    /// The place of a key among the keys.
    ///
    /// # Errors
    /// [`InvalidCursor`] if the key's id is not one of ours.
    pub fn of_key(key: &KeyInfo) -> Result<Self, InvalidCursor> {
        Ok(Self {
            at: microseconds(key.created_at),
            id: key.id.parse().map_err(|_| InvalidCursor)?,
        })
    }

    /// The values with which a statement compares columns.
    pub(crate) fn columns(cursor: Option<Self>) -> (Option<jiff_sqlx::Timestamp>, Option<Uuid>) {
        (cursor.map(|cursor| cursor.at.to_sqlx()), cursor.map(|cursor| cursor.id))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.at.as_microsecond(), self.id.simple())
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (micros, id) = text.split_once('-').ok_or(InvalidCursor)?;
        let micros = micros.parse().map_err(|_| InvalidCursor)?;
        Ok(Self {
            at: Timestamp::from_microsecond(micros).map_err(|_| InvalidCursor)?,
            id: id.parse().map_err(|_| InvalidCursor)?,
        })
    }
}
