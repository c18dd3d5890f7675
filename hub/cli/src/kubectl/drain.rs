//! `kubectl alkhub drain` and `undrain`.

use std::process::ExitCode;

use alkhub_protocol::kubernetes::{DRAIN_LAPSE, DRAIN_REQUESTED, DRAIN_SINCE};
use tokio::time::Instant;

use super::args::{DrainArgs, PodArgs};
use super::objects::{HubObject, PodObject, PodStatus};
use super::process::Kubectl;
use super::progress::{Late, OLD, WaitProgress};
use crate::failure::Failure;
use crate::output;

/// Empties a pod, and waits until it is empty.
pub(crate) async fn drain(args: DrainArgs) -> Result<ExitCode, Failure> {
    let kubectl = Kubectl::new(&args.pod.cluster);
    let (pod, hub) = pod_of_hub(&kubectl, &args.pod.pod).await?;
    let pod = pod.metadata.name;
    let (this, others): (Vec<_>, Vec<_>) = hub.status.hub_pods.iter().partition(|other| other.name == pod);
    if this.is_empty() {
        return Err(unseen(&pod, &hub.metadata.name));
    }
    // What the status says about an earlier drain is not an answer to this one.
    let drained_before = this.iter().any(|pod| pod.draining).then(Instant::now);
    if !others.into_iter().any(|other| other.ready && !other.draining) {
        return Err(Failure::other(format!(
            "Hub {} has no other pod that could take the connections of {pod}; scale it up first",
            hub.metadata.name
        )));
    }
    kubectl.annotate("pod", &pod, DRAIN_REQUESTED, Some("true")).await?;
    if args.no_wait {
        return output::text(&format!("pod {pod} is told to drain"));
    }
    let mut progress = WaitProgress::new(args.timeout.0);
    loop {
        let is_news = drained_before.is_none_or(|at| at.elapsed() > OLD);
        let hub = HubObject::read(&kubectl, &hub.metadata.name).await?;
        let now = hub.status.hub_pods.into_iter().find(|other| other.name == pod);
        match now {
            // It existed when this began.
            None => return output::text(&format!("pod {pod} is gone")),
            Some(now) if is_news && now.draining && now.is_empty() => {
                return output::text(&format!("pod {pod} is empty"));
            }
            Some(now) => {
                progress.show(line(&pod, &now));
                let late = |late: Late| late.into_failure(&what_goes_on(&pod, is_news && now.draining));
                progress.next().await.map_err(late)?;
            }
        }
    }
}

/// A pod that is in no status of its Hub: nobody would empty it, or report when it is empty.
fn unseen(pod: &str, hub: &str) -> Failure {
    Failure::other(format!(
        "the operator has not seen pod {pod} yet: it is not in the status of Hub {hub}. Try again in half a minute; if that \
         does not help, see whether the operator runs (`kubectl get pods --all-namespaces | grep alkhub-operator`)"
    ))
}

/// What happens to a drain once nobody waits for it.
fn what_goes_on(pod: &str, is_told: bool) -> String {
    let end = format!("`kubectl alkhub undrain {pod}` ends it");
    match is_told {
        true => format!("the drain goes on for as long as the operator runs; {end}"),
        false => format!("the operator has not told the pod yet, and does when it runs and reaches the Hub; {end}"),
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

fn line(pod: &str, now: &PodStatus) -> String {
    match now.draining {
        true => format!("{pod} drains: {now}"),
        false => format!("{pod} is not told yet: {now}"),
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
        let (told, untold) = (what_goes_on("demo-a-1", true), what_goes_on("demo-a-1", false));
        assert!(
            told.starts_with("the drain goes on for as long as the operator runs"),
            "{told}"
        );
        assert!(
            !untold.contains("goes on") && untold.contains("undrain demo-a-1"),
            "{untold}"
        );
    }
}
