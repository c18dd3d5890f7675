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

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object};
use serde_json::{Map, Number, Value};
use tokio::time::Instant;

use super::equality::{equal, weight, write_canonical};

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
pub(super) struct Seen<'a>(pub(super) &'a Value);

/// An object.
pub(super) struct Members<'a>(&'a Map<String, Value>);

/// An array.
pub(super) struct Elements<'a>(&'a [Value]);

pub(super) struct MembersIter<'a>(serde_json::map::Iter<'a>);

pub(super) struct ElementsIter<'a>(std::slice::Iter<'a, Value>);

// === impl Metered ===

impl Json for Metered {
    type Node<'a> = Seen<'a>;
    type PreparedKey = String;
    type StringBuffer = Value;

    // Like the representation of plain values: a look-up walks a B-tree.
    const KEYS_PER_LOOKUP: usize = 2;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Value, string: &str, f: impl FnOnce(Seen<'_>) -> T) -> T {
        *buffer = Value::String(string.to_owned());
        f(Seen(buffer))
    }
}

// === impl Seen ===

impl<'a> Node<'a, Metered> for Seen<'a> {
    type Object = Members<'a>;
    type Array = Elements<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<Members<'a>> {
        self.0.as_object().filter(|_| spend(1)).map(Members)
    }

    fn as_array(&self) -> Option<Elements<'a>> {
        let items = self.0.as_array().filter(|_| spend(1));
        items.map(|items| Elements(items))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let text = self.0.as_str()?;
        let go_on = spend(of_text(text)) && METER.with(|meter| meter.match_text(text));
        go_on.then_some(Cow::Borrowed(text))
    }

    fn as_number(&self) -> Option<&'a Number> {
        self.0.as_number().filter(|_| spend(1))
    }

    fn as_boolean(&self) -> Option<bool> {
        self.0.as_bool().filter(|_| spend(1))
    }

    fn is_null(&self) -> bool {
        !spend(1) || self.0.is_null()
    }

    fn json_type(&self) -> JsonType {
        if !spend(1) {
            return JsonType::Null;
        }
        match self.0 {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn string_length(&self) -> Option<u64> {
        let text = self.0.as_str().filter(|text| spend(of_text(text)))?;
        Some(text.chars().count() as u64)
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
        Cow::Borrowed(self.0)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        spend(1);
        Some(NodeIdentity::new(std::ptr::from_ref(self.0).addr()))
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
        Some((key, Seen(value)))
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
            spend(weight(item)) && write_canonical(item, &mut text) && known.insert(text)
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
