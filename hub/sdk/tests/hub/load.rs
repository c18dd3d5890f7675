//! Hubs under load: spokes that take a while to work, callers that keep calling, and what both saw.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_sdk::{Failure, Operation};
use alkhub_test_support::until;
use alkhub_tests::cluster::Cluster;
use anyhow::Result;
use parking_lot::Mutex;
use tokio::time::timeout;

/// What ran, and what the callers saw.
#[derive(Default)]
pub(crate) struct Load {
    runs: Mutex<HashMap<u64, usize>>,
    next: AtomicUsize,
    pub(crate) answered: AtomicUsize,
    pub(crate) failed: Mutex<Vec<String>>,
    pub(crate) stop: AtomicBool,
}

// === impl Load ===

impl Load {
    /// `text.double`, which takes a while.
    pub(crate) fn operation(self: &Arc<Self>) -> Operation {
        let load = Arc::clone(self);
        Operation::mutation("text.double", move |n: u64| {
            let load = Arc::clone(&load);
            async move {
                *load.runs.lock().entry(n).or_default() += 1;
                let while_it_works = timeout(Duration::from_millis(5 + n * 7 % 300), pending::<()>());
                while_it_works.await.expect_err("nothing else ends it");
                Ok::<_, Failure>(2 * n)
            }
        })
    }

    /// Calls until it is told to stop.
    pub(crate) async fn call<E, F>(&self, call: impl Fn(u64) -> F)
    where
        E: std::fmt::Debug,
        F: Future<Output = Result<u64, E>>,
    {
        while !self.stop.load(Ordering::SeqCst) {
            let n = u64::try_from(self.next.fetch_add(1, Ordering::SeqCst)).expect("few");
            match call(n).await {
                Ok(answer) if answer == 2 * n => {
                    self.answered.fetch_add(1, Ordering::SeqCst);
                }
                other => self.failed.lock().push(format!("{n}: {other:?}")),
            }
        }
    }

    pub(crate) async fn answered(&self, calls: usize) {
        until("so many calls are answered", || async {
            match self.answered.load(Ordering::SeqCst) {
                answered if answered >= calls => Ok(()),
                answered => Err(format!("{answered}, and failed: {:?}", self.failed.lock())),
            }
        })
        .await;
    }

    /// Calls that ran more than once.
    pub(crate) fn twice(&self) -> Vec<u64> {
        let runs = self.runs.lock();
        runs.iter().filter(|(_, runs)| **runs > 1).map(|(n, _)| *n).collect()
    }
}

/// The address of a hub for a proxy.
pub(crate) fn address(cluster: &Cluster, hub: usize) -> String {
    cluster.url(hub).replacen("http://", "", 1)
}
