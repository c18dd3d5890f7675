//! Two sides, and between them two carriers that lose, return and break, and take over from each other. Whatever
//! happens, what is delivered is in order and delivered once, and a hole is reported.

use std::collections::VecDeque;

use alkhub_budget::{Budget, Budgets};
use alkhub_config::BudgetConfig;
use alkhub_protocol::HubId;
use bytes::Bytes;
use prometheus::Registry;
use tokio::time::{Duration, Instant};

use super::message::{Header, Kind};
use super::peer::{Epochs, Peer};
use super::window::Class;
use crate::carrier::NotSent;

/// What one side has seen.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Payload(u64),
    Broke,
}

/// A hub with its side of the conduit, and what is on its way to it.
struct Side {
    name: HubId,
    peer: Peer,
    seen: Vec<Seen>,
    /// What this side has sent since its last break, in order, and what of it was returned because nobody received it.
    sent: Vec<u64>,
    returned: Vec<u64>,
    inbox: VecDeque<Bytes>,
    listens: bool,
    /// The link from pod to pod that this side sends over; it may have ended.
    link: Option<u32>,
    from_link: VecDeque<Bytes>,
}

/// Both hubs, and the carriers between them.
struct Pair {
    sides: [Side; 2],
    /// The budget that both are charged to.
    budget: Budget,
    now: Instant,
    random: fastrand::Rng,
    next: u64,
    carries: bool,
    /// The link that is up.
    link: Option<u32>,
    links: u32,
}

impl Side {
    fn new(name: &str, budget: &Budget, now: Instant) -> Self {
        Self {
            name: name.parse().expect("a hub's id"),
            peer: Peer::new(&Epochs::new(0), budget.clone(), now),
            seen: Vec::new(),
            sent: Vec::new(),
            returned: Vec::new(),
            inbox: VecDeque::new(),
            listens: true,
            link: None,
            from_link: VecDeque::new(),
        }
    }

    /// Notes a break, with the calls that came back because no carrier had taken them.
    fn broke(&mut self, unsent: &[Bytes]) {
        self.seen.push(Seen::Broke);
        self.sent.clear();
        self.returned.extend(unsent.iter().map(number));
    }
}

impl Pair {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let budgets = Budgets::new(&BudgetConfig::default(), &Registry::new()).expect("a fresh registry");
        let budget = budgets.own();
        Self {
            sides: [Side::new("hub-a", &budget, now), Side::new("hub-b", &budget, now)],
            budget,
            now,
            random: fastrand::Rng::with_seed(seed),
            next: 0,
            carries: true,
            link: None,
            links: 0,
        }
    }

    /// Hands a message to the carrier; false if the carrier does not accept it.
    fn carry(&mut self, from: usize, message: &Bytes) -> bool {
        let to = 1 - from;
        if let Some(link) = self.sides[from].link {
            // What goes over a link that has ended is lost.
            if self.link == Some(link) {
                self.sides[to].from_link.push_back(message.clone());
            }
            return true;
        }
        if !self.carries {
            return false;
        }
        if self.sides[to].listens {
            self.sides[to].inbox.push_back(message.clone());
            return true;
        }
        let (_, header, _) = Header::decode(message).expect("a message of this test");
        if header.kind == Kind::Data
            && let Some(payload) = self.sides[from].peer.withdraw(&header)
        {
            let payload = number(&payload);
            self.sides[from].sent.retain(|sent| *sent != payload);
            self.sides[from].returned.push(payload);
        }
        true
    }

    fn send(&mut self, from: usize, class: Class) {
        let (now, number) = (self.now, self.next);
        self.next += 1;
        let side = &mut self.sides[from];
        let Ok(header) = side.peer.next(class, 8) else { return };
        let (message, payload) = header.encode(&side.name, &[&number.to_be_bytes()]);
        side.sent.push(number);
        if side.peer.pushed(class, payload, now) && !self.carry(from, &message) {
            let peer = &mut self.sides[from].peer;
            peer.not_taken(header.sequence, NotSent::Unreachable, now);
        }
    }

    fn send_control(&mut self, from: usize, header: Header) {
        let (message, _) = header.encode(&self.sides[from].name, &[]);
        self.carry(from, &message);
    }

    fn read(&mut self, at: usize) {
        let now = self.now;
        let side = &mut self.sides[at];
        let comes_by_link = side.inbox.is_empty() || self.random.bool();
        let by_link = if comes_by_link {
            side.from_link.pop_front()
        } else {
            None
        };
        let Some(message) = by_link.or_else(|| side.inbox.pop_front()) else {
            return;
        };
        let (_, header, payload) = Header::decode(&message).expect("a message of this test");
        let received = side.peer.receive(&header, payload, now);
        if received.broke {
            side.broke(&received.unsent);
        }
        side.seen
            .extend(received.payload.map(|payload| Seen::Payload(number(&payload))));
        if let Some(answer) = received.answer {
            self.send_control(at, answer);
        }
    }

    fn tick(&mut self, at: usize) {
        let now = self.now;
        let is_reached = self.carries || self.sides[at].link.is_some();
        if is_reached && self.sides[at].peer.window().is_ignored(now) {
            let unsent = self.sides[at].peer.give_up(now);
            self.sides[at].broke(&unsent);
        }
        if let Some(header) = self.sides[at].peer.due(now) {
            self.send_control(at, header);
        }
        while let Some((place, kind, payload)) = self.sides[at].peer.window().take_due(now) {
            let header = self.sides[at].peer.header(kind, place);
            let (message, _) = header.encode(&self.sides[at].name, &[&payload]);
            if !self.carry(at, &message) {
                self.sides[at].peer.not_taken(place, NotSent::Unreachable, now);
                break;
            }
        }
    }

    fn resume(&mut self) {
        self.carries = true;
        for at in [0, 1] {
            if self.sides[at].link.is_none() {
                self.resume_at(at);
            }
        }
    }

    fn resume_at(&mut self, at: usize) {
        let header = self.sides[at].peer.resume(self.now);
        self.send_control(at, header);
    }

    /// Makes a new link, replacing one that is up.
    fn make_link(&mut self) {
        self.break_link();
        self.links += 1;
        self.link = Some(self.links);
    }

    /// Ends the link; some of what is on its way still arrives.
    fn break_link(&mut self) {
        self.link = None;
        for at in [0, 1] {
            let kept = self.random.usize(..=self.sides[at].from_link.len());
            self.sides[at].from_link.truncate(kept);
        }
    }

    /// Lets one side notice which link there is.
    fn notice_link(&mut self, at: usize) {
        if self.sides[at].link != self.link {
            self.sides[at].link = self.link;
            self.resume_at(at);
        }
    }

    fn step(&mut self) {
        let at = self.random.usize(..2);
        match self.random.u32(..108) {
            0..35 => {
                let class = [Class::Call, Class::Item, Class::End, Class::Control][self.random.usize(..4)];
                self.send(at, class);
            }
            35..80 => self.read(at),
            80..90 => {
                self.now += Duration::from_millis(self.random.u64(..400));
                self.tick(at);
            }
            // What is on its way to a hub is lost together with its subscription.
            90..92 => {
                self.sides[at].listens = false;
                let kept = self.random.usize(..=self.sides[at].inbox.len());
                self.sides[at].inbox.truncate(kept);
            }
            92..95 => {
                self.sides[at].listens = true;
                let header = self.sides[at].peer.missed();
                self.send_control(at, header);
            }
            95..96 => self.carries = false,
            96..99 => self.resume(),
            99..101 => self.make_link(),
            101..102 => self.break_link(),
            102..107 => self.notice_link(at),
            _ => {
                let unsent = self.sides[at].peer.forget(self.now);
                self.sides[at].broke(&unsent);
            }
        }
    }

    /// Repairs everything, and lets time pass until nothing is under way.
    fn settle(&mut self) {
        for side in &mut self.sides {
            side.listens = true;
        }
        [0, 1].into_iter().for_each(|at| self.notice_link(at));
        self.resume();
        for _ in 0..10_000 {
            for at in [0, 1] {
                while !(self.sides[at].inbox.is_empty() && self.sides[at].from_link.is_empty()) {
                    self.read(at);
                }
                self.tick(at);
            }
            let is_settled = |side: &Side| side.inbox.is_empty() && side.from_link.is_empty() && side.peer.is_idle();
            if self.sides.iter().all(is_settled) {
                return;
            }
            self.now += Duration::from_millis(50);
        }
        panic!("it never settles");
    }
}

fn number(payload: &Bytes) -> u64 {
    u64::from_be_bytes(payload[..].try_into().expect("eight bytes"))
}

fn payloads(seen: &[Seen]) -> impl Iterator<Item = u64> {
    seen.iter().filter_map(|seen| match seen {
        Seen::Payload(number) => Some(*number),
        Seen::Broke => None,
    })
}

fn check(pair: &Pair, seed: u64) {
    for at in [0, 1] {
        let (sender, receiver) = (&pair.sides[1 - at], &pair.sides[at]);
        let all: Vec<u64> = payloads(&receiver.seen).collect();
        assert!(
            all.is_sorted_by(|a, b| a < b),
            "seed {seed}: twice, or out of order: {all:?}"
        );
        for returned in &sender.returned {
            assert!(!all.contains(returned), "seed {seed}: {returned} came back and arrived");
        }
        // What the sender still relies on has arrived, and the receiver relies on it too.
        let last_break = receiver.seen.iter().rposition(|seen| *seen == Seen::Broke);
        let relied_on: Vec<u64> = payloads(&receiver.seen[last_break.map_or(0, |at| at + 1)..]).collect();
        let missing: Vec<&u64> = sender.sent.iter().filter(|sent| !relied_on.contains(sent)).collect();
        assert!(
            missing.is_empty(),
            "seed {seed}: {missing:?} lost without a break at the sender"
        );
    }
}

#[test]
fn whatever_the_carriers_do_each_message_arrives_once_in_order_or_its_sender_sees_a_break() {
    for seed in 0..2_000 {
        let mut pair = Pair::new(seed);
        for _ in 0..400 {
            pair.step();
        }
        pair.settle();
        check(&pair, seed);
        assert_eq!(pair.budget.used(), 0, "seed {seed}");
    }
}

/// Nobody has received them, so they can go elsewhere.
#[test]
fn calls_that_no_carrier_has_taken_come_back_with_the_break() {
    let breaks: [fn(&mut Pair); 2] = [
        |pair: &mut Pair| {
            let unsent = pair.sides[0].peer.forget(pair.now);
            pair.sides[0].broke(&unsent);
        },
        |pair: &mut Pair| {
            let unsent = pair.sides[1].peer.forget(pair.now);
            pair.sides[1].broke(&unsent);
            let hello = pair.sides[1].peer.hello();
            pair.carries = true;
            pair.send_control(1, hello);
            pair.read(0);
        },
    ];
    for breaks in breaks {
        let mut pair = Pair::new(1);
        pair.send(0, Class::Call);
        pair.send(1, Class::Call);
        pair.read(0);
        pair.carries = false;
        for class in [Class::Call, Class::End, Class::Call] {
            pair.send(0, class);
        }
        assert!(pair.sides[0].returned.is_empty());

        breaks(&mut pair);

        assert_eq!(pair.sides[0].returned, [2, 4]);
        assert_eq!(pair.sides[0].seen.last(), Some(&Seen::Broke));
        pair.settle();
        check(&pair, 1);
    }
}

/// A break is never one-sided: whoever relied on what the other had received learns that it is lost.
#[test]
fn a_side_that_forgot_the_other_is_seen_to_have_broken_by_it() {
    for first in [0, 1] {
        let mut pair = Pair::new(1);
        for at in [0, 1] {
            pair.send(at, Class::Call);
        }
        pair.settle();
        let unsent = pair.sides[first].peer.forget(pair.now);
        pair.sides[first].broke(&unsent);

        let hello = pair.sides[first].peer.missed();
        pair.send_control(first, hello);
        pair.settle();

        assert_eq!(pair.sides[1 - first].seen.last(), Some(&Seen::Broke));
        for at in [0, 1] {
            pair.send(at, Class::Call);
        }
        pair.settle();
        check(&pair, 1);
        let breaks = |side: &Side| side.seen.iter().filter(|seen| **seen == Seen::Broke).count();
        assert_eq!([breaks(&pair.sides[0]), breaks(&pair.sides[1])], [1, 1]);
    }
}

#[test]
fn what_a_link_loses_is_sent_again_by_redis_and_what_redis_loses_by_the_next_link() {
    let mut pair = Pair::new(1);
    pair.make_link();
    [0, 1].into_iter().for_each(|at| pair.notice_link(at));
    pair.send(0, Class::Call);
    pair.sides[1].from_link.clear();
    pair.break_link();
    [0, 1].into_iter().for_each(|at| pair.notice_link(at));
    pair.tick(0);
    assert_eq!(
        pair.sides[1].inbox.len(),
        2,
        "the call, and what asks for what came by the link"
    );
    pair.sides[1].inbox.clear();
    pair.carries = false;

    pair.make_link();
    [0, 1].into_iter().for_each(|at| pair.notice_link(at));
    pair.tick(0);
    pair.read(1);
    pair.read(1);

    assert_eq!(pair.sides[1].seen, [Seen::Payload(0)]);
    check(&pair, 1);
}

#[test]
fn what_rides_on_answers_needs_no_message_of_its_own() {
    let mut pair = Pair::new(1);
    for round in 0..1_000 {
        for at in [0, 1] {
            pair.send(at, Class::Call);
            pair.read(1 - at);
            assert!(pair.sides[at].inbox.is_empty(), "round {round}");
        }
        pair.tick(0);
        pair.tick(1);
    }

    assert!(pair.sides.iter_mut().all(|side| side.peer.window().bytes() <= 8));
}

#[test]
fn a_lone_message_is_acknowledged_by_one_and_then_nothing_is_under_way() {
    let mut pair = Pair::new(1);
    pair.send(0, Class::Call);
    pair.read(1);
    assert!(!pair.sides[0].peer.is_idle());

    pair.now += Duration::from_millis(100);
    pair.tick(1);
    pair.read(0);

    assert!(
        pair.sides
            .iter()
            .all(|side| side.peer.is_idle() && side.inbox.is_empty())
    );
}
