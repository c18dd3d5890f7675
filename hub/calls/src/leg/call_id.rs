//! The identity of a call: minted once, where the call is admitted, and the same on every hub and in the call record.

use alkhub_protocol::id::InvalidId;
use alkhub_protocol::{HubId, InstanceId, RequestId};
use jiff::Timestamp;
use uuid::Uuid;

/// The end of the id of a call that was sent again after a loss.
const AGAIN: &str = ".again";

/// The most characters of a boot nonce that are used.
const NONCE: usize = 32;

/// Names a call, and its place in the tree of calls that one call led to.
///
/// The identity does not change when the call is sent again; its leg counts how often that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallId {
    /// A UUID version 7, which sorts by the time of the admission.
    pub(crate) id: Uuid,
    /// The first call of the tree.
    pub(crate) root: Uuid,
    /// The call in the course of which this one was made, if that was still running then.
    pub(crate) parent: Option<Uuid>,
}

/// Makes and reads the ids by which spokes know the calls that they get: `{boot nonce}-{key}`, which no other process
/// makes.
///
/// One that was sent again after a loss ends with `.again`: the same program may have got it before, and its answer to
/// that is told apart.
///
/// The id of a call of another hub's caller also has `:{boot nonce}-{key}`, as that hub knows the call. With this,
/// whoever gets the answer can find the caller's hub when the hub in between is gone.
#[derive(Clone, Debug)]
pub(crate) struct LegIds {
    nonce: String,
}

/// Where a call came from that a spoke got from another hub than this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LegOrigin<'a> {
    nonce: &'a str,
    /// The key by which that hub knows the call.
    pub(crate) key: u64,
}

// === impl CallId ===

impl CallId {
    /// Mints the identity of a call that was admitted at this time.
    pub(crate) fn mint(at: Timestamp, parent: Option<&Self>) -> Self {
        let id = uuid_at(at);
        Self {
            id,
            root: parent.map_or(id, |parent| parent.root),
            parent: parent.map(|parent| parent.id),
        }
    }
}

/// A UUID version 7: the time, then random bits that need no system call.
fn uuid_at(at: Timestamp) -> Uuid {
    let ms = u64::try_from(at.as_millisecond()).unwrap_or_default();
    let mut random = [0; 10];
    random[..8].copy_from_slice(&fastrand::u64(..).to_ne_bytes());
    random[8..].copy_from_slice(&fastrand::u16(..).to_ne_bytes());
    uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid()
}

// === impl LegIds ===

impl LegIds {
    /// The ids of this process, whose hub id ends with its boot nonce.
    pub(crate) fn new(hub: &HubId) -> Self {
        Self { nonce: nonce_of(hub) }
    }

    /// The id of a call of this hub; if its caller is on another hub, `origin` is that hub and its key.
    /// Otherwise it `was_lost` if it was sent again after a loss.
    pub(crate) fn id(&self, key: u64, origin: Option<(&HubId, u64)>, was_lost: bool) -> String {
        let nonce = &self.nonce;
        match origin {
            Some((hub, there)) => format!("{nonce}-{key}:{}-{there}", nonce_of(hub)),
            None if was_lost => format!("{nonce}-{key}{AGAIN}"),
            None => format!("{nonce}-{key}"),
        }
    }

    /// The key in an id that a spoke sends.
    pub(crate) fn key(&self, id: &RequestId) -> Option<u64> {
        let own = id.as_str().strip_prefix(&self.nonce)?.strip_prefix('-')?;
        let own = own.strip_suffix(AGAIN).unwrap_or(own);
        own.split_once(':').map_or(own, |(own, _)| own).parse().ok()
    }

    /// Whether an id is that of a call which was sent again after a loss.
    pub(crate) fn is_again(id: &RequestId) -> bool {
        id.as_str().ends_with(AGAIN)
    }

    /// Where the call came from, by an id that another hub has made.
    pub(crate) fn origin<'a>(&self, id: &'a RequestId) -> Option<LegOrigin<'a>> {
        let (_, origin) = id.as_str().split_once(':')?;
        let (nonce, key) = origin.rsplit_once('-')?;
        let key = key.parse().ok()?;
        (self.key(id).is_none() && !nonce.is_empty()).then_some(LegOrigin { nonce, key })
    }

    /// An id for the instance of a connection that names none: no other hub makes the same one.
    pub(crate) fn instance(&self, connection: &str) -> Result<InstanceId, InvalidId> {
        format!("{}-{connection}", self.nonce).parse()
    }
}

// === impl LegOrigin ===

impl LegOrigin<'_> {
    /// Whether it came from this hub.
    pub(crate) fn is(&self, hub: &HubId) -> bool {
        nonce_of(hub) == self.nonce
    }
}

fn nonce_of(hub: &HubId) -> String {
    let nonce = hub.as_str().rsplit('-').next().unwrap_or_default();
    nonce.chars().take(NONCE).collect()
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

        assert_eq!(legs.id(7, None, false), "n1-7");
        let read = |id: &str| legs.key(&id.parse().expect("valid"));
        assert_eq!(read("n1-7"), Some(7));
        let again: RequestId = legs.id(7, None, true).parse().expect("valid");
        assert_eq!((read(again.as_str()), LegIds::is_again(&again)), (Some(7), true));
        assert_eq!([read("n2-7"), read("n17"), read("n1-x"), read("n1-")], [None; 4]);
    }

    #[test]
    fn an_id_leads_to_the_hub_of_the_caller_when_its_own_hub_is_gone() {
        let (caller, gone): (HubId, HubId) = ("pod-a-n1".parse().expect("valid"), "pod-b-n2".parse().expect("valid"));
        let id: RequestId = LegIds::new(&gone)
            .id(7, Some((&caller, 12)), false)
            .parse()
            .expect("valid");
        assert_eq!(id.as_str(), "n2-7:n1-12");
        assert_eq!(LegIds::new(&gone).key(&id), Some(7));
        assert_eq!(LegIds::new(&gone).origin(&id), None, "it is there");

        let origin = |id: &str| {
            let id = id.parse().expect("valid");
            let legs = LegIds::new(&"pod-c-n3".parse().expect("valid"));
            legs.origin(&id).map(|origin| (origin.key, origin.is(&caller)))
        };

        assert_eq!(origin(id.as_str()), Some((12, true)));
        assert_eq!(origin("n2-7:n4-12"), Some((12, false)));
        assert_eq!(["n2-7", "n2-7:", "n2-7:-12", "n2-7:n1-x", "r"].map(origin), [None; 5]);
    }
}
