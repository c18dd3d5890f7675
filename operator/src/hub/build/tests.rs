//! What a plan becomes, as snapshots, and what must hold for every plan.

use serde_json::json;

use super::*;
use crate::hub::validate::tests::{given, hub, observed};
use crate::hub::validate::validate;

fn generated() -> Generated {
    Generated {
        auth: "uid-auth".to_owned(),
        redis: Some("uid-r".to_owned()),
        postgres: Some("uid-p".to_owned()),
    }
}

fn wanted(spec: Value) -> DesiredObjects {
    build(&validate(&hub(spec), &observed()).expect("valid"), &generated()).expect("built")
}

fn revision(wanted: &DesiredObjects) -> String {
    deployment::revision(&wanted.deployment).expect("set").clone()
}

#[test]
fn a_hub_with_servers_given_by_secret() {
    let wanted = wanted(given());

    insta::assert_yaml_snapshot!("deployment", wanted.deployment);
    insta::assert_yaml_snapshot!("services", wanted.services);
    insta::assert_snapshot!("hub_toml", wanted.config.data.as_ref().expect("set")["hub.toml"]);
    insta::assert_yaml_snapshot!("disruption", wanted.disruption);
    assert!(wanted.sets.is_empty());
}

#[test]
fn a_hub_with_managed_servers() {
    let wanted = wanted(
        json!({"redis": {"managed": true, "storage": {"ephemeral": true}}, "postgres": {"managed": true, "storage": {"size": "5Gi"}}}),
    );

    insta::assert_yaml_snapshot!("managed", wanted.sets);
    assert_eq!(wanted.services.len(), 4);
}

#[test]
fn what_needs_a_restart_makes_a_new_revision_and_nothing_else_does() {
    let base = wanted(given());
    let spec = |field: &str, value: Value| {
        let mut spec = given();
        spec[field] = value;
        wanted(spec)
    };
    let other_key = Generated {
        auth: "uid-new".to_owned(),
        ..generated()
    };
    let mut rotated = observed();
    rotated.redis.url.as_mut().expect("set").digest = "d2".to_owned();

    assert_eq!(revision(&base), revision(&spec("replicas", json!(5))));
    assert_eq!(revision(&base), revision(&spec("service", json!({"type": "NodePort"}))));
    assert_ne!(
        revision(&base),
        revision(&spec("config", json!({"calls": {"max-in-flight": 7}})))
    );
    assert_ne!(revision(&base), revision(&spec("image", json!("other"))));
    let plan = validate(&hub(given()), &observed()).expect("valid");
    assert_ne!(revision(&base), revision(&build(&plan, &other_key).expect("built")));
    let plan = validate(&hub(given()), &rotated).expect("valid");
    assert_ne!(revision(&base), revision(&build(&plan, &generated()).expect("built")));
}

#[test]
fn a_users_labels_are_kept_and_never_win_over_the_selector() {
    let mut spec = given();
    spec["template"] =
        json!({"labels": {"team": "x", "app.kubernetes.io/instance": "evil"}, "nodeSelector": {"disk": "ssd"}});

    let template = wanted(spec).deployment.spec.expect("set").template;
    let labels = template.metadata.expect("set").labels.expect("set");

    assert_eq!(labels["team"], "x");
    assert_eq!(labels["app.kubernetes.io/instance"], "demo");
    assert_eq!(template.spec.expect("set").node_selector.expect("set")["disk"], "ssd");
}

#[test]
fn a_single_pod_has_no_disruption_budget() {
    let mut spec = given();
    spec["replicas"] = json!(1);
    assert!(wanted(spec).disruption.is_none());
}

#[test]
fn the_grace_period_covers_every_part_of_the_drain() {
    let mut spec = given();
    spec["config"] = json!({"server": {"drain-timeout": "90s", "drain-delay": "1s"}});

    let pod = wanted(spec).deployment.spec.expect("set").template.spec.expect("set");

    let parts = alkhub_config::drain::LIMIT.as_secs();
    let grace = pod.termination_grace_period_seconds.expect("set").unsigned_abs();
    assert!(grace > 1 + 90 + parts, "{grace} s for a drain of 91 s and {parts} s");
}

#[test]
fn a_drain_beyond_all_bounds_is_a_long_grace_period_and_no_panic() {
    let mut plan = validate(&hub(given()), &observed()).expect("valid");
    plan.config.server.drain_timeout = std::time::Duration::from_secs(u64::MAX);

    let wanted = build(&plan, &generated()).expect("built");

    let pod = wanted.deployment.spec.expect("set").template.spec.expect("set");
    assert_eq!(pod.termination_grace_period_seconds, Some(i64::from(i32::MAX)));
}

#[test]
fn a_value_that_no_object_can_hold_is_an_error_that_names_the_kind() {
    let failed = object::<Deployment>("Deployment", json!({"spec": {"replicas": 99_999_999_999_i64}}));

    let error = failed.expect_err("no i32").chain();
    assert!(error.contains("Deployment") && error.contains("99999999999"), "{error}");
}

#[test]
fn another_password_restarts_a_managed_redis_and_no_postgres() {
    let spec = json!({"redis": {"managed": true}, "postgres": {"managed": true}});
    let plan = validate(&hub(spec), &observed()).expect("valid");
    let made = |redis: &str, postgres: &str| {
        let generated = Generated {
            redis: Some(redis.to_owned()),
            postgres: Some(postgres.to_owned()),
            ..generated()
        };
        let wanted = build(&plan, &generated).expect("built");
        let sets: Vec<_> = wanted
            .sets
            .iter()
            .map(|set| set.spec.clone().expect("set").template)
            .collect();
        (revision(&wanted), sets)
    };

    let (before, sets) = made("r1", "p1");
    let (with_redis, redis) = made("r2", "p1");
    let (with_postgres, postgres) = made("r1", "p2");

    assert!(
        before != with_redis && before != with_postgres,
        "the hubs read the URL anew"
    );
    assert!(sets[0] != redis[0] && sets[1] == redis[1]);
    assert_eq!(sets, postgres);
}
