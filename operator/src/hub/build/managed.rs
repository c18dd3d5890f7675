//! A managed Redis and a managed Postgres: one pod each with a volume, configured by the official images' environment.

use alkhub_config::address::{POSTGRES_PORT, REDIS_PORT};
use alkhub_crds::Hub;
use alkhub_crds::hub::Storage;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use crate::error::Error;
use crate::hub::generated::{DATABASE, PASSWORD, REDIS_CONF};
use crate::hub::validate::Plan;
use crate::names::{Part, owner};

/// Digest of what a running Redis does not read again: its configuration file, which contains the password.
const RESTARTS: &str = "alkhub.dev/password";

/// User and group of the official images' servers.
const USER: i64 = 999;

/// What differs between servers.
struct Server<'a> {
    part: Part,
    image: &'a str,
    port: u16,
    /// `args`, `env`, and `volumeMounts` other than the data's.
    container: Value,
    volumes: Vec<Value>,
    /// Annotations of the pod.
    annotations: Value,
}

pub(super) fn redis(plan: &Plan, storage: &Storage, password: &str) -> Result<StatefulSet, Error> {
    let server = Server {
        part: Part::Redis,
        image: &plan.redis_image,
        port: REDIS_PORT,
        container: json!({
            // The password is in a file, since anybody who can list processes can read arguments.
            "args": ["redis-server", "/etc/redis/redis.conf"],
            "volumeMounts": [{ "name": "config", "mountPath": "/etc/redis", "readOnly": true }],
        }),
        volumes: vec![json!({ "name": "config", "secret": {
            "secretName": plan.names.server(Part::Redis),
            "defaultMode": 0o440,
            "items": [{ "key": REDIS_CONF, "path": "redis.conf" }],
        } })],
        annotations: json!({ RESTARTS: password }),
    };
    set(plan, storage, server)
}

pub(super) fn postgres(plan: &Plan, storage: &Storage) -> Result<StatefulSet, Error> {
    let password = json!({ "secretKeyRef": { "name": plan.names.server(Part::Postgres), "key": PASSWORD } });
    let server = Server {
        part: Part::Postgres,
        image: &plan.postgres_image,
        port: POSTGRES_PORT,
        container: json!({
            "env": [
                { "name": "POSTGRES_USER", "value": DATABASE },
                { "name": "POSTGRES_DB", "value": DATABASE },
                { "name": "POSTGRES_PASSWORD", "valueFrom": password },
                // In a subdirectory: a fresh volume may hold lost+found, which initdb refuses.
                { "name": "PGDATA", "value": "/data/pgdata" },
            ],
            "volumeMounts": [
                { "name": "run", "mountPath": "/var/run/postgresql" },
                { "name": "tmp", "mountPath": "/tmp" },
            ],
        }),
        volumes: vec![
            json!({ "name": "run", "emptyDir": {} }),
            json!({ "name": "tmp", "emptyDir": {} }),
        ],
        // Another password in the Secret changes nothing for existing data, and neither would a restart.
        annotations: Value::Null,
    };
    set(plan, storage, server)
}

fn set(plan: &Plan, storage: &Storage, server: Server<'_>) -> Result<StatefulSet, Error> {
    let Server {
        part,
        image,
        port,
        mut container,
        mut volumes,
        annotations,
    } = server;
    let names = &plan.names;
    let probe = |failures: u32| json!({ "tcpSocket": { "port": port }, "periodSeconds": 2, "timeoutSeconds": 3, "failureThreshold": failures });
    container["name"] = "server".into();
    container["image"] = image.into();
    container["ports"] = json!([{ "name": "server", "containerPort": port, "protocol": "TCP" }]);
    container["readinessProbe"] = probe(3);
    container["startupProbe"] = probe(150);
    container["resources"] = json!({ "requests": { "cpu": "50m", "memory": "64Mi" } });
    container["securityContext"] = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    });
    if let Some(mounts) = container["volumeMounts"].as_array_mut() {
        mounts.push(json!({ "name": "data", "mountPath": "/data" }));
    }
    let ephemeral = storage.ephemeral == Some(true);
    if ephemeral {
        volumes.push(json!({ "name": "data", "emptyDir": {} }));
    }
    let claims = if ephemeral {
        Value::Null
    } else {
        json!([volume_claim(plan, storage)])
    };
    let set = json!({
        "metadata": names.meta(names.server(part), part),
        "spec": {
            "replicas": 1,
            "serviceName": names.server(part),
            "selector": { "matchLabels": names.selector(part) },
            // The volume is deleted with the Hub, not with the server.
            "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Retain", "whenScaled": "Retain" },
            "volumeClaimTemplates": claims,
            "template": {
                "metadata": { "labels": names.labels(part), "annotations": annotations },
                "spec": {
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "securityContext": super::unprivileged(USER),
                    "imagePullSecrets": plan.template.image_pull_secrets,
                    "containers": [container],
                    "volumes": volumes,
                }
            },
        }
    });
    super::object("StatefulSet", set)
}

/// The claim is owned by the Hub, though not as its controller: unsetting `managed` keeps the volume, deleting the Hub
/// does not.
fn volume_claim(plan: &Plan, storage: &Storage) -> Value {
    let owner = OwnerReference {
        controller: None,
        block_owner_deletion: None,
        ..owner::<Hub>(&plan.names.hub, &plan.names.uid)
    };
    json!({
        "metadata": { "name": "data", "ownerReferences": [owner] },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage.storage_class_name,
            "resources": { "requests": { "storage": storage.size.as_deref().unwrap_or("1Gi") } },
        }
    })
}
