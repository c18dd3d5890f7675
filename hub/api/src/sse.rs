//! Server-sent events: topics, and subscriptions to operations.
//!
//! A client that goes away drops the stream, and with it its subscriptions or its call. Keep-alive comments come from
//! one beat for all streams. A stream whose key ends gets a last `event: error` (a problem document).
//!
//! Topics: there is no `event:` field, so that a browser's `onmessage` fires; `data` is the envelope; `event: gap`
//! marks missing events. Subscriptions: `event: next`, then `event: error` or `event: complete`.

mod entry;
mod text;

use std::convert::Infallible;
use std::sync::Arc;

use alkhub_budget::Budget;
use alkhub_calls::Items;
use alkhub_edge::KeyHolder;
use alkhub_edge::error::unanswered;
use alkhub_edge::open::DRAINING;
use alkhub_edge::payer::charged;
use alkhub_events::{Deliveries, Item, Publication, Subscription};
use alkhub_protocol::{CallError, Delivered, TopicFilter};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};

use crate::api::Api;
use entry::Ending;
use text::{comment, data, failed, gap, is_line, start, unresumable, written};

pub(crate) use entry::{OnDrain, OpenStream, open};

/// How much is written at once, roughly, in bytes.
const BATCH: usize = 64 * 1024;

/// Events up to this many bytes are copied for each reader; larger ones are shared by all.
const COPIED: usize = 4 * 1024;

/// A piece of what is written.
enum Part {
    /// Bytes for this reader only.
    Own(Vec<u8>),
    /// Bytes shared by all who read it.
    Shared(Bytes),
}

/// An event that counts among those of the hub for as long as its bytes wait.
struct Shared(Arc<Publication>);

/// A subscriber's topics with what keeps them alive.
pub(crate) struct Topics {
    pub(crate) deliveries: Deliveries,
    pub(crate) subscriptions: Vec<Subscription>,
    /// The charge for what these make the hub keep.
    pub(crate) budget: alkhub_budget::Held,
    /// Whether the client says which events it has seen: what it missed since then cannot be sent again.
    pub(crate) resumed: bool,
}

/// The events of topics until the client leaves, its key ends or the hub drains.
pub(crate) fn topics(api: &Api, caller: &KeyHolder, mut held: OpenStream, topics: Topics) -> Response {
    let mut beat = api.beat();
    let stream_id = api.edge().connection_id();
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
        missing.map(|scope| CallError::missing_scope(&scope))
    });
    answer(
        api.edge().budgets().key(&caller.key.id),
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
                    ending = held.ended() => {
                        if let Ending::Refused(refusal) = ending {
                            yield Part::Own(failed(&refusal));
                        }
                        return;
                    }
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
pub(crate) fn items(api: &Api, caller: &KeyHolder, mut held: OpenStream, mut items: Items) -> Response {
    let mut beat = api.beat();
    let ticket = items.ticket();
    held.watch(move |caller| {
        // Whatever this ends arrives as the last item.
        ticket.recheck(caller);
        None
    });
    let waiting = api.parts().subscription_items;
    answer(
        api.edge().budgets().key(&caller.key.id),
        async_stream::stream! {
            yield Part::Own(start());
            loop {
                tokio::select! {
                    biased;
                    ending = held.ended() => match ending {
                        Ending::Refused(refusal) => {
                            // The spoke has the call, and may have done all of it.
                            yield Part::Own(failed(&refusal.delivered(Delivered::Maybe)));
                            return;
                        }
                        Ending::Drain => break,
                    },
                    Ok(()) = beat.changed() => yield Part::Own(comment()),
                    item = items.next() => {
                        let last = !matches!(item, Some(Ok(_)));
                        yield Part::Own(written(item));
                        if last {
                            return;
                        }
                    }
                }
            }
            // What the spoke has sent by now is still passed on.
            for _ in 0..=waiting {
                let Some(item) = items.next().now_or_never() else {
                    break;
                };
                let last = !matches!(item, Some(Ok(_)));
                yield Part::Own(written(item));
                if last {
                    return;
                }
            }
            yield Part::Own(failed(&unanswered(DRAINING)));
        },
    )
}

/// Writes a stream, charging what is written to the reader; if the reader's budget is full, the stream ends with an
/// error.
fn answer(budget: Budget, stream: impl Stream<Item = Part> + Send + 'static) -> Response {
    let body = Body::from_stream(async_stream::stream! {
        let mut stream = std::pin::pin!(stream);
        while let Some(part) = stream.next().await {
            let charged = match part {
                Part::Own(text) => charged(&budget, text.into()),
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

/// An item together with those that wait behind it.
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

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.text()
    }
}
