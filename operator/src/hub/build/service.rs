//! Services: one for clients and spokes, a headless one for pods, one for each managed server.

use alkhub_config::{MANAGEMENT_PORT, PORT};
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use crate::error::Error;
use crate::hub::validate::Plan;
use crate::names::{ObjectNames, Part};

pub(super) fn of_hub(plan: &Plan) -> Result<Vec<Service>, Error> {
    let names = &plan.names;
    let mut clients = names.meta(names.main(), Part::Hub);
    clients.annotations = (!plan.service.annotations.is_empty()).then(|| plan.service.annotations.clone());
    let selector = names.selector(Part::Hub);
    let http = json!({ "name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP" });
    let management =
        json!({ "name": "management", "port": MANAGEMENT_PORT, "targetPort": "management", "protocol": "TCP" });
    let clients = json!({
        "metadata": clients,
        "spec": { "type": plan.service.kind, "selector": selector, "ports": [http] }
    });
    let pods = json!({
        "metadata": names.meta(names.pods(), Part::Hub),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            // Anybody who looks at pods wants to see those that are starting or draining too.
            "publishNotReadyAddresses": true,
            "selector": selector,
            "ports": [http, management],
        }
    });
    Ok(vec![
        super::object("Service", clients)?,
        super::object("Service", pods)?,
    ])
}

pub(super) fn of_server(names: &ObjectNames, part: Part, port: u16) -> Result<Service, Error> {
    let service = json!({
        "metadata": names.meta(names.server(part), part),
        "spec": {
            "type": "ClusterIP",
            "selector": names.selector(part),
            "ports": [{ "name": "server", "port": port, "targetPort": port, "protocol": "TCP" }],
        }
    });
    super::object("Service", service)
}
