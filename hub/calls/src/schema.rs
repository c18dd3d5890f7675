//! Checks inputs and outputs against JSON Schemas that are compiled once.
//!
//! Invariants
//! - A schema is never fetched: a reference that leaves the schema is refused at registration.
//! - A payload is parsed only where its schema can refuse something.
//! - What a check answers has no more of the payload in it than the path to the fault.

use std::fmt;

use alkhub_protocol::RawJson;
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// Largest schema that is compiled, in bytes.
const SCHEMA_LIMIT_BYTES: usize = 256 * 1024;

/// Steps that one pattern may backtrack; over it the value does not match.
const BACKTRACK_LIMIT: usize = 20_000;

/// Largest compiled pattern, in bytes.
const PATTERN_LIMIT_BYTES: usize = 1024 * 1024;

/// A compiled schema.
#[derive(Debug)]
pub(crate) enum Check {
    /// `true` or `{}`: nothing is parsed.
    Anything,
    /// Everything else.
    Schema(Box<Validator>),
}

/// Where a value breaks its schema.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Violation {
    /// JSON pointer into the value; empty for the value itself.
    pub(crate) path: String,
    /// JSON pointer into the schema.
    pub(crate) rule: String,
    /// The rule in words.
    #[serde(skip)]
    pub(crate) message: String,
}

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("is larger than {SCHEMA_LIMIT_BYTES} bytes")]
    TooLarge,
    #[error("is not JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    #[error("is not a JSON Schema: at `{path}`: {message}")]
    Invalid { path: String, message: String },
}

// === impl Check ===

impl Check {
    /// Compiles a schema.
    pub(crate) fn compile(schema: &RawJson) -> Result<Self, Error> {
        if schema.len() > SCHEMA_LIMIT_BYTES {
            return Err(Error::TooLarge);
        }
        let value: Value = schema.to()?;
        if accepts_anything(&value) {
            return Ok(Self::Anything);
        }
        let patterns = PatternOptions::fancy_regex()
            .backtrack_limit(BACKTRACK_LIMIT)
            .size_limit(PATTERN_LIMIT_BYTES);
        let validator = jsonschema::options()
            .offline()
            .with_pattern_options(patterns)
            .build(&value)
            .map_err(|error| Error::Invalid {
                path: error.instance_path().to_string(),
                message: shortened(&error.masked().to_string()),
            })?;
        Ok(Self::Schema(Box::new(validator)))
    }

    /// Checks one value.
    pub(crate) fn check(&self, json: &[u8]) -> Result<(), Violation> {
        let validator = match self {
            Self::Anything => return Ok(()),
            Self::Schema(validator) => validator,
        };
        let value: Value = serde_json::from_slice(json).map_err(|error| Violation {
            path: String::new(),
            rule: String::new(),
            message: error.to_string(),
        })?;
        // `is_valid` stops at the first fault and builds no error: the common case.
        if validator.is_valid(&value) {
            return Ok(());
        }
        validator.validate(&value).map_err(|error| Violation {
            path: error.instance_path().to_string(),
            rule: error.schema_path().to_string(),
            message: shortened(&error.masked().to_string()),
        })
    }
}

// === impl Violation ===

impl fmt::Display for Violation {
    /// Follows the word `input` or `output`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "does not match its schema: {}", self.message),
            path => write!(f, "at `{path}`: {}", self.message),
        }
    }
}

impl Violation {
    /// `{path, rule}`.
    pub(crate) fn details(&self) -> RawJson {
        RawJson::from_value(self).expect("two strings are JSON")
    }
}

fn accepts_anything(schema: &Value) -> bool {
    match schema {
        Value::Bool(accepts) => *accepts,
        // Annotations refuse nothing: TypeBox's `Unknown` is `{}`, schemars adds `$schema` and `title`.
        Value::Object(keywords) => keywords.keys().all(|keyword| {
            [
                "$schema",
                "$id",
                "title",
                "description",
                "$comment",
                "default",
                "examples",
            ]
            .contains(&keyword.as_str())
        }),
        _ => false,
    }
}

fn shortened(message: &str) -> String {
    message.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(schema: &'static str) -> Result<Check, Error> {
        Check::compile(&RawJson::parse(schema).expect("JSON"))
    }

    #[test]
    fn a_violation_names_path_and_rule() {
        let check = compile(r#"{"type":"object","properties":{"list":{"items":{"type":"integer"}}}}"#).expect("valid");

        let violation = check
            .check(br#"{"list":[1,"two"]}"#)
            .expect_err("a string is no integer");

        assert_eq!(violation.path, "/list/1");
        assert_eq!(violation.rule, "/properties/list/items/type");
        assert_eq!(
            violation.details().as_str(),
            r#"{"path":"/list/1","rule":"/properties/list/items/type"}"#
        );
        assert!(!violation.message.contains("two"), "{}", violation.message);
    }

    #[test]
    fn a_schema_that_accepts_anything_parses_nothing() {
        for schema in [
            "true",
            "{}",
            r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"Any"}"#,
        ] {
            let check = compile(schema).expect("valid");
            assert!(matches!(check, Check::Anything), "{schema}");
            assert!(check.check(b"not even JSON").is_ok());
        }
        assert!(matches!(compile("false").expect("valid"), Check::Schema(_)));
    }

    #[test]
    fn a_schema_that_is_none_is_refused_with_its_place() {
        let error = compile(r#"{"properties":{"a":{"type":"strin"}}}"#).expect_err("no such type");
        assert!(error.to_string().contains("/properties/a/type"), "{error}");
        assert!(compile("3").is_err());
        assert!(compile(r#"{"pattern":"("}"#).is_err());
    }

    #[test]
    fn a_reference_out_of_the_schema_is_never_fetched() {
        for schema in [
            r#"{"$ref":"http://127.0.0.1:1/schema.json"}"#,
            r#"{"$ref":"file:///etc/passwd"}"#,
            r##"{"$ref":"#/nowhere"}"##,
        ] {
            assert!(compile(schema).is_err(), "{schema}");
        }
        assert!(compile(r##"{"$defs":{"a":{"type":"null"}},"$ref":"#/$defs/a"}"##).is_ok());
    }

    #[test]
    fn a_pattern_that_would_run_for_ever_is_stopped() {
        let check = compile(r#"{"pattern":"^(a+)+(?=b)$"}"#).expect("valid");
        let long = format!("\"{}!\"", "a".repeat(60));

        assert!(check.check(long.as_bytes()).is_err());
    }

    #[test]
    fn a_fault_of_the_value_itself_names_no_empty_path() {
        let check = Check::compile(&RawJson::from(serde_json::json!({ "type": "integer" }))).expect("a schema");

        let violation = check.check(b"null").expect_err("null is no integer");

        assert!(
            violation.to_string().starts_with("does not match its schema: "),
            "{violation}"
        );
    }
}
