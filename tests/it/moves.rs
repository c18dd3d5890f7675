//! Sessions that go from one hub to another: over real Redis, with a link from pod to pod and without.

mod counting;
mod drained;
mod migrated;
mod refusals;
mod resumed;
mod subscribed;
