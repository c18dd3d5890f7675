//! Spokes: what is known of them, and the admin API by which the operator declares them.

use std::collections::{BTreeMap, HashMap};

use alkhub_events::KeyChange;
use alkhub_protocol::admin::{InstanceInfo, SpokeInfo, SpokePut, SpokeStatus, UID_LIMIT};
use alkhub_protocol::register::SpokeType;
use alkhub_protocol::{ApiKey, Code, SpokeName, scope};
use alkhub_store::{SpokeKey, SpokeRecord};
use axum::extract::State;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::envelope::Data;
use crate::error::ApiError;
use crate::query::Query;
use crate::request::Path;

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

/// What is connected of one spoke.
#[derive(Debug, Default)]
struct Connected {
    instances: Vec<InstanceInfo>,
    operations: Vec<String>,
}

/// `GET /v1/spokes`: every spoke, declared or not.
pub(crate) async fn list(State(app): State<App>, caller: Caller) -> Result<Data<Vec<SpokeInfo>>, ApiError> {
    caller.require(scope::SPOKES_READ)?;
    let records = app.store.spokes().list().await.map_err(|e| ApiError::store(&e))?;
    // Which key is in force is between the hub and who issues keys.
    let mut hints = if caller.require(scope::ADMIN).is_ok() {
        hints(&app, None).await?
    } else {
        HashMap::new()
    };
    let mut connected = connected(&app);
    let mut spokes: Vec<SpokeInfo> = records
        .into_iter()
        .map(|record| {
            let connected = connected.remove(&record.name).unwrap_or_default();
            let hint = hints.remove(&record.name);
            info(record, connected, hint)
        })
        .collect();
    spokes.extend(
        connected
            .into_iter()
            .map(|(name, connected)| undeclared(name, connected)),
    );
    Ok(Data::ok(spokes))
}

/// `GET /v1/admin/spokes/{name}`.
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Data<Declared>, ApiError> {
    caller.require(scope::ADMIN)?;
    let name = spoke_name(&name)?;
    let record = app.store.spokes().get(&name).await.map_err(|e| ApiError::store(&e))?;
    let record = record.ok_or_else(|| unknown(&name, None))?;
    let hint = hints(&app, Some(&name)).await?.remove(&name);
    let connected = connected(&app).remove(&name).unwrap_or_default();
    let declaration = (!record.uid.is_empty()).then(|| record.declaration());
    let info = info(record, connected, hint);
    Ok(Data::ok(Declared { info, declaration }))
}

/// `PUT /v1/admin/spokes/{name}`: declares a spoke; the same again changes nothing.
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    JsonBody(spoke): JsonBody<SpokePut>,
) -> Result<Data<SpokeInfo>, ApiError> {
    caller.require(scope::ADMIN)?;
    let name = spoke_name(&name)?;
    let checked = spoke.check().and_then(|()| spoke.check_key());
    checked.map_err(|e| ApiError::bad_request(e.to_string()))?;
    let key = key(&app, spoke.key.as_deref())?;
    let outcome = app.store.spokes().put(&name, &spoke, key.as_ref()).await;
    let outcome = outcome.map_err(|e| ApiError::store(&e))?;
    if let Some(key) = &key {
        app.keys.made(&key.hash).await;
    }
    if outcome.created || outcome.changed {
        tracing::info!(admin.key = %caller.key.id, spoke.name = %name, spoke.uid = %spoke.uid, "a spoke was declared");
    }
    app.end_keys(&outcome.revoked_keys).await;
    if outcome.changed && !outcome.created {
        // Its keys may do more or less than before, here and on the other hubs.
        app.recheck_keys().await;
    }
    let status = if outcome.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    // Whether the key that came is in force: one that has ended is put as often as one likes and stays ended.
    let hint = hints(&app, Some(&name)).await?.remove(&name);
    let connected = connected(&app).remove(&name).unwrap_or_default();
    Ok(Data(status, info(outcome.record, connected, hint)))
}

/// `DELETE /v1/admin/spokes/{name}?uid=`: ends the spoke's keys and its connections.
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    query: Query,
) -> Result<StatusCode, ApiError> {
    caller.require(scope::ADMIN)?;
    let name = spoke_name(&name)?;
    let deleted = app.store.spokes().delete(&name, query.first("uid")).await;
    let deleted = deleted
        .map_err(|e| ApiError::store(&e))?
        .ok_or_else(|| unknown(&name, query.first("uid")))?;
    tracing::info!(admin.key = %caller.key.id, spoke.name = %name, "a spoke was removed");
    app.end_keys(&deleted.revoked_keys).await;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/admin/spokes/sweep`: removes the spokes of resources that are gone.
pub(crate) async fn sweep(
    State(app): State<App>,
    caller: Caller,
    JsonBody(sweep): JsonBody<Sweep>,
) -> Result<Data<Swept>, ApiError> {
    caller.require(scope::ADMIN)?;
    let revoked_keys = app.store.spokes().sweep_except(&sweep.uids).await;
    let revoked_keys = revoked_keys.map_err(|e| ApiError::store(&e))?;
    tracing::info!(admin.key = %caller.key.id, keys = revoked_keys.len(), "spokes of resources that are gone were removed");
    app.end_keys(&revoked_keys).await;
    Ok(Data::ok(Swept { revoked_keys }))
}

fn key(app: &App, text: Option<&str>) -> Result<Option<SpokeKey>, ApiError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let key = ApiKey::parse(text).map_err(|e| ApiError::bad_request(format!("`key`: {e}")))?;
    let hasher = app.keys.hasher();
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

async fn hints(app: &App, name: Option<&SpokeName>) -> Result<HashMap<SpokeName, String>, ApiError> {
    let hash_key = app.keys.hasher().hash_key();
    let hints = app.store.spokes().key_hints(name.map(std::slice::from_ref), hash_key);
    hints.await.map_err(|e| ApiError::store(&e))
}

fn connected(app: &App) -> BTreeMap<SpokeName, Connected> {
    let mut spokes: BTreeMap<SpokeName, Connected> = BTreeMap::new();
    for (name, instance, operations) in app.calls.instances() {
        let spoke = spokes.entry(name).or_default();
        spoke.instances.push(instance);
        spoke.operations.extend(operations.iter().map(ToString::to_string));
    }
    for spoke in spokes.values_mut() {
        spoke.operations.sort();
        spoke.operations.dedup();
        spoke.instances.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
    }
    spokes
}

fn info(record: SpokeRecord, connected: Connected, key_hint: Option<String>) -> SpokeInfo {
    let status = if record.suspended {
        SpokeStatus::Suspended
    } else if connected.instances.is_empty() {
        SpokeStatus::Disconnected
    } else {
        SpokeStatus::Connected
    };
    SpokeInfo {
        // A spoke that no resource declares has no declaration that could be lost.
        declaration_digest: (!record.uid.is_empty()).then(|| record.declaration().digest()),
        key_hint,
        name: record.name,
        uid: record.uid,
        spoke_type: record.spoke_type,
        status,
        operations: connected.operations,
        labels: record.labels,
        connected_at: record.connected_at,
        disconnected_at: record.disconnected_at.filter(|_| connected.instances.is_empty()),
        last_heartbeat_at: record.last_heartbeat_at,
        instances: connected.instances,
    }
}

/// A spoke that connected and is not yet, or no longer, in Postgres.
fn undeclared(name: SpokeName, connected: Connected) -> SpokeInfo {
    SpokeInfo {
        name,
        uid: String::new(),
        spoke_type: SpokeType::default(),
        status: SpokeStatus::Connected,
        connected_at: connected.instances.iter().map(|instance| instance.connected_at).min(),
        instances: connected.instances,
        operations: connected.operations,
        labels: BTreeMap::new(),
        disconnected_at: None,
        last_heartbeat_at: None,
        declaration_digest: None,
        key_hint: None,
    }
}

// === impl App ===

impl App {
    /// Ends keys here and on the other hubs.
    pub(crate) async fn end_keys(&self, ids: &[String]) {
        if ids.is_empty() {
            return;
        }
        self.revoke(ids);
        self.fabric
            .cluster()
            .announce_key_change(KeyChange::Revoked(ids.to_vec()))
            .await;
    }

    /// Has every hub look its keys up again.
    async fn recheck_keys(&self) {
        crate::auth::recheck_in_use(self).await;
        self.fabric.cluster().announce_key_change(KeyChange::Recheck).await;
    }
}
