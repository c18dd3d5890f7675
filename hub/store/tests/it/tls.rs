//! TLS to Postgres with an authority of one's own.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::path::Path;

use alkhub_config::StoreConfig;
use alkhub_devdb::Server;
use alkhub_devdb::testing::server_in;
use alkhub_store::{LinkState, Store};
use alkhub_test_support::{Port, within};
use prometheus::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fixture::{config, execute, ready};

/// A server with a certificate for `localhost`, and the authority's file.
async fn tls_server(folder: &Path) -> (Server, Port) {
    let port = Port::free();
    let server = server_in(folder, port.number()).await;

    let mut params = CertificateParams::new(Vec::new()).expect("params");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("params");
    let certificate = params.signed_by(&key, &authority).expect("signed");
    let data = folder.join("pg/data");
    let owner = std::fs::metadata(&data).expect("there");
    for (name, text) in [("server.crt", certificate.pem()), ("server.key", key.serialize_pem())] {
        let path = data.join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("closed to others");
        chown(&path, Some(owner.uid()), Some(owner.gid())).expect("given");
    }
    std::fs::write(folder.join("ca.pem"), authority.pem()).expect("written");
    let url = server.url();
    execute(&url, "ALTER SYSTEM SET ssl = on").await;
    execute(&url, "SELECT pg_reload_conf()").await;
    (server, port)
}

async fn why_down(config: &StoreConfig) -> String {
    let store = Store::open(config, &Registry::new()).expect("opens");
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move { store.prepare(&stop).await }
    });
    let mut link = store.link();
    let said =
        |state: &LinkState| matches!(state, LinkState::Down(reason) if reason != "not connected yet") || state.is_up();
    let state = within("it says why", link.wait_for(said))
        .await
        .expect("the store lives")
        .clone();
    stop.cancel();
    match state {
        LinkState::Down(reason) => reason,
        LinkState::Up => "up".to_owned(),
    }
}

#[tokio::test]
async fn the_servers_certificate_and_name_are_checked_against_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_server, port) = tls_server(folder.path()).await;
    let url = |host: &str, mode: &str| format!("postgres://alkhub:secret@{host}:{port}/postgres{mode}");
    let ca_file = Some(folder.path().join("ca.pem"));
    let with_ca = |url: &str| StoreConfig {
        ca_file: ca_file.clone(),
        ..config(url)
    };

    let store = ready(&with_ca(&url("localhost", "?sslmode=verify-full"))).await;
    store
        .keys()
        .list(crate::fixture::hasher().hash_key(), None, 100)
        .await
        .expect("works");
    let unnamed = why_down(&with_ca(&url("127.0.0.1", "?sslmode=verify-full"))).await;
    let implied = why_down(&with_ca(&url("127.0.0.1", ""))).await;
    let authority_only = why_down(&with_ca(&url("127.0.0.1", "?sslmode=verify-ca"))).await;
    let without_ca = why_down(&config(&url("localhost", "?sslmode=verify-full"))).await;

    assert!(unnamed.contains("TLS") || unnamed.contains("certificate"), "{unnamed}");
    assert_eq!(implied, unnamed, "a named authority is checked whatever the URL says");
    assert_eq!(authority_only, "up");
    assert!(
        without_ca.contains("UnknownIssuer") || without_ca.contains("certificate"),
        "{without_ca}"
    );
}
