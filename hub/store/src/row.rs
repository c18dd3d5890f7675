//! Conversions between columns and types that both directions need.

use alkhub_protocol::register::SpokeType;
use jiff::Timestamp;

/// A column of time, if any.
pub(crate) fn time(column: Option<jiff_sqlx::Timestamp>) -> Option<Timestamp> {
    column.map(jiff_sqlx::Timestamp::to_jiff)
}

/// Postgres stores microseconds; the rest is cut off so that what is written is what is read.
pub(crate) fn microseconds(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

/// A kind that newer software stored is read as the default one.
pub(crate) fn spoke_type(text: &str) -> SpokeType {
    text.parse().unwrap_or_default()
}

/// A count as a signed number, since Postgres has no unsigned ones.
pub(crate) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
