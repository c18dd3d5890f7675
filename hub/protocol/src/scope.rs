//! Scopes: what a key may do.
//!
//! alkhub's own scopes are in one list, [`OWN`], from which every text that names them is made.
//!
//! Any other text is a scope of the user's own: an operation's `requiredScopes` match it literally, even for `admin`. A
//! text that is meant as one of alkhub's and can never match is refused when a key is made ([`check`]).

mod check;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::OperationName;
use crate::topic::{Topic, TopicFilter};

pub use check::{InvalidScope, check};

/// Longest scope, in bytes.
pub const SCOPE_LIMIT_BYTES: usize = 256;

/// Lists operations, searches them and reads their schemas.
pub const OPERATIONS_READ: &str = "operations:read";
/// Lists spokes.
pub const SPOKES_READ: &str = "spokes:read";
/// Lists ended calls.
pub const CALLS_READ: &str = "calls:read";
/// Registers operations.
pub const SPOKE: &str = "spoke";
/// Manages keys and spokes; includes every scope of alkhub's own.
pub const ADMIN: &str = "admin";

const CALL: &str = "call:";
const PUBLISH: &str = "events:publish:";
const SUBSCRIBE: &str = "events:subscribe:";

/// The prefixes of the scopes that name something of the user's; every other scope is one word.
const FAMILIES: [&str; 3] = [CALL, PUBLISH, SUBSCRIBE];

/// Every scope of alkhub's own, as it is described to people. A new one is added here, and where it is asked for.
pub const OWN: &[OwnScope] = &[
    OwnScope {
        forms: &["call:ns.op", "call:ns.*", "call:*"],
        allows: "calling",
    },
    OwnScope {
        forms: &["events:publish:TYPE", "events:publish:*"],
        allows: "publishing",
    },
    OwnScope {
        forms: &["events:publish:TYPE:ID"],
        allows: "publishing to one id",
    },
    OwnScope {
        forms: &["events:subscribe:TYPE"],
        allows: "subscribing to named ids of the type",
    },
    OwnScope {
        forms: &["events:subscribe:TYPE:ID"],
        allows: "subscribing to one id",
    },
    OwnScope {
        forms: &["events:subscribe:TYPE:*", "events:subscribe:*"],
        allows: "also to all ids of the type, or of every type",
    },
    OwnScope {
        forms: &[OPERATIONS_READ, SPOKES_READ, CALLS_READ],
        allows: "listing",
    },
    OwnScope {
        forms: &[SPOKE],
        allows: "offering operations",
    },
    OwnScope {
        forms: &[ADMIN],
        allows: "everything above, and the admin API",
    },
];

/// Scopes that allow the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnScope {
    /// How they are written; `ns`, `op`, `TYPE` and `ID` stand for the user's names.
    pub forms: &'static [&'static str],
    /// What they allow, in a few words.
    pub allows: &'static str,
}

/// The scopes of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Scopes(#[schemars(schema_with = "check::schema")] BTreeSet<String>);

// === impl Scopes ===

impl Scopes {
    /// Scopes from their texts.
    pub fn new<I: IntoIterator<Item = S>, S: Into<String>>(scopes: I) -> Self {
        Self(scopes.into_iter().map(Into::into).collect())
    }

    /// The texts, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether the scope is held: literally, or by `admin` if it is one of alkhub's own.
    pub fn allows(&self, scope: &str) -> bool {
        self.0.contains(scope) || (is_own(scope) && self.0.contains(ADMIN))
    }

    /// Whether an operation may be called, apart from its own `requiredScopes`.
    ///
    /// # Errors
    /// The scope that is missing.
    pub fn require_call(&self, operation: &OperationName) -> Result<(), String> {
        let exact = format!("call:{operation}");
        let namespace = format!("call:{}.*", operation.namespace());
        self.any(&[&exact, &namespace, "call:*"], &exact)
    }

    /// Whether a topic may be published to.
    ///
    /// # Errors
    /// The scope that is missing.
    pub fn require_publish(&self, topic: &Topic) -> Result<(), String> {
        let all_ids = format!("events:publish:{}", topic.event_type());
        let one = format!("events:publish:{topic}");
        self.any(&[&all_ids, "events:publish:*", &one], &all_ids)
    }

    /// Whether a topic, or all ids of a type, may be subscribed to.
    ///
    /// # Errors
    /// The scope that is missing.
    pub fn require_subscribe(&self, filter: &TopicFilter) -> Result<(), String> {
        let exact = format!("events:subscribe:{}", filter.event_type());
        let all_ids = format!("{exact}:*");
        match filter {
            TopicFilter::One(topic) => {
                let one = format!("events:subscribe:{topic}");
                self.any(&[&exact, &all_ids, "events:subscribe:*", &one], &exact)
            }
            TopicFilter::AllOf(_) => self.any(&[&all_ids, "events:subscribe:*"], &all_ids),
        }
    }

    /// Checks each scope ([`check`]).
    ///
    /// # Errors
    /// The first one that can never match, with the nearest that can.
    pub fn check(&self) -> Result<(), InvalidScope> {
        self.iter().try_for_each(check)
    }

    /// Whether one scope of alkhub's own is held.
    ///
    /// # Errors
    /// The scope that is missing.
    pub fn require(&self, scope: &str) -> Result<(), String> {
        if self.allows(scope) {
            Ok(())
        } else {
            Err(scope.to_owned())
        }
    }

    fn any(&self, accepted: &[&str], missing: &str) -> Result<(), String> {
        if self.0.contains(ADMIN) || accepted.iter().any(|scope| self.0.contains(*scope)) {
            Ok(())
        } else {
            Err(missing.to_owned())
        }
    }
}

/// The scopes that a spoke's key may have as part of a sentence, each in backticks: all of alkhub's own but `admin`,
/// and `spoke`, which such a key always has.
pub fn of_a_spokes_key() -> String {
    let forms = OWN.iter().flat_map(|own| own.forms).copied();
    let forms = forms.filter(|form| ![SPOKE, ADMIN].contains(form));
    forms.map(|form| format!("`{form}`")).collect::<Vec<_>>().join(", ")
}

fn is_own(scope: &str) -> bool {
    words().any(|word| word == scope) || FAMILIES.iter().any(|family| scope.starts_with(family))
}

/// The scopes that are one word.
fn words() -> impl Iterator<Item = &'static str> {
    let forms = OWN.iter().flat_map(|own| own.forms).copied();
    forms.filter(|form| !FAMILIES.iter().any(|family| form.starts_with(family)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> OperationName {
        text.parse().expect("valid")
    }

    #[test]
    fn a_call_needs_its_operation_its_namespace_or_all() {
        for scope in ["call:text.upper", "call:text.*", "call:*", "admin"] {
            assert!(
                Scopes::new([scope]).require_call(&name("text.upper")).is_ok(),
                "{scope}"
            );
        }
        let missing = Scopes::new(["call:text.lower"]).require_call(&name("text.upper"));
        assert_eq!(missing, Err("call:text.upper".to_owned()));
    }

    #[test]
    fn all_ids_of_a_type_need_an_explicit_wildcard() {
        let all: TopicFilter = "job:*".parse().expect("valid");
        let one: TopicFilter = "job:1".parse().expect("valid");
        let named = Scopes::new(["events:subscribe:job"]);

        assert!(named.require_subscribe(&one).is_ok());
        assert_eq!(named.require_subscribe(&all), Err("events:subscribe:job:*".to_owned()));
        assert!(Scopes::new(["events:subscribe:job:*"]).require_subscribe(&all).is_ok());
    }

    #[test]
    fn a_scope_may_name_one_id_and_allows_no_other() {
        let scopes = Scopes::new(["events:subscribe:job:42", "events:publish:job:42"]);
        let filter = |text: &str| text.parse::<TopicFilter>().expect("valid");
        let topic = |text: &str| text.parse::<Topic>().expect("valid");

        assert!(scopes.require_subscribe(&filter("job:42")).is_ok());
        assert!(scopes.require_publish(&topic("job:42")).is_ok());
        for other in ["job:43", "job:4", "job:", "job:*", "done:42"] {
            assert!(scopes.require_subscribe(&filter(other)).is_err(), "{other}");
        }
        for other in ["job:43", "job:", "done:42"] {
            assert!(scopes.require_publish(&topic(other)).is_err(), "{other}");
        }
        let no_id = Scopes::new(["events:publish:job:"]);
        assert!(no_id.require_publish(&topic("job")).is_ok());
        assert!(no_id.require_publish(&topic("job:42")).is_err());
    }

    #[test]
    fn every_word_of_the_list_is_alkhubs_own_and_every_form_of_a_family_can_match() {
        assert_eq!(
            words().collect::<Vec<_>>(),
            [OPERATIONS_READ, SPOKES_READ, CALLS_READ, SPOKE, ADMIN]
        );
        for form in OWN.iter().flat_map(|own| own.forms) {
            assert_eq!(check(form), Ok(()), "{form}");
            assert!(Scopes::new([ADMIN]).allows(form), "{form}");
        }
        assert!(of_a_spokes_key().ends_with("`operations:read`, `spokes:read`, `calls:read`"));
    }

    #[test]
    fn admin_does_not_stand_for_a_users_own_scope() {
        assert!(!Scopes::new([ADMIN]).allows("task:read"));
        assert!(Scopes::new(["task:read"]).allows("task:read"));
        assert!(Scopes::new([ADMIN]).allows(SPOKES_READ));
    }
}
