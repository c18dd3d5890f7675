//! The chart's monitors, rules and dashboard, installed as a user of the Prometheus operator does: the operator reads
//! the objects and writes the configuration, with which a real Prometheus scrapes real pods. There is no configuration
//! of the test's own.

pub(crate) mod alerts;
mod stack;

use std::time::Duration;

use alkhub_test_support::until_within;
use alkhub_tests::http::Http;
use alkhub_tests::kube::Kube;
use alkhub_tests::reach::Reach;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

pub(crate) use self::stack::Stack;
use crate::hubs::{MANAGEMENT_PORT, OPERATOR_PORT, PORT, admin_key, operator_pod, ready_pods};
use crate::say;
use crate::world::{DEMO, SYSTEM, World};

/// The first questions of a person; each must have an answer.
const QUESTIONS: &[(&str, &str)] = &[
    ("calls", "sum(alkhub_calls_total{code=\"OK\"})"),
    ("connections", "sum(alkhub_connections)"),
    ("events", "sum(alkhub_events_published_total)"),
    ("Redis link", "min(alkhub_redis_up)"),
    ("Postgres pool", "sum(alkhub_postgres_connections)"),
    ("reconciles", "sum by (kind) (alkhub_operator_reconciles_total)"),
];

/// A Prometheus that answers.
#[derive(Clone, Debug)]
pub(crate) struct Prometheus {
    /// `http://HOST:PORT`.
    pub(crate) url: String,
}

// === impl Prometheus ===

impl Prometheus {
    /// The result of an instant query.
    pub(crate) async fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let request = reqwest::Client::new()
            .get(format!("{}/api/v1/query", self.url))
            .query(&[("query", query)]);
        let text = match request.send().await {
            Ok(answer) => answer.text().await.map_err(|error| error.to_string())?,
            Err(error) => return Err(error.to_string()),
        };
        let answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        if answer["status"] != "success" {
            return Err(text);
        }
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until a query has a result.
    pub(crate) async fn answers(&self, what: &str, query: &str) -> Vec<Value> {
        until_within(
            &format!("{what}: `{query}` answers"),
            Duration::from_secs(60),
            || async {
                let result = self.query(query).await?;
                if result.is_empty() {
                    Err("no data".to_owned())
                } else {
                    Ok(result)
                }
            },
        )
        .await
    }

    /// Waits until a query has a value above zero: the first answer may be older than what it counts.
    async fn more_than_zero(&self, what: &str, query: &str) -> Vec<String> {
        let above = |value: &String| value.parse::<f64>().is_ok_and(|value| value > 0.0);
        until_within(
            &format!("{what}: `{query}` is more than zero"),
            Duration::from_secs(60),
            || async {
                let result = self.query(query).await?;
                let values = result.iter().filter_map(|row| row["value"][1].as_str());
                let values: Vec<_> = values.map(str::to_owned).collect();
                if values.iter().any(above) {
                    Ok(values)
                } else {
                    Err(format!("{values:?}"))
                }
            },
        )
        .await
    }
}

/// The two monitors of the chart lead Prometheus to every hub pod and to the operator, under the names that alerts and
/// dashboard use, and the first questions have answers that agree with the cluster.
pub(crate) async fn prometheus_scrapes_what_the_charts_monitors_name(world: &mut World) -> Result<()> {
    let pods = ready_pods(&world.kube, DEMO, "demo").await?;
    for pod in &pods {
        promtool(&world.kube, (DEMO, pod, MANAGEMENT_PORT)).await?;
    }
    promtool(&world.kube, (SYSTEM, &operator_pod(&world.kube).await?, OPERATOR_PORT)).await?;
    let stack = Stack::install(world).await?;
    let prometheus = stack.prometheus.clone();
    world.monitoring = Some(stack);
    let hubs = format!("count(up{{job=\"alkhub-hub\",namespace=\"{DEMO}\",hub=\"demo\"}} == 1)");
    let operators = format!("count(up{{job=\"alkhub-operator\",namespace=\"{SYSTEM}\"}} == 1)");
    for (query, wanted) in [(hubs, pods.len()), (operators, 1)] {
        until_within(&format!("`{query}` is {wanted}"), Duration::from_secs(60), || async {
            let up = prometheus.query(&query).await?;
            let count = up.first().and_then(|row| row["value"][1].as_str()).unwrap_or("0");
            if count == wanted.to_string() {
                Ok(())
            } else {
                Err(format!("{count} of {wanted}"))
            }
        })
        .await;
    }
    call_and_publish(world, &pods[0]).await?;
    for (what, query) in QUESTIONS {
        let values = prometheus.more_than_zero(what, query).await;
        say(&format!("{what}: {query} = {}", values.join(", ")));
    }
    Ok(())
}

/// Gives one pod something to count, since those that counted before may be gone.
async fn call_and_publish(world: &World, pod: &str) -> Result<()> {
    let reach = Reach::pod(&world.kube, DEMO, pod, PORT).await?;
    let http = Http::new(&reach.url, admin_key(&world.kube, DEMO, "demo").await?);
    let called = http.call("hub.list", &json!({})).await?;
    ensure!(called.status == 200, "{called:?}");
    let published = http.send("POST", "/v1/events/build.done/8", Some(&json!(1))).await?;
    ensure!(published.status < 300, "{published:?}");
    Ok(())
}

/// Every panel of the dashboard that the chart installs shows something, both for one Hub and for all.
pub(crate) async fn every_query_of_the_installed_dashboard_answers(world: &mut World) -> Result<()> {
    let object = world.kube.get(SYSTEM, &["configmap", "alkhub-dashboard"]).await?;
    ensure!(
        object["metadata"]["labels"]["grafana_dashboard"] == "1",
        "Grafana's side-car would not find {object}"
    );
    let dashboard = object["data"]["alkhub.json"].as_str().context("a dashboard")?;
    let dashboard: Value = serde_json::from_str(dashboard)?;
    let stack = world.monitoring.as_ref().context("an earlier step left a Prometheus")?;
    let mut queries = Vec::new();
    collect(&dashboard["panels"], &mut queries);
    ensure!(
        queries.len() >= 10,
        "only {} queries found in the dashboard",
        queries.len()
    );
    for (namespace, hub) in [(DEMO, "demo"), (".*", ".*")] {
        for query in &queries {
            // Grafana fills these in from the dashboard's variables.
            let query = query
                .replace("$__rate_interval", "1m")
                .replace("$namespace", namespace)
                .replace("$hub", hub);
            ensure!(
                !query.contains('$'),
                "a variable of the dashboard is not known here: {query}"
            );
            stack.prometheus.answers("dashboard", &query).await;
        }
    }
    say(&format!("{} queries of the dashboard answer", queries.len()));
    Ok(())
}

fn collect(panels: &Value, queries: &mut Vec<String>) {
    for panel in panels.as_array().into_iter().flatten() {
        let targets = panel["targets"].as_array().into_iter().flatten();
        queries.extend(targets.filter_map(|target| target["expr"].as_str().map(str::to_owned)));
        collect(&panel["panels"], queries);
    }
}

/// Prometheus's own tool finds no fault with what a pod exposes.
async fn promtool(kube: &Kube, (namespace, pod, port): (&str, &str, u64)) -> Result<()> {
    let reach = Reach::pod(kube, namespace, pod, port).await?;
    let text = reqwest::get(format!("{}/metrics", reach.url)).await?.text().await?;
    let faults = alkhub_tests::promtool::check(&text).await?;
    ensure!(faults.is_empty(), "promtool on {pod}: {faults}");
    Ok(())
}
