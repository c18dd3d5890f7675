//! Sessions that go from one hub to another: over real Redis, with and without a link from pod to pod.

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
