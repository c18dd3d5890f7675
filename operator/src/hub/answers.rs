//! Which orders of people the figures in a Hub's status answer: those to empty a pod, and those to even out.
//!
//! Invariants
//! - The status names an order only beside figures that were read after the order was known, or passed on. So whoever
//!   gave it can tell these figures from older ones, whatever any clock says and however long no operator ran.
//! - An order that is named stays named while its annotation has it: later figures are younger still.

use std::collections::HashMap;
use std::time::Duration;

use alkhub_crds::{Hub, HubStatus};
use alkhub_protocol::kubernetes::{DRAIN_REQUESTED, REBALANCE};
use kube::ResourceExt as _;
use tokio::time::Instant;

use crate::context::Context;
use crate::names::{ObjectNames, Part, is_drain_requested};

/// What a hub reports of the others may be this old: each publishes its figures once a second, and looks at those of
/// the others as often.
const LAG: Duration = Duration::from_secs(3);

/// A longer order is not repeated in the status: anybody may write anything into an annotation.
const LONGEST: usize = 64;

/// The orders that the figures answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AnsweredOrders {
    /// Of pods that somebody wants empty, by their names.
    drains: HashMap<String, String>,
    /// Of an order to even out.
    rebalance: Option<String>,
}

// === impl AnsweredOrders ===

impl AnsweredOrders {
    /// Those of the last report.
    pub(crate) fn of(ctx: &Context, hub: &Hub) -> Self {
        let names = ObjectNames::of(hub);
        let read_at = ctx.polls.good(&names.uid).map(|poll| poll.at);
        let status = hub.status.as_ref();
        let pods = ctx.stores.pods_of(&names, Part::Hub);
        let asked = pods.iter().filter(|pod| is_drain_requested(pod));
        let drains = asked.filter_map(|pod| {
            let (name, uid) = (pod.metadata.name.as_deref()?, pod.metadata.uid.as_deref()?);
            let order = pod.annotations().get(DRAIN_REQUESTED)?;
            let shown = status.and_then(|status| status.hub_pods.iter().find(|shown| shown.name == name));
            let shown = shown.and_then(|shown| shown.drain_order.as_deref());
            let known_at = ctx.steps.asked_at(&names.uid, uid, order);
            is_answered(order, shown, known_at, read_at).then(|| (name.to_owned(), order.clone()))
        });
        let rebalance = hub.annotations().get(REBALANCE).filter(|order| {
            let shown = status.and_then(|status| status.rebalance_order.as_deref());
            is_answered(order, shown, ctx.steps.passed_at(&names.uid, order), read_at)
        });
        Self {
            drains: drains.collect(),
            rebalance: rebalance.cloned(),
        }
    }

    /// Puts them into a status that has the figures.
    pub(crate) fn fill(&self, next: &mut HubStatus) {
        for pod in &mut next.hub_pods {
            pod.drain_order = self.drains.get(&pod.name).cloned();
        }
        next.rebalance_order.clone_from(&self.rebalance);
    }
}

/// Whether figures that were read at `read_at` answer an order that was known, or passed on, at `known_at`; `shown` is
/// the one that the status names.
fn is_answered(order: &str, shown: Option<&str>, known_at: Option<Instant>, read_at: Option<Instant>) -> bool {
    let is_read_since = || read_at.zip(known_at).is_some_and(|(read, known)| read >= known + LAG);
    order.len() <= LONGEST && (shown == Some(order) || is_read_since())
}

#[cfg(test)]
mod tests {
    use alkhub_crds::hub::HubPod;

    use super::*;

    #[test]
    fn figures_answer_an_order_if_they_were_read_after_it() {
        let known = Instant::now();
        let (early, late) = (known + LAG / 2, known + LAG);
        let is_answered = |shown, known_at, read_at| is_answered("now", shown, known_at, read_at);

        assert!(is_answered(None, Some(known), Some(late)));
        assert!(!is_answered(None, Some(known), Some(early)));
        assert!(!is_answered(None, None, Some(late)), "nobody has passed it on");
        assert!(!is_answered(None, Some(known), None), "no hub has reported");
        assert!(!is_answered(Some("before"), Some(known), Some(early)));
        assert!(is_answered(Some("now"), None, None), "an earlier leader has seen to it");
    }

    #[test]
    fn the_status_repeats_no_long_text_of_somebody() {
        let long = "x".repeat(LONGEST + 1);

        assert!(is_answered(&long[1..], Some(&long[1..]), None, None));
        assert!(!is_answered(&long, Some(&long), None, None));
    }

    #[test]
    fn an_order_is_named_at_its_pod_alone_and_goes_with_its_annotation() {
        let pod = |name: &str| HubPod {
            name: name.to_owned(),
            drain_order: Some("before".to_owned()),
            ..HubPod::default()
        };
        let mut next = HubStatus {
            hub_pods: vec![pod("a"), pod("b")],
            rebalance_order: Some("before".to_owned()),
            ..HubStatus::default()
        };
        let answers = AnsweredOrders {
            drains: HashMap::from([("a".to_owned(), "now".to_owned())]),
            rebalance: None,
        };

        answers.fill(&mut next);

        let shown = next.hub_pods.iter().map(|pod| pod.drain_order.as_deref());
        assert_eq!(shown.collect::<Vec<_>>(), [Some("now"), None]);
        assert_eq!(next.rebalance_order, None);
    }
}
