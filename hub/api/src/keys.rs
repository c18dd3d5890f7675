//! Keys: made, listed, ended. A key in the clear is in one answer and nowhere else.

use alkhub_edge::KeyHolder;
use alkhub_edge::body::JsonBody;
use alkhub_edge::envelope::Data;
use alkhub_edge::error::ApiError;
use alkhub_edge::request::Path;
use alkhub_protocol::admin::{KeyCreate, KeyCreated, KeyInfo};
use alkhub_protocol::{ApiKey, Code};
use alkhub_store::NewKey;
use axum::extract::State;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

use crate::api::Api;

/// `GET /v1/admin/keys`.
pub(crate) async fn list(State(api): State<Api>) -> Result<Data<Vec<KeyInfo>>, ApiError> {
    let keys = api.store().keys().list(api.edge().keys().hasher().hash_key()).await;
    let keys = keys.map_err(|e| ApiError::store(&e))?;
    Ok(Data::ok(keys))
}

/// `POST /v1/admin/keys`.
pub(crate) async fn create(
    State(api): State<Api>,
    caller: KeyHolder,
    JsonBody(create): JsonBody<KeyCreate>,
) -> Result<Data<KeyCreated>, ApiError> {
    create.check().map_err(|e| ApiError::bad_request(e.to_string()))?;
    let expires_at = create.expires_in_seconds.map(expiry).transpose()?;
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

fn expiry(seconds: u64) -> Result<Timestamp, ApiError> {
    let bad = || ApiError::bad_request("`expiresInSeconds` must be at least 1 and end within this calendar");
    let seconds = i64::try_from(seconds)
        .ok()
        .filter(|&seconds| seconds > 0)
        .ok_or_else(bad)?;
    Timestamp::now()
        .checked_add(SignedDuration::from_secs(seconds))
        .map_err(|_| bad())
}
