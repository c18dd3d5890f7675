//! Why settings are refused.

use std::path::PathBuf;

/// Why the settings cannot be used; names the setting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not TOML, or a setting is unknown or has an unsuitable value.
    #[error("configuration {origin} is not valid: {message}")]
    Invalid {
        /// The file, or `in the environment`.
        origin: String,
        /// The error of serde: names the setting and, if it is unknown, those that exist.
        message: String,
    },
    /// A variable that does not name a section and a key.
    #[error(
        "environment variable `{0}` is not a setting: write ALKHUB_<SECTION>__<KEY>, for example ALKHUB_SERVER__LISTEN"
    )]
    Variable(String),
    /// A variable that is not UTF-8.
    #[error("environment variable `{0}` is not UTF-8")]
    Encoding(String),
    /// A setting outside its range.
    #[error("`{setting}` is `{value}`: it must be {range}")]
    Range {
        /// The setting, `section.key`.
        setting: String,
        /// Its value.
        value: String,
        /// The range.
        range: String,
    },
    /// Settings that contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
}
