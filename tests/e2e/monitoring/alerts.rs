//! The alerts that the chart installs: silent while all is well, firing when something is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use alkhub_test_support::until_within;
use alkhub_tests::kube::{Kube, condition};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Prometheus;
use crate::hubs::ready_pods;
use crate::say;
use crate::world::{SYSTEM, World};

/// A namespace with a Hub whose pods go and come.
const NAMESPACE: &str = "watched";
const HUB: &str = "apiVersion: alkhub.dev/v1alpha1
kind: Hub
metadata: {name: frail}
spec:
  replicas: 1
  redis: {managed: true, storage: {ephemeral: true}}
  postgres: {managed: true, storage: {ephemeral: true}}
";
/// While it exists, no pod can be made: the effect of a namespace's quota that was set too low.
const QUOTA: &str = "{apiVersion: v1, kind: ResourceQuota, metadata: {name: none}, spec: {hard: {pods: '0'}}}";

/// Alerts about the present moment. A single error in the last seven minutes that a retry resolved is normally no
/// alert, because the condition must last for ten minutes; here, where ten seconds suffice, it would be one.
const NOW: &str = "alertname!=\"AlkhubReconcilesFailing\"";

fn prometheus(world: &World) -> Result<Prometheus> {
    let stack = world.monitoring.as_ref().context("an earlier step left a Prometheus")?;
    Ok(stack.prometheus.clone())
}

/// All rules are loaded and evaluated, each one finds the series that it asks for, and none has anything to report.
pub(crate) async fn every_installed_alert_finds_its_series_and_is_silent(world: &mut World) -> Result<()> {
    let prometheus = prometheus(world)?;
    let rules = until_within("every rule was evaluated", Duration::from_secs(60), || async {
        let rules = rules(&prometheus).await.map_err(|error| format!("{error:#}"))?;
        let well = !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok");
        if well { Ok(rules) } else { Err(format!("{rules:?}")) }
    })
    .await;
    let installed: BTreeSet<_> = rules.iter().filter_map(|rule| rule["name"].as_str()).collect();
    let written = std::fs::read_to_string(world.file("deploy/alerts/alkhub.yaml"))?;
    let written: BTreeSet<_> = written
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    ensure!(
        installed == written,
        "{installed:?} are installed, {written:?} are written"
    );
    for rule in &rules {
        let name = rule["name"].as_str().context("a name")?;
        let url = format!("https://pages.example/runbook/{name}.md");
        ensure!(rule["annotations"]["runbook_url"] == url, "{rule}");
        for selector in selectors(rule["query"].as_str().context("an expression")?) {
            prometheus.answers(name, &selector).await;
        }
    }
    silent(&prometheus).await;
    say(&format!("{} alerts are silent while all is well", rules.len()));
    Ok(())
}

async fn rules(prometheus: &Prometheus) -> Result<Vec<Value>> {
    let answer = reqwest::get(format!("{}/api/v1/rules?type=alert", prometheus.url)).await?;
    let answer: Value = serde_json::from_str(&answer.text().await?)?;
    let groups = answer["data"]["groups"].as_array().context("groups")?;
    let rules = groups.iter().filter_map(|group| group["rules"].as_array());
    Ok(rules.flatten().cloned().collect())
}

/// The families that an expression names, each with its job, and without the labels that only a problem has.
fn selectors(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in expression.match_indices("{") {
        let (before, after) = expression.split_at(at);
        let start = before
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .map_or(0, |at| at + 1);
        let inside = after[1..].split('}').next().unwrap_or_default();
        // Prometheus writes the matchers in the given order, separated by commas.
        let job = inside.split(',').find(|matcher| matcher.starts_with("job="));
        found.insert(format!("{}{{{}}}", &before[start..], job.unwrap_or_default()));
    }
    found
}

/// Having no pod at all is worse than having one that is not ready: nothing is scraped that could report it.
pub(crate) async fn a_hub_whose_pods_are_gone_is_down_until_they_are_back(world: &mut World) -> Result<()> {
    let (kube, prometheus) = (world.kube.clone(), prometheus(world)?);
    kube.kubectl(&["create", "namespace", NAMESPACE]).await?;
    kube.apply(NAMESPACE, HUB).await?;
    is_ready(&kube).await;
    silent(&prometheus).await;

    kube.apply(NAMESPACE, QUOTA).await?;
    let pods = ["-l", "app.kubernetes.io/component=hub", "--grace-period=1"];
    kube.kubectl(&[&["delete", "pods", "-n", NAMESPACE], &pods[..]].concat())
        .await?;
    let labels = format!("namespace=\"{NAMESPACE}\",hub=\"frail\"");
    // From here on only the operator knows that there should be a pod.
    let gone = format!("absent(up{{{labels}}})");
    prometheus.answers("no pod is scraped", &gone).await;
    for alert in ["AlkhubHubDown", "AlkhubHubNotReady"] {
        fires(&prometheus, alert, &labels).await;
    }
    let scraped = prometheus.query(&format!("up{{{labels}}}")).await;
    ensure!(scraped.as_ref().is_ok_and(Vec::is_empty), "a pod is left: {scraped:?}");
    let others = prometheus
        .query(&format!("ALERTS{{namespace!=\"watched\",{NOW}}}"))
        .await;
    ensure!(others.as_ref().is_ok_and(Vec::is_empty), "others fire too: {others:?}");

    kube.kubectl(&["delete", "-n", NAMESPACE, "resourcequota", "none"])
        .await?;
    is_ready(&kube).await;
    silent(&prometheus).await;
    Ok(())
}

/// A Hub that somebody stopped has no pods because none are wanted.
pub(crate) async fn a_hub_that_is_scaled_to_0_is_no_alert(world: &mut World) -> Result<()> {
    let (kube, prometheus) = (world.kube.clone(), prometheus(world)?);
    silent(&prometheus).await;
    kube.kubectl(&["scale", "-n", NAMESPACE, "hub/frail", "--replicas=0"])
        .await?;
    let none = "alkhub_operator_hub_replicas{namespace=\"watched\"} == 0";
    prometheus.answers("the operator tells of it", none).await;
    let gone = "absent(up{namespace=\"watched\"}) and on () alkhub_operator_hubs{ready=\"stopped\"} == 1";
    prometheus.answers("the pod is gone", gone).await;

    // Here alerts wait for ten seconds at most (`for: 10m` in the rules), so twelve seconds without one show that none
    // will come.
    prometheus
        .answers(
            "twelve seconds passed",
            "absent_over_time(up{namespace=\"watched\"}[12s])",
        )
        .await;
    let told = prometheus
        .query("count_over_time(ALERTS{alertstate=\"firing\",namespace=\"watched\"}[12s])")
        .await;

    ensure!(told.as_ref().is_ok_and(Vec::is_empty), "it is told of: {told:?}");
    kube.kubectl(&["delete", "-n", NAMESPACE, "hub", "frail", "--timeout=60s"])
        .await?;
    kube.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"])
        .await?;
    Ok(())
}

/// The operator's own alert fires, and no other: Hubs go on without it.
pub(crate) async fn an_operator_that_is_gone_is_told_of_until_it_is_back(world: &mut World) -> Result<()> {
    let (kube, prometheus) = (world.kube.clone(), prometheus(world)?);
    silent(&prometheus).await;
    let scale = |replicas: &'static str| {
        let kube = kube.clone();
        async move {
            kube.kubectl(&["scale", "-n", SYSTEM, "deployment/alkhub-operator", replicas])
                .await
        }
    };

    scale("--replicas=0").await?;
    fires(&prometheus, "AlkhubOperatorDown", "").await;
    let others = prometheus
        .query(&format!("ALERTS{{alertname!=\"AlkhubOperatorDown\",{NOW}}}"))
        .await;
    ensure!(others.as_ref().is_ok_and(Vec::is_empty), "others fire too: {others:?}");

    scale("--replicas=1").await?;
    silent(&prometheus).await;
    world.monitoring = None;
    Ok(())
}

async fn is_ready(kube: &Kube) {
    kube.wait(
        "the Hub is ready",
        (NAMESPACE, &["hub", "frail"]),
        Duration::from_secs(180),
        |hub| {
            condition(hub, "Ready")
                .filter(|(status, _)| *status == "True")
                .map(drop)
        },
    )
    .await;
    until_within("its pod is ready", Duration::from_secs(60), || async {
        let pods = ready_pods(kube, NAMESPACE, "frail").await;
        let pods = pods.map_err(|error| format!("{error:#}"))?;
        if pods.is_empty() {
            Err("there is none".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
}

/// Waits until an alert fires for these labels.
async fn fires(prometheus: &Prometheus, alert: &str, labels: &str) {
    let query = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\",{labels}}}");
    prometheus.answers("it fires", &query).await;
}

/// Waits until no alert is firing or about to, except those that look back over minutes.
async fn silent(prometheus: &Prometheus) {
    let query = format!("ALERTS{{{NOW}}}");
    until_within("no alert has anything to say", Duration::from_secs(120), || async {
        let alerts = prometheus.query(&query).await?;
        if alerts.is_empty() {
            Ok(())
        } else {
            Err(format!("{alerts:?}"))
        }
    })
    .await;
}
