//! Operations by the hash of their specification: a reconnecting spoke, or another pod, names 32 bytes instead of
//! sending the whole again.

mod owned;

use std::time::Duration;

use alkhub_protocol::json::strict;
use alkhub_protocol::{OperationName, OperationSpec, SpecHash};

use crate::db::Db;
use crate::metrics::{Pruned, Statement};
use crate::statement::run;
use crate::{Error, PRUNED};

/// How many specifications are written in one statement.
const CHUNK: usize = 100;

/// How many specifications are noted as offered in one statement.
const TOUCHED: usize = 1_000;

/// The operations of a store.
#[derive(Clone, Copy, Debug)]
pub struct Operations<'a>(pub(crate) &'a Db);

// === impl Operations ===

impl Operations<'_> {
    /// Stores specifications; for those that are known, notes that they are offered, once an hour at most.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn put(self, specs: &[(SpecHash, OperationSpec)]) -> Result<(), Error> {
        for chunk in specs.chunks(CHUNK) {
            let hashes: Vec<Vec<u8>> = chunk.iter().map(|(hash, _)| hash.0.to_vec()).collect();
            let names: Vec<String> = chunk
                .iter()
                .map(|(_, spec)| format!("{}.{}", spec.namespace, spec.name))
                .collect();
            let texts: Vec<String> = chunk.iter().map(|(_, spec)| spec.canonical()).collect();
            run!(self.0, Statement::OperationPut, |db| sqlx::query!(
                "INSERT INTO operations (hash, name, spec)
                 SELECT * FROM UNNEST($1::bytea[], $2::text[], $3::text[]) AS o(hash, name, spec) ORDER BY hash
                 ON CONFLICT (hash) DO UPDATE SET last_offered_at = now()
                 WHERE operations.last_offered_at < now() - interval '1 hour'",
                &hashes,
                &names,
                &texts
            )
            .execute(db))?;
        }
        Ok(())
    }

    /// The specifications with these hashes that are known, in any order. Their total text is read up to `bytes` and
    /// one specification more; `None` stands for one that is known but was not read.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn get(self, hashes: &[SpecHash], bytes: usize) -> Result<Vec<(SpecHash, Option<OperationSpec>)>, Error> {
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        let hashes: Vec<Vec<u8>> = hashes.iter().map(|hash| hash.0.to_vec()).collect();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let rows = run!(self.0, Statement::OperationGet, |db| sqlx::query!(
            r#"SELECT hash AS "hash!", CASE WHEN upto - octet_length(spec) < $2 THEN spec END AS spec
             FROM (SELECT hash, spec, sum(octet_length(spec)) OVER (ORDER BY hash) AS upto
                   FROM operations WHERE hash = ANY($1)) AS o"#,
            &hashes,
            bytes
        )
        .fetch_all(db))?;
        rows.into_iter()
            .map(|row| {
                let hash = row.hash.try_into().map_err(|_| Error::Corrupt("operation's hash"))?;
                let spec = row.spec.as_deref().map(strict::from_str).transpose();
                Ok((SpecHash(hash), spec.map_err(|_| Error::Corrupt("operation"))?))
            })
            .collect()
    }
}

// === impl Operations, what is kept and for how long ===

impl Operations<'_> {
    /// Notes that specifications are offered now, once an hour at most. A row that another hub is writing is skipped,
    /// so that hubs cannot deadlock each other: that hub notes the same.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn touch(self, hashes: &[SpecHash]) -> Result<(), Error> {
        for chunk in hashes.chunks(TOUCHED) {
            let hashes: Vec<Vec<u8>> = chunk.iter().map(|hash| hash.0.to_vec()).collect();
            run!(self.0, Statement::OperationTouch, |db| sqlx::query!(
                "UPDATE operations SET last_offered_at = now() WHERE hash IN (
                     SELECT hash FROM operations
                     WHERE hash = ANY($1) AND last_offered_at < now() - interval '1 hour'
                     FOR NO KEY UPDATE SKIP LOCKED
                 )",
                &hashes
            )
            .execute(db))?;
        }
        Ok(())
    }

    /// Deletes one batch of specifications that nobody has offered for `retention`, by the clock of Postgres; returns
    /// how many. Fewer than [`PRUNED`](crate::PRUNED) means that none are left.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn prune(self, retention: Duration) -> Result<u64, Error> {
        let done = run!(self.0, Statement::OperationPrune, |db| sqlx::query!(
            "DELETE FROM operations WHERE hash IN (
                 SELECT hash FROM operations WHERE last_offered_at < now() - make_interval(secs => $1)
                 LIMIT $2 FOR UPDATE SKIP LOCKED
             )",
            retention.as_secs_f64(),
            PRUNED
        )
        .execute(db))?;
        self.0.metrics.pruned(Pruned::Operations, done.rows_affected());
        Ok(done.rows_affected())
    }

    /// Those of these hashes whose specifications are not stored, in any order.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn lacks(self, hashes: &[SpecHash]) -> Result<Vec<SpecHash>, Error> {
        let mut lacking = Vec::new();
        for chunk in hashes.chunks(TOUCHED) {
            let hashes: Vec<Vec<u8>> = chunk.iter().map(|hash| hash.0.to_vec()).collect();
            let rows = run!(self.0, Statement::OperationLacks, |db| sqlx::query_scalar!(
                r#"SELECT hash AS "hash!" FROM UNNEST($1::bytea[]) AS o(hash)
                 WHERE NOT EXISTS (SELECT FROM operations WHERE operations.hash = o.hash)"#,
                &hashes
            )
            .fetch_all(db))?;
            for row in rows {
                let hash = row.try_into().map_err(|_| Error::Corrupt("operation's hash"))?;
                lacking.push(SpecHash(hash));
            }
        }
        Ok(lacking)
    }

    /// Those of these names whose specifications are stored, each once, in any order.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn known(self, names: &[OperationName]) -> Result<Vec<OperationName>, Error> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let rows = run!(self.0, Statement::OperationKnown, |db| sqlx::query_scalar!(
            "SELECT DISTINCT name FROM operations WHERE name = ANY($1)",
            &names
        )
        .fetch_all(db))?;
        let known = rows.iter().map(|name| name.parse());
        known
            .collect::<Result<_, _>>()
            .map_err(|_| Error::Corrupt("operation's name"))
    }
}
