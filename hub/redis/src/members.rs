//! What hubs publish about themselves each second, and the orders given to them: keys that expire by themselves.

use std::time::Duration;

use alkhub_protocol::HubId;
use redis::{Pipeline, Value, cmd};

use crate::error::Error;
use crate::incarnation::Incarnation;
use crate::scripts::millis;

/// What a hub publishes, and whose records it reads.
#[derive(Clone, Copy, Debug)]
pub struct MemberExchange<'a> {
    /// Its own record; `None` if it publishes none at present.
    pub record: Option<&'a str>,
    /// How long the record lives.
    pub ttl: Duration,
    /// The hubs whose records are read.
    pub hubs: &'a [HubId],
}

/// What Redis has of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMembers {
    /// Their records, in the order in which they were asked for.
    pub records: Vec<Option<String>>,
    /// The mark by which this hub drains, if there is one.
    pub drain: Option<String>,
    /// For how much longer an order to rebalance holds, if there is one.
    pub rebalance: Option<Duration>,
}

// === impl Incarnation ===

impl Incarnation {
    /// Publishes and reads, in one write.
    ///
    /// # Errors
    /// Redis is away, refuses or did not answer in time.
    pub async fn exchange_members(&self, exchange: MemberExchange<'_>) -> Result<StoredMembers, Error> {
        let names = &self.names;
        let mut pipeline = Pipeline::with_capacity(4);
        if let Some(record) = exchange.record {
            let mut set = cmd("SET");
            set.arg(names.member(names.hub())).arg(record);
            pipeline.add_command(set.arg("PX").arg(millis(exchange.ttl)).clone());
        }
        let keys: Vec<String> = exchange.hubs.iter().map(|hub| names.member(hub)).collect();
        if !keys.is_empty() {
            pipeline.cmd("MGET").arg(keys);
        }
        pipeline.cmd("GET").arg(names.drain(names.hub()));
        pipeline.cmd("PTTL").arg(names.rebalance());
        let mut answers = self.query_all(&pipeline).await?.into_iter();
        let mut next = || answers.next().unwrap_or(Value::Nil);
        if exchange.record.is_some() {
            self.read::<Value>(next())?;
        }
        let records = match exchange.hubs {
            [] => Vec::new(),
            _ => self.read(next())?,
        };
        let (drain, rebalance) = (self.read(next())?, self.read::<i64>(next())?);
        Ok(StoredMembers {
            records,
            drain,
            // Negative if there is none.
            rebalance: u64::try_from(rebalance).ok().map(Duration::from_millis),
        })
    }

    /// Marks a hub as draining, for `ttl`.
    ///
    /// # Errors
    /// Redis is away, refuses or did not answer in time.
    pub async fn mark_draining(&self, hub: &HubId, mark: &str, ttl: Duration) -> Result<(), Error> {
        let mut set = cmd("SET");
        set.arg(self.names.drain(hub)).arg(mark).arg("PX").arg(millis(ttl));
        self.query::<Value>(&set).await.map(drop)
    }

    /// Removes that mark.
    ///
    /// # Errors
    /// Redis is away, refuses or did not answer in time.
    pub async fn unmark_draining(&self, hub: &HubId) -> Result<(), Error> {
        self.query::<Value>(cmd("DEL").arg(self.names.drain(hub)))
            .await
            .map(drop)
    }

    /// Orders all hubs to rebalance, for `time`.
    ///
    /// # Errors
    /// Redis is away, refuses or did not answer in time.
    pub async fn order_rebalance(&self, time: Duration) -> Result<(), Error> {
        let mut set = cmd("SET");
        set.arg(self.names.rebalance()).arg("").arg("PX").arg(millis(time));
        self.query::<Value>(&set).await.map(drop)
    }
}
