//! The errors that spokes answer, kept within bounds so that nobody mistakes them for the hub's own.
//!
//! Invariants
//! - A code of the hub about the caller's key, about routing or about the hub itself comes only from the hub. A spoke
//!   that means something of its own spells the code differently, or declares it in `errorSchemas`; for
//!   `UNAUTHENTICATED` even that does not help.
//! - A code is short, and consists of letters, digits, `_`, `-` and `.`: it stands in URNs, tables and logs.
//! - A spoke that answers has received the call, so `delivered` is `yes`, whatever the spoke says.
//! - The error fits into one message, however much the spoke's own message took.

use alkhub_protocol::operation::ErrorSpec;
use alkhub_protocol::{CallError, Code, Delivered, PAYLOAD_LIMIT_BYTES, RawJson};
use serde::Serialize;

/// The longest code, in bytes.
const CODE_LIMIT: usize = 64;

/// How much is shown of a code that is not used, in characters.
const SHOWN: usize = 200;

/// The longest text for people, in bytes; JSON may take six times as many.
const MESSAGE_LIMIT: usize = 8 * 1024;

/// The details of an error whose code was replaced.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Replaced<'a> {
    /// The code that the spoke sent, shortened.
    spoke_code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<RawJson>,
}

/// Brings the error of a spoke into the form in which the caller gets it.
pub(crate) fn bound(error: &mut CallError, declared: &[ErrorSpec]) {
    error.delivered = Delivered::Yes;
    let end = error.message.floor_char_boundary(MESSAGE_LIMIT);
    error.message.truncate(end);
    error.details.take_if(|details| details.len() > PAYLOAD_LIMIT_BYTES);
    let Some(code) = replacement(&error.code, declared) else {
        return;
    };
    let sent = std::mem::replace(&mut error.code, code);
    let shown: String = sent.as_str().chars().take(SHOWN).collect();
    let details = Replaced {
        spoke_code: &shown,
        details: error.details.take(),
    };
    error.details = Some(RawJson::from_value(&details).expect("a text and JSON are JSON"));
}

/// The code in place of one that a spoke may not use.
pub(crate) fn replacement(code: &Code, declared: &[ErrorSpec]) -> Option<Code> {
    match code {
        Code::Domain(text) if is_code(text) => None,
        Code::Domain(_) => Some(Code::UnknownError),
        // The origin's codes, which its spokes use too; what a domain says about its own things; and how a spoke
        // refuses a call for which it has no room.
        Code::OperationNotFound
        | Code::AccessDenied
        | Code::ValidationError
        | Code::Timeout
        | Code::Aborted
        | Code::ExecutionError
        | Code::UnknownError
        | Code::NotFound
        | Code::Conflict
        | Code::Overloaded
        | Code::Unavailable
        | Code::PayloadTooLarge => None,
        Code::Unauthenticated => Some(Code::ExecutionError),
        Code::NoProvider
        | Code::SpokeLost
        | Code::OutputInvalid
        | Code::BadRequest
        | Code::MethodNotAllowed
        | Code::RateLimited
        | Code::Unsupported
        | Code::Internal => {
            let is_declared = declared.iter().any(|declared| declared.code == code.as_str());
            (!is_declared).then_some(Code::ExecutionError)
        }
    }
}

fn is_code(text: &str) -> bool {
    (1..=CODE_LIMIT).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn bounded(code: &str, declared: &Value) -> (String, Option<Value>) {
        let declared: Vec<ErrorSpec> = serde_json::from_value(declared.clone()).expect("specs");
        let mut error = CallError::new(code.parse().expect("any text"), "no").details(json!({"n": 1}).into());
        bound(&mut error, &declared);
        assert_eq!((error.message.as_str(), error.delivered), ("no", Delivered::Yes));
        (
            error.code.to_string(),
            error.details.map(|details| details.to().expect("JSON")),
        )
    }

    #[test]
    fn codes_of_the_domain_and_of_the_origin_pass() {
        for code in [
            "QUOTA",
            "git.not-found_1",
            "OPERATION_NOT_FOUND",
            "ACCESS_DENIED",
            "VALIDATION_ERROR",
            "TIMEOUT",
            "ABORTED",
            "EXECUTION_ERROR",
            "UNKNOWN_ERROR",
            "NOT_FOUND",
            "CONFLICT",
            "OVERLOADED",
            "UNAVAILABLE",
            "PAYLOAD_TOO_LARGE",
        ] {
            assert_eq!(bounded(code, &json!([])), (code.to_owned(), Some(json!({"n": 1}))));
        }
    }

    #[test]
    fn codes_of_the_hub_are_replaced_unless_they_are_declared() {
        for code in ["RATE_LIMITED", "METHOD_NOT_ALLOWED", "SPOKE_LOST", "INTERNAL"] {
            let details = json!({"spokeCode": code, "details": {"n": 1}});
            assert_eq!(bounded(code, &json!([])), ("EXECUTION_ERROR".to_owned(), Some(details)));
            assert_eq!(bounded(code, &json!([{"code": code}])).0, code);
        }
        let declared = json!([{"code": "UNAUTHENTICATED", "httpStatus": 401}]);
        assert_eq!(bounded("UNAUTHENTICATED", &declared).0, "EXECUTION_ERROR");
    }

    #[test]
    fn a_code_that_would_spoil_a_table_is_shown_in_the_details_only() {
        for code in ["a\nb", "a b", "é", "<b>", &"X".repeat(5_000), &"X".repeat(65)] {
            let (code_now, details) = bounded(code, &json!([{"code": code}]));
            let shown: String = code.chars().take(200).collect();
            assert_eq!(code_now, "UNKNOWN_ERROR");
            assert_eq!(details.expect("details")["spokeCode"], json!(shown));
        }
    }

    #[test]
    fn an_error_fits_into_one_message() {
        let details = RawJson::parse(format!("\"{}\"", "x".repeat(PAYLOAD_LIMIT_BYTES))).expect("JSON");
        let mut error = CallError::new(Code::ExecutionError, "é".repeat(PAYLOAD_LIMIT_BYTES)).details(details);

        bound(&mut error, &[]);

        assert_eq!(error.details, None);
        assert!(error.message.len() <= MESSAGE_LIMIT && error.message.starts_with("éé"));
    }
}
