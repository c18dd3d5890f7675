//! The list of spokes: by name, page by page where pages are asked for, and written as it is made.
//!
//! Invariants
//! - Whatever a list holds, the hub keeps a small part of it at a time: records come from Postgres in batches, instances
//!   are the directory's own, and the next part is made when the last one is taken.
//! - Without `limit` and `cursor` the list is whole: an operator of the version before asks so, and must not take a page for
//!   everything.
//! - A list that cannot be ended is cut off, so that nobody takes it for whole.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::iter::Peekable;
use std::vec::IntoIter;

use alkhub_budget::{Held, Kept};
use alkhub_calls::Connected;
use alkhub_edge::Holder;
use alkhub_edge::envelope;
use alkhub_edge::error::{ApiError, Chain};
use alkhub_edge::query::Query;
use alkhub_protocol::admin::SpokeInfo;
use alkhub_protocol::{CallError, SpokeName, scope};
use alkhub_store::SpokeRecord;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;

use super::{Present, info, undeclared};
use crate::app::App;

/// Spokes in one page, at most.
const PAGE_LIMIT: usize = 1_000;

/// Bytes of a page about: a spoke that is larger makes a page of its own.
const PAGE_BYTES: usize = 512 * 1024;

/// Records read at once.
const BATCH: u32 = 100;

/// Bytes of one part, about.
const PART: usize = 32 * 1024;

/// What a list that is being written is charged: its parts that wait in the connection, and a batch of records.
const CHARGE: usize = 512 * 1024;

/// Which part of the list is wanted.
struct Wanted {
    /// Those after this name.
    after: String,
    /// So many at most, and about [`PAGE_BYTES`]; without it, all.
    limit: Option<usize>,
}

/// Spokes by name, declared or not.
struct Spokes {
    app: App,
    /// Which key is in force is between the hub and who issues keys.
    with_hints: bool,
    connected: Peekable<IntoIter<Connected>>,
    records: VecDeque<SpokeRecord>,
    hints: HashMap<SpokeName, String>,
    /// Records after this name are not read yet; `None` when all are.
    after: Option<String>,
    _charge: Held,
}

/// `GET /v1/spokes`: every spoke, declared or not.
pub(crate) async fn list(State(app): State<App>, caller: Holder, query: Query) -> Result<Response, ApiError> {
    caller.require(scope::SPOKES_READ)?;
    let wanted = Wanted::of(&query)?;
    let mut spokes = Spokes::new(app, &caller, &wanted.after)?;
    // What Postgres says to the first batch is the answer's status.
    spokes.read().await.map_err(|e| ApiError::store(&e))?;
    Ok(envelope::streamed(
        StatusCode::OK,
        Body::from_stream(written(spokes, wanted.limit)),
    ))
}

/// The list as JSON, in parts.
fn written(
    mut spokes: Spokes,
    limit: Option<usize>,
) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static {
    async_stream::stream! {
        let (mut part, mut bytes, mut count, mut last) = (b"{\"data\":[".to_vec(), 0, 0, None::<SpokeName>);
        let mut next = None;
        loop {
            let found = match spokes.next().await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "a list of spokes was cut off");
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

/// A spoke's JSON before and behind its instances, of which it has none.
fn around_instances(spoke: &SpokeInfo) -> (Vec<u8>, Vec<u8>) {
    const FIELD: &[u8] = b"\"instances\":[";
    let mut before = serde_json::to_vec(spoke).expect("a spoke is a plain struct");
    // In a text the quotes have a backslash before them.
    let place = before.windows(FIELD.len()).position(|part| part == FIELD);
    let behind = before.split_off(place.expect("it is always written") + FIELD.len());
    (before, behind)
}

// === impl Wanted ===

impl Wanted {
    fn of(query: &Query) -> Result<Self, ApiError> {
        let limit = query.parse::<usize>("limit")?;
        if limit.is_some_and(|limit| !(1..=PAGE_LIMIT).contains(&limit)) {
            return Err(ApiError::bad_request(format!(
                "query parameter `limit` must be 1 to {PAGE_LIMIT}"
            )));
        }
        let cursor = query.parse::<SpokeName>("cursor")?;
        let paged = cursor.as_ref().map(|_| PAGE_LIMIT);
        Ok(Self {
            after: cursor.map_or_else(String::new, |name| name.to_string()),
            limit: limit.or(paged),
        })
    }
}

// === impl Spokes ===

impl Spokes {
    fn new(app: App, caller: &Holder, after: &str) -> Result<Self, ApiError> {
        let charge = app.edge.budgets().key(&caller.key.id).take(Kept::Answers, CHARGE);
        let mut connected = app.calls.connected();
        connected.retain(|instance| instance.spoke().as_str() > after);
        Ok(Self {
            with_hints: caller.require(scope::ADMIN).is_ok(),
            connected: connected.into_iter().peekable(),
            records: VecDeque::new(),
            hints: HashMap::new(),
            after: Some(after.to_owned()),
            _charge: charge.map_err(CallError::from)?,
            app,
        })
    }

    /// Reads the next batch of records, unless all are read.
    async fn read(&mut self) -> Result<(), alkhub_store::Error> {
        let Some(after) = self.after.take() else { return Ok(()) };
        let store = self.app.store.spokes();
        self.records = store.after(&after, BATCH).await?.into();
        if u32::try_from(self.records.len()).is_ok_and(|count| count == BATCH) {
            self.after = self.records.back().map(|record| record.name.to_string());
        }
        if self.with_hints {
            let names: Vec<SpokeName> = self.records.iter().map(|record| record.name.clone()).collect();
            let hash_key = self.app.edge.keys().hasher().hash_key();
            self.hints = store.key_hints(Some(&names), hash_key).await?;
        }
        Ok(())
    }

    /// The next spoke, without its instances, and these.
    async fn next(&mut self) -> Result<Option<(SpokeInfo, Vec<Connected>)>, alkhub_store::Error> {
        if self.records.is_empty() {
            self.read().await?;
        }
        let declared = self.records.front().map(|record| record.name.clone());
        let connected = self.connected.peek().map(|instance| instance.spoke().clone());
        let Some(name) = declared.iter().chain(&connected).min().cloned() else {
            return Ok(None);
        };
        let mut instances = Vec::new();
        while let Some(instance) = self.connected.next_if(|instance| *instance.spoke() == name) {
            instances.push(instance);
        }
        let present = Present::of(&instances);
        let spoke = match self.records.pop_front_if(|record| record.name == name) {
            Some(record) => info(record, present, self.hints.remove(&name)),
            None => undeclared(name, present),
        };
        Ok(Some((spoke, instances)))
    }
}
