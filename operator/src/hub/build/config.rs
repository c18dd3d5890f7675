//! The ConfigMap with the hub's settings, which hold no secrets: immutable, one for each text of settings.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use crate::hub::files;
use crate::hub::validate::Plan;
use crate::names::Part;

pub(super) fn build(plan: &Plan) -> ConfigMap {
    let text = format!(
        "# Written by the operator from Hub {}/{}.\n{}",
        plan.names.namespace, plan.names.hub, plan.toml
    );
    ConfigMap {
        metadata: plan.names.meta(name(plan), Part::Hub),
        data: Some(BTreeMap::from([(files::SETTINGS.to_owned(), text)])),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// The name of the plan's ConfigMap.
pub(super) fn name(plan: &Plan) -> String {
    plan.names.config(&plan.toml)
}
