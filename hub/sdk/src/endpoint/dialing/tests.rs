//! What is sent to a hub that is dialled, and how long to wait after a refusal.

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::*;

#[test]
fn who_refuses_says_how_long_to_wait_within_bounds_and_else_the_back_off_does() {
    let endpoint = HubEndpoint::new("http://h", None, None).expect("valid");
    let refused = |value: &str| {
        let response = ws_http::Response::builder().status(503).header("retry-after", value);
        let response = response.body(None).expect("a response");
        endpoint.handshake(tungstenite::Error::Http(response.into()))
    };
    let seconds = Duration::from_secs;

    for _ in 0..100 {
        let mut backoff = BACKOFF;
        let wait = pause(&refused("2"), &mut backoff);
        assert!((seconds(2)..=seconds(2) * 6 / 5).contains(&wait), "{wait:?}");
        assert!(pause(&refused("86400"), &mut backoff) <= LONGEST_WAIT * 6 / 5);
        assert_eq!(backoff.failures(), 0, "it is no failure");
        assert!(pause(&refused("Wed, 21 Oct 2015 07:28:00 GMT"), &mut backoff) <= Duration::from_millis(250));
        assert_eq!(backoff.failures(), 1);
    }
}

#[test]
fn a_redirect_that_a_dial_gets_is_told_with_the_url_to_use() {
    let endpoint = HubEndpoint::new("http://h/alk", None, None).expect("valid");
    let text = |location: &str| {
        let response = ws_http::Response::builder().status(301).header("location", location);
        let response = response.body(None).expect("a response");
        endpoint
            .handshake(tungstenite::Error::Http(response.into()))
            .to_string()
    };

    let moved = text("https://h/alk/v1/ws");
    assert!(moved.contains(" 301: it redirects to https://h/alk/v1/ws, "), "{moved}");
    assert!(moved.contains("(use https://h/alk as the hub's URL)"), "{moved}");
    let elsewhere = text("/login?to=/v1/ws");
    assert!(elsewhere.contains("/login?to=/v1/ws"), "{elsewhere}");
    assert!(!elsewhere.contains("(use"), "{elsewhere}");
}

/// The first bytes sent over a connection to an address that a hub has named.
async fn first_bytes(base: &str, scheme: &str) -> Vec<u8> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let target = format!("{scheme}://{}", listener.local_addr().expect("bound"));
    let endpoint = HubEndpoint::new(base, Some("alk_secret"), None).expect("valid");
    let endpoint = endpoint.at(&target).expect("it can be dialled");
    let answering = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut bytes = vec![0; 4_096];
        let count = stream.read(&mut bytes).await.expect("the first bytes");
        bytes.truncate(count);
        bytes
    };
    let (bytes, dialled) = tokio::join!(answering, endpoint.dial());
    assert!(dialled.is_err(), "nobody answers");
    bytes
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

#[tokio::test]
async fn at_an_address_that_a_hub_names_all_else_is_as_it_is_set() {
    let bytes = first_bytes("http://hub.team.svc:7420", "http").await;
    assert!(
        has(&bytes, "GET /v1/ws ") && has(&bytes, "hub.team.svc:7420"),
        "{bytes:?}"
    );

    let bytes = first_bytes("https://hub.team.svc", "https").await;
    assert!(has(&bytes, "hub.team.svc"), "the name that the certificate must have");
    assert!(!has(&bytes, "alk_secret"), "no key before that");
}
