//! A TCP proxy that fails when it is told to: it holds bytes back, in one direction or both, delays them, cuts every
//! connection and loses what it held, or lets one end go without the other one's knowing.
//!
//! Whoever dials it believes to speak with the server behind it. Nothing is changed in what passes. It can be asked to write
//! down what both ends say.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::wait::pause;

/// Bytes that are read at once. Of each direction of a connection so many are held, and as many are on their way to where
/// they are held; more waits in the sender's socket.
const BUFFER: usize = 64 * 1024;

/// A proxy on a free port of loopback, in front of one server. It ends with this value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What clients send.
    ToServer,
    /// What the server sends.
    ToClient,
}

/// What was said over the connections of a proxy that were made since it was asked for, whether or not it has passed.
/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Recording(Arc<Mutex<Vec<Said>>>);

/// What was said over one connection.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// By the client.
    pub to_server: Vec<u8>,
    /// By the server.
    pub to_client: Vec<u8>,
}

/// Where what is said over one connection is written down, if it is.
#[derive(Clone, Debug)]
struct Minutes(Option<(Recording, usize)>);

#[derive(Debug)]
struct Shared {
    /// In the order in which they get the next connections.
    servers: Mutex<VecDeque<String>>,
    recording: Mutex<Option<Recording>>,
    lines: Mutex<Lines>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Lines {
    /// The connections of now, and those to come; `None` while connections are refused.
    now: Option<Line>,
    /// Those whose clients are gone.
    orphaned: Vec<Line>,
}

/// Connections that share a fate.
#[derive(Clone, Debug)]
struct Line {
    held: watch::Sender<Held>,
    /// Ends them.
    cut: CancellationToken,
    /// Ends their clients' halves.
    orphan: CancellationToken,
}

/// What does not pass at once.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    to_server: bool,
    to_client: bool,
    /// The longest time that one piece takes.
    delay: Duration,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy in front of `server` (`host:port`), which lets everything pass.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn start(server: impl Into<String>) -> io::Result<Self> {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), server).await
    }

    /// The same at an address of the test's own.
    ///
    /// # Errors
    /// It cannot be bound.
    pub async fn at(address: SocketAddr, server: impl Into<String>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let lines = Lines {
            now: Some(Line::new(&stop)),
            orphaned: Vec::new(),
        };
        let shared = Arc::new(Shared {
            servers: Mutex::new(VecDeque::from([server.into()])),
            recording: Mutex::new(None),
            lines: Mutex::new(lines),
            stop: stop.clone(),
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

    /// Writes down what is said over the connections that are made from now on, as it arrives here: what is held back too.
    pub fn record(&self) -> Recording {
        let recording = Recording::default();
        *self.shared.recording.lock() = Some(recording.clone());
        recording
    }

    /// Holds back what arrives from now on, in both directions. Connections stay, and new ones are made.
    pub fn hold(&self) {
        self.shared.lines.lock().hold(|held| {
            (held.to_server, held.to_client) = (true, true);
        });
    }

    /// Holds back what arrives from now on in one direction; what goes in the other one passes.
    pub fn hold_one(&self, direction: Direction) {
        self.shared.lines.lock().hold(|held| match direction {
            Direction::ToServer => held.to_server = true,
            Direction::ToClient => held.to_client = true,
        });
    }

    /// Lets each piece that arrives from now on wait for a while, by chance and at most for so long. A connection's bytes keep
    /// their order; those of one connection may pass those of another.
    pub fn delay(&self, most: Duration) {
        self.shared.lines.lock().hold(|held| held.delay = most);
    }

    /// Ends every connection at once, loses what was held, and refuses new ones.
    pub fn cut(&self) {
        self.shared.lines.lock().cut();
    }

    /// Ends the clients' side of every connection and leaves the servers' side open, as when a client's machine is gone. What
    /// clients had sent and was held stays held: it arrives when this is healed, whatever came over new connections, which
    /// are made, and pass. The server's side stays until it closes it, or all is cut.
    pub fn orphan(&self) {
        self.shared.lines.lock().orphan(&self.shared.stop);
    }

    /// Lets everything pass again: what was held goes on, what was cut can be dialled anew.
    pub fn heal(&self) {
        self.shared.lines.lock().heal(&self.shared.stop);
    }
}

// === impl Recording ===

impl Recording {
    /// What was said until now, over one connection after the other in the order in which they were made.
    pub fn said(&self) -> Vec<Said> {
        self.0.lock().clone()
    }
}

// === impl Minutes ===

impl Minutes {
    fn take(&self, direction: Direction, piece: &[u8]) {
        let Some((recording, connection)) = &self.0 else {
            return;
        };
        let said = &mut recording.0.lock()[*connection];
        match direction {
            Direction::ToServer => said.to_server.extend_from_slice(piece),
            Direction::ToClient => said.to_client.extend_from_slice(piece),
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Where what is said over the next connection is written down.
    fn minutes(&self) -> Minutes {
        let recording = self.recording.lock().clone();
        Minutes(recording.map(|recording| {
            let mut said = recording.0.lock();
            said.push(Said::default());
            let connection = said.len() - 1;
            drop(said);
            (recording, connection)
        }))
    }

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

// === impl Lines ===

impl Lines {
    fn hold(&self, change: impl FnOnce(&mut Held)) {
        if let Some(line) = &self.now {
            line.held.send_modify(change);
        }
    }

    fn cut(&mut self) {
        for line in self.now.take().into_iter().chain(self.orphaned.drain(..)) {
            line.cut.cancel();
        }
    }

    fn orphan(&mut self, stop: &CancellationToken) {
        if let Some(line) = self.now.replace(Line::new(stop)) {
            line.orphan.cancel();
            self.orphaned.push(line);
        }
    }

    fn heal(&mut self, stop: &CancellationToken) {
        let now = self.now.get_or_insert_with(|| Line::new(stop));
        for line in self.orphaned.iter().chain([&*now]) {
            line.held.send_replace(Held::default());
        }
    }
}

// === impl Line ===

impl Line {
    fn new(stop: &CancellationToken) -> Self {
        Self {
            held: watch::Sender::default(),
            cut: stop.child_token(),
            orphan: CancellationToken::new(),
        }
    }

    /// Waits until something may pass in a direction.
    async fn passes(&self, direction: Direction) {
        let passes = |held: &Held| match direction {
            Direction::ToServer => !held.to_server,
            Direction::ToClient => !held.to_client,
        };
        let mut held = self.held.subscribe();
        // The line has the other end.
        let most = held.wait_for(passes).await.map_or(Duration::ZERO, |held| held.delay);
        if !most.is_zero() {
            pause(most.mul_f64(fastrand::f64())).await;
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let Some(line) = shared.lines.lock().now.clone() else {
            continue;
        };
        let Some(server) = shared.next() else {
            continue;
        };
        let (cut, minutes) = (line.cut.clone(), shared.minutes());
        let passing = async move { pass(client, &server, &line, &minutes).await };
        shared.tasks.spawn(cut.run_until_cancelled_owned(passing));
    }
}

/// Carries one connection until either side ends it.
async fn pass(client: TcpStream, server: &str, line: &Line, minutes: &Minutes) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        done = ask(from_client, to_server, line, minutes) => done,
        done = answer(from_server, to_client, line, minutes) => done,
    }
}

/// Carries what the client sends. Without the client it writes what it has, and stays.
async fn ask(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: &Line, minutes: &Minutes) -> io::Result<()> {
    let (sender, mut pieces) = mpsc::channel::<Vec<u8>>(1);
    let reading = async {
        let reading = async move {
            loop {
                let mut piece = Vec::with_capacity(BUFFER);
                let count = from.read_buf(&mut piece).await?;
                minutes.take(Direction::ToServer, &piece);
                if count == 0 || sender.send(piece).await.is_err() {
                    return io::Result::Ok(());
                }
            }
        };
        line.orphan.run_until_cancelled(reading).await.transpose()
    };
    let writing = async {
        while let Some(piece) = pieces.recv().await {
            line.passes(Direction::ToServer).await;
            to.write_all(&piece).await?;
        }
        line.passes(Direction::ToServer).await;
        Ok(())
    };
    let (read, ()) = tokio::try_join!(reading, writing)?;
    match read {
        Some(()) => Ok(()),
        None => std::future::pending().await,
    }
}

/// Carries what the server sends. Without the client nothing more of it is read.
async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: &Line, minutes: &Minutes) -> io::Result<()> {
    let reading = &mut from;
    let carrying = async move {
        loop {
            let mut piece = Vec::with_capacity(BUFFER);
            let count = reading.read_buf(&mut piece).await?;
            minutes.take(Direction::ToClient, &piece);
            line.passes(Direction::ToClient).await;
            if count == 0 {
                return Ok(());
            }
            to.write_all(&piece).await?;
        }
    };
    match line.orphan.run_until_cancelled(carrying).await {
        Some(done) => done,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::{until, within};

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

    #[tokio::test]
    async fn one_direction_is_held_and_the_other_one_passes() {
        let (proxy, _server, mut client, mut end) = connected().await;
        proxy.hold_one(Direction::ToClient);
        client.write_u8(7).await.expect("written");
        assert_eq!(byte(&mut end).await, Some(7));
        end.write_u8(8).await.expect("written");
        timeout(Duration::from_millis(50), client.read_u8())
            .await
            .expect_err("it is held");

        proxy.heal();

        assert_eq!(byte(&mut client).await, Some(8));
    }

    #[tokio::test]
    async fn what_is_said_is_written_down_before_it_passes_and_by_connection() {
        let (proxy, server, mut before, _end) = connected().await;
        let recording = proxy.record();
        proxy.hold_one(Direction::ToServer);
        let mut client = TcpStream::connect(proxy.address()).await.expect("it listens");
        let (mut end, _) = within("the server is dialled", server.accept())
            .await
            .expect("accepted");

        before.write_u8(6).await.expect("written");
        client.write_u8(7).await.expect("written");
        end.write_u8(8).await.expect("written");

        assert_eq!(byte(&mut client).await, Some(8));
        until("both have said something", || {
            let said = recording.said();
            let bytes: Vec<_> = said
                .iter()
                .map(|one| (&one.to_server[..], &one.to_client[..]))
                .collect();
            let done = bytes == [(&[7][..], &[8][..])];
            ready(if done { Ok(()) } else { Err(format!("{said:?}")) })
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_delayed_arrives_in_order() {
        let (proxy, _server, mut client, mut end) = connected().await;
        proxy.delay(Duration::from_millis(20));

        for number in 0..10 {
            client.write_u8(number).await.expect("written");
            assert_eq!(byte(&mut end).await, Some(number));
        }
    }

    #[tokio::test]
    async fn a_client_that_is_gone_leaves_its_server_open_and_what_it_had_sent_arrives_later() {
        let (proxy, server, mut client, mut end) = connected().await;
        proxy.hold();
        client.write_u8(7).await.expect("written");
        let read = timeout(Duration::from_millis(50), end.read_u8());
        read.await.expect_err("it is held");

        proxy.orphan();

        assert_eq!(byte(&mut client).await, None);
        let mut again = TcpStream::connect(proxy.address()).await.expect("it listens");
        let (mut new_end, _) = within("the server is dialled", server.accept())
            .await
            .expect("accepted");
        again.write_u8(8).await.expect("written");
        assert_eq!(byte(&mut new_end).await, Some(8));
        proxy.heal();
        assert_eq!(byte(&mut end).await, Some(7));
        timeout(Duration::from_millis(50), end.read_u8())
            .await
            .expect_err("its side is open");
        proxy.cut();
        assert_eq!((byte(&mut end).await, byte(&mut new_end).await), (None, None));
    }
}
