//! Accepts connections and serves HTTP/1.1 on them; a connection that is upgraded goes on in `ws`.
//!
//! A loop of our own in place of `axum::serve`: every connection is a task that the hub's tracker counts, a client has
//! a deadline for its header, and the number of connections has a bound that holds on after an upgrade.
//!
//! Invariants
//! - Nothing a peer does ends the loop; a failing `accept` (no file descriptors left) waits and goes on.
//! - A connection's [`Permit`] lives as long as its socket, upgraded or not.

mod stream;
pub(crate) mod tls;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

pub(crate) use stream::Stream;

use crate::metrics::{ConnectionKind, Limit, Metrics};

/// How long a failing `accept` waits before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections over the limit that are told so at once; more are closed without a word.
const REFUSALS: usize = 64;

/// Longest header of a request.
const HEADER_LIMIT: usize = 64 * 1024;

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 5\r\n\
connection: close\r\ncontent-length: 211\r\n\r\n\
{\"type\":\"urn:alkhub:problem:OVERLOADED\",\"title\":\"Too many calls\",\"status\":503,\
\"detail\":\"this hub has as many connections as `server.max-connections` allows\",\
\"code\":\"OVERLOADED\",\"retryable\":true,\"delivered\":\"no\"}";

/// What a client that speaks plain HTTP to the TLS port is told.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n\
connection: close\r\ncontent-length: 198\r\n\r\n\
{\"type\":\"urn:alkhub:problem:BAD_REQUEST\",\"title\":\"Bad request\",\"status\":400,\
\"detail\":\"this port speaks TLS: its address begins with https://\",\
\"code\":\"BAD_REQUEST\",\"retryable\":false,\"delivered\":\"no\"}";

/// What a listener needs.
pub(crate) struct Parts {
    pub(crate) socket: TcpListener,
    pub(crate) router: Router,
    pub(crate) tls: Option<tls::Acceptor>,
    pub(crate) limits: ListenerLimits,
    pub(crate) metrics: Option<Arc<Metrics>>,
    pub(crate) scope: Scope,
}

/// Bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenerLimits {
    pub(crate) connections: usize,
    pub(crate) header_timeout: Duration,
}

/// What a connection's tasks are counted and ended by.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) tasks: TaskTracker,
    /// No new connections; running requests are finished.
    pub(crate) drain: CancellationToken,
    /// Streams end with a reason.
    pub(crate) close: CancellationToken,
    /// Everything ends now.
    pub(crate) stop: CancellationToken,
}

/// The right to have a socket open; clones are of one socket.
pub(crate) type Permit = Arc<OwnedSemaphorePermit>;

/// Who is at the other end of a request's socket; an extension of every request.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    pub(crate) permit: Permit,
}

/// Binds a listener without waiting.
///
/// # Errors
/// The address cannot be bound.
pub(crate) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

/// Accepts until the drain begins. Connections go on after that, as tasks of their own.
pub(crate) async fn serve(parts: Parts) {
    let permits = Arc::new(Semaphore::new(parts.limits.connections.min(Semaphore::MAX_PERMITS)));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let Scope { tasks, drain, stop, .. } = &parts.scope;
    loop {
        let accepted = tokio::select! {
            () = drain.cancelled() => return,
            () = stop.cancelled() => return,
            accepted = parts.socket.accept() => accepted,
        };
        match accepted {
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Ok((stream, peer)) => match permits.clone().try_acquire_owned() {
                Ok(permit) => parts.spawn(stream, peer.ip(), permit),
                Err(_) => {
                    if let Some(metrics) = &parts.metrics {
                        metrics.limited(Limit::Connections);
                    }
                    // A plain answer would tell a TLS client that there is no TLS here: it is closed without a word.
                    if let (None, Ok(permit)) = (&parts.tls, refusals.clone().try_acquire_owned()) {
                        tasks.spawn(async move {
                            refuse(stream, FULL).await;
                            drop(permit);
                        });
                    }
                }
            },
        }
    }
}

// === impl Parts ===

impl Parts {
    /// Serves one connection as a task of its own.
    fn spawn(&self, stream: TcpStream, address: IpAddr, permit: OwnedSemaphorePermit) {
        let connection = Connection {
            router: self.router.clone(),
            tls: self.tls.clone(),
            header_timeout: self.limits.header_timeout,
            peer: Peer {
                address,
                permit: Arc::new(permit),
            },
            scope: self.scope.clone(),
        };
        let open = self.metrics.as_ref().map(|metrics| metrics.open(ConnectionKind::Http));
        self.scope.tasks.spawn(async move {
            connection.run(stream).await;
            drop(open);
        });
    }
}

struct Connection {
    router: Router,
    tls: Option<tls::Acceptor>,
    header_timeout: Duration,
    peer: Peer,
    scope: Scope,
}

// === impl Connection ===

impl Connection {
    async fn run(self, stream: TcpStream) {
        let Some(stream) = self.open(stream).await else {
            return;
        };
        let Self {
            router, peer, scope, ..
        } = self;
        let address = peer.address;
        let service = service_fn(move |request| answer(router.clone(), peer.clone(), request));
        let mut connection = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.header_timeout)
                .max_buf_size(HEADER_LIMIT)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
        );
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = scope.stop.cancelled() => return,
            () = scope.drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    result = connection => result,
                    () = scope.stop.cancelled() => return,
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, %address, "a connection ended with an error");
        }
    }

    /// TCP_NODELAY, and the handshake where TLS is on.
    async fn open(&self, stream: TcpStream) -> Option<Stream> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return None;
        }
        let Some(tls) = &self.tls else {
            return Some(Stream::Plain(stream));
        };
        let handshake = tokio::time::timeout(self.header_timeout, secure(tls, stream));
        let result = tokio::select! {
            () = self.scope.stop.cancelled() => return None,
            result = handshake => result,
        };
        let address = self.peer.address;
        match result {
            Ok(Ok(stream)) => return Some(Stream::Tls(Box::new(stream))),
            Ok(Err(error)) => tracing::debug!(%error, %address, "a TLS handshake failed"),
            Err(_) => tracing::debug!(%address, "a TLS handshake took longer than `server.header-timeout`"),
        }
        None
    }
}

/// The handshake; a client that speaks plain HTTP is told so.
async fn secure(tls: &tls::Acceptor, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    let _peeked = stream.peek(&mut first).await?;
    // A request begins with its method, a handshake with 0x16.
    if first[0].is_ascii_uppercase() {
        refuse(stream, PLAIN).await;
        return Err(std::io::Error::other("the client speaks plain HTTP"));
    }
    tls.accept(stream).await
}

async fn answer(
    mut router: Router,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<axum::response::Response, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer);
    router.call(request).await
}

/// Answers a client that is not served. Its request is read, before and after: a close with unread bytes would lose
/// the answer.
async fn refuse(mut stream: TcpStream, answer: &[u8]) {
    let exchange = async {
        let mut request = [0; 4096];
        let _read = stream.read(&mut request).await?;
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        while stream.read(&mut request).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), exchange).await {
        tracing::debug!(%error, "a refused connection was gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusals_have_the_length_that_they_say() {
        for answer in [FULL, PLAIN] {
            let text = std::str::from_utf8(answer).expect("ASCII");
            let (head, body) = text.split_once("\r\n\r\n").expect("a blank line");

            assert!(
                head.ends_with(&format!("content-length: {}", body.len())),
                "{}",
                body.len()
            );
            serde_json::from_str::<alkhub_protocol::Problem>(body).expect("a problem document");
        }
    }
}
