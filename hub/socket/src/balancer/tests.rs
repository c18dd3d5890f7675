//! Hubs that look at each other once a second, with a clock that moves only when told to.

use alkhub_balance::Member;
use alkhub_calls::Caller;
use alkhub_edge::open::Closing;
use alkhub_protocol::admin::{BALANCE_FACTOR, BALANCE_SLACK, REBALANCE_SECONDS};
use tokio::time::advance;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

const AT_REST: Stance = Stance {
    balances: false,
    draining: false,
};

const BALANCING: Stance = Stance {
    balances: true,
    ..AT_REST
};

/// A WebSocket that notes what it is told.
#[derive(Debug)]
struct FakeSocket {
    migrates: bool,
    since: Duration,
    requests: Mutex<Vec<Request>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Request {
    Leave,
    Stay,
    Move(Option<String>),
}

/// One hub with its WebSockets.
struct FakeHub {
    balancer: Balancer,
    sockets: Vec<Arc<FakeSocket>>,
}

/// Hubs that read, once a second, what all of them had a second before.
struct FakeCluster {
    hubs: Vec<FakeHub>,
    published: Vec<u32>,
}

// === impl FakeSocket ===

impl Closeable for FakeSocket {
    fn recheck(&self, _: &Arc<Caller>) {}

    fn drain(&self) {}

    fn close(&self, _: Closing) {}

    fn kill(&self) {}

    fn ask_to_move(&self, target: Option<&str>) -> bool {
        self.requests.lock().push(Request::Move(target.map(str::to_owned)));
        self.migrates
    }

    fn leaver(&self) -> Option<Leaver> {
        self.requests.lock().is_empty().then(|| Leaver {
            migrates: self.migrates,
            in_flight: 0,
            since: self.since,
            moved: None,
            session: "s".into(),
        })
    }

    fn let_go(&self) {
        self.requests.lock().push(Request::Leave);
    }

    fn let_stay(&self) {
        self.requests.lock().push(Request::Stay);
    }
}

// === impl FakeHub ===

impl FakeHub {
    fn new() -> Self {
        Self {
            balancer: Balancer::new(&Registry::new()).expect("a fresh registry"),
            sockets: Vec::new(),
        }
    }

    fn connect(&mut self, migrates: bool) {
        self.sockets.push(Arc::new(FakeSocket {
            migrates,
            since: self.balancer.now(),
            requests: Mutex::default(),
        }));
    }

    fn look(&self, membership: &Membership, stance: Stance) {
        let all = || {
            self.sockets
                .iter()
                .map(|socket| socket.clone() as Arc<dyn Closeable>)
                .collect()
        };
        let open = OpenSockets {
            count: self.sockets.len(),
            all: &all,
        };
        self.balancer.look(&open, membership, stance, |_| None);
    }

    /// What its sockets were told.
    fn requests(&self) -> Vec<Request> {
        self.sockets
            .iter()
            .flat_map(|socket| socket.requests.lock().clone())
            .collect()
    }
}

// === impl FakeCluster ===

impl FakeCluster {
    fn new(hubs: usize) -> Self {
        Self {
            hubs: (0..hubs).map(|_| FakeHub::new()).collect(),
            published: vec![0; hubs],
        }
    }

    /// A second passes, and every hub looks.
    async fn look(&mut self) {
        advance(SECOND).await;
        for (own, hub) in self.hubs.iter().enumerate() {
            let membership = membership(hub, own, &self.published);
            hub.look(&membership, BALANCING);
        }
        let counts = self.hubs.iter().map(|hub| hub.sockets.len());
        self.published = counts.map(|count| u32::try_from(count).expect("few")).collect();
    }

    fn requests(&self) -> Vec<Request> {
        self.hubs.iter().flat_map(FakeHub::requests).collect()
    }
}

fn id(hub: usize) -> Arc<str> {
    format!("hub-{hub}").into()
}

fn member((hub, connections): (usize, &u32)) -> Member {
    Member {
        pod: id(hub),
        revision: 0,
        draining: false,
        connections: *connections,
        weight: 1,
    }
}

/// What a hub knows if each has published that it has so many connections.
fn membership(hub: &FakeHub, own: usize, connections: &[u32]) -> Membership {
    Membership {
        own: id(own),
        members: connections.iter().enumerate().map(member).collect(),
        doubtful: Vec::new(),
        read_at: hub.balancer.now(),
        wanted: None,
        rebalance: None,
    }
}

#[test]
fn others_know_what_a_pod_may_hold() {
    let rule = Rule::default();
    assert!((rule.factor - BALANCE_FACTOR).abs() < f64::EPSILON);
    assert_eq!(rule.slack, BALANCE_SLACK);
    assert_eq!(rule.rebalance.as_secs(), REBALANCE_SECONDS);
}

#[test]
fn a_hub_that_drains_no_more_is_open_at_once_where_nothing_is_balanced() {
    let hub = FakeHub::new();
    let membership = membership(&hub, 0, &[1, 1]);

    hub.look(
        &membership,
        Stance {
            draining: true,
            ..AT_REST
        },
    );
    assert!(hub.balancer.admit(1).is_err());
    hub.look(&membership, AT_REST);

    assert!(hub.balancer.admit(1).is_ok());
}

#[test]
fn who_was_let_go_is_told_once_to_stay_when_the_hub_drains_no_more() {
    let mut hub = FakeHub::new();
    hub.connect(false);
    let membership = membership(&hub, 0, &[1, 1]);
    let draining = Stance {
        draining: true,
        ..AT_REST
    };
    hub.look(&membership, AT_REST);
    hub.sockets[0].let_go();

    hub.look(&membership, draining);
    assert!(!hub.requests().contains(&Request::Stay));
    hub.look(&membership, AT_REST);
    hub.look(&membership, AT_REST);

    let told = hub.requests();
    let stays = told.iter().filter(|request| **request == Request::Stay);
    assert_eq!(stays.count(), 1, "{told:?}");
}

/// In the worst cases: all of them on one hub, or all coming back to it one after the other.
#[tokio::test(start_paused = true)]
async fn five_spokes_on_three_hubs_are_told_nothing_for_an_hour_and_refused_nowhere() {
    let mut cluster = FakeCluster::new(3);
    for spoke in 0..5 {
        cluster.hubs[0].connect(spoke % 2 == 0);
    }
    for second in 0..3_600 {
        cluster.look().await;
        if second % 60 == 59 {
            // One of them moves from hub to hub, and back.
            let (from, to) = (second / 60 % 3, (second / 60 + 1) % 3);
            assert!(cluster.hubs[to].balancer.admit(7).is_ok());
            if let Some(socket) = cluster.hubs[from].sockets.pop() {
                cluster.hubs[to].sockets.push(socket);
            }
        }
    }

    assert!(cluster.requests().is_empty(), "{:?}", cluster.requests());
    let sockets = cluster.hubs.iter().map(|hub| hub.sockets.len());
    assert_eq!(sockets.sum::<usize>(), 5);
}

#[tokio::test(start_paused = true)]
async fn who_is_to_move_is_told_where_the_hub_is_that_should_have_it() {
    let mut cluster = FakeCluster::new(2);
    (0..100).for_each(|_| cluster.hubs[0].connect(true));
    let urls = |hub: &str| HashMap::from([(Arc::from("hub-1"), format!("http://{hub}:7420"))]);
    cluster.hubs[0].balancer.hubs_are_at(urls("10.0.0.7"));

    for _ in 0..60 {
        cluster.look().await;
    }

    let requests = cluster.requests();
    assert!(!requests.is_empty(), "50 too many on the first hub");
    let there = Request::Move(Some("http://10.0.0.7:7420".to_owned()));
    assert!(requests.iter().all(|request| *request == there), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn who_goes_because_its_hub_ends_is_told_a_hub_that_takes_it_while_that_is_known() {
    let mut cluster = FakeCluster::new(3);
    let urls = [1, 2].map(|hub| (id(hub), format!("http://10.0.0.{hub}:7420")));
    cluster.hubs[0].balancer.hubs_are_at(HashMap::from(urls));
    assert_eq!(cluster.hubs[0].balancer.refuge(None), None, "nothing was looked at");
    (0..9).for_each(|_| cluster.hubs[0].connect(true));
    (0..9).for_each(|_| cluster.hubs[2].connect(true));
    cluster.look().await;
    cluster.look().await;

    // With those that go the others should have nine each: the third has them already.
    let refuge = || cluster.hubs[0].balancer.refuge(None);
    assert_eq!(refuge().as_deref(), Some("http://10.0.0.1:7420"));
    advance(4 * SECOND).await;
    assert_eq!(refuge(), None, "that is too long ago");
}
