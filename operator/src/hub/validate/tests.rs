//! Plans and refusals without a cluster.

use alkhub_crds::hub::{HubSpec, SecretKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::hub::observe::{Images, Rival};
use crate::secrets::server_address::ServerAddress;
use crate::secrets::{Fact, SecretFormat};

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
    let fact = |url: &str, format| Fact {
        digest: "d1".to_owned(),
        ..Fact::of(url.as_bytes(), format, "team")
    };
    let authorities = Fact {
        digest: "d1".to_owned(),
        server: Ok(None),
        is_clear: false,
    };
    Observed {
        images: Images {
            hub: "alkhub/hub:1.0.0".to_owned(),
            redis: "redis:7".to_owned(),
            postgres: "postgres:15".to_owned(),
        },
        redis_server: Some(ServerAddress::managed("cache", "team", 6379)),
        redis: Values {
            url: Some(fact("rediss://cache", SecretFormat::Redis)),
            ca: Some(authorities),
        },
        postgres: Values {
            url: Some(fact("postgres://db/x", SecretFormat::Postgres)),
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

fn spec_error(hub: &Hub, observed: &Observed) -> SpecError {
    validate(hub, observed).map(|plan| plan.toml).expect_err("refused")
}

#[test]
fn an_unknown_setting_is_named_with_those_that_exist() {
    let refused = spec_error(
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
    let own = [
        ("events", "prefix"),
        ("store", "schema"),
        ("server", "listen"),
        ("server", "peer-listen"),
        ("pod", "revision"),
    ];
    for (section, key) in own {
        let refused = spec_error(&with("config", json!({section: {key: "x"}})), &observed());

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
    let refused = spec_error(&with("config", json!({"server": {"dead-after": "1s"}})), &observed());

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

    // As in a pod, which has its address from the environment.
    let text = format!("{}\n[pod]\nip = \"10.0.0.7\"\n", plan.toml);
    let mut read = HubConfig::from_toml(&text).expect("the hub reads it");
    read.pod.ip.clear();

    assert_eq!(read.server.max_connections, 5);
    assert_eq!(read.store.schema.as_str(), "alk_team_demo");
    assert_eq!(read.events.prefix.as_str(), "alk:team:demo:");
    assert_eq!(read.server.peer_listen, "0.0.0.0:7422".parse().ok());
    let text = |config: &HubConfig| toml::to_string(config).expect("every field has a TOML form");
    assert_eq!(text(&read), text(&plan.config));
    // Set by the user, though it is the default; and no setting that nobody set.
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
    wrong.postgres.url = Some(Fact::of(b"redis://:secret@x", SecretFormat::Postgres, "team"));

    let missing = spec_error(&hub(given()), &none);
    let wrong = spec_error(&hub(given()), &wrong);

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

/// The Hub `other/demo`, created at this second, that asks for `alk:`; with a status if it already has a prefix.
fn other(second: i64, uid: &str, has: Option<&str>) -> Hub {
    let mut other = with("channelPrefix", json!("alk:"));
    other.metadata.namespace = Some("other".to_owned());
    other.metadata.uid = Some(uid.to_owned());
    other.metadata.creation_timestamp = Some(Time(Timestamp::from_second(second).expect("in range")));
    other.status = has.map(|prefix| having(prefix, "cache.team:6379"));
    other
}

fn having(prefix: &str, redis: &str) -> HubStatus {
    HubStatus {
        channel_prefix: Some(prefix.to_owned()),
        redis_address: Some(redis.to_owned()),
        ..HubStatus::default()
    }
}

fn facing(rival: &Hub) -> Observed {
    let prefix: ChannelPrefix = "alk:".parse().expect("valid");
    let seen = observed();
    let rival = Rival {
        name: "other/demo".to_owned(),
        rank: Rank::of(rival, &prefix, seen.redis_server.as_ref()),
        prefix,
    };
    Observed {
        rivals: vec![rival],
        ..seen
    }
}

#[test]
fn an_authority_that_is_none_is_refused_before_pods_are_rolled() {
    let mut spec = given();
    spec["redis"]["caSecretRef"] = json!({"name": "ca"});
    let mut garbage = observed();
    garbage.redis.ca = Some(Fact::of(b"garbage", SecretFormat::Authorities, "team"));

    let refused = spec_error(&hub(spec), &garbage);

    assert_eq!(refused.reason, "InvalidAuthority");
    assert!(
        refused.message.contains("spec.redis.caSecretRef") && !refused.message.contains("garbage"),
        "{}",
        refused.message
    );
}

#[test]
fn of_two_new_hubs_with_one_prefix_the_younger_is_refused() {
    let refused = spec_error(&hub(given()), &facing(&other(999, "z", None)));
    assert_eq!(
        (refused.kind, refused.reason),
        (condition::PREFIX_CONFLICT, "PrefixInUse")
    );
    assert!(refused.message.contains("other/demo"), "{}", refused.message);
    assert_eq!(
        spec_error(&hub(given()), &facing(&other(1_000, "a", None))).kind,
        condition::PREFIX_CONFLICT
    );
    assert!(validate(&hub(given()), &facing(&other(1_000, "z", None))).is_ok());
    assert!(validate(&hub(given()), &facing(&other(1_001, "a", None))).is_ok());
}

#[test]
fn who_has_a_prefix_keeps_it_whatever_an_older_hub_asks_for() {
    let mut younger = hub(given());
    let older = |has| other(1, "a", has);
    younger.status = Some(having("alk:team:demo:", "cache.team:6379"));

    assert!(validate(&younger, &facing(&older(None))).is_ok());
    assert!(
        validate(&younger, &facing(&older(Some("theirs:")))).is_ok(),
        "it ran with another prefix"
    );
    let mut moved = older(None);
    moved.status = Some(having("alk:", "elsewhere:6379"));
    assert!(validate(&younger, &facing(&moved)).is_ok(), "it ran at another Redis");
    assert!(validate(&younger, &facing(&older(Some("alk:")))).is_err());
}

#[test]
fn the_image_is_the_specs_or_the_versions_or_what_has_worked_or_the_default() {
    let worked = |spec: Hub| Hub {
        status: Some(HubStatus {
            image: Some("alkhub/hub:0.9.0".to_owned()),
            redis_image: Some("redis:6".to_owned()),
            postgres_image: Some("postgres:14".to_owned()),
            ..HubStatus::default()
        }),
        ..spec
    };
    let plan = |hub: &Hub| validate(hub, &observed()).expect("valid");
    let image = |hub: &Hub| plan(hub).image;

    assert_eq!(image(&worked(with("image", json!("reg:5000/hub")))), "reg:5000/hub");
    assert_eq!(image(&worked(with("version", json!("1.2.3")))), "alkhub/hub:1.2.3");
    assert_eq!(image(&worked(hub(given()))), "alkhub/hub:0.9.0");
    assert_eq!(image(&hub(given())), "alkhub/hub:1.0.0");
    let (old, new) = (plan(&worked(hub(given()))), plan(&hub(given())));
    assert_eq!((&*old.redis_image, &*old.postgres_image), ("redis:6", "postgres:14"));
    assert_eq!((&*new.redis_image, &*new.postgres_image), ("redis:7", "postgres:15"));
    assert_eq!(repository("reg:5000/hub"), "reg:5000/hub");
    assert_eq!(tag("reg:5000/hub:1@sha256:ab"), Some("1"));
    assert_eq!(tag("hub"), None);
}

#[test]
fn authorities_beside_a_redis_in_the_clear_are_refused() {
    let mut spec = given();
    spec["redis"]["caSecretRef"] = json!({"name": "ca"});
    let mut clear = observed();
    clear.redis.url = Some(Fact::of(b"redis://:s3cret@cache", SecretFormat::Redis, "team"));

    let refused = spec_error(&hub(spec), &clear);

    assert_eq!(refused.reason, "InvalidAuthority");
    assert!(
        refused.message.starts_with("spec.redis.caSecretRef") && refused.message.contains("rediss://"),
        "{}",
        refused.message
    );
    assert!(
        validate(&hub(given()), &clear).is_ok(),
        "without them it is as good as before"
    );
}

#[test]
fn settings_that_a_hub_would_refuse_are_refused_by_name_value_and_range() {
    for (section, key, value, says) in [
        ("server", "max-connections", json!(0), "1 to 1000000000"),
        ("store", "statement-timeout", json!("30days"), "24days"),
        (
            "server",
            "client-address",
            json!("proxy-protocol"),
            "server.trusted-proxies",
        ),
        (
            "telemetry",
            "otlp-endpoint",
            json!("collector:4318"),
            "http://collector:4318",
        ),
    ] {
        let refused = spec_error(&with("config", json!({ section: { key: value } })), &observed());

        assert_eq!(refused.reason, "InvalidSetting");
        let named = refused.message.contains(&format!("{section}.{key}"));
        assert!(named && refused.message.contains(says), "{}", refused.message);
    }
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
