//! What hub pods are made of.

use std::collections::BTreeMap;

use alkhub_config::{MANAGEMENT_PORT, PORT};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

use super::{unprivileged, volume};
use crate::error::Error;
use crate::hub::validate::{PEER_PORT, Plan};
use crate::hub::{files, grace};
use crate::names::{DELETION_COST, DRAIN_SECONDS, DRAIN_SINCE, Part, REVISION, SERVING};

/// User and group of the image.
const USER: i64 = 65_532;

/// The template of a revision's pods. `count` is what they tell the other hubs as their revision.
pub(super) fn build(plan: &Plan, revision: &str, count: i64) -> Result<PodTemplateSpec, Error> {
    super::object("PodTemplateSpec", template(plan, revision, count))
}

fn template(plan: &Plan, revision: &str, count: i64) -> Value {
    let names = &plan.names;
    let own = &plan.template;
    let mut labels = own.labels.clone();
    labels.extend(names.labels(Part::Hub));
    labels.extend([(REVISION, revision), SERVING].map(|(key, value)| (key.to_owned(), value.to_owned())));
    let mut annotations = own.annotations.clone();
    annotations.retain(|key, _| key != DRAIN_SINCE && key != DELETION_COST);
    annotations.extend(monitoring());
    let server = &plan.config.server;
    annotations.insert(DRAIN_SECONDS.to_owned(), grace::emptying(server).to_string());
    let least = || i64::try_from(grace::least(server)).unwrap_or(i64::MAX);
    let grace = own.termination_grace_period_seconds.unwrap_or_else(least);
    let spread = match own.topology_spread_constraints.as_slice() {
        [] => spread(&names.selector(Part::Hub)),
        given => json!(given),
    };
    json!({
        "metadata": { "labels": labels, "annotations": annotations },
        "spec": {
            "serviceAccountName": names.main(),
            "automountServiceAccountToken": false,
            // Service links would put ALKHUB_PORT and the like into the hub's environment, from which it reads
            // settings.
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": grace,
            "securityContext": unprivileged(USER),
            "containers": [container(plan, count)],
            "volumes": [volume::settings(plan, &names.config(revision))],
            "imagePullSecrets": own.image_pull_secrets,
            "nodeSelector": (!own.node_selector.is_empty()).then_some(&own.node_selector),
            "tolerations": own.tolerations,
            "affinity": own.affinity,
            "priorityClassName": own.priority_class_name,
            "topologySpreadConstraints": spread,
        }
    })
}

fn container(plan: &Plan, count: i64) -> Value {
    let default = || json!({ "requests": { "cpu": "100m", "memory": "64Mi" }, "limits": { "memory": "512Mi" } });
    json!({
        "name": "hub",
        "image": plan.image,
        "command": ["/alkhub"],
        "args": ["serve", "--config", files::path(files::SETTINGS)],
        "env": [
            downward("ALKHUB_POD__NAME", "metadata.name"),
            downward("ALKHUB_POD__IP", "status.podIP"),
            downward("ALKHUB_POD__UID", "metadata.uid"),
            { "name": "ALKHUB_POD__REVISION", "value": count.to_string() },
        ],
        "ports": [
            { "name": "http", "containerPort": PORT, "protocol": "TCP" },
            { "name": "management", "containerPort": MANAGEMENT_PORT, "protocol": "TCP" },
            { "name": "peer", "containerPort": PEER_PORT, "protocol": "TCP" },
        ],
        "livenessProbe": probe("/livez", 10, 6),
        "readinessProbe": probe("/readyz", 2, 3),
        "startupProbe": probe("/livez", 1, 60),
        "resources": plan.template.resources.as_ref().map_or_else(default, |given| json!(given)),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [{ "name": "settings", "mountPath": files::FOLDER, "readOnly": true }],
    })
}

/// Annotations that tell Prometheus where to find the metrics.
fn monitoring() -> [(String, String); 3] {
    [
        ("prometheus.io/scrape", "true".to_owned()),
        ("prometheus.io/port", MANAGEMENT_PORT.to_string()),
        ("prometheus.io/path", "/metrics".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
}

/// Spreads pods over zones, then over nodes, as far as possible.
fn spread(selector: &BTreeMap<String, String>) -> Value {
    let over = |key: &str| {
        json!({
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": selector },
            "matchLabelKeys": [REVISION],
        })
    };
    json!([over("topology.kubernetes.io/zone"), over("kubernetes.io/hostname")])
}

fn probe(path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": { "path": path, "port": "management" },
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    })
}

fn downward(name: &str, field: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": field } } })
}
