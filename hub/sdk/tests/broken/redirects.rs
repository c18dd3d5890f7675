//! A proxy before the hub that redirects requests.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::{BrokenHub, Error, SOON};

/// Nobody is at the address to which it leads.
#[tokio::test]
async fn a_redirect_is_not_followed_and_the_error_says_which_url_to_use() {
    let hub = BrokenHub::start().await;
    let client = hub.client();
    let redirects = async {
        let accepted = timeout(SOON, hub.listener.accept()).await.expect("a connection");
        let (mut stream, _) = accepted.expect("open");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let count = stream.read_buf(&mut request).await.expect("a request");
            assert_ne!(count, 0, "{}", String::from_utf8_lossy(&request));
        }
        let answer = "HTTP/1.1 308 Permanent Redirect\r\nlocation: http://127.0.0.1:1/v1/events/a/b\r\n\
                      content-length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.expect("it reads");
        stream
    };

    let (_open, published) = tokio::join!(redirects, client.publish_raw("a:b", None));

    let error = published.expect_err("nobody published it");
    assert!(matches!(error, Error::Refused { status: 308, .. }), "{error:?}");
    assert!(!error.nobody_listens());
    let text = error.to_string();
    for part in ["308", "http://127.0.0.1:1/v1/events/a/b", "use http://127.0.0.1:1 as"] {
        assert!(text.contains(part), "{text}");
    }
}
