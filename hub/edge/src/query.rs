//! A request's query: read once, and refused if the route would ignore part of it.
//!
//! Invariants
//! - A parameter that a route does not declare is refused by name: whoever writes `uuid` for `uid` learns it before
//!   anything is done. So are a parameter given twice where only one counts, and text that is not UTF-8 or contains
//!   U+0000.
//! - The parameters that a route declares are those in the OpenAPI document: both come from the surface's page of
//!   routes.

use std::sync::Arc;

use alkhub_protocol::PAGE_LIMIT;
use axum::extract::{FromRequestParts, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use percent_encoding::percent_decode_str;

use crate::endpoint::Parameter;
use crate::error::ApiError;

/// The key, for programs that cannot set a header; every route accepts it.
pub(crate) const ACCESS_TOKEN: &str = "access_token";

/// The longest name that an answer repeats, in characters.
const SHOWN: usize = 64;

/// A request's query, with each key as often as it occurs.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

/// The parameters that a route takes, and whether each may be repeated.
#[derive(Clone, Debug)]
pub(crate) struct QueryParameters(Arc<[(&'static str, bool)]>);

// === impl QueryParameters ===

impl QueryParameters {
    /// Those of a route.
    pub(crate) fn of(parameters: &[Parameter]) -> Self {
        let queries = parameters.iter().filter(|parameter| parameter.place == "query");
        Self(
            queries
                .map(|parameter| (parameter.name, parameter.repeated))
                .chain([(ACCESS_TOKEN, false)])
                .collect(),
        )
    }

    /// Passes a request on if its query is valid.
    pub(crate) async fn pass(self, request: Request, next: Next) -> Response {
        match self.check(request.uri().query()) {
            Ok(()) => next.run(request).await,
            Err(refusal) => refusal.into_response(),
        }
    }

    /// # Errors
    /// 400 that names the parameter.
    fn check(&self, query: Option<&str>) -> Result<(), ApiError> {
        let query = query.unwrap_or_default();
        let is_utf8 = percent_decode_str(query).decode_utf8().is_ok();
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let shown: String = name.chars().take(SHOWN).collect();
            let wrong = |rule: &str| Err(ApiError::bad_request(format!("query parameter `{shown}` {rule}")));
            if !is_utf8
                && [&name, &value]
                    .iter()
                    .any(|text| text.contains(char::REPLACEMENT_CHARACTER))
            {
                return wrong("is not UTF-8");
            }
            let Some((_, repeated)) = self.0.iter().find(|(known, _)| *known == name) else {
                return wrong(&format!("is not known here: {}", self.known()));
            };
            if !repeated && seen.contains(&name) {
                return wrong("is there twice: give it once");
            }
            // No name or id contains it, and Postgres accepts no text with it.
            if value.contains('\0') {
                return wrong("contains the character U+0000");
            }
            seen.push(name);
        }
        Ok(())
    }

    fn known(&self) -> String {
        let names: Vec<String> = self.0.iter().map(|(name, _)| format!("`{name}`")).collect();
        format!("this route reads {}", names.join(", "))
    }
}

// === impl Query ===

impl Query {
    /// The first value of a key.
    pub fn first(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Every value of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The first value of a key as a type.
    ///
    /// # Errors
    /// The value is present and cannot be read; the key is named.
    pub fn parse<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, ApiError>
    where
        T::Err: std::fmt::Display,
    {
        self.first(key)
            .map(|value| {
                value
                    .parse()
                    .map_err(|e: T::Err| ApiError::bad_request(format!("query parameter `{key}` is not valid: {e}")))
            })
            .transpose()
    }

    /// The parameter `limit` of a list: how many entries a page may have.
    ///
    /// # Errors
    /// It is present and is not 1 to [`PAGE_LIMIT`].
    pub fn limit(&self) -> Result<Option<u32>, ApiError> {
        let limit = self.parse("limit")?;
        if limit.is_some_and(|limit| !(1..=PAGE_LIMIT).contains(&limit)) {
            let rule = format!("query parameter `limit` must be 1 to {PAGE_LIMIT}");
            return Err(ApiError::bad_request(rule));
        }
        Ok(limit)
    }

    /// Reads a query string.
    pub(crate) fn read(query: Option<&str>) -> Self {
        let query = query.unwrap_or_default();
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::read(parts.uri.query()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_key_may_repeat_and_is_decoded() {
        let query = Query::read(Some("topic=a%3Ab&x=1+2&topic=c:d:e&flag"));

        assert_eq!(query.all("topic").collect::<Vec<_>>(), ["a:b", "c:d:e"]);
        assert_eq!(query.first("x"), Some("1 2"));
        assert_eq!(query.first("flag"), Some(""));
        assert_eq!(query.first("none"), None);
    }

    #[test]
    fn what_is_no_utf_8_is_refused_by_the_name_of_its_parameter() {
        let declared = QueryParameters::of(&[]);
        let refusal = |query| format!("{:?}", declared.check(Some(query)).expect_err("refused"));

        assert!(declared.check(Some("access_token=%EF%BF%BD+%C3%A4")).is_ok());
        assert!(refusal("access_token=%C3%28").contains("`access_token` is not UTF-8"));
        assert!(refusal("%FF=1&access_token=a").contains("` is not UTF-8"));
        assert!(refusal("uid=%41").contains("`uid` is not known here"));
    }

    #[test]
    fn what_postgres_does_not_take_is_refused_by_the_name_of_its_parameter() {
        let declared = QueryParameters::of(&[]);
        let refusal = declared.check(Some("access_token=a%00b")).expect_err("refused");

        assert!(format!("{refusal:?}").contains("`access_token` contains the character U+0000"));
    }
}
