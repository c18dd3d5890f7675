//! The 13 pipeline steps of the origin: `filter map pipe take reduce to_array batch dedupe window flat group_by chain join`.
//!
//! They have two faces with one meaning. A Rust program calls them on a stream ([`StreamSteps`], [`Flow`]). A client sends them
//! to a hub as a list in JSON ([`Pipeline`]), and the hub runs the list over the events of a subscription
//! ([`PipelineRun`]). Each step with an example: docs/PIPELINE.md; why they are as they are:
//! docs/decisions/0091-pipelines-are-metered.md.
//!
//! Promises
//! - Items keep their order, and none is lost without a sign: what a bound cuts off is a fault, or an early list.
//! - A step ends at once when it can: `take` with its last item. What it gets items from is dropped then, and once.
//! - What is kept is bounded in items and in bytes; of a stream, in items.
//! - An event costs a served pipeline no more than its limits, whatever the pipeline and the event are; one that would is a
//!   fault.
//! - Equal pipelines have equal canonical texts.
//!
//! Never
//! - It does no I/O, spawns no task and takes no lock across a wait. A flow is driven by who polls it, a run by who calls it.
//! - It reads no clock for a run, which is told the time. The timers of flows are tokio's, and end with their flow.
//! - No pipeline and no event makes it panic, or use the stack beyond a fixed depth.
//!
//! Uses `protocol`.

mod error;
mod expression;
mod flow;
mod limits;
mod pipeline;
mod run;
mod step;

pub use error::Error;
pub use flow::{
    BatchBy, Batches, Chained, Deduped, Emission, Filtered, Flattened, FlattenedTogether, Flow, GroupBounds, Grouped,
    Joined, KeyedGroup, Mapped, MappedTogether, Remember, StreamSteps, Taken, Unread, Unresolved, WindowBy, join,
};
pub use limits::PipelineLimits;
pub use pipeline::Pipeline;
pub use run::{FaultReason, MadeEvent, PipelineEvent, PipelineOutput, PipelineRun, StepFault};
