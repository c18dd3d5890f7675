//! Where a reader stands who follows the call records.

use std::fmt;
use std::str::FromStr;

use crate::cursor::{Cursor, InvalidCursor};

/// Where a reader stands who follows the records. Its text is opaque to callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where he began: what ended before it he does not want.
    pub(super) since: Cursor,
    /// The last record that he got: its number in the order of writing, and its own place, for those of before there were
    /// numbers share one.
    pub(super) last: Option<(i64, Cursor)>,
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
