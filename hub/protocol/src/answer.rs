//! The JSON around what the HTTP API answers, for readers of it.

use serde::Deserialize;

/// Every JSON answer of the HTTP API: `{"data": …, "meta": {…}}`.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer<T> {
    /// What was asked for.
    pub data: T,
    /// What accompanies it; unknown fields are ignored.
    #[serde(default)]
    pub meta: Meta,
}

/// What accompanies the data of an answer.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Meta {
    /// Where the next page of a list begins; absent on the last page.
    #[serde(default)]
    pub next: Option<String>,
}
