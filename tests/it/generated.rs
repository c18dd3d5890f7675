//! Generated files are what their generators write today: OpenAPI, settings, metrics. (CRDs: `crds/tests`.)
//!
//! With `ALKHUB_TEST_BLESS=1` (what `make generate` sets) the files are written instead of compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use anyhow::Result;
use serde_json::json;

/// Compares a committed file with what its generator writes now, or writes it.
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

/// What a scraper is told of each family: name, kind, labels, help, as rows of a Markdown table.
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

/// The reference is what a hub and an operator expose, not what somebody remembers.
#[tokio::test(flavor = "multi_thread")]
async fn the_reference_of_metrics_is_fresh() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    Http::new(cluster.url(0), cluster.admin())
        .call("hub.list", &json!({}))
        .await?;
    let hub = reqwest::get(format!("{}/metrics", cluster.hubs[0].management_url()))
        .await?
        .text()
        .await?;
    let registry = prometheus::Registry::new();
    let _metrics = alkhub_operator::metrics::Metrics::new(&registry)?;
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

#[test]
fn the_openapi_document_is_fresh() {
    let document = serde_json::to_string_pretty(&alkhub_server::openapi()).expect("a document is JSON");

    fresh("docs/generated/openapi.json", &format!("{document}\n"));
}

#[test]
fn the_reference_of_settings_is_fresh() {
    fresh("docs/generated/config.md", &alkhub_config::reference());
}
