//! Which of its connections a hub moves to other hubs: each hub decides alone, from what all of them publish once a
//! second.
//!
//! A hub calls [`Balance::decide`] once a second with the [`Membership`] and with what it holds itself ([`Own`]). That
//! looks at each pod and at no connection. Only an answer [`Decision::Move`] makes it walk over its connections, once,
//! in [`Balance::choose`], which names those that go and where to. In between, [`Balance::admit`] answers the question
//! of each upgrade: is this connection welcome here, or better off elsewhere? Why the rule is as it is:
//! docs/decisions/0068-each-hub-balances-alone.md; what it does over time: docs/operations/rebalancing.md.
//!
//! Promises, as long as each hub sees the others no older than [`Rule::fresh`]
//! - For balance, nothing moves but from a pod above its goal to one below the mean.
//! - Doubt speaks against moving: a pod is above its goal when the least that it had in the last [`Rule::settle`] is
//!   more than the goal that the most crowded moment of that time gives.
//! - Where nobody joins, leaves or connects, moving ends, and what moved does not move back.
//! - A connection that was moved for balance stays for [`Rule::stay`]; a drain alone moves it again.
//! - No pod that stays refuses a connection unless one in eight of the pods would take it; so nobody is refused
//!   everywhere, and a peer that is let go finds a place after eight tries on average, or fewer.
//! - Where a pod was lost without a drain, no pod that stays refuses anybody for [`Rule::settle`], nor while its peers are
//!   missing, up to [`Rule::lost`].
//!
//! Never
//! - It moves nothing while the membership is stale (Redis is away), or while the hub is alone.
//! - It moves no connection to a pod that drains; nor, for balance, to a revision other than its own and the wanted one.
//! - It does not read a clock, wait, lock or log, or know what a socket is. `now` is the time since any moment that stays the
//!   same.
//!
//! Uses no other crate of alkhub. The surface of WebSockets (`hub/socket`) asks it, before each upgrade and at each look; the
//! hub's process (`hub/server`) reads the membership for that.

mod balance;
mod choice;
mod entrance;
mod history;
mod levels;
mod look;
mod losses;
mod membership;
mod rule;

pub use balance::{Balance, Decision, Why};
pub use choice::{Movable, Move, Order};
pub use entrance::Upgrade;
pub use membership::{Member, Membership, Own};
pub use rule::Rule;

#[cfg(test)]
mod tests;
