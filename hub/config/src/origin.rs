//! Origins of web pages, as browsers send them: scheme, host, and the port unless it is the scheme's default.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;

/// An origin whose pages may use the hub, or `*` for all.
///
/// A browser's `Origin` is compared byte by byte, so text that no browser sends could never match, and is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin(String);

/// The text is not an origin that a browser sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an origin: {cure}")]
pub struct InvalidOrigin {
    /// The text.
    pub text: String,
    /// What to write instead.
    pub cure: String,
}

// === impl Origin ===

impl Origin {
    /// As a browser writes it, or `*`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for every origin.
    pub fn is_any(&self) -> bool {
        self.0 == "*"
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        match cure(text) {
            None => Ok(Self(text.to_owned())),
            Some(cure) => Err(InvalidOrigin {
                text: text.escape_debug().to_string().chars().take(80).collect(),
                cure,
            }),
        }
    }
}

/// What to write instead, if the text is not an origin.
fn cure(text: &str) -> Option<String> {
    const FORM: &str = "write scheme and host, such as `https://app.example`, and the port where it is not the usual";
    if text == "*" {
        return None;
    }
    if text.contains('*') {
        return Some("name each origin; `*` stands for all of them and stands alone".to_owned());
    }
    if text.eq_ignore_ascii_case("null") {
        return Some("`null` is the origin of every sandboxed page and of every file".to_owned());
    }
    let Some((_, rest)) = text.split_once("://") else {
        let guess = normal(&format!("https://{text}"));
        return Some(guess.map_or_else(
            || FORM.to_owned(),
            |origin| format!("it has no scheme: write `{origin}`"),
        ));
    };
    match normal(text) {
        Some(origin) if origin == text => None,
        Some(origin) => {
            let why = if rest.contains(['/', '?', '#']) {
                "an origin has no path and no slash at its end"
            } else {
                "browsers send it in another form"
            };
            Some(format!("{why}: write `{origin}`"))
        }
        None => Some(FORM.to_owned()),
    }
}

/// The text's origin as browsers write it.
fn normal(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let origin = url.origin();
    if origin.is_tuple() {
        return matches!(url.scheme(), "http" | "https").then(|| origin.ascii_serialization());
    }
    // The origin of an app or an extension: `tauri://localhost`, `chrome-extension://id`.
    let host = url.host_str().filter(|host| !host.is_empty())?;
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    Some(format!("{}://{}{port}", url.scheme(), host.to_ascii_lowercase()))
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Origin {
    type Error = InvalidOrigin;

    fn try_from(text: String) -> Result<Self, InvalidOrigin> {
        text.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_sends_is_an_origin() {
        for text in [
            "https://app.example",
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
            "https://xn--bcher-kva.example",
            "tauri://localhost",
            "chrome-extension://abcdefghijklmnop",
            "*",
        ] {
            assert_eq!(text.parse::<Origin>().expect(text).as_str(), text);
        }
    }

    #[test]
    fn what_no_browser_sends_is_answered_with_the_origin_that_it_would() {
        for (text, cure) in [
            ("https://app.example/", "write `https://app.example`"),
            ("https://app.example/path?x#y", "write `https://app.example`"),
            ("https://APP.example", "write `https://app.example`"),
            ("HTTPS://app.example", "write `https://app.example`"),
            ("https://app.example:443", "write `https://app.example`"),
            ("http://app.example:80/", "write `http://app.example`"),
            ("https://user@app.example", "write `https://app.example`"),
            ("https://b\u{fc}cher.example", "write `https://xn--bcher-kva.example`"),
            ("app.example", "write `https://app.example`"),
            ("localhost:3000", "write `https://localhost:3000`"),
            ("//app.example", "write `https://app.example`"),
            ("ws://app.example", "such as `https://app.example`"),
            ("https://", "such as `https://app.example`"),
            ("", "such as `https://app.example`"),
            (" https://app.example", "write `https://app.example`"),
            ("https://*.example", "name each origin"),
            ("null", "sandboxed"),
        ] {
            let error = text.parse::<Origin>().expect_err(text).to_string();
            assert!(error.contains(cure), "{text}: {error}");
        }
    }
}
