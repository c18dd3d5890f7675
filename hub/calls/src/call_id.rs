//! The identity of a call: minted once, where it is admitted, and the same on every hub and in its record.

use alkhub_protocol::id::InvalidId;
use alkhub_protocol::{HubId, InstanceId, RequestId};
use jiff::Timestamp;
use uuid::Uuid;

/// Longest boot nonce that is used, in characters.
const NONCE: usize = 32;

/// Names a call, and its place in the tree of calls that one led to.
///
/// How often it was sent again is counted beside it, by its leg: the identity does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallId {
    /// A UUID version 7: it sorts by the time of the admission.
    pub(crate) id: Uuid,
    /// The first call of the tree.
    pub(crate) root: Uuid,
    /// The call in whose course this one was made, where that was running when it was made.
    pub(crate) parent: Option<Uuid>,
}

/// Makes and reads the ids by which spokes know the calls that they get: `{boot nonce}-{key}`, which no other process gives.
#[derive(Clone, Debug)]
pub(crate) struct LegIds {
    nonce: String,
}

// === impl CallId ===

impl CallId {
    /// Of a call that was admitted at a time.
    pub(crate) fn mint(at: Timestamp, parent: Option<&Self>) -> Self {
        let id = uuid_at(at);
        Self {
            id,
            root: parent.map_or(id, |parent| parent.root),
            parent: parent.map(|parent| parent.id),
        }
    }
}

/// A UUID version 7: time, then chance that needs no system call.
fn uuid_at(at: Timestamp) -> Uuid {
    let ms = u64::try_from(at.as_millisecond()).unwrap_or_default();
    let mut random = [0; 10];
    random[..8].copy_from_slice(&fastrand::u64(..).to_ne_bytes());
    random[8..].copy_from_slice(&fastrand::u16(..).to_ne_bytes());
    uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid()
}

// === impl LegIds ===

impl LegIds {
    /// Of this process, whose id ends with its boot nonce.
    pub(crate) fn new(hub: &HubId) -> Self {
        let nonce = hub.as_str().rsplit('-').next().unwrap_or_default();
        Self {
            nonce: nonce.chars().take(NONCE).collect(),
        }
    }

    pub(crate) fn id(&self, key: u64) -> String {
        format!("{}-{key}", self.nonce)
    }

    /// The key in an id that a spoke says.
    pub(crate) fn key(&self, id: &RequestId) -> Option<u64> {
        id.as_str().strip_prefix(&self.nonce)?.strip_prefix('-')?.parse().ok()
    }

    /// An id for the instance of a connection that names none: no other hub makes the same.
    pub(crate) fn instance(&self, connection: &str) -> Result<InstanceId, InvalidId> {
        format!("{}-{connection}", self.nonce).parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).expect("valid")
    }

    #[test]
    fn ids_sort_by_time_and_differ_within_it() {
        let early = CallId::mint(at(1_000), None);
        let late = CallId::mint(at(2_000), None);

        assert!(early.id < late.id);
        assert_ne!(CallId::mint(at(1_000), None).id, early.id);
        assert_eq!(late.id.get_version_num(), 7);
    }

    #[test]
    fn a_call_stands_under_the_one_that_led_to_it_and_under_the_first_of_all() {
        let first = CallId::mint(at(1), None);
        let second = CallId::mint(at(2), Some(&first));
        let third = CallId::mint(at(3), Some(&second));

        assert_eq!((first.root, first.parent), (first.id, None));
        assert_eq!((second.root, second.parent), (first.id, Some(first.id)));
        assert_eq!((third.root, third.parent), (first.id, Some(second.id)));
    }

    #[test]
    fn only_ids_of_this_process_are_read() {
        let legs = LegIds::new(&"pod-a-n1".parse().expect("valid"));

        assert_eq!(legs.id(7), "n1-7");
        let read = |id: &str| legs.key(&id.parse().expect("valid"));
        assert_eq!(read("n1-7"), Some(7));
        assert_eq!([read("n2-7"), read("n17"), read("n1-x"), read("n1-")], [None; 4]);
    }
}
