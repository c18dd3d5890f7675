//! What the operator keeps of a hub's answers: what decisions are based on and what statuses show, nothing else.
//!
//! Invariants
//! - Items that are only counted are not kept. The number of kept items is bounded here, and their bytes by the reader
//!   of the body. An empty string in a list is three bytes on the wire and eight times that in memory.

use std::fmt;
use std::marker::PhantomData;

use alkhub_protocol::admin::{InstanceState, LastMinute, PartState};
use alkhub_protocol::{HubId, SpokeName};
use jiff::Timestamp;
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Pods that a report may name.
pub(super) const PODS: usize = 1_000;

/// What a hub reports of itself and its pods (`HubReport` on the wire).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReportedHub {
    pub(crate) version: String,
    #[serde(default, deserialize_with = "pods")]
    pub(crate) pods: Vec<ReportedPod>,
    #[serde(default)]
    pub(crate) spokes_connected: u64,
    /// State of the link to Redis.
    #[serde(default)]
    pub(crate) redis: PartState,
    /// State of the link to Postgres.
    #[serde(default)]
    pub(crate) postgres: PartState,
    /// Keys that nobody can use; `None`: unknown.
    #[serde(default)]
    pub(crate) dead_keys: Option<u64>,
}

/// One hub process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReportedPod {
    pub(crate) hub_id: HubId,
    /// Its pod's name; empty outside Kubernetes.
    #[serde(default)]
    pub(crate) pod: String,
    /// Open WebSockets.
    #[serde(default)]
    pub(crate) connections: u64,
    /// Calls that run on it; `None`: unknown.
    #[serde(default)]
    pub(crate) in_flight: Option<u64>,
    /// Sessions whose connection is lost and whose peer may come back; `None`: unknown.
    #[serde(default)]
    pub(crate) reconnecting: Option<u64>,
    /// Results of the last minute; `None`: unknown.
    #[serde(default)]
    pub(crate) last_minute: Option<LastMinute>,
    /// Whether it gives its connections away.
    #[serde(default)]
    pub(crate) draining: bool,
}

/// What a hub reports of a spoke (`SpokeInfo` on the wire). Two equal values look the same in a status.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReportedSpoke {
    pub(crate) name: SpokeName,
    /// The resource's uid; empty for a spoke that no resource declares.
    pub(crate) uid: String,
    #[serde(default, deserialize_with = "instances")]
    pub(crate) instances: Instances,
    /// How many operations it offers.
    #[serde(default, deserialize_with = "count")]
    pub(crate) operations: usize,
    #[serde(default)]
    pub(crate) connected_at: Option<Timestamp>,
    #[serde(default)]
    pub(crate) disconnected_at: Option<Timestamp>,
    /// Digest of what was declared.
    #[serde(default)]
    pub(crate) declaration_digest: Option<String>,
    /// First characters of the key in force.
    #[serde(default)]
    pub(crate) key_hint: Option<String>,
}

/// The running programs of a spoke.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Instances {
    pub(crate) count: usize,
    /// Whether there are some, and all have lost their connections and may come back. How many of them is not worth a
    /// status write.
    pub(crate) are_reconnecting: bool,
    /// The hub that holds the connection of the newest one.
    pub(crate) newest_at: Option<HubId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    hub_id: HubId,
    #[serde(default)]
    state: InstanceState,
    generation: u64,
}

/// Takes the items of a list one by one.
struct Fold<A, T, F> {
    start: A,
    add: F,
    item: PhantomData<T>,
}

// === impl ReportedHub ===

#[cfg(test)]
impl ReportedHub {
    /// The report of a hub that has all it needs, and no spokes.
    pub(crate) fn healthy() -> Self {
        Self {
            version: "1".to_owned(),
            pods: Vec::new(),
            spokes_connected: 0,
            redis: PartState::Up,
            postgres: PartState::Up,
            dead_keys: None,
        }
    }
}

// === impl Fold ===

impl<'de, A, T, F> Visitor<'de> for Fold<A, T, F>
where
    T: Deserialize<'de>,
    F: FnMut(&mut A, T) -> Result<(), String>,
{
    type Value = A;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<S: SeqAccess<'de>>(mut self, mut items: S) -> Result<A, S::Error> {
        while let Some(item) = items.next_element::<T>()? {
            (self.add)(&mut self.start, item).map_err(S::Error::custom)?;
        }
        Ok(self.start)
    }
}

/// Adds the spokes of a page to those of earlier pages; more than `most` in all is an error.
pub(super) fn add_spokes(page: &RawValue, spokes: &mut Vec<ReportedSpoke>, most: usize) -> serde_json::Result<()> {
    let mut page = serde_json::Deserializer::from_str(page.get());
    fold(&mut page, (), |(), spoke| {
        if spokes.len() >= most {
            return Err(format!("there are more than {most} spokes"));
        }
        spokes.push(spoke);
        Ok(())
    })
}

fn pods<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<ReportedPod>, D::Error> {
    fold(list, Vec::new(), |pods, pod| {
        if pods.len() >= PODS {
            return Err(format!("there are more than {PODS} pods"));
        }
        pods.push(pod);
        Ok(())
    })
}

fn instances<'de, D: Deserializer<'de>>(list: D) -> Result<Instances, D::Error> {
    let none = (Instances::default(), 0);
    let (instances, _) = fold(list, none, |(instances, newest), instance: Instance| {
        let is_reconnecting = instance.state == InstanceState::Reconnecting;
        instances.are_reconnecting = is_reconnecting && (instances.count == 0 || instances.are_reconnecting);
        instances.count += 1;
        if instance.generation >= *newest {
            *newest = instance.generation;
            instances.newest_at = Some(instance.hub_id);
        }
        Ok(())
    })?;
    Ok(instances)
}

fn count<'de, D: Deserializer<'de>>(list: D) -> Result<usize, D::Error> {
    fold(list, 0, |count, _: IgnoredAny| {
        *count += 1;
        Ok(())
    })
}

fn fold<'de, D, A, T>(list: D, start: A, add: impl FnMut(&mut A, T) -> Result<(), String>) -> Result<A, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    list.deserialize_seq(Fold {
        start,
        add,
        item: PhantomData,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_spoke_is_kept_how_much_it_has_and_where_its_newest_instance_is() {
        let instance = |hub: &str, generation: u64| json!({ "hubId": hub, "generation": generation, "labels": {} });
        let spoke = json!({
            "name": "builder", "uid": "u", "lastHeartbeatAt": "2026-01-01T00:00:00Z",
            "operations": ["a.b", "a.c"],
            "instances": [instance("h-1", 4), instance("h-2", 7), instance("h-3", 5)],
        });

        let spoke: ReportedSpoke = serde_json::from_value(spoke).expect("a spoke");

        assert_eq!((spoke.operations, spoke.instances.count), (2, 3));
        assert_eq!(spoke.instances.newest_at, "h-2".parse().ok());
    }

    #[test]
    fn a_spoke_is_reconnecting_when_all_its_instances_are_and_a_hub_that_does_not_say_has_none() {
        let are_reconnecting = |states: &[Option<&str>]| {
            let instance = |state: &Option<&str>| match state {
                Some(state) => json!({ "hubId": "h-1", "generation": 1, "state": state }),
                None => json!({ "hubId": "h-1", "generation": 1 }),
            };
            let instances: Vec<_> = states.iter().map(instance).collect();
            let spoke = json!({ "name": "builder", "uid": "u", "instances": instances });
            let spoke: ReportedSpoke = serde_json::from_value(spoke).expect("a spoke");
            spoke.instances.are_reconnecting
        };
        let (there, away) = (Some("connected"), Some("reconnecting"));

        assert!(are_reconnecting(&[away]) && are_reconnecting(&[away, away]));
        assert!(!are_reconnecting(&[away, there]) && !are_reconnecting(&[there, away]));
        assert!(!are_reconnecting(&[]) && !are_reconnecting(&[None]) && !are_reconnecting(&[Some("of a newer hub")]));
    }
}
