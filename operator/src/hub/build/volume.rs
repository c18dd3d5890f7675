//! The one volume of a hub pod: settings, keys and URLs as files under `/etc/alkhub`.

use serde_json::{Value, json};

use crate::hub::generated::{ADMIN_KEY, HASH_KEY, URL};
use crate::hub::validate::{Plan, Wiring};
use crate::names::Part;

/// Readable by the hub's group alone.
const MODE: i32 = 0o440;

/// A projected volume: a folder inside a mounted ConfigMap could not be another mount.
pub(super) fn settings(plan: &Plan) -> Value {
    let names = &plan.names;
    let mut sources = vec![
        json!({ "configMap": { "name": super::config::name(plan), "items": [item(super::config::FILE, "hub.toml")] } }),
        json!({ "secret": {
            "name": names.auth(),
            "items": [item(HASH_KEY, "auth/hash-key"), item(ADMIN_KEY, "auth/admin-key")],
        } }),
    ];
    sources.extend(of_server(&plan.redis, &names.server(Part::Redis), "redis"));
    sources.extend(of_server(&plan.postgres, &names.server(Part::Postgres), "postgres"));
    json!({ "name": "settings", "projected": { "defaultMode": MODE, "sources": sources } })
}

fn of_server(wiring: &Wiring, own_secret: &str, file: &str) -> Vec<Value> {
    let source =
        |secret: &str, key: &str, path: String| json!({ "secret": { "name": secret, "items": [item(key, &path)] } });
    let url = format!("secrets/{file}-url");
    match wiring {
        Wiring::Managed(_) => vec![source(own_secret, URL, url)],
        Wiring::Given { url: (location, _), ca } => {
            let authorities = ca
                .iter()
                .map(|(ca, _)| source(&ca.secret, &ca.key, format!("secrets/{file}-ca.crt")));
            std::iter::once(source(&location.secret, &location.key, url))
                .chain(authorities)
                .collect()
        }
    }
}

fn item(key: &str, path: &str) -> Value {
    json!({ "key": key, "path": path })
}
