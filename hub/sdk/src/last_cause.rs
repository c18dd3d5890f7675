//! Logs why there is no connection: each new cause once, and every occurrence at debug level.

use alkhub_protocol::Chain;

use crate::Error;

/// The cause that was logged last.
#[derive(Debug, Default)]
pub(crate) struct LastCause(String);

// === impl LastCause ===

impl LastCause {
    /// Logs that `who` tries again, and why.
    pub(crate) fn log(&mut self, who: &'static str, error: &Error) {
        let cause = Chain::of(error).to_string();
        if cause == self.0 {
            tracing::debug!(error = %cause, "{who} is not connected, trying again");
        } else if matches!(error, Error::Untrusted { .. }) {
            tracing::warn!(error = %cause, "{who} is not connected, trying again");
        } else {
            tracing::info!(error = %cause, "{who} is not connected, trying again");
        }
        self.0 = cause;
    }

    /// There is a connection: the next failure is logged even if its cause is the same.
    pub(crate) fn connected(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_cause_is_logged_with_its_sources_and_none_twice() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = Error::Unreachable {
            url: "http://h".to_owned(),
            source: Arc::new(io::Error::other(refused)),
        };

        assert_eq!(
            Chain::of(&error).to_string(),
            "cannot reach the hub at http://h: connection refused"
        );
    }
}
