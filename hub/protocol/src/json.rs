//! JSON text that is carried as it arrived.
//!
//! Invariants
//! - A [`RawJson`] holds one complete JSON value in UTF-8. Where a peer's value enters, it is no deeper than
//!   [`DEPTH_LIMIT`]; what hubs put around it is added to that.
//! - Cloning and slicing share the bytes of the frame; nothing is copied on the way from socket to socket.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::DEPTH_LIMIT;

pub mod strict;
pub mod tree;
pub mod whole;

/// One JSON value as text, cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct RawJson(Bytes);

/// Why a text is not a JSON value that alkhub carries.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not JSON; the message has line and column.
    #[error("invalid JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Arrays and objects are nested deeper than the limit.
    #[error("JSON is nested deeper than {DEPTH_LIMIT} levels")]
    TooDeep,
}

// === impl RawJson ===

impl RawJson {
    /// The value `null`.
    pub const fn null() -> Self {
        Self(Bytes::from_static(b"null"))
    }

    /// Takes a text as it is, after checking its depth and its syntax.
    ///
    /// # Errors
    /// [`Error`] if the text is not a JSON value or is nested too deep.
    pub fn parse(text: impl Into<Bytes>) -> Result<Self, Error> {
        let text = text.into();
        check_depth(&text)?;
        let raw: &RawValue = serde_json::from_slice(&text)?;
        let value = raw.get().as_bytes();
        let value = text.slice_ref(value);
        Ok(Self(value))
    }

    /// Writes a value as compact JSON.
    ///
    /// # Errors
    /// The value's own `Serialize` failed, for example for a map whose keys are not strings.
    pub fn from_value(value: &(impl Serialize + ?Sized)) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(|text| Self(text.into()))
    }

    /// The part of `frame` that `raw` was borrowed from, without a copy.
    ///
    /// # Panics
    /// If `raw` does not lie inside `frame`: a mistake of the caller.
    pub(crate) fn slice_of(frame: &Bytes, raw: &RawValue) -> Self {
        Self(frame.slice_ref(raw.get().as_bytes()))
    }

    /// A part of this value, which was read from it; without a copy.
    ///
    /// # Panics
    /// If `raw` does not lie inside this value: a mistake of the caller.
    pub fn part(&self, raw: &RawValue) -> Self {
        Self::slice_of(&self.0, raw)
    }

    /// The same value, moved into memory of its own if it is a small part of the frame that it would otherwise keep
    /// alive.
    #[must_use]
    pub fn out_of(self, frame_bytes: usize) -> Self {
        if self.0.len() < frame_bytes / 2 {
            Self(Bytes::copy_from_slice(&self.0))
        } else {
            self
        }
    }

    /// Reads the value into a type; a struct only from an object.
    ///
    /// # Errors
    /// The value does not have the type's shape.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        strict::from_slice(&self.0)
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        &self.0[..] == b"null"
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, shared.
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The text as a string.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("JSON that was parsed is UTF-8")
    }

    /// Length of the text in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never true: a JSON value has at least one character.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Payloads never reach a log: only their size does.
        write!(f, "RawJson({} bytes)", self.0.len())
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_slice(&self.0).map_err(S::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = Box::<str>::from(raw).into_string().into_bytes();
        check_depth(&text).map_err(D::Error::custom)?;
        Ok(Self(text.into()))
    }
}

impl From<serde_json::Value> for RawJson {
    fn from(value: serde_json::Value) -> Self {
        Self(value.to_string().into())
    }
}

impl JsonSchema for RawJson {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Json".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!(true)
    }
}

/// Checks that brackets nest no deeper than [`DEPTH_LIMIT`], before anything is parsed.
///
/// Only brackets outside strings count; whether they match is the parser's business.
///
/// # Errors
/// [`Error::TooDeep`].
pub fn check_depth(text: &[u8]) -> Result<(), Error> {
    depth(text, DEPTH_LIMIT).map(|_| ())
}

/// How deep brackets nest; an error if deeper than `limit`.
pub(crate) fn depth(text: &[u8], limit: usize) -> Result<usize, Error> {
    let (mut depth, mut deepest, mut at) = (0_usize, 0_usize, 0);
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => at += string_len(&text[at..]),
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
                if depth > limit {
                    return Err(Error::TooDeep);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(deepest)
}

/// The number of bytes up to and including the quote that ends a string whose opening quote comes before `rest`; all of
/// them if nothing closes it.
fn string_len(rest: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = rest.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if rest[at] == b'"' {
            return at + 1;
        }
        // The backslash and the character that it escapes.
        at += 2;
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_levels_are_read_and_sixty_five_are_refused() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));

        assert!(RawJson::parse(nested(DEPTH_LIMIT)).is_ok());
        assert!(matches!(RawJson::parse(nested(DEPTH_LIMIT + 1)), Err(Error::TooDeep)));
    }

    #[test]
    fn brackets_in_strings_do_not_count() {
        let text = format!(r#"{{"a":"\"{}"}}"#, "[".repeat(100));

        assert!(RawJson::parse(text).is_ok());
    }

    #[test]
    fn a_string_ends_at_the_quote_that_no_backslash_escapes() {
        for (rest, len) in [
            (r#"""#, 1),
            (r#"a","b""#, 2),
            (r#"\\","b""#, 3),
            (r#"\"","b""#, 3),
            (r#"\u0022\\\"x", 1"#, 12),
            ("never closed", 12),
            (r"cut short \", 11),
            ("", 0),
        ] {
            assert_eq!(string_len(rest.as_bytes()), len, "{rest}");
        }
    }

    #[test]
    fn white_space_around_a_value_is_left_behind() {
        let json = RawJson::parse(" {\"a\": 1} \n").expect("valid");

        assert_eq!(json.as_str(), "{\"a\": 1}");
    }

    #[test]
    fn a_value_is_written_again_byte_for_byte() {
        let text = r#"{"b":1.10,"a":[1e3]}"#;
        let json: RawJson = serde_json::from_str(text).expect("valid");

        assert_eq!(serde_json::to_string(&json).expect("writes"), text);
    }
}
