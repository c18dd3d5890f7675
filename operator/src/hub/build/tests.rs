//! What a plan becomes, as snapshots, and what must hold for every plan.

use serde_json::json;

use super::*;
use k8s_openapi::api::core::v1::PodSpec;

use crate::hub::validate::tests::{given, hub, observed};
use crate::hub::validate::validate;

fn generated() -> Generated {
    Generated {
        auth: "uid-auth".to_owned(),
        salt: "salt".to_owned(),
        redis: Some("uid-r".to_owned()),
        postgres: Some("uid-p".to_owned()),
    }
}

fn wanted(spec: Value) -> DesiredObjects {
    of(&validate(&hub(spec), &observed()).expect("valid"), &generated())
}

fn of(plan: &Plan, generated: &Generated) -> DesiredObjects {
    let inputs = Inputs::of(plan, generated);
    let revision = Revision {
        name: inputs.name.clone(),
        number: 3,
        made: made(plan, &inputs, 3).expect("made"),
    };
    build(plan, generated, &[revision]).expect("built")
}

fn pod(wanted: &DesiredObjects) -> PodSpec {
    let spec = wanted.replica_sets[0].spec.clone().expect("set");
    spec.template.expect("set").spec.expect("set")
}

#[test]
fn a_hub_with_servers_given_by_secret() {
    let wanted = wanted(given());

    insta::assert_yaml_snapshot!("replica_set", wanted.replica_sets);
    insta::assert_yaml_snapshot!("services", wanted.services);
    insta::assert_snapshot!("hub_toml", wanted.configs[0].data.as_ref().expect("set")["hub.toml"]);
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
fn objects_of_an_older_revision_are_what_was_made_of_it() {
    let plan = validate(&hub(given()), &observed()).expect("valid");
    let inputs = Inputs::of(&plan, &generated());
    let mut old = made(&plan, &inputs, 1).expect("made");
    old.settings = "# by an older operator\n".to_owned();
    let container = |template: &mut Made| {
        let pod = template.template.spec.as_mut().expect("set");
        pod.containers[0].image = Some("older".to_owned());
    };
    container(&mut old);
    let revision = |name: &str, made: Made| Revision {
        name: name.to_owned(),
        number: 1,
        made,
    };
    let newest = revision(&inputs.name, made(&plan, &inputs, 2).expect("made"));

    let wanted = build(&plan, &generated(), &[newest, revision("0a", old.clone())]).expect("built");

    let set = &wanted.replica_sets[1];
    assert_eq!(set.metadata.name.as_deref(), Some("demo-0a"));
    assert_eq!(set.spec.as_ref().expect("set").template.as_ref(), Some(&old.template));
    assert_eq!(wanted.configs[1].data.as_ref().expect("set")["hub.toml"], old.settings);
    assert!(
        wanted
            .replica_sets
            .iter()
            .all(|set| set.spec.as_ref().expect("set").replicas.is_none())
    );
}

#[test]
fn the_selector_of_a_replica_set_is_its_revision_and_not_who_serves() {
    let wanted = wanted(given());

    let spec = wanted.replica_sets[0].spec.as_ref().expect("set");
    let selector = spec.selector.match_labels.as_ref().expect("set");
    let labels = spec
        .template
        .as_ref()
        .expect("set")
        .metadata
        .as_ref()
        .expect("set")
        .labels
        .as_ref()
        .expect("set");
    assert!(selector.contains_key("alkhub.dev/revision") && !selector.contains_key("alkhub.dev/serving"));
    assert!(selector.iter().all(|(key, value)| labels.get(key) == Some(value)));
    assert_eq!(
        labels["alkhub.dev/serving"], "true",
        "an autoscaler counts it from the beginning"
    );
}

#[test]
fn a_users_labels_are_kept_and_never_win_over_the_selector() {
    let mut spec = given();
    spec["template"] = json!({
        "labels": {"team": "x", "app.kubernetes.io/instance": "evil", "alkhub.dev/serving": "no"},
        "annotations": {"alkhub.dev/drain-since": "2026-01-01T00:00:00Z"},
        "nodeSelector": {"disk": "ssd"},
    });

    let template = wanted(spec).replica_sets[0]
        .spec
        .clone()
        .expect("set")
        .template
        .expect("set");
    let metadata = template.metadata.expect("set");
    let labels = metadata.labels.expect("set");

    assert_eq!(labels["team"], "x");
    assert_eq!(labels["app.kubernetes.io/instance"], "demo");
    assert_eq!(labels["alkhub.dev/serving"], "true");
    assert!(
        !metadata
            .annotations
            .expect("set")
            .contains_key("alkhub.dev/drain-since")
    );
    assert_eq!(template.spec.expect("set").node_selector.expect("set")["disk"], "ssd");
}

#[test]
fn pods_reach_each_other_at_a_port_that_no_service_has() {
    let wanted = wanted(given());

    let pod = pod(&wanted);
    let ports = pod.containers[0].ports.iter().flatten();
    assert!(ports.into_iter().any(|port| port.container_port == 7422));
    let services = serde_json::to_string(&wanted.services).expect("plain data");
    assert!(!services.contains("7422") && !services.contains("peer"), "{services}");
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

    let pod = pod(&wanted(spec));

    let parts = alkhub_config::drain::LIMIT.as_secs();
    let grace = pod.termination_grace_period_seconds.expect("set").unsigned_abs();
    assert!(grace > 1 + 90 + parts, "{grace} s for a drain of 91 s and {parts} s");
}

#[test]
fn a_longer_grace_period_is_kept_and_a_shorter_one_is_refused() {
    let with = |seconds: i64| {
        let mut spec = given();
        spec["template"] = json!({"terminationGracePeriodSeconds": seconds});
        validate(&hub(spec), &observed())
    };

    let grace = with(90).map(|plan| pod(&of(&plan, &generated())).termination_grace_period_seconds);
    assert_eq!(grace.expect("valid"), Some(90));
    let refused = with(10).map(drop).expect_err("too short");
    assert_eq!(refused.reason, "GraceTooShort");
}

#[test]
fn a_drain_beyond_all_bounds_is_a_long_grace_period_and_no_panic() {
    let mut plan = validate(&hub(given()), &observed()).expect("valid");
    plan.config.server.drain_timeout = std::time::Duration::from_secs(u64::MAX);

    let wanted = of(&plan, &generated());

    let pod = pod(&wanted);
    assert_eq!(pod.termination_grace_period_seconds, Some(i64::from(i32::MAX)));
}

#[test]
fn a_value_that_no_object_can_hold_is_an_error_that_names_the_kind() {
    let failed = object::<StatefulSet>("StatefulSet", json!({"spec": {"replicas": 99_999_999_999_i64}}));

    let error = failed.expect_err("no i32").chain();
    assert!(
        error.contains("StatefulSet") && error.contains("99999999999"),
        "{error}"
    );
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
        let wanted = of(&plan, &generated);
        let sets: Vec<_> = wanted
            .sets
            .iter()
            .map(|set| set.spec.clone().expect("set").template)
            .collect();
        (Inputs::of(&plan, &generated).name, sets)
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
