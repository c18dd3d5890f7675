//! A TCP proxy on loopback whose link can be cut, to part a hub from a server.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Forwards connections to one address until it is cut; ends with this value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    open: watch::Sender<bool>,
    stop: CancellationToken,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy to `upstream` on a free port.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (open, link) = watch::channel(true);
        let stop = CancellationToken::new();
        TaskTracker::new().spawn(stop.clone().run_until_cancelled_owned(accept(listener, upstream, link)));
        Ok(Self { address, open, stop })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection and refuses new ones.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Forwards new connections again.
    pub fn heal(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.open.send_replace(false);
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, link: watch::Receiver<bool>) {
    let connections = TaskTracker::new();
    while let Ok((client, _)) = listener.accept().await {
        if *link.borrow() {
            connections.spawn(forward(client, upstream, link.clone()));
        }
    }
}

async fn forward(mut client: TcpStream, upstream: SocketAddr, mut link: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(upstream).await else {
        return;
    };
    let cut = async { link.wait_for(|open| !open).await.map(|_| ()) };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = cut => {}
    }
}
