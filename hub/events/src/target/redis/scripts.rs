//! What Redis does in one step: the scripts, as commands.
//!
//! They are sent as `EVAL` with their text: a server that was restarted or flushed knows none by its hash, and a
//! kilobyte costs less than a second way through the code.

use redis::{Cmd, cmd};

use crate::channel::Names;

const REGISTER: &str = include_str!("scripts/register.lua");
const UNREGISTER: &str = include_str!("scripts/unregister.lua");
const LOAD: &str = include_str!("scripts/load.lua");
const LEASE: &str = include_str!("scripts/lease.lua");
const CLAIM: &str = include_str!("scripts/claim.lua");

/// One entry of the directory as the scripts see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) field: &'a str,
    pub(crate) hub: &'a str,
    pub(crate) generation: u64,
    /// The entry as JSON.
    pub(crate) entry: &'a str,
}

/// What a hub renews.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renewal<'a> {
    pub(crate) hub: &'a str,
    /// The lease as JSON.
    pub(crate) lease: &'a str,
    /// 0 gives the lease back.
    pub(crate) ttl_ms: u64,
    /// Uid of the Hub that claims the prefix, or empty.
    pub(crate) owner: &'a str,
    /// Whether hubs without a lease are buried.
    pub(crate) bury: bool,
}

/// A new entry: the answer is its generation.
pub(crate) fn register(names: &Names, record: Record<'_>) -> Cmd {
    put(names, record, "new")
}

/// An entry of this hub that Redis may have lost: the answer tells whether it stands.
pub(crate) fn assert(names: &Names, record: Record<'_>) -> Cmd {
    put(names, record, "assert")
}

fn put(names: &Names, record: Record<'_>, how: &str) -> Cmd {
    let mut command = eval(REGISTER, &[names.directory(), names.directory_version(), names.hubs()]);
    change(&mut command, names);
    command
        .arg(record.field)
        .arg(record.hub)
        .arg(record.generation)
        .arg(record.entry)
        .arg(how);
    command
}

/// An entry of this hub that is no more.
pub(crate) fn unregister(names: &Names, field: &str, hub: &str, generation: u64) -> Cmd {
    let mut command = eval(UNREGISTER, &[names.directory(), names.directory_version()]);
    change(&mut command, names);
    command.arg(field).arg(hub).arg(generation);
    command
}

/// The whole directory.
pub(crate) fn load(names: &Names) -> Cmd {
    let mut command = eval(LOAD, &[names.directory(), names.directory_version()]);
    command.arg(epoch());
    command
}

/// The lease of this hub: the answer lists the living.
pub(crate) fn lease(names: &Names, renewal: Renewal<'_>) -> Cmd {
    let keys = [
        names.directory(),
        names.directory_version(),
        names.hubs(),
        names.owner(),
    ];
    let mut command = eval(LEASE, &keys);
    change(&mut command, names);
    command
        .arg(renewal.hub)
        .arg(renewal.lease)
        .arg(renewal.ttl_ms)
        .arg(renewal.owner)
        .arg(u8::from(renewal.bury))
        .arg(names.lease_stem());
    command
}

/// The prefix for a Hub: the answer is the uid that holds it.
pub(crate) fn claim(names: &Names, uid: &str, ttl_ms: u64) -> Cmd {
    let mut command = eval(CLAIM, &[names.owner()]);
    command.arg(uid).arg(ttl_ms);
    command
}

fn eval(script: &str, keys: &[String]) -> Cmd {
    let mut command = cmd("EVAL");
    command.arg(script).arg(keys.len()).arg(keys);
    command
}

/// What every script begins with that changes the directory.
fn change(command: &mut Cmd, names: &Names) {
    command
        .arg(names.directory_changes())
        .arg(names.instances_stem())
        .arg(epoch());
}

/// A new life of the directory gets a name that none had before.
fn epoch() -> String {
    format!("{:016x}", fastrand::u64(..))
}
