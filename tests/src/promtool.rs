//! Prometheus's own tool for what we expose.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// What `promtool check metrics` reports about a page of metrics; empty if it finds no fault.
///
/// # Errors
/// promtool is not installed (Debian: `prometheus`).
pub async fn check(metrics: &str) -> Result<String> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool is in Debian's package prometheus")?;
    promtool
        .stdin
        .take()
        .context("piped")?
        .write_all(metrics.as_bytes())
        .await?;
    let output = promtool.wait_with_output().await?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(if output.status.success() {
        said
    } else {
        format!("{}: {said}", output.status)
    })
}
