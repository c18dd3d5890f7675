//! The place of a reader that follows the call records.

use std::fmt;
use std::str::FromStr;

use crate::cursor::{Cursor, InvalidCursor};

/// The place of a reader that follows the records. Its text is opaque to callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where it began: it does not want records that ended earlier.
    pub(super) since: Cursor,
    /// The last record that it got: its number in the order of writing, and its own place, since all records from
    /// before numbers were introduced share one.
    pub(super) last: Option<(i64, Cursor)>,
}

// === impl Mark ===

impl Mark {
    /// A place before every record that it still wants.
    pub(super) fn last(&self) -> (i64, Cursor) {
        self.last.unwrap_or((-1, self.since))
    }
}

impl From<Cursor> for Mark {
    /// A reader that wants what ended after this place.
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
