//! Who is at the other end of a socket, and what the socket counts against.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::addresses::Place;

/// The right to have a socket open; clones belong to the same socket.
pub type Permit = Arc<SocketPermit>;

/// What a socket counts against.
#[derive(Debug)]
pub struct SocketPermit {
    _permit: OwnedSemaphorePermit,
    _place: Option<Place>,
}

/// Who is at the other end of a request's socket; an extension of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address, or the one that a trusted proxy gives by the PROXY protocol.
    pub address: IpAddr,
    /// Must be kept for as long as the socket is open.
    pub permit: Permit,
}

// === impl SocketPermit ===

impl SocketPermit {
    /// A socket that takes one of the hub's connections, and one of its address's if these are bounded.
    pub(super) fn new(permit: OwnedSemaphorePermit, place: Option<Place>) -> Self {
        Self {
            _permit: permit,
            _place: place,
        }
    }
}
