//! The handshake: everything is checked before the upgrade, so that a refusal is an HTTP answer.

use alkhub_calls::Limits;
use alkhub_config::Origin;
use alkhub_edge::KeyHolder;
use alkhub_edge::auth::PROTOCOL_PREFIX;
use alkhub_edge::error::ApiError;
use alkhub_edge::header::only;
use alkhub_edge::limits::Slot;
use alkhub_edge::listener::{Peer, Permit, Stream};
use alkhub_edge::metrics::ConnectionKind;
use alkhub_protocol::Code;
use alkhub_protocol::kubernetes::is_service_name;
use alkhub_wire::handshake;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{
    CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use crate::connection::{Connection, EndedConnection, JSON};
use crate::conversation::Conversation;
use crate::door::Doorway;
use crate::entry::{SocketEntry, SocketGuard};
use crate::session::PeerSession;
use crate::sockets::Sockets;
use crate::waiting;

/// The peer that asks for an upgrade, and the places that its connection takes.
struct Newcomer {
    caller: KeyHolder,
    /// Whether the peer reaches pods by their addresses.
    reaches_pods: bool,
    /// Its place among the connections of its key.
    slot: Slot,
    /// Its place among the connections of the listener.
    permit: Option<Permit>,
}

/// The places of a connection that is over, held until its session has its own.
struct ConnectionPlace {
    registered: SocketGuard,
    _permit: Option<Permit>,
}

/// `GET /v1/ws`.
pub(crate) async fn upgrade(
    State(sockets): State<Sockets>,
    _: Doorway,
    caller: KeyHolder,
    mut request: Request,
) -> Result<Response, ApiError> {
    let accept = match accept(&request, &sockets.edge().server().cors_origins) {
        Ok(accept) => accept,
        Err(refusal) => return Ok(refused(refusal)),
    };
    let protocol = protocol(request.headers());
    let slot = sockets.edge().keys().take_connection(&caller.key)?;
    let reaches_pods = reaches_pods(request.headers());
    let permit = request.extensions().get::<Peer>().map(|peer| peer.permit.clone());
    let upgrade = hyper::upgrade::on(&mut request);
    let tasks = &sockets.edge().scope().tasks;
    let newcomer = Newcomer {
        caller,
        reaches_pods,
        slot,
        permit,
    };
    tasks.spawn(run(sockets.clone(), newcomer, upgrade));
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

/// Checks the handshake and computes the value that proves it was read.
fn accept(request: &Request, origins: &[Origin]) -> Result<HeaderValue, ApiError> {
    let headers = request.headers();
    if request.version() == Version::HTTP_2 {
        let message = "a WebSocket needs HTTP/1.1 here: extended CONNECT (RFC 8441) is not served";
        return Err(ApiError::new(Code::Unsupported, message));
    }
    // In an HTTP/1.0 request, `Upgrade` is ignored.
    let asked = has_token(headers, &CONNECTION, "upgrade") && has_token(headers, &UPGRADE, "websocket");
    if !asked || request.version() != Version::HTTP_11 {
        return Err(
            ApiError::bad_request("this route is a WebSocket: send `Upgrade: websocket` with HTTP/1.1")
                .with_status(StatusCode::UPGRADE_REQUIRED),
        );
    }
    if only(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(
            ApiError::bad_request("`Sec-WebSocket-Version` must be 13").with_status(StatusCode::UPGRADE_REQUIRED)
        );
    }
    let key = only(headers, &SEC_WEBSOCKET_KEY)
        .filter(|key| handshake::is_key(key.as_bytes()))
        .ok_or_else(|| ApiError::bad_request("`Sec-WebSocket-Key` must be 16 bytes in base 64, once"))?;
    check_origin(headers, origins)?;
    let accept = handshake::accept(key.as_bytes());
    Ok(HeaderValue::try_from(accept).expect("base 64 is a header's value"))
}

/// A page may connect from a listed origin, or from the hub's own address; a client that sends no `Origin` is not a
/// browser.
fn check_origin(headers: &HeaderMap, origins: &[Origin]) -> Result<(), ApiError> {
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let own = || {
        let host = headers.get(HOST)?.as_bytes();
        let (_, authority) = origin.to_str().ok()?.split_once("://")?;
        Some(authority.as_bytes().eq_ignore_ascii_case(host))
    };
    let listed = |allowed: &Origin| allowed.is_any() || allowed.as_str().as_bytes() == origin.as_bytes();
    if origins.iter().any(listed) || own() == Some(true) {
        return Ok(());
    }
    Err(ApiError::new(
        Code::AccessDenied,
        "pages of this origin may not use the hub (`server.cors-origins`)",
    ))
}

/// Whether the peer dials a Service by its name, and so is in a place where pods are reached by their addresses.
fn reaches_pods(headers: &HeaderMap) -> bool {
    let host = only(headers, &HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    host.is_some_and(|host| is_service_name(host.host()))
}

/// A refusal with what a client of another version needs to try again.
fn refused(refusal: ApiError) -> Response {
    let mut response = refusal.into_response();
    if response.status() == StatusCode::UPGRADE_REQUIRED {
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

/// `alk.v1.json` if it was offered; otherwise the one that carried the key, since a browser fails if none of those that
/// it offered is chosen.
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

/// Waits for the upgrade; from then on the connection owns its places.
async fn run(sockets: Sockets, newcomer: Newcomer, upgrade: OnUpgrade) {
    let scope = sockets.edge().scope();
    let stop = scope.stop.clone();
    let upgraded = tokio::select! {
        () = stop.cancelled() => return,
        upgraded = tokio::time::timeout(sockets.edge().server().header_timeout, upgrade) => upgraded,
    };
    let Ok(Ok(upgraded)) = upgraded else {
        tracing::debug!("an upgrade did not come to its end");
        return;
    };
    let Some((stream, rest)) = socket(upgraded) else {
        return;
    };
    let (connection, permit) = open_connection(&sockets, newcomer, stream, rest);
    // A new task in place of this one, which is as large as an upgrade needs.
    scope.tasks.spawn(async move {
        tokio::select! {
            () = serve(connection, permit) => {}
            () = stop.cancelled() => {}
        }
    });
}

/// Serves a connection and what comes after it. Each part is boxed, so that its memory is allocated when it begins and
/// not for as long as the connection is open.
async fn serve(mut connection: Box<Connection<Stream>>, permit: Option<Permit>) {
    connection.serve().await;
    let left = Box::pin(settle(connection, permit)).await;
    let Some((left, place)) = left else {
        return;
    };
    let sockets = left.conversation.sockets().clone();
    let moves = place.registered.socket.is_moving();
    if let Some(over) = Box::pin(waiting::wait(&sockets, left, moves, place)).await {
        Box::pin(over.end()).await;
    }
}

/// Decides what becomes of the session of a connection that is over: it goes to another connection that has asked for
/// it, it ends, or it is returned to wait for its peer, together with the place of the connection.
async fn settle(
    connection: Box<Connection<Stream>>,
    permit: Option<Permit>,
) -> Option<(Box<PeerSession>, ConnectionPlace)> {
    let EndedConnection {
        session,
        registered,
        taken,
    } = connection.into_ended();
    let mut session = Some(session);
    if let Some(session) = &mut session {
        session.is_asked = registered.socket.is_moving();
    }
    if let Some((taker, farewell)) = taken {
        session = session.and_then(|session| session.hand_to(taker, waiting::let_wait).err());
        if session.is_none() {
            farewell.say().await;
        }
    }
    let left = session.take_if(|session| session.may_wait() && registered.socket.may_wait());
    if let Some(session) = session {
        session.end().await;
    }
    // Last, because a draining hub waits for it. If the session waits, the place is for the connection with which its
    // peer comes back.
    let place = ConnectionPlace {
        registered,
        _permit: permit,
    };
    left.map(|left| (left, place))
}

fn open_connection(
    sockets: &Sockets,
    newcomer: Newcomer,
    stream: Stream,
    rest: Bytes,
) -> (Box<Connection<Stream>>, Option<Permit>) {
    let Newcomer {
        caller,
        reaches_pods,
        slot,
        permit,
    } = newcomer;
    let edge = sockets.edge();
    let limits = Limits {
        items: edge.server().outbox_messages,
        bytes: edge.server().outbox_bytes,
    };
    let key = caller.key;
    let budget = edge.budgets().key(&key.id);
    let (outbox, outgoing) = alkhub_calls::outbox(edge.connection_id(), limits, &budget);
    let counted = (slot, edge.metrics().open(ConnectionKind::Websocket));
    let socket = SocketEntry::new(sockets.clock(), outbox.clone(), &sockets.balancer().leaving);
    let socket = socket.reaching_pods(reaches_pods);
    let registered = SocketGuard::new(edge.open(), key.clone(), socket, counted);
    // The key may have ended since the handshake was checked.
    edge.keys().close_if_faulty(&key);
    tracing::debug!(session.id = %outbox.session(), "a WebSocket is open");
    let session = PeerSession::new(Conversation::new(sockets.clone(), key, outbox, budget), outgoing);
    (Box::new(Connection::new(stream, rest, registered, session)), permit)
}

/// The socket itself; what hyper kept around it is freed.
fn socket(upgraded: Upgraded) -> Option<(Stream, Bytes)> {
    match upgraded.downcast::<TokioIo<Stream>>() {
        // Even when it is empty, hyper's read buffer is 8 KiB.
        Ok(parts) => Some((
            parts.io.into_inner().upgraded(),
            Bytes::copy_from_slice(&parts.read_buf),
        )),
        Err(_) => {
            tracing::error!("an upgraded connection is none of this hub's");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pairs: &[(&'static str, &'static str)]) -> Request {
        let mut request = Request::default();
        *request.headers_mut() = headers(pairs);
        request
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_handshake_of_the_rfc_is_answered_as_there() {
        let request = request(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]);

        assert_eq!(accept(&request, &[]).expect("valid"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn who_dials_a_service_by_its_name_reaches_pods() {
        for (host, reaches) in [
            ("hub.team.svc:7420", true),
            ("hub.team.svc", true),
            ("hub.example.com:7420", false),
            ("127.0.0.1:7420", false),
            ("[::1]:7420", false),
            ("", false),
        ] {
            assert_eq!(reaches_pods(&headers(&[("host", host)])), reaches, "{host}");
        }
    }

    #[test]
    fn a_subprotocol_is_chosen_only_from_those_offered() {
        let of = |value| protocol(&headers(&[("sec-websocket-protocol", value)]));

        assert_eq!(of("alk.bearer.x, alk.v1.json").expect("chosen"), "alk.v1.json");
        assert_eq!(of("graphql-ws, alk.bearer.x").expect("chosen"), "alk.bearer.x");
        assert_eq!(of("graphql-ws"), None);
    }
}
