//! Secrets that are given as a value or as a file.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

/// Why a secret is not available. The secret itself is never in the text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Value and file are both set.
    #[error("`{value}` and `{file}` are both set: keep one")]
    Both {
        /// The setting of the value.
        value: &'static str,
        /// The setting of the file.
        file: &'static str,
    },
    /// Neither is set.
    #[error("set `{value}` or `{file}`")]
    Missing {
        /// The setting of the value.
        value: &'static str,
        /// The setting of the file.
        file: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read `{setting}` from {path}")]
    Unreadable {
        /// The setting of the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The value or the file is empty.
    #[error("`{0}` is empty")]
    Empty(&'static str),
}

/// Where a secret may come from.
#[derive(Debug)]
pub struct Source<'a> {
    /// Name of the setting with the value.
    pub value_setting: &'static str,
    /// The value.
    pub value: Option<&'a SecretString>,
    /// Name of the setting with the file.
    pub file_setting: &'static str,
    /// The file.
    pub file: Option<&'a Path>,
}

/// The secret of a source, or `None` if neither setting is set.
///
/// # Errors
/// [`Error`].
pub fn resolve(source: &Source<'_>) -> Result<Option<SecretString>, Error> {
    let (secret, setting) = match (source.value, source.file) {
        (Some(_), Some(_)) => {
            return Err(Error::Both {
                value: source.value_setting,
                file: source.file_setting,
            });
        }
        (Some(value), None) => (value.clone(), source.value_setting),
        (None, Some(path)) => (read(source.file_setting, path)?, source.file_setting),
        (None, None) => return Ok(None),
    };
    if secret.expose_secret().is_empty() {
        Err(Error::Empty(setting))
    } else {
        Ok(Some(secret))
    }
}

/// Reads a secret from a file, without surrounding white space.
///
/// # Errors
/// [`Error::Unreadable`].
pub fn read(setting: &'static str, path: &Path) -> Result<SecretString, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
        setting,
        path: path.to_owned(),
        source,
    })?;
    Ok(text.trim().into())
}
