//! Names and identifiers: checked once, where they enter.

use std::borrow::Borrow;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What an operation's name must be, as an instruction.
const OPERATION_RULE: &str = "write `namespace.operation`: each part a letter followed by letters, digits, `_` or `-`, the \
                              second one also by other visible ASCII characters";

/// Longest identifier that a peer may choose, in bytes.
pub const ID_LIMIT_BYTES: usize = 128;

/// An operation's name: `namespace.operation`, exactly one dot.
///
/// Both segments start with a letter and go on with letters, digits, `_` and `-`. `/ns/op` and `ns/op` are accepted
/// on the way in and mean the same.
///
/// In the second segment, any other visible ASCII character is written as `__` and its two upper-case hex digits: the
/// origin's `fs.get/users/{id}` is `fs.get__2Fusers__2F__7Bid__7D`. Both spellings are accepted on the way in;
/// [`OperationName::spelled`] reverses this.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationName(Arc<str>);

/// A declared spoke: a DNS-1123 label (what Kubernetes calls a name), at most 63 characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpokeName(Arc<str>);

/// One running program of a spoke, chosen by it: 1 to 128 visible ASCII characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Arc<str>);

/// One hub process: `{pod}-{boot nonce}`, unique over restarts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubId(Arc<str>);

/// A call's identifier, chosen by its caller: 1 to 128 visible ASCII characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Arc<str>);

/// Why a text is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{value}` is not valid: {rule}")]
pub struct InvalidId {
    /// The kind of name, for example `operation name`.
    pub what: &'static str,
    /// The text, shortened to 80 characters.
    pub value: String,
    /// The rule that it breaks, as an instruction.
    pub rule: &'static str,
}

impl InvalidId {
    /// Two parts that do not make an operation's name.
    pub(crate) fn operation(namespace: &str, name: &str) -> Self {
        Self::new("operation name", &format!("{namespace}.{name}"), OPERATION_RULE)
    }

    fn new(what: &'static str, value: &str, rule: &'static str) -> Self {
        Self {
            what,
            value: value.chars().take(80).collect(),
            rule,
        }
    }
}

macro_rules! name_type {
    ($name:ident, $what:literal, $pattern:literal, $check:expr) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let check: fn(&str) -> Result<Arc<str>, &'static str> = $check;
                check(text).map(Self).map_err(|rule| InvalidId::new($what, text, rule))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "maxLength": ID_LIMIT_BYTES, "pattern": $pattern })
            }
        }
    };
}

name_type!(
    OperationName,
    "operation name",
    "^[A-Za-z][A-Za-z0-9_-]*\\.[A-Za-z][A-Za-z0-9_-]*$",
    |text| {
        let slashed = text.strip_prefix('/');
        let separators: &[char] = if slashed.is_some() { &['/'] } else { &['.', '/'] };
        let whole = slashed.unwrap_or(text);
        let (namespace, operation) = whole.split_once(separators).ok_or(OPERATION_RULE)?;
        if !is_segment(namespace) {
            return Err(OPERATION_RULE);
        }
        let operation = segment(operation).ok_or(OPERATION_RULE)?;
        let name = format!("{namespace}.{operation}");
        if name.len() > ID_LIMIT_BYTES {
            return Err(
                "write at most 128 characters, where each one that is no letter, digit, `_` or `-` counts as four",
            );
        }
        Ok(name.into())
    }
);

name_type!(
    SpokeName,
    "spoke name",
    "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
    |text| {
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let valid = (1..=63).contains(&bytes.len())
            && edge(bytes[0])
            && edge(bytes[bytes.len() - 1])
            && bytes.iter().all(|&b| edge(b) || b == b'-');
        if valid {
            Ok(text.into())
        } else {
            Err("use 1 to 63 lower-case letters, digits and `-`, no `-` at either end")
        }
    }
);

name_type!(InstanceId, "instance id", "^[!-~]{1,128}$", visible);
name_type!(HubId, "hub id", "^[!-~]{1,128}$", visible);
name_type!(RequestId, "request id", "^[!-~]{1,128}$", visible);

/// The suffix of an instance's id for its second session.
const SECOND: &str = "#2";

impl InstanceId {
    /// The id of the other session of the same program: `a#2` for `a`, and `a` for `a#2`. `None` if it would be too
    /// long.
    pub fn twin(&self) -> Option<Self> {
        match self.0.strip_suffix(SECOND) {
            Some(first) => first.parse().ok(),
            None => format!("{}{SECOND}", self.0).parse().ok(),
        }
    }
}

impl OperationName {
    /// The part before the dot.
    pub fn namespace(&self) -> &str {
        self.0.split_once('.').map_or("", |(namespace, _)| namespace)
    }

    /// The part after the dot.
    pub fn operation(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, operation)| operation)
    }

    /// The name with each `__` and two hex digits turned back into the character.
    pub fn spelled(&self) -> Cow<'_, str> {
        let mut spelled = String::new();
        let mut rest = self.as_str();
        while let Some((before, character, after)) = escaped(rest) {
            spelled.push_str(before);
            spelled.push(character);
            rest = after;
        }
        if spelled.is_empty() {
            return Cow::Borrowed(self.as_str());
        }
        spelled.push_str(rest);
        Cow::Owned(spelled)
    }

    /// Whether the hub itself answers it: the namespace `hub` is reserved.
    pub fn is_reserved(&self) -> bool {
        self.namespace() == "hub"
    }
}

/// Whether a text can be a segment of a name unchanged.
pub(crate) fn is_segment(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(plain)
}

/// The second segment of a name: unchanged, or with `__` and two hex digits for each character that no segment may
/// have. Text that would be read as such an escape is escaped too, so that two spellings never become one name.
fn segment(part: &str) -> Option<Cow<'_, str>> {
    if is_segment(part) {
        return Some(Cow::Borrowed(part));
    }
    if !part.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let mut written = String::with_capacity(part.len() + 12);
    for (at, character) in part.char_indices() {
        let is_plain = character.is_ascii_alphanumeric() || character == '-' || character == '_';
        if is_plain && code_at(&part[at..]).is_none() {
            written.push(character);
        } else if character.is_ascii_graphic() {
            written.push_str(&format!("__{:02X}", u32::from(character)));
        } else {
            return None;
        }
    }
    Some(Cow::Owned(written))
}

/// The character that an `__` with two hex digits at the start of a text stands for.
fn code_at(text: &str) -> Option<char> {
    let digits = text.strip_prefix("__")?.get(..2)?;
    let is_hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    let code = digits
        .bytes()
        .all(is_hex)
        .then(|| u8::from_str_radix(digits, 16).ok())??;
    code.is_ascii_graphic().then(|| char::from(code))
}

/// The text before the first such escape, its character, and the text after it.
fn escaped(text: &str) -> Option<(&str, char, &str)> {
    text.char_indices().find_map(|(at, _)| {
        let character = code_at(&text[at..])?;
        Some((&text[..at], character, &text[at + 4..]))
    })
}

fn visible(text: &str) -> Result<Arc<str>, &'static str> {
    if (1..=ID_LIMIT_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.into())
    } else {
        Err("use 1 to 128 visible ASCII characters")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sessions_of_a_program_know_each_other_by_their_ids() {
        let twin = |id: &str| id.parse::<InstanceId>().expect("valid").twin();
        let is = |id: &str| Some(id.parse().expect("valid"));

        assert_eq!(twin("a"), is("a#2"));
        assert_eq!(twin("a#2"), is("a"));
        assert_eq!(twin(&"a".repeat(127)), None);
    }

    #[test]
    fn slash_form_means_the_dotted_name() {
        for text in ["fs.readFile", "/fs/readFile", "fs/readFile"] {
            let name: OperationName = text.parse().expect("valid");
            assert_eq!(name.as_str(), "fs.readFile");
        }
    }

    #[test]
    fn a_wrong_operation_name_is_answered_with_the_rule() {
        for text in [
            "", "fs", "a..c", "/a.b", "/a//c", "1a.b", "a.", ".b", "a b.c", "a.b\n", "a.b c", "a.{b}", "a.bé",
        ] {
            let error = text.parse::<OperationName>().expect_err(text);
            assert!(error.to_string().contains("namespace.operation"), "{error}");
        }
    }

    #[test]
    fn other_characters_of_the_last_part_are_mapped_and_found_again() {
        for (text, name) in [
            ("fs.get/users/{id}", "fs.get__2Fusers__2F__7Bid__7D"),
            ("/fs/get/users/{id}", "fs.get__2Fusers__2F__7Bid__7D"),
            ("fs.users.list", "fs.users__2Elist"),
            ("fs.a:b~c", "fs.a__3Ab__7Ec"),
        ] {
            let parsed: OperationName = text.parse().expect(text);
            assert_eq!((parsed.as_str(), parsed.namespace()), (name, "fs"));
            assert_eq!(
                parsed.as_str().parse(),
                Ok(parsed.clone()),
                "a mapped name is read as it stands"
            );
            let spelled = text
                .strip_prefix("/fs/")
                .map_or_else(|| text.to_owned(), |rest| format!("fs.{rest}"));
            assert_eq!(parsed.spelled(), spelled);
        }
        let plain: OperationName = "fs.read_file-2".parse().expect("valid");
        assert!(matches!(plain.spelled(), Cow::Borrowed("fs.read_file-2")));
        assert!(format!("a.{}", "b".repeat(126)).parse::<OperationName>().is_ok());
        let long = format!("a.b{}", ".".repeat(32))
            .parse::<OperationName>()
            .expect_err("130 characters");
        assert!(long.to_string().contains("128 characters"), "{long}");
    }

    /// Every spelling of up to six of these characters that has to be mapped, in every order.
    #[test]
    fn no_two_spellings_become_one_name() {
        let mut spellings = vec!["x".to_owned()];
        let mut names = std::collections::HashMap::new();
        for _ in 0..6 {
            let longer = spellings
                .iter()
                .flat_map(|spelling| ["_", ".", "2", "E"].map(|c| format!("{spelling}{c}")));
            spellings = longer.collect();
            for spelling in spellings.iter().filter(|spelling| spelling.contains('.')) {
                let name: OperationName = format!("n.{spelling}").parse().expect("valid");
                assert_eq!(name.spelled(), format!("n.{spelling}"));
                let other = names.insert(name, spelling.clone());
                assert_eq!(other, None, "{spelling}");
            }
        }
    }

    #[test]
    fn a_spoke_name_is_a_dns_label() {
        assert!("builder-1".parse::<SpokeName>().is_ok());
        for text in ["", "-a", "a-", "A", "a.b", &"a".repeat(64)] {
            assert!(text.parse::<SpokeName>().is_err(), "{text}");
        }
    }
}
