//! Spokes: what is known of them, and the admin API through which the operator declares them.

mod list;

use alkhub_calls::roster;
use alkhub_edge::KeyHolder;
use alkhub_edge::body::JsonBody;
use alkhub_edge::envelope::Data;
use alkhub_edge::error::ApiError;
use alkhub_edge::query::Query;
use alkhub_edge::request::Path;
use alkhub_protocol::admin::{SpokeInfo, SpokePut, UID_LIMIT};
use alkhub_protocol::{ApiKey, Code, SpokeName};
use alkhub_store::SpokeKey;
use axum::extract::State;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use list::list;

use crate::api::Api;

/// `POST /v1/admin/spokes/sweep`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sweep {
    /// The uids of every Spoke resource that exists; spokes with another uid are removed.
    #[schemars(inner(length(min = 1, max = UID_LIMIT), regex(pattern = "^[!-~]+$")))]
    uids: Vec<String>,
}

/// What a sweep ended.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Swept {
    /// The ids of the keys that ended.
    revoked_keys: Vec<String>,
}

/// A declared spoke, and what declares it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Declared {
    #[serde(flatten)]
    info: SpokeInfo,
    /// Without a key: the same in a `PUT` changes nothing. Absent where nothing declares the spoke.
    #[serde(skip_serializing_if = "Option::is_none")]
    declaration: Option<SpokePut>,
}

/// `GET /v1/admin/spokes/{name}`.
pub(crate) async fn get(State(api): State<Api>, Path(name): Path<String>) -> Result<Data<Declared>, ApiError> {
    let name = spoke_name(&name)?;
    let record = api.store().spokes().get(&name).await.map_err(|e| ApiError::store(&e))?;
    let record = record.ok_or_else(|| unknown(&name, None))?;
    let hint = hint(&api, &name).await?;
    let declaration = (!record.uid.is_empty()).then(|| record.declaration());
    let info = roster::spoke(api.calls(), record, hint);
    Ok(Data::ok(Declared { info, declaration }))
}

/// `PUT /v1/admin/spokes/{name}`: declares a spoke; doing it again unchanged has no effect.
pub(crate) async fn put(
    State(api): State<Api>,
    caller: KeyHolder,
    Path(name): Path<String>,
    JsonBody(spoke): JsonBody<SpokePut>,
) -> Result<Data<SpokeInfo>, ApiError> {
    let name = spoke_name(&name)?;
    let checked = spoke.check().and_then(|()| spoke.check_key());
    checked.map_err(|e| ApiError::bad_request(e.to_string()))?;
    let key = key(&api, spoke.key.as_deref())?;
    let work = declare(api.clone(), caller, name, spoke, key);
    api.edge().scope().finish(work).await
}

async fn declare(
    api: Api,
    caller: KeyHolder,
    name: SpokeName,
    spoke: SpokePut,
    key: Option<SpokeKey>,
) -> Result<Data<SpokeInfo>, ApiError> {
    let spokes = api.store().spokes().by(&caller.key.id);
    let outcome = spokes.put(&name, &spoke, key.as_ref()).await;
    let outcome = written(&api, Some(&name), outcome).await?;
    if let Some(key) = &key {
        api.edge().keys().made(&key.hash).await;
    }
    if outcome.created || outcome.changed {
        tracing::info!(admin.key = %caller.key.id, spoke.name = %name, spoke.uid = %spoke.uid, "a spoke was declared");
    }
    api.edge().keys().end(&outcome.revoked_keys).await;
    if outcome.key_restored || outcome.changed && !outcome.created {
        // Its keys may have gained or lost rights, here and on the other hubs; a key that came back is still refused
        // there.
        api.edge().keys().recheck_spoke(&name).await;
    }
    let status = if outcome.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    // Whether the key in the request is in force: one that has ended stays ended, however often it is put.
    let hint = hint(&api, &name).await?;
    Ok(Data(status, roster::spoke(api.calls(), outcome.record, hint)))
}

/// `DELETE /v1/admin/spokes/{name}?uid=`: ends the spoke's keys and its connections.
pub(crate) async fn delete(
    State(api): State<Api>,
    caller: KeyHolder,
    Path(name): Path<String>,
    query: Query,
) -> Result<StatusCode, ApiError> {
    let name = spoke_name(&name)?;
    let uid = query.first("uid").map(str::to_owned);
    let work = remove(api.clone(), caller, name, uid);
    api.edge().scope().finish(work).await
}

async fn remove(api: Api, caller: KeyHolder, name: SpokeName, uid: Option<String>) -> Result<StatusCode, ApiError> {
    let spokes = api.store().spokes().by(&caller.key.id);
    let deleted = spokes.delete(&name, uid.as_deref()).await;
    let Some(deleted) = written(&api, Some(&name), deleted).await? else {
        // It may be the second try after a lost answer: nobody was told then which keys ended.
        api.edge().keys().recheck_spoke(&name).await;
        return Err(unknown(&name, uid.as_deref()));
    };
    tracing::info!(admin.key = %caller.key.id, spoke.name = %name, "a spoke was removed");
    api.edge().keys().end(&deleted.revoked_keys).await;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/admin/spokes/sweep`: removes the spokes of resources that are gone.
pub(crate) async fn sweep(
    State(api): State<Api>,
    caller: KeyHolder,
    JsonBody(sweep): JsonBody<Sweep>,
) -> Result<Data<Swept>, ApiError> {
    let work = remove_all_but(api.clone(), caller, sweep.uids);
    api.edge().scope().finish(work).await
}

async fn remove_all_but(api: Api, caller: KeyHolder, uids: Vec<String>) -> Result<Data<Swept>, ApiError> {
    let revoked_keys = api.store().spokes().by(&caller.key.id).sweep_except(&uids).await;
    let revoked_keys = written(&api, None, revoked_keys).await?;
    tracing::info!(admin.key = %caller.key.id, keys = revoked_keys.len(), "spokes of resources that are gone were removed");
    api.edge().keys().end(&revoked_keys).await;
    Ok(Data::ok(Swept { revoked_keys }))
}

/// Passes on the result of a write to this spoke, or to many. A write whose answer was lost may have ended keys, and a
/// second try would find nothing left to do: so every hub looks them up again.
async fn written<T>(api: &Api, of: Option<&SpokeName>, done: Result<T, alkhub_store::Error>) -> Result<T, ApiError> {
    if done.as_ref().is_err_and(alkhub_store::Error::may_be_written) {
        let keys = api.edge().keys();
        match of {
            Some(name) => keys.recheck_spoke(name).await,
            None => keys.recheck_all().await,
        }
    }
    done.map_err(|e| ApiError::store(&e))
}

fn key(api: &Api, text: Option<&str>) -> Result<Option<SpokeKey>, ApiError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let key = ApiKey::parse(text).map_err(|e| ApiError::bad_request(format!("`key`: {e}")))?;
    let hasher = api.edge().keys().hasher();
    Ok(Some(SpokeKey {
        hash: hasher.hash(&key),
        hash_key: hasher.hash_key().clone(),
        hint: key.hint().to_owned(),
    }))
}

fn spoke_name(text: &str) -> Result<SpokeName, ApiError> {
    text.parse()
        .map_err(|e: alkhub_protocol::id::InvalidId| ApiError::bad_request(e.to_string()))
}

fn unknown(name: &SpokeName, uid: Option<&str>) -> ApiError {
    let with = if uid.is_some() { " with that uid" } else { "" };
    ApiError::new(Code::NotFound, format!("there is no spoke `{name}`{with}"))
}

async fn hint(api: &Api, name: &SpokeName) -> Result<Option<String>, ApiError> {
    let hash_key = api.edge().keys().hasher().hash_key();
    let hints = api.store().spokes().key_hints(std::slice::from_ref(name), hash_key);
    let mut hints = hints.await.map_err(|e| ApiError::store(&e))?;
    Ok(hints.remove(name))
}
