//! What happens to spokes: connections, registrations, and the calls that reach them.

use super::{Connection, Fence, Health, Leg, Model};
use crate::model::Call;
use crate::steps::{Kind, Reply, SPOKE_OF};

/// The close code of a connection whose instance has registered over another one.
const REPLACED: u16 = 4409;

impl Model {
    /// A spoke opened a connection.
    pub(crate) fn connected(&mut self, instance: usize, hub: usize) -> usize {
        self.connections.push(Connection {
            instance,
            hub,
            asking: None,
            has_asked: false,
            fence: None,
            has_left: false,
            is_closed: false,
            code: None,
            is_doubtful: false,
        });
        let connection = self.connections.len() - 1;
        self.note(format!("connection {connection} of instance {instance} to hub {hub}"));
        connection
    }

    /// The spoke asks to be registered over this connection.
    pub(crate) fn asks(&mut self, connection: usize) {
        let instance = self.connections[connection].instance;
        self.note(format!("connection {connection} registers instance {instance}"));
        let known = self.fences_of(instance).max().cloned();
        let asking = &mut self.connections[connection];
        asking.asking = Some(known);
        asking.has_asked = true;
        self.troubles(SPOKE_OF[instance]);
    }

    pub(crate) fn registered(&mut self, connection: usize, fence: &Fence) {
        self.note(format!("connection {connection} is registered with {fence:?}"));
        let is_fair = self.is_fair();
        let own = &mut self.connections[connection];
        let (known, before) = (own.asking.take(), own.fence.clone());
        own.fence = Some(fence.clone());
        let Some(known) = known else {
            return self.broke(format!("connection {connection} was registered without asking"));
        };
        if before >= Some(fence.clone()) {
            self.broke(format!("connection {connection} had {before:?} before {fence:?}"));
        }
        if is_fair && known >= Some(fence.clone()) {
            self.broke(format!("connection {connection} got {fence:?} after {known:?}"));
        }
    }

    pub(crate) fn refused(&mut self, connection: usize, code: &str) {
        self.note(format!(
            "the registration of connection {connection} was refused: {code}"
        ));
        let own = &mut self.connections[connection];
        own.asking = None;
        let (instance, has_left) = (own.instance, own.has_left);
        let has_rival = self.rivals(connection).any(|rival| rival.has_asked);
        if self.is_fair() && !has_rival && !has_left {
            self.broke(format!("instance {instance} was refused ({code}) though all was well"));
        }
    }

    /// The spoke ends its connection.
    pub(crate) fn leaves(&mut self, connection: usize) {
        self.note(format!("connection {connection} leaves"));
        let own = &mut self.connections[connection];
        own.has_left = true;
        let spoke = SPOKE_OF[own.instance];
        self.loses(spoke);
    }

    /// The connection is gone; with a code if the hub closed it.
    pub(crate) fn closed(&mut self, connection: usize, code: Option<u16>) {
        self.note(format!("connection {connection} is closed with {code:?}"));
        let own = &mut self.connections[connection];
        own.is_closed = true;
        own.code = code;
        let (hub, has_left, spoke) = (own.hub, own.has_left, SPOKE_OF[own.instance]);
        self.loses(spoke);
        // A registration that was asked for may have taken effect, whether or not its answer was seen.
        let is_newest = || {
            let fence = &self.connections[connection].fence;
            let mut rivals = self.rivals(connection).filter(|rival| rival.has_asked);
            rivals.all(|rival| rival.fence <= *fence && rival.fence.is_some() && rival.asking.is_none())
        };
        let wrong = match code {
            _ if has_left || self.hubs[hub] == Health::Ended => false,
            Some(REPLACED) => is_newest(),
            Some(_) | None => true,
        };
        if wrong {
            self.broke(format!(
                "connection {connection} was closed with {code:?} for no reason"
            ));
        }
    }

    /// A spoke got a call.
    pub(crate) fn reached(&mut self, connection: usize, number: usize, request: &str) {
        self.note(format!("call {number} reached connection {connection} as {request}"));
        let Some(call) = self.calls.get(number) else {
            return self.broke(format!("connection {connection} got a call that nobody made"));
        };
        let seen = self.may_reach(connection, call, number);
        self.calls[number].legs.push(Leg {
            connection,
            request: request.to_owned(),
            items: 0,
            said: None,
            aborted: false,
        });
        self.check(seen);
    }

    fn may_reach(&self, connection: usize, call: &Call, number: usize) -> Result<(), String> {
        if let Some(first) = call.legs.first()
            && !self.may_go_on(call, first)
        {
            return Err(format!(
                "call {number} ({:?}) reached connections {} and {connection}",
                call.kind, first.connection
            ));
        }
        if call.spoke != SPOKE_OF[self.connections[connection].instance] {
            return Err(format!("call {number} reached another spoke"));
        }
        if call.replaced.contains(&connection) {
            return Err(format!(
                "call {number} reached connection {connection}, which was replaced before"
            ));
        }
        if call.end.is_some() && !call.may_have_reached(call.legs.len() + 1) {
            return Err(format!(
                "call {number} was delivered after its caller was told that it was not"
            ));
        }
        Ok(())
    }

    /// Whether a call that has reached a spoke may reach another one: only a query, once, if the first spoke may be
    /// lost.
    fn may_go_on(&self, call: &Call, first: &Leg) -> bool {
        let own = &self.connections[first.connection];
        let may_be_replaced = || {
            let mut rivals = self.rivals(first.connection).filter(|rival| rival.has_asked);
            rivals.any(|rival| rival.asking.is_some() || rival.fence.is_none() || rival.fence > own.fence)
        };
        let may_be_lost = own.has_left || own.is_closed || own.is_doubtful || may_be_replaced();
        call.kind == Kind::Query && call.legs.len() == 1 && may_be_lost
    }

    /// A spoke was told to stop a call.
    pub(crate) fn stopped(&mut self, connection: usize, request: &str) {
        self.note(format!("connection {connection} is told to stop {request}"));
        let legs = self.calls.iter_mut().flat_map(|call| &mut call.legs);
        let leg = legs
            .into_iter()
            .find(|leg| leg.connection == connection && leg.request == request);
        match leg {
            Some(leg) => leg.aborted = true,
            None => self.broke(format!(
                "connection {connection} is told to stop {request}, which it never got"
            )),
        }
    }

    /// A spoke says something about a call that it runs; returns the number of its first item.
    pub(crate) fn says(&mut self, number: usize, reply: Reply) -> u64 {
        self.note(format!("the spoke says {reply:?} of call {number}"));
        let call = &mut self.calls[number];
        let is_stream = call.kind == Kind::Subscription;
        let leg = call.legs.last_mut().expect("a spoke that answers has the call");
        let first = leg.items;
        match reply {
            Reply::Items(count) if is_stream => leg.items += count,
            Reply::Items(_) => leg.said = Some(Reply::Good),
            Reply::Good | Reply::Fault | Reply::GiveUp => leg.said = Some(reply),
        }
        first
    }

    fn rivals(&self, connection: usize) -> impl Iterator<Item = &Connection> {
        let instance = self.connections[connection].instance;
        let others = self.connections.iter().enumerate();
        others
            .filter(move |(number, other)| *number != connection && other.instance == instance)
            .map(|(_, other)| other)
    }

    fn fences_of(&self, instance: usize) -> impl Iterator<Item = &Fence> {
        let of = self.connections.iter().filter(move |own| own.instance == instance);
        of.filter_map(|own| own.fence.as_ref())
    }

    fn is_fair(&self) -> bool {
        self.hubs.iter().all(|health| *health == Health::Fair)
    }
}
