//! What a check reports about a value that breaks its schema: nothing of the value beyond the path to the fault.

use std::fmt;

use alkhub_protocol::RawJson;
use alkhub_protocol::json::tree::TreeError;

/// Longest message, in characters.
const MESSAGE_LIMIT: usize = 300;

/// Where a value breaks its schema.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// JSON pointer into the value; empty for the value itself.
    pub path: String,
    /// JSON pointer into the schema.
    pub rule: String,
    /// The rule in words.
    #[serde(skip)]
    pub message: String,
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
    /// For a value that has no tree.
    pub(crate) fn of_tree(error: &TreeError) -> Self {
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

    /// A fault without a definite place.
    pub(crate) fn of_all(message: &str) -> Self {
        Self {
            path: String::new(),
            rule: String::new(),
            message: message.to_owned(),
        }
    }

    /// `{path, rule}`.
    pub fn details(&self) -> RawJson {
        RawJson::from_value(self).expect("two strings are JSON")
    }
}

/// A text, cut to the length that goes into a message.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(MESSAGE_LIMIT).collect()
}
