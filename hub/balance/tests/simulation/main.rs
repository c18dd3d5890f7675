//! The rule in simulated clusters: it converges, does not oscillate, moves hardly more than it must, and holds still
//! when it cannot know. A failure names its seed, with which `world.rs` replays it.

mod crashes;
mod events;
mod plot;
mod random;
mod world;
