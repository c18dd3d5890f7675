//! Keys: `alk_`, 256 random bits in base 62, and a checksum, so that secret scanners find them without asking us.
//!
//! The form follows what code hosts do for their tokens: a fixed prefix, and a CRC-32 of the rest in the last six
//! characters. A text whose checksum is wrong is refused before anything is looked up.

use std::fmt;

/// Every key begins with this.
pub const PREFIX: &str = "alk_";

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const BODY_LENGTH: usize = 43;
const CHECKSUM_LENGTH: usize = 6;

/// A key in the clear: shown once and stored nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

/// The text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an alkhub key: a key is `{PREFIX}` and 49 letters and digits, the last six a checksum of the rest")]
pub struct InvalidKey;

// === impl ApiKey ===

impl ApiKey {
    /// The key made of 256 random bits.
    pub fn from_entropy(entropy: [u8; 32]) -> Self {
        let body = base62(&entropy, BODY_LENGTH);
        let checksum = base62(&crc32fast::hash(body.as_bytes()).to_be_bytes(), CHECKSUM_LENGTH);
        Self(format!("{PREFIX}{body}{checksum}"))
    }

    /// Reads a key and checks its checksum.
    ///
    /// # Errors
    /// [`InvalidKey`], which contains nothing of the text.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let rest = text.strip_prefix(PREFIX).ok_or(InvalidKey)?;
        if rest.len() != BODY_LENGTH + CHECKSUM_LENGTH || !rest.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(InvalidKey);
        }
        let (body, checksum) = rest.split_at(BODY_LENGTH);
        let expected = base62(&crc32fast::hash(body.as_bytes()).to_be_bytes(), CHECKSUM_LENGTH);
        if checksum == expected {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidKey)
        }
    }

    /// The key in the clear.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The first characters: enough to tell keys apart in a list, but no help in guessing one.
    pub fn hint(&self) -> &str {
        &self.0[..PREFIX.len() + 6]
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}…)", self.hint())
    }
}

/// A big-endian number in base 62, zero-padded to `length` digits.
fn base62(number: &[u8], length: usize) -> String {
    let mut number = number.to_vec();
    let mut digits = vec![b'0'; length];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u32;
        for byte in &mut number {
            let value = remainder << 8 | u32::from(*byte);
            *byte = u8::try_from(value / 62).expect("the remainder is under 62, so the quotient is under 256");
            remainder = value % 62;
        }
        *digit = ALPHABET[usize::try_from(remainder).expect("under 62")];
    }
    String::from_utf8(digits).expect("the alphabet is ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_recognised_and_a_typing_mistake_is_not() {
        let key = ApiKey::from_entropy([0xA5; 32]);
        let mut typo = key.expose().to_owned();
        typo.replace_range(10..11, if &typo[10..11] == "x" { "y" } else { "x" });

        assert_eq!(key.expose().len(), 53);
        assert_eq!(ApiKey::parse(key.expose()), Ok(key));
        assert_eq!(ApiKey::parse(&typo), Err(InvalidKey));
        assert_eq!(ApiKey::parse("alk_"), Err(InvalidKey));
    }

    #[test]
    fn debug_shows_no_more_than_the_hint() {
        let key = ApiKey::from_entropy([7; 32]);

        assert!(!format!("{key:?}").contains(&key.expose()[12..]));
    }

    #[test]
    fn all_bits_fit() {
        assert_eq!(ApiKey::from_entropy([0xFF; 32]).expose().len(), 53);
        assert_ne!(ApiKey::from_entropy([0; 32]), ApiKey::from_entropy([1; 32]));
    }
}
