//! The operator: keeps Hubs and Spokes as their resources say.
//!
//! The walk of a Hub: watch → [`hub`] `reconcile` → `observe` (reads) → `validate` (pure; a user's mistake becomes a
//! condition) → `build` (pure, cannot fail) → `apply` (server-side apply, prunes) → `status` (transitions only).
//! The walk of a Spoke: watch → [`spoke`] `reconcile` → key minted into a Secret → `PUT` at the hub → status from what
//! the hub reports.
//!
//! Invariants
//! - Every write passes the [`gate`], which is open only while this process holds the [`lease`].
//! - A reconcile takes no hint of what changed, and running it twice changes nothing.
//! - A controller that ends before its term ends the process, unready and with an error: half an operator is none.
//! - Nothing is deleted on ignorance: a hub that does not answer keeps its spokes, a cache that may be old is checked.

mod admin;
mod apply;
pub mod args;
mod context;
mod error;
mod events;
mod failures;
mod gate;
mod hub;
mod kubernetes;
mod leading;
mod lease;
mod management;
pub mod metrics;
mod names;
mod secrets;
mod spoke;
mod start;
mod turn;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use alkhub_tasks::Lost;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::Args;
use crate::gate::Gate;
use crate::kubernetes::Clients;
use crate::leading::Term;
use crate::lease::{Candidate, TermEnd};
use crate::metrics::Metrics;
pub use crate::start::StartError;

/// What ended writes are waited for before the Lease is given back; a write takes 10 s at most.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// Runs until `stop`: stands by, leads, and stands by again when the Lease is lost.
///
/// # Errors
/// [`StartError`]: only what cannot mend itself. An API server that is away at start is waited for; a part of the
/// operator that was lost is not.
pub async fn run(args: Args, stop: CancellationToken) -> Result<(), StartError> {
    let registry = prometheus::Registry::new();
    let metrics = Arc::new(Metrics::new(&registry)?);
    let tasks = TaskTracker::new();
    let clients = Clients::new(args.kubeconfig.as_deref()).await?;
    let gate = Gate::default();
    management::start(&args, &registry, &metrics, &tasks, &stop).await?;
    let mut candidate = Candidate::new(&args, &clients, gate.clone(), Arc::clone(&metrics));
    let admin = admin::Admin::new(&args.hub_url_template)?;
    let options = Arc::new(args);

    while let Some(held) = candidate.acquire(&stop).await {
        let term = leading::start(&options, &clients, &gate, &metrics, &admin);
        let (ended, lost) = hold(&mut candidate, held, &term, &stop).await;
        if lost.is_some() {
            metrics.lose();
        }
        gate.close();
        term.stop.cancel();
        if tokio::time::timeout(LAST_WRITES, gate.idle()).await.is_ok()
            && let TermEnd::Stopped(held) = ended
        {
            candidate.release(*held).await;
        }
        term.join().await;
        if let Some(lost) = lost {
            return Err(lost.into());
        }
    }
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(Duration::from_secs(2), tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!("some tasks did not end in time");
    }
    Ok(())
}

/// Holds the Lease until it is lost, until `stop`, or until the term has lost a task: then the Lease is still held, to be
/// given back.
async fn hold(
    candidate: &mut Candidate,
    held: lease::HeldLease,
    term: &Term,
    stop: &CancellationToken,
) -> (TermEnd, Option<Lost>) {
    let ending = stop.child_token();
    let hold = candidate.hold(held, &ending);
    tokio::pin!(hold);
    tokio::select! {
        ended = &mut hold => (ended, None),
        lost = term.lost() => {
            ending.cancel();
            (hold.await, Some(lost))
        }
    }
}
