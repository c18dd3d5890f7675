//! `kubectl alkhub rebalance`.
//!
//! Promise: figures from before the order never count as its result.

use std::process::ExitCode;

use alkhub_protocol::kubernetes::REBALANCE;
use jiff::Timestamp;
use tokio::time::Instant;

use super::args::RebalanceArgs;
use super::objects::{HUBS, HubObject, spread};
use super::process::Kubectl;
use super::progress::{OLD, WaitProgress};
use crate::failure::Failure;
use crate::output;

/// Gives the order, and waits until the pods are even.
pub(crate) async fn rebalance(args: RebalanceArgs) -> Result<ExitCode, Failure> {
    let kubectl = Kubectl::new(&args.cluster);
    let before = HubObject::read(&kubectl, &args.hub).await?.status.balance;
    let now = format!("{:.0}", Timestamp::now());
    kubectl.annotate(HUBS, &args.hub, REBALANCE, Some(&now)).await?;
    if args.no_wait {
        return output::text(&format!("Hub {} is told to rebalance", args.hub));
    }
    let (ordered, mut is_news) = (Instant::now(), false);
    let mut progress = WaitProgress::new(args.timeout.0);
    loop {
        is_news |= ordered.elapsed() > OLD;
        let hub = HubObject::read(&kubectl, &args.hub).await?;
        is_news |= hub.status.balance != before;
        match &hub.status.balance {
            Some(balance) if is_news && balance.is_even() => {
                return output::text(&format!("Hub {} is even: {}", args.hub, spread(balance)));
            }
            Some(balance) => progress.show(format!("{}: {}", args.hub, spread(balance))),
            None => progress.show(format!("{}: what its pods hold is not known", args.hub)),
        }
        progress.next().await.map_err(|late| {
            late.into_failure("the hubs go on for ten minutes; `kubectl alkhub top` shows how far they are")
        })?;
    }
}
