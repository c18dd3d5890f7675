//! The ConfigMap with the settings of a revision, which hold no secrets. It is immutable, so that a pod of an older
//! revision that restarts reads what it read before.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use crate::hub::files;
use crate::hub::revision::Revision;
use crate::hub::validate::Plan;
use crate::names::ObjectNames;

pub(super) fn build(names: &ObjectNames, revision: &Revision) -> ConfigMap {
    let settings = revision.made.settings.clone();
    ConfigMap {
        metadata: names.revision_meta(names.config(&revision.name), &revision.name),
        data: Some(BTreeMap::from([(files::SETTINGS.to_owned(), settings)])),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// The settings of a plan, as a revision keeps them.
pub(super) fn text(plan: &Plan) -> String {
    format!(
        "# Written by the operator from Hub {}/{}.\n{}",
        plan.names.namespace, plan.names.hub, plan.toml
    )
}
