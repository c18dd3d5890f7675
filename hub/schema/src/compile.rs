//! Compiles a schema into a validator whose patterns are as small as possible.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use crate::error::Error;
use crate::shape::Patterns;
use crate::view::Metered;
use crate::violation::shortened;

/// How many steps one pattern may backtrack; beyond that the value does not match.
const BACKTRACK_LIMIT: usize = 20_000;

/// The size limits for a compiled pattern, in bytes, tried in this order until all patterns of a schema fit.
const PATTERN_LIMITS_BYTES: [usize; 6] = [2 * 1024, 8 * 1024, 32 * 1024, 128 * 1024, 512 * 1024, 1024 * 1024];

/// The largest total of a schema's compiled patterns and the tables with which they run, in bytes.
const PATTERNS_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// The largest table with which one pattern runs, in bytes, and how much larger than the pattern it may be.
const PATTERN_TABLE_BYTES: usize = 256 * 1024;
const PATTERN_TABLE_FACTOR: usize = 4;

/// The largest product of the size of a compiled pattern and the length of a string that it is matched with.
const MATCH_LIMIT: usize = 1 << 33;

/// The longest string for a pattern that looks around or back.
const LOOK_AROUND_LIMIT_BYTES: usize = 16 * 1024;

/// A validator, and the cost of its patterns.
pub(crate) struct BuiltValidator {
    pub(crate) validator: Validator<Metered>,
    /// The longest string that the patterns are matched with; `None` if there are none.
    pub(crate) longest: Option<usize>,
    /// The most memory that the patterns and their tables may take.
    pub(crate) pattern_bytes: usize,
}

/// The largest table for a pattern of this size.
fn table(size: usize) -> usize {
    PATTERN_TABLE_BYTES.min(PATTERN_TABLE_FACTOR * size)
}

/// Compiles with the smallest patterns that suffice, unless they take more than `room`.
pub(crate) fn build(schema: &Value, patterns: Patterns, room: usize) -> Result<BuiltValidator, Error> {
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
                return Ok(BuiltValidator {
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
