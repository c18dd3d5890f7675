//! Which changes make another revision, without a cluster.

use super::*;
use crate::hub::validate::tests::{given, hub, observed};
use crate::hub::validate::validate;

fn generated() -> Generated {
    Generated {
        auth: "auth-1".to_owned(),
        salt: "salt".to_owned(),
        redis: Some("redis-1".to_owned()),
        postgres: Some("postgres-1".to_owned()),
    }
}

fn inputs(spec: Value) -> Inputs {
    Inputs::of(&validate(&hub(spec), &observed()).expect("valid"), &generated())
}

fn with(field: &str, value: Value) -> Inputs {
    let mut spec = given();
    spec[field] = value;
    inputs(spec)
}

#[test]
fn what_a_running_pod_does_not_notice_makes_another_revision_and_nothing_else_does() {
    let base = inputs(given());

    let same = [
        with("replicas", json!(5)),
        with("service", json!({"type": "NodePort"})),
        with("auth", json!({"whenDeleted": "Delete"})),
        with("template", json!({"labels": {}, "tolerations": []})),
        with("config", json!({"calls": {}})),
        with("channelPrefix", json!("alk:team:demo:")),
    ];
    for other in same {
        assert_eq!(other, base);
    }
    let others = [
        with("image", json!("other")),
        with("channelPrefix", json!("own:")),
        with("config", json!({"calls": {"max-in-flight": 7}})),
        with("template", json!({"labels": {"team": "x"}})),
        with("redis", json!({"managed": true})),
        with("redis", json!({"secretRef": {"name": "redis", "key": "dsn"}})),
    ];
    for other in others {
        assert_ne!(other.name, base.name, "{other:?}");
    }
}

#[test]
fn another_content_of_a_secret_makes_another_revision_and_the_same_again_the_same() {
    let plan = validate(&hub(given()), &observed()).expect("valid");
    let base = Inputs::of(&plan, &generated());
    let mut rotated = observed();
    rotated.redis.url.as_mut().expect("set").digest = "d2".to_owned();
    let other_keys = Generated {
        auth: "auth-2".to_owned(),
        ..generated()
    };

    let rotated = Inputs::of(&validate(&hub(given()), &rotated).expect("valid"), &generated());
    let edited = Inputs::of(&plan, &other_keys);

    assert!(rotated.name != base.name && edited.name != base.name && rotated.name != edited.name);
    let changed = |other: &Inputs| {
        let differs = |(name, value): &(&String, &String)| base.secrets.get(*name) != Some(*value);
        other
            .secrets
            .iter()
            .filter(differs)
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(changed(&rotated), ["redis"]);
    assert_eq!(changed(&edited), ["demo-auth"]);
    assert_eq!(Inputs::of(&plan, &generated()), base);
}

#[test]
fn a_password_of_a_managed_server_makes_another_revision_and_its_volume_does_not() {
    let managed = json!({"redis": {"managed": true}, "postgres": {"managed": true}});
    let mut sized = managed.clone();
    sized["postgres"]["storage"] = json!({"size": "5Gi"});
    let plan = validate(&hub(managed.clone()), &observed()).expect("valid");
    let other = Generated {
        postgres: Some("postgres-2".to_owned()),
        ..generated()
    };

    assert_eq!(inputs(sized), inputs(managed.clone()));
    assert_ne!(Inputs::of(&plan, &other).name, inputs(managed).name);
}

/// The name is spelled out: an operator version that named the same inputs differently would restart every pod.
#[test]
fn the_name_of_a_revision_does_not_change_with_the_operator() {
    assert_eq!(inputs(given()).name, "81cf352b8e");
}

#[test]
fn no_two_values_are_spelt_alike() {
    let spelt = |value: &Value| {
        let mut text = Vec::new();
        spell(value, &mut text);
        text
    };
    let values = [
        json!({"a": {"b": 1}}),
        json!({"a": {"b": "1"}}),
        json!({"a": [1]}),
        json!({"a": [[1]]}),
        json!({"a": "b", "c": 1}),
        json!({"a": true}),
        json!({"a": 1, "b": 1}),
        json!({"a": [1, 1]}),
        json!({"a": [11]}),
    ];

    let all: std::collections::BTreeSet<_> = values.iter().map(spelt).collect();

    assert_eq!(all.len(), values.len());
    assert_eq!(
        spelt(&json!({"a": 1, "b": null, "c": {"d": []}})),
        spelt(&json!({"a": 1}))
    );
}

#[test]
fn a_revision_is_read_as_it_was_kept() {
    let revision = Revision {
        name: "0a1b2c3d4e".to_owned(),
        number: 3,
        made: Made {
            count: 2,
            template: serde_json::from_value(json!({"spec": {"containers": [{"name": "hub"}]}})).expect("a template"),
            settings: "[hub]\n".to_owned(),
            secrets: BTreeMap::from([("redis".to_owned(), "d".to_owned())]),
        },
    };
    let metadata = kube::api::ObjectMeta {
        labels: Some(BTreeMap::from([(REVISION.to_owned(), revision.name.clone())])),
        ..Default::default()
    };

    let mut kept = revision.kept(metadata);

    assert_eq!(Revision::read(&kept), Some(revision));
    kept.data = Some(RawExtension(json!({"spec": {}})));
    assert_eq!(Revision::read(&kept), None, "somebody else's");
}
