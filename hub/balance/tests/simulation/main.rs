//! The rule in simulated clusters: it converges, does not oscillate, moves hardly more than it must, and holds still
//! when it cannot know. A failure names its seed, and `world.rs` plays it again.

mod events;
mod plot;
mod random;
mod world;
