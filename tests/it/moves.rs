//! Sessions that go from one hub to another: over real Redis, with a link from pod to pod and without.

mod bounds;
mod counting;
mod drained;
mod late;
mod migrated;
mod narrowed;
mod oversized;
mod refusals;
mod resumed;
mod subscribed;
mod unheard;
