//! What is known of a Spoke's surroundings, from caches alone.

use std::sync::Arc;

use alkhub_crds::{Hub, Spoke};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;
use tokio::time::Instant;

use crate::context::{Context, Look};

/// What was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    pub(super) hub: Option<Arc<Hub>>,
    /// The last look at the hub.
    pub(super) look: Option<Arc<Look>>,
    /// The Secret that holds the key, when it has our label.
    pub(super) secret: Option<Arc<PartialObjectMeta<Secret>>>,
    /// When this process last declared the Spoke.
    pub(super) told: Option<Instant>,
}

pub(super) fn observe(ctx: &Context, spoke: &Spoke) -> Observed {
    let hub = ctx.stores.hub_of(spoke);
    Observed {
        look: hub.as_ref().and_then(|hub| ctx.looks.of(&hub.uid()?)),
        secret: ctx
            .stores
            .secret(&spoke.namespace().unwrap_or_default(), &spoke.secret_name()),
        told: spoke.uid().and_then(|uid| ctx.told.at(&uid)),
        hub,
    }
}
