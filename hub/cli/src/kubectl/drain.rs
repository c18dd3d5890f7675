//! `kubectl alkhub drain` and `undrain`.
//!
//! Promise: figures from before the order never count as its result.

use std::process::ExitCode;

use alkhub_protocol::kubernetes::{DRAIN_LAPSE, DRAIN_REQUESTED, DRAIN_SINCE};

use super::args::{DrainArgs, PodArgs};
use super::objects::{HubObject, PodObject, PodStatus};
use super::process::Kubectl;
use super::progress::{WaitProgress, order, see_why, unanswered};
use crate::failure::Failure;
use crate::output;

/// Empties a pod, and waits until it is empty.
pub(crate) async fn drain(args: DrainArgs) -> Result<ExitCode, Failure> {
    let kubectl = Kubectl::new(&args.pod.cluster);
    let (pod, hub) = pod_of_hub(&kubectl, &args.pod.pod).await?;
    let pod = pod.metadata.name;
    if !hub.status.hub_pods.iter().any(|shown| shown.name == pod) {
        return Err(unseen(&pod, &hub.metadata.name));
    }
    let mut others = hub.status.hub_pods.iter().filter(|other| other.name != pod);
    if !others.any(|other| other.ready && !other.draining) {
        return Err(Failure::other(format!(
            "Hub {} has no other pod that could take the connections of {pod}; scale it up first",
            hub.metadata.name
        )));
    }
    let order = order();
    kubectl.annotate("pod", &pod, DRAIN_REQUESTED, Some(&order)).await?;
    if args.no_wait {
        return output::text(&format!("pod {pod} is told to drain"));
    }
    let (mut progress, mut is_answered) = (WaitProgress::new(args.timeout.0), false);
    loop {
        let hub = HubObject::read(&kubectl, &hub.metadata.name).await?;
        // It existed when this began.
        let Some(now) = hub.status.hub_pods.iter().find(|other| other.name == pod) else {
            return output::text(&format!("pod {pod} is gone"));
        };
        // Later figures are younger still.
        is_answered |= now.drain_order.as_ref() == Some(&order);
        if is_answered && now.draining && now.is_empty() {
            return output::text(&format!("pod {pod} is empty"));
        }
        progress.show(line(&pod, now, is_answered));
        let draining = is_answered.then_some(now.draining);
        let next = progress.next(is_answered).await;
        next.map_err(|late| late.into_failure(&what_goes_on(&pod, &hub.metadata.name, draining)))?;
    }
}

/// A pod that is in no status of its Hub: nobody would empty it, or report when it is empty.
fn unseen(pod: &str, hub: &str) -> Failure {
    Failure::other(format!(
        "the operator has not seen pod {pod} yet: it is not in the status of Hub {hub}. Try again in half a minute; if that \
         does not help, see whether the operator runs (`kubectl get pods --all-namespaces | grep alkhub-operator`)"
    ))
}

/// What happens to a drain once nobody waits for it. `draining`: whether the pod drains; `None`: the operator has not
/// answered.
fn what_goes_on(pod: &str, hub: &str, draining: Option<bool>) -> String {
    let end = format!("`kubectl alkhub undrain {pod}` ends it");
    match draining {
        Some(true) => format!("the drain goes on for as long as the operator runs; {end}"),
        Some(false) => format!("the pod does not drain yet, and does when the operator reaches its hub; {end}"),
        None => format!(
            "the drain begins when the operator runs and reaches the Hub; {end}. To find out more, {}",
            see_why(hub)
        ),
    }
}

/// Makes a pod take connections again.
pub(crate) async fn undrain(args: PodArgs) -> Result<ExitCode, Failure> {
    let kubectl = Kubectl::new(&args.cluster);
    let (pod, _) = pod_of_hub(&kubectl, &args.pod).await?;
    let (name, annotations) = (&pod.metadata.name, &pod.metadata.annotations);
    if annotations.contains_key(DRAIN_REQUESTED) {
        kubectl.annotate("pod", name, DRAIN_REQUESTED, None).await?;
    }
    if annotations.contains_key(DRAIN_SINCE) {
        return Err(Failure::other(format!(
            "the operator takes pod {name} away, for a roll-out or because fewer pods are wanted: it goes on draining"
        )));
    }
    output::text(&match annotations.contains_key(DRAIN_REQUESTED) {
        true => format!("pod {name} takes connections again, in {DRAIN_LAPSE:?} at most"),
        false => format!("pod {name} was not told to drain"),
    })
}

/// A pod by its name, and its Hub.
async fn pod_of_hub(kubectl: &Kubectl, name: &str) -> Result<(PodObject, HubObject), Failure> {
    let pod: PodObject = kubectl.get(&["pod", name]).await?;
    let Some(hub) = pod.hub() else {
        return Err(Failure::usage(format!(
            "{name} is no pod of a Hub; `kubectl alkhub top` lists those that are"
        )));
    };
    let hub = HubObject::read(kubectl, hub).await?;
    Ok((pod, hub))
}

fn line(pod: &str, now: &PodStatus, is_answered: bool) -> String {
    match (is_answered, now.draining) {
        (false, _) => unanswered(pod),
        (true, true) => format!("{pod} drains: {now}"),
        (true, false) => format!("{pod} does not drain yet: {now}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_does_is_not_promised() {
        let unseen = format!("{:?}", unseen("demo-a-1", "demo"));
        assert!(
            unseen.contains("has not seen pod demo-a-1") && unseen.contains("whether the operator runs"),
            "{unseen}"
        );
        let goes_on = |draining| what_goes_on("demo-a-1", "demo", draining);
        let (told, untold, unanswered) = (goes_on(Some(true)), goes_on(Some(false)), goes_on(None));
        assert!(
            told.starts_with("the drain goes on for as long as the operator runs"),
            "{told}"
        );
        for other in [&untold, &unanswered] {
            assert!(
                !other.contains("goes on") && other.contains("undrain demo-a-1"),
                "{other}"
            );
        }
        assert!(unanswered.contains("kubectl alkhub status demo"), "{unanswered}");
    }
}
