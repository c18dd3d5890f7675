//! Leader election: a Lease that one candidate holds, with every write of it guarded by its resourceVersion.
//!
//! Invariants
//! - A record is only ever replaced, never patched: of two candidates that saw the same version, one gets 409.
//! - Expiry is judged by this process's monotonic clock alone: a record that has not changed for its duration has
//!   expired. Times in the record are for people; the clocks of two nodes are never compared.
//! - The holder trusts a renewal for two thirds of the duration, counted from before it was sent, so that its [`Gate`]
//!   is shut well before another candidate takes over.

mod record;

use std::sync::Arc;
use std::time::Duration;

use alkhub_retry::jittered;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::record::Sight;
use crate::args::Args;
use crate::error::{chain, status};
use crate::gate::Gate;
use crate::health::{Health, LEASE};
use crate::kubernetes::{Clients, WATCH_SECONDS};

/// With a shorter duration, a pause of the scheduler would lose the Lease.
const SHORTEST: Duration = Duration::from_secs(3);

/// A candidate for leadership.
#[derive(Debug)]
pub(crate) struct Candidate {
    api: Api<Lease>,
    watch: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
    gate: Gate,
    health: Arc<Health>,
}

/// The Lease as this process last wrote it, and when it began to write.
#[derive(Debug)]
pub(crate) struct HeldLease {
    lease: Lease,
    since: Instant,
}

/// How a term of leadership ended.
#[derive(Debug)]
pub(crate) enum TermEnd {
    /// This process was asked to stop; it still holds the Lease.
    Stopped(Box<HeldLease>),
    /// Another process holds it, or it could not be renewed in time.
    Lost,
}

// === impl Candidate ===

impl Candidate {
    pub(crate) fn new(args: &Args, clients: &Clients, gate: Gate, health: Arc<Health>) -> Self {
        let api = |client: &Client| Api::namespaced(client.clone(), &args.namespace);
        Self {
            api: api(&clients.requests),
            watch: api(&clients.watches),
            name: args.lease_name.clone(),
            // A restarted container keeps its pod's name, and must not mistake its predecessor's writes for its own.
            identity: format!("{}-{:08x}", args.identity, fastrand::u32(..)),
            duration: args.lease_duration.max(SHORTEST),
            gate,
            health,
        }
    }

    /// Stands by until the Lease is ours; `None` if asked to stop.
    pub(crate) async fn acquire(&mut self, stop: &CancellationToken) -> Option<HeldLease> {
        tracing::info!(operator.identity = self.identity, "standing by");
        let mut sight = Sight::default();
        let mut changes = self.changes();
        // A process that was asked to stop must not take back what it has just given up.
        while !stop.is_cancelled() {
            match self.try_acquire(&mut sight).await {
                Ok(Some(held)) => {
                    // Before anybody learns that we lead: the first write must not find the gate shut.
                    self.gate.open_until(held.since + self.trust());
                    return Some(held);
                }
                Ok(None) => self.health.set_reachable(true),
                Err(error) => {
                    self.health.set_reachable(false);
                    let why = error.map_or_else(|| "no answer in time".to_owned(), |error| chain(&error));
                    tracing::warn!(error = why, "cannot read or take the Lease");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(jittered(self.interval())) => {}
                // A Lease that was given back is taken at once.
                () = freed(&mut changes, &self.health) => {}
            }
        }
        None
    }

    /// Renews until the Lease is lost or `stop` is cancelled; the gate is open meanwhile. Dropping the future leaves
    /// the gate open until its deadline.
    pub(crate) async fn hold(&mut self, held: HeldLease, stop: &CancellationToken) -> TermEnd {
        tracing::info!(operator.identity = self.identity, "leading");
        self.health.set_leads(true);
        let ended = self.renew_until_ended(held, stop).await;
        self.health.set_leads(false);
        ended
    }

    /// Gives the Lease back, so that another candidate need not wait for it to expire.
    pub(crate) async fn release(&mut self, held: HeldLease) {
        let lease = record::released(held.lease);
        match tokio::time::timeout(
            self.interval(),
            self.api.replace(&self.name, &PostParams::default(), &lease),
        )
        .await
        {
            Ok(Ok(_)) => tracing::info!("gave the Lease back"),
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "could not give the Lease back; it will expire"),
            Err(_) => tracing::warn!("could not give the Lease back in time; it will expire"),
        }
    }

    async fn renew_until_ended(&mut self, mut held: HeldLease, stop: &CancellationToken) -> TermEnd {
        let mut changes = self.changes();
        loop {
            let deadline = held.since + self.trust();
            self.gate.open_until(deadline);
            tokio::select! {
                () = stop.cancelled() => return TermEnd::Stopped(Box::new(held)),
                () = tokio::time::sleep_until(held.since + self.interval()) => {}
                () = watched(&mut changes, &self.health) => {}
            }
            loop {
                match tokio::time::timeout_at(deadline, self.renew(&held)).await {
                    Ok(Ok(renewed)) => {
                        self.health.set_reachable(true);
                        held = renewed;
                        break;
                    }
                    Ok(Err(Some(error))) => {
                        self.health.set_reachable(false);
                        tracing::warn!(error = chain(&error), "could not renew the Lease");
                    }
                    Ok(Err(None)) => {
                        tracing::warn!("another candidate took the Lease");
                        return TermEnd::Lost;
                    }
                    Err(_) => {
                        tracing::warn!("the Lease could not be renewed in time");
                        return TermEnd::Lost;
                    }
                }
                tokio::select! {
                    () = stop.cancelled() => return TermEnd::Stopped(Box::new(held)),
                    () = tokio::time::sleep(self.interval() / 4) => {}
                }
            }
        }
    }

    /// One renewal. `Err(None)`: the Lease is another's.
    async fn renew(&self, held: &HeldLease) -> Result<HeldLease, Option<kube::Error>> {
        let since = Instant::now();
        let wanted = record::renewed(held.lease.clone());
        match self.api.replace(&self.name, &PostParams::default(), &wanted).await {
            Ok(lease) => Ok(HeldLease { lease, since }),
            // Either another process took it, or our own earlier renewal arrived and its answer did not.
            Err(error) if status(&error) == Some(409) => match self.api.get(&self.name).await {
                Ok(lease) if record::holder(&lease) == Some(&self.identity) => Ok(HeldLease {
                    lease,
                    since: held.since,
                }),
                Ok(_) => Err(None),
                Err(error) => Err(Some(error)),
            },
            // Somebody deleted it: the process that creates it anew leads.
            Err(error) if status(&error) == Some(404) => Err(None),
            Err(error) => Err(Some(error)),
        }
    }

    /// Looks once, and tries once if the Lease is free. `Err(None)`: no answer in time.
    async fn try_acquire(&self, sight: &mut Sight) -> Result<Option<HeldLease>, Option<kube::Error>> {
        let since = Instant::now();
        let attempt = async {
            match self.api.get_opt(&self.name).await? {
                None => {
                    self.api
                        .create(
                            &PostParams::default(),
                            &record::first(&self.name, &self.identity, self.duration),
                        )
                        .await
                }
                Some(lease) if sight.may_take(&lease, &self.identity, since) => {
                    let taken = record::taken(lease, &self.identity, self.duration);
                    self.api.replace(&self.name, &PostParams::default(), &taken).await
                }
                Some(lease) => Ok(lease),
            }
        };
        let lease = match tokio::time::timeout(self.trust(), attempt).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(error)) if status(&error) == Some(409) => return Ok(None),
            Ok(Err(error)) => return Err(Some(error)),
            Err(_) => return Err(None),
        };
        Ok((record::holder(&lease) == Some(&self.identity)).then_some(HeldLease { lease, since }))
    }

    /// How often the Lease is renewed: seven times per duration.
    fn interval(&self) -> Duration {
        self.duration / 7
    }

    /// How long a renewal is trusted.
    fn trust(&self) -> Duration {
        self.duration * 2 / 3
    }

    fn changes(&self) -> BoxStream<'static, watcher::Result<watcher::Event<Lease>>> {
        let config = watcher::Config::default()
            .fields(&format!("metadata.name={}", self.name))
            .timeout(WATCH_SECONDS);
        watcher(self.watch.clone(), config).default_backoff().boxed()
    }
}

/// Waits until a change shows that nobody holds the Lease.
async fn freed(changes: &mut BoxStream<'static, watcher::Result<watcher::Event<Lease>>>, health: &Health) {
    loop {
        match changes.next().await {
            Some(Ok(watcher::Event::Apply(lease) | watcher::Event::InitApply(lease))) => {
                health.heard(LEASE);
                if record::holder(&lease).is_none() {
                    return;
                }
            }
            Some(Ok(watcher::Event::Delete(_))) => return,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// Listens to our own renewals: silence would show that watches are dead. Never returns.
async fn watched(changes: &mut BoxStream<'static, watcher::Result<watcher::Event<Lease>>>, health: &Health) {
    while let Some(change) = changes.next().await {
        if change.is_ok() {
            health.heard(LEASE);
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use clap::Parser as _;
    use kube::client::Body;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_answer_is_not_reachable() {
        let hangs = |_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, Infallible>>();
        let client = Client::new(tower::service_fn(hangs), "team");
        let clients = Clients {
            requests: client.clone(),
            watches: client,
        };
        let args = Args::try_parse_from(["alkhub-operator"]).expect("valid");
        let health = Arc::new(Health::default());
        health.set_reachable(true);
        let mut candidate = Candidate::new(&args, &clients, Gate::default(), Arc::clone(&health));

        let acquired = tokio::time::timeout(args.lease_duration, candidate.acquire(&CancellationToken::new())).await;

        assert!(acquired.is_err(), "nobody gave it the Lease");
        assert!(!health.is_reachable());
    }
}
