//! Makes the cluster match one Hub; running it twice changes nothing.
//!
//! 1. `observe` reads: caches, and the Secrets that the Hub names.
//! 2. `validate` decides, purely: a plan, or what the user must mend.
//! 3. `generated` makes the Secrets that are made once.
//! 4. `build` turns the plan into objects, purely; it cannot fail.
//! 5. `apply` writes what differs and prunes what is no longer wanted.
//! 6. `look` asks the hub's admin API, at most once per interval.
//! 7. `status` says what came of it, when it changed.
//!
//! Invariants
//! - A Hub that was refused, or that cannot be applied, is looked at like any other: its pods run on as they were last
//!   applied, and its Spokes are declared, suspended and ended there.

mod apply;
mod build;
mod generated;
mod look;
mod observe;
mod status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use alkhub_crds::Hub;
use kube::ResourceExt as _;

pub(crate) use self::generated::ADMIN_KEY;
pub(crate) use self::look::door;
use crate::context::Context;
use crate::error::Error;
use crate::leading::{Done, Going as _};

/// A Hub that was refused is looked at again: the Secret or the other Hub that it waits for is not watched.
const REFUSED: Duration = Duration::from_secs(5);

/// A Hub that is being deleted needs nothing: what it owned goes by its owner references.
const GONE: Duration = Duration::from_secs(300);

/// How far a Hub was carried out.
enum Ended {
    Applied(Box<validate::Plan>, apply::Outcome),
    Refused(validate::Refusal),
}

/// See the module.
pub(crate) async fn reconcile(hub: Arc<Hub>, ctx: Arc<Context>) -> Result<Done, Error> {
    if hub.meta_is_going() {
        return Ok(Done::Well(GONE));
    }
    if hub.spec.paused {
        let pods = status::running(&ctx, &hub);
        let look = look::at(&hub, &ctx, pods.as_ref()).await;
        status::paused(&ctx, &hub, pods, &look).await?;
        return Ok(Done::Well(ctx.options.poll_interval));
    }
    let ended = carry_out(&ctx, &hub).await;
    if let Err(error @ Error::Shut(_)) = ended {
        return Err(error);
    }
    let pods = match &ended {
        Ok(Ended::Applied(plan, outcome)) => Some(status::Pods::of(&outcome.deployment, plan.replicas)),
        _ => status::running(&ctx, &hub),
    };
    let look = look::at(&hub, &ctx, pods.as_ref()).await;
    match ended {
        Ok(Ended::Applied(plan, outcome)) => {
            status::applied(&ctx, &hub, &plan, &outcome, &look).await?;
            Ok(Done::Well(if look.seen.is_ok() {
                ctx.options.poll_interval
            } else {
                look::AGAIN
            }))
        }
        Ok(Ended::Refused(refusal)) => {
            status::refused(&ctx, &hub, &refusal, pods, &look).await?;
            Ok(Done::Invalid(REFUSED))
        }
        Err(error) => {
            let failures = ctx.backoff.failures(&hub.uid().unwrap_or_default());
            if error.is_shown(failures) {
                status::failed(&ctx, &hub, &error, pods, &look).await?;
            }
            Err(error)
        }
    }
}

async fn carry_out(ctx: &Context, hub: &Hub) -> Result<Ended, Error> {
    let observed = observe::observe(ctx, hub).await?;
    let plan = match validate::validate(hub, &observed) {
        Ok(plan) => plan,
        Err(refusal) => return Ok(Ended::Refused(refusal)),
    };
    let generated = generated::ensure(ctx, hub, &plan).await?;
    let wanted = build::build(&plan, &generated);
    let outcome = Box::pin(apply::apply(ctx, hub, &plan, wanted)).await?;
    Ok(Ended::Applied(Box::new(plan), outcome))
}

/// Hubs for the tests of other modules.
#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::validate::tests::{given, hub};
}
