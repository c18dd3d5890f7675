//! `kubectl alkhub drain` and `undrain`.

use std::process::ExitCode;
use std::time::Duration;

use alkhub_protocol::kubernetes::{DRAIN_LAPSE, DRAIN_REQUESTED, DRAIN_SINCE};
use tokio::time::Instant;

use super::args::{DrainArgs, PodArgs};
use super::objects::{HubObject, PodObject, PodStatus};
use super::process::Kubectl;
use super::progress::WaitProgress;
use crate::failure::Failure;
use crate::output;

/// The status of a Hub is no older than this.
const OLD: Duration = Duration::from_secs(30);

/// Empties a pod, and waits until it is.
pub(crate) async fn drain(args: DrainArgs) -> Result<ExitCode, Failure> {
    let kubectl = Kubectl::new(&args.pod.cluster);
    let (pod, hub) = pod_of_hub(&kubectl, &args.pod.pod).await?;
    let pod = pod.metadata.name;
    let (this, others): (Vec<_>, Vec<_>) = hub.status.hub_pods.iter().partition(|other| other.name == pod);
    // What the status says of a drain before this one is no answer.
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
            None => return output::text(&format!("pod {pod} is gone")),
            Some(now) if is_news && now.draining && now.is_empty() => {
                return output::text(&format!("pod {pod} is empty"));
            }
            Some(now) => progress.show(line(&pod, &now)),
        }
        progress
            .next()
            .await
            .map_err(|last| last.into_failure(&format!("the drain goes on; `kubectl alkhub undrain {pod}` ends it")))?;
    }
}

/// Lets a pod take connections again.
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
