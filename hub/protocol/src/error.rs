//! How a call or a request fails: the codes, what they let the caller do, and their JSON forms.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::RawJson;
use crate::call::Delivered;

/// The start of every problem document's `type`.
pub const PROBLEM_PREFIX: &str = "urn:alkhub:problem:";

/// The answer of a TLS port to a request in plain HTTP.
pub const SPEAKS_TLS: &str = "this port speaks TLS: its address begins with https://";

/// Names a failure; the spelling on the wire is in [`Code::as_str`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// No operation of that name has ever been registered here.
    OperationNotFound,
    /// The key lacks a scope; the message names it.
    AccessDenied,
    /// The input breaks the operation's schema; `details` has `path` and `rule`.
    ValidationError,
    /// The deadline passed.
    Timeout,
    /// The caller, or the hub for it, ended the call.
    Aborted,
    /// The spoke's handler failed.
    ExecutionError,
    /// The spoke failed without a useful error.
    UnknownError,
    /// The operation is known, and no spoke offers it now.
    NoProvider,
    /// The spoke went away before it answered.
    SpokeLost,
    /// Every spoke of the operation, or a queue of the hub, is full.
    Overloaded,
    /// Something that the hub depends on is away.
    Unavailable,
    /// The output breaks the operation's schema; `details` has `path` and `rule`.
    OutputInvalid,
    /// The request or frame is not what this place reads.
    BadRequest,
    /// No key, or one that is unknown, expired or revoked.
    Unauthenticated,
    /// No such route, key, spoke or record.
    NotFound,
    /// The route exists under another method.
    MethodNotAllowed,
    /// The record is not in the state that the request supposes.
    Conflict,
    /// The body or frame is larger than the limit.
    PayloadTooLarge,
    /// Too many requests, connections or bad keys.
    RateLimited,
    /// A feature that this version names but does not have.
    Unsupported,
    /// A fault of the hub; the log has it under the request id.
    Internal,
    /// A code that an operation declares in its `errorSchemas`, or a spoke made up.
    Domain(String),
}

/// Why a call produced no value, as `call.error` carries it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallError {
    /// What happened.
    pub code: Code,
    /// One sentence for people.
    pub message: String,
    /// More, in a form that depends on the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<RawJson>,
    /// Whether the same call may be sent again as it is.
    #[serde(default)]
    pub retryable: bool,
    /// Whether the spoke received the call.
    #[serde(default)]
    pub delivered: Delivered,
    /// Milliseconds to wait before another try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The `httpStatus` that the operation declares for this code; never on the wire.
    #[serde(skip)]
    pub declared_status: Option<u16>,
}

/// A problem document (RFC 9457) with alkhub's three extra members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `urn:alkhub:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// The request's id, as in `X-Request-Id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// What happened, for programs.
    pub code: Code,
    /// Whether the same request may be sent again as it is.
    pub retryable: bool,
    /// Whether the spoke received the call.
    pub delivered: Delivered,
    /// More, in a form that depends on the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<RawJson>,
}

/// Every code that is not a domain's, with its spelling and its title. A title must be true wherever the code is used:
/// a hub can be overloaded by calls, by connections and by bytes.
const CODES: &[(Code, &str, &str)] = &[
    (Code::OperationNotFound, "OPERATION_NOT_FOUND", "Operation not found"),
    (Code::AccessDenied, "ACCESS_DENIED", "Access denied"),
    (
        Code::ValidationError,
        "VALIDATION_ERROR",
        "Input does not match its schema",
    ),
    (Code::Timeout, "TIMEOUT", "Time limit exceeded"),
    (Code::Aborted, "ABORTED", "Call aborted"),
    (Code::ExecutionError, "EXECUTION_ERROR", "Operation failed"),
    (Code::UnknownError, "UNKNOWN_ERROR", "Operation failed without a reason"),
    (Code::NoProvider, "NO_PROVIDER", "No spoke offers the operation now"),
    (Code::SpokeLost, "SPOKE_LOST", "Spoke left before it answered"),
    (Code::Overloaded, "OVERLOADED", "Overloaded"),
    (Code::Unavailable, "UNAVAILABLE", "Temporarily unavailable"),
    (Code::OutputInvalid, "OUTPUT_INVALID", "Output not valid"),
    (Code::BadRequest, "BAD_REQUEST", "Bad request"),
    (Code::Unauthenticated, "UNAUTHENTICATED", "Key missing or not valid"),
    (Code::NotFound, "NOT_FOUND", "Not found"),
    (Code::MethodNotAllowed, "METHOD_NOT_ALLOWED", "Method not allowed"),
    (Code::Conflict, "CONFLICT", "Conflict"),
    (Code::PayloadTooLarge, "PAYLOAD_TOO_LARGE", "Payload too large"),
    (Code::RateLimited, "RATE_LIMITED", "Client limit exceeded"),
    (Code::Unsupported, "UNSUPPORTED", "Not supported"),
    (Code::Internal, "INTERNAL", "Internal error"),
];

// === impl Code ===

impl Code {
    /// The spelling on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Domain(code) => code,
            known => CODES
                .iter()
                .find(|(code, ..)| code == known)
                .map_or("UNKNOWN_ERROR", |(_, name, _)| name),
        }
    }

    /// The code in words, a problem's `title`.
    pub fn title(&self) -> &str {
        match self {
            Self::Domain(code) => code,
            known => CODES
                .iter()
                .find(|(code, ..)| code == known)
                .map_or("", |(_, _, title)| title),
        }
    }

    /// The value of a metric's label: all domain codes share one, so that the set is closed.
    pub fn label(&self) -> &str {
        match self {
            Self::Domain(_) => "DOMAIN",
            known => known.as_str(),
        }
    }
}

impl FromStr for Code {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = CODES
            .iter()
            .find(|(_, name, _)| *name == text)
            .map(|(code, ..)| code.clone());
        Ok(known.unwrap_or_else(|| Self::Domain(text.to_owned())))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Ok(text.parse().unwrap_or(Self::UnknownError))
    }
}

impl JsonSchema for Code {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Code".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<&str> = CODES.iter().map(|(_, name, _)| *name).collect();
        schemars::json_schema!({ "type": "string", "examples": names })
    }
}

// === impl CallError ===

impl CallError {
    /// An error that is not retryable and was not delivered; the setters change that.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: None,
            retryable: false,
            delivered: Delivered::No,
            retry_after_ms: None,
            declared_status: None,
        }
    }

    /// The key lacks a scope, which the error names.
    pub fn missing_scope(scope: &str) -> Self {
        Self::new(Code::AccessDenied, format!("the key lacks the scope `{scope}`"))
    }

    /// Marks that the same call may be sent again.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Sets what is known of the delivery.
    #[must_use]
    pub fn delivered(mut self, delivered: Delivered) -> Self {
        self.delivered = delivered;
        self
    }

    /// Adds details.
    #[must_use]
    pub fn details(mut self, details: RawJson) -> Self {
        self.details = Some(details);
        self
    }

    /// Sets how long to wait before another try.
    #[must_use]
    pub fn retry_after_ms(mut self, milliseconds: u64) -> Self {
        self.retry_after_ms = Some(milliseconds);
        self
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for CallError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_read_as_it_is_written() {
        for (code, name, title) in CODES {
            assert_eq!(name.parse::<Code>().as_ref(), Ok(code));
            assert_eq!(code.as_str(), *name);
            assert_eq!(code.title(), *title);
        }
        assert_eq!("QUOTA".parse(), Ok(Code::Domain("QUOTA".to_owned())));
        assert_eq!(Code::Domain("QUOTA".to_owned()).label(), "DOMAIN");
    }
}
