//! Compiles a schema into a validator whose patterns are as small as suffices.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use crate::error::Error;
use crate::shape::Patterns;
use crate::view::Metered;
use crate::violation::shortened;

/// Steps that one pattern may backtrack; over it the value does not match.
const BACKTRACK_LIMIT: usize = 20_000;

/// Largest compiled pattern, in bytes: tried in this order until all patterns of a schema fit.
const PATTERN_LIMITS_BYTES: [usize; 6] = [2 * 1024, 8 * 1024, 32 * 1024, 128 * 1024, 512 * 1024, 1024 * 1024];

/// Largest sum of the compiled patterns of a schema, and of the tables they are run with, in bytes.
const PATTERNS_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// Largest table that one pattern is run with, in bytes, and how much larger than the pattern it may be.
const PATTERN_TABLE_BYTES: usize = 256 * 1024;
const PATTERN_TABLE_FACTOR: usize = 4;

/// Product of the size of a compiled pattern and the length of a string that it is matched with.
const MATCH_LIMIT: usize = 1 << 33;

/// Longest string that a pattern is matched with which looks around or back.
const LOOK_AROUND_LIMIT_BYTES: usize = 16 * 1024;

/// A validator, and what its patterns cost.
pub(crate) struct BuiltValidator {
    pub(crate) validator: Validator<Metered>,
    /// Longest string that the patterns are matched with; `None` where there are none.
    pub(crate) longest: Option<usize>,
    /// What the patterns and their tables take at most.
    pub(crate) pattern_bytes: usize,
}

/// The largest table for a pattern of that size.
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
