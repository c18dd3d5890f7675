//! Scripts, which Redis executes in one step, as methods of an [`Incarnation`].
//!
//! They are sent as `EVAL` with their text: a server that was restarted or flushed does not know them by their hashes,
//! and sending a kilobyte costs less than a second code path.
//!
//! Invariants
//! - Everything that is written is written in the name of this hub.

use std::time::Duration;

use alkhub_protocol::HubId;
use redis::{Cmd, Pipeline, Value, cmd};

use crate::channel::Names;
use crate::error::Error;
use crate::incarnation::Incarnation;

const REGISTER: &str = include_str!("scripts/register.lua");
const UNREGISTER: &str = include_str!("scripts/unregister.lua");
const LOAD: &str = include_str!("scripts/load.lua");
const LEASE: &str = include_str!("scripts/lease.lua");
const RESERVE: &str = include_str!("scripts/reserve.lua");

/// One entry of the directory as Redis stores it.
#[derive(Clone, Debug)]
pub struct DirectoryRecord {
    /// Its field in the hash; contains no space.
    pub field: String,
    /// Its fence: an entry of a lower generation does not replace it.
    pub generation: u64,
    /// The entry as JSON.
    pub entry: String,
}

/// One change of the directory.
#[derive(Clone, Debug)]
pub enum DirectoryWrite {
    /// A new entry. It gets the given generation, or one more than the highest that was ever given out.
    Register(DirectoryRecord),
    /// A new entry in place of one that another hub has given up; any other entry stays.
    TakeOver {
        /// The entry. It gets the given generation, or one more than the highest that was ever given out.
        record: DirectoryRecord,
        /// The hub that has given it up.
        from: HubId,
        /// Its generation there.
        generation: u64,
    },
    /// An entry of this hub that Redis may have lost; one of another hub with a higher fence stays.
    Assert(DirectoryRecord),
    /// An entry of this hub that is gone; one of another hub or of a later generation stays.
    Unregister {
        /// Its field.
        field: String,
        /// Its generation.
        generation: u64,
    },
}

/// What Redis did with a change of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// An entry is stored.
    Stored {
        /// Its generation.
        generation: u64,
        /// Whether it is the one that was written.
        is_own: bool,
    },
    /// The entry is gone, or belonged to another hub.
    Removed,
}

/// The whole directory, and its place in the change feed.
#[derive(Clone, Debug)]
pub struct StoredDirectory {
    /// The life of the directory.
    pub epoch: String,
    /// The number of the last change.
    pub number: u64,
    /// Fields and values.
    pub entries: Vec<(String, String)>,
}

/// A place in the changes of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryPlace {
    /// The life of the directory.
    pub epoch: String,
    /// The number of the last change.
    pub number: u64,
}

/// What a hub renews.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRenewal<'a> {
    /// The lease as JSON.
    pub lease: &'a str,
    /// How long it lives.
    pub ttl: Duration,
    /// Uid of the Hub that reserves the prefix, or empty.
    pub owner: &'a str,
    /// Whether hubs without a lease are removed, with all their entries.
    pub expire_others: bool,
}

/// The answer to a renewal.
#[derive(Clone, Debug)]
pub struct Renewed {
    /// Redis did not know this hub: it is new, or was removed with all its entries.
    pub joined: bool,
    /// Ids and leases of the living hubs, including this one.
    pub living: Vec<(String, String)>,
}

// === impl Incarnation ===

impl Incarnation {
    /// Changes the directory, in one write. Returns one result for each change, in order.
    ///
    /// # Errors
    /// Redis is away or did not answer in time: some of the changes may have been made.
    pub async fn write_directory(&self, writes: &[DirectoryWrite]) -> Result<Vec<Result<Written, Error>>, Error> {
        let mut pipeline = Pipeline::with_capacity(writes.len());
        for write in writes {
            pipeline.add_command(command(&self.names, write));
        }
        let answers = self.query_all(&pipeline).await?;
        Ok(answers.into_iter().map(|answer| self.written(answer)).collect())
    }

    /// The whole directory.
    ///
    /// # Errors
    /// Redis is away, refuses or did not answer in time.
    pub async fn load_directory(&self) -> Result<StoredDirectory, Error> {
        let names = &self.names;
        let mut load = eval(LOAD, &[names.directory(), names.directory_version()]);
        load.arg(epoch());
        let (epoch, number, entries) = self.query(&load).await?;
        Ok(StoredDirectory { epoch, number, entries })
    }

    /// The place of the last change of the directory; `None` if nothing has been written yet.
    ///
    /// # Errors
    /// Redis is away, refuses or did not answer in time.
    pub async fn directory_place(&self) -> Result<Option<DirectoryPlace>, Error> {
        let mut get = cmd("HMGET");
        get.arg(self.names.directory_version()).arg("epoch").arg("change");
        let (epoch, number): (Option<String>, Option<u64>) = self.query(&get).await?;
        Ok(epoch.map(|epoch| DirectoryPlace {
            epoch,
            number: number.unwrap_or_default(),
        }))
    }

    /// Renews the lease of this hub.
    ///
    /// # Errors
    /// Redis is away, refuses or did not answer in time.
    pub async fn renew_lease(&self, renewal: LeaseRenewal<'_>) -> Result<Renewed, Error> {
        let LeaseRenewal {
            lease,
            ttl,
            owner,
            expire_others,
        } = renewal;
        let renew = self.lease(lease, millis(ttl), owner, expire_others);
        let (joined, living) = self.query(&renew).await?;
        Ok(Renewed { joined, living })
    }

    /// Gives back the lease of this hub: the other hubs learn at once that it is gone.
    ///
    /// # Errors
    /// Redis is away, refuses or did not answer in time.
    pub async fn give_lease_back(&self) -> Result<(), Error> {
        self.query::<Value>(&self.lease("", 0, "", true)).await.map(drop)
    }

    /// Reserves the prefix for the Hub with this uid; returns the uid that holds it.
    ///
    /// # Errors
    /// Redis is away, refuses or did not answer in time.
    pub async fn reserve_prefix(&self, uid: &str, ttl: Duration) -> Result<String, Error> {
        let mut reserve = eval(RESERVE, &[self.names.owner()]);
        reserve.arg(uid).arg(millis(ttl));
        self.query(&reserve).await
    }

    fn written(&self, answer: Value) -> Result<Written, Error> {
        if matches!(answer, Value::Int(_)) {
            return Ok(Written::Removed);
        }
        let (generation, is_own) = self.read(answer)?;
        Ok(Written::Stored { generation, is_own })
    }

    fn lease(&self, lease: &str, ttl_ms: u64, owner: &str, expire_others: bool) -> Cmd {
        let names = &self.names;
        let keys = [
            names.directory(),
            names.directory_version(),
            names.hubs(),
            names.owner(),
        ];
        let mut command = eval(LEASE, &keys);
        change(&mut command, names);
        command
            .arg(names.hub().as_str())
            .arg(lease)
            .arg(ttl_ms)
            .arg(owner)
            .arg(u8::from(expire_others))
            .arg(names.lease_stem());
        command
    }
}

fn command(names: &Names, write: &DirectoryWrite) -> Cmd {
    match write {
        DirectoryWrite::Register(record) => put(names, record, "new"),
        DirectoryWrite::Assert(record) => put(names, record, "assert"),
        DirectoryWrite::TakeOver {
            record,
            from,
            generation,
        } => {
            let mut command = put(names, record, "take");
            command.arg(from.as_str()).arg(*generation);
            command
        }
        DirectoryWrite::Unregister { field, generation } => {
            let mut command = eval(UNREGISTER, &[names.directory(), names.directory_version()]);
            change(&mut command, names);
            command.arg(field).arg(names.hub().as_str()).arg(*generation);
            command
        }
    }
}

fn put(names: &Names, record: &DirectoryRecord, how: &str) -> Cmd {
    let mut command = eval(REGISTER, &[names.directory(), names.directory_version(), names.hubs()]);
    change(&mut command, names);
    command
        .arg(&record.field)
        .arg(names.hub().as_str())
        .arg(record.generation)
        .arg(&record.entry)
        .arg(how);
    command
}

fn eval(script: &str, keys: &[String]) -> Cmd {
    let mut command = cmd("EVAL");
    command.arg(script).arg(keys.len()).arg(keys);
    command
}

/// The beginning of every script that changes the directory.
fn change(command: &mut Cmd, names: &Names) {
    command
        .arg(names.directory_changes())
        .arg(names.instances_stem())
        .arg(epoch());
}

/// A name for a new life of the directory that none had before.
fn epoch() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// A time as Redis takes it: one millisecond at least.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
