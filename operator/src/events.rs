//! Events of Kubernetes: one for each transition, none for a repetition. A reconcile never fails because of one.

use alkhub_crds::Condition;
use alkhub_crds::condition;
use kube::Resource;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::error::Error;
use crate::kubernetes::{Kubernetes, MANAGER};

/// Longest note that the API takes, in bytes.
const NOTE_BYTES: usize = 1000;

/// Publishes transitions of conditions as Events.
#[derive(Clone)]
pub(crate) struct EventRecorder {
    recorder: Recorder,
    kubernetes: Kubernetes,
}

// === impl EventRecorder ===

impl EventRecorder {
    pub(crate) fn new(kubernetes: &Kubernetes, identity: &str) -> Self {
        let reporter = Reporter {
            controller: MANAGER.to_owned(),
            instance: Some(identity.to_owned()),
        };
        Self {
            recorder: kubernetes.recorder(reporter),
            kubernetes: kubernetes.clone(),
        }
    }

    /// Publishes one Event for each condition whose status changed.
    pub(crate) async fn transitions<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        old: &[Condition],
        new: &[Condition],
    ) {
        for change in changed(old, new) {
            let event = Event {
                type_: if is_bad(change) {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                reason: change.reason.clone(),
                note: Some(shortened(&format!(
                    "{}={}: {}",
                    change.type_, change.status, change.message
                ))),
                action: change.type_.clone(),
                secondary: None,
            };
            let about = object.object_ref(&());
            match self.kubernetes.publish(&self.recorder, &event, &about).await {
                Ok(()) => {}
                Err(Error::Shut(_)) => return,
                Err(error) if error.is_namespace_going() => return,
                Err(error) => tracing::warn!(error = error.chain(), "an Event could not be published"),
            }
        }
    }
}

impl std::fmt::Debug for EventRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventRecorder")
    }
}

/// Conditions worth an Event: their status changed, or they are new and not what everybody expects.
fn changed<'a>(old: &'a [Condition], new: &'a [Condition]) -> impl Iterator<Item = &'a Condition> {
    new.iter().filter(|now| match condition::find(old, &now.type_) {
        Some(before) => before.status != now.status,
        None => is_bad(now) || (now.type_ == condition::ACCEPTED && now.status == "True"),
    })
}

/// What somebody should look into. `Unknown` does not count: other conditions say who must act.
fn is_bad(condition: &Condition) -> bool {
    match condition.type_.as_str() {
        condition::DEGRADED | condition::PREFIX_CONFLICT => condition.status == "True",
        condition::ACCEPTED => condition.status == "False",
        _ => false,
    }
}

/// Cut at a character boundary, so that it fits.
fn shortened(text: &str) -> String {
    let mut end = text.len().min(NOTE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use alkhub_crds::Spoke;
    use alkhub_crds::condition::{ACCEPTED, DEGRADED, READY, Verdict, set};
    use k8s_openapi::api::events::v1::Event as Stored;
    use k8s_openapi::jiff::Timestamp;
    use kube::Client;
    use kube::client::Body;

    use super::*;
    use crate::gate::Gate;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn an_event_that_is_sent_is_counted_as_a_write() {
        let stored = |_: http::Request<Body>| {
            let event = serde_json::to_vec(&Stored::default()).expect("plain data");
            std::future::ready(Ok::<_, Infallible>(http::Response::new(Body::from(event))))
        };
        let (gate, metrics) = (Gate::default(), Metrics::new(&prometheus::Registry::new()));
        let metrics = Arc::new(metrics.expect("registered"));
        let client = Client::new(tower::service_fn(stored), "team");
        let events = EventRecorder::new(&Kubernetes::new(client, gate.clone(), Arc::clone(&metrics)), "me");
        let mut spoke = Spoke::new("builder", Default::default());
        spoke.metadata.namespace = Some("team".to_owned());
        let conditions = [Verdict::new(ACCEPTED, true, "Valid", "")];
        let conditions = set(&[], &conditions, None, Timestamp::UNIX_EPOCH);

        events.transitions(&spoke, &[], &conditions).await;
        let while_shut = metrics.api_writes.with_label_values(&["Event", "publish"]).get();
        gate.open_until(tokio::time::Instant::now() + std::time::Duration::from_secs(60));
        events.transitions(&spoke, &[], &conditions).await;

        assert_eq!(while_shut, 0);
        assert_eq!(metrics.api_writes.with_label_values(&["Event", "publish"]).get(), 1);
    }

    #[test]
    fn an_event_is_for_a_transition_only() {
        let healthy = [
            Verdict::new(ACCEPTED, true, "Valid", ""),
            Verdict::new(DEGRADED, false, "Healthy", ""),
        ];
        let sick = [
            Verdict::new(ACCEPTED, true, "Valid", ""),
            Verdict::new(DEGRADED, true, "RedisDown", "away"),
        ];
        let now = Timestamp::UNIX_EPOCH;
        let (healthy, sick) = (set(&[], &healthy, None, now), set(&[], &sick, None, now));

        let reasons =
            |old: &[Condition], new: &[Condition]| changed(old, new).map(|c| c.reason.clone()).collect::<Vec<_>>();
        assert_eq!(reasons(&[], &healthy), ["Valid"]);
        assert_eq!(reasons(&healthy, &sick), ["RedisDown"]);
        assert!(reasons(&sick, &sick).is_empty());
    }

    #[test]
    fn readiness_is_no_bad_news_and_a_note_is_cut_at_a_character() {
        let ready = set(
            &[],
            &[Verdict::new(READY, false, "Waiting", "")],
            None,
            Timestamp::UNIX_EPOCH,
        );
        assert!(!is_bad(&ready[0]));
        assert!(shortened(&"ä".repeat(900)).len() <= NOTE_BYTES);
    }
}
