//! The steps that a check may take, and its other bounds: the stack, and the time for its patterns.
//!
//! Invariants
//! - A step is roughly as much work as reading one value, or as much memory as one byte.
//! - A check that was given up has no steps left, so that every further look is refused too.
//! - The meter belongs to the thread: a check runs to its end on one thread and starts no other check.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// The steps that every check has, and those that each byte of the value adds.
const STEPS: u64 = 2_000_000;
const STEPS_PER_BYTE: u64 = 16;

/// The cost of an error that the validator builds: its paths are what takes memory.
const STEPS_PER_ERROR: u64 = 1_000;
const ERROR_PATH_DEPTH: u64 = 64;

/// How much of the stack a check may use.
const STACK_LIMIT_BYTES: usize = 512 * 1024;

/// How long the patterns of one check may run in total; a single match has a limit of its own.
const PATTERN_TIME: Duration = Duration::from_secs(1);

/// What looking at values costs during a check, depending on its schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tariff {
    /// Steps for looking at a member or an item, 1 or more: the number of subschemas that may apply to it without
    /// looking themselves.
    pub(crate) child: u64,
    /// The longest string that its patterns are matched with, in bytes; `None` if it has none.
    pub(crate) pattern_bytes: Option<usize>,
}

/// Why a check was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// Its steps, its stack or the time for its patterns ran out.
    Steps,
    /// Everything that was left went into the list of faults.
    Errors,
    /// A string is longer than the schema's patterns may be matched with.
    Pattern,
    /// A number that 64 bits would round is compared with one of the schema's.
    Number,
}

struct Meter {
    left: Cell<u64>,
    spent: Cell<Option<Spent>>,
    tariff: Cell<Tariff>,
    /// The position of the stack when the check began.
    stack: Cell<usize>,
    patterns_until: Cell<Option<Instant>>,
    longest_key: Cell<u64>,
}

thread_local! {
    static METER: Meter = const {
        Meter {
            left: Cell::new(0),
            spent: Cell::new(None),
            tariff: Cell::new(Tariff { child: 1, pattern_bytes: None }),
            stack: Cell::new(0),
            patterns_until: Cell::new(None),
            longest_key: Cell::new(0),
        }
    };
}

/// Runs a check of a value of `bytes` bytes; returns its result, and why it was given up, if it was.
pub(crate) fn run<T>(tariff: Tariff, bytes: usize, check: impl FnOnce() -> T) -> (T, Option<Spent>) {
    METER.with(|meter| {
        meter.left.set(STEPS + STEPS_PER_BYTE * bytes as u64);
        meter.spent.set(None);
        meter.tariff.set(tariff);
        meter.stack.set(stack());
        meter.patterns_until.set(None);
        meter.longest_key.set(0);
    });
    let answer = check();
    (answer, METER.with(|meter| meter.spent.get()))
}

/// Takes `steps` steps; false if there are not enough left.
#[inline]
pub(crate) fn spend(steps: u64) -> bool {
    METER.with(|meter| meter.spend(steps, Spent::Steps))
}

/// Takes the steps for looking at a member or an item.
#[inline]
pub(crate) fn descend() -> bool {
    METER.with(|meter| meter.spend(meter.tariff.get().child, Spent::Steps))
}

/// Takes the steps for an error about a value, whose weight is not computed any more once the check was given up.
pub(crate) fn spend_on_error(weight: impl FnOnce() -> u64) {
    METER.with(|meter| {
        if meter.left.get() > 0 {
            let path = ERROR_PATH_DEPTH * meter.longest_key.get();
            meter.spend(STEPS_PER_ERROR + path + weight(), Spent::Errors);
        }
    });
}

/// Whether a text may be matched with the schema's patterns.
#[inline]
pub(crate) fn may_match(text: &str) -> bool {
    METER.with(|meter| match meter.tariff.get().pattern_bytes {
        None => true,
        Some(longest) => meter.may_match(text, longest),
    })
}

/// Gives the check up.
pub(crate) fn give_up(why: Spent) {
    METER.with(|meter| meter.give_up(why));
}

/// Notes the name of a member: the longest name bounds the size of an error's path.
#[inline]
pub(crate) fn note_key(key: &str) {
    METER.with(|meter| meter.longest_key.set(meter.longest_key.get().max(key.len() as u64)));
}

/// Steps for reading a text.
#[inline]
pub(crate) fn of_text(text: &str) -> u64 {
    1 + text.len() as u64 / 64
}

/// The approximate position of the stack.
#[inline(always)]
fn stack() -> usize {
    let here = 0_u8;
    std::ptr::from_ref(&here).addr()
}

// === impl Meter ===

impl Meter {
    #[inline]
    fn spend(&self, steps: u64, on: Spent) -> bool {
        match self.left.get().checked_sub(steps) {
            Some(left) if self.stack.get().abs_diff(stack()) < STACK_LIMIT_BYTES => {
                self.left.set(left);
                true
            }
            _ => {
                self.give_up(on);
                false
            }
        }
    }

    /// Only the first reason counts.
    #[cold]
    fn give_up(&self, why: Spent) {
        self.left.set(0);
        self.spent.set(self.spent.get().or(Some(why)));
    }

    fn may_match(&self, text: &str, longest: usize) -> bool {
        let now = Instant::now();
        let until = self.patterns_until.get().unwrap_or_else(|| now + PATTERN_TIME);
        self.patterns_until.set(Some(until));
        if text.len() > longest {
            self.give_up(Spent::Pattern);
        } else if now > until {
            self.give_up(Spent::Steps);
        }
        self.spent.get().is_none()
    }
}
