//! What is known of the cluster: one store for each kind that is watched.

use std::sync::Arc;

use alkhub_crds::{Hub, Spoke};
use k8s_openapi::api::apps::v1::{ControllerRevision, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::watch;

use crate::names::{ObjectNames, Part};

/// What is known of the cluster.
pub(crate) struct Stores {
    pub(crate) hubs: Store<Hub>,
    pub(crate) spokes: Store<Spoke>,
    pub(crate) revisions: Store<ControllerRevision>,
    pub(crate) replica_sets: Store<ReplicaSet>,
    pub(crate) pods: Store<Pod>,
    pub(crate) sets: Store<StatefulSet>,
    pub(crate) services: Store<Service>,
    pub(crate) configs: Store<ConfigMap>,
    pub(crate) accounts: Store<ServiceAccount>,
    pub(crate) disruptions: Store<PodDisruptionBudget>,
    pub(crate) secrets: Store<PartialObjectMeta<Secret>>,
    /// One for each store.
    pub(crate) filled: Vec<watch::Receiver<bool>>,
}

// === impl Stores ===

impl Stores {
    /// The pods of a part of a Hub.
    pub(crate) fn pods_of(&self, names: &ObjectNames, part: Part) -> Vec<Arc<Pod>> {
        let namespace = Some(&names.namespace);
        self.pods
            .state_filter(|pod| pod.metadata.namespace.as_ref() == namespace && names.has(pod.labels(), part))
    }

    /// Waits until every store was filled once; `false` if a watch was dropped before.
    pub(crate) async fn ready(&self) -> bool {
        for filled in &self.filled {
            if filled.clone().wait_for(|filled| *filled).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Whether every store was filled once.
    pub(crate) fn is_filled(&self) -> bool {
        self.filled.iter().all(|filled| *filled.borrow())
    }

    /// The Hub that a Spoke names.
    pub(crate) fn hub_of(&self, spoke: &Spoke) -> Option<Arc<Hub>> {
        let namespace = spoke.metadata.namespace.as_deref()?;
        self.hubs
            .get(&ObjectRef::new(&spoke.spec.hub_ref.name).within(namespace))
    }

    /// The Spokes that name a Hub.
    pub(crate) fn spokes_of(&self, namespace: &str, hub: &str) -> Vec<Arc<Spoke>> {
        self.spokes.state_filter(|spoke| {
            spoke.spec.hub_ref.name == hub && spoke.metadata.namespace.as_deref() == Some(namespace)
        })
    }

    /// The metadata of a Secret of ours.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Option<Arc<PartialObjectMeta<Secret>>> {
        self.secrets.get(&ObjectRef::new(name).within(namespace))
    }
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stores")
    }
}
