//! Links over real sockets, with a proxy between them that fails on demand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_peer::{NotCarried, PeerAddress, PeerConnector, PeerLinks, PeerReceiver, PeerSecret, PeerSetup};
use alkhub_protocol::HubId;
use alkhub_tasks::Supervisor;
use alkhub_test_support::{Direction, Host, Proxy, until, until_full, within};
use bytes::Bytes;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

/// Short, so that a silent link is given up soon.
const PING: Duration = Duration::from_millis(100);

/// One hub's links, and what they bring.
struct Hub {
    id: HubId,
    links: PeerLinks,
    address: PeerAddress,
    received: mpsc::Receiver<Bytes>,
    host: Host,
}

/// Passes on what comes; running out of room means that the test does not read, and fails it.
#[derive(Debug)]
struct Receiver(mpsc::Sender<Bytes>);

impl PeerReceiver for Receiver {
    fn received(&self, message: Bytes) {
        self.0.try_send(message).expect("the test reads");
    }

    fn is_full(&self) -> bool {
        self.0.capacity() < 32_768
    }

    fn link_changed(&self, _hub: &HubId) {}
}

#[derive(Default)]
struct Options {
    secret: u8,
    tls: bool,
    ping: Option<Duration>,
}

impl Hub {
    async fn start(name: &str) -> Self {
        Self::with(name, Options::default()).await
    }

    async fn with(name: &str, options: Options) -> Self {
        let host = Host::default();
        let id: HubId = name.parse().expect("a hub's id");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = PeerAddress {
            address: listener.local_addr().expect("bound"),
            tls: options.tls,
        };
        let setup = PeerSetup {
            listener,
            address,
            secret: PeerSecret::new([options.secret; 32]),
            tls: options.tls.then(tls),
            ping_interval: options.ping.unwrap_or(PING),
        };
        let supervisor = Supervisor::new(host.tasks.clone(), host.stop.clone());
        let connector = PeerConnector::new(&id, setup, &supervisor, &host.registry).expect("fresh metrics");
        let (sender, received) = mpsc::channel(65_536);
        let (links, receiver): (_, Arc<dyn PeerReceiver>) = (connector.links(), Arc::new(Receiver(sender)));
        connector.start(&receiver);
        Self {
            id,
            links,
            address,
            received,
            host,
        }
    }

    /// Tells it where another hub is.
    fn knows(&self, other: &Self, at: PeerAddress) {
        self.links.others_are(BTreeMap::from([(other.id.clone(), at)]));
    }

    fn send(&self, to: &Self, text: &str) -> Result<(), NotCarried> {
        self.links.send(&to.id, Bytes::copy_from_slice(text.as_bytes()))
    }

    async fn receives(&mut self, text: &str) {
        let message = within("a message", self.received.recv()).await;
        assert_eq!(message.as_deref(), Some(text.as_bytes()));
    }

    fn metric(&self, name: &str) -> f64 {
        self.host.metric(name)
    }

    /// The value of a counter with one label.
    fn counted(&self, name: &str, label: &str) -> f64 {
        let families = self.host.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("a metric");
        let metrics = family.get_metric().iter();
        let of_label = metrics.filter(|metric| metric.get_label().iter().any(|pair| pair.value() == label));
        of_label.map(|metric| metric.get_counter().get_value()).sum()
    }
}

fn tls() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["hub.example".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider knows them")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("they belong together");
    TlsAcceptor::from(Arc::new(config))
}

async fn linked(hubs: &[&Hub], links: f64) {
    until("the links are as they shall be", || async {
        let seen: Vec<f64> = hubs.iter().map(|hub| hub.metric("alkhub_peer_links")).collect();
        if seen.iter().all(|up| *up == links) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
}

/// Two hubs, the first of which dials the other through a proxy.
async fn proxied() -> (Hub, Hub, Proxy) {
    let (a, b) = (Hub::start("a").await, Hub::start("b").await);
    let proxy = Proxy::start(b.address.address.to_string()).await.expect("a port");
    let at = PeerAddress {
        address: proxy.address(),
        tls: false,
    };
    a.knows(&b, at);
    b.knows(&a, a.address);
    linked(&[&a, &b], 1.0).await;
    (a, b, proxy)
}

#[tokio::test]
async fn two_hubs_have_one_link_and_messages_pass_both_ways_in_order() {
    let (mut a, mut b, _proxy) = proxied().await;
    let large = "x".repeat(1_000_000);

    for number in 0..1_000 {
        a.send(&b, &number.to_string()).expect("there is room");
        b.send(&a, &number.to_string()).expect("there is room");
    }
    a.send(&b, &large).expect("there is room");
    a.send(&b, "").expect("there is room");

    for number in 0..1_000 {
        b.receives(&number.to_string()).await;
        a.receives(&number.to_string()).await;
    }
    b.receives(&large).await;
    b.receives("").await;
    assert_eq!(a.metric("alkhub_peer_links_made_total"), 1.0);
    assert_eq!(b.counted("alkhub_peer_messages_total", "received"), 1_002.0);
    a.host.end().await;
    b.host.end().await;
}

#[tokio::test]
async fn a_hub_that_is_not_there_is_no_link() {
    let (a, b) = (Hub::start("a").await, Hub::start("b").await);

    assert_eq!(a.send(&b, "x"), Err(NotCarried::NoLink));
    assert!(!a.links.is_up(&b.id));
}

#[tokio::test]
async fn tls_is_spoken_where_the_hub_has_it() {
    let tls = || Options {
        tls: true,
        ..Options::default()
    };
    let (mut a, mut b) = (Hub::with("a", tls()).await, Hub::with("b", tls()).await);
    a.knows(&b, b.address);
    linked(&[&a, &b], 1.0).await;

    a.send(&b, "one").expect("there is room");
    b.send(&a, "two").expect("there is room");

    b.receives("one").await;
    a.receives("two").await;
}

#[tokio::test]
async fn who_has_another_secret_gets_no_link_and_both_count_it() {
    let a = Hub::start("a").await;
    let b = Hub::with(
        "b",
        Options {
            secret: 9,
            ..Options::default()
        },
    )
    .await;
    a.knows(&b, b.address);

    until("both count the refusal", || async {
        let counted = (
            a.counted("alkhub_peer_dial_failures_total", "refused"),
            b.counted("alkhub_peer_refused_total", "secret"),
        );
        if counted.0 > 1.0 && counted.1 > 1.0 {
            Ok(())
        } else {
            Err(format!("{counted:?}"))
        }
    })
    .await;

    assert_eq!(
        (a.metric("alkhub_peer_links"), b.metric("alkhub_peer_links")),
        (0.0, 0.0)
    );
    assert_eq!(a.send(&b, "x"), Err(NotCarried::NoLink));
}

#[tokio::test]
async fn a_stranger_learns_nothing_and_is_left_in_time() {
    let b = Hub::start("b").await;
    let mut stranger = TcpStream::connect(b.address.address).await.expect("it listens");
    stranger
        .write_all(b"GET /metrics HTTP/1.1\r\n\r\n")
        .await
        .expect("open");
    let mut answer = String::new();
    within("the end", stranger.read_to_string(&mut answer))
        .await
        .expect("text");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");

    let mut silent = TcpStream::connect(b.address.address).await.expect("it listens");
    let mut nothing = Vec::new();
    within("the end", silent.read_to_end(&mut nothing)).await.expect("open");

    assert!(nothing.is_empty());
    assert_eq!(b.counted("alkhub_peer_refused_total", "foreign"), 1.0);
    assert_eq!(b.counted("alkhub_peer_refused_total", "late"), 1.0);
}

#[tokio::test]
async fn a_link_that_is_cut_is_made_anew() {
    let (mut a, mut b, proxy) = proxied().await;

    proxy.cut();
    linked(&[&a, &b], 0.0).await;
    proxy.heal();
    linked(&[&a, &b], 1.0).await;

    a.send(&b, "one").expect("there is room");
    b.send(&a, "two").expect("there is room");
    b.receives("one").await;
    a.receives("two").await;
    assert_eq!(a.metric("alkhub_peer_links_made_total"), 2.0);
}

#[tokio::test]
async fn a_link_on_which_nothing_comes_is_given_up_by_both_ends() {
    let (a, b, proxy) = proxied().await;

    proxy.hold();

    linked(&[&a, &b], 0.0).await;
    assert_eq!(a.counted("alkhub_peer_links_lost_total", "silent"), 1.0);
    assert_eq!(b.counted("alkhub_peer_links_lost_total", "silent"), 1.0);
}

#[tokio::test]
async fn an_idle_link_stays() {
    let (a, b, _proxy) = proxied().await;

    until("much more than three pings have passed", || async {
        let bytes = a.counted("alkhub_peer_bytes_total", "received");
        // A ping from a server has 2 bytes, and so has its pong.
        if bytes >= 40.0 { Ok(()) } else { Err(bytes) }
    })
    .await;

    assert_eq!(a.metric("alkhub_peer_links_made_total"), 1.0);
    assert_eq!(b.metric("alkhub_peer_links_lost_total"), 0.0);
}

#[tokio::test]
async fn a_hub_that_takes_nothing_is_refused_more_and_holds_up_nobody_else() {
    let patient = || Options {
        ping: Some(Duration::from_secs(60)),
        ..Options::default()
    };
    let (a, b, mut c) = (
        Hub::with("a", patient()).await,
        Hub::with("b", patient()).await,
        Hub::with("c", patient()).await,
    );
    let proxy = Proxy::start(b.address.address.to_string()).await.expect("a port");
    let at_b = PeerAddress {
        address: proxy.address(),
        tls: false,
    };
    a.links
        .others_are(BTreeMap::from([(b.id.clone(), at_b), (c.id.clone(), c.address)]));
    linked(&[&a], 2.0).await;
    proxy.hold();

    let message = Bytes::from(vec![0; 64 * 1024]);
    until_full(NotCarried::Full, |_| a.links.send(&b.id, message.clone())).await;

    a.send(&c, "meanwhile").expect("there is room");
    c.receives("meanwhile").await;
}

/// A large message that is stuck halfway holds up nothing in the other direction.
#[tokio::test]
async fn what_is_on_its_way_in_one_direction_stops_nothing_in_the_other_one() {
    let patient = || Options {
        ping: Some(Duration::from_secs(60)),
        ..Options::default()
    };
    let (mut a, mut b) = (Hub::with("a", patient()).await, Hub::with("b", patient()).await);
    let proxy = Proxy::start(b.address.address.to_string()).await.expect("a port");
    let at = PeerAddress {
        address: proxy.address(),
        tls: false,
    };
    a.knows(&b, at);
    linked(&[&a, &b], 1.0).await;
    proxy.hold_one(Direction::ToServer);
    let large = "x".repeat(1_000_000);
    a.send(&b, &large).expect("there is room");

    for number in 0..1_000 {
        b.send(&a, &number.to_string()).expect("there is room");
        a.receives(&number.to_string()).await;
    }

    assert!(b.received.try_recv().is_err(), "the large message is still on its way");
    proxy.heal();
    b.receives(&large).await;
}

#[tokio::test]
async fn a_hub_that_ends_says_so_and_writes_first_what_waits() {
    let (a, mut b, _proxy) = proxied().await;
    a.send(&b, "last").expect("there is room");

    a.host.end().await;

    b.receives("last").await;
    linked(&[&b], 0.0).await;
    assert_eq!(b.counted("alkhub_peer_links_lost_total", "closed"), 1.0);
}

#[tokio::test]
async fn a_hub_that_comes_again_takes_the_place_of_its_half_open_link() {
    let b = Hub::with(
        "b",
        Options {
            ping: Some(Duration::from_secs(60)),
            ..Options::default()
        },
    )
    .await;
    let proxy = Proxy::start(b.address.address.to_string()).await.expect("a port");
    let first = Hub::start("a").await;
    first.knows(
        &b,
        PeerAddress {
            address: proxy.address(),
            tls: false,
        },
    );
    linked(&[&b], 1.0).await;
    // The connection falls silent without an error.
    proxy.hold();
    let second = Hub::start("a").await;
    second.knows(&b, b.address);
    linked(&[&second], 1.0).await;

    until("the first one is dropped", || async {
        let dropped = b.counted("alkhub_peer_links_lost_total", "dropped");
        if dropped == 1.0 { Ok(()) } else { Err(dropped) }
    })
    .await;
    let mut second = second;
    b.send(&second, "to the second").expect("there is a link");

    second.receives("to the second").await;
}
