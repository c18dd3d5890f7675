//! Whether the connections of a Hub are spread evenly, as a condition; pure.

use alkhub_crds::condition::{BALANCED, ConditionStatus, Verdict};
use alkhub_protocol::admin::PartState;

use super::Sight;
use crate::hub::figures::{Sum, Unknown};
use crate::reason::HUB_UNREACHABLE;

pub(super) fn judged(sight: &Sight) -> Verdict {
    let unknown = |reason, message: &str| Verdict::new(BALANCED, ConditionStatus::Unknown, reason, message);
    if sight.pods.as_ref().is_none_or(|pods| pods.ready == 0) {
        return unknown("NoPodReady", "no pod is ready that could have connections");
    }
    match (&sight.poll.seen, &sight.figures.sum) {
        (Err(why), _) => unknown(HUB_UNREACHABLE, why),
        (Ok(seen), _) if seen.report.redis == PartState::Down => {
            unknown("RedisDown", "without Redis a hub does not know what the others have")
        }
        (Ok(_), Err(Unknown::NoPod)) => unknown("NoPodReady", "no pod is ready that is to stay"),
        (Ok(_), Err(Unknown::Missing(pod))) => unknown(
            "FiguresMissing",
            &format!("the hubs have not reported lately what pod {pod} has"),
        ),
        (Ok(_), Ok(sum)) => spread(sum),
    }
}

fn spread(sum: &Sum) -> Verdict {
    // No figures: the condition would be written again with every connection.
    if sum.is_even() {
        let message = "no pod has more than a tenth and 8 connections beyond the mean";
        return Verdict::new(BALANCED, true, "Even", message);
    }
    let message = "a pod has more connections than the others: status.hubPods has all. The hubs move what they can, within \
                   two minutes as a rule; peers that cannot move stay where they are";
    Verdict::new(BALANCED, false, "Uneven", message)
}
