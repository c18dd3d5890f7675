//! Who gets what links bring.

use std::fmt;

use alkhub_protocol::HubId;
use bytes::Bytes;

/// Gets what links bring. Called by their tasks: it must not block.
pub trait PeerReceiver: fmt::Debug + Send + Sync {
    /// A message of another hub.
    fn received(&self, message: Bytes);

    /// Whether no more should come for now: links are not read then, and the other hubs' messages wait with them.
    fn is_full(&self) -> bool;

    /// A link came up, took the place of another one, or ended: what was on its way may be lost.
    fn link_changed(&self, hub: &HubId);
}
