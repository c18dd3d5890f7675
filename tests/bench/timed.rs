//! What is timed, at a load that the system carries.

use std::time::Duration;

use anyhow::Result;

use crate::pace::Latency;
use crate::system::Servers;
use crate::{beside, calls, fanout};

/// One thing that is timed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timed {
    /// From when a request was due until its answer, on one server or across two, at half of what the system carries.
    Calls { servers: usize },
    /// The same across two servers at a low rate, alone or beside large outputs on the same path.
    SmallCalls { is_beside: bool },
    /// From when an event was due until each delivery, at half of what the system carries.
    FanOut,
}

pub(crate) const TIMED: [Timed; 5] = [
    Timed::Calls { servers: 1 },
    Timed::Calls { servers: 2 },
    Timed::SmallCalls { is_beside: false },
    Timed::SmallCalls { is_beside: true },
    Timed::FanOut,
];

// === impl Timed ===

impl Timed {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Calls { servers: 1 } => "latency of calls",
            Self::Calls { .. } => "latency of calls across two servers",
            Self::SmallCalls { is_beside: false } => "small calls alone, across two servers",
            Self::SmallCalls { is_beside: true } => "small calls beside large outputs, across two servers",
            Self::FanOut => "latency of fan-out 1 -> 1,000",
        }
    }

    pub(crate) fn servers(self) -> usize {
        match self {
            Self::Calls { servers } => servers,
            Self::SmallCalls { .. } => 2,
            Self::FanOut => 1,
        }
    }

    pub(crate) async fn measure(self, servers: &Servers, length: Duration) -> Result<Latency> {
        match self {
            Self::Calls { .. } => calls::latency(servers, length).await,
            Self::SmallCalls { is_beside: false } => beside::alone(servers, length).await,
            Self::SmallCalls { is_beside: true } => beside::measure(servers, length).await,
            Self::FanOut => fanout::latency(servers, length).await,
        }
    }
}
