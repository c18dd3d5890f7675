//! What wakes Spokes besides their own changes: their Hub, their Secret, and what their Hub reports.

use std::collections::HashMap;
use std::sync::Arc;

use alkhub_crds::Hub;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;

use crate::context::Context;
use crate::kubernetes::Going as _;
use crate::names::{INSTANCE, KEPT_FOR, Part};
use crate::watch::Touched;

/// Wakes the Spokes of a Hub that was added, removed or paused.
pub(super) fn of_changed_hubs(touched: Touched<Hub>, context: &Arc<Context>) -> Touched<Hub> {
    let context = Arc::clone(context);
    let mut known: HashMap<ObjectRef<Hub>, (Option<String>, bool, bool)> = HashMap::new();
    let wake = move |event: &Result<Hub, _>| {
        let Ok(hub) = event else { return };
        let key = ObjectRef::from_obj(hub);
        let there = context.stores.hubs.get(&key);
        let state = there
            .as_ref()
            .map(|hub| (hub.uid(), hub.meta_is_going(), hub.spec.paused));
        if state == known.get(&key).cloned() && state.is_some() {
            return;
        }
        match state {
            Some(state) => known.insert(key, state),
            None => known.remove(&key),
        };
        for spoke in context
            .stores
            .spokes_of(&hub.namespace().unwrap_or_default(), &hub.name_any())
        {
            context.wake.spoke(&spoke);
        }
    };
    touched.inspect(wake).boxed()
}

/// Wakes the Spoke that a Secret belongs to.
pub(super) fn of_secrets(
    touched: Touched<PartialObjectMeta<Secret>>,
    context: &Arc<Context>,
) -> Touched<PartialObjectMeta<Secret>> {
    let context = Arc::clone(context);
    let wake = move |event: &Result<PartialObjectMeta<Secret>, _>| {
        let Ok(secret) = event else { return };
        let owners = secret
            .metadata
            .owner_references
            .iter()
            .flatten()
            .filter(|owner| owner.kind == "Spoke");
        for owner in owners {
            let key = ObjectRef::new(&owner.name).within(&secret.namespace().unwrap_or_default());
            if let Some(spoke) = context.stores.spokes.get(&key) {
                context.wake.spoke(&spoke);
            }
        }
    };
    touched.inspect(wake).boxed()
}

/// The Hub that a Secret belongs to: its owner, or the one that it is kept for.
pub(super) fn hub_of(secret: &PartialObjectMeta<Secret>) -> Option<ObjectRef<Hub>> {
    let owner = secret.owner_references().iter().find(|owner| owner.kind == "Hub");
    let kept = || {
        let is_kept = secret.annotations().contains_key(KEPT_FOR);
        secret.labels().get(INSTANCE).filter(|_| is_kept)
    };
    let hub = owner.map(|owner| &owner.name).or_else(kept)?;
    Some(ObjectRef::new(hub).within(&secret.namespace().unwrap_or_default()))
}

/// The Hub that a pod belongs to: its owner is a ReplicaSet.
pub(super) fn hub_of_pod(pod: &Pod) -> Option<ObjectRef<Hub>> {
    let labels = pod.labels();
    let is_hub = Part::Hub.is_of(labels);
    let hub = labels.get(INSTANCE).filter(|_| is_hub)?;
    Some(ObjectRef::new(hub).within(&pod.namespace().unwrap_or_default()))
}

/// The requests to wake a Spoke, as a stream.
pub(super) fn queue<T: Send + 'static>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> + Send + 'static {
    futures::stream::unfold(receiver, |mut receiver| async move {
        let item = receiver.recv().await?;
        Some((item, receiver))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_wakes_the_hub_that_owns_it_or_for_which_it_is_kept() {
        let hub = |meta: serde_json::Value| {
            let secret = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": meta});
            let secret = hub_of(&serde_json::from_value(secret).expect("metadata"));
            secret.map(|hub| format!("{}/{}", hub.namespace.unwrap_or_default(), hub.name))
        };
        let labels = json!({INSTANCE: "demo"});
        let owner = |kind: &str| json!([{"apiVersion": "x", "kind": kind, "name": "demo", "uid": "u"}]);

        let owned = hub(json!({"namespace": "n", "name": "s", "ownerReferences": owner("Hub")}));
        let kept = hub(json!({"namespace": "n", "name": "s", "labels": labels, "annotations": {KEPT_FOR: "u"}}));
        let spokes = hub(json!({"namespace": "n", "name": "s", "labels": labels, "ownerReferences": owner("Spoke")}));

        assert_eq!(owned.as_deref(), Some("n/demo"));
        assert_eq!(kept.as_deref(), Some("n/demo"));
        assert_eq!(spokes, None);
    }

    #[test]
    fn a_pod_of_a_hub_wakes_it_and_one_of_its_servers_does_not() {
        let woken = |part: &str| {
            let labels = json!({INSTANCE: "demo", "app.kubernetes.io/component": part});
            let pod = json!({"metadata": {"namespace": "n", "name": "p", "labels": labels}});
            let hub = hub_of_pod(&serde_json::from_value(pod).expect("a Pod"));
            hub.map(|hub| format!("{}/{}", hub.namespace.unwrap_or_default(), hub.name))
        };

        assert_eq!(woken("hub").as_deref(), Some("n/demo"));
        assert_eq!(woken("redis"), None);
    }
}
