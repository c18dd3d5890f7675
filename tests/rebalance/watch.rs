//! `kubectl get --watch`: one line for each change of an object.

use std::process::Stdio;

use alkhub_tests::kube::Kube;
use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Follows the objects of a kind until the API server ends the watch, as it does now and then. `begin` is called first,
/// and then the existing objects come. `line` is a template of `kubectl`'s; because `kubectl` pads what is between
/// tabs, fields must be separated by something other than a tab.
///
/// # Errors
/// `kubectl` cannot be started or read.
pub(crate) async fn watch(
    kube: &Kube,
    what: &[&str],
    line: &str,
    begin: impl FnOnce(),
    mut each: impl FnMut(&str),
) -> Result<()> {
    let args = [&["get"], what, &["--watch", "--output-watch-events", "-o", line]].concat();
    let mut kubectl = kube
        .command("kubectl", &args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut lines = BufReader::new(kubectl.stdout.take().context("piped")?).lines();
    begin();
    while let Some(line) = lines.next_line().await? {
        each(&line);
    }
    Ok(())
}
