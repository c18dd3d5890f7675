//! Checks values against schemas that are compiled once.

use alkhub_protocol::RawJson;
use alkhub_protocol::json::tree::Tree;
use jsonschema::Validator;
use serde_json::Value;

use crate::error::{Error, SCHEMA_LIMIT_BYTES};
use crate::keywords::accepts_anything;
use crate::meter::{self, Spent, Tariff};
use crate::undefined::Nothing;
use crate::view::{Metered, ValueView};
use crate::violation::{Violation, shortened};
use crate::{compile, dialect, number, shape, undefined};

/// How much a compiled schema takes at least, and per byte of its text, without its patterns. Measured by resident
/// memory with objects of 1, 20 and 500 members (texts, unions, references): at most 14 bytes per byte.
const COMPILED_BYTES: usize = 2 * 1024;
const COMPILED_PER_BYTE: usize = 16;

/// A compiled schema.
#[derive(Debug)]
pub enum Check {
    /// Accepts every value, as `true` and `{}` do: the value is not even parsed.
    Anything,
    /// May refuse a value.
    Schema(Box<Compiled>),
}

/// A schema that can refuse something.
#[derive(Debug)]
pub struct Compiled {
    validator: Validator<Metered>,
    tariff: Tariff,
}

/// What a schema describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What a caller sends.
    Input,
    /// What a spoke answers: members that JSON leaves out because they are `undefined` are not required.
    Output,
}

/// A compiled schema, and what was found on the way.
#[derive(Debug)]
pub struct Prepared {
    /// Checks values.
    pub check: Check,
    /// How an absent value and `null` are passed on, according to the schema as it was written.
    pub nothing: Nothing,
    /// Parts of the schema that are not checked, in sentences.
    pub warnings: Vec<String>,
    /// The most memory that the check may take, in bytes.
    pub bytes: usize,
}

// === impl Check ===

impl Check {
    /// Compiles a schema, unless it would take more than `limit` bytes, which is known before the work is done. The
    /// largest schemas take up to a second of CPU: not for a thread that serves connections.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Over`] for the limit.
    pub fn prepare(schema: &RawJson, side: Side, limit: usize) -> Result<Prepared, Error> {
        if schema.len() > SCHEMA_LIMIT_BYTES {
            return Err(Error::TooLarge);
        }
        let tree = Tree::of(schema)?;
        if let Some(number) = number::rounded(&tree) {
            return Err(Error::Number(shortened(number)));
        }
        let mut value = number::to_value(&tree);
        let nothing = Nothing::of(&value);
        if side == Side::Output {
            undefined::leave_out(&mut value);
        }
        let warnings = dialect::adapt(&mut value);
        let (check, bytes) = if accepts_anything(&value) {
            (Self::Anything, 0)
        } else {
            let (compiled, bytes) = Compiled::new(&value, schema.len(), limit)?;
            (Self::Schema(Box::new(compiled)), bytes)
        };
        Ok(Prepared {
            check,
            nothing,
            warnings,
            bytes,
        })
    }

    /// Compiles a schema of the hub's own, of which only the check is wanted.
    ///
    /// # Errors
    /// [`Error`].
    pub fn compile(schema: &RawJson) -> Result<Self, Error> {
        Self::prepare(schema, Side::Input, usize::MAX).map(|prepared| prepared.check)
    }

    /// Checks one value, at a cost bounded by its size.
    ///
    /// # Errors
    /// Fails with a [`Violation`] if the value breaks the schema, has two members of one name, or could not be checked
    /// within the bounds.
    pub fn check(&self, json: &RawJson) -> Result<(), Violation> {
        match self {
            Self::Anything => Ok(()),
            Self::Schema(compiled) => compiled.check(json),
        }
    }
}

// === impl Compiled ===

impl Compiled {
    /// Compiles a schema whose text was `text_bytes` long; also returns how many bytes it takes.
    fn new(schema: &Value, text_bytes: usize, limit: usize) -> Result<(Self, usize), Error> {
        let bare = COMPILED_BYTES + COMPILED_PER_BYTE * text_bytes;
        let room = limit.checked_sub(bare).ok_or(Error::Over { bytes: bare })?;
        let patterns = shape::patterns(schema)?;
        let built = compile::build(schema, patterns, room).map_err(|error| match error {
            Error::Over { bytes } => Error::Over { bytes: bare + bytes },
            error => error,
        })?;
        let compiled = Self {
            validator: built.validator,
            tariff: Tariff {
                child: 1 + shape::spread(schema)? / 64,
                pattern_bytes: built.longest,
            },
        };
        Ok((compiled, bare + built.pattern_bytes))
    }

    fn check(&self, json: &RawJson) -> Result<(), Violation> {
        // Its syntax and its depth were checked when it came in.
        let value = Tree::of(json).map_err(|error| Violation::of_tree(&error))?;
        // `is_valid` stops at the first fault and builds no error: the common case.
        let answer = meter::run(self.tariff, json.len(), || self.validator.is_valid(ValueView(&value)));
        match answer {
            (true, None) => Ok(()),
            (false, None) => Err(self.violation(&value, json.len())),
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

    /// Finds the fault of a value that has one.
    fn violation(&self, value: &Tree<'_>, bytes: usize) -> Violation {
        let search = || {
            self.validator.validate(ValueView(value)).map_err(|error| Violation {
                path: error.instance_path().to_string(),
                rule: error.schema_path().to_string(),
                message: shortened(&error.masked().to_string()),
            })
        };
        match meter::run(self.tariff, bytes, search) {
            // The list of faults belongs to the one that is named, and was merely cut off.
            (Err(violation), None | Some(Spent::Errors)) => violation,
            _ => Violation::of_all("where exactly would take too long to find"),
        }
    }
}

/// Prepares a schema as a registration does; returns which parts of it are not checked.
///
/// # Errors
/// Why a hub would refuse it.
pub fn check_schema(schema: &RawJson) -> Result<Vec<String>, Error> {
    Ok(Check::prepare(schema, Side::Input, usize::MAX)?.warnings)
}

#[cfg(test)]
mod tests;
