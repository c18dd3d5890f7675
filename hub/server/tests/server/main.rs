//! The server as its clients see it: real sockets, a real Postgres, raw frames, no SDK.

mod admin;
mod balance;
mod bare;
mod cluster;
mod conformance;
mod drains;
mod ends;
mod events;
mod harness;
mod http;
mod kept;
mod life;
mod limits;
mod memory;
mod midway;
mod queries;
mod races;
mod raw;
mod socket;
mod streams;
mod tls;
mod unsure;
mod wire;
