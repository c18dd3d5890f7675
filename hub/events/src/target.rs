//! Where events go beyond this process: nowhere, or through Redis. The set is closed, so it is an enum.

pub(crate) mod local;
pub(crate) mod redis;

use alkhub_protocol::{RawJson, Topic, TopicFilter};
use alkhub_redis::Idle;

use self::local::Local;
use self::redis::Outlet;
use crate::error::{PublishError, SubscribeError};
use crate::table::Table;

/// A way to reach other processes.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// There are none.
    Local(Local),
    /// Through Redis.
    Redis(Outlet),
}

// === impl Target ===

impl Target {
    /// Whether other processes can be reached now.
    pub(crate) fn ready(&self) -> Result<(), SubscribeError> {
        match self {
            Self::Local(_) => Ok(()),
            Self::Redis(redis) => redis.ready(),
        }
    }

    /// Carries an event to the other hubs.
    pub(crate) async fn carry(&self, topic: &Topic, payload: Option<&RawJson>) -> Result<(), PublishError> {
        match self {
            Self::Local(local) => {
                local.carry();
                Ok(())
            }
            Self::Redis(redis) => redis.carry(topic, payload).await,
        }
    }

    /// Waits until the transport has confirmed an entry of the table. `incarnation` is the one that had confirmed it
    /// before; 0 if none had.
    pub(crate) async fn confirm(&self, filter: &TopicFilter, incarnation: u64) -> Result<(), SubscribeError> {
        match self {
            Self::Local(_) => Ok(()),
            Self::Redis(redis) => redis.confirm(filter, incarnation).await,
        }
    }

    /// Nobody wants an entry of the table any more.
    pub(crate) fn release(&self, table: &Table, idle: Idle) {
        match self {
            Self::Local(local) => local.release(table, idle),
            Self::Redis(redis) => redis.release(idle),
        }
    }
}
