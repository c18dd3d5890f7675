//! Checks inputs and outputs against JSON Schemas that are compiled once.
//!
//! Invariants
//! - A schema is never fetched: a reference that leaves the schema is refused at registration.
//! - A check costs no more than the size of the value allows, whatever the schema: `metered` sees to it, and `shape`
//!   refuses at registration what it could not see.
//! - A payload is parsed only where its schema can refuse something; what is parsed has no second member of one name,
//!   so that what was checked is what its reader gets.
//! - Numbers are never rounded in silence: their equality is exact, and a limit is not compared with a number that 64
//!   bits would round.
//! - What a check answers has no more of the payload in it than the path to the fault.

use std::fmt;

use alkhub_protocol::RawJson;
use alkhub_protocol::json::tree::{Tree, TreeError};
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use metered::{Metered, Seen, Spent, Tariff};
use shape::{Patterns, Shape};

pub(crate) use undefined::Nothing;

mod dialect;
mod equality;
mod metered;
mod shape;
mod undefined;

/// Largest schema that is compiled, in bytes.
const SCHEMA_LIMIT_BYTES: usize = 256 * 1024;

/// Steps that one pattern may backtrack; over it the value does not match.
const BACKTRACK_LIMIT: usize = 20_000;

/// Largest compiled pattern, in bytes: tried in this order until all patterns of a schema fit.
const PATTERN_LIMITS_BYTES: [usize; 6] = [2 * 1024, 8 * 1024, 32 * 1024, 128 * 1024, 512 * 1024, 1024 * 1024];

/// Largest sum of the compiled patterns of a schema, and of the tables they are run with, in bytes.
const PATTERNS_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// Largest table that one pattern is run with, in bytes, and how much larger than the pattern it may be.
const PATTERN_TABLE_BYTES: usize = 256 * 1024;
const PATTERN_TABLE_FACTOR: usize = 4;

/// What a compiled schema takes at least, and for each byte of its text, without its patterns. Measured by resident
/// memory with objects of 1, 20 and 500 members (texts, unions, references): at most 14 bytes for each.
const COMPILED_BYTES: usize = 2 * 1024;
const COMPILED_PER_BYTE: usize = 16;

/// Product of the size of a compiled pattern and the length of a string that it is matched with.
const MATCH_LIMIT: usize = 1 << 33;

/// Longest string that a pattern is matched with which looks around or back.
const LOOK_AROUND_LIMIT_BYTES: usize = 16 * 1024;

/// A compiled schema.
#[derive(Debug)]
pub(crate) enum Check {
    /// `true` or `{}`: nothing is parsed.
    Anything,
    /// Everything else.
    Schema(Box<Compiled>),
}

/// A schema that can refuse something.
#[derive(Debug)]
pub(crate) struct Compiled {
    validator: Validator<Metered>,
    tariff: Tariff,
}

/// What a schema is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Input,
    /// What JSON leaves out of it is not missed.
    Output,
}

/// A schema that was compiled, with what there is to say of it.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) check: Check,
    /// What a value of nothing is to the schema as it was written.
    pub(crate) nothing: Nothing,
    /// What is not checked although the schema has it.
    pub(crate) warnings: Vec<String>,
    /// How much memory it takes at most, in bytes.
    pub(crate) bytes: usize,
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
    #[error("cannot be read: {0}")]
    Tree(#[from] TreeError),
    #[error("has the number {0}, which 64 bits would round: no limit may have more digits than they hold")]
    Number(String),
    #[error("is not a JSON Schema: at `{path}`: {message}")]
    Invalid { path: String, message: String },
    #[error(transparent)]
    Shape(#[from] Shape),
    /// It was not compiled, or not to the end: what it takes is over the limit.
    #[error("takes at least {bytes} bytes when it is compiled")]
    Over { bytes: usize },
}

/// A schema that no hub takes. Follows the name of its field.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct InvalidSchema(#[from] Error);

/// Prepares a schema as a registration does; answers what of it is not checked.
///
/// # Errors
/// A hub refuses it, for this reason.
pub fn check_schema(schema: &RawJson) -> Result<Vec<String>, InvalidSchema> {
    Ok(Check::prepare(schema, Side::Input, usize::MAX)?.warnings)
}

// === impl Check ===

impl Check {
    /// Compiles a schema unless it takes more bytes than `limit`, which is known before the work is done. Takes a second
    /// for the largest ones: not for a thread that serves others.
    pub(crate) fn prepare(schema: &RawJson, side: Side, limit: usize) -> Result<Prepared, Error> {
        if schema.len() > SCHEMA_LIMIT_BYTES {
            return Err(Error::TooLarge);
        }
        let tree = Tree::of(schema)?;
        if let Some(number) = equality::rounded(&tree) {
            return Err(Error::Number(shortened(number)));
        }
        let mut value = equality::to_value(&tree);
        let nothing = Nothing::of(&value);
        if side == Side::Output {
            undefined::leave_out(&mut value);
        }
        let warnings = dialect::adapt(&mut value);
        if accepts_anything(&value) {
            return Ok(Prepared {
                check: Self::Anything,
                nothing,
                warnings,
                bytes: 0,
            });
        }
        let bare = COMPILED_BYTES + COMPILED_PER_BYTE * schema.len();
        let room = limit.checked_sub(bare).ok_or(Error::Over { bytes: bare })?;
        let patterns = shape::patterns(&value)?;
        let built = build(&value, patterns, room).map_err(|error| match error {
            Error::Over { bytes } => Error::Over { bytes: bare + bytes },
            error => error,
        })?;
        let spread = shape::spread(&value)?;
        let tariff = Tariff {
            child: 1 + spread / 64,
            pattern_bytes: built.longest,
        };
        Ok(Prepared {
            check: Self::Schema(Box::new(Compiled {
                validator: built.validator,
                tariff,
            })),
            nothing,
            warnings,
            bytes: bare + built.pattern_bytes,
        })
    }

    /// Compiles a schema of the hub's own.
    pub(crate) fn compile(schema: &RawJson) -> Result<Self, Error> {
        Self::prepare(schema, Side::Input, usize::MAX).map(|prepared| prepared.check)
    }

    /// Checks one value.
    pub(crate) fn check(&self, json: &[u8]) -> Result<(), Violation> {
        let compiled = match self {
            Self::Anything => return Ok(()),
            Self::Schema(compiled) => compiled,
        };
        let value = Tree::parse(json).map_err(|error| Violation::of_tree(&error))?;
        // `is_valid` stops at the first fault and builds no error: the common case.
        match metered::run(compiled.tariff, json.len(), || {
            compiled.validator.is_valid(Seen(&value))
        }) {
            (true, None) => Ok(()),
            (false, None) => Err(compiled.violation(&value, json.len())),
            (_, Some(Spent::Pattern)) => Err(Violation::of_all(
                "it has a string that is too long for the patterns of the schema",
            )),
            (_, Some(Spent::Number)) => Err(Violation::of_all(
                "it has a number that cannot be compared with the schema's without rounding: a whole number of 64 \
                 bits can, or 17 significant digits",
            )),
            (_, Some(Spent::Steps | Spent::Errors)) => Err(Violation::of_all(
                "the check was given up: the schema has too many ways to apply to this value",
            )),
        }
    }
}

// === impl Compiled ===

impl Compiled {
    /// Finds the fault of a value that has one.
    fn violation(&self, value: &Tree<'_>, bytes: usize) -> Violation {
        let search = || {
            self.validator.validate(Seen(value)).map_err(|error| Violation {
                path: error.instance_path().to_string(),
                rule: error.schema_path().to_string(),
                message: shortened(&error.masked().to_string()),
            })
        };
        match metered::run(self.tariff, bytes, search) {
            // The list of faults is within the one that is named, and was no more than cut.
            (Err(violation), None | Some(Spent::Errors)) => violation,
            _ => Violation::of_all("where exactly would take too long to find"),
        }
    }
}

/// A validator, and what its patterns cost.
struct Built {
    validator: Validator<Metered>,
    /// Longest string that the patterns are matched with; `None` where there are none.
    longest: Option<usize>,
    /// What the patterns and their tables take at most.
    pattern_bytes: usize,
}

/// The largest table for a pattern of that size.
fn table(size: usize) -> usize {
    PATTERN_TABLE_BYTES.min(PATTERN_TABLE_FACTOR * size)
}

/// Compiles with the smallest patterns that suffice, unless they take more than `room`.
fn build(schema: &Value, patterns: Patterns, room: usize) -> Result<Built, Error> {
    let options = |size| {
        PatternOptions::fancy_regex()
            .backtrack_limit(BACKTRACK_LIMIT)
            .size_limit(size)
            .dfa_size_limit(table(size))
    };
    let longest = |size| match patterns {
        Patterns { count: 0, .. } => None,
        Patterns { look_around: true, .. } => Some(LOOK_AROUND_LIMIT_BYTES.min(MATCH_LIMIT / size)),
        _ => Some(MATCH_LIMIT / size),
    };
    let mut refused = None;
    for size in PATTERN_LIMITS_BYTES {
        if refused.is_some() && (patterns.count == 0 || patterns.count * size > PATTERNS_LIMIT_BYTES) {
            break;
        }
        let pattern_bytes = patterns.count * (size + table(size));
        if pattern_bytes > room {
            return Err(Error::Over { bytes: pattern_bytes });
        }
        let built = jsonschema::options_for::<Metered>()
            .offline()
            .with_pattern_options(options(size))
            .build(schema);
        match built {
            Ok(validator) => {
                return Ok(Built {
                    validator,
                    longest: longest(size),
                    pattern_bytes,
                });
            }
            Err(error) => refused = Some(error),
        }
    }
    let error = refused.expect("there is a limit to try, and it was");
    Err(Error::Invalid {
        path: error.instance_path().to_string(),
        message: shortened(&error.masked().to_string()),
    })
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
    /// A value that cannot be looked at.
    fn of_tree(error: &TreeError) -> Self {
        let (path, message) = match error {
            TreeError::Duplicate { path, name } => {
                let name: String = name.chars().take(64).collect();
                (path.as_str(), format!("the member `{name}` is there twice"))
            }
            TreeError::Surrogate { path } => (path.as_str(), "half of a surrogate pair is no character".to_owned()),
            TreeError::Json(error) => ("", shortened(&error.to_string())),
        };
        Self {
            path: shortened(path),
            rule: String::new(),
            message,
        }
    }

    /// A fault of no certain place.
    fn of_all(message: &str) -> Self {
        Self {
            path: String::new(),
            rule: String::new(),
            message: message.to_owned(),
        }
    }

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
mod tests;
