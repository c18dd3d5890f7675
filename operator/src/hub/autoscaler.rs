//! Scales a Hub: checks whether another autoscaler does, decides, and writes `spec.replicas` through the scale
//! subresource.
//!
//! Invariants
//! - Nothing is written while another autoscaler acts on the Hub, or while it is unknown whether one does.
//! - A number is written only over the version of the Hub that it was decided for, and the status reports it only if it
//!   was written.

mod decision;
mod foreign;

use std::time::Duration;

use alkhub_crds::Hub;
use alkhub_crds::condition::{AUTOSCALING_CONFLICT, ConditionStatus, Verdict};
use alkhub_crds::hub::{AutoscalingSpec, AutoscalingStatus};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::json;

use self::decision::Situation;
pub(crate) use self::foreign::Foreigners;
use crate::context::Context;
use crate::error::Error;
use crate::hub::figures::Figures;
use crate::hub::roll_out;

/// How late the status may say when the load was last looked at, beyond the age at which a report becomes stale.
const SEEN: Duration = Duration::from_secs(30);

/// What is to become of a Hub's number of pods.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scaling {
    /// `None`: the Hub does not ask for it.
    pub(crate) status: Option<AutoscalingStatus>,
    pub(crate) conflict: Verdict,
    to: Option<i32>,
}

/// Looks at the load and decides how many pods a Hub should have.
pub(crate) async fn look(ctx: &Context, hub: &Hub, figures: &Figures) -> Scaling {
    let Some(spec) = &hub.spec.autoscaling else {
        let message = "spec.autoscaling is not set: whoever likes may scale the Hub";
        return Scaling {
            status: None,
            conflict: Verdict::new(AUTOSCALING_CONFLICT, false, "Off", message),
            to: None,
        };
    };
    let conflict = match ctx.foreigners.of(&ctx.kubernetes, hub).await {
        Ok(None) => {
            let decision = decide(ctx, hub, spec, figures);
            let message = "no HorizontalPodAutoscaler acts on the Hub";
            return Scaling {
                status: Some(decision.status),
                conflict: Verdict::new(AUTOSCALING_CONFLICT, false, "Alone", message),
                to: decision.to,
            };
        }
        Ok(Some(name)) => {
            let message = format!(
                "HorizontalPodAutoscaler {name} acts on the Hub too: spec.autoscaling does nothing. Delete one of the two"
            );
            Verdict::new(AUTOSCALING_CONFLICT, true, "HorizontalPodAutoscaler", &message)
        }
        Err(error) => {
            let message = format!(
                "it is not known whether another autoscaler acts on the Hub: {}",
                error.chain()
            );
            Verdict::new(AUTOSCALING_CONFLICT, ConditionStatus::Unknown, "NotChecked", &message)
        }
    };
    Scaling {
        status: Some(AutoscalingStatus::default()),
        conflict,
        to: None,
    }
}

/// Carries out the decision. If that fails, the window stays open and the next look decides again.
pub(crate) async fn apply(ctx: &Context, hub: &Hub, scaling: &mut Scaling) -> Result<(), Error> {
    let Some(to) = scaling.to else { return Ok(()) };
    let (namespace, name) = (hub.namespace().unwrap_or_default(), hub.name_any());
    tracing::info!(
        hub.namespace = namespace,
        hub.name = name,
        from = hub.spec.replicas,
        to,
        "scaling a Hub by its load"
    );
    let fields = json!({
        "metadata": { "uid": hub.uid(), "resourceVersion": hub.resource_version() },
        "spec": { "replicas": to },
    });
    let scaled = ctx.kubernetes.scale::<Hub>(&namespace, &name, &fields).await;
    if let Err(error) = &scaled {
        scaling.status = hub.status.as_ref().and_then(|status| status.autoscaling.clone());
        if error.is_shown(0) {
            let message = format!(
                "spec.autoscaling wants {to} pods, and spec.replicas cannot be written: {}",
                error.chain()
            );
            scaling.conflict = Verdict::new(AUTOSCALING_CONFLICT, ConditionStatus::Unknown, "NotScaled", &message);
        }
    }
    scaled.map(drop)
}

fn decide(ctx: &Context, hub: &Hub, spec: &AutoscalingSpec, figures: &Figures) -> decision::ScalingDecision {
    let status = hub.status.as_ref();
    decision::decide(&Situation {
        spec,
        replicas: hub.spec.replicas,
        load: figures.sum.as_ref().ok().filter(|sum| !sum.is_doubtful),
        before: status.and_then(|status| status.autoscaling.as_ref()),
        now: Timestamp::now(),
        patience: roll_out::stale_after(ctx) + SEEN,
    })
}
