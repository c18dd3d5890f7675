//! A private Postgres, run from Debian's binaries in one folder: for `alkhub dev` and for tests.
//!
//! [`Server::start`] runs a durable server in a folder of the caller's, [`Server::temporary`] one that leaves nothing
//! behind; [`testing`] is one such server for all tests of a program, with a database for each.
//!
//! Promises
//! - One process at a time uses a folder: [`FolderLock`] is held for as long as the [`Server`] lives.
//! - A server that a killed process left behind is ended before the next one starts; one that is not ours is left alone
//!   and named.
//! - Dropping a [`Server`] ends it. A temporary one ends, and its folder goes, even when its process is killed.
//! - It listens on a socket in a folder that only its user can enter, and on TCP only when asked to. Started by root it
//!   runs as `postgres`, else as `nobody`, since Postgres refuses root. It has a process group of its own, so that Ctrl-C
//!   reaches the hub first.
//!
//! Never
//! - It installs nothing, and uses nothing that is in the environment.
//! - It does not know what alkhub keeps in the database: `hub/store` does.
//!
//! Uses no other crate of alkhub. No crate that runs in production may use it: `hub/cli` alone does, for `alkhub dev`.

mod account;
mod binaries;
mod error;
mod lock;
mod options;
mod orphan;
mod postmaster;
mod process;
mod server;
mod settings;
pub mod testing;

pub use error::Error;
pub use lock::FolderLock;
pub use options::Options;
pub use server::Server;
