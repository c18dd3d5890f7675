//! One run of a pipeline over one stream of events. It is pushed: who has the events calls it, and it calls nobody.
//!
//! A hub keeps one run for all subscribers of one topic with the same pipeline, in a task of its own:
//! - [`PipelineRun::push`] for each event;
//! - [`PipelineRun::tick`] when [`PipelineRun::deadline`] has passed;
//! - [`PipelineRun::finish`] when there are no more events, which flushes what is kept;
//! - once [`PipelineRun::is_over`], it needs no more events, and what they come from can be dropped.

use std::sync::Arc;

use tokio::time::Instant;

use crate::pipeline::Pipeline;
use crate::step::Compiled;
pub use output::{FaultReason, MadeEvent, PipelineEvent, PipelineOutput, StepFault};

use allowance::Allowance;
use stage::Stage;
use turn::Turn;

mod allowance;
mod decide;
mod feed;
mod groups;
mod held;
mod output;
mod recent;
mod stage;
mod turn;

/// The state of one run.
///
/// ```
/// use alkhub_pipeline::{Pipeline, PipelineEvent, PipelineLimits, PipelineOutput, PipelineRun};
/// use alkhub_protocol::RawJson;
/// use tokio::time::Instant;
///
/// let pipeline = Pipeline::parse(br#"[{"filter":"payload.n > 1"},{"take":1}]"#, &PipelineLimits::default())?;
/// let (mut run, mut out) = (PipelineRun::new(&pipeline, "order", "*"), Vec::new());
/// for text in ["{\"n\":1}", "{\"n\":2}"] {
///     let payload = RawJson::parse(text)?;
///     let event = PipelineEvent { kind: "order", id: "7", payload: Some(&payload) };
///     run.push(&event, Instant::now(), &mut out);
/// }
///
/// assert_eq!(out, [PipelineOutput::Unchanged]);
/// assert!(run.is_over());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PipelineRun {
    compiled: Arc<Compiled>,
    kind: Arc<str>,
    id: Arc<str>,
    stages: Vec<Stage>,
    allowance: Allowance,
    has_ended: bool,
}

// === impl PipelineRun ===

impl PipelineRun {
    /// A run over the events of a topic: `id` is `*` where they are of all ids. Events that are made of several others have
    /// this type and this id.
    pub fn new(pipeline: &Pipeline, kind: &str, id: &str) -> Self {
        let compiled = Arc::clone(pipeline.compiled());
        Self {
            kind: kind.into(),
            id: id.into(),
            stages: stage::stages(&compiled.line),
            allowance: Allowance::new(compiled.limits.second_units),
            compiled,
            has_ended: false,
        }
    }

    /// Takes an event in, and adds what comes out. `now` does not go back.
    ///
    /// Every wait that has passed by now ends first, so that the event does not get into what is older than it.
    pub fn push(&mut self, event: &PipelineEvent<'_>, now: Instant, out: &mut Vec<PipelineOutput>) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.tick(now, out);
        }
        if self.is_over() {
            return;
        }
        self.turn(now, out, |compiled, stages, turn| {
            feed::feed(&compiled.line, stages, &turn::Item::of(event), turn);
        });
    }

    /// When [`PipelineRun::tick`] must be called at the latest; `None` if there is nothing to wait for.
    pub fn deadline(&self) -> Option<Instant> {
        if self.has_ended {
            return None;
        }
        stage::deadline(&self.compiled.line, &self.stages)
    }

    /// Ends the waits that have passed, and adds what comes out.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<PipelineOutput>) {
        if self.is_over() {
            return;
        }
        self.turn(now, out, |compiled, stages, turn| {
            feed::tick(&compiled.line, stages, turn)
        });
    }

    /// Says that no more events come: adds what was kept, and ends the run.
    pub fn finish(&mut self, now: Instant, out: &mut Vec<PipelineOutput>) {
        if self.is_over() {
            self.has_ended = true;
            return;
        }
        self.turn(now, out, |compiled, stages, turn| {
            feed::finish(&compiled.line, stages, turn)
        });
        self.has_ended = true;
    }

    /// Whether nothing more will come out.
    pub fn is_over(&self) -> bool {
        self.has_ended || stage::is_over(&self.stages)
    }

    /// The items and keys that are kept, and their bytes: within [`crate::PipelineLimits::kept_items`] and
    /// [`crate::PipelineLimits::kept_bytes`].
    pub fn kept(&self) -> (usize, usize) {
        stage::kept(&self.stages)
    }

    fn turn(
        &mut self,
        now: Instant,
        out: &mut Vec<PipelineOutput>,
        act: impl FnOnce(&Compiled, &mut [Stage], &mut Turn<'_>),
    ) {
        let units = self.allowance.at(now);
        let mut turn = Turn::new(&self.compiled, (&self.kind, &self.id), now, units);
        turn.out = std::mem::take(out);
        act(&self.compiled, &mut self.stages, &mut turn);
        let (made, used) = turn.end();
        *out = made;
        self.allowance.take(used);
        stage::end_if_over(&mut self.stages);
    }
}

#[cfg(test)]
mod tests;
