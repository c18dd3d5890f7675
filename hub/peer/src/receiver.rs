//! Who receives what links bring.

use std::fmt;

use alkhub_protocol::HubId;
use bytes::Bytes;

/// Receives what links bring. The links' tasks call it: it must not block.
pub trait PeerReceiver: fmt::Debug + Send + Sync {
    /// A message from another hub has arrived.
    fn received(&self, message: Bytes);

    /// Whether no more should come for now: links are then not read, and the other hubs' messages wait in them.
    fn is_full(&self) -> bool;

    /// A link came up, took the place of another one, or ended: what was on its way may be lost.
    fn link_changed(&self, hub: &HubId);
}
