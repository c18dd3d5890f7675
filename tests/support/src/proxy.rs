//! A TCP proxy that fails when it is told to: it holds bytes back, or cuts every connection and loses what it held.
//!
//! Whoever dials it believes to speak with the server behind it. Nothing is changed in what passes.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Bytes of one direction of a connection that are held at most; more waits in the sender's socket.
const BUFFER: usize = 64 * 1024;

/// A proxy on a free port of loopback, in front of one server. It ends with this value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    /// In the order in which they get the next connections.
    servers: Mutex<VecDeque<String>>,
    is_held: watch::Sender<bool>,
    /// Cancelled with the connections of now; `None` while connections are refused.
    connections: Mutex<Option<CancellationToken>>,
    tasks: TaskTracker,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy in front of `server` (`host:port`), which lets everything pass.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn start(server: impl Into<String>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            servers: Mutex::new(VecDeque::from([server.into()])),
            is_held: watch::Sender::new(false),
            connections: Mutex::new(Some(stop.child_token())),
            tasks: TaskTracker::new(),
        });
        let accepting = stop.clone().run_until_cancelled_owned(accept(shared.clone(), listener));
        shared.tasks.spawn(accepting);
        Ok(Self {
            address,
            shared,
            _stop: stop.drop_guard(),
        })
    }

    /// A listener on a free port, for a server of the caller's own, and a proxy in front of it.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn with_listener() -> io::Result<(TcpListener, Self)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let proxy = Self::start(listener.local_addr()?.to_string()).await?;
        Ok((listener, proxy))
    }

    /// Where it listens: dial this in place of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts it in front of another server. Connections stay where they are, and new ones go there.
    pub fn lead_to(&self, server: impl Into<String>) {
        self.spread_over([server]);
    }

    /// Puts it in front of several servers, as a load balancer: new connections go to one after the other.
    pub fn spread_over(&self, servers: impl IntoIterator<Item = impl Into<String>>) {
        *self.shared.servers.lock() = servers.into_iter().map(Into::into).collect();
    }

    /// Holds back what arrives from now on, in both directions. Connections stay, and new ones are made.
    pub fn hold(&self) {
        self.shared.is_held.send_replace(true);
    }

    /// Ends every connection at once, loses what was held, and refuses new ones.
    pub fn cut(&self) {
        if let Some(connections) = self.shared.connections.lock().take() {
            connections.cancel();
        }
    }

    /// Lets everything pass again: what was held goes on, what was cut can be dialled anew.
    pub fn heal(&self) {
        self.shared.connections.lock().get_or_insert_default();
        self.shared.is_held.send_replace(false);
    }
}

// === impl Shared ===

impl Shared {
    /// The server of the next connection.
    fn next(&self) -> Option<String> {
        let mut servers = self.servers.lock();
        let server = servers.pop_front()?;
        servers.push_back(server.clone());
        Some(server)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let Some(connections) = shared.connections.lock().clone() else {
            continue;
        };
        let Some(server) = shared.next() else {
            continue;
        };
        let is_held = shared.is_held.subscribe();
        let passing = async move { pass(client, &server, is_held).await };
        shared.tasks.spawn(connections.run_until_cancelled_owned(passing));
    }
}

/// Carries one connection until either side ends it.
async fn pass(mut client: TcpStream, server: &str, is_held: watch::Receiver<bool>) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::select! {
        done = copy(from_client, to_server, is_held.clone()) => done,
        done = copy(from_server, to_client, is_held) => done,
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut is_held: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        is_held.wait_for(|held| !held).await.map_err(io::Error::other)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::within;

    /// A proxy, a client of it, and the server's end of the client's connection.
    async fn connected() -> (Proxy, TcpListener, TcpStream, TcpStream) {
        let (server, proxy) = Proxy::with_listener().await.expect("two ports");
        let client = TcpStream::connect(proxy.address()).await.expect("it listens");
        let (end, _) = within("the server is dialled", server.accept())
            .await
            .expect("accepted");
        (proxy, server, client, end)
    }

    async fn byte(of: &mut TcpStream) -> Option<u8> {
        within("a byte, or the end", of.read_u8()).await.ok()
    }

    #[tokio::test]
    async fn what_is_held_arrives_when_it_is_healed() {
        let (proxy, _server, mut client, mut end) = connected().await;
        proxy.hold();
        client.write_u8(7).await.expect("written");
        timeout(Duration::from_millis(50), end.read_u8())
            .await
            .expect_err("it is held");

        proxy.heal();

        assert_eq!(byte(&mut end).await, Some(7));
    }

    #[tokio::test]
    async fn what_is_dialled_later_gets_to_where_it_leads_then() {
        let (proxy, _server, mut client, mut end) = connected().await;
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");

        proxy.lead_to(other.local_addr().expect("bound").to_string());
        let mut later = TcpStream::connect(proxy.address()).await.expect("it listens");
        let (mut other_end, _) = within("the other server is dialled", other.accept())
            .await
            .expect("accepted");

        client.write_u8(7).await.expect("written");
        later.write_u8(8).await.expect("written");
        assert_eq!((byte(&mut end).await, byte(&mut other_end).await), (Some(7), Some(8)));
    }

    #[tokio::test]
    async fn a_cut_loses_what_was_held_and_refuses_until_it_is_healed() {
        let (proxy, server, mut client, mut end) = connected().await;
        proxy.hold();
        client.write_u8(7).await.expect("written");

        proxy.cut();

        assert_eq!((byte(&mut client).await, byte(&mut end).await), (None, None));
        let mut refused = TcpStream::connect(proxy.address()).await.expect("the port is bound");
        assert_eq!(byte(&mut refused).await, None);
        proxy.heal();
        let mut again = TcpStream::connect(proxy.address()).await.expect("it listens");
        let (mut end, _) = within("the server is dialled", server.accept())
            .await
            .expect("accepted");
        again.write_u8(8).await.expect("written");
        assert_eq!(byte(&mut end).await, Some(8));
    }
}
