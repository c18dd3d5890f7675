//! How the connections of a Hub are spread over its pods, and the orders that can be given about that.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{InvalidField, PodReport};

/// Longest time for which one request marks a hub as draining, in seconds.
pub const DRAIN_SECONDS_LIMIT: u64 = 3_600;

/// How much a pod may hold, as a factor of the mean over all pods, before it gives connections away.
pub const BALANCE_FACTOR: f64 = 1.10;

/// How many connections a pod may hold beyond that, unless the hubs were told to rebalance.
pub const BALANCE_SLACK: u32 = 8;

/// How long an order to rebalance holds, in seconds.
pub const REBALANCE_SECONDS: u64 = 600;

/// Longest revision that a request may name, in characters.
const REVISION_LIMIT: usize = 128;

/// How the connections are spread over the pods that stay. Those of pods that drain count in `total` alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BalanceReport {
    /// Open WebSockets of all pods.
    pub total: u64,
    /// `total` for each pod that stays.
    pub mean: f64,
    /// Those of the fullest pod that stays.
    pub max: u64,
    /// `max` by `mean`: 1 is even. It says little where there are few connections.
    pub ratio: f64,
}

/// `PUT /v1/admin/hubs/{hubId}/drain`: that hub gives its connections away, for as long as this is repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainPut {
    /// For how long, in seconds: whoever asks for it repeats the request before that, and a drain that nobody asks for any
    /// more ends.
    #[serde(deserialize_with = "crate::json::whole::number")]
    #[schemars(range(min = 1, max = DRAIN_SECONDS_LIMIT))]
    pub seconds: u64,
    /// The revision of the Hub to which the connections should get; absent: the newest that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = REVISION_LIMIT))]
    pub revision: Option<String>,
}

// === impl BalanceReport ===

impl BalanceReport {
    /// The report on these pods; `None` if none stays.
    pub fn of(pods: &[PodReport]) -> Option<Self> {
        Self::of_counts(pods.iter().map(|pod| (pod.connections, !pod.draining)))
    }

    /// The report on pods with these numbers of connections, each with whether the pod stays; `None` if none does.
    pub fn of_counts(pods: impl Iterator<Item = (u64, bool)> + Clone) -> Option<Self> {
        let staying = pods
            .clone()
            .filter_map(|(connections, stays)| stays.then_some(connections));
        let max = staying.clone().max()?;
        // A tenant's program may report any number.
        let total = pods.fold(0, |total: u64, (connections, _)| total.saturating_add(connections));
        let mean = total as f64 / staying.count() as f64;
        let ratio = if total == 0 { 1.0 } else { max as f64 / mean };
        Some(Self {
            total,
            mean: rounded(mean),
            max,
            ratio: rounded(ratio),
        })
    }

    /// Whether no pod holds more than the hubs allow after an order to rebalance.
    pub fn is_even(&self) -> bool {
        // The mean is rounded.
        self.max as f64 <= balance_goal(self.mean + 0.001, 0)
    }
}

/// The most connections that a pod keeps, given the mean over all pods.
pub fn balance_goal(mean: f64, slack: u32) -> f64 {
    (mean * BALANCE_FACTOR).ceil() + f64::from(slack)
}

// === impl DrainPut ===

impl DrainPut {
    /// Checks what the schema says.
    ///
    /// # Errors
    /// [`InvalidField`]: the first field that is wrong, with the remedy.
    pub fn check(&self) -> Result<(), InvalidField> {
        let wrong = |field, rule| Err(InvalidField { field, rule });
        if !(1..=DRAIN_SECONDS_LIMIT).contains(&self.seconds) {
            return wrong("seconds", format!("must be 1 to {DRAIN_SECONDS_LIMIT}"));
        }
        let revision = self.revision.as_deref().unwrap_or_default();
        if revision.chars().count() > REVISION_LIMIT {
            return wrong("revision", format!("must have {REVISION_LIMIT} characters at most"));
        }
        Ok(())
    }
}

/// Rounded to a thousandth.
fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(connections: u64, draining: bool) -> PodReport {
        PodReport {
            hub_id: "hub-1".parse().expect("an id"),
            pod: String::new(),
            version: String::new(),
            revision: String::new(),
            connections,
            in_flight: None,
            reconnecting: None,
            last_minute: None,
            draining,
        }
    }

    #[test]
    fn the_balance_is_that_of_the_pods_that_stay() {
        let balance = BalanceReport::of(&[pod(10, false), pod(20, false), pod(4, true)]);

        let (total, mean, max, ratio) = (34, 17.0, 20, 1.176);
        assert_eq!(
            balance,
            Some(BalanceReport {
                total,
                mean,
                max,
                ratio
            })
        );
    }

    #[test]
    fn pods_without_connections_are_even_and_no_pods_have_no_balance() {
        assert_eq!(
            BalanceReport::of(&[pod(0, false)]).map(|balance| balance.ratio),
            Some(1.0)
        );
        assert_eq!(BalanceReport::of(&[pod(3, true)]), None);
    }

    #[test]
    fn a_drain_lasts_a_second_to_an_hour() {
        let drain = |seconds| {
            DrainPut {
                seconds,
                revision: None,
            }
            .check()
            .map_err(|error| error.to_string())
        };

        assert_eq!((drain(1), drain(DRAIN_SECONDS_LIMIT)), (Ok(()), Ok(())));
        for seconds in [0, DRAIN_SECONDS_LIMIT + 1] {
            assert!(drain(seconds).is_err_and(|error| error.contains("seconds")));
        }
    }
}
