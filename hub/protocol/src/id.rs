//! Names and identifiers: checked once, where they enter.

use std::borrow::Borrow;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest identifier that a peer may choose, in bytes.
pub const ID_LIMIT_BYTES: usize = 128;

/// An operation's name: `namespace.operation`, exactly one dot.
///
/// Both segments start with a letter and go on with letters, digits, `_` and `-`. `/ns/op` and `ns/op` are accepted
/// on the way in and mean the same.
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
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

name_type!(
    OperationName,
    "operation name",
    "^[A-Za-z][A-Za-z0-9_-]*\\.[A-Za-z][A-Za-z0-9_-]*$",
    |text| {
        const RULE: &str =
            "write `namespace.operation`: one dot, each part a letter followed by letters, digits, `_` or `-`";
        let slashed = text.strip_prefix('/').unwrap_or(text);
        let (namespace, operation) = slashed.split_once('/').or_else(|| text.split_once('.')).ok_or(RULE)?;
        let valid = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        if text.len() > ID_LIMIT_BYTES || !valid(namespace) || !valid(operation) {
            return Err(RULE);
        }
        if slashed.contains('/') {
            Ok(format!("{namespace}.{operation}").into())
        } else {
            Ok(text.into())
        }
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

impl OperationName {
    /// The part before the dot.
    pub fn namespace(&self) -> &str {
        self.0.split_once('.').map_or("", |(namespace, _)| namespace)
    }

    /// The part after the dot.
    pub fn operation(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, operation)| operation)
    }

    /// Whether the hub itself answers it: the namespace `hub` is reserved.
    pub fn is_reserved(&self) -> bool {
        self.namespace() == "hub"
    }
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
    fn slash_form_means_the_dotted_name() {
        for text in ["fs.readFile", "/fs/readFile", "fs/readFile"] {
            let name: OperationName = text.parse().expect("valid");
            assert_eq!(name.as_str(), "fs.readFile");
        }
    }

    #[test]
    fn a_wrong_operation_name_is_answered_with_the_rule() {
        for text in ["", "fs", "a.b.c", "/a/b/c", "1a.b", "a.", ".b", "a b.c", "a.b\n"] {
            let error = text.parse::<OperationName>().expect_err(text);
            assert!(error.to_string().contains("namespace.operation"), "{error}");
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
