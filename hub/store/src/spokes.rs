//! Spokes: who may offer operations, as a resource or a key declared them.
//!
//! Invariants
//! - A spoke is its name and its uid. A put with another uid makes another spoke, and every key of the old one ends in
//!   the same transaction.
//! - A delete that names a uid deletes only the spoke with that uid.

mod hints;
mod list;
mod prune;
mod put;
mod remove;

use std::collections::BTreeMap;

use alkhub_protocol::admin::SpokePut;
use alkhub_protocol::register::SpokeType;
use alkhub_protocol::{Scopes, SpokeName};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::actor::Actor;
use crate::db::Db;
use crate::metrics::Statement;
use crate::row::{spoke_type, time};
use crate::statement::run;
use crate::{Error, HashKey, KeyHash};

/// The spokes of a store.
#[derive(Clone, Copy, Debug)]
pub struct Spokes<'a>(pub(crate) &'a Db, pub(crate) Actor);

/// A spoke as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct SpokeRecord {
    /// Its name.
    pub name: SpokeName,
    /// The resource's uid; empty for a spoke that no resource declares.
    pub uid: String,
    /// Kind of spoke.
    pub spoke_type: SpokeType,
    /// Operations that it may offer: `ns.op` or `ns.*`; empty means `{name}.*`.
    pub operations: Vec<String>,
    /// What its own key may do besides offering operations.
    pub scopes: Scopes,
    /// Labels of the user's choice.
    pub labels: BTreeMap<String, String>,
    /// The most calls that one instance takes at once.
    pub concurrency: Option<u32>,
    /// Whether its connections are refused.
    pub suspended: bool,
    /// When it was declared.
    pub created_at: Timestamp,
    /// When an instance of it connected for the first time.
    pub first_connected_at: Option<Timestamp>,
    /// When the first of its instances connected that are there now, or were there last.
    pub connected_at: Option<Timestamp>,
    /// When its last instance left.
    pub disconnected_at: Option<Timestamp>,
    /// When it was last heard from; exact to a minute.
    pub last_heartbeat_at: Option<Timestamp>,
}

/// The key that comes with a put.
#[derive(Clone, Debug)]
pub struct SpokeKey {
    /// Its hash.
    pub hash: KeyHash,
    /// Which secret made the hash.
    pub hash_key: HashKey,
    /// Its first characters.
    pub hint: String,
}

/// The result of a put.
#[derive(Clone, Debug, PartialEq)]
pub struct PutOutcome {
    /// The spoke as it is now.
    pub record: SpokeRecord,
    /// Whether no spoke of that name and uid was there.
    pub created: bool,
    /// Whether anything has changed: callers that hold a copy must read it again.
    pub changed: bool,
    /// Whether the key had ended with the spoke and is now in force again: hubs may still refuse it.
    pub key_restored: bool,
    /// Keys that ended at once, by id. A key that remains valid for `overlap_seconds` is not among them.
    pub revoked_keys: Vec<String>,
}

/// The result of a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Keys that ended, by id.
    pub revoked_keys: Vec<String>,
}

/// The columns of a spoke.
#[derive(Clone, Debug)]
pub(crate) struct SpokeRow {
    pub(crate) name: String,
    pub(crate) uid: String,
    spoke_type: String,
    operations: Vec<String>,
    scopes: Vec<String>,
    labels: Json<BTreeMap<String, String>>,
    concurrency: Option<i64>,
    suspended: bool,
    created_at: jiff_sqlx::Timestamp,
    first_connected_at: Option<jiff_sqlx::Timestamp>,
    connected_at: Option<jiff_sqlx::Timestamp>,
    disconnected_at: Option<jiff_sqlx::Timestamp>,
    last_heartbeat_at: Option<jiff_sqlx::Timestamp>,
}

// === impl Spokes ===

impl Spokes<'_> {
    /// The same, on behalf of the key with this id: if that key has ended by then, nothing is declared or removed
    /// ([`Error::ActorEnded`]).
    #[must_use]
    pub fn by(self, key_id: &str) -> Self {
        Self(self.0, Actor::key(key_id))
    }

    /// Declares a spoke, in one transaction; declaring it again unchanged has no effect.
    ///
    /// A new uid replaces the spoke of that name and ends all its keys. A new key ends the spoke's older ones after
    /// `overlap_seconds`. A key that the spoke already has changes nothing, so that a late or repeated put does not
    /// revive an older key.
    ///
    /// # Errors
    /// [`Error::KeyInUse`] if the key belongs to another spoke or to a client; then nothing was changed.
    pub async fn put(self, name: &SpokeName, spoke: &SpokePut, key: Option<&SpokeKey>) -> Result<PutOutcome, Error> {
        let outcome = run!(self.0, Statement::SpokePut, |db| put::put(db, self.1, name, spoke, key))?;
        let put::PutResult {
            row,
            created,
            changed,
            key_restored,
            revoked,
        } = outcome.ok_or(Error::KeyInUse)?;
        Ok(PutOutcome {
            record: row.record()?,
            created,
            changed,
            key_restored,
            revoked_keys: texts(revoked),
        })
    }

    /// The spoke of that name.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn get(self, name: &SpokeName) -> Result<Option<SpokeRecord>, Error> {
        let row = run!(self.0, Statement::SpokeGet, |db| select(db, name.as_str()))?;
        row.map(SpokeRow::record).transpose()
    }

    /// Removes a spoke and ends its keys. `None`, with nothing done, if there is none or its uid is not `uid`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn delete(self, name: &SpokeName, uid: Option<&str>) -> Result<Option<Deleted>, Error> {
        let revoked = run!(self.0, Statement::SpokeDelete, |db| remove::delete(
            db, self.1, name, uid
        ))?;
        Ok(revoked.map(|revoked| Deleted {
            revoked_keys: texts(revoked),
        }))
    }

    /// The spoke of that name, created with the defaults and without a uid if there is none.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn ensure_adhoc(self, name: &SpokeName) -> Result<SpokeRecord, Error> {
        run!(self.0, Statement::SpokePut, |db| ensure(db, name))?.record()
    }

    /// Notes when spokes were last heard from; a time older than the stored one changes nothing. A spoke that somebody
    /// else is writing at the moment is skipped, so that hubs cannot deadlock each other; its next heartbeat will come.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn touch(self, heard: &[(SpokeName, Timestamp)]) -> Result<(), Error> {
        if heard.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = heard.iter().map(|(name, _)| name.to_string()).collect();
        let times: Vec<_> = heard.iter().map(|(_, at)| at.to_sqlx()).collect();
        run!(self.0, Statement::SpokeTouch, |db| sqlx::query!(
            "WITH heard AS (
                 SELECT name, max(at) AS at FROM UNNEST($1::text[], $2::timestamptz[]) AS h(name, at) GROUP BY name
             ), free AS (
                 SELECT s.name FROM spokes s JOIN heard ON heard.name = s.name FOR NO KEY UPDATE OF s SKIP LOCKED
             )
             UPDATE spokes s SET last_heartbeat_at = GREATEST(s.last_heartbeat_at, heard.at)
             FROM heard JOIN free ON free.name = heard.name WHERE s.name = heard.name",
            &names,
            &times as _
        )
        .execute(db))?;
        Ok(())
    }

    /// Notes that an instance connected. Further instances of a connected spoke change only the heartbeat.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn connected(self, name: &SpokeName, at: Timestamp) -> Result<(), Error> {
        run!(self.0, Statement::SpokeConnect, |db| sqlx::query!(
            "UPDATE spokes
             SET first_connected_at = COALESCE(first_connected_at, $2::timestamptz),
                 connected_at = CASE WHEN connected_at IS NULL OR disconnected_at >= connected_at
                                     THEN $2::timestamptz ELSE connected_at END,
                 last_heartbeat_at = GREATEST(last_heartbeat_at, $2::timestamptz)
             WHERE name = $1",
            name.as_str(),
            at.to_sqlx() as _
        )
        .execute(db))?;
        Ok(())
    }

    /// Notes that the last instance left.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn disconnected(self, name: &SpokeName, at: Timestamp) -> Result<(), Error> {
        run!(self.0, Statement::SpokeConnect, |db| sqlx::query!(
            "UPDATE spokes SET disconnected_at = GREATEST(disconnected_at, connected_at, $2::timestamptz)
             WHERE name = $1",
            name.as_str(),
            at.to_sqlx() as _
        )
        .execute(db))?;
        Ok(())
    }

    /// Removes every spoke that a resource declared and whose uid is not among these, and ends its keys; returns the
    /// keys' ids. Spokes that no resource declared stay: those without a uid, and those that were declared by hand.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn sweep_except(self, uids: &[String]) -> Result<Vec<String>, Error> {
        let revoked = run!(self.0, Statement::SpokeSweep, |db| remove::sweep(db, self.1, uids))?;
        Ok(texts(revoked))
    }
}

// === impl SpokeRecord ===

impl SpokeRecord {
    /// What was declared, without keys.
    pub fn declaration(&self) -> SpokePut {
        SpokePut {
            uid: self.uid.clone(),
            key: None,
            overlap_seconds: 0,
            key_expires_at: None,
            spoke_type: self.spoke_type,
            operations: self.operations.clone(),
            scopes: self.scopes.clone(),
            labels: self.labels.clone(),
            concurrency: self.concurrency,
            suspended: self.suspended,
        }
    }
}

// === impl SpokeRow ===

impl SpokeRow {
    pub(crate) fn record(self) -> Result<SpokeRecord, Error> {
        Ok(SpokeRecord {
            name: self.name.parse().map_err(|_| Error::Corrupt("spoke name"))?,
            uid: self.uid,
            spoke_type: spoke_type(&self.spoke_type),
            operations: self.operations,
            scopes: Scopes::new(self.scopes),
            labels: self.labels.0,
            concurrency: self.concurrency.and_then(|count| u32::try_from(count).ok()),
            suspended: self.suspended,
            created_at: self.created_at.to_jiff(),
            first_connected_at: time(self.first_connected_at),
            connected_at: time(self.connected_at),
            disconnected_at: time(self.disconnected_at),
            last_heartbeat_at: time(self.last_heartbeat_at),
        })
    }
}

fn texts(ids: Vec<Uuid>) -> Vec<String> {
    ids.into_iter().map(|id| id.to_string()).collect()
}

/// The spoke of that name.
pub(crate) async fn select(db: &mut PgConnection, name: &str) -> sqlx::Result<Option<SpokeRow>> {
    Ok(select_many(db, &[name.to_owned()]).await?.pop())
}

/// The spokes of those names.
pub(crate) async fn select_many(db: &mut PgConnection, names: &[String]) -> sqlx::Result<Vec<SpokeRow>> {
    sqlx::query_as!(
        SpokeRow,
        r#"SELECT name, uid, spoke_type, operations, scopes, labels AS "labels: _", concurrency, suspended,
                  created_at AS "created_at: _", first_connected_at AS "first_connected_at: _",
                  connected_at AS "connected_at: _", disconnected_at AS "disconnected_at: _",
                  last_heartbeat_at AS "last_heartbeat_at: _"
           FROM spokes WHERE name = ANY($1)"#,
        names
    )
    .fetch_all(db)
    .await
}

/// The spoke of that name, created if there is none.
pub(crate) async fn ensure(db: &mut PgConnection, name: &SpokeName) -> sqlx::Result<SpokeRow> {
    sqlx::query!(
        "INSERT INTO spokes (name, uid, spoke_type, operations, scopes, labels, suspended)
         VALUES ($1, '', $2, '{}', '{}', '{}', false) ON CONFLICT (name) DO NOTHING",
        name.as_str(),
        SpokeType::default().as_str()
    )
    .execute(&mut *db)
    .await?;
    select(db, name.as_str()).await?.ok_or(sqlx::Error::RowNotFound)
}
