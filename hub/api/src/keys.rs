//! Keys: created, listed page by page, ended. A key in the clear is in one answer and nowhere else.

use std::time::Duration;

use alkhub_edge::KeyHolder;
use alkhub_edge::body::JsonBody;
use alkhub_edge::envelope::{Data, Page};
use alkhub_edge::error::ApiError;
use alkhub_edge::query::Query;
use alkhub_edge::request::Path;
use alkhub_protocol::admin::{KeyCreate, KeyCreated, KeyInfo};
use alkhub_protocol::{ApiKey, Code, PAGE_BYTES, PAGE_LIMIT};
use alkhub_store::{Cursor, NewKey};
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;

use crate::api::Api;

/// How many keys are read from Postgres at a time, at most: a key may have many scopes.
const BATCH: u32 = 100;

/// `GET /v1/admin/keys`: newest first, page by page.
pub(crate) async fn list(State(api): State<Api>, query: Query) -> Result<Page<KeyInfo>, ApiError> {
    let mut room = query.limit()?.unwrap_or(PAGE_LIMIT);
    let mut last: Option<Cursor> = query.parse("cursor")?;
    let hash_key = api.edge().keys().hasher().hash_key();
    let (mut items, mut bytes) = (Vec::new(), 0);
    loop {
        // One more than there is room for shows whether another page follows.
        let most = BATCH.min(room + 1);
        let keys = api.store().keys().list(hash_key, last, most).await;
        let keys = keys.map_err(|e| ApiError::store(&e))?;
        let is_end = u32::try_from(keys.len()).is_ok_and(|count| count < most);
        for key in keys {
            bytes += size(&key);
            if room == 0 || (bytes > PAGE_BYTES && !items.is_empty()) {
                let next = last.map(|cursor| cursor.to_string());
                return Ok(Page { items, next });
            }
            last = Some(Cursor::of_key(&key).map_err(|e| ApiError::internal(&e))?);
            items.push(key);
            room -= 1;
        }
        if is_end {
            return Ok(Page { items, next: None });
        }
    }
}

/// `POST /v1/admin/keys`.
pub(crate) async fn create(
    State(api): State<Api>,
    caller: KeyHolder,
    JsonBody(create): JsonBody<KeyCreate>,
) -> Result<Data<KeyCreated>, ApiError> {
    create.check().map_err(|e| ApiError::bad_request(e.to_string()))?;
    let expires_at = create.expires_in_seconds.map(expiry);
    let work = make(api.clone(), caller, create, expires_at);
    api.edge().scope().finish(work).await
}

async fn make(
    api: Api,
    caller: KeyHolder,
    create: KeyCreate,
    expires_at: Option<Timestamp>,
) -> Result<Data<KeyCreated>, ApiError> {
    let key = ApiKey::from_entropy(rand::random());
    let hasher = api.edge().keys().hasher();
    let new = NewKey {
        name: create.name,
        hash: hasher.hash(&key),
        hash_key: hasher.hash_key().clone(),
        hint: key.hint().to_owned(),
        scopes: create.scopes,
        spoke: create.spoke,
        expires_at,
    };
    let made = api.store().keys().by(&caller.key.id).create(&new).await;
    let info = made.map_err(|e| ApiError::store(&e))?;
    tracing::info!(admin.key = %caller.key.id, key.id = %info.id, key.name = %info.name, "a key was made");
    Ok(Data(
        StatusCode::CREATED,
        KeyCreated {
            key: key.expose().to_owned(),
            info,
        },
    ))
}

/// `DELETE /v1/admin/keys/{id}`: ends a key and its connections, on every hub.
pub(crate) async fn revoke(
    State(api): State<Api>,
    caller: KeyHolder,
    Path(id): Path<String>,
) -> Result<Data<KeyInfo>, ApiError> {
    let work = end(api.clone(), caller, id);
    api.edge().scope().finish(work).await
}

async fn end(api: Api, caller: KeyHolder, id: String) -> Result<Data<KeyInfo>, ApiError> {
    let revoked = api.store().keys().by(&caller.key.id).revoke(&id).await;
    let revoked = revoked.map_err(|e| ApiError::store(&e))?;
    let info = revoked.ok_or_else(|| ApiError::new(Code::NotFound, "there is no key with that id"))?;
    tracing::info!(admin.key = %caller.key.id, key.id = %info.id, "a key was revoked");
    api.edge().keys().end(std::slice::from_ref(&info.id)).await;
    Ok(Data::ok(info))
}

/// When a key ends that lasts this long; [`KeyCreate::check`] has bounded it.
fn expiry(seconds: u64) -> Timestamp {
    let end = Timestamp::now().checked_add(Duration::from_secs(seconds));
    end.expect("the calendar goes on for more than `SECONDS_LIMIT`")
}

/// Bytes of a key in a list.
fn size(key: &KeyInfo) -> usize {
    serde_json::to_vec(key).map_or(0, |text| text.len())
}

#[cfg(test)]
mod tests {
    use alkhub_protocol::admin::SECONDS_LIMIT;

    use super::*;

    #[test]
    fn a_key_may_last_as_long_as_its_check_allows() {
        assert!(expiry(SECONDS_LIMIT) > expiry(1));
    }
}
