//! The OpenAPI document against the hub: a property tester (schemathesis) generates requests from the document, with
//! keys of three scopes. Nothing valid may be refused, every answer must be documented, and nothing may fail
//! internally.
//!
//! Seeded and bounded, so that a run can be repeated. Endless streams and the WebSocket are left out.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use alkhub_test_support::skip;
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::process::Command;

/// The same requests in each run.
const SEED: &str = "20261128";

/// How many requests are made for each operation and key.
const EXAMPLES: &str = "20";

/// More than three runs of the tester take on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                      positive_data_acceptance";

/// The Python packages that `make packages` fetches; `None` skips the test, and fails where nothing may be skipped.
fn packages() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/packages/python");
    if folder.join("schemathesis").is_dir() {
        return Some(folder);
    }
    skip("the property tester is not fetched: run `make packages`");
    None
}

/// Runs the tester with a key; returns its output if it finds something.
async fn probe(packages: &Path, url: &str, key: &str, scratch: &Path) -> Result<()> {
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("it/properties");
    let path = std::env::join_paths([packages, &hooks])?;
    let output = Command::new("python3")
        .args(["-m", "schemathesis.cli", "run"])
        .arg(format!("{url}/v1/openapi.json"))
        .args(["--url", url, "--header", &format!("Authorization: Bearer {key}")])
        .args([
            "--seed",
            SEED,
            "--max-examples",
            EXAMPLES,
            "--phases",
            "coverage,fuzzing",
        ])
        .args(["--checks", CHECKS, "--mode", "positive", "--request-timeout", "20"])
        .args([
            "--exclude-path",
            "/v1/ws",
            "--exclude-path",
            "/ws",
            "--exclude-operation-id",
            "get_v1_events",
        ])
        .args(["--suppress-health-check", "all", "--continue-on-failure", "--no-color"])
        .env("PYTHONPATH", path)
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(scratch)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, output)
        .await
        .context("the tester ends in time")??;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(said.contains("passed"), "it tested nothing: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_valid_request_is_refused_and_no_answer_is_undocumented() -> Result<()> {
    let Some(packages) = packages() else {
        return Ok(());
    };
    let cluster = Cluster::start(1).await?;
    let (url, scratch) = (cluster.url(0), tempfile::tempdir()?);
    let admin = Http::new(url.clone(), cluster.admin());
    let mut keys = vec![cluster.admin().to_owned()];
    for scopes in [
        json!([
            "call:*",
            "events:publish:*",
            "events:subscribe:*",
            "operations:read",
            "spokes:read",
            "calls:read"
        ]),
        json!([]),
    ] {
        let create = json!({ "name": "tester", "scopes": scopes });
        let (_, key) = admin.new_key(&create).await?;
        keys.push(key);
    }

    for key in &keys {
        probe(&packages, &url, key, scratch.path()).await?;
    }

    cluster.shutdown().await;
    Ok(())
}
