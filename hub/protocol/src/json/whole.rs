//! Whole numbers in the sense of JSON Schema: `5.0` is one, but serde would refuse it. For `#[serde(deserialize_with =
//! …)]`.

use serde::{Deserialize as _, Deserializer};

/// Up to this, every whole number has an exact floating-point form.
const EXACT: f64 = 9_007_199_254_740_992.0;

#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "a whole number, 0 or more")]
enum Number {
    Whole(u64),
    Float(f64),
}

// === impl Number ===

impl Number {
    fn whole<E: serde::de::Error>(self) -> Result<u64, E> {
        match self {
            Self::Whole(number) => Ok(number),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is whole and within"
            )]
            Self::Float(number) if number.fract() == 0.0 && (0.0..=EXACT).contains(&number) => Ok(number as u64),
            Self::Float(number) => Err(E::custom(format!("`{number}` is no whole number, 0 or more"))),
        }
    }
}

/// A number that must be present.
///
/// # Errors
/// It is not one.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Number::deserialize(deserializer)?.whole()
}

/// A number that may be absent or null.
///
/// # Errors
/// It is not one.
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Option::<Number>::deserialize(deserializer)?
        .map(Number::whole)
        .transpose()
}

/// The same in a smaller type.
///
/// # Errors
/// It is not one, or does not fit.
pub fn optional_small<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let number = optional(deserializer)?.map(T::try_from).transpose();
    number.map_err(|_| serde::de::Error::custom("the number is too large"))
}

#[cfg(test)]
mod tests {
    use crate::admin::{KeyCreate, SpokePut};

    #[test]
    fn a_whole_number_may_be_written_with_a_point() {
        let key = |number: &str| {
            serde_json::from_str::<KeyCreate>(&format!(r#"{{"name":"x","scopes":[],"expiresInSeconds":{number}}}"#))
                .map(|key| key.expires_in_seconds)
        };
        let put = |number: &str| {
            serde_json::from_str::<SpokePut>(&format!(r#"{{"uid":"x","concurrency":{number}}}"#))
                .map(|put| put.concurrency)
        };

        assert_eq!(key("60.0").expect("whole"), Some(60));
        assert_eq!(key("6e1").expect("whole"), Some(60));
        assert_eq!(key("null").expect("absent"), None);
        assert_eq!(put("3.0").expect("whole"), Some(3));
        for wrong in ["1.5", "-1", "-1.0", "1e300", "\"1\"", "true"] {
            assert!(key(wrong).is_err(), "{wrong}");
            assert!(put(wrong).is_err(), "{wrong}");
        }
        assert!(put("4294967296").is_err());
    }
}
