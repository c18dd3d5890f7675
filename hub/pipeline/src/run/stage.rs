//! What each step keeps during a run.

use alkhub_protocol::RawJson;
use tokio::time::Instant;

use super::groups::Groups;
use super::held::Held;
use super::recent::Recent;
use crate::step::{Placed, Step};

/// The state of one step.
#[derive(Debug)]
pub(super) struct Stage {
    /// Whether it takes no more items. Those after it have got what it kept, and are over too.
    pub(super) is_over: bool,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// Nothing.
    None,
    /// How many items may still pass.
    Take(u64),
    /// What items were folded into.
    Reduce(RawJson),
    /// A list, and when it must be emitted.
    Held(Held, Option<Instant>),
    /// A list, and the moment from which windows are counted.
    Window(Held, Option<Instant>, Option<Instant>),
    Dedupe(Recent),
    GroupBy(Groups),
    /// The branches; of a chain, the number of the one that runs.
    Branches(usize, Vec<Vec<Stage>>),
}

/// The states of a line of steps before the first event.
pub(super) fn stages(line: &[Placed]) -> Vec<Stage> {
    let stages = line.iter().map(|placed| Stage {
        is_over: false,
        state: state(&placed.step),
    });
    stages.collect()
}

fn state(step: &Step) -> State {
    match step {
        Step::Filter(_) | Step::Map(_) | Step::Flat(_) => State::None,
        Step::Take(count) => State::Take(*count),
        Step::Reduce { from, .. } => State::Reduce(from.clone()),
        Step::ToArray { .. } | Step::Batch { .. } => State::Held(Held::default(), None),
        Step::Window(_) => State::Window(Held::default(), None, None),
        Step::Dedupe { .. } => State::Dedupe(Recent::default()),
        Step::GroupBy { .. } => State::GroupBy(Groups::default()),
        Step::Chain(branches) | Step::Join(branches) => {
            State::Branches(0, branches.iter().map(|branch| stages(branch)).collect())
        }
    }
}

/// Whether nothing comes out of a line any more.
pub(super) fn is_over(stages: &[Stage]) -> bool {
    stages.iter().any(|stage| stage.is_over)
}

/// Frees what a line keeps that is over; says whether it is.
pub(super) fn end_if_over(stages: &mut [Stage]) -> bool {
    let is_over = is_over(stages);
    if is_over {
        for stage in stages {
            (stage.is_over, stage.state) = (true, State::None);
        }
    }
    is_over
}

/// When the first wait of a line has passed.
pub(super) fn deadline(line: &[Placed], stages: &[Stage]) -> Option<Instant> {
    let live = line.iter().zip(stages).filter(|(_, stage)| !stage.is_over);
    live.filter_map(|(placed, stage)| match (&placed.step, &stage.state) {
        (_, State::Held(_, until) | State::Window(_, until, _)) => *until,
        (Step::GroupBy { idle, .. }, State::GroupBy(groups)) => groups.deadline(*idle),
        (Step::Chain(branches), State::Branches(at, stages)) => {
            let (branch, stages) = branches.get(*at).zip(stages.get(*at))?;
            deadline(branch, stages)
        }
        (Step::Join(branches), State::Branches(_, lines)) => {
            let branches = branches.iter().zip(lines).filter(|(_, stages)| !is_over(stages));
            branches.filter_map(|(branch, stages)| deadline(branch, stages)).min()
        }
        _ => None,
    })
    .min()
}

/// Items and keys that are kept, and their bytes.
pub(super) fn kept(stages: &[Stage]) -> (usize, usize) {
    let each = stages.iter().map(|stage| match &stage.state {
        State::None | State::Take(_) | State::Reduce(_) => (0, 0),
        State::Held(held, _) | State::Window(held, ..) => (held.count, held.bytes()),
        State::Dedupe(recent) => recent.kept(),
        State::GroupBy(groups) => {
            let (_, items, bytes) = groups.size();
            (items, bytes)
        }
        State::Branches(_, lines) => {
            let all = lines.iter().map(|stages| kept(stages));
            all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
        }
    });
    each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}
