//! Makes the cluster match one Hub; running it twice changes nothing.
//!
//! 0. `install` makes sure that no other install of the operator keeps the Hub.
//! 1. `observe` reads: caches, and the Secrets that the Hub names.
//! 2. `validate` decides, purely: on a plan, or on what the user must fix.
//! 3. `generated` makes the Secrets that are made once.
//! 4. `history` finds the revision that the plan asks for, or makes it.
//! 5. `build` turns the plan and its revisions into objects, purely; a value that no object can hold is an error.
//! 6. `apply` writes what differs, `roll_out` takes one step of the pods, and what is no longer wanted is pruned.
//! 7. `poll` asks the hub's admin API, at most once per interval.
//! 8. `autoscaler` asks for another number of pods, if the Hub leaves that to it and its load calls for one.
//! 9. `status` reports the result, when it has changed.
//!
//! Invariants
//! - Pods are rolled only for a spec and Secrets that the hub itself would accept, and only once for all Secrets that
//!   change together.
//! - A Hub that was refused, or that cannot be applied, is observed like any other: its pods keep running as they were
//!   last applied, and its Spokes are declared, suspended and ended there.

mod answers;
mod apply;
mod auths;
mod autoscaler;
mod build;
mod door;
mod elapsed;
mod figures;
mod files;
mod fleet;
mod generated;
mod grace;
mod history;
mod install;
mod observe;
mod orders;
mod others;
mod pause;
mod pod_problem;
mod poll;
mod revision;
mod roll_out;
mod spec_error;
mod status;
mod steps;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use alkhub_crds::Hub;
use kube::ResourceExt as _;

use self::answers::AnsweredOrders;
pub(crate) use self::auths::Auths;
pub(crate) use self::autoscaler::Foreigners;
pub(crate) use self::door::door;
pub(crate) use self::generated::admin_key;
pub(crate) use self::install::{is_other as is_other_install, other as kept_by_other};
pub(crate) use self::others::Others;
pub(crate) use self::steps::Steps;
use crate::context::Context;
use crate::error::Error;
use crate::gate::Shut;
use crate::kubernetes::Going as _;
use crate::secrets::SETTLED;
use crate::turn::Reconciled;

/// When a refused Hub is looked at again: the Secret or the other Hub that it waits for is not watched.
const REFUSED: Duration = Duration::from_secs(5);

/// When a Hub that another install keeps is looked at again: the other install may have ended.
const FOREIGN: Duration = Duration::from_secs(10);

/// When a Hub that is being deleted is looked at again. It needs nothing: what it owned goes by its owner references.
const GONE: Duration = Duration::from_secs(300);

/// How far the reconcile of a Hub got.
enum Progress {
    Applied(Box<validate::Plan>, Box<apply::LiveObjects>),
    Refused(spec_error::SpecError),
    /// A Secret has just changed: the changes that belong with it are waited for.
    Changing,
    /// Something could not be read, or could not be applied.
    Failed {
        is_accepted: bool,
        error: Error,
    },
}

/// Reconciles one Hub, as the module says.
pub(crate) async fn reconcile(hub: Arc<Hub>, ctx: Arc<Context>) -> Result<Reconciled, Error> {
    if hub.meta_is_going() {
        return Ok(Reconciled::Valid(GONE));
    }
    if ctx.unreadable.has(hub.as_ref()) {
        // What is known is from before: its Spokes are taken care of, and nothing is carried out.
        if kept_by_other(&ctx.options, &hub).is_none() {
            see(&ctx, &hub, status::running(&ctx, &hub)).await;
        }
        return Ok(Reconciled::Invalid(ctx.options.poll_interval));
    }
    if !install::take(&ctx, &hub).await? {
        return Ok(Reconciled::Valid(FOREIGN));
    }
    orders::pass_on(&ctx, &hub).await;
    if hub.spec.paused {
        orders::stand_in(&ctx, &hub).await;
        let sight = see(&ctx, &hub, status::running(&ctx, &hub)).await;
        status::paused(&ctx, &hub, &sight).await?;
        // A pod that somebody wants empty is told so repeatedly, and may be waited for.
        let look = poll::interval(sight.pods.as_ref(), ctx.options.poll_interval);
        return Ok(Reconciled::Valid(look));
    }
    let ended = carry_out(&ctx, &hub).await;
    let pods = match &ended {
        Progress::Failed {
            error: Error::Shut(_), ..
        } => return Err(Error::Shut(Shut)),
        Progress::Applied(_, live) => Some(live.pods.clone()),
        Progress::Refused(_) | Progress::Changing | Progress::Failed { .. } => status::running(&ctx, &hub),
    };
    if matches!(ended, Progress::Refused(_) | Progress::Failed { .. }) {
        orders::stand_in(&ctx, &hub).await;
    }
    let sight = see(&ctx, &hub, pods).await;
    match ended {
        Progress::Changing => Ok(Reconciled::Valid(SETTLED)),
        Progress::Applied(plan, live) => {
            let mut scaling = autoscaler::look(&ctx, &hub, &sight.figures).await;
            // Before the status, since this makes another version of the Hub.
            let scaled = autoscaler::apply(&ctx, &hub, &mut scaling).await;
            status::applied(&ctx, &hub, &plan, &live, &scaling, &sight).await?;
            scaled?;
            let look = match sight.poll.seen {
                Ok(_) => poll::interval(Some(&live.pods), ctx.options.poll_interval),
                Err(_) => poll::AGAIN,
            };
            Ok(Reconciled::Valid(live.again.map_or(look, |again| look.min(again))))
        }
        Progress::Refused(spec_error) => {
            status::refused(&ctx, &hub, &spec_error, &sight).await?;
            Ok(Reconciled::Invalid(REFUSED))
        }
        Progress::Failed { is_accepted, error } => {
            let failures = ctx.failures.of(&hub.uid().unwrap_or_default());
            if error.is_shown(failures) {
                status::failed(&ctx, &hub, &error, is_accepted, &sight).await?;
            }
            Err(error)
        }
    }
}

/// Called when a fault of the operator ended a reconcile: the conditions say so, with what was last seen.
pub(crate) async fn panicked(hub: Arc<Hub>, ctx: Arc<Context>, error: Error) -> Result<(), Error> {
    if hub.meta_is_going() || kept_by_other(&ctx.options, &hub).is_some() {
        return Ok(());
    }
    let poll = ctx.polls.of(&hub.uid().unwrap_or_default());
    let sight = status::Sight {
        pods: status::running(&ctx, &hub),
        poll: poll.unwrap_or_else(poll::none),
        figures: status::figures(&ctx, &hub),
        answers: AnsweredOrders::of(&ctx, &hub),
        problem: None,
    };
    status::failed(&ctx, &hub, &error, false, &sight).await
}

async fn see(ctx: &Context, hub: &Hub, pods: Option<status::Pods>) -> status::Sight {
    let poll = poll::at(hub, ctx, pods.as_ref()).await;
    let problem = pod_problem::find(ctx, hub, pods.as_ref()).await;
    status::Sight {
        pods,
        poll,
        figures: status::figures(ctx, hub),
        answers: AnsweredOrders::of(ctx, hub),
        problem,
    }
}

async fn carry_out(ctx: &Context, hub: &Hub) -> Progress {
    let failed = |is_accepted| move |error| Progress::Failed { is_accepted, error };
    let observed = match observe::observe(ctx, hub).await {
        Ok(observed) => observed,
        Err(error) => return failed(false)(error),
    };
    if observed.is_changing {
        return Progress::Changing;
    }
    let plan = match validate::validate(hub, &observed) {
        Ok(plan) => plan,
        Err(spec_error) => return Progress::Refused(spec_error),
    };
    let applied = async {
        let generated = generated::ensure(ctx, hub, &plan).await?;
        let history = history::ensure(ctx, &plan, &generated).await?;
        let history = apply::kept(ctx, &plan, history);
        let wanted = build::build(&plan, &generated, history.revisions())?;
        Box::pin(apply::apply(ctx, hub, &plan, history, wanted)).await
    };
    match applied.await {
        Ok(live) => Progress::Applied(Box::new(plan), Box::new(live)),
        Err(error) => failed(true)(error),
    }
}

/// Hubs for the tests of other modules.
#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::validate::tests::{given, hub};
}
