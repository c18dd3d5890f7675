//! One call of a run: the time, what it may still cost, and what has come out.

use std::cell::OnceCell;
use std::sync::Arc;

use alkhub_protocol::RawJson;
use alkhub_protocol::json::tree::{Tree, TreeError};
use tokio::time::Instant;

use super::output::{FaultReason, MadeEvent, PipelineEvent, PipelineOutput, StepFault};
use crate::error::excerpt;
use crate::expression::{CelValue, Expression, Form, Halt, Meter};
use crate::limits::PipelineLimits;
use crate::step::{Compiled, Placed, Share};

/// What an output costs besides its payload, in bytes.
const OVERHEAD: usize = 64;

/// What goes from step to step.
pub(super) struct Item<'e> {
    pub(super) kind: &'e str,
    pub(super) id: &'e str,
    pub(super) payload: Option<&'e RawJson>,
    /// Read once, for the first expression that looks at the payload.
    tree: OnceCell<Result<Tree<'e>, Halt>>,
    is_event: bool,
}

/// One call of a run.
pub(super) struct Turn<'r> {
    pub(super) now: Instant,
    pub(super) out: Vec<PipelineOutput>,
    pub(super) limits: &'r PipelineLimits,
    pub(super) share: Share,
    subject: (&'r Arc<str>, &'r Arc<str>),
    meter: Meter,
    /// Units of the second that this turn has not been given yet.
    reserve: u64,
    /// Units that it was given.
    given: u64,
    /// How often it may begin with another item.
    renewals: usize,
}

/// Why an item does not come through.
pub(super) type Refused = FaultReason;

/// Why a payload cannot be used. What is said has names of the payload, which may be long.
fn unread(error: &TreeError) -> Halt {
    Halt::failed(excerpt(&error.to_string(), 200))
}

// === impl Item ===

impl<'e> Item<'e> {
    pub(super) fn of(event: &PipelineEvent<'e>) -> Self {
        Self {
            kind: event.kind,
            id: event.id,
            payload: event.payload,
            tree: OnceCell::new(),
            is_event: true,
        }
    }

    pub(super) fn made(kind: &'e str, id: &'e str, payload: &'e RawJson) -> Self {
        Self {
            kind,
            id,
            payload: Some(payload),
            tree: OnceCell::new(),
            is_event: false,
        }
    }

    /// The payload's text.
    pub(super) fn text(&self) -> &'e str {
        self.payload.map_or("null", |payload| payload.as_str())
    }

    fn tree(&self, meter: &mut Meter) -> Result<&Tree<'e>, Halt> {
        let read = self.tree.get_or_init(|| {
            let Some(payload) = self.payload else {
                return Ok(Tree::Null);
            };
            // A tree takes some ten times as long as a look.
            meter.pay(1 + payload.len() as u64 / 8)?;
            Tree::of(payload).map_err(|error| unread(&error))
        });
        read.as_ref().map_err(Clone::clone)
    }
}

// === impl Turn ===

impl<'r> Turn<'r> {
    pub(super) fn new(compiled: &'r Compiled, subject: (&'r Arc<str>, &'r Arc<str>), now: Instant, units: u64) -> Self {
        let meter = Meter { units: 0, bytes: 0 };
        let mut turn = Self {
            now,
            out: Vec::new(),
            limits: &compiled.limits,
            share: compiled.share,
            subject,
            meter,
            reserve: units,
            given: 0,
            // The item to begin with, and one of each step that keeps items. What an event makes beyond that, it pays for.
            renewals: 1 + compiled.share.steps,
        };
        turn.renew();
        turn
    }

    /// Everything that is kept comes out now, and no event is there to pay for it. Returns what to [`Turn::resume`] with.
    pub(super) fn flush(&mut self) -> usize {
        std::mem::replace(&mut self.renewals, usize::MAX)
    }

    /// After a flush that an event led to: what comes next, the event pays for again.
    pub(super) fn resume(&mut self, renewals: usize) {
        self.renewals = renewals;
    }

    /// Begins with another item: it may cost as much as an event, as far as the second allows.
    pub(super) fn renew(&mut self) {
        let Some(left) = self.renewals.checked_sub(1) else {
            return;
        };
        self.renewals = left;
        self.give_back();
        let units = self.limits.event_units.min(self.reserve);
        self.reserve -= units;
        self.given += units;
        self.meter = Meter {
            units,
            bytes: self.limits.event_bytes,
        };
    }

    fn give_back(&mut self) {
        self.reserve += self.meter.units;
        self.given -= self.meter.units;
        self.meter.units = 0;
    }

    /// What has come out, and what it has cost.
    pub(super) fn end(mut self) -> (Vec<PipelineOutput>, u64) {
        self.give_back();
        (self.out, self.given)
    }

    pub(super) fn subject(&self) -> (&'r str, &'r str) {
        (self.subject.0, self.subject.1)
    }

    pub(super) fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }

    /// Lets an item out that has passed the last step.
    pub(super) fn emit(&mut self, placed: Option<&Placed>, item: &Item<'_>) {
        let paid = self.meter.hand_on(OVERHEAD + item.text().len());
        if let (Err(halt), Some(placed)) = (paid, placed) {
            let reason = self.reason(halt);
            return self.fault(placed, reason);
        }
        let output = match item.payload {
            Some(payload) if !item.is_event => {
                let shared = |own: &Arc<str>, text: &str| if **own == *text { Arc::clone(own) } else { text.into() };
                PipelineOutput::Made(MadeEvent {
                    kind: shared(self.subject.0, item.kind),
                    id: shared(self.subject.1, item.id),
                    payload: payload.clone(),
                })
            }
            _ => PipelineOutput::Unchanged,
        };
        self.out.push(output);
    }

    pub(super) fn fault(&mut self, placed: &Placed, reason: FaultReason) {
        self.out.push(PipelineOutput::Fault(StepFault {
            step: placed.at.clone(),
            name: placed.step.name(),
            reason,
        }));
    }

    pub(super) fn reason(&self, halt: Halt) -> FaultReason {
        match halt {
            Halt::Failed(text) => FaultReason::Failed(text),
            // The meter was full, unless the second had less.
            Halt::Units if self.reserve > 0 => FaultReason::TooExpensive,
            Halt::Units => FaultReason::Busy,
            Halt::Bytes => FaultReason::TooLarge(format!(
                "more than {} bytes are made of the event",
                self.limits.event_bytes
            )),
        }
    }

    /// Evaluates an expression for an item, and uses its value.
    pub(super) fn value<T>(
        &mut self,
        of: &Expression,
        item: &Item<'_>,
        folded: Option<&RawJson>,
        using: impl FnOnce(&CelValue<'_>, &mut Meter) -> Result<T, Halt>,
    ) -> Result<T, Refused> {
        let meter = &mut self.meter;
        let evaluated = (|| {
            let payload = if of.reads_payload {
                CelValue::of(item.tree(meter)?)
            } else {
                CelValue::Null
            };
            let folded_tree = match folded {
                Some(folded) => {
                    meter.pay(1 + folded.len() as u64 / 8)?;
                    Tree::of(folded).map_err(|error| unread(&error))?
                }
                None => Tree::Null,
            };
            let mut stack = vec![CelValue::text(item.kind), CelValue::text(item.id), payload];
            // The variables of macros come after those that the expression was compiled with.
            stack.extend(folded.map(|_| CelValue::of(&folded_tree)));
            let value = of.evaluate(&mut stack, meter)?;
            using(&value, meter)
        })();
        evaluated.map_err(|halt| self.reason(halt))
    }

    /// The value of an expression as JSON.
    pub(super) fn json(
        &mut self,
        of: &Expression,
        item: &Item<'_>,
        folded: Option<&RawJson>,
    ) -> Result<RawJson, Refused> {
        let text = self.value(of, item, folded, |value, meter| {
            let mut text = String::new();
            value.write(Form::Plain, meter, &mut text)?;
            Ok(text)
        })?;
        self.checked(text)
    }

    /// A text that a step made, if it is one that alkhub carries.
    pub(super) fn checked(&self, text: String) -> Result<RawJson, Refused> {
        if text.len() > self.limits.item_bytes {
            return Err(FaultReason::TooLarge(format!(
                "what is made of the event has more than {} bytes",
                self.limits.item_bytes
            )));
        }
        RawJson::parse(text).map_err(|error| FaultReason::TooLarge(error.to_string()))
    }
}
