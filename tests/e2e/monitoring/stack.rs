//! The Prometheus operator, and a Prometheus that runs what it writes.
//!
//! The operator is the real one, as a process next to the cluster (`alkhub-cluster build`). It is given the chart's
//! objects and a Prometheus resource with no replicas; what it would mount into the pods is taken from its Secret and
//! ConfigMap. Two things differ from a real pod: the targets come from Prometheus's own discovery in a separate
//! process, because Debian's Prometheus is built without it (tests/cluster/prometheus); and alerts wait for seconds
//! instead of minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use alkhub_test_support::{Port, until_within};
use alkhub_tests::kube::{Kube, condition};
use anyhow::{Context as _, Result, ensure};
use tokio::process::Child;

use super::Prometheus;
use crate::world::{SYSTEM, World};

/// The namespace of the Prometheus resource: neither the operator's nor a Hub's.
const NAMESPACE: &str = "monitoring";
/// Where the operator's ConfigMap with rules would be mounted.
const MOUNTED: &str = "/etc/prometheus/rules/prometheus-alkhub-rulefiles-0";
/// What a pod's side-car fills in from its environment: the shard's number and its name.
const FILLED_IN: [(&str, &str); 2] = [("$(SHARD)", "0"), ("$(POD_NAME)", "prometheus-alkhub-0")];
/// A Prometheus as the common charts make it: it accepts whatever has their label, from all namespaces.
const RESOURCE: &str = "apiVersion: monitoring.coreos.com/v1
kind: Prometheus
metadata: {name: alkhub, namespace: monitoring}
spec:
  replicas: 0
  version: v2.42.0
  evaluationInterval: 1s
  serviceMonitorSelector: {matchLabels: {release: kube-prometheus}}
  serviceMonitorNamespaceSelector: {}
  podMonitorSelector: {matchLabels: {release: kube-prometheus}}
  podMonitorNamespaceSelector: {}
  ruleSelector: {matchLabels: {release: kube-prometheus}}
  ruleNamespaceSelector: {}
";
/// The values that a user gives the chart. The interval is short to keep the test short.
const VALUES: &str = "monitoring.serviceMonitor.enabled=true,monitoring.serviceMonitor.interval=1s,\
                      monitoring.rules.enabled=true,monitoring.rules.runbookUrl=https://pages.example/runbook,\
                      monitoring.dashboard.enabled=true,monitoring.labels.release=kube-prometheus";

/// All of it; everything ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct Stack {
    /// The Prometheus.
    pub(crate) prometheus: Prometheus,
    _processes: Vec<Child>,
    _port: Port,
}

// === impl Stack ===

impl Stack {
    /// Installs the Prometheus operator and switches the chart's monitoring on.
    pub(crate) async fn install(world: &World) -> Result<Self> {
        let kube = &world.kube;
        crds(world).await?;
        let operator = spawn(world, "prometheus-operator", &["--web.listen-address=127.0.0.1:0"])?;
        let chart = world.file("charts/alkhub");
        kube.helm(&[
            "upgrade",
            "alkhub",
            &chart,
            "-n",
            SYSTEM,
            "--reuse-values",
            "--set",
            VALUES,
        ])
        .await?;
        kube.kubectl(&["create", "namespace", NAMESPACE]).await?;
        kube.apply(NAMESPACE, RESOURCE).await?;
        let folder = world.folder.path().join("prometheus");
        write_rules(kube, &folder.join("rules")).await?;
        let config = written_config(kube).await;
        let rules = folder.join("rules");
        ensure!(config.contains(MOUNTED), "the configuration has no rules: {config}");
        let config = FILLED_IN
            .iter()
            .fold(config, |config, (variable, value)| config.replace(variable, value));
        fs::write(
            folder.join("given.yaml"),
            config.replace(MOUNTED, &rules.to_string_lossy()),
        )?;
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let targets = spawn(
            world,
            "prometheus-targets",
            &[&text(folder.join("given.yaml")), &text(folder.clone())],
        )?;
        let config = folder.join("prometheus.yaml");
        until_within("the targets are looked for", Duration::from_secs(30), || async {
            config.exists().then_some(()).ok_or("no configuration yet")
        })
        .await;
        let port = Port::free();
        let prometheus = spawn(
            world,
            "prometheus",
            &[
                &format!("--config.file={}", config.display()),
                &format!("--storage.tsdb.path={}", folder.join("tsdb").display()),
                &format!("--web.listen-address=127.0.0.1:{port}"),
            ],
        )?;
        let url = format!("http://127.0.0.1:{port}");
        Ok(Self {
            prometheus: Prometheus { url },
            _processes: vec![operator, targets, prometheus],
            _port: port,
        })
    }
}

/// Starts a program whose output goes to a file of the run.
fn spawn(world: &World, program: &str, args: &[&str]) -> Result<Child> {
    let log = fs::File::create(world.folder.path().join(format!("{program}.log")))?;
    let mut command = world.kube.command(program, args);
    let command = command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null());
    command
        .spawn()
        .with_context(|| format!("{program}: `alkhub-cluster build` and Debian's package prometheus have it"))
}

async fn crds(world: &World) -> Result<()> {
    let folder = world.file("target/cluster/bin/prometheus-crds");
    let kube = &world.kube;
    kube.kubectl(&["apply", "--server-side", "-f", &folder]).await?;
    for name in ["prometheuses", "servicemonitors", "podmonitors", "prometheusrules"] {
        let name = format!("{name}.monitoring.coreos.com");
        kube.wait(
            &format!("{name} are known"),
            ("default", &["crd", &name]),
            Duration::from_secs(30),
            |crd| {
                condition(crd, "Established")
                    .filter(|(status, _)| *status == "True")
                    .map(drop)
            },
        )
        .await;
    }
    Ok(())
}

/// The rules as the operator writes them for the pods, with shorter waits.
async fn write_rules(kube: &Kube, folder: &Path) -> Result<()> {
    let name = ["configmap", "prometheus-alkhub-rulefiles-0"];
    let files = kube
        .wait(
            "the operator has written the rules",
            (NAMESPACE, &name),
            Duration::from_secs(60),
            |object| object["data"].as_object().filter(|data| !data.is_empty()).cloned(),
        )
        .await;
    fs::create_dir_all(folder)?;
    for (name, text) in files {
        let text = text.as_str().context("a file of rules")?;
        fs::write(folder.join(name), sooner(text))?;
    }
    Ok(())
}

/// `for: 5m` becomes `for: 5s`.
fn sooner(rules: &str) -> String {
    let line = |line: &str| match line.trim_start().strip_prefix("for: ") {
        Some(wait) if wait.ends_with('m') => line.replace(wait, &wait.replace('m', "s")),
        _ => line.to_owned(),
    };
    rules.lines().map(|text| line(text) + "\n").collect()
}

/// The configuration as the operator writes it for the pods, once it has both monitors in it.
async fn written_config(kube: &Kube) -> String {
    until_within(
        "the operator has written a configuration",
        Duration::from_secs(60),
        || async {
            let template = "go-template={{ index .data \"prometheus.yaml.gz\" }}";
            let args = ["get", "-n", NAMESPACE, "secret", "prometheus-alkhub", "-o", template];
            let packed = kube.kubectl(&args).await.map_err(|error| format!("{error:#}"))?;
            let config = unpack(&packed).await.map_err(|error| format!("{error:#}"))?;
            let jobs = ["serviceMonitor/alkhub-system/", "podMonitor/alkhub-system/"];
            if jobs.iter().all(|job| config.contains(job)) {
                Ok(config)
            } else {
                Err(config)
            }
        },
    )
    .await
}

async fn unpack(packed: &str) -> Result<String> {
    let script = "printf %s \"$1\" | base64 -d | gzip -dc";
    let output = tokio::process::Command::new("sh")
        .args(["-c", script, "sh", packed])
        .output()
        .await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
