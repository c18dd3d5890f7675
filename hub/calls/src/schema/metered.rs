//! JSON as the validator sees it: every look at a value costs steps, and who has none left sees nothing more.
//!
//! Invariants
//! - A check ends soon after its steps are spent: the values that are left look empty, so nothing is descended into.
//! - A step is about as much work as reading one value, or as much memory as one byte.
//! - The meter is of the thread: a check runs to its end on one thread and starts no other check.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::time::Duration;

use alkhub_protocol::json::tree::{Members as TreeMembers, Number, Tree};
use jsonschema::JsonType;
use jsonschema::json::{Array, Json, JsonNumber, Node, NodeIdentity, Object};
use serde_json::Value;
use tokio::time::Instant;

use super::equality::{equal, to_value, weight, write_canonical};

/// Steps that every check has, and those that each byte of the value adds.
const STEPS: u64 = 2_000_000;
const STEPS_PER_BYTE: u64 = 16;

/// What an error costs that the validator builds: its paths are what takes memory.
const STEPS_PER_ERROR: u64 = 1_000;
const ERROR_PATH_DEPTH: u64 = 64;

/// How much of the stack a check may take.
const STACK_LIMIT_BYTES: usize = 512 * 1024;

/// How long the patterns of one check may run together; a single match has a limit of its own.
const PATTERN_TIME: Duration = Duration::from_secs(1);

/// What a schema allows to one check.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tariff {
    /// Steps for a look at a member or an item: how many subschemas may apply to it without looking themselves.
    pub(super) child: u64,
    /// Longest string that its patterns are matched with; `None` where it has none.
    pub(super) pattern_bytes: Option<usize>,
}

/// Why a check was not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    /// Its steps, its stack or the time of its patterns.
    Steps,
    /// All that was left went into the list of faults.
    Errors,
    /// A string is longer than the patterns of the schema may be matched with.
    Pattern,
    /// A number that 64 bits would round is compared with one of the schema's.
    Number,
}

struct Meter {
    left: Cell<u64>,
    spent: Cell<Option<Spent>>,
    tariff: Cell<Tariff>,
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

/// Runs a check of a value of that many bytes; answers what it answered and whether it saw all it wanted to see.
pub(super) fn run<T>(tariff: Tariff, bytes: usize, check: impl FnOnce() -> T) -> (T, Option<Spent>) {
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

/// About where the stack is.
#[inline(never)]
fn stack() -> usize {
    let here = 0_u8;
    std::ptr::from_ref(&here).addr()
}

// === impl Meter ===

impl Meter {
    /// Takes steps; false when there are not enough left.
    fn spend(&self, steps: u64, on: Spent) -> bool {
        if self.spent.get().is_some() {
            return false;
        }
        match self.left.get().checked_sub(steps) {
            Some(left) if self.stack.get().abs_diff(stack()) < STACK_LIMIT_BYTES => {
                self.left.set(left);
                true
            }
            _ => {
                self.spent.set(Some(on));
                false
            }
        }
    }

    /// Whether a text may be matched with the patterns of the schema.
    fn match_text(&self, text: &str) -> bool {
        let Some(longest) = self.tariff.get().pattern_bytes else {
            return true;
        };
        let now = Instant::now();
        let until = self.patterns_until.get().unwrap_or_else(|| now + PATTERN_TIME);
        self.patterns_until.set(Some(until));
        if text.len() > longest {
            self.spent.set(Some(Spent::Pattern));
        } else if now > until {
            self.spent.set(Some(Spent::Steps));
        }
        self.spent.get().is_none()
    }
}

pub(super) fn spend(steps: u64) -> bool {
    METER.with(|meter| meter.spend(steps, Spent::Steps))
}

/// For a look at a member or an item.
fn descend() -> bool {
    METER.with(|meter| meter.spend(meter.tariff.get().child, Spent::Steps))
}

fn note_key(key: &str) {
    METER.with(|meter| meter.longest_key.set(meter.longest_key.get().max(key.len() as u64)));
}

/// Steps for reading a text.
pub(super) fn of_text(text: &str) -> u64 {
    1 + text.len() as u64 / 64
}

/// The representation.
pub(super) struct Metered;

/// A value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a>(pub(super) &'a Tree<'a>);

/// A number. Its type is judged by what is written; it is compared as 64 bits, and refused where these would round it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenNumber<'a>(Number<'a>);

/// An object.
pub(super) struct Members<'a>(&'a TreeMembers<'a>);

/// An array.
pub(super) struct Elements<'a>(&'a [Tree<'a>]);

pub(super) struct MembersIter<'a>(std::slice::Iter<'a, (Cow<'a, str>, Tree<'a>)>);

pub(super) struct ElementsIter<'a>(std::slice::Iter<'a, Tree<'a>>);

/// Holds a string that is looked at as a value.
#[derive(Default)]
pub(super) struct Buffer(Option<Tree<'static>>);

// === impl Metered ===

impl Json for Metered {
    type Node<'a> = Seen<'a>;
    type PreparedKey = String;
    type StringBuffer = Buffer;

    // A look-up is a binary search.
    const KEYS_PER_LOOKUP: usize = 2;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Buffer, string: &str, f: impl FnOnce(Seen<'_>) -> T) -> T {
        f(Seen(buffer.0.insert(Tree::String(Cow::Owned(string.to_owned())))))
    }
}

// === impl Seen ===

impl<'a> Node<'a, Metered> for Seen<'a> {
    type Object = Members<'a>;
    type Array = Elements<'a>;
    type Number = SeenNumber<'a>;

    fn as_object(&self) -> Option<Members<'a>> {
        match self.0 {
            Tree::Object(members) => spend(1).then_some(Members(members)),
            _ => None,
        }
    }

    fn as_array(&self) -> Option<Elements<'a>> {
        match self.0 {
            Tree::Array(items) => spend(1).then_some(Elements(items)),
            _ => None,
        }
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let Tree::String(text) = self.0 else { return None };
        let go_on = spend(of_text(text)) && METER.with(|meter| meter.match_text(text));
        go_on.then_some(Cow::Borrowed(text))
    }

    fn as_number(&self) -> Option<SeenNumber<'a>> {
        match self.0 {
            Tree::Number(number) => spend(of_text(number.as_str())).then_some(SeenNumber(*number)),
            _ => None,
        }
    }

    fn as_boolean(&self) -> Option<bool> {
        match self.0 {
            Tree::Bool(value) => spend(1).then_some(*value),
            _ => None,
        }
    }

    fn is_null(&self) -> bool {
        !spend(1) || *self.0 == Tree::Null
    }

    fn json_type(&self) -> JsonType {
        if !spend(1) {
            return JsonType::Null;
        }
        match self.0 {
            Tree::Null => JsonType::Null,
            Tree::Bool(_) => JsonType::Boolean,
            Tree::Number(_) => JsonType::Number,
            Tree::String(_) => JsonType::String,
            Tree::Array(_) => JsonType::Array,
            Tree::Object(_) => JsonType::Object,
        }
    }

    fn string_length(&self) -> Option<u64> {
        match self.0 {
            Tree::String(text) => spend(of_text(text)).then(|| text.chars().count() as u64),
            _ => None,
        }
    }

    fn equals_value(&self, expected: &Value) -> bool {
        equal(self.0, expected)
    }

    /// For errors only, which must be about the value itself even when nothing is left.
    fn to_value(&self) -> Cow<'a, Value> {
        METER.with(|meter| {
            if meter.spent.get().is_none() {
                let path = ERROR_PATH_DEPTH * meter.longest_key.get();
                meter.spend(STEPS_PER_ERROR + path + weight(self.0), Spent::Errors);
            }
        });
        Cow::Owned(to_value(self.0))
    }

    fn identity(&self) -> Option<NodeIdentity> {
        spend(1);
        Some(NodeIdentity::new(std::ptr::from_ref(self.0).addr()))
    }
}

// === impl SeenNumber ===

impl SeenNumber<'_> {
    /// The number, unless comparing it as 64 bits would compare another one: the check ends then.
    fn comparable(&self) -> Option<Number<'_>> {
        if self.0.fits_64_bits() {
            return Some(self.0);
        }
        METER.with(|meter| meter.spent.set(meter.spent.get().or(Some(Spent::Number))));
        None
    }
}

impl JsonNumber for SeenNumber<'_> {
    fn as_u64(&self) -> Option<u64> {
        self.comparable()?.as_str().parse().ok()
    }

    fn as_i64(&self) -> Option<i64> {
        self.comparable()?.as_str().parse().ok()
    }

    fn as_f64(&self) -> Option<f64> {
        self.comparable().map(|number| number.to_f64())
    }

    fn as_str(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.0.as_str())
    }

    fn to_number(&self) -> Cow<'_, serde_json::Number> {
        Cow::Owned(super::equality::to_number(self.0))
    }

    fn is_integer(&self) -> bool {
        self.0.decimal().is_some_and(|decimal| decimal.is_whole())
    }

    fn is_written_as_integer(&self) -> bool {
        !self.0.as_str().contains(['.', 'e', 'E'])
    }
}

// === impl Members ===

impl<'a> Object<'a, Metered> for Members<'a> {
    type Node = Seen<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<Seen<'a>> {
        if !descend() {
            return None;
        }
        note_key(key);
        self.0.get(key).map(Seen)
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter(self.0.iter())
    }
}

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, Seen<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.0.next()?;
        if !descend() || !spend(of_text(key)) || !METER.with(|meter| meter.match_text(key)) {
            return None;
        }
        note_key(key);
        Some((key.as_ref(), Seen(value)))
    }
}

// === impl Elements ===

impl<'a> Array<'a, Metered> for Elements<'a> {
    type Node = Seen<'a>;
    type ElementsIter = ElementsIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> ElementsIter<'a> {
        ElementsIter(self.0.iter())
    }

    /// In linear time: the crate's own comparison is by a hash in which nested arrays collide.
    fn is_unique(&self) -> bool {
        let mut known = HashSet::with_capacity(self.0.len());
        self.0.iter().all(|item| {
            let mut text = Vec::new();
            write_canonical(item, &mut text);
            spend(weight(item)) && known.insert(text)
        })
    }
}

impl<'a> Iterator for ElementsIter<'a> {
    type Item = Seen<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.0.next()?;
        descend().then_some(Seen(item))
    }
}
