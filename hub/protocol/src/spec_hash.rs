//! The hash of a specification, which names it in place of its text: on the wire, between hubs, and in the store.
//!
//! Invariants
//! - What is read back from [`OperationSpec::canonical`] has the same hash.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::OperationSpec;
use crate::json::tree::Tree;

/// SHA-256 of a specification's canonical JSON ([`OperationSpec::canonical`]). Between hubs and in logs it is written
/// in hexadecimal; on the wire to peers, in fewer characters ([`SpecHash::to_wire`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpecHash(pub [u8; 32]);

/// The text is not a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no hash of 64 hexadecimal digits")]
pub struct InvalidSpecHash;

// === impl SpecHash ===

impl SpecHash {
    /// The hash of a specification.
    pub fn of(spec: &OperationSpec) -> Self {
        Self(Sha256::digest(spec.canonical()).into())
    }

    /// As peers write it: 43 characters of URL-safe base64 without padding.
    pub fn to_wire(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads what [`SpecHash::to_wire`] writes; `None` for anything else.
    pub fn from_wire(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        let read = URL_SAFE_NO_PAD.decode_slice(text, &mut hash).ok()?;
        (read == hash.len()).then_some(Self(hash))
    }
}

impl fmt::Display for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SpecHash {
    type Err = InvalidSpecHash;

    fn from_str(text: &str) -> Result<Self, InvalidSpecHash> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).map_err(|_| InvalidSpecHash)?;
        Ok(Self(hash))
    }
}

// === impl OperationSpec ===

impl OperationSpec {
    /// The JSON with every member that a hub fills in, with the members of every object sorted and no white space.
    /// Numbers stay as they came, since a specification may have some that no type of ours holds.
    pub fn canonical(&self) -> String {
        let text = serde_json::to_string(self).expect("a specification is JSON that was read");
        match Tree::parse(text.as_bytes()) {
            Ok(tree) => {
                let mut sorted = String::with_capacity(text.len());
                tree.write_canonical(&mut sorted);
                sorted
            }
            // Two members of one name, or half of a surrogate pair: such a text can only be kept as it is.
            Err(_) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::RawJson;

    use super::*;

    fn spec(input_schema: &str) -> OperationSpec {
        let text = format!(
            r#"{{"namespace":"text","name":"upper","type":"query","inputSchema":{input_schema},"outputSchema":true}}"#
        );
        serde_json::from_str(&text).expect("a specification")
    }

    #[test]
    fn the_hash_knows_neither_order_nor_white_space() {
        let one = spec(r#"{"type":"object","required":["b","a"],"properties":{"b":{},"a":{"x":1,"w":2}}}"#);
        let two = spec(r#"{ "properties": {"a":{"w":2,"x":1}, "b":{}}, "required":["b","a"], "type":"object"}"#);

        assert_eq!(SpecHash::of(&one), SpecHash::of(&two));
        assert_ne!(SpecHash::of(&one), SpecHash::of(&spec("true")));
        assert_ne!(SpecHash::of(&spec(r#"["a","b"]"#)), SpecHash::of(&spec(r#"["b","a"]"#)));
    }

    #[test]
    fn what_is_read_back_has_the_same_hash() {
        let spec = spec(r#"{"enum":[1.50, "a\u0000b", null]}"#);
        let again: OperationSpec = serde_json::from_str(&spec.canonical()).expect("reads");

        assert_eq!(SpecHash::of(&again), SpecHash::of(&spec));
    }

    #[test]
    fn what_no_number_or_text_of_ours_can_hold_has_a_hash_and_is_kept_as_it_came() {
        for odd in [
            "1e400",
            "123456789012345678901234567890",
            r#""cut \ud83d""#,
            r#"{"a":1,"a":2}"#,
        ] {
            let mut spec = spec("true");
            spec.meta = Some(RawJson::parse(odd.to_owned()).expect("JSON"));

            let again: OperationSpec = serde_json::from_str(&spec.canonical()).expect("reads");

            assert_eq!(again.meta, spec.meta, "{odd}");
            assert_eq!(SpecHash::of(&again), SpecHash::of(&spec), "{odd}");
        }
    }

    #[test]
    fn a_hash_is_read_as_it_is_shown() {
        let hash = SpecHash::of(&spec("true"));

        assert_eq!(hash.to_string().parse::<SpecHash>().ok(), Some(hash));
        for text in ["", "ab", &"g".repeat(64), &"é".repeat(32)] {
            assert!(text.parse::<SpecHash>().is_err(), "{text}");
        }
    }

    /// PROTOCOL shows this example: whoever computes hashes compares with it.
    #[test]
    fn the_hash_of_the_example_is_what_the_protocol_says() {
        let spec = spec(r#"{"type":"string"}"#);

        assert_eq!(
            spec.canonical(),
            r#"{"accessControl":{"requiredScopes":[]},"description":"","idempotent":false,"inputSchema":{"type":"string"},"name":"upper","namespace":"text","outputSchema":true,"type":"query","version":"1.0.0"}"#
        );
        assert_eq!(
            SpecHash::of(&spec).to_wire(),
            "4SMtD0vVLfq53SPKe0NEobgBSw3lZPmO58I16A7ljWc"
        );
    }

    #[test]
    fn a_hash_of_the_wire_is_43_characters_and_nothing_else_is_one() {
        let hash = SpecHash::of(&spec("true"));
        let text = hash.to_wire();

        assert_eq!(text.len(), 43);
        assert_eq!(SpecHash::from_wire(&text), Some(hash));
        // The last character has two bits that must be 0.
        let odd = format!("{}B", &SpecHash([0; 32]).to_wire()[..42]);
        let (padded, hexadecimal) = (format!("{text}="), hash.to_string());
        for wrong in [
            "",
            "ab",
            &text[..42],
            &odd,
            &padded,
            &hexadecimal,
            &"+".repeat(43),
            &"é".repeat(22),
        ] {
            assert_eq!(SpecHash::from_wire(wrong), None, "{wrong}");
        }
    }
}
