//! Generated files are what their generators produce now: OpenAPI, settings, metrics. (For CRDs see `crds/tests`.)
//!
//! With `ALKHUB_TEST_BLESS=1` (which `make generate` sets) the files are written instead of compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use alkhub_config::HubConfig;
use alkhub_test_support::RedisServer;
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use anyhow::Result;
use serde_json::{Value, json};

/// Compares a committed file with what its generator produces now, or writes it.
pub(crate) fn fresh(path: &str, now: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("below the workspace")
        .join(path);
    if std::env::var_os("ALKHUB_TEST_BLESS").is_some() {
        fs::create_dir_all(file.parent().expect("has a folder")).expect("the folder can be made");
        fs::write(&file, now).expect("the file can be written");
        return;
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    let line = committed.lines().zip(now.lines()).position(|(a, b)| a != b);
    let line = line.unwrap_or_else(|| committed.lines().count().min(now.lines().count()));
    assert!(
        committed == now,
        "{path} is stale from line {}: run `make generate` and commit it",
        line + 1
    );
}

/// What a scraper sees of each family: name, kind, labels and help, as rows of a Markdown table.
fn families(exposition: &str) -> String {
    let mut rows: BTreeMap<&str, (&str, &str, BTreeSet<&str>)> = BTreeMap::new();
    for line in exposition.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            rows.entry(name).or_default().1 = help;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            rows.entry(name).or_default().0 = kind;
        } else if let Some((sample, labels)) = line.split_once('{') {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| sample.strip_suffix(suffix).filter(|name| rows.contains_key(name)))
                .unwrap_or(sample);
            let labels = labels.rsplit_once('}').map_or("", |(labels, _)| labels);
            let names = labels
                .split("\",")
                .filter_map(|label| label.split_once('='))
                .map(|(name, _)| name);
            rows.entry(family)
                .or_default()
                .2
                .extend(names.filter(|name| *name != "le"));
        }
    }
    let mut table = "| metric | kind | labels | what |\n|---|---|---|---|\n".to_owned();
    for (name, (kind, help, labels)) in rows.iter().filter(|(name, _)| name.starts_with("alkhub_")) {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        table += &format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "));
    }
    table
}

/// The reference documents what a hub and an operator expose, not what somebody remembers.
#[tokio::test(flavor = "multi_thread")]
async fn the_reference_of_metrics_is_fresh() -> Result<()> {
    let mut cluster = Cluster::empty(Some(RedisServer::start().await)).await?;
    // Enables every part that has metrics.
    let port = |config: &mut HubConfig| config.server.peer_listen = Some(([127, 0, 0, 1], 0).into());
    cluster.add(port).await?;
    Http::new(cluster.url(0), cluster.admin())
        .call("hub.list", &json!({}))
        .await?;
    let hub = reqwest::get(format!("{}/metrics", cluster.hubs[0].management_url()))
        .await?
        .text()
        .await?;
    let registry = prometheus::Registry::new();
    let metrics = alkhub_operator::metrics::Metrics::new(&registry)?;
    metrics.show_hubs(&[Arc::new(a_hub()?)]);
    let operator = prometheus::TextEncoder::new().encode_to_string(&registry.gather())?;

    let page = format!(
        "# Metrics\n\nGenerated from what a hub and an operator expose, by `make generate`; do not edit. Each process exposes\n\
         the usual `process_*` families too.\n\n## Hub, port `management` (7421)\n\n{}\n## Operator, port `management` (7430)\n\n{}",
        families(&hub),
        families(&operator),
    );

    fresh("docs/generated/metrics.md", &page);
    cluster.shutdown().await;
    Ok(())
}

/// Makes families with a series for each Hub have one.
fn a_hub() -> Result<alkhub_crds::Hub> {
    let managed = json!({ "managed": true });
    Ok(serde_json::from_value(json!({
        "apiVersion": "alkhub.dev/v1alpha1", "kind": "Hub", "metadata": { "namespace": "n", "name": "demo" },
        "spec": { "redis": managed, "postgres": managed },
        "status": {
            "balance": { "total": 4, "mean": 2.0, "max": 2, "ratio": 1.0 },
            "conditions": [{
                "type": "Balanced", "status": "True", "reason": "Even", "message": "",
                "lastTransitionTime": "2026-11-01T00:00:00Z",
            }],
        },
    }))?)
}

/// One row for each field in an object's schema. Fields of Kubernetes' own types are not expanded.
fn fields(rows: &mut String, path: &str, schema: &Value) {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}{name}");
        let text = field["description"].as_str().unwrap_or_default();
        let text = text
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .replace('|', "\\|");
        let default = match &field["default"] {
            Value::Null if required.iter().any(|needed| needed == name) => "**required**".to_owned(),
            Value::Null => String::new(),
            given => format!("`{given}`"),
        };
        *rows += &format!("| `{path}` | {} | {default} | {text} |\n", kind(field));
        let ours = !path.starts_with("spec.template.") && !path.starts_with("status.conditions");
        match field["type"].as_str() {
            Some("object") if ours => fields(rows, &format!("{path}."), field),
            Some("array") if ours => fields(rows, &format!("{path}[]."), &field["items"]),
            _ => {}
        }
    }
}

/// The type of a field, with its bounds or its allowed values.
fn kind(field: &Value) -> String {
    let mut kind = field["type"].as_str().unwrap_or("any").to_owned();
    if let Some(values) = field["enum"].as_array() {
        let values: Vec<String> = values
            .iter()
            .map(|value| format!("`{}`", value.as_str().unwrap_or("null")))
            .collect();
        kind = values.join(", ");
    }
    if let (Some(least), Some(most)) = (field["minimum"].as_f64(), field["maximum"].as_f64()) {
        kind += &format!(" {least} to {most}");
    }
    kind
}

/// Field by field, from the CRDs that the API server is given.
#[test]
fn the_reference_of_the_resources_is_fresh() {
    let mut page =
        "# Hub and Spoke, field by field\n\nGenerated from `crds/src` by `make generate`; do not edit. What the \
                    operator makes of them is in [OPERATOR](../OPERATOR.md).\n"
            .to_owned();
    for (_, crd) in alkhub_crds::manifest::all() {
        let crd = serde_json::to_value(&crd).expect("a CRD is JSON");
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let kind = crd["spec"]["names"]["kind"].as_str().expect("a kind");
        page += &format!("\n## {kind}\n\n| field | type | default | what |\n|---|---|---|---|\n");
        for part in ["spec", "status"] {
            fields(&mut page, &format!("{part}."), &schema["properties"][part]);
        }
    }

    fresh("docs/generated/crds.md", &page);
}

#[test]
fn the_openapi_document_is_fresh() {
    let document = serde_json::to_string_pretty(&alkhub_server::openapi()).expect("a document is JSON");

    fresh("docs/generated/openapi.json", &format!("{document}\n"));
}

#[test]
fn the_reference_of_settings_is_fresh() {
    fresh("docs/generated/config.md", &alkhub_config::reference());
}
