//! What is known of a Spoke's surroundings, from caches alone.

use std::sync::Arc;

use alkhub_crds::{Hub, Spoke};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;
use tokio::time::Instant;

use crate::context::{Context, Poll};

/// What was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    pub(super) hub: Option<Arc<Hub>>,
    /// The last poll of the hub.
    pub(super) poll: Option<Arc<Poll>>,
    /// The Secret that holds the key, when it has our label.
    pub(super) secret: Option<Arc<PartialObjectMeta<Secret>>>,
    /// When this process last declared the Spoke.
    pub(super) declared_at: Option<Instant>,
}

pub(super) fn observe(ctx: &Context, spoke: &Spoke) -> Observed {
    let hub = ctx.stores.hub_of(spoke);
    Observed {
        poll: hub.as_ref().and_then(|hub| ctx.polls.of(&hub.uid()?)),
        secret: ctx
            .stores
            .secret(&spoke.namespace().unwrap_or_default(), &spoke.secret_name()),
        declared_at: spoke.uid().and_then(|uid| ctx.declaration_times.at(&uid)),
        hub,
    }
}
