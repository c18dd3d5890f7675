//! The record in the Lease, and the decision whether it may be taken; pure.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// The version that was last seen, and since when it has not changed.
#[derive(Debug, Default)]
pub(super) struct Sight(Option<(String, Instant)>);

// === impl Sight ===

impl Sight {
    /// Whether a Lease may be taken: nobody holds it, we hold it, or we have not seen it change for its whole duration.
    pub(super) fn may_take(&mut self, lease: &Lease, identity: &str, now: Instant) -> bool {
        let version = lease.metadata.resource_version.as_deref().unwrap_or_default();
        let since = match &self.0 {
            Some((seen, since)) if seen == version => *since,
            _ => {
                self.0 = Some((version.to_owned(), now));
                now
            }
        };
        match holder(lease) {
            None => true,
            Some(holder) => holder == identity || now.duration_since(since) >= duration(lease),
        }
    }
}

/// The holder of a Lease; an empty name means nobody.
pub(super) fn holder(lease: &Lease) -> Option<&String> {
    lease
        .spec
        .as_ref()?
        .holder_identity
        .as_ref()
        .filter(|holder| !holder.is_empty())
}

/// The record of the first holder.
pub(super) fn first(name: &str, identity: &str, duration: Duration) -> Lease {
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    };
    taken(lease, identity, duration)
}

/// The record with another holder.
pub(super) fn taken(mut lease: Lease, identity: &str, duration: Duration) -> Lease {
    let spec = lease.spec.get_or_insert_default();
    let now = MicroTime(Timestamp::now());
    spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
    spec.holder_identity = Some(identity.to_owned());
    spec.lease_duration_seconds = Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX));
    spec.acquire_time = Some(now.clone());
    spec.renew_time = Some(now);
    lease
}

/// The record after a renewal.
pub(super) fn renewed(mut lease: Lease) -> Lease {
    lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
    lease
}

/// The record without a holder. The name is emptied rather than left out: for a replace both are the same, but
/// `kubectl` then shows that the Lease was given back.
pub(super) fn released(mut lease: Lease) -> Lease {
    let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(String::new());
    spec.lease_duration_seconds = Some(1);
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    lease
}

fn duration(lease: &Lease) -> Duration {
    let seconds = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.lease_duration_seconds)
        .unwrap_or_default();
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(version: &str, holder: &str) -> Lease {
        let mut lease = first("l", holder, Duration::from_secs(15));
        lease.metadata.resource_version = Some(version.to_owned());
        lease
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_taken_only_when_it_did_not_change_for_its_duration_under_our_eyes() {
        let mut sight = Sight::default();
        let start = Instant::now();

        assert!(!sight.may_take(&lease("1", "a"), "b", start));
        assert!(!sight.may_take(&lease("1", "a"), "b", start + Duration::from_secs(14)));
        assert!(!sight.may_take(&lease("2", "a"), "b", start + Duration::from_secs(15)));
        assert!(sight.may_take(&lease("2", "a"), "b", start + Duration::from_secs(30)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_times_in_the_record_do_not_matter() {
        let mut old = lease("1", "a");
        old.spec.as_mut().expect("set").renew_time = Some(MicroTime(Timestamp::UNIX_EPOCH));

        assert!(!Sight::default().may_take(&old, "b", Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_given_back_is_taken_at_once() {
        let given_back = released(lease("1", "a"));

        assert!(Sight::default().may_take(&given_back, "b", Instant::now()));
        assert_eq!(
            holder(&taken(given_back, "b", Duration::from_secs(15))),
            Some(&"b".to_owned())
        );
    }
}
