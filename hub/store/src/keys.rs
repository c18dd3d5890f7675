//! Keys: what a caller presents to be let in, stored as a keyed hash.
//!
//! Invariants
//! - A key in the clear never gets here.
//! - A key of a spoke is found only while the spoke of that name has the uid that the key was made for.
//! - A key that was revoked by hand stays revoked, whoever puts it again.
//! - One lasting admin key always remains: the last one cannot be revoked.

mod admin;
mod create;
mod dead;
mod info;
mod prune;
mod revoke;

use std::collections::HashMap;

use alkhub_protocol::admin::KeyInfo;
use alkhub_protocol::{Scopes, SpokeName, scope};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use self::info::InfoRow;
use self::revoke::Revoked;
use crate::actor::Actor;
use crate::db::Db;
use crate::metrics::Statement;
use crate::row::time;
use crate::spokes::{self, SpokeRecord};
use crate::statement::run;
use crate::{Cursor, Error, HashKey, KeyHash};

pub use admin::AdminEntered;
pub(crate) use admin::enter as enter_admin;

/// The keys of a store.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a>(pub(crate) &'a Db, pub(crate) Actor);

/// A key to be stored.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Its purpose.
    pub name: String,
    /// Its hash.
    pub hash: KeyHash,
    /// Which secret made the hash.
    pub hash_key: HashKey,
    /// Its first characters.
    pub hint: String,
    /// What it may do.
    pub scopes: Scopes,
    /// The spoke that it identifies; created if no resource declares it. Adds scope `spoke`.
    pub spoke: Option<SpokeName>,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
}

/// A key with everything by which its holder is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRecord {
    /// Its id, in logs and call records.
    pub id: String,
    /// Its purpose.
    pub name: String,
    /// Its first characters.
    pub hint: String,
    /// What it may do. A key that was minted for a spoke may do what the spoke may do now.
    pub scopes: Scopes,
    /// The spoke that it identifies.
    pub spoke: Option<SpokeRecord>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// When it was last used; exact to a minute.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

struct KeyRow {
    id: Uuid,
    origin: String,
    name: String,
    hint: String,
    scopes: Vec<String>,
    spoke: Option<String>,
    spoke_uid: Option<String>,
    created_at: jiff_sqlx::Timestamp,
    expires_at: Option<jiff_sqlx::Timestamp>,
    last_used_at: Option<jiff_sqlx::Timestamp>,
    revoked_at: Option<jiff_sqlx::Timestamp>,
}

// === impl Keys ===

impl Keys<'_> {
    /// The same, on behalf of the key with this id: if that key has ended by then, its writes are refused
    /// ([`Error::ActorEnded`]).
    #[must_use]
    pub fn by(self, key_id: &str) -> Self {
        Self(self.0, Actor::key(key_id))
    }

    /// Stores a new key. If it names a spoke that no resource declares, that spoke is created too.
    ///
    /// # Errors
    /// [`Error::KeyInUse`] if the hash is known.
    pub async fn create(self, key: &NewKey) -> Result<KeyInfo, Error> {
        let created = run!(self.0, Statement::KeyCreate, |db| create::create(db, self.1, key))?;
        let Some(row) = created else {
            return Err(Error::KeyInUse);
        };
        row.info()
    }

    /// The key with this hash, even if it is revoked or expired; but not one whose spoke is gone or has been replaced.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like: then nothing is known about the key.
    pub async fn find(self, hash: &KeyHash) -> Result<Option<KeyRecord>, Error> {
        let found = run!(self.0, Statement::KeyFind, |db| find(db, hash))?;
        found.map(|(key, spoke)| key.record(spoke)).transpose()
    }

    /// [`Keys::find`] for many at once: those that were found, in any order.
    ///
    /// # Errors
    /// As [`Keys::find`].
    pub async fn find_many(self, hashes: &[KeyHash]) -> Result<Vec<(KeyHash, KeyRecord)>, Error> {
        let hashes: Vec<Vec<u8>> = hashes.iter().map(|hash| hash.0.to_vec()).collect();
        let found = run!(self.0, Statement::KeyFindMany, |db| find_many(db, &hashes))?;
        found
            .into_iter()
            .map(|(hash, key, spoke)| {
                let hash = hash.try_into().map_err(|_| Error::Corrupt("hash of a key"))?;
                Ok((KeyHash(hash), key.record(spoke)?))
            })
            .collect()
    }

    /// The keys after a place, newest first, at most `most` of them. Keys count as dead if a secret other than
    /// `hash_key` hashed them.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn list(self, hash_key: &HashKey, after: Option<Cursor>, most: u32) -> Result<Vec<KeyInfo>, Error> {
        let (after, after_id) = Cursor::columns(after);
        let rows = run!(self.0, Statement::KeyList, |db| sqlx::query_as!(
            InfoRow,
            r#"SELECT k.id, k.name, k.hint,
                      CASE WHEN k.origin = 'spoke' AND s.name IS NOT NULL THEN s.scopes || 'spoke'::text
                           ELSE k.scopes END AS "scopes!",
                      k.spoke, k.created_at AS "created_at: _", k.expires_at AS "expires_at: _",
                      k.last_used_at AS "last_used_at: _", k.revoked_at AS "revoked_at: _",
                      COALESCE(k.hash_key_fingerprint <> $1, false) AS "dead!"
               FROM keys k LEFT JOIN spokes s ON s.name = k.spoke AND s.uid = k.spoke_uid
               WHERE $2::timestamptz IS NULL OR (k.created_at, k.id) < ($2, $3::uuid)
               ORDER BY k.created_at DESC, k.id DESC
               LIMIT $4"#,
            hash_key.fingerprint,
            after as _,
            after_id,
            i64::from(most)
        )
        .fetch_all(db))?;
        rows.into_iter().map(InfoRow::info).collect()
    }

    /// Ends a key for good; doing it again changes nothing. `None` if there is no such key.
    ///
    /// # Errors
    /// [`Error::LastAdmin`] if no other admin key lasts as long, [`Error::Unavailable`] and the like.
    pub async fn revoke(self, id: &str) -> Result<Option<KeyInfo>, Error> {
        let Ok(id) = id.parse::<Uuid>() else {
            return Ok(None);
        };
        match run!(self.0, Statement::KeyRevoke, |db| revoke::revoke(db, self.1, id))? {
            Revoked::Done(row) => row.info().map(Some),
            Revoked::Unknown => Ok(None),
            Revoked::LastAdmin => Err(Error::LastAdmin),
        }
    }

    /// Notes when keys were last used; a time older than the stored one changes nothing. A key that somebody else is
    /// writing at the moment is skipped, so that hubs cannot deadlock each other. The keys were found with `hash_key`,
    /// which is noted where it was not yet.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn touch(self, used: &[(String, Timestamp)], hash_key: &HashKey) -> Result<(), Error> {
        let (mut ids, mut times) = (Vec::new(), Vec::new());
        for (id, at) in used {
            if let Ok(id) = id.parse::<Uuid>() {
                ids.push(id);
                times.push(at.to_sqlx());
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        run!(self.0, Statement::KeyTouch, |db| sqlx::query!(
            "WITH used AS (
                 SELECT id, max(at) AS at FROM UNNEST($1::uuid[], $2::timestamptz[]) AS u(id, at) GROUP BY id
             ), free AS (
                 SELECT k.id FROM keys k JOIN used ON used.id = k.id FOR NO KEY UPDATE OF k SKIP LOCKED
             )
             UPDATE keys k SET last_used_at = GREATEST(k.last_used_at, used.at),
                    hash_key_fingerprint = COALESCE(k.hash_key_fingerprint, $3)
             FROM used JOIN free ON free.id = used.id WHERE k.id = used.id",
            &ids,
            &times as _,
            hash_key.fingerprint
        )
        .execute(db))?;
        Ok(())
    }
}

// === impl KeyRow ===

impl KeyRow {
    fn record(self, spoke: Option<spokes::SpokeRow>) -> Result<KeyRecord, Error> {
        let spoke = spoke.map(spokes::SpokeRow::record).transpose()?;
        let scopes = match &spoke {
            Some(spoke) if self.origin == "spoke" => Scopes::new(spoke.scopes.iter().chain([scope::SPOKE])),
            _ => Scopes::new(self.scopes),
        };
        Ok(KeyRecord {
            id: self.id.to_string(),
            name: self.name,
            hint: self.hint,
            scopes,
            spoke,
            created_at: self.created_at.to_jiff(),
            expires_at: time(self.expires_at),
            last_used_at: time(self.last_used_at),
            revoked_at: time(self.revoked_at),
        })
    }
}

type Found = (Vec<u8>, KeyRow, Option<spokes::SpokeRow>);

/// Those of the keys that exist, each with the spoke that it belongs to; the key of a spoke that is gone is not found.
async fn find_many(db: &mut PgConnection, hashes: &[Vec<u8>]) -> sqlx::Result<Vec<Found>> {
    let rows = sqlx::query!(
        r#"SELECT hash, id, origin, name, hint, scopes, spoke, spoke_uid,
                  created_at AS "created_at: jiff_sqlx::Timestamp", expires_at AS "expires_at: jiff_sqlx::Timestamp",
                  last_used_at AS "last_used_at: jiff_sqlx::Timestamp", revoked_at AS "revoked_at: jiff_sqlx::Timestamp"
           FROM keys WHERE hash = ANY($1)"#,
        hashes
    )
    .fetch_all(&mut *db)
    .await?;
    let names: Vec<String> = rows.iter().filter_map(|row| row.spoke.clone()).collect();
    let spokes = if names.is_empty() {
        Vec::new()
    } else {
        spokes::select_many(db, &names).await?
    };
    let spokes: HashMap<String, spokes::SpokeRow> =
        spokes.into_iter().map(|spoke| (spoke.name.clone(), spoke)).collect();
    let found = rows.into_iter().filter_map(|row| {
        let key = KeyRow {
            id: row.id,
            origin: row.origin,
            name: row.name,
            hint: row.hint,
            scopes: row.scopes,
            spoke: row.spoke,
            spoke_uid: row.spoke_uid,
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
        };
        let (Some(name), Some(uid)) = (&key.spoke, &key.spoke_uid) else {
            return Some((row.hash, key, None));
        };
        // The fence: with another uid, the spoke of that name is a different spoke.
        let spoke = spokes.get(name).filter(|spoke| spoke.uid == *uid).cloned()?;
        Some((row.hash, key, Some(spoke)))
    });
    Ok(found.collect())
}

async fn find(db: &mut PgConnection, hash: &KeyHash) -> sqlx::Result<Option<(KeyRow, Option<spokes::SpokeRow>)>> {
    let found = find_many(db, &[hash.0.to_vec()]).await?.pop();
    Ok(found.map(|(_, key, spoke)| (key, spoke)))
}
