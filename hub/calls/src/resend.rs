//! Sends a call again that surely reached nobody.
//!
//! Invariants
//! - A call is sent again once, and only by the hub of its caller.
//! - Only what never left a queue, what a hub answered with `moved`, or what no hub received is sent again.

use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::{CallError, Code};

use crate::call::{Call, Origin};
use crate::core::Core;
use crate::directory::Instance;
use crate::relay::Asked;
use crate::sink::End;

/// The directory may hear of a move a little later than the `moved` comes: it is looked at this often …
const LOOKS: u32 = 25;

/// … in this distance.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

impl Core {
    /// Sends the call to another instance, or fails it at once.
    pub(crate) fn reroute(&self, call: &Arc<Call>, from: &Arc<Instance>) {
        let Some(first_time) = self.take_back(call, from) else {
            return;
        };
        if let Origin::Hub { hub, key, attempt, .. } = &call.origin {
            // The caller's hub sends it again, this one never does.
            let asked = Asked {
                hub: hub.clone(),
                key: *key,
                attempt: *attempt,
            };
            self.end(call.key, End::Silent, None);
            self.answer_moved(&asked);
        } else if !first_time || self.send_again(call, from).is_err() {
            self.not_delivered(call, from);
        }
    }

    /// The holder says that the registration is not there any more: the call follows the spoke, or fails soon.
    pub(crate) fn moved(self: &Arc<Self>, call: &Arc<Call>, from: &Arc<Instance>) {
        let Some(first_time) = self.take_back(call, from) else {
            return;
        };
        if !first_time {
            return self.not_delivered(call, from);
        }
        if self.send_again(call, from).is_ok() {
            return;
        }
        let (core, call, from) = (Arc::clone(self), Arc::clone(call), Arc::clone(from));
        self.tasks.spawn(async move {
            for _ in 0..LOOKS {
                tokio::time::sleep(LOOK_INTERVAL).await;
                if !core.pending.contains(call.key) || core.send_again(&call, &from).is_ok() {
                    return;
                }
            }
            core.not_delivered(&call, &from);
        });
    }

    /// Takes a call back from an instance; tells whether it was never sent again. `None` when it is not there.
    fn take_back(&self, call: &Call, from: &Arc<Instance>) -> Option<bool> {
        let mut leg = call.leg.lock();
        leg.to.instance().filter(|instance| Arc::ptr_eq(instance, from))?;
        let to = std::mem::take(&mut leg.to);
        self.release(&to, call.key);
        leg.resent += 1;
        leg.items = 0;
        Some(leg.resent == 1)
    }

    fn send_again(&self, call: &Arc<Call>, from: &Instance) -> Result<(), CallError> {
        let pool = self.same_pool(call)?;
        self.send(call, &pool, Some(from))?;
        self.metrics.resent.inc();
        Ok(())
    }

    fn not_delivered(&self, call: &Call, from: &Instance) {
        let message = format!("spoke `{}` left before it got the call", from.entry.spoke);
        let error = CallError::new(Code::SpokeLost, message).retryable();
        self.end(call.key, End::Failed(error), None);
    }
}
