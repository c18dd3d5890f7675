//! How a WebSocket to a hub is opened, and how long to wait before another attempt. An attempt has a time limit, a refusal
//! keeps the reason and the wait that the refusing side gave, and a wait that is asked for has a bound and some jitter.

#[cfg(test)]
mod tests;

use std::time::Duration;

use alkhub_protocol::Problem;
use alkhub_protocol::json::strict;
use alkhub_retry::Backoff;
use http::header::{AUTHORIZATION, RETRY_AFTER};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, http as ws_http};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use super::{CONNECT_TIMEOUT, HubEndpoint};
use crate::Error;

/// One open WebSocket.
pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Time limit for a connection to an address that a hub has named, shorter than [`CONNECT_TIMEOUT`]: if it leads nowhere,
/// the usual address is still to be tried.
const TARGET_TIMEOUT: Duration = Duration::from_secs(2);

/// Pauses between tries to connect, and to be given a topic.
pub(crate) const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));

/// The longest wait before another connection attempt that a refusal can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The read buffer of a socket; tungstenite would take 128 KiB.
const BUFFER_BYTES: usize = 16 * 1024;

// === impl HubEndpoint ===

impl HubEndpoint {
    /// Opens a WebSocket; dropping the future gives up the attempt.
    pub(crate) async fn dial(&self) -> Result<Socket, Error> {
        let time = self.address.map_or(CONNECT_TIMEOUT, |_| TARGET_TIMEOUT);
        let attempt = tokio::time::timeout(time, self.attempt());
        attempt
            .await
            .unwrap_or_else(|_| Err(self.unreachable(std::io::Error::from(std::io::ErrorKind::TimedOut))))
    }

    async fn attempt(&self) -> Result<Socket, Error> {
        let mut url = self.path(&["v1", "ws"]);
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        url.set_scheme(scheme)
            .expect("between http and ws any change is allowed");
        if let Some(hub) = self.avoid.as_ref().and_then(|avoid| avoid()) {
            url.query_pairs_mut().append_pair("avoid", &hub);
        }
        let mut request = url.as_str().into_client_request().map_err(|e| self.unreachable(e))?;
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let stream = self.connect().await.map_err(|e| self.unreachable(e))?;
        stream.set_nodelay(true).map_err(|e| self.unreachable(e))?;
        let config = WebSocketConfig::default().read_buffer_size(BUFFER_BYTES);
        let connector = Connector::Rustls(self.tls.clone());
        let opened = client_async_tls_with_config(request, stream, Some(config), Some(connector)).await;
        opened.map(|(socket, _)| socket).map_err(|e| self.handshake(e))
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        if let Some(address) = self.address {
            return TcpStream::connect(address).await;
        }
        let host = self.base.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.base.port_or_known_default().unwrap_or(80);
        TcpStream::connect((host, port)).await
    }

    fn handshake(&self, error: tungstenite::Error) -> Error {
        match error {
            tungstenite::Error::Http(response) => Error::Refused {
                url: self.url().to_owned(),
                status: response.status().as_u16(),
                reason: self.redirection(&response).unwrap_or_else(|| reason(&response)),
                retry_after: retry_after(&response),
            },
            other => self.unreachable(other),
        }
    }

    fn redirection(&self, response: &ws_http::Response<Option<Vec<u8>>>) -> Option<String> {
        let redirects = response.status().is_redirection();
        let told = || self.redirect(&self.path(&["v1", "ws"]), response.headers());
        redirects.then(told).flatten()
    }
}

/// How long to wait before another attempt to connect: as long as was asked for, otherwise according to the failures.
pub(crate) fn pause(error: &Error, backoff: &mut Backoff) -> Duration {
    let asked = error.retry_after().filter(|wait| !wait.is_zero());
    let asked = asked.map(|wait| wait.min(LONGEST_WAIT));
    // No sooner than asked, and with jitter, so that peers refused together do not come back together.
    asked.map_or_else(|| backoff.pause(), |wait| wait.max(alkhub_retry::jittered(wait)))
}

/// The reason that the refusing side gave: a problem's detail, or the status in words.
fn reason(response: &ws_http::Response<Option<Vec<u8>>>) -> String {
    let body = response.body().as_deref().unwrap_or_default();
    let detail = strict::from_slice::<Problem>(body).map(|problem| problem.detail);
    detail.unwrap_or_else(|_| {
        response
            .status()
            .canonical_reason()
            .unwrap_or("no reason given")
            .to_owned()
    })
}

/// The seconds of a `Retry-After`; a date is ignored.
fn retry_after(response: &ws_http::Response<Option<Vec<u8>>>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse();
    seconds.ok().map(Duration::from_secs)
}
