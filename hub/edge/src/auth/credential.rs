//! Where a request carries its key.

use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;

use crate::query::{ACCESS_TOKEN, Query};

/// A subprotocol with this prefix carries a key: browsers cannot set headers on a WebSocket.
pub const PROTOCOL_PREFIX: &str = "alk.bearer.";

/// The key's text: `Authorization: Bearer`, else the subprotocol `alk.bearer.<key>`, else `?access_token=`.
pub(crate) fn credential(parts: &Parts) -> Option<String> {
    bearer(parts)
        .or_else(|| subprotocol(parts))
        .map(str::to_owned)
        .or_else(|| {
            let query = Query::read(Some(parts.uri.query()?));
            query.first(ACCESS_TOKEN).map(str::to_owned)
        })
}

fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn subprotocol(parts: &Parts) -> Option<&str> {
    parts
        .headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(PROTOCOL_PREFIX))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn of(request: http::request::Builder) -> Option<String> {
        credential(&request.body(()).expect("valid").into_parts().0)
    }

    #[test]
    fn the_header_wins_over_the_subprotocol_and_that_over_the_query() {
        let query = || Request::get("/v1/ws?x=1&access_token=from-query");
        let protocol = || query().header(SEC_WEBSOCKET_PROTOCOL, "alk.v1.json, alk.bearer.from-protocol");
        let header = protocol().header(AUTHORIZATION, "bearer  from-header");

        assert_eq!(of(query()).as_deref(), Some("from-query"));
        assert_eq!(of(protocol()).as_deref(), Some("from-protocol"));
        assert_eq!(of(header).as_deref(), Some("from-header"));
        assert_eq!(of(Request::get("/").header(AUTHORIZATION, "Basic abc")), None);
    }
}
