//! The digest of a declaration, by which an operator sees whether a hub still has what was declared.
//!
//! Invariants
//! - It is computed from the values, field by field, and not from a text: another order or form of the same JSON
//!   changes nothing.
//! - Its version comes first. A reader that does not know the version does not compare, so that a hub of another minor
//!   version is not sent the same declaration again and again.

use sha2::{Digest as _, Sha256};

use super::SpokePut;

/// The prefix of a [`SpokePut::digest`].
const VERSION: &str = "1:";

// === impl SpokePut ===

impl SpokePut {
    /// Digest of what the spoke is and may do; its keys are not in it.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(bytes);
        };
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX).to_be_bytes();
        part(self.uid.as_bytes());
        part(self.spoke_type.as_str().as_bytes());
        part(&count(self.operations.len()));
        self.operations.iter().for_each(|operation| part(operation.as_bytes()));
        part(&count(self.scopes.iter().count()));
        self.scopes.iter().for_each(|scope| part(scope.as_bytes()));
        part(&count(self.labels.len()));
        for (name, value) in &self.labels {
            part(name.as_bytes());
            part(value.as_bytes());
        }
        part(
            self.concurrency
                .map_or_else(String::new, |limit| limit.to_string())
                .as_bytes(),
        );
        part(&[u8::from(self.suspended)]);
        format!("{VERSION}{}", hex::encode(&hash.finalize()[..16]))
    }

    /// Whether a hub that reports this digest has this declaration; a digest of an unknown version is taken to match.
    pub fn agrees_with(&self, reported: &str) -> bool {
        !reported.starts_with(VERSION) || reported == self.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(change: &serde_json::Value) -> SpokePut {
        let mut put = serde_json::json!({
            "uid": "u", "spokeType": "compute", "operations": ["a.b", "c.*"], "scopes": ["call:*"],
            "labels": {"x": "y"}, "concurrency": 3, "suspended": false,
        });
        for (key, value) in change.as_object().into_iter().flatten() {
            put[key] = value.clone();
        }
        serde_json::from_value(put).expect("a declaration")
    }

    #[test]
    fn every_field_but_the_keys_is_in_the_digest() {
        let digest = put(&serde_json::json!({})).digest();

        for change in [
            serde_json::json!({"uid": "v"}),
            serde_json::json!({"spokeType": "client"}),
            serde_json::json!({"operations": ["a.bc", ".*"]}),
            serde_json::json!({"operations": ["a.b"], "scopes": ["c.*", "call:*"]}),
            serde_json::json!({"scopes": []}),
            serde_json::json!({"labels": {"xy": ""}}),
            serde_json::json!({"concurrency": null}),
            serde_json::json!({"suspended": true}),
        ] {
            assert_ne!(put(&change).digest(), digest, "{change}");
        }
        let keys = serde_json::json!({"key": "alk_x", "overlapSeconds": 9, "keyExpiresAt": "2026-01-01T00:00:00Z"});
        assert_eq!(put(&keys).digest(), digest);
    }

    #[test]
    fn the_digest_of_this_version_never_changes() {
        let digest = put(&serde_json::json!({})).digest();

        assert_eq!(digest, "1:70ed5e4debcea191c88f29469daa143f");
    }

    #[test]
    fn a_digest_of_another_version_is_not_compared() {
        let put = put(&serde_json::json!({}));

        assert!(put.agrees_with(&put.digest()) && put.agrees_with("2:whatever"));
        assert!(!put.agrees_with("1:00000000000000000000000000000000"));
    }
}
