//! How a handler fails.

use alkhub_protocol::{CallError, Chain, Code, Delivered, RawJson};
use serde::Serialize;

/// What a caller gets instead of a value.
///
/// Any error turns into one with `?`: code `EXECUTION_ERROR`, with the error and its sources as the message. For an
/// error that callers decide on, use [`Failure::new`] with a code of your own and declare it with
/// [`super::Operation::error`].
#[derive(Clone, Debug, PartialEq)]
pub struct Failure(Box<CallError>);

// === impl Failure ===

impl Failure {
    /// A failure with a code of the operation's own: 1 to 64 letters, digits, `_`, `-` and `.`. Of alkhub's own codes,
    /// the hub passes on those that a spoke may use and those that the operation declares; docs/PROTOCOL.md has the
    /// list.
    pub fn new(code: impl AsRef<str>, message: impl Into<String>) -> Self {
        let code = code.as_ref().parse().unwrap_or(Code::UnknownError);
        Self(Box::new(CallError::new(code, message).delivered(Delivered::Yes)))
    }

    /// Adds details, in the form that the operation declares for the code.
    #[must_use]
    pub fn details<T: Serialize + ?Sized>(mut self, details: &T) -> Self {
        self.0.details = RawJson::from_value(details).ok();
        self
    }

    /// Marks the call as safe to send again.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.0.retryable = true;
        self
    }

    /// The error as it is sent.
    pub fn into_call_error(self) -> CallError {
        *self.0
    }
}

/// This includes `CallError`, which keeps its code.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut error: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        if let Some(error) = error.downcast_mut::<CallError>() {
            return Self(Box::new(error.clone()));
        }
        Self::new(Code::ExecutionError.as_str(), Chain::of(error.as_ref()).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_program_is_an_execution_error_and_a_call_error_stays_what_it_is() {
        let own: Failure = std::io::Error::other("disk full").into();
        let nested: Failure = CallError::new(Code::NoProvider, "nobody").into();

        assert_eq!(own, Failure::new("EXECUTION_ERROR", "disk full"));
        assert_eq!(nested.into_call_error().code, Code::NoProvider);
        assert_eq!(
            Failure::new("QUOTA", "").into_call_error().code,
            Code::Domain("QUOTA".to_owned())
        );
    }
}
