//! The list of spokes: by name, page by page if pages are asked for, and written while it is produced.
//!
//! Invariants
//! - However long a list is, the hub holds only a small part of it at a time: the next part is made when the last one
//!   was taken.
//! - Without `limit` and `cursor` the list is complete: an operator of the previous version asks like this, and must
//!   not take a page for everything.
//! - A list that cannot be finished is cut off, so that nobody takes it for complete.

use std::io;

use alkhub_budget::{Held, Kept};
use alkhub_calls::roster::Roster;
use alkhub_edge::KeyHolder;
use alkhub_edge::envelope;
use alkhub_edge::error::ApiError;
use alkhub_edge::query::Query;
use alkhub_protocol::admin::SpokeInfo;
use alkhub_protocol::{CallError, Chain, PAGE_BYTES, PAGE_LIMIT, SpokeName, scope};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;

use crate::api::Api;

/// The size of one part, roughly, in bytes.
const PART: usize = 32 * 1024;

/// The charge for a list that is being written: its parts that wait in the connection, and a batch of records.
const CHARGE: usize = 512 * 1024;

/// Which part of the list is wanted.
struct Wanted {
    /// Those after this name.
    after: String,
    /// At most this many, and about [`PAGE_BYTES`]; `None`: all.
    limit: Option<u32>,
}

/// `GET /v1/spokes`: every spoke, declared or not.
pub(crate) async fn list(State(api): State<Api>, caller: KeyHolder, query: Query) -> Result<Response, ApiError> {
    let wanted = Wanted::of(&query)?;
    let charge = api.edge().budgets().key(&caller.key.id).take(Kept::Answers, CHARGE);
    let charge = charge.map_err(CallError::from)?;
    // Which key is in force is a matter between the hub and whoever issues keys.
    let hints = caller.has(scope::ADMIN);
    let hints = hints.then(|| api.edge().keys().hasher().hash_key().clone());
    let spokes = Roster::read(api.calls(), api.store(), &wanted.after, hints).await;
    // Whether Postgres returns the first batch decides the status of the answer.
    let spokes = spokes.map_err(|e| ApiError::store(&e))?;
    let list = written(spokes, wanted.limit, charge);
    Ok(envelope::streamed(StatusCode::OK, Body::from_stream(list)))
}

/// The list as JSON, in parts.
fn written(
    mut spokes: Roster,
    limit: Option<u32>,
    charge: Held,
) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static {
    async_stream::stream! {
        let _charge = charge;
        let (mut part, mut bytes, mut count, mut last) = (b"{\"data\":[".to_vec(), 0, 0, None::<SpokeName>);
        let mut next = None;
        loop {
            let found = match spokes.next().await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(error = %Chain::of(&error), "a list of spokes was cut off");
                    yield Err(io::Error::other("the list cannot be ended"));
                    return;
                }
            };
            let Some((spoke, instances)) = found else { break };
            if limit.is_some_and(|limit| count >= limit || (bytes >= PAGE_BYTES && count > 0)) {
                next = last;
                break;
            }
            if count > 0 {
                part.push(b',');
            }
            let (before, behind) = around_instances(&spoke);
            part.extend_from_slice(&before);
            for (number, instance) in instances.iter().enumerate() {
                if number > 0 {
                    part.push(b',');
                }
                part.extend(serde_json::to_vec(&instance.info()).expect("an instance is a plain struct"));
                if part.len() >= PART {
                    bytes += part.len();
                    yield Ok(std::mem::take(&mut part).into());
                }
            }
            part.extend_from_slice(&behind);
            if part.len() >= PART {
                bytes += part.len();
                yield Ok(std::mem::take(&mut part).into());
            }
            count += 1;
            last = Some(spoke.name);
        }
        part.extend(envelope::end_of_page(next.map(|name| name.to_string())));
        yield Ok(part.into());
    }
}

/// A spoke's JSON before and after its instances, of which it has none.
fn around_instances(spoke: &SpokeInfo) -> (Vec<u8>, Vec<u8>) {
    const FIELD: &[u8] = b"\"instances\":[";
    let mut before = serde_json::to_vec(spoke).expect("a spoke is a plain struct");
    // Inside a string, the quotes would have a backslash before them.
    let place = before.windows(FIELD.len()).position(|part| part == FIELD);
    let behind = before.split_off(place.expect("it is always written") + FIELD.len());
    (before, behind)
}

// === impl Wanted ===

impl Wanted {
    fn of(query: &Query) -> Result<Self, ApiError> {
        let limit = query.limit()?;
        let cursor = query.parse::<SpokeName>("cursor")?;
        let paged = cursor.as_ref().map(|_| PAGE_LIMIT);
        Ok(Self {
            after: cursor.map_or_else(String::new, |name| name.to_string()),
            limit: limit.or(paged),
        })
    }
}
