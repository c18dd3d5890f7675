//! One connection, from its first byte to its end: where it comes from, TLS, HTTP/1.1 or HTTP/2.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alkhub_config::ClientAddress;
use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, UpgradeableConnection};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tower::Service as _;

use super::addresses::{Addresses, Place};
use super::paced::{Paced, Requests};
use super::peer::{Peer, SocketPermit};
use super::proxy::{self, Header};
use super::raw::Raw;
use super::refusal::{HEADER_LIMIT, Refusal, refuse};
use super::serving::Serving;
use super::stream::Stream;
use super::tls;
use crate::forwarded::is_trusted;
use crate::metrics::Limit;

/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 64;

/// An HTTP/2 connection on which no request begins for this long is asked to close; its running requests finish, and
/// then it has `server.write-timeout` to go.
const IDLE: Duration = Duration::from_secs(60);

/// How often an HTTP/2 client is pinged, and how long it may take to answer before it counts as dead.
const PING: Duration = Duration::from_secs(20);

/// How much of an answer may wait for an HTTP/2 client that does not read it, in bytes per request.
const WAITING: usize = 64 * 1024;

/// How much an HTTP/2 client may send of one body before it is read, and of all bodies on a connection, in bytes.
const BODY_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 4 * BODY_WINDOW;

/// A connection that was accepted.
pub(super) struct Connection {
    pub(super) serving: Arc<Serving>,
    pub(super) addresses: Option<Addresses>,
    pub(super) address: IpAddr,
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) place: Option<Place>,
}

/// A connection whose client and protocol are known.
struct Opened {
    serving: Arc<Serving>,
    peer: Peer,
}

/// How a connection comes to its end by itself.
enum End {
    /// It is asked to close.
    Idle,
    /// It is cut.
    Stuck,
}

// === impl Connection ===

impl Connection {
    pub(super) async fn run(mut self, stream: TcpStream) {
        let serving = Arc::clone(&self.serving);
        let scope = &serving.scope;
        let opened = tokio::select! {
            biased;
            opened = timeout(serving.server.header_timeout, self.open(stream)) => opened,
            // It has asked for nothing yet.
            () = scope.drain.cancelled() => return,
            () = scope.stop.cancelled() => return,
        };
        let address = self.address;
        match opened {
            Ok(Ok(Some((stream, true)))) => self.opened().http2(stream.binary()).await,
            Ok(Ok(Some((stream, false)))) => self.opened().http1(stream).await,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::debug!(%error, %address, "a connection did not begin"),
            Err(_) => tracing::debug!(%address, "a connection did not begin within `server.header-timeout`"),
        }
    }

    fn opened(self) -> Opened {
        Opened {
            serving: self.serving,
            peer: Peer {
                address: self.address,
                permit: Arc::new(SocketPermit::new(self.permit, self.place)),
            },
        }
    }

    /// The stream, and whether it speaks HTTP/2; `None` if the connection is refused.
    async fn open(&mut self, stream: TcpStream) -> std::io::Result<Option<(Stream, bool)>> {
        stream.set_nodelay(true)?;
        let mut raw = Raw::new(stream);
        self.find_client(&mut raw).await?;
        if !self.take_place() {
            // A plain answer would tell a TLS client that there is no TLS here, so it is closed without one.
            if self.serving.tls.is_none() {
                refuse(raw, Refusal::Address).await;
            }
            return Ok(None);
        }
        let write_timeout = self.serving.server.write_timeout;
        let Some(tls) = &self.serving.tls else {
            let http2 = begins_http2(&mut raw).await?;
            return Ok(Some((Stream::plain(raw, write_timeout), http2)));
        };
        let Some(stream) = secure(tls, raw).await? else {
            return Ok(None);
        };
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Some((Stream::tls(Box::new(stream), write_timeout), http2)))
    }

    /// Reads the header of the PROXY protocol, which a trusted proxy must send if that is set.
    async fn find_client(&mut self, raw: &mut Raw) -> std::io::Result<()> {
        let server = &self.serving.server;
        let is_proxied = server.client_address == ClientAddress::ProxyProtocol;
        if !is_proxied || self.addresses.is_none() || !is_trusted(&server.trusted_proxies, self.address) {
            return Ok(());
        }
        loop {
            raw.look().await?;
            match proxy::read(raw.ahead()).map_err(std::io::Error::other)? {
                Header::Partial => {}
                Header::Whole { length, client } => {
                    raw.skip(length);
                    self.address = client.unwrap_or(self.address);
                    return Ok(());
                }
            }
        }
    }

    /// Takes one of the address's places; a trusted proxy needs none.
    fn take_place(&mut self) -> bool {
        let Some(addresses) = &self.addresses else { return true };
        if is_trusted(&self.serving.server.trusted_proxies, self.address) {
            return true;
        }
        self.place = addresses.take(self.address);
        if self.place.is_none()
            && let Some(edge) = &self.serving.edge
        {
            edge.metrics().limited(Limit::AddressConnections);
        }
        self.place.is_some()
    }
}

// === impl Opened ===

impl Opened {
    async fn http1(self, stream: Stream) {
        let (peer, router) = (self.peer.clone(), self.serving.router.clone());
        let service = service_fn(move |request| answer(router.clone(), peer.clone(), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.serving.server.header_timeout)
            .max_buf_size(HEADER_LIMIT)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        self.drive(
            connection,
            UpgradeableConnection::graceful_shutdown,
            std::future::pending(),
            std::future::pending(),
        )
        .await;
    }

    async fn http2(self, stream: Stream) {
        let (peer, router) = (self.peer.clone(), self.serving.router.clone());
        let begun = Arc::new(AtomicU64::new(0));
        let counted = begun.clone();
        let service = service_fn(move |request| {
            counted.fetch_add(1, Ordering::Relaxed);
            let answered = answer(router.clone(), peer.clone(), request);
            async move { answered.await.map(|response| response.map(Paced::new)) }
        });
        let requests = Requests::new(self.serving.scope.tasks.clone(), self.serving.server.write_timeout);
        let connection = http2::Builder::new(requests.clone())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(HEADER_LIMIT).expect("it is small"))
            .max_send_buf_size(WAITING)
            .initial_stream_window_size(BODY_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .serve_connection(TokioIo::new(stream), service);
        let end = async {
            tokio::select! {
                () = idle(&begun) => End::Idle,
                () = requests.cut() => End::Stuck,
            }
        };
        self.drive(connection, http2::Connection::graceful_shutdown, end, requests.late())
            .await;
    }

    /// Serves until the connection ends, comes to its end by itself, or the hub drains; one that was asked to close is
    /// cut when it is `late`.
    async fn drive<C>(
        &self,
        connection: C,
        ask: impl FnOnce(Pin<&mut C>),
        end: impl Future<Output = End>,
        late: impl Future<Output = ()>,
    ) where
        C: Future<Output = hyper::Result<()>>,
    {
        let (scope, address) = (&self.serving.scope, self.peer.address);
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => Some(result),
            () = scope.stop.cancelled() => return,
            () = scope.drain.cancelled() => None,
            end = end => match end {
                End::Idle => None,
                End::Stuck => return,
            },
        };
        let result = match result {
            Some(result) => result,
            None => {
                ask(connection.as_mut());
                tokio::select! {
                    result = connection => result,
                    () = scope.stop.cancelled() => return,
                    () = late => return,
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, %address, "a connection ended with an error");
        }
    }
}

/// Resolves when no request has begun for a while.
async fn idle(requests: &AtomicU64) {
    let mut seen = None;
    loop {
        let now = requests.load(Ordering::Relaxed);
        if seen == Some(now) {
            return;
        }
        seen = Some(now);
        tokio::time::sleep(IDLE).await;
    }
}

/// Whether the client speaks HTTP/2 from its first byte: no method of HTTP/1.1 begins like its preface.
async fn begins_http2(raw: &mut Raw) -> std::io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2";
    loop {
        let ahead = raw.ahead();
        if !ahead.is_empty() {
            let seen = ahead.len().min(PREFACE.len());
            if ahead[..seen] != PREFACE[..seen] {
                return Ok(false);
            }
            if seen == PREFACE.len() {
                return Ok(true);
            }
        }
        raw.look().await?;
    }
}

/// Does the handshake; a client that speaks plain HTTP gets an answer that says so.
async fn secure(tls: &tls::Acceptor, mut raw: Raw) -> std::io::Result<Option<TlsStream<Raw>>> {
    if raw.ahead().is_empty() {
        raw.look().await?;
    }
    // A request begins with its method, a handshake with 0x16.
    if raw.ahead()[0].is_ascii_uppercase() {
        refuse(raw, Refusal::Plain).await;
        return Ok(None);
    }
    tls.accept(raw).await.map(Some)
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
