//! Registrations of this hub that the others may know of already and this hub's directory does not: the directory of all hubs
//! has published what it has not answered yet.
//!
//! Invariants
//! - Nothing is kept for an instance of which no registration is being entered.

use std::sync::Arc;

use alkhub_protocol::{InstanceId, SpokeName};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio_util::sync::CancellationToken;

/// The instances that are being entered.
#[derive(Debug, Default)]
pub(crate) struct Entering(DashMap<(SpokeName, InstanceId), UnderWay>);

/// Registrations of one instance that are being entered, and their end.
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
    /// Before the directory of all hubs is asked to take a registration.
    pub(crate) fn begin(self: &Arc<Self>, spoke: &SpokeName, instance: &InstanceId) -> Enters {
        let instance = (spoke.clone(), instance.clone());
        self.0.entry(instance.clone()).or_default().count += 1;
        Enters {
            entering: Arc::clone(self),
            instance,
        }
    }

    /// Cancelled once what is being entered of an instance has been, or will not be; `None` where nothing is.
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
