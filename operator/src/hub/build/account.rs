//! The ServiceAccount of hub pods: no rights, and no token in the pod.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::names::{ObjectNames, Part};

pub(super) fn build(names: &ObjectNames) -> ServiceAccount {
    ServiceAccount {
        metadata: names.meta(names.main(), Part::Hub),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
