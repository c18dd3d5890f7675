//! The routers of the hub's listeners, assembled from the surfaces' pages of routes.
//!
//! | routes | page |
//! |---|---|
//! | `/v1/…` | `hub/api/src/routes.rs` |
//! | `/v1/ws`, `/ws` | `hub/socket/src/routes.rs` |
//! | `/metrics`, `/livez`, `/readyz` | `management`, here |

use alkhub_edge::{Edge, Endpoint, openapi, router};
use axum::Router;
use axum::extract::FromRef;
use axum::routing::get;
use serde_json::Value;

use crate::app::App;
use crate::health;

/// The OpenAPI document of the main listener.
pub(crate) fn document() -> Value {
    let (api, sockets) = (alkhub_api::routes(), alkhub_socket::routes());
    let api = api.iter().map(|endpoint| &endpoint.route);
    openapi::document(api.chain(sockets.iter().map(|endpoint| &endpoint.route)))
}

/// The main listener's router.
pub(crate) fn main(app: &App) -> Router {
    let routes = mounted(app, alkhub_api::routes()).merge(mounted(app, alkhub_socket::routes()));
    let router = router::around(routes, app.edge.metrics());
    router::with_cors(router, &app.edge.server().cors_origins)
}

/// The management listener's router.
pub(crate) fn management(app: &App) -> Router {
    let routes = Router::new()
        .route("/metrics", get(health::metrics))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready));
    router::around(routes.with_state(app.clone()), app.edge.metrics())
}

/// A surface's routes, with what it needs of the hub as their state.
fn mounted<S: FromRef<App> + Clone + Send + Sync + 'static>(app: &App, routes: Vec<Endpoint<S>>) -> Router
where
    Edge: FromRef<S>,
{
    router::mount(routes, S::from_ref(app))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let document = document();
        let mut described = 0;
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for operation in methods.as_object().expect("methods").values() {
                described += 1;
                let summary = operation["summary"].as_str().expect("a text");
                assert!(summary.ends_with('.'), "{path}");
                let answers = operation["responses"].as_object().expect("answers");
                assert!(answers.keys().any(|status| status.as_str() < "4"), "{path}");
                let parameters = operation["parameters"].as_array().expect("a list");
                let parts = parameters.iter().filter(|each| each["in"] == "path").count();
                assert_eq!(parts, path.matches('{').count(), "{path}: each part of the path");
            }
        }

        assert_eq!(described, alkhub_api::routes().len() + alkhub_socket::routes().len());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut references = Vec::new();
        collect(&document, &mut references);

        assert!(references.len() > 20);
        for reference in references {
            let pointer = reference.strip_prefix('#').expect("a reference inside the document");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }

    #[test]
    fn operation_ids_are_unique() {
        let document = document();
        let paths = document["paths"].as_object().expect("paths").values();
        let operations = paths.flat_map(|methods| methods.as_object().expect("methods").values());
        let mut ids: Vec<&str> = operations
            .map(|operation| operation["operationId"].as_str().expect("a text"))
            .collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();

        assert_eq!(ids.len(), all);
    }

    fn collect(value: &Value, references: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    references.push(reference.clone());
                }
                fields.values().for_each(|value| collect(value, references));
            }
            Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
            _ => {}
        }
    }
}
