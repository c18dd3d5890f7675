//! The Deployment of the hub pods.

use std::collections::BTreeMap;
use std::time::Duration;

use alkhub_config::{MANAGEMENT_PORT, PORT, drain};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use super::volume;
use crate::error::Error;
use crate::hub::files;
use crate::hub::generated::Generated;
use crate::hub::validate::{Plan, Wiring};
use crate::names::{Part, REVISION, digest};

/// Digest of what a running hub does not notice by itself: settings, URLs, keys.
const RESTARTS: &str = "alkhub.dev/settings";

/// User and group of the image.
const USER: i64 = 65_532;

/// Time for the process itself to notice the signal and to go, beside what the drain's parts may take.
const MARGIN: Duration = Duration::from_secs(3);

/// The longest grace period that is asked for: Kubernetes itself counts no further.
const LONGEST_GRACE: u64 = 0x7fff_ffff;

pub(super) fn build(plan: &Plan, generated: &Generated) -> Result<Deployment, Error> {
    let names = &plan.names;
    let mut template = template(plan, generated);
    let revision = digest(&[template.to_string().as_bytes()])[..10].to_owned();
    template["metadata"]["labels"][REVISION] = revision.into();
    let deployment = json!({
        "metadata": names.meta(names.main(), Part::Hub),
        "spec": {
            "replicas": plan.replicas,
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": 300,
            "selector": { "matchLabels": names.selector(Part::Hub) },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": template,
        }
    });
    super::object("Deployment", deployment)
}

/// The revision that a Deployment asks for.
pub(crate) fn revision(deployment: &Deployment) -> Option<&String> {
    deployment
        .spec
        .as_ref()?
        .template
        .metadata
        .as_ref()?
        .labels
        .as_ref()?
        .get(REVISION)
}

fn template(plan: &Plan, generated: &Generated) -> Value {
    let names = &plan.names;
    let own = &plan.template;
    let mut labels = own.labels.clone();
    labels.extend(names.labels(Part::Hub));
    let mut annotations = own.annotations.clone();
    annotations.extend(annotations_of(plan, generated));
    let spread = match own.topology_spread_constraints.as_slice() {
        [] => spread(&names.selector(Part::Hub)),
        given => json!(given),
    };
    json!({
        "metadata": { "labels": labels, "annotations": annotations },
        "spec": {
            "serviceAccountName": names.main(),
            "automountServiceAccountToken": false,
            // Service links would put ALKHUB_PORT and the like into the hub's environment, where it reads settings.
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": grace_seconds(plan),
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [container(plan)],
            "volumes": [volume::settings(plan)],
            "imagePullSecrets": own.image_pull_secrets,
            "nodeSelector": (!own.node_selector.is_empty()).then_some(&own.node_selector),
            "tolerations": own.tolerations,
            "affinity": own.affinity,
            "priorityClassName": own.priority_class_name,
            "topologySpreadConstraints": spread,
        }
    })
}

fn container(plan: &Plan) -> Value {
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
        ],
        "ports": [
            { "name": "http", "containerPort": PORT, "protocol": "TCP" },
            { "name": "management", "containerPort": MANAGEMENT_PORT, "protocol": "TCP" },
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

fn annotations_of(plan: &Plan, generated: &Generated) -> BTreeMap<String, String> {
    let mut parts = vec![plan.toml.clone(), generated.auth.clone()];
    for (wiring, own) in [(&plan.redis, &generated.redis), (&plan.postgres, &generated.postgres)] {
        match wiring {
            Wiring::Managed(_) => parts.push(own.clone().unwrap_or_default()),
            Wiring::Given { url, ca } => {
                parts.push(url.1.clone());
                parts.extend(ca.iter().map(|ca| ca.1.clone()));
            }
        }
    }
    let bytes: Vec<_> = parts.iter().map(String::as_bytes).collect();
    [
        (RESTARTS, digest(&bytes)),
        ("prometheus.io/scrape", "true".to_owned()),
        ("prometheus.io/port", MANAGEMENT_PORT.to_string()),
        ("prometheus.io/path", "/metrics".to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn grace_seconds(plan: &Plan) -> u64 {
    let server = &plan.config.server;
    let grace = server
        .drain_delay
        .saturating_add(server.drain_timeout)
        .saturating_add(drain::LIMIT)
        .saturating_add(MARGIN);
    let whole = grace.as_secs().saturating_add(u64::from(grace.subsec_nanos() > 0));
    whole.min(LONGEST_GRACE)
}

/// Over zones, then over nodes, as far as that is possible.
fn spread(selector: &BTreeMap<String, String>) -> Value {
    let over = |key: &str| {
        json!({
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": selector },
            "matchLabelKeys": ["pod-template-hash"],
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
