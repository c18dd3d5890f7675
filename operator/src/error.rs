//! Why a reconcile did not finish, and what that calls for: trying again, or waiting for somebody.
//!
//! A user's mistake is not an error but a condition. The errors here come from outside.

use std::time::Duration;

use alkhub_protocol::Chain;
use kube::core::Status;

use crate::admin;
use crate::gate::Shut;
use crate::in_flight::Busy;

/// One variant for each thing that the reconcile loop can do about it.
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
    /// This process does not hold the Lease: the one that does will do it.
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
    /// The Service under the name of a Hub's admin API is not the Hub's.
    #[error("Service `{name}` is not there or not the Hub's: it is not shown the admin key")]
    Stranger {
        /// The Service.
        name: String,
    },
    /// A Secret of ours holds something that the hub cannot use.
    #[error(
        "Secret `{name}`: {why}; put back what it held, or delete the Secret, and a new one is made with which every key that was given out ends"
    )]
    Broken {
        /// Its name.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// An object that keeps a revision cannot be read.
    #[error("ControllerRevision `{name}` does not hold what this operator keeps there: delete it, and it is made anew")]
    Unkept {
        /// Its name.
        name: String,
    },
    /// A managed Postgres has data, and the password that these were created with is lost.
    #[error(
        "Secret `{name}` is gone, and the data of the managed Postgres still know the password that was in it: put the Secret back. Or give the server another password (`kubectl -n {namespace} exec {name}-0 -- psql -U {user} -c \"ALTER USER {user} PASSWORD 'NEW'\"`) and make the Secret `{name}` with `password: NEW` and `url: postgres://{user}:NEW@{name}.{namespace}.svc:5432/{user}`: it is adopted"
    )]
    Lost {
        /// Of the Hub.
        namespace: String,
        /// Of the Secret and the StatefulSet.
        name: String,
        /// User and database.
        user: &'static str,
    },
    /// The volume of a managed server cannot be exchanged while its StatefulSet exists.
    #[error(
        "{field} asks for another volume than StatefulSet `{name}` was made with ({was}): ask for that one again; or set secretRef, wait until the StatefulSet is gone, and ask for the new one then"
    )]
    Fixed {
        /// Of the Hub.
        field: String,
        /// The StatefulSet.
        name: String,
        /// Size and class of the existing volume.
        was: String,
    },
    /// A value of the spec cannot be written into an object.
    #[error("the spec has a value that cannot be written into its {kind}")]
    Unmade {
        /// Kind of object.
        kind: &'static str,
        /// Which value.
        source: serde_json::Error,
    },
    /// A fault of the operator's own.
    #[error(
        "a fault of the operator ended the reconcile: its log has the words under error.id={id}; please report them"
    )]
    Panicked {
        /// The same fault gets the same id.
        id: String,
    },
    /// An object of the wanted name is being deleted.
    #[error("{kind} `{name}` is being deleted; waiting until it is gone")]
    Going {
        /// Kind of object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The API server took a patch without our finalizer, and the finalizer is still there.
    #[error("the finalizer of Spoke `{name}` is still there after it was taken away: does a webhook put it back?")]
    Kept {
        /// The Spoke.
        name: String,
    },
    /// The cache was behind the API server.
    #[error("the cache is behind the API server")]
    Stale,
    /// The last poll could not ask the hub or had no answer, and the hub was not asked again.
    #[error("the hub was not asked again: {why}")]
    Silent {
        /// Why the last poll failed.
        why: String,
    },
    /// The hub is slow, and enough requests wait for it already.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The hub's admin API.
    #[error("the hub's admin API failed")]
    Hub(#[from] admin::Error),
}

/// A failure that should pass with time is shown once it comes after this many others in a row, some seconds after the
/// first.
const PERSISTENT: u32 = 4;

/// Who can fix it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cure {
    /// Time: it is tried again, and only logged unless it persists.
    Time,
    /// A person: it is tried again too, and a condition reports it.
    Person,
    /// Another operator.
    Leader,
}

// === impl Error ===

impl Error {
    /// Who can fix it.
    pub(crate) fn cure(&self) -> Cure {
        match self {
            Self::Kubernetes { .. } if self.is_namespace_going() => Cure::Time,
            Self::Kubernetes { source, .. } => match status(source) {
                Some(400 | 403 | 404 | 413 | 422) => Cure::Person,
                Some(_) | None => Cure::Time,
            },
            Self::Timeout { .. }
            | Self::Going { .. }
            | Self::Stale
            | Self::Silent { .. }
            | Self::Busy(_)
            | Self::Hub(_) => Cure::Time,
            Self::Taken { .. }
            | Self::Kept { .. }
            | Self::Stranger { .. }
            | Self::Broken { .. }
            | Self::Unkept { .. }
            | Self::Lost { .. }
            | Self::Fixed { .. }
            | Self::Unmade { .. }
            | Self::Panicked { .. } => Cure::Person,
            Self::Shut(_) => Cure::Leader,
        }
    }

    /// Whether a condition shall report it, after `failures` earlier failures in a row: at once if only a person can
    /// fix it, and later if time should have fixed it but did not.
    pub(crate) fn is_shown(&self, failures: u32) -> bool {
        match self.cure() {
            Cure::Person => true,
            Cure::Time => failures >= PERSISTENT,
            Cure::Leader => false,
        }
    }

    /// Whether nothing can be created because the namespace is being deleted: the resource itself is about to go too.
    pub(crate) fn is_namespace_going(&self) -> bool {
        matches!(self, Self::Kubernetes { source, .. } if is_namespace_going(source))
    }

    /// How long the API server asked us to wait.
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

    /// Whether the API server answered that there is no such object.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Kubernetes { source, .. } if status(source) == Some(404))
    }

    /// Whether the API server does not let this operator do it.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Kubernetes { source, .. } if status(source) == Some(403))
    }

    /// The error and its causes in one line.
    pub(crate) fn chain(&self) -> String {
        chain(self)
    }
}

/// An error and its causes in one line; of an answer from the API server only its message.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    Chain::of(error).ending(|error| answer(error).map(message)).to_string()
}

/// The answer of the API server behind an error; some errors hold the client's error in a box, which is an error of its
/// own.
fn answer<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Status> {
    let error = match error.downcast_ref::<Box<kube::Error>>() {
        Some(boxed) => boxed.as_ref(),
        None => error.downcast_ref::<kube::Error>()?,
    };
    match error {
        kube::Error::Api(answer) => Some(answer),
        _ => None,
    }
}

/// The text of an answer for people.
fn message(answer: &Status) -> String {
    match (answer.message.as_str(), answer.reason.as_str()) {
        ("", "") => format!("the API server answered HTTP {}", answer.code),
        ("", reason) => format!("the API server answered HTTP {} {reason}", answer.code),
        (message, _) => message.to_owned(),
    }
}

/// Whether the API server refused because the namespace is being deleted: nothing new can be made in it.
fn is_namespace_going(error: &kube::Error) -> bool {
    let kube::Error::Api(answer) = error else { return false };
    let causes = answer.details.iter().flat_map(|details| &details.causes);
    answer.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// The HTTP status of an answer that the API server gave.
pub(crate) fn status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(answer) => Some(answer.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Error {
        let answer = Status::failure("Deployment.apps \"demo\" is invalid: spec.x: no", "Invalid").with_code(422);
        Error::Kubernetes {
            verb: "apply",
            kind: "Deployment".to_owned(),
            name: "demo".to_owned(),
            source: Box::new(kube::Error::Api(answer.boxed())),
        }
    }

    #[test]
    fn what_the_api_server_says_is_repeated_once_and_as_text() {
        assert_eq!(
            refused().chain(),
            "could not apply Deployment `demo`: Deployment.apps \"demo\" is invalid: spec.x: no"
        );
    }

    #[test]
    fn a_namespace_that_ends_is_nobodys_fault() {
        let answer: Status = serde_json::from_value(serde_json::json!({
            "message": "secrets is forbidden: … because it is being terminated", "code": 403, "reason": "Forbidden",
            "details": {"causes": [{"reason": "NamespaceTerminating", "message": "namespace x is being terminated"}]},
        }))
        .expect("a Status");
        let error = Error::Kubernetes {
            verb: "create",
            kind: "Secret".to_owned(),
            name: "demo-auth".to_owned(),
            source: Box::new(kube::Error::Api(answer.boxed())),
        };

        assert_eq!((error.is_namespace_going(), error.cure()), (true, Cure::Time));
        assert!(!refused().is_namespace_going());
    }

    #[test]
    fn an_answer_without_words_is_named_by_its_code() {
        let error = kube::Error::Api(Status::failure("", "").with_code(500).boxed());

        assert_eq!(chain(&error), "the API server answered HTTP 500");
    }

    #[test]
    fn a_failure_that_goes_on_is_shown_and_one_that_a_person_must_mend_at_once() {
        let answer = Status::failure("duplicate entries", "").with_code(500).boxed();
        let fails = Error::Kubernetes {
            verb: "apply",
            kind: "Deployment".to_owned(),
            name: "demo".to_owned(),
            source: Box::new(kube::Error::Api(answer)),
        };

        assert!(refused().is_shown(0));
        assert!(!fails.is_shown(0) && !fails.is_shown(PERSISTENT - 1));
        assert!(fails.is_shown(PERSISTENT));
        assert!(!Error::Shut(Shut).is_shown(99));
    }
}
