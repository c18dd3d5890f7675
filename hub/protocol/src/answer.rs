//! The JSON around what the HTTP API answers, as it is read.

use serde::Deserialize;

/// Every JSON answer of the HTTP API: `{"data": …, "meta": {…}}`.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer<T> {
    /// What was asked for.
    pub data: T,
    /// What stands beside it; what is not known here is passed over.
    #[serde(default)]
    pub meta: Meta,
}

/// What stands beside the data of an answer.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Meta {
    /// Where the next page of a list begins; absent after the last.
    #[serde(default)]
    pub next: Option<String>,
}
