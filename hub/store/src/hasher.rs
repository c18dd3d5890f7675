//! Keys are stored as a keyed hash: whoever reads the database can neither use them nor test guesses against them.

use alkhub_protocol::ApiKey;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

/// Length of the secret in bytes.
const SECRET_BYTES: usize = 32;

/// HMAC-SHA-256 of a key under the Hub's secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash(pub [u8; 32]);

/// Which secret made a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashKey {
    /// Its name in the settings, `auth.hash-key-id`.
    pub id: String,
    /// Derived from the secret, so that two secrets of one name differ in it. Nothing of the secret can be read from
    /// it.
    pub fingerprint: String,
}

/// Hashes keys. The secret never leaves it.
#[derive(Clone)]
pub struct KeyHasher {
    hash_key: HashKey,
    keyed: Hmac<Sha256>,
}

/// The hash key's text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hash key must be 64 hexadecimal digits")]
pub struct InvalidHashKey;

// === impl KeyHasher ===

impl KeyHasher {
    /// A hasher with the secret's bytes and the name that is stored with each hash.
    pub fn new(id: impl Into<String>, secret: &[u8; SECRET_BYTES]) -> Self {
        let keyed = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
        let bytes = labelled(&keyed, "alkhub hash key fingerprint");
        let fingerprint = hex::encode(&bytes[..8]);
        Self {
            hash_key: HashKey {
                id: id.into(),
                fingerprint,
            },
            keyed,
        }
    }

    /// A hasher from the secret's text, as in `auth.hash-key-file`.
    ///
    /// # Errors
    /// [`InvalidHashKey`], which contains nothing of the text.
    pub fn from_hex(id: impl Into<String>, text: &SecretString) -> Result<Self, InvalidHashKey> {
        let mut secret = [0; SECRET_BYTES];
        hex::decode_to_slice(text.expose_secret().trim(), &mut secret).map_err(|_| InvalidHashKey)?;
        Ok(Self::new(id, &secret))
    }

    /// Which secret it is: stored with each hash, so that the secret can be changed.
    pub fn hash_key(&self) -> &HashKey {
        &self.hash_key
    }

    /// A secret for another purpose, which only somebody who has this one can compute. Neither can be computed from the
    /// uses of the other.
    pub fn derive(&self, purpose: &str) -> [u8; SECRET_BYTES] {
        labelled(&self.keyed, &format!("alkhub secret for {purpose}"))
    }

    /// The hash of a key.
    pub fn hash(&self, key: &ApiKey) -> KeyHash {
        let mut keyed = self.keyed.clone();
        keyed.update(key.expose().as_bytes());
        KeyHash(keyed.finalize().into_bytes().into())
    }
}

/// What the secret makes of a label. No key equals a label, since keys begin with `alk_`.
fn labelled(keyed: &Hmac<Sha256>, label: &str) -> [u8; SECRET_BYTES] {
    let mut keyed = keyed.clone();
    keyed.update(label.as_bytes());
    keyed.finalize().into_bytes().into()
}

impl std::fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyHasher")
            .field("id", &self.hash_key.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_the_key_and_on_the_secret() {
        let (one, two) = (KeyHasher::new("1", &[1; 32]), KeyHasher::new("2", &[2; 32]));
        let (a, b) = (ApiKey::from_entropy([3; 32]), ApiKey::from_entropy([4; 32]));

        assert_eq!(one.hash(&a), one.hash(&a));
        assert_ne!(one.hash(&a), one.hash(&b));
        assert_ne!(one.hash(&a), two.hash(&a));
    }

    #[test]
    fn a_secret_is_64_hexadecimal_digits_and_nothing_else() {
        let parse = |text: &str| KeyHasher::from_hex("1", &text.into()).map(|_| ());

        assert_eq!(parse(&format!("{}\n", "aB".repeat(32))), Ok(()));
        for text in [
            "",
            "ab",
            &"ab".repeat(33),
            &"+a".repeat(32),
            &"ä".repeat(32),
            &"xy".repeat(32),
        ] {
            assert_eq!(parse(text), Err(InvalidHashKey), "{text}");
        }
    }

    #[test]
    fn secrets_of_one_name_have_fingerprints_of_their_own() {
        let print = |secret: u8| KeyHasher::new("1", &[secret; 32]).hash_key().fingerprint.clone();

        assert_eq!(print(1), print(1));
        assert_ne!(print(1), print(2));
        assert_eq!(print(1).len(), 16);
    }

    #[test]
    fn a_derived_secret_depends_on_the_secret_and_on_its_purpose() {
        let derive = |secret: u8, purpose: &str| KeyHasher::new("1", &[secret; 32]).derive(purpose);

        assert_eq!(derive(1, "a"), derive(1, "a"));
        assert_ne!(derive(1, "a"), derive(1, "b"));
        assert_ne!(derive(1, "a"), derive(2, "a"));
    }

    #[test]
    fn debug_shows_the_id_alone() {
        assert_eq!(
            format!("{:?}", KeyHasher::new("1", &[1; 32])),
            "KeyHasher { id: \"1\", .. }"
        );
    }
}
