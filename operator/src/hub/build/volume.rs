//! The one volume of a hub pod: settings, keys and URLs as [`files`] names them.

use serde_json::{Value, json};

use crate::hub::files::{self, BackendFiles};
use crate::hub::generated::{ADMIN_KEY, HASH_KEY, URL};
use crate::hub::validate::{Plan, Wiring};
use crate::names::Part;

/// Readable by the hub's group alone.
const MODE: i32 = 0o440;

/// A projected volume, since no other volume can be mounted inside a mounted ConfigMap.
pub(super) fn settings(plan: &Plan, config: &str) -> Value {
    let names = &plan.names;
    let mut sources = vec![
        json!({ "configMap": { "name": config, "items": [item(files::SETTINGS, files::SETTINGS)] } }),
        json!({ "secret": {
            "name": names.auth(),
            "items": [item(HASH_KEY, files::HASH_KEY), item(ADMIN_KEY, files::ADMIN_KEY)],
        } }),
    ];
    sources.extend(of_server(&plan.redis, &names.server(Part::Redis), &files::REDIS));
    sources.extend(of_server(
        &plan.postgres,
        &names.server(Part::Postgres),
        &files::POSTGRES,
    ));
    json!({ "name": "settings", "projected": { "defaultMode": MODE, "sources": sources } })
}

fn of_server(wiring: &Wiring, own_secret: &str, files: &BackendFiles) -> Vec<Value> {
    let source =
        |secret: &str, key: &str, path: &str| json!({ "secret": { "name": secret, "items": [item(key, path)] } });
    match wiring {
        Wiring::Managed(_) => vec![source(own_secret, URL, files.url)],
        Wiring::Given { url: (location, _), ca } => {
            let authorities = ca.iter().map(|(ca, _)| source(&ca.secret, &ca.key, files.ca));
            std::iter::once(source(&location.secret, &location.key, files.url))
                .chain(authorities)
                .collect()
        }
    }
}

fn item(key: &str, path: &str) -> Value {
    json!({ "key": key, "path": path })
}
