//! Makes the cluster match one Hub; running it twice changes nothing.
//!
//! 1. `observe` reads: caches, and the Secrets that the Hub names.
//! 2. `validate` decides, purely: a plan, or what the user must mend.
//! 3. `generated` makes the Secrets that are made once.
//! 4. `build` turns the plan into objects, purely; it cannot fail.
//! 5. `apply` writes what differs and prunes what is no longer wanted.
//! 6. `look` asks the hub's admin API, at most once per interval.
//! 7. `status` says what came of it, when it changed.

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

pub(crate) use self::generated::ADMIN_KEY;
use crate::context::Context;
use crate::error::{Cure, Error};
use crate::leading::{Done, Going as _};

/// A Hub that was refused is looked at again: the Secret or the other Hub that it waits for is not watched.
const REFUSED: Duration = Duration::from_secs(5);

/// A Hub that is being deleted needs nothing: what it owned goes by its owner references.
const GONE: Duration = Duration::from_secs(300);

/// See the module.
pub(crate) async fn reconcile(hub: Arc<Hub>, ctx: Arc<Context>) -> Result<Done, Error> {
    if hub.meta_is_going() {
        return Ok(Done::Well(GONE));
    }
    if hub.spec.paused {
        let look = look::at(&hub, &ctx).await;
        status::paused(&ctx, &hub, look.as_deref()).await?;
        return Ok(Done::Well(ctx.options.poll_interval));
    }
    let observed = observe::observe(&ctx, &hub).await?;
    let plan = match validate::validate(&hub, &observed) {
        Ok(plan) => plan,
        Err(refusal) => {
            status::refused(&ctx, &hub, &refusal).await?;
            return Ok(Done::Invalid(REFUSED));
        }
    };
    let applied = match carry_out(&ctx, &hub, &plan).await {
        Ok(applied) => applied,
        Err(error) => {
            // Who can mend it reads conditions; a failure that time mends is left to the log and the next try.
            if error.cure() == Cure::Person {
                status::failed(&ctx, &hub, &error).await?;
            }
            return Err(error);
        }
    };
    let look = look::at(&hub, &ctx).await;
    status::applied(&ctx, &hub, &plan, &applied, look.as_deref()).await?;
    let answers = look.is_none_or(|look| look.seen.is_ok());
    Ok(Done::Well(if answers {
        ctx.options.poll_interval
    } else {
        look::AGAIN
    }))
}

async fn carry_out(ctx: &Context, hub: &Hub, plan: &validate::Plan) -> Result<apply::Outcome, Error> {
    let generated = generated::ensure(ctx, plan).await?;
    let wanted = build::build(plan, &generated);
    Box::pin(apply::apply(ctx, hub, plan, wanted)).await
}

/// Hubs for the tests of other modules.
#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::validate::tests::{given, hub};
}
