//! The link against a real Redis: every test starts a server of its own.

use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_redis::{Connector, LinkState, Redis, SetupError};
use alkhub_tasks::Supervisor;
use alkhub_test_support::{Host, Port, RedisServer, comes_to};
use bytes::Bytes;
use prometheus::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// One hub's link.
struct Hub {
    redis: Redis,
    host: Host,
}

/// Settings with timeouts that suit a test.
fn config(server: &RedisServer) -> EventsConfig {
    EventsConfig {
        redis_url: Some(server.url().into()),
        timeout: Duration::from_secs(5),
        probe_interval: Duration::from_millis(250),
        ..EventsConfig::default()
    }
}

// === impl Hub ===

impl Hub {
    fn start(config: &EventsConfig, name: &str) -> Self {
        let host = Host::default();
        let connector = Connector::new(config, &name.parse().expect("a hub id"), &host.registry).expect("settings");
        let redis = connector.redis().expect("a URL");
        connector.start(&Supervisor::new(host.tasks.clone(), host.stop.clone()));
        Self { redis, host }
    }

    async fn is_up(&self) {
        comes_to("the link is up", &self.redis.state(), |state| *state == LinkState::Up).await;
    }
}

/// A certificate authority, and a certificate issued by it for `localhost`, in files.
fn certificates(server: &RedisServer) -> [String; 3] {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    [
        ("ca.pem", authority.pem()),
        ("cert.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
    ]
    .map(|(name, text)| {
        let path = server.folder().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_string_lossy().into_owned()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_over_tls_is_trusted_by_the_file_of_authorities_alone() {
    let mut server = RedisServer::reserve();
    let ([authority, certificate, key], tls_port) = (certificates(&server), Port::free());
    let port = tls_port.to_string();
    let tls = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
    ];
    server
        .launch_with(&[&tls[..], &["--tls-auth-clients", "no", "--requirepass", "s3cret"]].concat())
        .await;
    let trusting = EventsConfig {
        redis_url: Some(format!("rediss://:s3cret@localhost:{port}").into()),
        redis_ca_file: Some(authority.into()),
        ..config(&server)
    };

    let (trusting, stranger) = (
        Hub::start(&trusting, "a"),
        Hub::start(
            &EventsConfig {
                redis_ca_file: None,
                ..trusting
            },
            "b",
        ),
    );

    // A link that is up has subscribed, and has heard what it published.
    trusting.is_up().await;
    let topic = "t:1".parse().expect("a topic");
    let published = trusting.redis.publish_event(&topic, Bytes::from_static(b"{}"));
    published.await.expect("Redis has it");
    let untrusted = |state: &LinkState| matches!(state, LinkState::Down(reason) if reason.contains("ertificate"));
    comes_to("the certificate is refused", &stranger.redis.state(), untrusted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_link_stays_at_the_end_until_nobody_holds_it() {
    let server = RedisServer::start().await;
    let hub = Hub::start(&config(&server), "a");
    hub.is_up().await;
    let (redis, hold) = (hub.redis.clone(), hub.redis.hold());

    hub.host.stop.cancel();
    let incarnation = redis.incarnation().expect("still up");
    let holder = incarnation.reserve_prefix("uid", Duration::from_secs(1)).await;
    assert_eq!(holder.expect("still up"), "uid");
    drop(hold);

    hub.host.end().await;
    let ended = matches!(&*redis.state().borrow(), LinkState::Down(reason) if reason.contains("ending"));
    assert!(ended, "{:?}", *redis.state().borrow());
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_told_at_once_and_without_the_password() {
    let start = |url: &str, authorities: Option<&str>| {
        let config = EventsConfig {
            redis_url: Some(url.into()),
            redis_ca_file: authorities.map(Into::into),
            ..EventsConfig::default()
        };
        Connector::new(&config, &"a".parse().expect("valid"), &Registry::new())
    };

    for url in [
        "http://:s3cret@h",
        "redis://:s3cret@h:port",
        "redis://:s3cret@h/#x",
        "s3cret",
    ] {
        let error = start(url, None).expect_err(url);
        assert!(
            matches!(error, SetupError::Url(_)) && !format!("{error:?} {error}").contains("s3cret"),
            "{error:?}"
        );
    }
    let no_pem = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let error = start("rediss://h", Some(no_pem)).expect_err("no authority");
    assert!(matches!(error, SetupError::Authorities { .. }), "{error:?}");
    let error = start("rediss://h", Some("/nonexistent/ca.pem")).expect_err("no file");
    assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
}

#[test]
fn without_a_url_there_is_no_link_and_no_series_that_says_it_is_down() {
    let registry = Registry::new();

    let connector = Connector::new(&EventsConfig::default(), &"a".parse().expect("valid"), &registry);

    let connector = connector.expect("nothing to refuse");
    assert!(connector.redis().is_none());
    assert!(connector.state().is_none());
    let families = registry.gather();
    assert!(
        families
            .iter()
            .all(|family| !family.name().starts_with("alkhub_redis_")),
        "{families:?}"
    );
}
