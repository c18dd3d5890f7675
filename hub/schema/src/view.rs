//! JSON as the validator sees it: every look at a value is paid for at the meter, and a check that was given up sees
//! nothing more.
//!
//! Invariants
//! - A check ends soon after its steps are spent: the remaining values look empty, so nothing is descended into.

use std::borrow::Cow;
use std::collections::HashSet;

use alkhub_protocol::json::tree::{Members, Number, Tree};
use jsonschema::JsonType;
use jsonschema::json::{Array, Json, JsonNumber, Node, NodeIdentity, Object};
use serde_json::Value;

use crate::equality::{equal, weight, write_canonical};
use crate::meter::{Spent, descend, give_up, may_match, note_key, of_text, spend, spend_on_error};
use crate::number::{to_number, to_value};

/// The representation.
pub(crate) struct Metered;

/// A value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ValueView<'a>(pub(crate) &'a Tree<'a>);

/// A number. Its type is judged by its text; it is compared as 64 bits, and refused if these would round it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NumberView<'a>(Number<'a>);

/// An object.
pub(crate) struct ObjectView<'a>(&'a Members<'a>);

/// An array.
pub(crate) struct ArrayView<'a>(&'a [Tree<'a>]);

pub(crate) struct MembersView<'a>(std::slice::Iter<'a, (Cow<'a, str>, Tree<'a>)>);

pub(crate) struct ElementsView<'a>(std::slice::Iter<'a, Tree<'a>>);

/// Holds a string that is viewed as a value.
#[derive(Default)]
pub(crate) struct Buffer(Option<Tree<'static>>);

// === impl Metered ===

impl Json for Metered {
    type Node<'a> = ValueView<'a>;
    type PreparedKey = String;
    type StringBuffer = Buffer;

    // A look-up is a binary search.
    const KEYS_PER_LOOKUP: usize = 2;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Buffer, string: &str, f: impl FnOnce(ValueView<'_>) -> T) -> T {
        f(ValueView(buffer.0.insert(Tree::String(Cow::Owned(string.to_owned())))))
    }
}

// === impl ValueView ===

impl<'a> Node<'a, Metered> for ValueView<'a> {
    type Object = ObjectView<'a>;
    type Array = ArrayView<'a>;
    type Number = NumberView<'a>;

    fn as_object(&self) -> Option<ObjectView<'a>> {
        match self.0 {
            Tree::Object(members) => spend(1).then_some(ObjectView(members)),
            _ => None,
        }
    }

    fn as_array(&self) -> Option<ArrayView<'a>> {
        match self.0 {
            Tree::Array(items) => spend(1).then_some(ArrayView(items)),
            _ => None,
        }
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let Tree::String(text) = self.0 else { return None };
        let go_on = spend(of_text(text)) && may_match(text);
        go_on.then_some(Cow::Borrowed(text))
    }

    fn as_number(&self) -> Option<NumberView<'a>> {
        match self.0 {
            Tree::Number(number) => spend(of_text(number.as_str())).then_some(NumberView(*number)),
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

    /// For errors only, which must be about the value itself even if no steps are left.
    fn to_value(&self) -> Cow<'a, Value> {
        spend_on_error(|| weight(self.0));
        Cow::Owned(to_value(self.0))
    }

    fn identity(&self) -> Option<NodeIdentity> {
        spend(1);
        Some(NodeIdentity::new(std::ptr::from_ref(self.0).addr()))
    }
}

// === impl NumberView ===

impl NumberView<'_> {
    /// The number, unless comparing it as 64 bits would compare a different one: then the check ends.
    fn comparable(&self) -> Option<Number<'_>> {
        if self.0.fits_64_bits() {
            return Some(self.0);
        }
        give_up(Spent::Number);
        None
    }
}

impl JsonNumber for NumberView<'_> {
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
        Cow::Owned(to_number(self.0))
    }

    fn is_integer(&self) -> bool {
        self.0.decimal().is_some_and(|decimal| decimal.is_whole())
    }

    fn is_written_as_integer(&self) -> bool {
        !self.0.as_str().contains(['.', 'e', 'E'])
    }
}

// === impl ObjectView ===

impl<'a> Object<'a, Metered> for ObjectView<'a> {
    type Node = ValueView<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersView<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<ValueView<'a>> {
        if !descend() {
            return None;
        }
        note_key(key);
        self.0.get(key).map(ValueView)
    }

    fn members(&self) -> MembersView<'a> {
        MembersView(self.0.iter())
    }
}

impl<'a> Iterator for MembersView<'a> {
    type Item = (&'a str, ValueView<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.0.next()?;
        if !descend() || !spend(of_text(key)) || !may_match(key) {
            return None;
        }
        note_key(key);
        Some((key.as_ref(), ValueView(value)))
    }
}

// === impl ArrayView ===

impl<'a> Array<'a, Metered> for ArrayView<'a> {
    type Node = ValueView<'a>;
    type ElementsIter = ElementsView<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> ElementsView<'a> {
        ElementsView(self.0.iter())
    }

    /// In linear time: the crate's own comparison uses a hash in which nested arrays collide.
    fn is_unique(&self) -> bool {
        let mut known = HashSet::with_capacity(self.0.len());
        self.0.iter().all(|item| {
            let mut text = Vec::new();
            write_canonical(item, &mut text);
            spend(weight(item)) && known.insert(text)
        })
    }
}

impl<'a> Iterator for ElementsView<'a> {
    type Item = ValueView<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.0.next()?;
        descend().then_some(ValueView(item))
    }
}
