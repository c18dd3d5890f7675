//! Who asks: the identity that a key proves, the same on every surface.

use std::sync::Arc;

use alkhub_protocol::call::Identity;
use alkhub_protocol::operation::AccessControl;
use alkhub_protocol::{OperationName, Scopes, SpokeName};

/// The holder of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The key's id, which call records name.
    pub key_id: Arc<str>,
    /// The rights of the key.
    pub scopes: Arc<Scopes>,
    /// The spoke that the key identifies; absent for a client's key.
    pub spoke: Option<Arc<SpokePolicy>>,
}

// === impl Caller ===

impl Caller {
    /// The caller as a spoke sees it: only those of its scopes that the operation asks for.
    pub(crate) fn identity(&self, access: &AccessControl) -> Identity {
        let asked = access.required_scopes.iter().chain(&access.required_scopes_any);
        let mut scopes: Vec<String> = asked.filter(|scope| self.scopes.allows(scope)).cloned().collect();
        scopes.sort_unstable();
        scopes.dedup();
        Identity {
            id: self.key_id.to_string(),
            scopes,
        }
    }
}

/// The rights of a declared spoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpokePolicy {
    /// Its name.
    pub name: SpokeName,
    /// Operations that it may offer: `ns.op`, `ns.*` or `*`; empty means `{name}.*`.
    pub operations: Vec<String>,
    /// Calls that one instance takes at once, at most.
    pub concurrency: Option<u32>,
    /// Whether it is refused at the door.
    pub suspended: bool,
    /// The resource's uid; empty for a spoke that no resource declares.
    pub uid: String,
}

// === impl SpokePolicy ===

impl SpokePolicy {
    /// Whether the spoke may offer the operation.
    pub fn allows(&self, operation: &OperationName) -> bool {
        if self.operations.is_empty() {
            return operation.namespace() == self.name.as_str();
        }
        self.operations.iter().any(|pattern| matches(pattern, operation))
    }
}

/// Whether a pattern, `ns.op`, `ns.*` or `*`, names the operation.
fn matches(pattern: &str, operation: &OperationName) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(namespace) => namespace.strip_suffix('.') == Some(operation.namespace()),
        // Parsed, so that a pattern in the spoke's own spelling matches too.
        None => pattern
            .parse()
            .is_ok_and(|pattern: OperationName| pattern == *operation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(patterns: &[&str]) -> SpokePolicy {
        SpokePolicy {
            name: "builder".parse().expect("valid"),
            operations: patterns.iter().map(|&p| p.to_owned()).collect(),
            concurrency: None,
            suspended: false,
            uid: String::new(),
        }
    }

    fn allows(patterns: &[&str], operation: &str) -> bool {
        policy(patterns).allows(&operation.parse().expect("valid"))
    }

    #[test]
    fn without_patterns_a_spoke_offers_in_the_namespace_of_its_name() {
        assert!(allows(&[], "builder.build"));
        assert!(!allows(&[], "other.build"));
    }

    #[test]
    fn patterns_name_one_operation_a_namespace_or_all() {
        assert!(allows(&["git.log"], "git.log"));
        assert!(!allows(&["git.log"], "git.show"));
        assert!(allows(&["git.*"], "git.show"));
        assert!(!allows(&["git.*"], "github.show"));
        assert!(allows(&["*"], "any.thing"));
        assert!(!allows(&["git*"], "github.show"));
        assert!(allows(&["git.get/{id}"], "git.get__2F__7Bid__7D"));
        assert!(!allows(&["git.get.id"], "git.get/id"));
    }
}
