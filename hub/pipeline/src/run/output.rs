//! What goes into a run, and what comes out of it.

use std::fmt;
use std::sync::Arc;

use alkhub_protocol::RawJson;
use alkhub_protocol::envelope::encode;
use bytes::Bytes;

/// An event that is pushed into a run.
#[derive(Clone, Copy, Debug)]
pub struct PipelineEvent<'a> {
    /// The event type.
    pub kind: &'a str,
    /// The topic id.
    pub id: &'a str,
    /// The payload; expressions see `null` where there is none.
    pub payload: Option<&'a RawJson>,
}

/// What comes out of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PipelineOutput {
    /// The event that was just pushed, as it is: its encoded form can be sent again.
    Unchanged,
    /// An event that the pipeline made.
    Made(MadeEvent),
    /// An event that could not be brought through, in its place.
    Fault(StepFault),
}

/// An event that a pipeline made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeEvent {
    /// The type of the event that it was made of; of the run, if it was made of several.
    pub kind: Arc<str>,
    /// The id of the event that it was made of; of the run, if it was made of several.
    pub id: Arc<str>,
    /// What the steps made.
    pub payload: RawJson,
}

/// Why one event did not come through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct StepFault {
    /// The way to the step, as in [`crate::Error::step`].
    pub step: Vec<usize>,
    /// The step's name.
    pub name: &'static str,
    /// Why.
    pub reason: FaultReason,
}

/// Why a step failed for one event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultReason {
    /// The event does not have what the expression needs. The text names members and types, and nothing of the payload.
    #[error("{0}")]
    Failed(String),
    /// The event costs more than one event may.
    #[error("the event costs more than one event may")]
    TooExpensive,
    /// The pipeline has used up what it may cost in a second.
    #[error("the pipeline has used up what it may cost in a second")]
    Busy,
    /// What is made, or kept, is larger than it may be.
    #[error("{0}")]
    TooLarge(String),
}

// === impl MadeEvent ===

impl MadeEvent {
    /// The envelope as JSON text, `{type, id, payload}`.
    pub fn encode(&self) -> Bytes {
        encode(&self.kind, &self.id, Some(&self.payload), None)
    }
}

// === impl StepFault ===

impl fmt::Display for StepFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step: Vec<String> = self.step.iter().map(usize::to_string).collect();
        write!(f, "step {} (`{}`): {}", step.join("."), self.name, self.reason)
    }
}

// === impl FaultReason ===

impl FaultReason {
    /// A word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            Self::TooExpensive => "too_expensive",
            Self::Busy => "busy",
            Self::TooLarge(_) => "too_large",
        }
    }
}
