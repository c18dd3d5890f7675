//! How items, ends and waits go through a line of steps.
//!
//! Invariants
//! - A step that ends gives what it keeps to the steps after it, and then ends them; those before it are asked no more.
//! - A fault goes straight to the output: it is in no list, and counts for no `take`.

use std::time::Duration;

use alkhub_protocol::RawJson;
use tokio::time::Instant;

use super::decide::{self, Lists};
use super::held::Held;
use super::output::{FaultReason, PipelineOutput};
use super::stage::{self, Stage, State};
use super::turn::{Item, Turn};
use crate::step::{Placed, Share, Span, Step};

/// The steps after one, with their states.
struct Rest<'l> {
    own: &'l Placed,
    line: &'l [Placed],
    stages: &'l mut [Stage],
}

/// Gives an item to the first step of a line.
pub(super) fn feed(line: &[Placed], stages: &mut [Stage], item: &Item<'_>, turn: &mut Turn<'_>) {
    let (Some((placed, line)), Some((stage, stages))) = (line.split_first(), stages.split_first_mut()) else {
        return turn.emit(None, item);
    };
    if stage.is_over {
        return;
    }
    let mut rest = Rest {
        own: placed,
        line,
        stages,
    };
    let accepted = turn.meter().pay(1).map_err(|halt| turn.reason(halt));
    let accepted = accepted.and_then(|()| accept(&placed.step, stage, item, &mut rest, turn));
    if let Err(reason) = accepted {
        turn.fault(placed, reason);
    }
}

/// Ends the waits of a line that have passed.
pub(super) fn tick(line: &[Placed], stages: &mut [Stage], turn: &mut Turn<'_>) {
    let (Some((placed, line)), Some((stage, stages))) = (line.split_first(), stages.split_first_mut()) else {
        return;
    };
    let mut rest = Rest {
        own: placed,
        line,
        stages,
    };
    if !stage.is_over {
        turn.flush();
        let now = turn.now;
        match (&placed.step, &mut stage.state) {
            (_, State::Held(held, until) | State::Window(held, until, _))
                if until.is_some_and(|until| until <= now) =>
            {
                *until = None;
                if held.count > 0 {
                    rest.combined(held.take(), turn);
                }
            }
            (Step::GroupBy { idle, .. }, State::GroupBy(groups)) => {
                while groups.deadline(*idle).is_some_and(|deadline| deadline <= now) {
                    let ended = groups.end_oldest(None).unwrap_or_default();
                    rest.combined(ended, turn);
                }
            }
            (Step::Chain(branches), State::Branches(at, lines)) => {
                if let Some((branch, stages)) = branches.get(*at).zip(lines.get_mut(*at)) {
                    rest.branch(None, turn, |turn| tick(branch, stages, turn));
                    *at += usize::from(stage::end_if_over(stages));
                    stage.is_over = *at == branches.len();
                }
            }
            (Step::Join(branches), State::Branches(_, lines)) => {
                for (branch, stages) in branches.iter().zip(lines.iter_mut()) {
                    rest.branch(None, turn, |turn| tick(branch, stages, turn));
                    stage::end_if_over(stages);
                }
                stage.is_over = lines.iter().all(|stages| stage::is_over(stages));
            }
            _ => {}
        }
        if stage.is_over {
            return rest.finish(turn);
        }
    }
    tick(rest.line, rest.stages, turn);
}

/// Ends a line.
pub(super) fn finish(line: &[Placed], stages: &mut [Stage], turn: &mut Turn<'_>) {
    let (Some((placed, line)), Some((stage, stages))) = (line.split_first(), stages.split_first_mut()) else {
        return;
    };
    if stage.is_over {
        return;
    }
    stage.is_over = true;
    let renewals = turn.flush();
    let mut rest = Rest {
        own: placed,
        line,
        stages,
    };
    match (&placed.step, std::mem::replace(&mut stage.state, State::None)) {
        (_, State::Reduce(folded)) => rest.made(&folded, turn),
        (Step::ToArray { .. }, State::Held(mut held, _)) => rest.combined(held.take(), turn),
        (_, State::Held(mut held, _) | State::Window(mut held, ..)) if held.count > 0 => {
            rest.combined(held.take(), turn);
        }
        (_, State::GroupBy(mut groups)) => {
            while let Some(ended) = groups.end_oldest(None) {
                rest.combined(ended, turn);
            }
        }
        (Step::Chain(branches), State::Branches(at, mut lines)) => {
            for (branch, stages) in branches.iter().zip(lines.iter_mut()).skip(at) {
                rest.branch(None, turn, |turn| finish(branch, stages, turn));
            }
        }
        (Step::Join(branches), State::Branches(_, mut lines)) => {
            for (branch, stages) in branches.iter().zip(lines.iter_mut()) {
                rest.branch(None, turn, |turn| finish(branch, stages, turn));
            }
        }
        _ => {}
    }
    rest.finish(turn);
    turn.resume(renewals);
}

/// What a step does with an item.
fn accept(
    step: &Step,
    stage: &mut Stage,
    item: &Item<'_>,
    rest: &mut Rest<'_>,
    turn: &mut Turn<'_>,
) -> Result<(), FaultReason> {
    match (step, &mut stage.state) {
        (Step::Filter(condition), _) => {
            let passes = decide::passes(condition, item, turn)?;
            if passes {
                rest.feed(item, turn);
            }
        }
        (Step::Map(of), _) => {
            let made = turn.json(of, item, None)?;
            rest.feed(&Item::made(item.kind, item.id, &made), turn);
        }
        (Step::Flat(of), _) => {
            for text in decide::elements(of, item, turn)? {
                // What is over takes no more of them.
                if !stage::is_over(rest.stages) {
                    match turn.checked(text) {
                        Ok(made) => rest.feed(&Item::made(item.kind, item.id, &made), turn),
                        Err(reason) => turn.fault(rest.own, reason),
                    }
                }
            }
        }
        (Step::Take(_), State::Take(left)) => {
            *left = left.saturating_sub(1);
            stage.is_over = *left == 0;
            rest.feed(item, turn);
            if stage.is_over {
                rest.finish(turn);
            }
        }
        (Step::Reduce { with, .. }, State::Reduce(folded)) => *folded = turn.json(with, item, Some(folded))?,
        (Step::ToArray { most }, State::Held(held, _)) => {
            if !decide::has_room(held, *most, item, turn)? {
                // A list with a hole would look whole, so there is none.
                (stage.is_over, stage.state) = (true, State::None);
                turn.fault(
                    rest.own,
                    FaultReason::TooLarge(format!("there are more than {most} items, or too large ones")),
                );
                rest.finish(turn);
                return Ok(());
            }
            held.add(item.text());
        }
        (Step::Batch { size, every }, State::Held(held, until)) => {
            rest.lists(decide::gather(*size, held, item, turn), turn)?;
            match held.count {
                0 => *until = None,
                1 => *until = every.map(|every| turn.now + every),
                _ => {}
            }
        }
        (Step::Window(span), State::Window(held, until, base)) => window(*span, (held, until, base), item, rest, turn)?,
        (Step::Dedupe { key, count, time }, State::Dedupe(recent)) => {
            let (key, _) = decide::texts_of_key(key, item, turn)?;
            let most = Share {
                items: *count,
                ..turn.share
            };
            if recent.is_new(&key, turn.now, *time, most) {
                rest.feed(item, turn);
            }
        }
        (Step::GroupBy { .. }, State::GroupBy(groups)) => rest.lists(decide::group(step, groups, item, turn), turn)?,
        (Step::Chain(_) | Step::Join(_), _) => branch(step, stage, item, rest, turn),
        _ => {}
    }
    Ok(())
}

/// What a step with branches does with an item.
fn branch(step: &Step, stage: &mut Stage, item: &Item<'_>, rest: &mut Rest<'_>, turn: &mut Turn<'_>) {
    match (step, &mut stage.state) {
        (Step::Chain(branches), State::Branches(at, lines)) => {
            if let Some((branch, stages)) = branches.get(*at).zip(lines.get_mut(*at)) {
                rest.branch(Some(item), turn, |turn| feed(branch, stages, item, turn));
                *at += usize::from(stage::end_if_over(stages));
            }
            stage.is_over = *at >= branches.len();
        }
        (Step::Join(branches), State::Branches(_, lines)) => {
            for (branch, stages) in branches.iter().zip(lines.iter_mut()) {
                rest.branch(Some(item), turn, |turn| feed(branch, stages, item, turn));
                stage::end_if_over(stages);
            }
            stage.is_over = lines.iter().all(|stages| stage::is_over(stages));
        }
        _ => {}
    }
    if stage.is_over {
        rest.finish(turn);
    }
}

/// What a window does with an item.
fn window(
    span: Span,
    (held, until, base): (&mut Held, &mut Option<Instant>, &mut Option<Instant>),
    item: &Item<'_>,
    rest: &mut Rest<'_>,
    turn: &mut Turn<'_>,
) -> Result<(), FaultReason> {
    let size = match span {
        Span::Count(count) => count,
        Span::Time(_) => turn.share.items,
    };
    let lists = decide::gather(size, held, item, turn);
    if let Span::Time(every) = span {
        let base = *base.get_or_insert(turn.now);
        let into = turn.now.saturating_duration_since(base).as_nanos() % every.as_nanos().max(1);
        let into = Duration::from_nanos(u64::try_from(into).unwrap_or(0));
        *until = (held.count > 0).then(|| turn.now + (every - into));
    }
    rest.lists(lists, turn)
}

// === impl Rest ===

impl Rest<'_> {
    fn feed(&mut self, item: &Item<'_>, turn: &mut Turn<'_>) {
        if self.line.is_empty() {
            turn.emit(Some(self.own), item);
        } else {
            feed(self.line, self.stages, item, turn);
        }
    }

    fn finish(&mut self, turn: &mut Turn<'_>) {
        finish(self.line, self.stages, turn);
    }

    /// Feeds what was made of several items. It may cost as much as an event.
    fn made(&mut self, payload: &RawJson, turn: &mut Turn<'_>) {
        turn.renew();
        let (kind, id) = turn.subject();
        self.feed(&Item::made(kind, id, payload), turn);
    }

    fn combined(&mut self, text: String, turn: &mut Turn<'_>) {
        match turn.checked(text) {
            Ok(payload) => self.made(&payload, turn),
            Err(reason) => turn.fault(self.own, reason),
        }
    }

    /// Feeds the lists that were full, and hands on why an item is in none.
    fn lists(&mut self, lists: Lists, turn: &mut Turn<'_>) -> Result<(), FaultReason> {
        for text in lists.full {
            self.combined(text, turn);
        }
        lists.item
    }

    /// Feeds what comes out of a branch. `item` is the one that was fed to it.
    fn branch(&mut self, item: Option<&Item<'_>>, turn: &mut Turn<'_>, act: impl FnOnce(&mut Turn<'_>)) {
        let before = std::mem::take(&mut turn.out);
        act(turn);
        let outputs = std::mem::replace(&mut turn.out, before);
        for output in outputs {
            match (output, item) {
                (PipelineOutput::Unchanged, Some(item)) => self.feed(item, turn),
                (PipelineOutput::Made(made), _) => self.feed(&Item::made(&made.kind, &made.id, &made.payload), turn),
                (fault @ PipelineOutput::Fault(_), _) => turn.out.push(fault),
                (PipelineOutput::Unchanged, None) => {}
            }
        }
    }
}
