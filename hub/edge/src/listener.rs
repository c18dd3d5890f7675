//! Accepts connections and serves HTTP/1.1 and HTTP/2 on them; an upgraded connection is passed to its surface.
//!
//! This loop replaces `axum::serve`: every connection is a task that the hub's tracker counts, a client has deadlines
//! for sending its header and for reading, and the numbers of connections, in total and per address, have bounds that
//! continue to hold after an upgrade.
//!
//! Invariants
//! - Nothing that a peer does ends the loop; after a failed `accept` (no file descriptors left) it waits and continues.
//! - A connection's [`Permit`] lives as long as its socket, upgraded or not.
//! - A port that is bound and does not listen yet refuses connections: then a client tries again, whereas a 503 would
//!   end a browser's `EventSource` for good.

mod addresses;
mod connection;
mod paced;
mod peer;
mod proxy;
mod raw;
mod refusal;
mod serving;
mod stream;
pub mod tls;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use alkhub_config::ServerConfig;
use axum::Router;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use addresses::Addresses;
use connection::Connection;
use raw::Raw;
use refusal::{Refusal, refuse};
use serving::Serving;

pub use peer::{Peer, Permit};
pub use stream::Stream;

use crate::edge::Edge;
use crate::metrics::Limit;
use crate::scope::Scope;

/// How long to wait after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections over the limit get an answer at the same time; more are closed without one.
const REFUSALS: usize = 64;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// A socket that listens, and what serves its connections.
pub struct Listener {
    /// Where connections come in.
    pub socket: TcpListener,
    /// What answers their requests.
    pub router: Router,
    /// TLS, if clients use it.
    pub tls: Option<tls::Acceptor>,
    /// Bounds.
    pub limits: ListenerLimits,
    /// Counts connections and refusals; `None` for a listener that is not counted.
    pub edge: Option<Edge>,
    /// Counts and ends the connections' tasks.
    pub scope: Scope,
}

/// Bounds of one listener.
#[derive(Clone, Debug)]
pub struct ListenerLimits {
    /// Connections at once.
    pub connections: usize,
    /// Connections per address; `None` means that there is no bound, and no proxies either.
    pub per_address: Option<usize>,
    /// Timeouts, and the proxies that are trusted.
    pub server: Arc<ServerConfig>,
}

/// Binds an address without listening on it yet.
///
/// # Errors
/// The address cannot be bound.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Listens on an address that was bound.
///
/// # Errors
/// Another program has begun to listen on it meanwhile.
pub fn listen(socket: TcpSocket) -> std::io::Result<TcpListener> {
    socket.listen(BACKLOG)
}

// === impl Listener ===

impl Listener {
    /// Accepts until the drain begins. Connections live on after that, as tasks of their own.
    pub async fn serve(self) {
        let permits = Arc::new(Semaphore::new(self.limits.connections.min(Semaphore::MAX_PERMITS)));
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        let addresses = self.limits.per_address.map(Addresses::new);
        let (socket, serving) = self.part();
        let Scope { drain, stop, .. } = &serving.scope;
        loop {
            let accepted = tokio::select! {
                () = drain.cancelled() => return,
                () = stop.cancelled() => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Ok((stream, peer)) => match permits.clone().try_acquire_owned() {
                    Ok(permit) => serving.spawn(stream, peer.ip(), permit, addresses.clone()),
                    Err(_) => serving.refuse(stream, &refusals),
                },
            }
        }
    }

    /// The socket, and what its connections share.
    fn part(self) -> (TcpListener, Arc<Serving>) {
        let serving = Serving {
            router: self.router,
            tls: self.tls,
            server: self.limits.server,
            edge: self.edge,
            scope: self.scope,
        };
        (self.socket, Arc::new(serving))
    }
}

// === impl Serving ===

impl Serving {
    /// Serves one connection as a task of its own.
    fn spawn(
        self: &Arc<Self>,
        stream: TcpStream,
        address: IpAddr,
        permit: OwnedSemaphorePermit,
        addresses: Option<Addresses>,
    ) {
        let connection = Connection {
            serving: Arc::clone(self),
            addresses,
            address: address.to_canonical(),
            permit,
            place: None,
        };
        let open = self.edge.as_ref().map(|edge| edge.open().connect(edge.metrics()));
        self.scope.tasks.spawn(async move {
            Box::pin(connection.run(stream)).await;
            drop(open);
        });
    }

    /// Answers a connection over the limit.
    fn refuse(&self, stream: TcpStream, refusals: &Arc<Semaphore>) {
        if let Some(edge) = &self.edge {
            edge.metrics().limited(Limit::Connections);
        }
        // A plain answer would tell a TLS client that there is no TLS here, so it is closed without one.
        if let (None, Ok(permit)) = (&self.tls, refusals.clone().try_acquire_owned()) {
            self.scope.tasks.spawn(async move {
                refuse(Raw::new(stream), Refusal::Full).await;
                drop(permit);
            });
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("socket", &self.socket)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
