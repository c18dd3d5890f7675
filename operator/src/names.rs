//! Names of what belongs to a Hub, and the labels that find it.

use std::collections::BTreeMap;

use alkhub_crds::Hub;
use alkhub_protocol::kubernetes::{COMPONENT, DRAIN_REQUESTED, HUB};
pub(crate) use alkhub_protocol::kubernetes::{DRAIN_SINCE, INSTANCE, MANAGED_BY};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt as _};
use sha2::{Digest as _, Sha256};

/// Digest of an object as it was applied.
pub(crate) const APPLIED: &str = "alkhub.dev/applied";

/// On the objects of a revision and on its pods: the revision's name.
pub(crate) const REVISION: &str = "alkhub.dev/revision";

/// On pods that an autoscaler counts: all of the Hub's pods except those that are to go.
pub(crate) const SERVING: (&str, &str) = ("alkhub.dev/serving", "true");

/// On a pod: for how many seconds it is waited for once it is to go.
pub(crate) const DRAIN_SECONDS: &str = "alkhub.dev/drain-seconds";

/// On a pod that is to go: makes its ReplicaSet's controller choose it before the others. Kubernetes' own name.
pub(crate) const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// On a Secret that outlives its Hub: the uid of the Hub that uses it.
pub(crate) const KEPT_FOR: &str = "alkhub.dev/hub-uid";

/// Keeps a Spoke until its key has ended at the hub.
pub(crate) const FINALIZER: &str = "alkhub.dev/spoke";

/// Which part of a Hub an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Hub,
    Redis,
    Postgres,
}

/// A Hub by namespace, name and uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectNames {
    pub(crate) namespace: String,
    pub(crate) hub: String,
    pub(crate) uid: String,
}

// === impl Part ===

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Self::Hub => HUB,
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }

    /// Whether these are labels of this part of a Hub.
    pub(crate) fn is_of(self, labels: &BTreeMap<String, String>) -> bool {
        labels.get(COMPONENT).is_some_and(|part| part == self.as_str())
    }
}

// === impl ObjectNames ===

impl ObjectNames {
    /// The names of a Hub that the API server gave out.
    pub(crate) fn of(hub: &Hub) -> Self {
        let meta = hub.meta();
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            namespace: text(&meta.namespace),
            hub: text(&meta.name),
            uid: text(&meta.uid),
        }
    }

    /// Service, ServiceAccount and PodDisruptionBudget.
    pub(crate) fn main(&self) -> String {
        self.hub.clone()
    }

    /// The headless Service.
    pub(crate) fn pods(&self) -> String {
        format!("{}-pods", self.hub)
    }

    /// The ControllerRevision and the ReplicaSet of a revision.
    pub(crate) fn revision(&self, revision: &str) -> String {
        format!("{}-{revision}", self.hub)
    }

    /// The ConfigMap of a revision.
    pub(crate) fn config(&self, revision: &str) -> String {
        format!("{}-config-{revision}", self.hub)
    }

    /// The Secret with the hash's key and the first admin key.
    pub(crate) fn auth(&self) -> String {
        format!("{}-auth", self.hub)
    }

    /// StatefulSet, Service and Secret of a managed server.
    pub(crate) fn server(&self, part: Part) -> String {
        format!("{}-{}", self.hub, part.as_str())
    }

    /// Where clients and spokes connect inside the cluster.
    pub(crate) fn url(&self) -> String {
        format!("http://{}.{}.svc:{}", self.hub, self.namespace, alkhub_config::PORT)
    }

    /// The schema in Postgres: `alk_{namespace}_{hub}`, with a digest where that is too long or not unique.
    pub(crate) fn schema(&self) -> String {
        let plain = format!("alk_{}_{}", self.namespace, self.hub);
        // `-` becomes `_`, so different names could end up the same: any `-` therefore adds the digest.
        if plain.len() <= 63 && !plain.contains('-') {
            return plain;
        }
        let digest = digest(&[plain.as_bytes()]);
        let readable: String = plain.chars().take(50).map(|c| if c == '-' { '_' } else { c }).collect();
        format!("{readable}_{}", &digest[..12])
    }

    /// Whether an object with these labels is a part of this Hub, or of another Hub of the same name.
    pub(crate) fn has(&self, labels: &BTreeMap<String, String>, part: Part) -> bool {
        labels.get(INSTANCE) == Some(&self.hub) && part.is_of(labels)
    }

    /// Metadata of an object of a revision.
    pub(crate) fn revision_meta(&self, name: String, revision: &str) -> ObjectMeta {
        let mut meta = self.meta(name, Part::Hub);
        meta.labels
            .get_or_insert_default()
            .insert(REVISION.to_owned(), revision.to_owned());
        meta
    }

    /// What selects the pods of a part; never changes.
    pub(crate) fn selector(&self, part: Part) -> BTreeMap<String, String> {
        selector(&self.hub, part.as_str())
    }

    /// The labels of every object of a part.
    pub(crate) fn labels(&self, part: Part) -> BTreeMap<String, String> {
        labels(&self.hub, part.as_str())
    }

    /// Metadata of an object that is deleted with the Hub.
    pub(crate) fn meta(&self, name: String, part: Part) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels(part)),
            owner_references: Some(vec![owner::<Hub>(&self.hub, &self.uid)]),
            ..ObjectMeta::default()
        }
    }
}

/// Whether somebody wants a pod to be emptied but kept.
pub(crate) fn is_drain_requested(pod: &Pod) -> bool {
    pod.annotations()
        .get(DRAIN_REQUESTED)
        .is_some_and(|value| value != "false")
}

/// The labels of an object that is the `component` of a Hub or of one of its Spokes.
pub(crate) fn labels(hub: &str, component: &str) -> BTreeMap<String, String> {
    let mut labels = selector(hub, component);
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    labels
}

fn selector(hub: &str, component: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "alkhub"),
        (INSTANCE, hub),
        (COMPONENT, component),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// A reference to an owner; what it owns is deleted with it.
pub(crate) fn owner<K: Resource<DynamicType = ()>>(name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether an object belongs to the resource with this uid.
pub(crate) fn is_owned_by(meta: &ObjectMeta, uid: &str) -> bool {
    meta.owner_references
        .iter()
        .flatten()
        .any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// Whether an object belongs to the Hub with this uid: it is owned by it, or kept for it beyond its end.
pub(crate) fn is_kept_for(meta: &ObjectMeta, uid: &str) -> bool {
    let kept = meta
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(KEPT_FOR));
    let owned = meta
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.controller == Some(true));
    is_owned_by(meta, uid) || (!owned && kept.is_some_and(|kept| kept == uid))
}

/// SHA-256 over parts, each with its length, in hexadecimal.
pub(crate) fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(namespace: &str, hub: &str) -> ObjectNames {
        ObjectNames {
            namespace: namespace.to_owned(),
            hub: hub.to_owned(),
            uid: "u".to_owned(),
        }
    }

    #[test]
    fn a_schema_is_always_a_valid_name_and_no_two_hubs_share_one() {
        let long = "n".repeat(63);
        let pairs = [
            ("team", "demo"),
            ("a-b", "c"),
            ("a", "b-c"),
            ("a-b-c", "d"),
            (&*long, "demo"),
            (&*long, "demo2"),
        ];

        let schemas: std::collections::BTreeSet<_> = pairs.iter().map(|(ns, hub)| names(ns, hub).schema()).collect();

        assert_eq!(names("team", "demo").schema(), "alk_team_demo");
        assert_eq!(schemas.len(), pairs.len());
        for schema in schemas {
            assert!(schema.parse::<alkhub_config::SchemaName>().is_ok(), "{schema}");
        }
    }

    #[test]
    fn what_is_kept_for_a_hub_is_its_own_unless_somebody_else_owns_it() {
        let mut meta = names("n", "h").meta("x".to_owned(), Part::Hub);
        assert!(is_kept_for(&meta, "u"));
        meta.annotations = Some(BTreeMap::from([(KEPT_FOR.to_owned(), "v".to_owned())]));
        assert!(!is_kept_for(&meta, "v"));
        meta.owner_references = None;
        assert!(is_kept_for(&meta, "v") && !is_kept_for(&meta, "u"));
    }

    #[test]
    fn only_the_controlling_owner_counts() {
        let mut meta = names("n", "h").meta("x".to_owned(), Part::Hub);
        assert!(is_owned_by(&meta, "u"));
        assert!(!is_owned_by(&meta, "v"));
        meta.owner_references.as_mut().expect("set")[0].controller = Some(false);
        assert!(!is_owned_by(&meta, "u"));
    }
}
