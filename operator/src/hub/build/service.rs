//! Services: one for clients and spokes, a headless one for pods, one for each managed server.

use alkhub_config::{MANAGEMENT_PORT, PORT};
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use crate::hub::validate::Plan;
use crate::names::{Names, Part};

pub(super) fn of_hub(plan: &Plan) -> Vec<Service> {
    let names = &plan.names;
    let mut clients = names.meta(names.main(), Part::Hub);
    clients.annotations = (!plan.service.annotations.is_empty()).then(|| plan.service.annotations.clone());
    let selector = names.selector(Part::Hub);
    let http = json!({ "name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP" });
    let management =
        json!({ "name": "management", "port": MANAGEMENT_PORT, "targetPort": "management", "protocol": "TCP" });
    vec![
        super::object(json!({
            "metadata": clients,
            "spec": { "type": plan.service.kind, "selector": selector, "ports": [http] }
        })),
        super::object(json!({
            "metadata": names.meta(names.pods(), Part::Hub),
            "spec": {
                "type": "ClusterIP",
                "clusterIP": "None",
                // Who looks at pods wants to see those too that are starting or draining.
                "publishNotReadyAddresses": true,
                "selector": selector,
                "ports": [http, management],
            }
        })),
    ]
}

pub(super) fn of_server(names: &Names, part: Part, port: u16) -> Service {
    super::object(json!({
        "metadata": names.meta(names.server(part), part),
        "spec": {
            "type": "ClusterIP",
            "selector": names.selector(part),
            "ports": [{ "name": "server", "port": port, "targetPort": port, "protocol": "TCP" }],
        }
    }))
}
