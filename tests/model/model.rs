//! What users are promised: a small state with which everything seen from outside the hubs is compared.
//!
//! It knows the connections of spokes, the calls, and for each hub whether the hub and its links are whole. It knows
//! nothing about how hubs work.
//!
//! Promises
//! - A call reaches a spoke at most once, and what `delivered` says about it is true. A query may reach a second spoke
//!   once the first one may be lost.
//! - It ends once at its caller, with what its own spoke said about it, or with an error that some trouble explains. It
//!   ends promptly after its deadline, or after its caller gave it up; and never before its spoke answered, or before
//!   its deadline.
//! - While nothing was cut, killed or registered again, there is no trouble: a call that finds a provider is answered,
//!   and one that finds none is told so.
//! - Items arrive in order and without a hole; a regular end, or an end caused by the spoke, comes after all of them.
//! - Whatever else ends a call at its caller also ends it at its spoke, with `call.aborted`.
//! - Of two registrations of an instance, the one with the higher fence counts: it gets the calls, and the connection
//!   of the other one is closed with 4409. A connection is closed for no other reason.

mod asked;
mod callers;
mod spokes;
#[cfg(test)]
mod tests;

use std::time::Duration;

use alkhub_protocol::Delivered;
use alkhub_tests::promise::{holds, holds_of_query};
use serde_json::Value;
use tokio::time::Instant;

use crate::steps::{HUBS, Kind, Reply, SPOKES};

/// The code with which a spoke of this test fails a call.
pub(crate) const FAULT: &str = "MODEL_FAULT";

/// What decides between two registrations: the higher generation, then the higher hub id.
pub(crate) type Fence = (u64, String);

/// The state of a hub and its links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Whole, and all hubs have agreed since it last was not.
    Fair,
    /// Whole again.
    Mending,
    /// It runs, but its links are cut or held.
    Apart,
    /// It does not run.
    Ended,
}

/// How a call ended at its caller.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Output(Value),
    Completed,
    Failed { code: String, delivered: Delivered },
    Aborted,
}

/// A call that one of the spokes got.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) connection: usize,
    /// The request id between the hub and the spoke.
    pub(crate) request: String,
    /// How many items were sent.
    items: u64,
    /// The last thing that its spoke said, which ended it there.
    said: Option<Reply>,
    /// Whether the spoke was told to stop.
    aborted: bool,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) hub: usize,
    pub(crate) spoke: usize,
    pub(crate) kind: Kind,
    limit: Option<Duration>,
    sent: Instant,
    /// When its caller gave it up.
    given_up: Option<Instant>,
    /// Whether nothing that may trouble it has happened since before it was sent.
    is_calm: bool,
    /// Whether there was a provider when it was sent.
    has_provider: bool,
    /// Connections whose registration had been replaced before it was sent, as far as the caller's hub knew.
    replaced: Vec<usize>,
    legs: Vec<Leg>,
    /// How many items arrived.
    items: u64,
    end: Option<End>,
    /// Whether its caller has left and need not learn of its end.
    is_left: bool,
}

/// A connection of a spoke.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) instance: usize,
    pub(crate) hub: usize,
    /// Set while a registration is under way: the instance's highest fence that was known when it was asked for.
    asking: Option<Option<Fence>>,
    has_asked: bool,
    fence: Option<Fence>,
    /// Whether the spoke itself ended it.
    has_left: bool,
    pub(crate) is_closed: bool,
    /// The code with which its hub closed it.
    code: Option<u16>,
    /// Whether its hub was cut off or has ended, so that the others may have taken it for lost.
    is_doubtful: bool,
}

/// The state of one sequence.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) calls: Vec<Call>,
    pub(crate) connections: Vec<Connection>,
    hubs: [Health; HUBS],
    /// For each hub, whether its callers end their WebSocket by themselves.
    callers_left: [bool; HUBS],
    /// For each spoke, whether all hubs agree on its instances, and nothing has happened to them since.
    calm: [bool; SPOKES],
    broken: Vec<String>,
    history: Vec<String>,
    begun: Instant,
}

// === impl Call ===

impl Call {
    /// Whether its caller still waits for its end.
    pub(crate) fn runs(&self) -> bool {
        self.end.is_none() && !self.is_left
    }

    /// What its caller knows about its delivery.
    fn delivered(&self) -> Delivered {
        match &self.end {
            Some(End::Output(_) | End::Completed) => Delivered::Yes,
            Some(End::Failed { delivered, .. }) => *delivered,
            Some(End::Aborted) | None => Delivered::Maybe,
        }
    }

    /// The ends that spokes gave it.
    fn said(&self) -> impl Iterator<Item = (&Leg, Reply)> {
        self.legs.iter().filter_map(|leg| leg.said.map(|reply| (leg, reply)))
    }

    /// Whether it may have reached this many spokes, going by what its caller knows.
    fn may_have_reached(&self, spokes: usize) -> bool {
        match self.kind {
            Kind::Query => holds_of_query(self.delivered(), spokes),
            Kind::Mutation | Kind::Subscription => holds(self.delivered(), spokes),
        }
    }
}

// === impl Leg ===

impl Leg {
    fn is_open(&self) -> bool {
        self.said.is_none() && !self.aborted
    }
}

// === impl Model ===

impl Model {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            calls: Vec::new(),
            connections: Vec::new(),
            hubs: [Health::Fair; HUBS],
            callers_left: [false; HUBS],
            calm: [true; SPOKES],
            broken: Vec::new(),
            history: Vec::new(),
            begun: now,
        }
    }

    /// Notes what happened, for whoever reads about a broken promise.
    pub(crate) fn note(&mut self, what: impl AsRef<str>) {
        let at = self.begun.elapsed().as_millis();
        self.history.push(format!("{at:>6} ms  {}", what.as_ref()));
    }

    pub(crate) fn broke(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.note(format!("BROKEN: {what}"));
        self.broken.push(what);
    }

    fn check(&mut self, seen: Result<(), String>) {
        if let Err(what) = seen {
            self.broke(what);
        }
    }

    pub(crate) fn broken(&self) -> &[String] {
        &self.broken
    }

    pub(crate) fn history(&self) -> &[String] {
        &self.history
    }

    /// A word for each call, leg and connection, to summarize what a run has seen.
    pub(crate) fn tally(&self) -> Vec<String> {
        let calls = self.calls.iter().map(|call| match &call.end {
            Some(End::Output(_) | End::Completed) => "calls answered".to_owned(),
            Some(End::Failed { code, delivered }) => format!("calls failed {code}, delivered {delivered:?}"),
            Some(End::Aborted) => "calls aborted".to_owned(),
            None => "calls left by their callers".to_owned(),
        });
        let aborts = self.calls.iter().flat_map(|call| &call.legs).filter(|leg| leg.aborted);
        let aborts = aborts.map(|_| "spokes told to stop".to_owned());
        let closes = self.connections.iter().map(|own| match own.code {
            Some(code) => format!("spokes closed with {code}"),
            None => "spokes that left or vanished".to_owned(),
        });
        calls.chain(aborts).chain(closes).collect()
    }
}

/// What happens to hubs.
impl Model {
    pub(crate) fn health(&self, hub: usize) -> Health {
        self.hubs[hub]
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.hubs
            .iter()
            .all(|health| matches!(health, Health::Fair | Health::Mending))
    }

    /// Changes the health of a hub, which troubles every call.
    pub(crate) fn turns(&mut self, hub: usize, health: Health) {
        self.note(format!("hub {hub} is {health:?}"));
        self.hubs[hub] = health;
        if matches!(health, Health::Apart | Health::Ended) {
            let there = self.connections.iter_mut().filter(|own| own.hub == hub);
            there.for_each(|own| own.is_doubtful = true);
        }
        (0..SPOKES).for_each(|spoke| self.loses(spoke));
    }

    /// Notes that all hubs are whole and agree.
    pub(crate) fn is_calm(&mut self) {
        self.note("all is calm");
        self.hubs = [Health::Fair; HUBS];
        self.calm = [true; SPOKES];
    }

    /// Notes that something happens to a spoke: its calls may fail from now on.
    fn troubles(&mut self, spoke: usize) {
        self.calm[spoke] = false;
        let running = self.calls.iter_mut().filter(|call| call.spoke == spoke && call.runs());
        running.for_each(|call| call.is_calm = false);
    }

    /// Notes that a connection of a spoke is gone, or may be: the registration that it had replaced may count again.
    fn loses(&mut self, spoke: usize) {
        self.troubles(spoke);
        let of = self.calls.iter_mut().filter(|call| call.spoke == spoke);
        of.for_each(|call| call.replaced.clear());
    }
}
