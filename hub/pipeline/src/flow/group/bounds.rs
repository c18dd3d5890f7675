//! What bounds a `group_by`.

use std::time::Duration;

/// How many groups there are, and what happens to those that are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupBounds {
    /// The most groups that are live. 0 counts as 1.
    pub groups: usize,
    /// How long a group may have no item before it ends.
    pub idle: Duration,
    /// The items that wait in one group. 0 counts as 1.
    pub buffer: usize,
    /// What happens when a group is full.
    pub unread: Unread,
}

/// What happens to an item for a group that is full because nobody reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It waits, and so does everything after it: back pressure. Groups that are read sequentially need a buffer for what
    /// comes for the others.
    Wait,
    /// The oldest item of the group is dropped, and counted in [`crate::KeyedGroup::missed`]. Nothing waits.
    DropOldest,
}
