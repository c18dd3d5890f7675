//! `kubectl alkhub rebalance`.

use std::process::ExitCode;

use alkhub_protocol::kubernetes::REBALANCE;
use jiff::Timestamp;

use super::args::RebalanceArgs;
use super::objects::{HUBS, HubObject, spread};
use super::process::Kubectl;
use super::progress::WaitProgress;
use crate::failure::Failure;
use crate::output;

/// Orders it, and waits until the pods are even.
pub(crate) async fn rebalance(args: RebalanceArgs) -> Result<ExitCode, Failure> {
    let kubectl = Kubectl::new(&args.cluster);
    HubObject::read(&kubectl, &args.hub).await?;
    let now = format!("{:.0}", Timestamp::now());
    kubectl.annotate(HUBS, &args.hub, REBALANCE, Some(&now)).await?;
    if args.no_wait {
        return output::text(&format!("Hub {} is told to rebalance", args.hub));
    }
    let mut progress = WaitProgress::new(args.timeout.0);
    loop {
        let hub = HubObject::read(&kubectl, &args.hub).await?;
        match &hub.status.balance {
            Some(balance) if balance.is_even() => {
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
