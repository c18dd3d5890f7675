//! Places in the list of call records.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use alkhub_protocol::call::CallRecord;
use jiff::Timestamp;
use uuid::Uuid;

use crate::row::microseconds;

/// A place in the order of records: by end, then by id. Its text is opaque to callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub(super) ended_at: Timestamp,
    pub(super) call_id: Uuid,
}

/// Where a reader stands who follows the records. Its text is opaque to callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where he began: what ended before it he does not want.
    pub(super) since: Cursor,
    /// The last record that he got: its number in the order of writing, and its own place, for those of before there were
    /// numbers share one.
    pub(super) last: Option<(i64, Cursor)>,
}

/// The text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: use one that an earlier answer gave")]
pub struct InvalidCursor;

// === impl Cursor ===

impl Cursor {
    /// The place of a record.
    ///
    /// # Errors
    /// [`InvalidCursor`] when the record's id is not one of ours.
    pub fn of(record: &CallRecord) -> Result<Self, InvalidCursor> {
        let started = microseconds(record.started_at);
        let ended_at = started.checked_add(Duration::from_micros(record.duration_us));
        Ok(Self {
            ended_at: ended_at.map_err(|_| InvalidCursor)?,
            call_id: record.call_id.parse().map_err(|_| InvalidCursor)?,
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ended_at.as_microsecond(), self.call_id.simple())
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (micros, id) = text.split_once('-').ok_or(InvalidCursor)?;
        let micros = micros.parse().map_err(|_| InvalidCursor)?;
        Ok(Self {
            ended_at: Timestamp::from_microsecond(micros).map_err(|_| InvalidCursor)?,
            call_id: id.parse().map_err(|_| InvalidCursor)?,
        })
    }
}

// === impl Mark ===

impl Mark {
    /// What is before every record that he wants.
    pub(super) fn last(&self) -> (i64, Cursor) {
        self.last.unwrap_or((-1, self.since))
    }
}

impl From<Cursor> for Mark {
    /// What ended after this place.
    fn from(since: Cursor) -> Self {
        Self { since, last: None }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.since)?;
        match self.last {
            Some((written, last)) => write!(f, ".{written}.{last}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Mark {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let mut parts = text.split('.');
        let since = parts.next().unwrap_or_default().parse()?;
        let last = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => None,
            (Some(written), Some(last), None) => Some((written.parse().map_err(|_| InvalidCursor)?, last.parse()?)),
            _ => return Err(InvalidCursor),
        };
        Ok(Self { since, last })
    }
}
