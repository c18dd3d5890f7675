//! Server-sent events: topics, and subscriptions to operations.
//!
//! A client that goes away drops the stream, and with it its subscriptions or its call. Keep-alive comments come from
//! one beat for all streams. A stream whose key ends says so in a last `event: error` (a problem document).
//!
//! Topics: no `event:` field, so that a browser's `onmessage` fires; `data` is the envelope; `event: gap` where events
//! are missing. Subscriptions: `event: next`, then `event: error` or `event: complete`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use alkhub_budget::Budget;
use alkhub_calls::Items;
use alkhub_events::{Deliveries, Item, Publication, Subscription};
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
use crate::payer;
use crate::streams::Held;

/// A silent stream gets a comment this often, so that no proxy cuts it.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Bytes written at once, about.
const BATCH: usize = 64 * 1024;

/// Events up to so many bytes are copied for each reader; the bytes of larger ones are shared by all.
const COPIED: usize = 4 * 1024;

/// A piece of what is written.
enum Part {
    /// Kept for this reader.
    Own(Vec<u8>),
    /// Kept for all who read it.
    Shared(Bytes),
}

/// An event that counts among those of the hub for as long as its bytes wait.
struct Shared(Arc<Publication>);

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
pub(crate) fn topics(app: &App, caller: &Caller, mut held: Held, topics: Topics) -> Response {
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
    answer(
        app.budgets.key(&caller.key.id),
        async_stream::stream! {
            let _budget = budget;
            let mut number = 0_u64;
            yield Part::Own(start());
            if resumed {
                let gaps = subscriptions.iter().flat_map(|subscription| gap(&unresumable(subscription.filter())));
                yield Part::Own(gaps.collect());
            }
            loop {
                tokio::select! {
                    biased;
                    refusal = held.ended() => {
                        yield Part::Own(failed(&refusal));
                        return;
                    }
                    () = drain.cancelled() => return,
                    Ok(()) = beat.changed() => yield Part::Own(comment()),
                    item = deliveries.next() => match item {
                        Some(item) => for part in batch(item, &mut deliveries, &stream_id, &mut number) {
                            yield part;
                        },
                        None => return,
                    },
                }
            }
        },
    )
}

/// The items of a subscription until it ends, the client leaves, its key ends or the hub ends.
pub(crate) fn items(app: &App, caller: &Caller, mut held: Held, mut items: Items) -> Response {
    let (mut beat, close) = (app.beat.subscribe(), app.scope.close.clone());
    let ticket = items.ticket();
    held.watch(move |caller| {
        // What it ends comes as the last item.
        ticket.recheck(caller);
        None
    });
    let waiting = app.config.calls.subscription_items;
    answer(
        app.budgets.key(&caller.key.id),
        async_stream::stream! {
            yield Part::Own(start());
            loop {
                tokio::select! {
                    biased;
                    refusal = held.ended() => {
                        // The spoke has the call, and may have done all of it.
                        yield Part::Own(failed(&refusal.delivered(Delivered::Maybe)));
                        return;
                    }
                    () = close.cancelled() => break,
                    Ok(()) = beat.changed() => yield Part::Own(comment()),
                    item = items.next() => {
                        let last = !matches!(item, Some(Ok(_)));
                        yield Part::Own(said(item));
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
                yield Part::Own(said(item));
                if last {
                    return;
                }
            }
            yield Part::Own(failed(&unanswered(crate::ws::DRAINING)));
        },
    )
}

/// An item, or the end of a subscription.
fn said(item: Option<Result<RawJson, CallError>>) -> Vec<u8> {
    match item {
        Some(Ok(item)) => named("next", item.as_bytes()),
        Some(Err(error)) => failed(&error),
        None => named("complete", b"{}"),
    }
}

/// Writes a stream, charging what is written to the reader; one whose budget is full is told so, and it ends.
fn answer(budget: Budget, stream: impl Stream<Item = Part> + Send + 'static) -> Response {
    let body = Body::from_stream(async_stream::stream! {
        let mut stream = std::pin::pin!(stream);
        while let Some(part) = stream.next().await {
            let charged = match part {
                Part::Own(text) => payer::charged(&budget, text.into()),
                Part::Shared(text) => Ok(text),
            };
            match charged {
                Ok(text) => yield Ok::<_, Infallible>(text),
                Err(full) => {
                    yield Ok(failed(&CallError::from(full).delivered(Delivered::Maybe)).into());
                    return;
                }
            }
        }
    });
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
fn batch(first: Item, deliveries: &mut Deliveries, stream_id: &str, number: &mut u64) -> Vec<Part> {
    let (mut parts, mut out) = (Vec::new(), Vec::new());
    let (mut next, mut size) = (Some(first), 0);
    while let Some(item) = next {
        match item {
            Item::Event(event) => {
                *number += 1;
                out.extend_from_slice(format!("id: {stream_id}-{number}\n").as_bytes());
                if event.text().len() <= COPIED || !is_line(event.text()) {
                    data(&mut out, event.text());
                } else {
                    out.extend_from_slice(b"data: ");
                    size += out.len() + event.text().len();
                    parts.push(Part::Own(std::mem::take(&mut out)));
                    parts.push(Part::Shared(Bytes::from_owner(Shared(event))));
                    out.extend_from_slice(b"\n\n");
                }
            }
            Item::Gap(lost) => out.extend(gap(&lost)),
            Item::Overflowed => {}
        }
        next = if out.len() + size < BATCH {
            deliveries.try_next()
        } else {
            None
        };
    }
    parts.push(Part::Own(out));
    parts
}

/// Whether a text stands on one line.
fn is_line(text: &[u8]) -> bool {
    memchr::memchr2(b'\n', b'\r', text).is_none()
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

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.text()
    }
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
