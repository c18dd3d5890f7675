//! How a command fails: one line for people, one exit code for scripts.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use alkhub_protocol::{Chain, CloseCode};
use alkhub_sdk::{Code, Delivered, Distrust, Error};

/// Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// What went wrong and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    line: String,
}

// === impl Failure ===

impl Failure {
    /// A failure without a code of its own.
    pub(crate) fn other(line: impl Into<String>) -> Self {
        Self {
            code: 1,
            line: line.into(),
        }
    }

    /// The command line, or a file that it names, is wrong.
    pub(crate) fn usage(line: impl Into<String>) -> Self {
        Self {
            code: 2,
            line: line.into(),
        }
    }

    /// It was not done in time.
    pub(crate) fn late(line: impl Into<String>) -> Self {
        Self {
            code: 8,
            line: line.into(),
        }
    }

    /// The input is not valid.
    pub(crate) fn input(line: impl Into<String>) -> Self {
        Self {
            code: 6,
            line: line.into(),
        }
    }

    /// The failure of a call that may have been sent: a proxy that lost the hub does not know whether it was made.
    pub(crate) fn of_call(error: Error) -> Self {
        let lost = matches!(
            error,
            Error::Refused {
                status: 500 | 502 | 504,
                ..
            }
        );
        let failure = Self::from(error);
        match lost {
            true => Self { code: 9, ..failure },
            false => failure,
        }
    }

    /// Any error with its sources.
    pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::other(chain(error))
    }

    /// What is printed.
    #[cfg(test)]
    pub(crate) fn line(&self) -> &str {
        &self.line
    }

    /// Writes the line where Kubernetes looks for a container's last message, so that it is shown with the pod and by
    /// the operator. Elsewhere that file does not exist, and is not created.
    pub(crate) fn leave_word(self, place: &Path) -> Self {
        let file = std::fs::OpenOptions::new().write(true).truncate(true).open(place);
        if let Ok(mut file) = file {
            // It is on standard error too, so a full disk does not hide it.
            drop(file.write_all(format!("alkhub: {}\n", self.line.replace('\n', " ")).as_bytes()));
        }
        self
    }

    /// The line that reports it, and the exit code.
    pub(crate) fn report(&self) -> (String, ExitCode) {
        (self.line.replace('\n', " "), ExitCode::from(self.code))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = exit_code(&error);
        let mut line = chain(&error);
        if let Some(cure) = cure(&error) {
            line = format!("{line}; {cure}");
        }
        Self { code, line }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::chain(&error)
    }
}

/// An error and its sources in one line, none repeated.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    Chain::of(error).to_string()
}

fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Unreachable { .. } | Error::Untrusted { .. } => 3,
        Error::Refused { status, .. } if is_of_key(*status) => 4,
        // What answers there is not a hub, or not one that speaks this protocol.
        Error::Refused { status: 400..500, .. } if !error.retryable() => 3,
        Error::Refused { .. } => 10,
        Error::Name(_) | Error::Topic(_) | Error::Setting { .. } => 2,
        Error::TooLarge { .. } | Error::Encode(_) => 6,
        Error::Timeout(_) => 8,
        Error::Lost | Error::Lagged(_) => 9,
        Error::Call(_) | Error::Problem(_) => error.code().map_or(1, |code| of_code(code, error)),
        Error::Rejected(_) | Error::Decode { .. } | Error::Closed | Error::Panicked => 1,
    }
}

/// Whether an HTTP status or a close code concerns the key: it is no longer valid, or not allowed in.
fn is_of_key(status: u16) -> bool {
    let closed = CloseCode::of(status);
    matches!(status, 401 | 403) || matches!(closed, Some(CloseCode::Revoked | CloseCode::Suspended))
}

fn of_code(code: &Code, error: &Error) -> u8 {
    let delivered = error.delivered();
    match code {
        // About the spoke's own things, not about the command.
        Code::NotFound | Code::Conflict | Code::PayloadTooLarge if delivered == Delivered::Yes => 7,
        Code::Unauthenticated | Code::AccessDenied => 4,
        Code::OperationNotFound | Code::NoProvider | Code::NotFound | Code::MethodNotAllowed => 5,
        Code::ValidationError | Code::BadRequest | Code::PayloadTooLarge | Code::Unsupported => 6,
        Code::ExecutionError | Code::UnknownError | Code::OutputInvalid | Code::Domain(_) | Code::Aborted => 7,
        Code::Timeout => 8,
        Code::SpokeLost => 9,
        Code::Overloaded | Code::Unavailable | Code::RateLimited => match delivered {
            Delivered::No => 10,
            // A spoke that got the call and says that it is retryable knows that it may be made again.
            Delivered::Yes if error.retryable() => 10,
            Delivered::Yes | Delivered::Maybe => 9,
        },
        Code::Internal if delivered != Delivered::No => 9,
        Code::Conflict | Code::Internal => 1,
    }
}

fn cure(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::Unreachable { .. } => "is it running? `alkhub dev` starts one, --url or ALKHUB_URL names another",
        Error::Untrusted {
            distrust: Distrust::Authority,
            ..
        } => "name the authority's file with --ca-file or ALKHUB_CA_FILE",
        Error::Refused { status: 401, .. } => "give a valid key with --token or ALKHUB_TOKEN",
        Error::Call(_) | Error::Problem(_) => match error.code()? {
            Code::Unauthenticated => "give a valid key with --token or ALKHUB_TOKEN",
            Code::OperationNotFound => "`alkhub operations` lists those that exist",
            Code::NoProvider => "`alkhub spokes` lists those that are connected",
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use alkhub_sdk::CallError;

    use super::*;

    fn refused(status: u16) -> Error {
        Error::Refused {
            url: String::new(),
            status,
            reason: String::new(),
            retry_after: None,
        }
    }

    fn answered(code: Code, delivered: Delivered) -> Error {
        CallError::new(code, "").delivered(delivered).into()
    }

    #[test]
    fn scripts_can_tell_failures_apart() {
        for (error, code) in [
            (Error::from(CallError::new(Code::OperationNotFound, "")), 5),
            (CallError::new(Code::ValidationError, "").into(), 6),
            (CallError::new(Code::Domain("QUOTA".to_owned()), "").into(), 7),
            (CallError::new(Code::Timeout, "").into(), 8),
            (Error::Lost, 9),
            (refused(401), 4),
            (refused(404), 3),
            (refused(429), 10),
            (refused(4409), 10),
            (CallError::new(Code::Overloaded, "").into(), 10),
            (CallError::new(Code::Conflict, "").into(), 1),
            (answered(Code::Conflict, Delivered::Yes), 7),
            (answered(Code::NotFound, Delivered::Yes), 7),
            (answered(Code::Internal, Delivered::Maybe), 9),
        ] {
            assert_eq!(exit_code(&error), code, "{error}");
        }
    }

    #[test]
    fn what_may_have_been_done_is_not_called_to_be_tried_again() {
        for code in [Code::Unavailable, Code::Overloaded, Code::RateLimited] {
            assert_eq!(exit_code(&answered(code.clone(), Delivered::No)), 10, "{code}");
            assert_eq!(exit_code(&answered(code.clone(), Delivered::Maybe)), 9, "{code}");
            assert_eq!(exit_code(&answered(code.clone(), Delivered::Yes)), 9, "{code}");
            let again = CallError::new(code.clone(), "").delivered(Delivered::Yes).retryable();
            assert_eq!(exit_code(&again.into()), 10, "{code}");
        }
        assert_eq!(
            (Failure::of_call(refused(502)).code, Failure::of_call(refused(503)).code),
            (9, 10)
        );
        assert_eq!(Failure::from(refused(502)).code, 10, "nothing was sent");
    }

    #[test]
    fn the_last_words_are_left_only_where_somebody_asked_for_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let (there, missing) = (folder.path().join("log"), folder.path().join("none"));
        std::fs::write(&there, "older and longer than what is written now").expect("written");

        let _ = Failure::other("no\nkey").leave_word(&there).leave_word(&missing);

        assert_eq!(std::fs::read_to_string(&there).expect("there"), "alkhub: no key\n");
        assert!(!missing.exists());
    }

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::from(Error::Call(Box::new(CallError::new(
            Code::OperationNotFound,
            "no `a.b`",
        ))));

        assert_eq!(
            failure.line,
            "OPERATION_NOT_FOUND: no `a.b`; `alkhub operations` lists those that exist"
        );
    }
}
