//! Calls of which something came back although nobody here waits for them: an abort was lost, or is on its way.
//!
//! Invariants
//! - The holder of such a call is told once in [`AGAIN`], however much comes of it meanwhile.
//! - What is remembered is bounded; beyond it calls are told more often, never less.

use std::collections::HashMap;

use alkhub_protocol::HubId;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

/// Longer than an abort is on its way.
const AGAIN: Duration = Duration::from_secs(2);

/// Calls remembered at most.
const CALLS: usize = 4_096;

/// When the holders of such calls were told.
#[derive(Debug, Default)]
pub(crate) struct Strays(Mutex<HashMap<(HubId, u64), Instant>>);

// === impl Strays ===

impl Strays {
    /// Whether the holder of a call is to be told now.
    pub(crate) fn tell(&self, hub: &HubId, key: u64) -> bool {
        let mut told = self.0.lock();
        let call = (hub.clone(), key);
        if told.get(&call).is_some_and(|at| at.elapsed() < AGAIN) {
            return false;
        }
        if told.len() >= CALLS {
            told.retain(|_, at| at.elapsed() < AGAIN);
        }
        if told.len() >= CALLS {
            told.clear();
        }
        told.insert(call, Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_holder_of_a_call_is_told_once_in_a_while() {
        let (strays, hub) = (Strays::default(), "hub-1".parse().expect("valid"));

        let told = [strays.tell(&hub, 1), strays.tell(&hub, 1), strays.tell(&hub, 2)];
        tokio::time::advance(AGAIN).await;

        assert_eq!(told, [true, false, true]);
        assert!(strays.tell(&hub, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let (strays, hub) = (Strays::default(), "hub-1".parse().expect("valid"));

        let told = (0..CALLS as u64 * 3).filter(|&key| strays.tell(&hub, key)).count();

        assert_eq!(told, CALLS * 3, "each at its first time");
        assert!(strays.0.lock().len() <= CALLS);
    }
}
