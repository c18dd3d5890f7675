//! The handshake: everything is checked before the upgrade, so that a refusal is an HTTP answer.

use alkhub_calls::Limits;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};

use super::connection::Connection;
use super::conversation::Conversation;
use crate::app::App;
use crate::auth::{Caller, PROTOCOL_PREFIX};
use crate::error::ApiError;
use crate::limits::Slot;
use crate::listener::{Peer, Permit, Stream};
use crate::metrics::ConnectionKind;

/// The subprotocol of JSON envelopes.
const JSON: &str = "alk.v1.json";

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a connection holds for as long as it is open.
struct Held {
    _slot: Slot,
    _permit: Option<Permit>,
}

/// `GET /v1/ws`.
pub(crate) async fn upgrade(
    State(app): State<App>,
    caller: Caller,
    mut request: Request,
) -> Result<Response, ApiError> {
    let accept = accept(request.headers())?;
    let protocol = protocol(request.headers());
    let held = Held {
        _slot: app.keys.take_connection(&caller.key)?,
        _permit: request.extensions().get::<Peer>().map(|peer| peer.permit.clone()),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    app.scope.tasks.spawn(run(app.clone(), caller, upgrade, held));
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

/// Checks the handshake and makes the value that proves it was read.
fn accept(headers: &HeaderMap) -> Result<HeaderValue, ApiError> {
    if !has_token(headers, &CONNECTION, "upgrade") || !has_token(headers, &UPGRADE, "websocket") {
        return Err(
            ApiError::bad_request("this route is a WebSocket: send `Upgrade: websocket`")
                .with_status(StatusCode::UPGRADE_REQUIRED),
        );
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(ApiError::bad_request("`Sec-WebSocket-Version` must be 13"));
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16))
        .ok_or_else(|| ApiError::bad_request("`Sec-WebSocket-Key` must be 16 bytes in base 64"))?;
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(GUID);
    let accept = STANDARD.encode(hash.finalize());
    Ok(HeaderValue::from_str(&accept).expect("base 64 is a header's value"))
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

/// `alk.v1.json` when offered; else the one that carried the key, since a browser fails when none of those that it
/// offered is chosen.
fn protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = || {
        headers
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
    };
    let chosen = offered()
        .find(|protocol| *protocol == JSON)
        .or_else(|| offered().find(|protocol| protocol.starts_with(PROTOCOL_PREFIX)))?;
    HeaderValue::from_str(chosen).ok()
}

async fn run(app: App, caller: Caller, upgrade: OnUpgrade, held: Held) {
    let stop = app.scope.stop.clone();
    let upgraded = tokio::select! {
        () = stop.cancelled() => return,
        upgraded = tokio::time::timeout(app.config.server.header_timeout, upgrade) => upgraded,
    };
    let Ok(Ok(upgraded)) = upgraded else {
        tracing::debug!("an upgrade did not come to its end");
        return;
    };
    let Some((stream, rest)) = socket(upgraded) else {
        return;
    };
    let open = app.metrics.open(ConnectionKind::Websocket);
    let connection = open_connection(&app, caller, stream, rest);
    // A task of its own, in place of this one, which is as large as an upgrade needs.
    app.scope.tasks.spawn(async move {
        tokio::select! {
            () = connection.run() => {}
            () = stop.cancelled() => {}
        }
        drop((open, held));
    });
}

fn open_connection(app: &App, caller: Caller, stream: Stream, rest: Bytes) -> Box<Connection<Stream>> {
    let limits = Limits {
        messages: app.config.server.outbox_messages,
        bytes: app.config.server.outbox_bytes,
    };
    let budget = app.budgets.key(&caller.key.id);
    let (outbox, outgoing) = alkhub_calls::outbox(limits, &budget);
    let registered = app.sockets.register(caller.key.clone(), outbox.clone());
    // The key may have ended since the handshake was checked.
    app.end_if_bad(&caller.key);
    let conversation = Conversation::new(app.clone(), caller.key, outbox, budget);
    tracing::debug!(connection.id = %conversation.id, "a WebSocket is open");
    Box::new(Connection::new(stream, rest, outgoing, registered, conversation))
}

/// The socket itself: what hyper kept around it is freed.
fn socket(upgraded: Upgraded) -> Option<(Stream, Bytes)> {
    match upgraded.downcast::<TokioIo<Stream>>() {
        // Even without bytes in it hyper's read buffer is 8 KiB.
        Ok(parts) => Some((parts.io.into_inner(), Bytes::copy_from_slice(&parts.read_buf))),
        Err(_) => {
            tracing::error!("an upgraded connection is none of this hub's");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_handshake_of_the_rfc_is_answered_as_there() {
        let headers = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]);

        assert_eq!(accept(&headers).expect("valid"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_subprotocol_is_chosen_only_from_those_offered() {
        let of = |value| protocol(&headers(&[("sec-websocket-protocol", value)]));

        assert_eq!(of("alk.bearer.x, alk.v1.json").expect("chosen"), "alk.v1.json");
        assert_eq!(of("graphql-ws, alk.bearer.x").expect("chosen"), "alk.bearer.x");
        assert_eq!(of("graphql-ws"), None);
    }
}
