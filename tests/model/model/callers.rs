//! What happens to callers: calls, items and ends.

use std::time::Duration;

use alkhub_tests::promise::TROUBLE;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Call, Connection, End, FAULT, Health, Leg, Model};
use crate::steps::{Kind, Reply, SPOKE_OF};

/// The longest time between a deadline, or a caller's abort, and the end of the call, on a busy machine.
const LATE: Duration = Duration::from_secs(5);
/// How much too early a call may end, because a deadline in milliseconds may be rounded.
const EARLY: Duration = Duration::from_millis(5);

impl Model {
    /// A call is sent; returns its number.
    pub(crate) fn calls(&mut self, hub: usize, spoke: usize, kind: Kind, limit: Option<Duration>) -> usize {
        let number = self.calls.len();
        self.note(format!(
            "call {number}: {kind:?} of spoke {spoke} at hub {hub}, limit {limit:?}"
        ));
        let call = Call {
            hub,
            spoke,
            kind,
            limit,
            sent: Instant::now(),
            given_up: None,
            is_calm: self.calm[spoke],
            has_provider: !self.directory(spoke).is_empty(),
            replaced: self.replaced_at(hub, spoke),
            legs: Vec::new(),
            items: 0,
            end: None,
            is_left: false,
        };
        self.calls.push(call);
        number
    }

    /// Connections of a spoke that this hub knows to be replaced, because it registered the newer one itself.
    fn replaced_at(&self, hub: usize, spoke: usize) -> Vec<usize> {
        let is_replaced = |own: &Connection| {
            self.connections.iter().any(|other| {
                let is_there = other.hub == hub && !other.is_closed && !other.has_left;
                let is_newer = other.fence > own.fence && own.fence.is_some();
                other.instance == own.instance && is_there && is_newer
            })
        };
        let all = self.connections.iter().enumerate();
        all.filter(|(_, own)| SPOKE_OF[own.instance] == spoke && is_replaced(own))
            .map(|(number, _)| number)
            .collect()
    }

    /// The caller gives up a call and waits for its end, or leaves.
    pub(crate) fn gives_up(&mut self, number: usize, leaves: bool) {
        let how = if leaves { "leaves" } else { "gives up" };
        self.note(format!("the caller {how} call {number}"));
        let call = &mut self.calls[number];
        call.given_up.get_or_insert_with(Instant::now);
        call.is_left |= leaves;
    }

    pub(crate) fn kind(&self, number: usize) -> Option<Kind> {
        self.calls.get(number).map(|call| call.kind)
    }

    /// The WebSocket of a hub's callers has ended; callers that leave by themselves have said so before.
    pub(crate) fn callers_closed(&mut self, hub: usize, code: Option<u16>) {
        self.note(format!("the callers of hub {hub} are closed with {code:?}"));
        if self.hubs[hub] != Health::Ended && !self.callers_left[hub] {
            self.broke(format!(
                "the callers of hub {hub} were closed with {code:?} for no reason"
            ));
        }
    }

    /// The callers of a hub have a WebSocket, or are about to close it.
    pub(crate) fn callers(&mut self, hub: usize, leave: bool) {
        self.callers_left[hub] = leave;
    }

    /// The connection of a call broke before its end.
    pub(crate) fn cut_off(&mut self, number: usize, why: &str) {
        let call = &self.calls[number];
        let (is_left, hub) = (call.is_left, call.hub);
        if self.hubs[hub] == Health::Ended {
            self.gives_up(number, true);
        } else if !is_left {
            self.broke(format!("call {number} has no answer: {why}"));
        }
    }

    /// An item arrived.
    pub(crate) fn item(&mut self, number: usize, item: &Value) {
        let Some(call) = self.calls.get_mut(number) else {
            return self.broke(format!("an item of a call that nobody made: {item}"));
        };
        let wanted = call.items;
        call.items += 1;
        let is_own = *item == json!({ "call": number, "item": wanted });
        let is_sent = call.legs.first().is_some_and(|leg| wanted < leg.items);
        let (has_ended, is_stream) = (call.end.is_some(), call.kind == Kind::Subscription);
        if !(is_own && is_sent && is_stream) || has_ended {
            self.broke(format!(
                "{item} came where item {wanted} of call {number} was due (sent: {is_sent}, ended: {has_ended})"
            ));
        }
    }

    /// A call ended at its caller.
    pub(crate) fn ended(&mut self, number: usize, end: End) {
        self.note(format!("call {number} ended: {end:?}"));
        let Some(call) = self.calls.get_mut(number) else {
            return self.broke(format!("a call that nobody made ended: {end:?}"));
        };
        let seen = match call.end.replace(end) {
            Some(before) => Err(format!("call {number} ended twice, first with {before:?}")),
            None => call
                .ends_well(number, Instant::now())
                .map_err(|why| format!("call {number} ended with {:?}: {why}", call.end)),
        };
        self.check(seen);
    }
}

impl Call {
    /// Whether the end that the call has is one that it may have.
    pub(super) fn ends_well(&self, number: usize, now: Instant) -> Result<(), String> {
        self.is_in_time(now)?;
        if !self.may_have_reached(self.legs.len()) {
            return Err(format!("it reached {} spokes", self.legs.len()));
        }
        match self.end.as_ref().expect("it has ended") {
            End::Output(data) => {
                let is_said = |(leg, reply): (&Leg, Reply)| {
                    reply == Reply::Good && *data == json!({ "call": number, "by": leg.connection })
                };
                let is_own = self.said().any(is_said);
                is_own
                    .then_some(())
                    .ok_or_else(|| "that is not what its spoke said".to_owned())
            }
            End::Completed => self.is_whole(Reply::Good),
            End::Aborted => self.was_stopped(),
            End::Failed { code, .. } => match code.as_str() {
                FAULT => self.is_whole(Reply::Fault),
                "ABORTED" => self.was_stopped(),
                "TIMEOUT" => self.has_expired(now),
                code => self.is_trouble(code),
            },
        }
    }

    fn is_in_time(&self, now: Instant) -> Result<(), String> {
        let limit = self.limit.map(|limit| self.sent + limit);
        let due = [limit, self.given_up].into_iter().flatten().min();
        match due.map(|due| now.saturating_duration_since(due)) {
            Some(late) if late > LATE => Err(format!("{late:?} late")),
            _ => Ok(()),
        }
    }

    /// Checks that the spoke ended the call like this, and that every item arrived.
    fn is_whole(&self, wanted: Reply) -> Result<(), String> {
        if self
            .said()
            .any(|(leg, reply)| reply == wanted && leg.items == self.items)
        {
            return Ok(());
        }
        match self.said().last() {
            Some((leg, reply)) => Err(format!(
                "its spoke said {reply:?} after {} items, and {} arrived",
                leg.items, self.items
            )),
            None => Err("its spoke did not end it".to_owned()),
        }
    }

    fn was_stopped(&self) -> Result<(), String> {
        if self.given_up.is_some() {
            Ok(())
        } else if self.said().any(|(_, reply)| reply == Reply::GiveUp) {
            self.is_whole(Reply::GiveUp)
        } else {
            Err("nobody stopped it".to_owned())
        }
    }

    fn has_expired(&self, now: Instant) -> Result<(), String> {
        match self.limit {
            Some(limit) if now + EARLY >= self.sent + limit => Ok(()),
            _ => Err("its deadline has not passed".to_owned()),
        }
    }

    fn is_trouble(&self, code: &str) -> Result<(), String> {
        let is_known = !["NO_PROVIDER", "OPERATION_NOT_FOUND"].contains(&code);
        if !TROUBLE.contains(&code) {
            Err("no trouble explains it".to_owned())
        } else if self.is_calm && (is_known || self.has_provider) {
            Err("all was well".to_owned())
        } else {
            Ok(())
        }
    }
}
