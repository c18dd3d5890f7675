//! What the player of a sequence asks the model: what there is to act on, and what is still missing (as `Err`).

use std::collections::BTreeSet;

use super::{Call, Connection, Fence, Leg, Model};
use crate::steps::SPOKE_OF;

impl Model {
    /// The connection that counts, for each instance that has one.
    pub(crate) fn current(&self) -> Vec<usize> {
        let newest = |instance: usize| {
            let open = self.connections.iter().enumerate();
            open.filter(|(_, own)| own.instance == instance && !own.is_closed && !own.has_left)
                .filter(|(_, own)| own.fence.is_some())
                .max_by_key(|(_, own)| own.fence.clone())
                .map(|(number, _)| number)
        };
        (0..SPOKE_OF.len()).filter_map(newest).collect()
    }

    /// What each hub's directory must say about a spoke: instances and fences.
    pub(crate) fn directory(&self, spoke: usize) -> BTreeSet<(usize, Fence)> {
        let current = self.current().into_iter().map(|number| &self.connections[number]);
        let of = current.filter(|own| SPOKE_OF[own.instance] == spoke);
        of.filter_map(|own| own.fence.clone().map(|fence| (own.instance, fence)))
            .collect()
    }

    /// The connection over which an instance can register again at a hub.
    pub(crate) fn connection_at(&self, instance: usize, hub: usize) -> Option<usize> {
        let is_there = |own: &Connection| {
            let is_open = !own.is_closed && !own.has_left && own.asking.is_none();
            own.instance == instance && own.hub == hub && is_open
        };
        self.connections.iter().position(is_there)
    }

    /// Checks that the registration of a connection was answered, or the connection ended.
    pub(crate) fn is_answered(&self, connection: usize) -> Result<(), String> {
        let own = &self.connections[connection];
        if own.asking.is_none() || own.is_closed {
            Ok(())
        } else {
            Err(format!("connection {connection} is not registered"))
        }
    }

    /// Checks that every spoke's connection to a hub has ended.
    pub(crate) fn is_left_alone(&self, hub: usize) -> Result<(), String> {
        match self.connections.iter().position(|own| own.hub == hub && !own.is_closed) {
            Some(connection) => Err(format!("connection {connection} to hub {hub} is open")),
            None => Ok(()),
        }
    }

    /// Checks that every registration was answered, and no instance has two connections.
    pub(crate) fn registrations_settled(&self) -> Result<(), String> {
        let current = self.current();
        let all = self.connections.iter().enumerate();
        let mut open = all.filter(|(_, own)| !own.is_closed && !own.has_left);
        match open.find(|(number, own)| own.asking.is_some() || (own.fence.is_some() && !current.contains(number))) {
            Some((number, own)) if own.asking.is_some() => Err(format!("connection {number} is not registered")),
            Some((number, _)) => Err(format!("connection {number} was replaced and is not closed")),
            None => Ok(()),
        }
    }

    /// Checks that every running call has reached a spoke.
    pub(crate) fn calls_placed(&self) -> Result<(), String> {
        self.none_of("has neither ended nor reached a spoke", |call| {
            call.runs() && call.legs.is_empty()
        })
    }

    pub(crate) fn calls_over(&self) -> Result<(), String> {
        self.none_of("has not ended", Call::runs)
    }

    /// Checks that whoever runs a call that is over has been told.
    pub(crate) fn spokes_told(&self) -> Result<(), String> {
        self.none_of("is over, and its spoke was not told", |call| {
            let is_connected = |leg: &Leg| {
                let own = &self.connections[leg.connection];
                !own.is_closed && !own.has_left
            };
            !call.runs() && call.legs.iter().any(|leg| leg.is_open() && is_connected(leg))
        })
    }

    fn none_of(&self, what: &str, wrong: impl Fn(&Call) -> bool) -> Result<(), String> {
        match self.calls.iter().position(wrong) {
            Some(number) => Err(format!("call {number} {what}")),
            None => Ok(()),
        }
    }

    /// Calls that their callers wait for and have not given up.
    pub(crate) fn running(&self) -> Vec<usize> {
        self.numbers(|call| call.runs() && call.given_up.is_none())
    }

    pub(crate) fn running_at(&self, hub: usize) -> Vec<usize> {
        self.numbers(|call| call.runs() && call.hub == hub)
    }

    /// Calls that a spoke runs and may answer.
    pub(crate) fn open(&self) -> Vec<usize> {
        self.legs(|call, leg| call.runs() && leg.is_open())
    }

    /// Calls that have ended for the spoke that got them.
    pub(crate) fn late(&self) -> Vec<usize> {
        self.legs(|_, leg| !leg.is_open())
    }

    fn legs(&self, wanted: impl Fn(&Call, &Leg) -> bool) -> Vec<usize> {
        self.numbers(|call| {
            let leg = call.legs.last();
            leg.is_some_and(|leg| wanted(call, leg) && !self.connections[leg.connection].is_closed)
        })
    }

    fn numbers(&self, wanted: impl Fn(&Call) -> bool) -> Vec<usize> {
        let all = self.calls.iter().enumerate();
        all.filter(|(_, call)| wanted(call)).map(|(number, _)| number).collect()
    }

    /// The last leg of a call.
    pub(crate) fn leg(&self, number: usize) -> Option<&Leg> {
        self.calls.get(number)?.legs.last()
    }
}
