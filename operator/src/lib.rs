//! The operator: keeps Hubs and Spokes as their resources say.
//!
//! The walk of a Hub: watch → [`hub`] `reconcile` → `observe` (reads) → `validate` (pure; a user's mistake becomes a
//! condition) → `build` (pure, cannot fail) → `apply` (server-side apply, prunes) → `status` (transitions only).
//! The walk of a Spoke: watch → [`spoke`] `reconcile` → key minted into a Secret → `PUT` at the hub → status from what
//! the hub reports.
//!
//! Promises
//! - Every write passes the [`gate`], which is open only while this process holds the [`lease`].
//! - A reconcile takes no hint of what changed, and running it twice changes nothing.
//! - A controller that ends before its term ends the process, unready and with an error, and so does the end of the
//!   management port: half an operator is none, and one that nobody can look at is restarted.
//!
//! Never
//! - Nothing is deleted on ignorance: a hub that does not answer keeps its spokes, a cache that may be old is checked.
//! - It speaks to no Redis and no Postgres, and knows of a hub what its admin API says.
//!
//! Uses `config`, `crds`, `protocol`, `retry` and `tasks`.

mod admin;
mod apply;
pub mod args;
mod context;
mod error;
mod events;
mod failures;
mod gate;
mod health;
mod hub;
mod in_flight;
mod kubernetes;
mod leading;
mod lease;
mod management;
pub mod metrics;
mod names;
mod reason;
mod secrets;
mod spoke;
mod start;
mod turn;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use alkhub_tasks::{Lost, Supervisor};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Admin;
use crate::args::Args;
use crate::gate::Gate;
use crate::kubernetes::Clients;
use crate::leading::Process;
use crate::lease::{Candidate, HeldLease, TermEnd};
use crate::metrics::Metrics;
pub use crate::start::StartError;

/// How long ended writes are waited for before the Lease is given back; a single write takes 10 s at most.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// How long the tasks of the process are waited for.
const LAST_TASKS: Duration = Duration::from_secs(2);

/// Runs until `stop`: stands by, leads, and stands by again when the Lease is lost.
///
/// # Errors
/// [`StartError`], and only for what cannot recover by itself. If the API server is away at start, this waits for it;
/// if a part of the operator is lost, it does not.
pub async fn run(args: Args, stop: CancellationToken) -> Result<(), StartError> {
    let registry = prometheus::Registry::new();
    let process = Process {
        metrics: Arc::new(Metrics::new(&registry)?),
        health: Arc::default(),
        clients: Clients::new(args.kubeconfig.as_deref()).await?,
        gate: Gate::default(),
        admin: Admin::new(&args.hub_url_template)?,
        options: Arc::new(args),
    };
    let supervisor = Supervisor::new(TaskTracker::new(), stop.clone());
    let Process {
        options,
        metrics,
        health,
        ..
    } = &process;
    management::start(options.management_listen, &registry, metrics, health, &supervisor).await?;
    let lost = lead(&process, &supervisor).await;
    stop.cancel();
    let tasks = supervisor.tasks();
    tasks.close();
    if tokio::time::timeout(LAST_TASKS, tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    match lost {
        Some(lost) => Err(lost.into()),
        None => Ok(()),
    }
}

/// Stands by and leads in turn, until the process is asked to stop or has lost a part of itself, which is an error.
async fn lead(process: &Process, supervisor: &Supervisor) -> Option<Lost> {
    let gate = &process.gate;
    let mut candidate = Candidate::new(
        &process.options,
        &process.clients,
        gate.clone(),
        Arc::clone(&process.health),
    );
    loop {
        let ending = supervisor.stop().child_token();
        let (held, lost) = until_lost(candidate.acquire(&ending), supervisor.lost(), &ending).await;
        if lost.is_some() {
            process.health.lose();
            gate.close();
            if let Some(held) = held {
                candidate.release(held).await;
            }
            return lost;
        }
        let lost = hold(&mut candidate, held?, process, supervisor).await;
        if lost.is_some() {
            return lost;
        }
    }
}

/// One term: until the Lease is lost, the process is asked to stop, or the term or the process has lost a part. In the
/// last two cases the Lease is still held, and is given back.
async fn hold(candidate: &mut Candidate, held: HeldLease, process: &Process, supervisor: &Supervisor) -> Option<Lost> {
    let term = leading::start(process);
    let any_lost = async {
        tokio::select! {
            lost = term.lost() => lost,
            lost = supervisor.lost() => lost,
        }
    };
    let ending = supervisor.stop().child_token();
    let (ended, lost) = until_lost(candidate.hold(held, &ending), any_lost, &ending).await;
    if lost.is_some() {
        process.health.lose();
    }
    process.gate.close();
    term.stop.cancel();
    if tokio::time::timeout(LAST_WRITES, process.gate.idle()).await.is_ok()
        && let TermEnd::Stopped(held) = ended
    {
        candidate.release(*held).await;
    }
    term.join().await;
    lost
}

/// Waits for a task that ends once `ending` is cancelled; losing a part before that cancels it too.
async fn until_lost<T>(
    task: impl Future<Output = T>,
    lost: impl Future<Output = Lost>,
    ending: &CancellationToken,
) -> (T, Option<Lost>) {
    tokio::pin!(task);
    tokio::select! {
        done = &mut task => (done, None),
        lost = lost => {
            ending.cancel();
            (task.await, Some(lost))
        }
    }
}

#[cfg(test)]
mod tests {
    use alkhub_test_support::within;
    use clap::Parser as _;
    use kube::client::Body;

    use super::*;

    fn standby() -> Process {
        let hangs =
            |_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, std::convert::Infallible>>();
        let client = kube::Client::new(tower::service_fn(hangs), "team");
        let options = Args::try_parse_from(["alkhub-operator"]).expect("valid");
        Process {
            clients: Clients {
                requests: client.clone(),
                watches: client,
            },
            gate: Gate::default(),
            metrics: Arc::new(Metrics::new(&prometheus::Registry::new()).expect("registered")),
            health: Arc::default(),
            admin: Admin::new(&options.hub_url_template).expect("a client"),
            options: Arc::new(options),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_whose_probes_nobody_answers_any_more_ends_unready() {
        let process = standby();
        let supervisor = Supervisor::new(TaskTracker::new(), CancellationToken::new());
        supervisor.keep("operator.management", async { panic!("no more") });

        let lost = within("the end", Box::pin(lead(&process, &supervisor))).await;

        assert_eq!(lost.map(|lost| lost.name), Some("operator.management"));
        assert!(process.health.has_lost());
    }

    #[tokio::test]
    async fn a_standby_that_is_asked_to_stop_has_lost_nothing() {
        let process = standby();
        let supervisor = Supervisor::new(TaskTracker::new(), CancellationToken::new());
        supervisor.stop().cancel();

        let lost = within("the end", Box::pin(lead(&process, &supervisor))).await;

        assert!(lost.is_none() && !process.health.has_lost());
    }
}
