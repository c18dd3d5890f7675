//! Server-sent events: topics, and subscriptions to operations.
//!
//! A client that goes away drops the stream, and with it its subscriptions or its call. Keep-alive comments come from
//! one beat for all streams. A stream whose key ends says so in a last `event: error` (a problem document).
//!
//! Topics: no `event:` field, so that a browser's `onmessage` fires; `data` is the envelope; `event: gap` where events
//! are missing. Subscriptions: `event: next`, then `event: error` or `event: complete`.

use std::convert::Infallible;
use std::time::Duration;

use alkhub_calls::Items;
use alkhub_events::{Deliveries, Item, Subscription};
use alkhub_protocol::frame::Gap;
use alkhub_protocol::{CallError, Delivered, RawJson, TopicFilter};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, missing_scope, problem, status, unanswered};
use crate::metrics::ConnectionKind;
use crate::streams::Held;

/// A silent stream gets a comment this often, so that no proxy cuts it.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Bytes written at once, about.
const BATCH: usize = 64 * 1024;

/// A subscriber's topics with what keeps them alive.
pub(crate) struct Topics {
    pub(crate) deliveries: Deliveries,
    pub(crate) subscriptions: Vec<Subscription>,
    /// What these make the hub keep.
    pub(crate) budget: alkhub_budget::Held,
    /// The client has seen events up to here; nothing before can be given again.
    pub(crate) resumed: bool,
}

/// Beats until `stop`; each beat is a keep-alive on every stream.
pub(crate) async fn beat(beat: watch::Sender<()>, stop: CancellationToken) {
    let mut interval = tokio::time::interval(KEEP_ALIVE);
    interval.tick().await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = interval.tick() => beat.send_replace(()),
        }
    }
}

/// Enters a stream of a key's among the open ones, before what it is to give is asked for.
///
/// # Errors
/// The key has as many connections as it may, or has just ended.
pub(crate) fn open(app: &App, caller: &Caller) -> Result<Held, ApiError> {
    let slot = app.keys.take_connection(&caller.key)?;
    let open = app.metrics.open(ConnectionKind::Sse);
    let held = app.streams.enter(caller.key.clone(), (slot, open));
    match app.keys.look_again(&caller.key).refusal() {
        Some(refusal) => Err(refusal.into()),
        None => Ok(held),
    }
}

/// The events of topics until the client leaves, its key ends or the hub drains.
pub(crate) fn topics(app: &App, mut held: Held, topics: Topics) -> Response {
    let (mut beat, drain) = (app.beat.subscribe(), app.scope.drain.clone());
    let stream_id = app.connection_id();
    let Topics {
        mut deliveries,
        subscriptions,
        budget,
        resumed,
    } = topics;
    let filters: Vec<TopicFilter> = subscriptions.iter().map(|one| one.filter().clone()).collect();
    held.watch(move |caller| {
        let missing = filters
            .iter()
            .find_map(|filter| caller.scopes.require_subscribe(filter).err());
        missing.map(|scope| missing_scope(&scope))
    });
    answer(async_stream::stream! {
        let _budget = budget;
        let mut number = 0_u64;
        yield start();
        if resumed {
            yield subscriptions.iter().flat_map(|subscription| gap(&unresumable(subscription.filter()))).collect();
        }
        loop {
            tokio::select! {
                biased;
                refusal = held.ended() => {
                    yield failed(&refusal);
                    return;
                }
                () = drain.cancelled() => return,
                Ok(()) = beat.changed() => yield comment(),
                item = deliveries.next() => match item {
                    Some(item) => yield batch(item, &mut deliveries, &stream_id, &mut number),
                    None => return,
                },
            }
        }
    })
}

/// The items of a subscription until it ends, the client leaves, its key ends or the hub ends.
pub(crate) fn items(app: &App, mut held: Held, mut items: Items) -> Response {
    let (mut beat, close) = (app.beat.subscribe(), app.scope.close.clone());
    let ticket = items.ticket();
    held.watch(move |caller| {
        // What it ends comes as the last item.
        ticket.recheck(caller);
        None
    });
    let waiting = app.config.calls.subscription_items;
    answer(async_stream::stream! {
        yield start();
        loop {
            tokio::select! {
                biased;
                refusal = held.ended() => {
                    // The spoke has the call, and may have done all of it.
                    yield failed(&refusal.delivered(Delivered::Maybe));
                    return;
                }
                () = close.cancelled() => break,
                Ok(()) = beat.changed() => yield comment(),
                item = items.next() => {
                    let last = !matches!(item, Some(Ok(_)));
                    yield said(item);
                    if last {
                        return;
                    }
                }
            }
        }
        // What the spoke has said by now is still given.
        for _ in 0..=waiting {
            let Some(item) = items.next().now_or_never() else {
                break;
            };
            let last = !matches!(item, Some(Ok(_)));
            yield said(item);
            if last {
                return;
            }
        }
        yield failed(&unanswered(crate::ws::DRAINING));
    })
}

/// An item, or the end of a subscription.
fn said(item: Option<Result<RawJson, CallError>>) -> Vec<u8> {
    match item {
        Some(Ok(item)) => named("next", item.as_bytes()),
        Some(Err(error)) => failed(&error),
        None => named("complete", b"{}"),
    }
}

fn answer(stream: impl Stream<Item = Vec<u8>> + Send + 'static) -> Response {
    let body = Body::from_stream(stream.map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk))));
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

/// Tells when to come back, spread so that the clients of a lost hub do not all come at once.
fn start() -> Vec<u8> {
    let retry_ms = 1_000 + u32::from(rand::random::<u16>()) % 2_000;
    format!("retry: {retry_ms}\n\n").into_bytes()
}

fn comment() -> Vec<u8> {
    b": keep-alive\n\n".to_vec()
}

/// An item and those that wait behind it.
fn batch(first: Item, deliveries: &mut Deliveries, stream_id: &str, number: &mut u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut next = Some(first);
    while let Some(item) = next {
        match item {
            Item::Event(event) => {
                *number += 1;
                out.extend_from_slice(format!("id: {stream_id}-{number}\n").as_bytes());
                data(&mut out, event.text());
            }
            Item::Gap(lost) => out.extend(gap(&lost)),
            Item::Overflowed => {}
        }
        next = if out.len() < BATCH { deliveries.try_next() } else { None };
    }
    out
}

fn gap(gap: &Gap) -> Vec<u8> {
    named("gap", &serde_json::to_vec(gap).expect("a gap is a plain struct"))
}

/// Events have no positions that outlast a connection: a client that comes back is told so.
fn unresumable(filter: &TopicFilter) -> Gap {
    Gap {
        topic: filter.to_string(),
        reason: "resume_unavailable".to_owned(),
        missed: None,
    }
}

fn failed(error: &CallError) -> Vec<u8> {
    let problem = problem(error, status(error));
    named(
        "error",
        &serde_json::to_vec(&problem).expect("a problem is a plain struct"),
    )
}

fn named(event: &str, text: &[u8]) -> Vec<u8> {
    let mut out = format!("event: {event}\n").into_bytes();
    data(&mut out, text);
    out
}

/// Line breaks in JSON are white space between values: each line becomes a `data:` of its own.
fn data(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + 8);
    for line in text.split(|&byte| byte == b'\n' || byte == b'\r') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pretty_payload_stays_one_event() {
        let event = named("next", b"{\n  \"a\": 1\r\n}");

        assert_eq!(
            String::from_utf8(event).expect("UTF-8"),
            "event: next\ndata: {\ndata:   \"a\": 1\ndata: \ndata: }\n\n"
        );
    }
}
