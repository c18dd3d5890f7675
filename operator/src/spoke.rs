//! Makes the cluster and the hub match one Spoke; running it twice changes nothing.
//!
//! 1. A Spoke that is being deleted is retired: ended at the hub, then released ([`retire`]).
//! 2. `observe` reads caches only.
//! 3. `validate` decides, purely: to wait, to refuse, or to declare.
//! 4. `register` adds the finalizer, mints the key into a Secret once, and declares the spoke at the hub; it does
//!    nothing while the digest of the last declaration is unchanged and the hub reports that declaration and that key.
//! 5. `unnamed` removes the Secret that the Spoke named before.
//! 6. `status` reports the result and what the hub reports, when it has changed.

mod observe;
mod register;
mod retire;
mod status;
mod unnamed;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use alkhub_crds::Spoke;
use kube::ResourceExt as _;

use self::validate::{Course, Waiting};
use crate::admin;
use crate::context::Context;
use crate::error::Error;
use crate::hub::kept_by_other;
use crate::kubernetes::Going as _;
use crate::reason::INVALID_SPEC;
use crate::turn::Reconciled;

/// How often things that no watch shows are looked at again.
const RESYNC: Duration = Duration::from_secs(300);

/// Reconciles one Spoke, as the module says.
pub(crate) async fn reconcile(spoke: Arc<Spoke>, ctx: Arc<Context>) -> Result<Reconciled, Error> {
    let hub = ctx.stores.hub_of(&spoke);
    if hub.is_some_and(|hub| kept_by_other(&ctx.options, &hub).is_some()) {
        return Ok(Reconciled::Valid(RESYNC));
    }
    if ctx.unreadable.has(spoke.as_ref()) {
        return Ok(Reconciled::Invalid(RESYNC));
    }
    let is_of_unreadable = || {
        ctx.unreadable
            .has_hub(&spoke.namespace().unwrap_or_default(), &spoke.spec.hub_ref.name)
    };
    if ctx.stores.hub_of(&spoke).is_none() && !spoke.meta_is_going() && is_of_unreadable() {
        // The Hub exists, but its state cannot be told: what was last known stays.
        return Ok(Reconciled::Valid(RESYNC));
    }
    let ended = if spoke.meta_is_going() {
        retire::retire(&ctx, &spoke).await
    } else {
        keep(&ctx, &spoke).await
    };
    if let Err(Error::Busy(_)) = &ended {
        // A wait that all Spokes of the Hub share is not a failure of this one.
        return Ok(Reconciled::Valid(ctx.options.poll_interval));
    }
    if let Err(error) = &ended
        && !is_shown_already(error)
        && error.is_shown(ctx.failures.of(&spoke.uid().unwrap_or_default()))
    {
        status::failed(&ctx, &spoke, &observe::observe(&ctx, &spoke), &error.chain()).await?;
    }
    ended
}

/// Called when a fault of the operator ended a reconcile: the conditions say so.
pub(crate) async fn panicked(spoke: Arc<Spoke>, ctx: Arc<Context>, error: Error) -> Result<(), Error> {
    let hub = ctx.stores.hub_of(&spoke);
    if hub.is_some_and(|hub| kept_by_other(&ctx.options, &hub).is_some()) {
        return Ok(());
    }
    status::failed(&ctx, &spoke, &observe::observe(&ctx, &spoke), &error.chain()).await
}

/// Whether a condition already reports it, in its own words.
fn is_shown_already(error: &Error) -> bool {
    matches!(error, Error::Hub(_) | Error::Taken { .. })
}

async fn keep(ctx: &Context, spoke: &Spoke) -> Result<Reconciled, Error> {
    let observed = observe::observe(ctx, spoke);
    let declaration = match validate::validate(spoke, &observed) {
        Course::Declare(declaration) => declaration,
        // A new operator has not asked yet: what the previous one found still holds.
        Course::Wait(Waiting::HubNotAsked) if spoke.status.is_some() => return Ok(Reconciled::Valid(RESYNC)),
        Course::Wait(reason) => {
            status::waiting(ctx, spoke, &observed, reason).await?;
            return Ok(Reconciled::Valid(RESYNC));
        }
    };
    if let Err(error) = declaration.put.check() {
        status::refused(
            ctx,
            spoke,
            &observed,
            INVALID_SPEC,
            &format!("spec.{}: {}", error.field, error.rule),
        )
        .await?;
        return Ok(Reconciled::Invalid(RESYNC));
    }
    match register::register(ctx, spoke, &observed, &declaration).await {
        Ok(registered) => {
            status::registered(ctx, spoke, &observed, registered).await?;
            unnamed::remove(ctx, spoke).await?;
            Ok(Reconciled::Valid(RESYNC))
        }
        Err(Error::Hub(error @ admin::Error::Refused { .. })) if !error.is_denied() => {
            status::refused(ctx, spoke, &observed, "RefusedByHub", &error.to_string()).await?;
            Ok(Reconciled::Invalid(RESYNC))
        }
        Err(error @ Error::Taken { .. }) => {
            status::refused(ctx, spoke, &observed, "SecretTaken", &error.to_string()).await?;
            Err(error)
        }
        Err(Error::Hub(error)) => {
            status::unanswered(ctx, spoke, &observed, &crate::error::chain(&error)).await?;
            Err(Error::Hub(error))
        }
        Err(error) => Err(error),
    }
}
