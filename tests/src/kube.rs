//! `kubectl` and `helm`, as a person would type them.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use alkhub_test_support::until_within;
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The two tools on one cluster.
#[derive(Clone, Debug)]
pub struct Kube {
    kubeconfig: PathBuf,
}

// === impl Kube ===

impl Kube {
    /// The tools on the cluster of a kubeconfig.
    pub fn new(kubeconfig: PathBuf) -> Self {
        Self { kubeconfig }
    }

    /// A command on this cluster, not started.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .kill_on_drop(true);
        command
    }

    /// Runs `kubectl` and returns its output.
    ///
    /// # Errors
    /// It failed: the message has its output.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.run("kubectl", args, None).await
    }

    /// Runs `helm` and returns its output.
    ///
    /// # Errors
    /// It failed: the message has its output.
    pub async fn helm(&self, args: &[&str]) -> Result<String> {
        self.run("helm", args, None).await
    }

    /// `kubectl apply -f -`.
    ///
    /// # Errors
    /// It failed: the message has what it printed.
    pub async fn apply(&self, namespace: &str, manifest: &str) -> Result<String> {
        self.run("kubectl", &["apply", "-n", namespace, "-f", "-"], Some(manifest))
            .await
    }

    /// Evicts a pod as `kubectl drain` does: through the API that respects PodDisruptionBudgets.
    ///
    /// # Errors
    /// It was refused: the message has what the API server said.
    pub async fn evict(&self, namespace: &str, pod: &str) -> Result<String> {
        let eviction = serde_json::json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "namespace": namespace, "name": pod },
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
        let args = ["create", "--raw", &path, "-f", "-"];
        self.run("kubectl", &args, Some(&eviction.to_string())).await
    }

    /// `kubectl get … -o json`.
    ///
    /// # Errors
    /// As [`Kube::kubectl`], or its output is not JSON.
    pub async fn get(&self, namespace: &str, what: &[&str]) -> Result<Value> {
        let args = [&["get", "-n", namespace, "-o", "json"], what].concat();
        Ok(serde_json::from_str(&self.kubectl(&args).await?)?)
    }

    /// One decoded field of a Secret.
    ///
    /// # Errors
    /// It failed: the message has what it printed.
    pub async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<String> {
        let template = format!("go-template={{{{ index .data \"{key}\" | base64decode }}}}");
        self.kubectl(&["get", "-n", namespace, "secret", name, "-o", &template])
            .await
    }

    /// Waits until an object satisfies a condition; if it never does, the message has its last state.
    ///
    /// # Panics
    /// If it never does.
    pub async fn wait<T>(
        &self,
        what: &str,
        (namespace, object): (&str, &[&str]),
        within: Duration,
        look: impl Fn(&Value) -> Option<T>,
    ) -> T {
        until_within(what, within, || async {
            let object = self
                .get(namespace, object)
                .await
                .map_err(|error| format!("{error:#}"))?;
            look(&object).ok_or_else(|| short(&object))
        })
        .await
    }

    async fn run(&self, program: &str, args: &[&str], input: Option<&str>) -> Result<String> {
        let mut command = self.command(program, args);
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        if let Some(input) = input {
            process
                .stdin
                .take()
                .context("piped")?
                .write_all(input.as_bytes())
                .await?;
        }
        let output = process.wait_with_output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!(
                "{program} {} failed: {}{said}",
                args.join(" "),
                String::from_utf8_lossy(&output.stdout)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The parts of an object that matter to a person who wonders why it is not as it should be.
fn short(object: &Value) -> String {
    match object["items"].as_array() {
        Some(items) => items.iter().map(short).collect::<Vec<_>>().join("\n"),
        None => format!("{} {}", object["metadata"]["name"], object["status"]),
    }
}

/// The status of one condition of an object: `True`, `False` or `Unknown`, and its reason.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<(&'a str, &'a str)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|condition| condition["type"] == kind)?;
    Some((condition["status"].as_str()?, condition["reason"].as_str()?))
}
