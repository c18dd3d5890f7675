//! Closed sets and their texts: JSON, queries, Postgres and terminals all use the same text for a value, and it is
//! defined in one place.

use std::fmt;

/// The text does not stand for any value of a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be {}", OneOf(self.0))]
pub struct UnknownText(pub(crate) &'static [&'static str]);

/// Texts as a sentence lists them.
struct OneOf(&'static [&'static str]);

/// Gives each value of an enum its text: `as_str`, `Display`, `FromStr`, and `ALL` in the order given.
macro_rules! texts {
    ($type:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        impl $type {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            const TEXTS: &'static [&'static str] = &[$($text),+];

            /// Its text, the same wherever it is written.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::text::UnknownText;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::text::UnknownText(Self::TEXTS)),
                }
            }
        }
    };
}
pub(crate) use texts;

impl fmt::Display for OneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, text) in self.0.iter().enumerate() {
            let before = match number {
                0 => "",
                _ if number + 1 == self.0.len() => " or ",
                _ => ", ",
            };
            write!(f, "{before}`{text}`")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};
    use std::str::FromStr;

    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use crate::register::SpokeType;
    use crate::{CallStatus, OperationKind};

    fn check<T>(all: &[T])
    where
        T: Copy + Debug + PartialEq + Display + FromStr<Err: Debug> + Serialize + DeserializeOwned,
    {
        for &value in all {
            let text = value.to_string();
            assert_eq!(json!(value), json!(text));
            assert_eq!(serde_json::from_value::<T>(json!(text)).expect("read"), value);
            assert_eq!(text.parse::<T>().expect("read"), value);
        }
    }

    #[test]
    fn a_value_has_one_text_in_json_and_everywhere_else() {
        check(CallStatus::ALL);
        check(OperationKind::ALL);
        check(SpokeType::ALL);
    }

    #[test]
    fn a_text_that_is_none_is_told_which_there_are() {
        let refused = "done".parse::<CallStatus>().expect_err("no status");

        assert_eq!(refused.to_string(), "it must be `completed`, `failed` or `aborted`");
    }
}
