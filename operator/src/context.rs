//! What the reconcilers of one term of leadership share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_crds::Spoke;
use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::admin::{Admin, ReportedHub, ReportedSpoke};
use crate::apply::Applied;
use crate::args::Args;
use crate::events::EventRecorder;
use crate::failures::Failures;
use crate::hub::{Auths, Foreigners, Others, Steps};
use crate::in_flight::InFlight;
use crate::kubernetes::Kubernetes;
use crate::metrics::Metrics;
use crate::secrets::Facts;
use crate::watch::{Stores, UnreadableObjects};

/// How often counts in a status are written when nothing else has changed.
const COUNTS: Duration = Duration::from_secs(15);

/// What the reconcilers share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) options: Arc<Args>,
    pub(crate) kubernetes: Kubernetes,
    pub(crate) stores: Arc<Stores>,
    pub(crate) unreadable: Arc<UnreadableObjects>,
    pub(crate) admin: Admin,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: EventRecorder,
    pub(crate) applied: Applied,
    pub(crate) facts: Facts,
    pub(crate) failures: Failures,
    pub(crate) polls: Polls,
    pub(crate) count_times: CountTimes,
    pub(crate) declaration_times: DeclarationTimes,
    pub(crate) others: Others,
    pub(crate) auths: Auths,
    pub(crate) steps: Steps,
    pub(crate) foreigners: Foreigners,
    pub(crate) in_flight: InFlight,
    pub(crate) wake: Wake,
}

/// The last poll of each Hub's admin API, by the Hub's uid.
#[derive(Debug, Default)]
pub(crate) struct Polls(Mutex<HashMap<String, KeptPoll>>);

#[derive(Debug)]
struct KeptPoll {
    last: Arc<Poll>,
    /// The last one that was answered.
    good: Option<Arc<Poll>>,
}

/// When the counts in a Hub's status were last brought up to date, by the Hub's uid.
#[derive(Debug, Default)]
pub(crate) struct CountTimes(Mutex<HashMap<String, Instant>>);

/// When this process last declared a Spoke at its hub, by the Spoke's uid: a poll from before then cannot know of it.
#[derive(Debug, Default)]
pub(crate) struct DeclarationTimes(Mutex<HashMap<String, Instant>>);

/// One poll of a Hub's admin API.
#[derive(Debug)]
pub(crate) struct Poll {
    /// When.
    pub(crate) at: Instant,
    /// Whether there was a pod to ask.
    pub(crate) asked: bool,
    /// The admin key that it was asked with.
    pub(crate) key: Option<AdminKey>,
    /// Whether the hub refused the admin key itself.
    pub(crate) denied: bool,
    /// What the hub answered, or why it did not.
    pub(crate) seen: Result<Seen, String>,
}

/// The key to a Hub's admin API, and which Secret it came from.
#[derive(Clone, Debug)]
pub(crate) struct AdminKey {
    /// Of the Secret.
    pub(crate) uid: String,
    /// The Secret's version: once it differs, the key has to be read again.
    pub(crate) version: String,
    pub(crate) key: SecretString,
}

/// What a Hub answered.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) report: ReportedHub,
    /// By name, or why they are unknown: without Postgres a hub reports its own state but not its spokes.
    pub(crate) spokes: Result<Arc<HashMap<String, ReportedSpoke>>, String>,
    /// When the spokes were listed: with this poll, or an earlier one.
    pub(crate) listed_at: Instant,
}

// === impl Seen ===

impl Seen {
    /// What the hub reports of a spoke, if it is the one with this uid.
    pub(crate) fn spoke(&self, name: &str, uid: &str) -> Option<&ReportedSpoke> {
        let spokes = self.spokes.as_ref().ok()?;
        spokes.get(name).filter(|info| info.uid == uid)
    }
}

/// Asks for Spokes to be reconciled soon. The queue is bounded; when it is full, the rest waits for the next poll.
#[derive(Clone, Debug)]
pub(crate) struct Wake(mpsc::Sender<ObjectRef<Spoke>>);

// === impl Polls ===

impl Polls {
    /// The last poll of a Hub.
    pub(crate) fn of(&self, hub_uid: &str) -> Option<Arc<Poll>> {
        self.0.lock().get(hub_uid).map(|kept| Arc::clone(&kept.last))
    }

    /// The last poll of a Hub that was answered, however old it is.
    pub(crate) fn good(&self, hub_uid: &str) -> Option<Arc<Poll>> {
        self.0.lock().get(hub_uid)?.good.clone()
    }

    /// Keeps a poll.
    pub(crate) fn keep(&self, hub_uid: &str, poll: Poll) -> Arc<Poll> {
        let last = Arc::new(poll);
        let mut polls = self.0.lock();
        let before = polls.remove(hub_uid).and_then(|kept| kept.good);
        let good = if last.seen.is_ok() {
            Some(Arc::clone(&last))
        } else {
            before
        };
        polls.insert(
            hub_uid.to_owned(),
            KeptPoll {
                last: Arc::clone(&last),
                good,
            },
        );
        last
    }

    /// Forgets Hubs that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| exists(uid));
    }
}

// === impl CountTimes ===

impl CountTimes {
    /// Whether changed counts alone justify writing a status now.
    pub(crate) fn is_due(&self, hub_uid: &str) -> bool {
        self.0.lock().get(hub_uid).is_none_or(|at| at.elapsed() >= COUNTS)
    }

    /// Notes that the status was written.
    pub(crate) fn written(&self, hub_uid: &str) {
        self.0.lock().insert(hub_uid.to_owned(), Instant::now());
    }

    /// Forgets Hubs that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| exists(uid));
    }
}

// === impl DeclarationTimes ===

impl DeclarationTimes {
    /// When a Spoke was last declared.
    pub(crate) fn at(&self, spoke_uid: &str) -> Option<Instant> {
        self.0.lock().get(spoke_uid).copied()
    }

    /// Notes that a Spoke was declared.
    pub(crate) fn now(&self, spoke_uid: &str) {
        self.0.lock().insert(spoke_uid.to_owned(), Instant::now());
    }

    /// Forgets Spokes that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| exists(uid));
    }
}

// === impl Wake ===

impl Wake {
    pub(crate) fn new(sender: mpsc::Sender<ObjectRef<Spoke>>) -> Self {
        Self(sender)
    }

    /// Queues a Spoke; returns whether there was room.
    pub(crate) fn spoke(&self, spoke: &Spoke) -> bool {
        self.0.try_send(ObjectRef::from_obj(spoke)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::ReportedHub;

    #[test]
    fn a_poll_that_fails_takes_back_nothing_of_what_was_known() {
        let polls = Polls::default();
        let poll = |seen| Poll {
            at: Instant::now(),
            asked: true,
            key: None,
            denied: false,
            seen,
        };
        let seen = Seen {
            report: ReportedHub::healthy(),
            spokes: Ok(Arc::default()),
            listed_at: Instant::now(),
        };

        polls.keep("hub", poll(Err("refused".to_owned())));
        let never = polls.good("hub").is_none();
        let good = polls.keep("hub", poll(Ok(seen)));
        polls.keep("hub", poll(Err("refused".to_owned())));

        assert!(never && polls.of("hub").is_some_and(|last| last.seen.is_err()));
        assert!(polls.good("hub").is_some_and(|kept| Arc::ptr_eq(&kept, &good)));
    }
}
