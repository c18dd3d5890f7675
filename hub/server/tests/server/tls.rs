//! TLS at the hub: what is served over it, and what happens to clients that speak plain text to it or TLS to a plain
//! port.

use std::path::Path;
use std::sync::Arc;

use alkhub_config::TlsConfig;
use futures::StreamExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::{Certificate, Client};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::harness::{LIMIT, TestHub, hub, hub_with};
use crate::wire::Wire;

/// The beginning of a TLS handshake.
const HELLO: &[u8] = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03";

/// A hub with a certificate for `localhost` and 127.0.0.1, and a client that trusts it.
async fn tls_hub(change: impl FnOnce(&mut alkhub_config::HubConfig)) -> (TestHub, Client) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certified = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let pem = certified.cert.pem();
    let hub = hub_with(|config| {
        let key_file = config.auth.hash_key_file.as_deref().and_then(Path::parent);
        let folder = key_file.expect("a folder");
        let (cert_file, key_file) = (folder.join("tls.crt"), folder.join("tls.key"));
        std::fs::write(&cert_file, &pem).expect("written");
        std::fs::write(&key_file, certified.signing_key.serialize_pem()).expect("written");
        config.server.tls = Some(TlsConfig { cert_file, key_file });
        change(config);
    })
    .await;
    assert!(hub.hub.url().starts_with("https://"), "{}", hub.hub.url());
    let authority = Certificate::from_pem(pem.as_bytes()).expect("PEM");
    let client = Client::builder().tls_certs_only([authority]).build().expect("a client");
    (hub, client)
}

/// What the hub answers to these bytes until it closes.
async fn said(hub: &TestHub, bytes: &[u8]) -> String {
    let url = hub.hub.url();
    let (_, address) = url.split_once("://").expect("a URL");
    let mut socket = TcpStream::connect(address).await.expect("connects");
    socket.write_all(bytes).await.expect("written");
    let mut said = Vec::new();
    // If the connection is cut, what was said before still counts.
    let _ = timeout(LIMIT, socket.read_to_end(&mut said))
        .await
        .expect("closed in time");
    String::from_utf8_lossy(&said).into_owned()
}

async fn status(hub: &TestHub, client: &Client) -> u16 {
    let request = client.get(format!("{}/v1/operations", hub.hub.url()));
    let answer = request.bearer_auth(&hub.admin).send().await.expect("answered");
    answer.status().as_u16()
}

#[tokio::test]
async fn calls_and_streams_of_events_are_served_over_tls() {
    let (hub, client) = tls_hub(|_| {}).await;
    let at = |path: &str| format!("{}{path}", hub.hub.url());
    let events = client.get(at("/v1/events?topic=job:1")).bearer_auth(&hub.admin);
    let mut events = events.send().await.expect("answered").bytes_stream();

    let publish = client.post(at("/v1/events/job/1")).bearer_auth(&hub.admin);
    let published = publish
        .body(json!({"n": 1}).to_string())
        .send()
        .await
        .expect("answered");

    assert_eq!(published.status(), 202);
    let mut text = String::new();
    while !text.contains(r#"{"n":1}"#) {
        let bytes = timeout(LIMIT, events.next()).await.expect("an event in time");
        let bytes = bytes.expect("open").expect("read");
        text.push_str(std::str::from_utf8(&bytes).expect("UTF-8"));
    }
    assert_eq!(status(&hub, &client).await, 200);
    assert!(
        hub.client.get(hub.hub.url()).send().await.is_err(),
        "a client that does not know the certificate"
    );
}

#[tokio::test]
async fn http_2_is_offered_by_alpn() {
    let (hub, _) = tls_hub(|_| {}).await;
    let pem = std::fs::read(hub.folder().join("tls.crt")).expect("read");
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.expect("PEM")).expect("a certificate");
    }
    let chosen = async |offered: &[&[u8]]| {
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let socket = TcpStream::connect(hub.hub.url().replace("https://", ""))
            .await
            .expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
            .expect("trusted");
        let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        (protocol, stream)
    };

    let (protocol, stream) = chosen(&[b"h2", b"http/1.1"]).await;
    assert_eq!(protocol.as_deref(), Some(&b"h2"[..]));
    assert_eq!(chosen(&[b"http/1.1"]).await.0.as_deref(), Some(&b"http/1.1"[..]));
    let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, http_body_util::Empty<bytes::Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    )
    .await
    .expect("the preface is answered");
    let request = http::Request::get(format!("{}/v1/openapi.json", hub.hub.url()));
    let answer = sender.send_request(request.body(http_body_util::Empty::new()).expect("a request"));
    tokio::select! {
        answer = timeout(LIMIT, answer) => assert_eq!(answer.expect("in time").expect("answered").status(), 200),
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

#[tokio::test]
async fn plain_http_to_the_tls_port_is_told_so_and_disturbs_nobody() {
    let (hub, client) = tls_hub(|_| {}).await;
    let events = client.get(format!("{}/v1/events?topic=job:1", hub.hub.url()));
    let events = events.bearer_auth(&hub.admin).send().await.expect("answered");

    let said = said(&hub, b"GET /v1/operations HTTP/1.1\r\nhost: x\r\n\r\n").await;

    let (head, body) = said
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no HTTP: {said:?}"));
    let problem: Value = serde_json::from_str(body).expect("a problem document");
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    assert_eq!(problem["code"], "BAD_REQUEST", "{problem}");
    assert!(
        problem["detail"].as_str().expect("text").contains("https://"),
        "{problem}"
    );
    let plain = hub.hub.url().replace("https://", "http://");
    let large = hub
        .client
        .post(format!("{plain}/v1/events/job/1"))
        .body(vec![b'1'; 1 << 20]);
    assert_eq!(large.send().await.expect("answered").status(), 400);
    assert_eq!(status(&hub, &client).await, 200);
    let first = timeout(LIMIT, events.bytes_stream().next()).await.expect("in time");
    assert!(first.is_some_and(|bytes| bytes.is_ok()), "the stream goes on");
}

#[tokio::test]
async fn what_is_neither_tls_nor_http_is_closed_and_so_is_silence() {
    let (hub, client) = tls_hub(|config| config.server.header_timeout = std::time::Duration::from_millis(200)).await;

    for (case, bytes) in [
        ("silence", &b""[..]),
        ("noise", b"\x00\x01\x02\x03\x04\x05"),
        ("half a hello", HELLO),
    ] {
        let said = said(&hub, bytes).await;
        assert!(!said.contains("HTTP"), "{case}: {said:?}");
    }

    assert_eq!(status(&hub, &client).await, 200);
}

#[tokio::test]
async fn tls_to_the_plain_port_is_answered_in_plain_and_disturbs_nobody() {
    let hub = hub().await;
    let mut socket = Wire::connect(&hub, &hub.admin).await;

    let said = said(&hub, HELLO).await;

    assert!(said.starts_with("HTTP/1.1 400 "), "{said:?}");
    socket.text(r#"{"type":"__subscribe","id":"","payload":"a:1"}"#).await;
    socket.expect("__subscribed").await;
    assert_eq!(hub.get("/v1/operations").await.status, 200);
}

/// Plain text on that port would tell a TLS client that its address is wrong, when the hub is only full.
#[tokio::test]
async fn a_full_hub_says_nothing_in_plain_to_a_client_of_its_tls_port() {
    let (hub, client) = tls_hub(|config| config.server.max_connections = 1).await;
    let events = client.get(format!("{}/v1/events?topic=job:1", hub.hub.url()));
    let _events = events.bearer_auth(&hub.admin).send().await.expect("answered");

    let said = said(&hub, HELLO).await;

    assert!(!said.contains("HTTP"), "{said:?}");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named_at_the_start() {
    let (hub, _) = tls_hub(|_| {}).await;
    let file = |name: &str| hub.folder().join(name);
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(file("other.key"), other.signing_key.serialize_pem()).expect("written");
    std::fs::write(file("empty"), "").expect("written");

    for (cert, key, named) in [
        ("missing", "tls.key", &["server.tls.cert-file", "missing"][..]),
        ("empty", "tls.key", &["server.tls.cert-file", "empty", "no certificate"]),
        ("tls.crt", "missing", &["server.tls.key-file", "missing"]),
        ("tls.crt", "empty", &["server.tls.key-file", "empty"]),
        (
            "tls.crt",
            "other.key",
            &["server.tls.cert-file", "server.tls.key-file", "together"],
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = crate::harness::config(folder.path(), &crate::harness::new_key());
        let (cert_file, key_file) = (file(cert), file(key));
        config.server.tls = Some(TlsConfig { cert_file, key_file });

        let error = alkhub_server::Hub::start(config)
            .map(|_| ())
            .expect_err("does not start");

        let text = error.to_string();
        assert!(named.iter().all(|part| text.contains(part)), "{text}");
    }
}
