//! What a pipeline may be, what it may cost and what it may keep.

use std::time::Duration;

use alkhub_protocol::PAYLOAD_LIMIT_BYTES;

/// The bounds of a served pipeline.
///
/// A *unit* is the cost of one node of an expression, or of 16 bytes that one looks at or writes: some 15 to 40 ns, and
/// 100 ns in patterns that are as slow as can be. With the defaults an event takes 25 ms at worst, and a pipeline a quarter
/// of a core; an honest expression over a small event takes 1 to 2 us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineLimits {
    /// The text of the whole pipeline, in bytes.
    pub text_bytes: usize,
    /// All steps, with those within others.
    pub steps: usize,
    /// How deep `pipe`, `chain` and `join` may contain each other.
    pub nesting: usize,
    /// The text of one expression, in bytes. A stack of 2 MiB is enough for up to 4,096.
    pub expression_bytes: usize,
    /// The nodes of all expressions together: operators, names, literals, calls.
    pub nodes: usize,
    /// What the patterns of all `matches` take together when they are compiled, in bytes.
    pub pattern_bytes: usize,
    /// The units that one event may cost. Too low refuses honest expressions over large events; too high lets one event
    /// hold up the lane.
    pub event_units: u64,
    /// The bytes that expressions may build for one event, and that all items made of it may have together.
    pub event_bytes: usize,
    /// The units that a pipeline may use in a second; what is left over is saved for one second.
    pub second_units: u64,
    /// The payload of one item that a step makes, in bytes.
    pub item_bytes: usize,
    /// The items or keys that all steps of a run may keep together.
    pub kept_items: usize,
    /// The bytes of what all steps of a run keep together.
    pub kept_bytes: usize,
    /// The longest key of `dedupe` and `group_by`, in bytes of its JSON text.
    pub key_bytes: usize,
    /// The longest time that a step may be asked to wait or to remember.
    pub longest: Duration,
}

impl Default for PipelineLimits {
    fn default() -> Self {
        Self {
            text_bytes: 16 * 1024,
            steps: 32,
            nesting: 4,
            expression_bytes: 2 * 1024,
            nodes: 512,
            pattern_bytes: 256 * 1024,
            event_units: 250_000,
            event_bytes: 4 * PAYLOAD_LIMIT_BYTES,
            second_units: 2_500_000,
            item_bytes: PAYLOAD_LIMIT_BYTES,
            kept_items: 10_000,
            kept_bytes: 4 * PAYLOAD_LIMIT_BYTES,
            key_bytes: 1_024,
            longest: Duration::from_secs(24 * 3600),
        }
    }
}
