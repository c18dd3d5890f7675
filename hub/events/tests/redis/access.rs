//! What Redis allows: TLS, passwords, access rules, replicas.

use alkhub_config::EventsConfig;
use alkhub_events::{Error, Fabric, LinkState, Supervisor};
use alkhub_test_support::{Port, RedisServer, until, within};
use prometheus::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::{Pod, config, event, filter, gap, large_mailbox};

/// An authority, and a certificate of its for `localhost`, in files.
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
        Pod::start(&trusting, "a"),
        Pod::start(
            &EventsConfig {
                redis_ca_file: None,
                ..trusting
            },
            "b",
        ),
    );

    trusting.is_up().await;
    let (mailbox, _deliveries) = large_mailbox();
    let _subscription = trusting
        .fabric
        .bus()
        .subscribe(filter("t:1"), &mailbox)
        .await
        .expect("up");
    trusting.publish("t:1", 1).await;
    let mut link = stranger.fabric.link();
    let untrusted = link.wait_for(|state| matches!(state, LinkState::Down(reason) if reason.contains("ertificate")));
    assert!(!matches!(*untrusted.await.expect("runs"), LinkState::Up));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_access_rules_refuse_hurts_nobody_else() {
    let server = RedisServer::start().await;
    let rules = |topics: &'static str| {
        let mut words = vec![
            "ACL",
            "SETUSER",
            "hub",
            "reset",
            "on",
            ">pw",
            "~*",
            "+@all",
            "&alk:hub:*",
            "&alk:probe:*",
        ];
        words.extend(["&alk:directory:changes", "&alk:keys:changes"]);
        words.extend(topics.split(' '));
        words
    };
    server.query::<()>(&rules("&alk:events:one:* &alk:events:two:*")).await;
    let url = server.url().replace("redis://", "redis://hub:pw@");
    let pod = Pod::start(
        &EventsConfig {
            redis_url: Some(url.into()),
            ..config(&server)
        },
        "a",
    );
    pod.is_up().await;
    let (mailbox, mut deliveries) = large_mailbox();
    let bus = pod.fabric.bus();
    let wanted = ["one:1", "two:1", "three:1", "one:2"].map(|name| bus.subscribe(filter(name), &mailbox));

    let [one, two, three, other] = futures::future::join_all(wanted).await.try_into().expect("four");
    assert!(matches!(three, Err(Error::Refused(_))), "{three:?}");
    let _kept = (one.expect("allowed"), two.expect("allowed"), other.expect("allowed"));
    assert!(bus.publish(&"three:1".parse().expect("valid"), None).await.is_err());
    pod.publish("one:1", 1).await;
    assert_eq!(event(&mut deliveries).await, ("one:1".to_owned(), 1));

    // The rule for `two` goes, Redis cuts the connection, and the link comes back without it.
    server.query::<()>(&rules("&alk:events:one:*")).await;
    let mut gaps = vec![gap(&mut deliveries).await.0, gap(&mut deliveries).await.0];
    gaps.sort();
    assert_eq!(gaps, ["one:1", "one:2"]);
    pod.is_up().await;
    pod.publish("one:1", 2).await;
    assert_eq!(event(&mut deliveries).await, ("one:1".to_owned(), 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_becomes_a_replica_is_left() {
    let server = RedisServer::start().await;
    let pod = Pod::up(&server, "a").await;

    let nobody = Port::free();
    server
        .query::<()>(&["REPLICAOF", "127.0.0.1", &nobody.to_string()])
        .await;
    let mut link = pod.fabric.link();
    let down = link.wait_for(|state| matches!(state, LinkState::Down(reason) if reason.contains("read")));
    within("the link is down", down).await.expect("runs");
    server.query::<()>(&["REPLICAOF", "NO", "ONE"]).await;

    pod.is_up().await;
    until("the lease is back", || async {
        let lease: Option<String> = server.query(&["GET", "alk:hub:a"]).await;
        lease.map(drop).ok_or_else(|| "no lease".to_owned())
    })
    .await;
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_told_at_once_and_without_the_password() {
    let supervisor = Supervisor::new(TaskTracker::new(), CancellationToken::new());
    let start = |url: &str, authorities: Option<&str>| {
        let config = EventsConfig {
            redis_url: Some(url.into()),
            redis_ca_file: authorities.map(Into::into),
            ..EventsConfig::default()
        };
        Fabric::start(&config, &"a".parse().expect("valid"), &supervisor, &Registry::new())
    };

    for url in [
        "http://:s3cret@h",
        "redis://:s3cret@h:port",
        "redis://:s3cret@h/#x",
        "s3cret",
    ] {
        let error = start(url, None).expect_err(url);
        assert!(
            matches!(error, Error::Url(_)) && !format!("{error:?} {error}").contains("s3cret"),
            "{error:?}"
        );
    }
    let garbage = std::env::current_exe().expect("this program");
    let error = start("rediss://h", garbage.to_str()).expect_err("no authority");
    assert!(matches!(error, Error::Authorities { .. }), "{error:?}");
    let error = start("rediss://h", Some("/nonexistent/ca.pem")).expect_err("no file");
    assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
}
