//! Plans and refusals without a cluster.

use alkhub_crds::hub::{HubSpec, SecretKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::hub::observe::{Images, Rival};
use crate::secrets::Fact;
use crate::secrets::endpoint::Endpoint;

/// A Hub `demo` in `team` with the given spec.
pub(crate) fn hub(spec: serde_json::Value) -> Hub {
    let spec: HubSpec = serde_json::from_value(spec).expect("a spec");
    let mut hub = Hub::new("demo", spec);
    hub.metadata.namespace = Some("team".to_owned());
    hub.metadata.uid = Some("uid-demo".to_owned());
    hub.metadata.creation_timestamp = Some(Time(Timestamp::from_second(1_000).expect("in range")));
    hub
}

/// What is read for a Hub whose Secrets are there.
pub(crate) fn observed() -> Observed {
    let fact = |url: &str| Fact {
        digest: "d1".to_owned(),
        endpoint: Endpoint::parse(url, "team"),
    };
    Observed {
        images: Images {
            hub: "alkhub/hub:1.0.0".to_owned(),
            redis: "redis:7".to_owned(),
            postgres: "postgres:15".to_owned(),
        },
        redis: Values {
            url: Some(fact("redis://cache")),
            ca: Some(fact("")),
        },
        postgres: Values {
            url: Some(fact("postgres://db/x")),
            ca: None,
        },
        ..Observed::default()
    }
}

/// A spec with both servers given by Secret.
pub(crate) fn given() -> serde_json::Value {
    json!({"redis": {"secretRef": {"name": "redis"}}, "postgres": {"secretRef": {"name": "postgres", "key": "dsn"}}})
}

fn with(field: &str, value: serde_json::Value) -> Hub {
    let mut spec = given();
    spec[field] = value;
    hub(spec)
}

fn refusal(hub: &Hub, observed: &Observed) -> Refusal {
    validate(hub, observed).map(|plan| plan.toml).expect_err("refused")
}

#[test]
fn an_unknown_setting_is_named_with_those_that_exist() {
    let refused = refusal(
        &with("config", json!({"calls": {"default-timeuot": "10s"}})),
        &observed(),
    );

    assert_eq!((refused.kind, refused.reason), (condition::ACCEPTED, "InvalidSetting"));
    assert!(
        refused.message.contains("default-timeuot") && refused.message.contains("default-timeout"),
        "{}",
        refused.message
    );
}

#[test]
fn a_setting_of_the_operators_own_is_refused_by_name() {
    for (section, key) in [("events", "prefix"), ("store", "schema"), ("server", "listen")] {
        let refused = refusal(&with("config", json!({section: {key: "x"}})), &observed());

        assert_eq!(refused.reason, "ReservedSetting");
        assert!(
            refused.message.contains(&format!("`{section}.{key}`")),
            "{}",
            refused.message
        );
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let refused = refusal(&with("config", json!({"server": {"dead-after": "1s"}})), &observed());

    assert!(refused.message.contains("dead-after"), "{}", refused.message);
}

#[test]
fn the_hub_reads_what_the_operator_wrote() {
    let plan = validate(
        &with(
            "config",
            json!({"calls": {"default-timeout": "30s"}, "server": {"max-connections": 5}}),
        ),
        &observed(),
    )
    .expect("valid");

    let read = HubConfig::from_toml(&plan.toml).expect("the hub reads it");

    assert_eq!(read.server.max_connections, 5);
    assert_eq!(read.store.schema.as_str(), "alk_team_demo");
    assert_eq!(read.events.prefix.as_str(), "alk:team:demo:");
    assert_eq!(read.to_toml(), plan.config.to_toml());
    // Named by the user, though it is the default; and no setting that nobody named.
    assert!(
        plan.toml.contains("default-timeout") && !plan.toml.contains("max-timeout"),
        "{}",
        plan.toml
    );
}

#[test]
fn a_missing_secret_and_a_wrong_url_are_named_without_their_content() {
    let mut none = observed();
    none.redis.url = None;
    let mut wrong = observed();
    wrong.postgres.url = Some(Fact {
        digest: "d".to_owned(),
        endpoint: Endpoint::parse("redis://:secret@x", "team"),
    });

    let missing = refusal(&hub(given()), &none);
    let wrong = refusal(&hub(given()), &wrong);

    assert_eq!(missing.reason, "SecretNotFound");
    assert!(
        missing.message.contains("`url`") && missing.message.contains("`redis`"),
        "{}",
        missing.message
    );
    assert_eq!(wrong.reason, "InvalidUrl");
    assert!(
        wrong.message.contains("`dsn`") && !wrong.message.contains("secret@"),
        "{}",
        wrong.message
    );
}

#[test]
fn of_two_hubs_with_one_prefix_the_younger_is_refused() {
    let rival = |second: i64, uid: &str| Rival {
        name: "other/demo".to_owned(),
        prefix: "alk:".parse().expect("valid"),
        age: (Some(Timestamp::from_second(second).expect("in range")), uid.to_owned()),
    };
    let facing = |rival: Rival| Observed {
        rivals: vec![rival],
        ..observed()
    };

    let refused = refusal(&hub(given()), &facing(rival(999, "z")));
    assert_eq!(
        (refused.kind, refused.reason),
        (condition::PREFIX_CONFLICT, "PrefixInUse")
    );
    assert!(refused.message.contains("other/demo"), "{}", refused.message);
    assert_eq!(
        refusal(&hub(given()), &facing(rival(1_000, "a"))).kind,
        condition::PREFIX_CONFLICT
    );
    assert!(validate(&hub(given()), &facing(rival(1_000, "z"))).is_ok());
    assert!(validate(&hub(given()), &facing(rival(1_001, "a"))).is_ok());
}

#[test]
fn the_image_is_the_specs_or_the_versions_or_what_runs_or_the_default() {
    let running = Observed {
        running_image: Some("alkhub/hub:0.9.0".to_owned()),
        ..observed()
    };
    let image = |hub: &Hub, observed: &Observed| validate(hub, observed).expect("valid").image;

    assert_eq!(image(&with("image", json!("reg:5000/hub")), &running), "reg:5000/hub");
    assert_eq!(image(&with("version", json!("1.2.3")), &running), "alkhub/hub:1.2.3");
    assert_eq!(image(&hub(given()), &running), "alkhub/hub:0.9.0");
    assert_eq!(image(&hub(given()), &observed()), "alkhub/hub:1.0.0");
    assert_eq!(repository("reg:5000/hub"), "reg:5000/hub");
    assert_eq!(tag("reg:5000/hub:1@sha256:ab"), Some("1"));
    assert_eq!(tag("hub"), None);
}

#[test]
fn authorities_are_named_in_the_settings_only_when_they_are_mounted() {
    let mut spec = given();
    spec["redis"]["caSecretRef"] = json!({"name": "ca"});

    let plain = validate(&hub(given()), &observed()).expect("valid");
    let private = validate(&hub(spec), &observed()).expect("valid");

    assert_eq!(plain.config.events.redis_ca_file, None);
    assert_eq!(
        private.config.events.redis_ca_file,
        Some("/etc/alkhub/secrets/redis-ca.crt".into())
    );
    assert_eq!(SecretKey::default().key, None);
}
