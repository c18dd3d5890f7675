//! Operations by the hash of their specification: a reconnecting spoke and another pod name 32 bytes instead of sending
//! the whole again.

mod owned;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use alkhub_protocol::json::strict;
use alkhub_protocol::json::tree::Tree;
use alkhub_protocol::{OperationName, OperationSpec};
use sha2::{Digest as _, Sha256};

use crate::db::Db;
use crate::metrics::{Pruned, Statement};
use crate::statement::run;
use crate::{Error, PRUNED};

/// Specifications written in one statement.
const CHUNK: usize = 100;

/// Specifications noted as offered in one statement.
const TOUCHED: usize = 1_000;

/// The operations of a store.
#[derive(Clone, Copy, Debug)]
pub struct Operations<'a>(pub(crate) &'a Db);

/// SHA-256 of a specification's canonical JSON: keys sorted, no white space. Shown and read as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpecHash(pub [u8; 32]);

// === impl Operations ===

impl Operations<'_> {
    /// Keeps specifications; of those that are known it notes that they are offered, once an hour at most.
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
            let texts: Vec<String> = chunk.iter().map(|(_, spec)| canonical(spec)).collect();
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

    /// The specifications of these hashes, as far as they are known, in no order.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn get(self, hashes: &[SpecHash]) -> Result<Vec<(SpecHash, OperationSpec)>, Error> {
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        let hashes: Vec<Vec<u8>> = hashes.iter().map(|hash| hash.0.to_vec()).collect();
        let rows = run!(self.0, Statement::OperationGet, |db| sqlx::query!(
            "SELECT hash, spec FROM operations WHERE hash = ANY($1)",
            &hashes
        )
        .fetch_all(db))?;
        rows.into_iter()
            .map(|row| {
                let hash = row.hash.try_into().map_err(|_| Error::Corrupt("operation's hash"))?;
                let spec = strict::from_str(&row.spec).map_err(|_| Error::Corrupt("operation"))?;
                Ok((SpecHash(hash), spec))
            })
            .collect()
    }
}

// === impl Operations, what is kept and for how long ===

impl Operations<'_> {
    /// Notes that specifications are offered now, once an hour at most. A row that another hub is writing is left out, so
    /// that hubs cannot lock each other up: that hub notes the same.
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

    /// Deletes one batch of specifications that nobody has offered for `retention`, by the clock of Postgres; answers
    /// how many, fewer than [`PRUNED`](crate::PRUNED) when none are left.
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

    /// Those of these hashes whose specifications are not kept, in no order.
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

    /// Those of these names whose specifications are kept, each once, in no order.
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

// === impl SpecHash ===

impl SpecHash {
    /// The hash of a specification.
    pub fn of(spec: &OperationSpec) -> Self {
        Self(Sha256::digest(canonical(spec)).into())
    }
}

impl fmt::Display for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SpecHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).map_err(|_| Error::Corrupt("operation's hash"))?;
        Ok(Self(hash))
    }
}

/// The JSON with the members of every object sorted and no white space; numbers as they came, since a specification may
/// have some that no type of ours holds.
fn canonical(spec: &OperationSpec) -> String {
    let text = serde_json::to_string(spec).expect("a specification is JSON that was read");
    match Tree::parse(text.as_bytes()) {
        Ok(tree) => {
            let mut sorted = String::with_capacity(text.len());
            tree.write_canonical(&mut sorted);
            sorted
        }
        // Two members of one name, or half of a surrogate pair: there is one way only to keep them.
        Err(_) => text,
    }
}

#[cfg(test)]
mod tests {
    use alkhub_protocol::RawJson;

    use super::*;

    fn spec(input_schema: &str) -> OperationSpec {
        let text = format!(
            r#"{{"namespace":"text","name":"upper","type":"query","inputSchema":{input_schema},"outputSchema":true}}"#
        );
        serde_json::from_str(&text).expect("a specification")
    }

    #[test]
    fn the_hash_knows_neither_order_nor_white_space() {
        let one = spec(r#"{"type":"object","required":["b","a"],"properties":{"b":{},"a":{"x":1,"w":2}}}"#);
        let two = spec(r#"{ "properties": {"a":{"w":2,"x":1}, "b":{}}, "required":["b","a"], "type":"object"}"#);

        assert_eq!(SpecHash::of(&one), SpecHash::of(&two));
        assert_ne!(SpecHash::of(&one), SpecHash::of(&spec("true")));
        assert_ne!(SpecHash::of(&spec(r#"["a","b"]"#)), SpecHash::of(&spec(r#"["b","a"]"#)));
    }

    #[test]
    fn what_is_read_back_has_the_same_hash() {
        let spec = spec(r#"{"enum":[1.50, "a\u0000b", null]}"#);
        let again: OperationSpec = serde_json::from_str(&canonical(&spec)).expect("reads");

        assert_eq!(SpecHash::of(&again), SpecHash::of(&spec));
    }

    #[test]
    fn what_no_number_or_text_of_ours_can_hold_has_a_hash_and_is_kept_as_it_came() {
        for odd in [
            "1e400",
            "123456789012345678901234567890",
            r#""cut \ud83d""#,
            r#"{"a":1,"a":2}"#,
        ] {
            let mut spec = spec("true");
            spec.meta = Some(RawJson::parse(odd.to_owned()).expect("JSON"));

            let again: OperationSpec = serde_json::from_str(&canonical(&spec)).expect("reads");

            assert_eq!(again.meta, spec.meta, "{odd}");
            assert_eq!(SpecHash::of(&again), SpecHash::of(&spec), "{odd}");
        }
    }

    #[test]
    fn a_hash_is_read_as_it_is_shown() {
        let hash = SpecHash::of(&spec("true"));

        assert_eq!(hash.to_string().parse::<SpecHash>().ok(), Some(hash));
        for text in ["", "ab", &"g".repeat(64), &"é".repeat(32)] {
            assert!(text.parse::<SpecHash>().is_err(), "{text}");
        }
    }
}
