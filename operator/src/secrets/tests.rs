//! What users' Secrets hold, against an API server that is a map.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use k8s_openapi::ByteString;
use kube::Client;
use kube::client::Body;

use super::*;
use crate::gate::Gate;
use crate::metrics::Metrics;

/// Secrets by name, each with the key `url`, and how often one was read.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<(HashMap<String, String>, usize)>>);

impl Server {
    fn put(&self, name: &str, url: &str) {
        self.0.lock().0.insert(name.to_owned(), url.to_owned());
    }

    fn reads(&self) -> usize {
        self.0.lock().1
    }

    fn answer(&self, request: &Request<Body>) -> Response<Body> {
        let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let mut inner = self.0.lock();
        inner.1 += 1;
        let url = inner.0.get(&name).expect("a Secret of the test").clone();
        let secret = Secret {
            data: Some([("url".to_owned(), ByteString(url.into_bytes()))].into()),
            ..Secret::default()
        };
        Response::new(Body::from(serde_json::to_vec(&secret).expect("plain data")))
    }

    fn kubernetes(&self) -> Kubernetes {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            std::future::ready(Ok::<_, Infallible>(server.answer(&request)))
        });
        let metrics = Metrics::new(&prometheus::Registry::new()).expect("registered");
        Kubernetes::new(Client::new(service, "team"), Gate::default(), Arc::new(metrics))
    }
}

fn place(secret: &str, format: SecretFormat) -> Option<(Location, SecretFormat)> {
    let location = Location {
        namespace: "team".to_owned(),
        secret: secret.to_owned(),
        key: "url".to_owned(),
    };
    Some((location, format))
}

#[tokio::test(start_paused = true)]
async fn secrets_that_change_together_are_seen_together() {
    let (server, facts) = (Server::default(), Facts::default());
    let kubernetes = server.kubernetes();
    server.put("redis", "redis://old");
    server.put("postgres", "postgres://old/x");
    let places = [
        place("redis", SecretFormat::Redis),
        place("postgres", SecretFormat::Postgres),
    ];
    let hosts = async || {
        let (read, changing) = facts.read_all(&kubernetes, &places).await.expect("answers");
        let host = |fact: Option<Fact>| fact.expect("there").server.expect("a URL").expect("a server").address;
        (read.map(host), changing)
    };
    facts
        .read(&kubernetes, &places[0].as_ref().expect("set").0, SecretFormat::Redis)
        .await
        .expect("answers");
    tokio::time::advance(TRUSTED / 2).await;
    assert_eq!(
        hosts().await,
        (["old.team:6379".to_owned(), "old.team:5432".to_owned()], false)
    );

    server.put("redis", "redis://new");
    tokio::time::advance(TRUSTED / 2).await;
    assert!(hosts().await.1, "what may be half of a change is waited with");
    server.put("postgres", "postgres://new/x");
    tokio::time::advance(SETTLED - Duration::from_millis(1)).await;
    assert!(hosts().await.1);
    tokio::time::advance(SETTLED).await;

    assert_eq!(
        hosts().await,
        (["new.team:6379".to_owned(), "new.team:5432".to_owned()], false)
    );
    tokio::time::advance(SETTLED).await;
    let reads = server.reads();
    hosts().await;
    assert_eq!(server.reads(), reads, "a change that was carried out is trusted again");
}

#[test]
fn a_value_that_the_hub_would_refuse_is_refused_here_without_a_word_of_it() {
    let fault = |value: &str, format| Fact::of(value.as_bytes(), format, "team").server.expect_err(value);

    for (value, format) in [
        ("redis://:s3cret@ss:w/o%r#d?@r2:6379", SecretFormat::Redis),
        ("redis://:s3cret@r2:99999", SecretFormat::Redis),
        ("postgres://u:s3cret@db:99999/x", SecretFormat::Postgres),
        ("postgres://u:s3cret@/x", SecretFormat::Postgres),
        ("s3cret garbage", SecretFormat::Authorities),
        (
            "-----BEGIN CERTIFICATE-----\ns3cret\n-----END CERTIFICATE-----\n",
            SecretFormat::Authorities,
        ),
    ] {
        assert!(!fault(value, format).contains("s3cret"), "{}", fault(value, format));
    }
    assert_eq!(
        Fact::of(b" redis://:p@cache \n", SecretFormat::Redis, "team").server,
        Ok(Some(ServerAddress::managed("cache", "team", 6379)))
    );
}

#[test]
fn a_redis_is_in_the_clear_unless_its_scheme_asks_for_tls() {
    let is_clear = |url: &str, format| Fact::of(url.as_bytes(), format, "team").is_clear;

    for (url, expected) in [
        ("redis://cache", true),
        ("valkey://cache", true),
        ("REDISS://cache", false),
        ("valkeys://cache", false),
    ] {
        assert_eq!(is_clear(url, SecretFormat::Redis), expected, "{url}");
    }
    assert!(!is_clear("postgres://db/x", SecretFormat::Postgres));
}
