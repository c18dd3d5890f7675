//! Why a reconcile did not finish, and what that means: try again, or wait for somebody.
//!
//! A user's mistake is no error: it is a condition. What is here comes from outside.

use std::time::Duration;

use crate::admin;
use crate::gate::Shut;

/// One variant per thing that the reconcile loop can do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused, or could not be reached.
    #[error("could not {verb} {kind} `{name}`")]
    Kubernetes {
        /// What was tried.
        verb: &'static str,
        /// Kind of object.
        kind: String,
        /// Its name.
        name: String,
        /// What the client says.
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time; the write may have been carried out.
    #[error("no answer in time to {verb} {kind} `{name}`")]
    Timeout {
        /// What was tried.
        verb: &'static str,
        /// Kind of object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// This process does not hold the Lease: whoever does will do it.
    #[error(transparent)]
    Shut(#[from] Shut),
    /// An object of the wanted name belongs to something else.
    #[error("{kind} `{name}` exists already and does not belong to this resource: rename or delete it")]
    Taken {
        /// Kind of object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// An object of the wanted name is being deleted.
    #[error("{kind} `{name}` is being deleted; waiting until it is gone")]
    Going {
        /// Kind of object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The cache was behind the API server.
    #[error("the cache is behind the API server")]
    Stale,
    /// The hub's admin API.
    #[error("the hub's admin API failed")]
    Hub(#[from] admin::Error),
}

/// Who can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cure {
    /// Time: it is tried again and nobody is told but the log.
    Time,
    /// A person: it is tried again too, and a condition says so.
    Person,
    /// Another operator.
    Leader,
}

// === impl Error ===

impl Error {
    /// Who can mend it.
    pub(crate) fn cure(&self) -> Cure {
        match self {
            Self::Kubernetes { source, .. } => match status(source) {
                Some(400 | 403 | 404 | 413 | 422) => Cure::Person,
                Some(_) | None => Cure::Time,
            },
            Self::Timeout { .. } | Self::Going { .. } | Self::Stale | Self::Hub(_) => Cure::Time,
            Self::Taken { .. } => Cure::Person,
            Self::Shut(_) => Cure::Leader,
        }
    }

    /// How long the API server asked to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let Self::Kubernetes { source, .. } = self else {
            return None;
        };
        let kube::Error::Api(answer) = source.as_ref() else {
            return None;
        };
        let seconds = answer.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
    }

    /// Whether the API server answered that a precondition or a version did not hold.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Kubernetes { source, .. } if status(source) == Some(409))
    }

    /// The error and its causes in one line.
    pub(crate) fn chain(&self) -> String {
        chain(self)
    }
}

/// An error and its causes in one line, none twice.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

/// The HTTP status of an answer that the API server gave.
pub(crate) fn status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(answer) => Some(answer.code),
        _ => None,
    }
}
