//! `kubectl alkhub rebalance`.
//!
//! Promise: figures from before the order never count as its result.

use std::process::ExitCode;

use alkhub_protocol::kubernetes::REBALANCE;

use super::args::RebalanceArgs;
use super::objects::{HUBS, HubObject, spread};
use super::process::Kubectl;
use super::progress::{WaitProgress, order, see_why, unanswered};
use crate::failure::Failure;
use crate::output;

/// Gives the order, and waits until the pods are even.
pub(crate) async fn rebalance(args: RebalanceArgs) -> Result<ExitCode, Failure> {
    let kubectl = Kubectl::new(&args.cluster);
    let order = order();
    kubectl.annotate(HUBS, &args.hub, REBALANCE, Some(&order)).await?;
    if args.no_wait {
        return output::text(&format!("Hub {} is told to rebalance", args.hub));
    }
    let (mut progress, mut is_answered) = (WaitProgress::new(args.timeout.0), false);
    loop {
        let hub = HubObject::read(&kubectl, &args.hub).await?;
        // Later figures are younger still.
        is_answered |= hub.status.rebalance_order.as_ref() == Some(&order);
        match &hub.status.balance {
            _ if !is_answered => progress.show(unanswered(&args.hub)),
            Some(balance) if balance.is_even() => {
                return output::text(&format!("Hub {} is even: {}", args.hub, spread(balance)));
            }
            Some(balance) => progress.show(format!("{}: {}", args.hub, spread(balance))),
            None => progress.show(format!("{}: what its pods hold is not known", args.hub)),
        }
        let next = progress.next(is_answered).await;
        next.map_err(|late| late.into_failure(&what_goes_on(&args.hub, is_answered)))?;
    }
}

/// What happens to an order once nobody waits for it.
fn what_goes_on(hub: &str, is_answered: bool) -> String {
    match is_answered {
        true => "the hubs go on for ten minutes; `kubectl alkhub top` shows how far they are".to_owned(),
        false => format!(
            "the hubs are told if the operator runs and reaches the Hub within ten minutes; {}",
            see_why(hub)
        ),
    }
}
