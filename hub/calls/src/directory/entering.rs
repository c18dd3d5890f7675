//! Registrations of this hub that the others may know already while this hub's own directory does not: the directory in
//! Redis has published them, but its answer is still on the way.
//!
//! Invariants
//! - Nothing is kept for an instance without a registration that is being entered.

use std::sync::Arc;

use alkhub_protocol::{InstanceId, SpokeName};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio_util::sync::CancellationToken;

/// The instances that are being entered.
#[derive(Debug, Default)]
pub(crate) struct Entering(DashMap<(SpokeName, InstanceId), UnderWay>);

/// How many registrations of one instance are being entered, and the signal that they are done.
#[derive(Debug, Default)]
struct UnderWay {
    count: usize,
    over: CancellationToken,
}

/// A registration that is being entered, as long as this value lives.
#[derive(Debug)]
pub(crate) struct Enters {
    entering: Arc<Entering>,
    instance: (SpokeName, InstanceId),
}

// === impl Entering ===

impl Entering {
    /// Call this before asking the directory in Redis to take a registration.
    pub(crate) fn begin(self: &Arc<Self>, spoke: &SpokeName, instance: &InstanceId) -> Enters {
        let instance = (spoke.clone(), instance.clone());
        self.0.entry(instance.clone()).or_default().count += 1;
        Enters {
            entering: Arc::clone(self),
            instance,
        }
    }

    /// A token that is cancelled once every registration of an instance that is being entered has been entered or given
    /// up; `None` if there is none.
    pub(crate) fn over(&self, spoke: &SpokeName, instance: &InstanceId) -> Option<CancellationToken> {
        let key = (spoke.clone(), instance.clone());
        self.0.get(&key).map(|under_way| under_way.over.clone())
    }
}

// === impl Enters ===

impl Drop for Enters {
    fn drop(&mut self) {
        let Entry::Occupied(mut under_way) = self.entering.0.entry(self.instance.clone()) else {
            return;
        };
        under_way.get_mut().count -= 1;
        if under_way.get().count == 0 {
            under_way.remove().over.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_the_last_registration_of_the_instance_is() {
        let entering = Arc::new(Entering::default());
        let (spoke, instance) = ("text".parse().expect("valid"), "one".parse().expect("valid"));
        assert!(entering.over(&spoke, &instance).is_none());
        let (first, second) = (entering.begin(&spoke, &instance), entering.begin(&spoke, &instance));
        let over = entering.over(&spoke, &instance).expect("it is being entered");

        drop(first);
        assert!(!over.is_cancelled());
        drop(second);

        assert!(over.is_cancelled() && entering.0.is_empty());
    }
}
