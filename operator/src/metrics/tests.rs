//! What the metrics show of Hubs, and that every family exists.

use super::*;

fn hub(name: &str, replicas: i32, status: &serde_json::Value) -> Arc<Hub> {
    let spec = serde_json::json!({
        "replicas": replicas, "redis": { "managed": true }, "postgres": { "managed": true },
    });
    let hub = serde_json::json!({
        "apiVersion": "alkhub.dev/v1alpha1", "kind": "Hub", "metadata": { "namespace": "n", "name": name },
        "spec": spec, "status": status,
    });
    Arc::new(serde_json::from_value(hub).expect("a Hub"))
}

fn ready(status: &str) -> serde_json::Value {
    let condition = serde_json::json!({
        "type": "Ready", "status": status, "reason": "Any", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    serde_json::json!({ "schema": "alk_n_h", "readyReplicas": 1, "conditions": [condition] })
}

fn text(registry: &Registry) -> String {
    prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .expect("text")
}

fn series(registry: &Registry) -> Vec<String> {
    let text = text(registry);
    let of_each = |line: &&str| line.starts_with("alkhub_operator_hub_re");
    text.lines().filter(of_each).map(str::to_owned).collect()
}

#[test]
fn each_hub_says_what_it_should_have_and_a_stopped_or_refused_one_wants_no_pods() {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).expect("registered");

    metrics.show_hubs(&[
        hub("down", 2, &ready("False")),
        hub("refused", 2, &serde_json::json!({})),
        hub("new", 2, &serde_json::json!({ "schema": "alk_n_new" })),
        hub("running", 0, &ready("True")),
        hub("stopped", 0, &serde_json::json!({ "schema": "alk_n_stopped" })),
        hub("up", 1, &ready("True")),
    ]);

    assert_eq!(
        series(&registry),
        [
            r#"alkhub_operator_hub_ready{hub="down",namespace="n"} 0"#,
            r#"alkhub_operator_hub_ready{hub="new",namespace="n"} 0"#,
            r#"alkhub_operator_hub_ready{hub="refused",namespace="n"} 0"#,
            r#"alkhub_operator_hub_ready{hub="running",namespace="n"} 1"#,
            r#"alkhub_operator_hub_ready{hub="up",namespace="n"} 1"#,
            r#"alkhub_operator_hub_ready_replicas{hub="down",namespace="n"} 1"#,
            r#"alkhub_operator_hub_ready_replicas{hub="new",namespace="n"} 0"#,
            r#"alkhub_operator_hub_ready_replicas{hub="refused",namespace="n"} 0"#,
            r#"alkhub_operator_hub_ready_replicas{hub="running",namespace="n"} 1"#,
            r#"alkhub_operator_hub_ready_replicas{hub="stopped",namespace="n"} 0"#,
            r#"alkhub_operator_hub_ready_replicas{hub="up",namespace="n"} 1"#,
            r#"alkhub_operator_hub_replicas{hub="down",namespace="n"} 2"#,
            r#"alkhub_operator_hub_replicas{hub="new",namespace="n"} 2"#,
            r#"alkhub_operator_hub_replicas{hub="refused",namespace="n"} 0"#,
            r#"alkhub_operator_hub_replicas{hub="running",namespace="n"} 0"#,
            r#"alkhub_operator_hub_replicas{hub="stopped",namespace="n"} 0"#,
            r#"alkhub_operator_hub_replicas{hub="up",namespace="n"} 1"#,
        ]
    );
}

#[test]
fn how_the_connections_are_spread_is_there_only_while_it_is_known() {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).expect("registered");
    let known = |status: &str, ratio: f64| {
        let condition = serde_json::json!({
            "type": "Balanced", "status": status, "reason": "Any", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let balance = serde_json::json!({ "total": 30, "mean": 10.0, "max": 15, "ratio": ratio });
        hub(
            "a",
            3,
            &serde_json::json!({ "balance": balance, "conditions": [condition] }),
        )
    };
    let shown = |hub: Arc<Hub>| {
        metrics.show_hubs(&[hub]);
        let all = text(&registry);
        let of_balance = |line: &&str| line.starts_with("alkhub_operator_hub_balance");
        all.lines().filter(of_balance).map(str::to_owned).collect::<Vec<_>>()
    };

    let uneven = shown(known("False", 1.5));

    assert_eq!(
        uneven,
        [
            r#"alkhub_operator_hub_balance_ratio{hub="a",namespace="n"} 1.5"#,
            r#"alkhub_operator_hub_balanced{hub="a",namespace="n"} 0"#,
        ]
    );
    assert!(shown(known("True", 1.0)).contains(&r#"alkhub_operator_hub_balanced{hub="a",namespace="n"} 1"#.to_owned()));
    assert_eq!(shown(hub("a", 3, &serde_json::json!({}))), Vec::<String>::new());
    assert_eq!(shown(known("False", 1.5)), uneven);
    assert_eq!(shown(hub("b", 3, &serde_json::json!({}))), Vec::<String>::new());
}

#[test]
fn a_hub_that_is_gone_leaves_no_series() {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).expect("registered");
    metrics.show_hubs(&[hub("a", 1, &ready("True")), hub("b", 0, &serde_json::json!({}))]);

    metrics.show_hubs(&[]);

    assert_eq!(series(&registry), Vec::<String>::new());
}

#[tokio::test]
async fn every_family_is_there_before_anything_happened() {
    let registry = Registry::new();
    Metrics::new(&registry).expect("registered");

    let names: Vec<_> = registry
        .gather()
        .iter()
        .map(|family| family.name().to_owned())
        .collect();

    for name in [
        "reconciles_total",
        "reconcile_duration_seconds",
        "leader",
        "stores_filled",
        "watch_last_event_age_seconds",
        "hubs",
        "spokes",
        "api_writes_total",
        "hub_polls_total",
        "malformed_objects_total",
        "watch_errors_total",
        "api_reachable",
        "build_info",
    ] {
        assert!(
            names.contains(&format!("alkhub_operator_{name}")),
            "{name} is missing of {names:?}"
        );
    }
}
