//! A JSON value as it was written: numbers as text, members by name, a second member of one name refused.
//!
//! `serde_json::Value` rounds numbers to 64 bits and keeps the last of two members of one name, so a check of it would
//! not see what the value's reader gets.
//!
//! Invariants
//! - Nothing is rounded: [`Number`] is the text of the token.
//! - A value with two members of one name, or with half of a surrogate pair, has no tree.
//! - Strings without escapes are borrowed.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use super::{Error as JsonError, RawJson, depth, string_len};
use crate::FRAME_DEPTH_LIMIT;

/// One JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number<'a>),
    /// A string, without its escapes.
    String(Cow<'a, str>),
    /// An array.
    Array(Vec<Tree<'a>>),
    /// An object's members, sorted by name.
    Object(Members<'a>),
}

/// The members of an object, sorted by name; no two have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members<'a>(Vec<(Cow<'a, str>, Tree<'a>)>);

/// A number's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<'a>(&'a str);

/// A number by its value: `sign * digits * 10^exponent`, with no zero at either end of the digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Decimal {
    /// Whether it is below zero.
    pub negative: bool,
    /// Significant digits; empty for zero.
    pub digits: String,
    /// Power of ten of the last digit; 0 for zero.
    pub exponent: i64,
}

/// Why a text has no tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// It is not JSON, or nests too deep.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The object at `path` (a JSON pointer) has the member `name` more than once.
    #[error("the object at `{path}` has the member `{name}` twice")]
    Duplicate {
        /// JSON pointer of the object; empty for the value itself.
        path: String,
        /// The member's name.
        name: String,
    },
    /// The string at `path` (a JSON pointer) is not Unicode text.
    #[error("the string at `{path}` has half of a surrogate pair, which is no character")]
    Surrogate {
        /// JSON pointer of the string, or of the object whose member has such a name.
        path: String,
    },
}

/// Reads one value from the front of a text that is known to be JSON.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// A fault and the way to it, innermost segment first.
struct Fault {
    kind: FaultKind,
    path: Vec<String>,
}

enum FaultKind {
    Duplicate(String),
    Surrogate,
}

// === impl Tree ===

impl<'a> Tree<'a> {
    /// Reads a text, which may be nested as deep as a whole message.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn parse(text: &'a [u8]) -> Result<Self, TreeError> {
        depth(text, FRAME_DEPTH_LIMIT)?;
        let raw: &RawValue = serde_json::from_slice(text).map_err(JsonError::Syntax)?;
        Self::read(raw.get())
    }

    /// Reads a value that was checked for syntax and depth when it came in.
    ///
    /// # Errors
    /// [`TreeError::Duplicate`] and [`TreeError::Surrogate`].
    pub fn of(json: &'a RawJson) -> Result<Self, TreeError> {
        Self::read(json.as_str())
    }

    fn read(json: &'a str) -> Result<Self, TreeError> {
        let mut reader = Reader { text: json, at: 0 };
        reader.value().map_err(TreeError::from)
    }

    /// The value under a name, if this is an object that has it.
    pub fn get(&self, name: &str) -> Option<&Tree<'a>> {
        match self {
            Self::Object(members) => members.get(name),
            _ => None,
        }
    }

    /// Writes compact JSON with the members of every object sorted by name; numbers stay as they came.
    pub fn write_canonical(&self, to: &mut String) {
        match self {
            Self::Null => to.push_str("null"),
            Self::Bool(value) => to.push_str(if *value { "true" } else { "false" }),
            Self::Number(number) => to.push_str(number.as_str()),
            Self::String(text) => write_text(text, to),
            Self::Array(items) => {
                to.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        to.push(',');
                    }
                    item.write_canonical(to);
                }
                to.push(']');
            }
            Self::Object(members) => {
                to.push('{');
                for (i, (name, value)) in members.iter().enumerate() {
                    if i > 0 {
                        to.push(',');
                    }
                    write_text(name, to);
                    to.push(':');
                    value.write_canonical(to);
                }
                to.push('}');
            }
        }
    }
}

fn write_text(text: &str, to: &mut String) {
    to.push_str(&serde_json::to_string(text).expect("a text is JSON"));
}

// === impl Members ===

impl<'a> Members<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value under a name.
    pub fn get(&self, name: &str) -> Option<&Tree<'a>> {
        let found = self.0.binary_search_by(|(own, _)| own.as_ref().cmp(name)).ok()?;
        self.0.get(found).map(|(_, value)| value)
    }

    /// Name and value, in the order of the names.
    pub fn iter(&self) -> std::slice::Iter<'_, (Cow<'a, str>, Tree<'a>)> {
        self.0.iter()
    }
}

// === impl Number ===

impl<'a> Number<'a> {
    /// The token.
    pub fn as_str(&self) -> &'a str {
        self.0
    }

    /// The exact value; `None` if the exponent has more than 18 digits.
    pub fn decimal(&self) -> Option<Decimal> {
        let (negative, unsigned) = self.0.strip_prefix('-').map_or((false, self.0), |rest| (true, rest));
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        let kept = digits.trim_end_matches('0');
        if kept.is_empty() {
            return Some(Decimal::default());
        }
        let exponent: i64 = exponent.parse().ok().filter(|e: &i64| e.abs() < i64::MAX / 2)?;
        let dropped = i64::try_from(digits.len() - kept.len()).ok()?;
        let fraction = i64::try_from(fraction.len()).ok()?;
        Some(Decimal {
            negative,
            digits: kept.to_owned(),
            exponent: exponent - fraction + dropped,
        })
    }

    /// The nearest double; infinite if there is none.
    pub fn to_f64(&self) -> f64 {
        self.0.parse().expect("a JSON number is one of Rust's")
    }

    /// Whether comparing it as a 64-bit integer or double compares the number that was written: it is a whole number of
    /// 64 bits, or has at most 17 significant digits and a magnitude between 1e-300 and 1e308.
    pub fn fits_64_bits(&self) -> bool {
        if self.0.parse::<i64>().is_ok() || self.0.parse::<u64>().is_ok() {
            return true;
        }
        let Some(decimal) = self.decimal() else { return false };
        let leading = i64::try_from(decimal.digits.len()).map_or(i64::MAX, |n| decimal.exponent.saturating_add(n - 1));
        decimal.digits.is_empty() || (decimal.digits.len() <= 17 && (-300..308).contains(&leading))
    }
}

impl fmt::Display for Number<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

// === impl Decimal ===

impl Decimal {
    /// Whether it has no fraction.
    pub fn is_whole(&self) -> bool {
        self.exponent >= 0
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        bytes.get(self.at).copied().unwrap_or_default()
    }

    fn skip(&mut self, byte: u8) -> bool {
        let there = self.peek() == byte;
        self.at += usize::from(there);
        there
    }

    /// The token from here to the next byte that cannot be part of a literal or a number.
    fn token(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | 'a'..='z' | 'E' | '+' | '-' | '.'));
        let token = &rest[..end.unwrap_or(rest.len())];
        self.at += token.len();
        token
    }

    fn value(&mut self) -> Result<Tree<'a>, Fault> {
        Ok(match self.peek() {
            b'{' => Tree::Object(self.members()?),
            b'[' => Tree::Array(self.items()?),
            b'"' => Tree::String(self.string()?),
            _ => match self.token() {
                "null" => Tree::Null,
                "true" => Tree::Bool(true),
                "false" => Tree::Bool(false),
                number => Tree::Number(Number(number)),
            },
        })
    }

    fn items(&mut self) -> Result<Vec<Tree<'a>>, Fault> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.skip(b']') {
            let item = self.value().map_err(|fault| fault.below(&items.len().to_string()))?;
            items.push(item);
            self.skip(b',');
        }
        Ok(items)
    }

    fn members(&mut self) -> Result<Members<'a>, Fault> {
        self.at += 1;
        let mut members = Vec::new();
        while !self.skip(b'}') {
            self.peek();
            let name = self.string()?;
            self.skip(b':');
            let value = self.value().map_err(|fault| fault.below(&name))?;
            members.push((name, value));
            self.skip(b',');
        }
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        match members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(Fault::new(FaultKind::Duplicate(pair[0].0.to_string()))),
            None => Ok(Members(members)),
        }
    }

    /// The string whose opening quote is here.
    fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        let rest = &self.text[self.at..];
        let end = 1 + string_len(&rest.as_bytes()[1..]);
        self.at += end;
        let quoted = &rest[..end];
        let text = &quoted[1..end - 1];
        if memchr::memchr(b'\\', text.as_bytes()).is_none() {
            return Ok(Cow::Borrowed(text));
        }
        let text: Result<String, _> = serde_json::from_str(quoted);
        text.map(Cow::Owned).map_err(|_| Fault::new(FaultKind::Surrogate))
    }
}

// === impl Fault ===

impl Fault {
    fn new(kind: FaultKind) -> Self {
        Self { kind, path: Vec::new() }
    }

    fn below(mut self, segment: &str) -> Self {
        self.path.push(segment.replace('~', "~0").replace('/', "~1"));
        self
    }
}

impl From<Fault> for TreeError {
    fn from(fault: Fault) -> Self {
        let path = fault.path.iter().rev().map(|segment| format!("/{segment}")).collect();
        match fault.kind {
            FaultKind::Duplicate(name) => Self::Duplicate { path, name },
            FaultKind::Surrogate => Self::Surrogate { path },
        }
    }
}

#[cfg(test)]
mod tests;
