//! The channel prefix, which keeps two Hubs in one Redis apart.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Starts every name in Redis: 2 to 128 visible ASCII characters, the last one `:`, none of `*?[]{}\`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChannelPrefix(String);

/// The text is not a channel prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "channel prefix `{0}` is not valid: use 2 to 128 visible ASCII characters, none of `*?[]{{}}\\`, and end it with `:`"
)]
pub struct InvalidPrefix(String);

// === impl ChannelPrefix ===

impl ChannelPrefix {
    /// The default of a Hub resource: `alk:{namespace}:{hub}:`.
    ///
    /// # Errors
    /// The names contain characters that no Kubernetes name has.
    pub fn of_hub(namespace: &str, hub: &str) -> Result<Self, InvalidPrefix> {
        format!("alk:{namespace}:{hub}:").parse()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether names with the two prefixes could collide: they are equal, or one begins with the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0) || other.0.starts_with(&self.0)
    }
}

impl Default for ChannelPrefix {
    fn default() -> Self {
        Self("alk:".to_owned())
    }
}

impl FromStr for ChannelPrefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        let valid = (2..=128).contains(&text.len())
            && text.ends_with(':')
            && text.bytes().all(|b| b.is_ascii_graphic() && !b"*?[]{}\\".contains(&b));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidPrefix(text.to_owned()))
        }
    }
}

impl TryFrom<String> for ChannelPrefix {
    type Error = InvalidPrefix;

    fn try_from(text: String) -> Result<Self, InvalidPrefix> {
        text.parse()
    }
}

impl From<ChannelPrefix> for String {
    fn from(prefix: ChannelPrefix) -> Self {
        prefix.0
    }
}

impl fmt::Display for ChannelPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_prefixes_meet_when_one_begins_with_the_other() {
        let prefix = |text: &str| text.parse::<ChannelPrefix>().expect("valid");

        assert!(prefix("alk:a:").overlaps(&prefix("alk:a:")));
        assert!(prefix("alk:").overlaps(&prefix("alk:a:")));
        assert!(!prefix("alk:a:").overlaps(&prefix("alk:ab:")));
    }

    #[test]
    fn a_prefix_without_its_colon_is_refused() {
        assert!("alk".parse::<ChannelPrefix>().is_err());
        assert!("a*:".parse::<ChannelPrefix>().is_err());
    }
}
