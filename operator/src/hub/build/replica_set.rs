//! The ReplicaSet of a revision; Kubernetes keeps its pods even while no operator runs.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::hub::revision::Revision;
use crate::names::{ObjectNames, Part, REVISION};

/// It does not set a number of pods: that is decided step by step ([`crate::hub::fleet`]).
pub(super) fn build(names: &ObjectNames, revision: &Revision) -> ReplicaSet {
    let mut selector = names.selector(Part::Hub);
    selector.insert(REVISION.to_owned(), revision.name.clone());
    ReplicaSet {
        metadata: names.revision_meta(names.revision(&revision.name), &revision.name),
        spec: Some(ReplicaSetSpec {
            selector: LabelSelector {
                match_labels: Some(selector),
                ..LabelSelector::default()
            },
            template: Some(revision.made.template.clone()),
            ..ReplicaSetSpec::default()
        }),
        ..ReplicaSet::default()
    }
}
