//! A TCP proxy that fails when it is told to: it holds bytes back, or cuts every connection and loses what it held.
//!
//! Whoever dials it believes to speak with the server behind it. Nothing is changed in what passes.

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
    server: String,
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
            server: server.into(),
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

    /// Where it listens: dial this in place of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
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
        let server = shared.server.clone();
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
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = server.local_addr().expect("bound");
        let proxy = Proxy::start(address.to_string()).await.expect("a port");
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
